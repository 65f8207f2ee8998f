"""What is said of speed; how fast it is is not tested."""

from __future__ import annotations

import re

from streambed.doctor.speed import time_query, time_step
from streambed.engine.engine import Engine


def test_speed(tiny_engine: Engine) -> None:
    assert re.fullmatch(r"[\d.]+ ms for 10 tokens, the best of 5", time_query(tiny_engine)[1])
    assert re.fullmatch(r"[\d,]+ rows a second in a step of 48, texts of 48 tokens", time_step(tiny_engine)[1])
