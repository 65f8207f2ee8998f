"""What the clients' calls take beside texts."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from streambed.client import options
from streambed.errors import InvalidRequest


def test_what_every_request_may_say() -> None:
    assert options.shape(None, None, None, None, None) == {}
    given = options.shape("find", None, None, np.int64(32), "small")  # type: ignore[arg-type]
    assert given == {"instruction": "find", "dimensions": 32, "reducer": "small"}
    assert type(given["dimensions"]) is int
    for wrong, named in (
        (("find", "code", None, None, None), "instruction and prompt_name exclude each other"),
        ((None, None, "quary", None, None), "input_type is 'quary'; 'query' or 'document' is expected"),
        ((None, None, None, "32", None), "dimensions is '32'; an integer of at least 1 is expected"),
        ((None, None, None, 0, None), "dimensions is 0"),
        ((None, None, None, None, 3), "reducer is int; a string is expected"),
    ):
        with pytest.raises(InvalidRequest, match=re.escape(named)):
            options.shape(*wrong)  # type: ignore[arg-type]


def test_what_a_stream_may_say() -> None:
    assert options.stream(None, None, None) == {}
    vector = np.ones(4, dtype=np.float32)
    given = options.stream(
        "segment",
        {"on": "drift", "drift": np.float32(0.5), "pause_ms": np.int64(20)},
        ({"id": name, "embedding": vector, "threshold": np.float64(0.5)} for name in "ab"),
    )
    assert given == {
        "overflow": "segment",
        "emit": {"on": "drift", "drift": 0.5, "pause_ms": 20},
        "watch": [{"id": name, "embedding": [1.0] * 4, "threshold": 0.5} for name in "ab"],
    }
    assert options.stream(None, "pause", []) == {"emit": {"on": "pause"}, "watch": []}


WATCH = {"id": "a", "text": "b", "threshold": 0.5}


@pytest.mark.parametrize(
    ("overflow", "emit", "watch", "named"),
    [
        ("grow", None, None, "overflow is 'grow'; 'error' or 'segment' is expected"),
        (
            None,
            "sometimes",
            None,
            "emit is 'sometimes'; 'manual', 'append', 'pause', 'sentence' or 'drift' is expected",
        ),
        (None, 3, None, "emit is int; a word such as 'append' or a dict is expected"),
        (None, {"on": "sometimes"}, None, "emit.on"),
        (None, {"on": "append", "min_interval": 3}, None, "emit.min_interval"),
        (None, {"on": "append", "min_interval_ms": "3"}, None, "emit.min_interval_ms"),
        (None, None, WATCH, "watch is dict; a list of dicts with id, threshold, and text or embedding is expected"),
        (None, None, "sea", "watch is str; a list of dicts"),
        (None, None, 3, "watch is int; a list of dicts"),
        (None, None, [WATCH, "sea"], "watch[1] is str; a list of dicts"),
        (None, None, [WATCH, {"id": "b", "text": "c"}], "watch[1].threshold"),
        (None, None, [WATCH | {"threshold": 2}], "watch[0].threshold"),
        (None, None, [WATCH | {"treshold": 0.2}], "watch[0].treshold"),
        (None, None, [{"id": "a", "threshold": 0.5}], "watch[0]: give text or embedding, one of them"),
        (None, None, [WATCH | {"embedding": [1.0]}], "watch[0]: give text or embedding, one of them"),
        (None, None, [WATCH | {"text": object()}], "watch cannot be written as JSON"),
        (None, None, [WATCH | {"text": "\ud800"}], "watch cannot be written as JSON"),
    ],
)
def test_wrong_options_of_a_stream(overflow: Any, emit: Any, watch: Any, named: str) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(named)):
        options.stream(overflow, emit, watch)
