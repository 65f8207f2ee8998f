"""On native kernels a text has one vector, to the last bit, however it came."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streambed import Engine

NUMBERS = {
    "float32": {}, "bfloat16": {"dtype": "bfloat16"}, "int8": {"quantize": "int8"},
    "bfloat16 and int8": {"dtype": "bfloat16", "quantize": "int8"}, "KV in int8": {"kv_dtype": "int8"},
    "bfloat16 and int8, KV in int8": {"dtype": "bfloat16", "quantize": "int8", "kv_dtype": "int8"},
}  # fmt: skip
PIECES = st.lists(st.text("ab é\n🌊.", min_size=1, max_size=40), min_size=1, max_size=6)


@pytest.mark.parametrize("numbers", NUMBERS)
def test_streamed_edited_evicted_batched_and_cached(open_engine: Callable[..., Engine], numbers: str) -> None:
    engine = open_engine("builtin", max_batch_tokens=24, **NUMBERS[numbers])
    assert engine.info.kernels == "native"

    @settings(max_examples=15)
    @given(pieces=PIECES, beside=PIECES, cut=st.integers(0, 200), evict=st.booleans(), place=st.integers(1, 40))
    def check(pieces: list[str], beside: list[str], cut: int, evict: bool, place: int) -> None:
        with engine.open_session() as session:
            for piece in pieces:
                session.append(piece)
                session.embedding()
            if evict:
                engine.evict()
            session.replace(min(cut, len(session.text)), len(session.text), pieces[0])
            text, streamed = session.text, session.embedding()
        cached = engine.embed(text)[0]
        engine.evict()
        alone = engine.embed(text)[0]
        assert np.array_equal(streamed, alone)
        assert np.array_equal(cached, alone)
        engine.evict()
        assert np.array_equal(engine.embed([*beside, text])[-1], alone)
        under = "the same words before each of them"
        together = engine.embed([*beside, text, text], instruction=under)  # they compute the beginning once
        engine.evict()
        assert np.array_equal(together[-1], engine.embed(text, instruction=under)[0])
        assert np.array_equal(together[-1], together[-2])
        place = min(place, len(text))
        (_, prefix), *_ = engine.prefix_embeddings(text + beside[0], offsets=[place])
        engine.evict()
        assert np.array_equal(prefix, engine.embed(text[:place])[0])

    check()
