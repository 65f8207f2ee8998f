"""What an error says that a field takes."""

from __future__ import annotations

from typing import Any

import pytest

from streambed.wire import EmbeddingsRequest, PrefixesRequest, SessionOptions
from tests.wire.bodies import GOOD, refused


def test_a_union_says_what_it_takes() -> None:
    for value in (0, -1, 1.5, "word", True, [1], {}):
        error = refused(GOOD | {"every": value}, PrefixesRequest)
        assert error.message == "every: 'sentence' or a whole number of at least 1 is expected"
        assert error.param == "every"


@pytest.mark.parametrize(
    ("model", "fields", "message"),
    [
        (EmbeddingsRequest, {"segments": 1}, "segments: true or false is expected"),
        (EmbeddingsRequest, {"dimensions": "32"}, "dimensions: a whole number is expected"),
        (EmbeddingsRequest, {"timeout_ms": 0}, "timeout_ms: a whole number of at least 1 is expected"),
        (
            EmbeddingsRequest,
            {"truncate_prompt_tokens": 0},
            "truncate_prompt_tokens: -1 or a whole number of at least 1 is expected",
        ),
        (EmbeddingsRequest, {"priority": "high"}, "priority: 'query' or 'bulk' is expected"),
        (
            EmbeddingsRequest,
            {"input_type": "classification"},
            "input_type: 'query', 'search_query', 'document', 'search_document' or 'passage' is expected",
        ),
        (
            EmbeddingsRequest,
            {"known_segments": "a"},
            "known_segments: a list of at most 65,536 strings is expected",
        ),
        (EmbeddingsRequest, {"known_segments": ["a", 1]}, "known_segments[1]: a string is expected"),
        (PrefixesRequest, {"input": ""}, "input: a string of at least 1 character is expected"),
        (PrefixesRequest, {"offsets": []}, "offsets: a list of at least 1 and at most 2,048 whole numbers is expected"),
        (SessionOptions, {"emit": 1}, "emit: an object is expected"),
        (SessionOptions, {"emit": {"drift": 0}}, "emit.drift: a number of more than 0 and at most 2 is expected"),
        (SessionOptions, {"watch": [None]}, "watch[0]: an object is expected"),
        (SessionOptions, {"watch": [{"id": "a"}]}, "watch[0].threshold is missing"),
        (
            SessionOptions,
            {"watch": [{"id": "", "threshold": 0}]},
            "watch[0].id: a string of at least 1 and at most 64 characters is expected",
        ),
    ],
)
def test_errors_say_what_is_expected(model: Any, fields: dict[str, Any], message: str) -> None:
    assert refused((GOOD if model in (EmbeddingsRequest, PrefixesRequest) else {}) | fields, model).message == message
