"""Fields that are not known."""

from __future__ import annotations

from typing import Any

import pytest

from streambed.wire import AppendRequest, EmbeddingsRequest, TokenizeRequest
from tests.wire.bodies import GOOD, refused


def test_unknown_field() -> None:
    error = refused(GOOD | {"dimension": 32})
    assert error.message == "unknown field 'dimension'; did you mean 'dimensions'?"
    assert error.param == "dimension"
    error = refused(GOOD | {"x" * 10_000: 1})
    assert error.param == "x" * 64
    assert len(error.message) < 100


@pytest.mark.parametrize(
    ("model", "theirs", "ours"),
    [
        (EmbeddingsRequest, "inputs", "input"),
        (EmbeddingsRequest, "output_dimension", "dimensions"),
        (EmbeddingsRequest, "outputDimensionality", "dimensions"),
        (EmbeddingsRequest, "truncate", "long_input"),
        (EmbeddingsRequest, "task", "instruction"),
        (EmbeddingsRequest, "embedding_types", "encoding_format"),
        (TokenizeRequest, "inputs", "input"),
        (TokenizeRequest, "truncate", None),  # it has no counterpart there
        (AppendRequest, "input", "text"),
        (EmbeddingsRequest, "metadata", None),
        (EmbeddingsRequest, "truncation_side", None),
    ],
)
def test_the_words_of_other_servers_lead_to_ours(model: Any, theirs: str, ours: str | None) -> None:
    # What is missing or wrong beside it comes second: the unknown field is probably why.
    message = f"unknown field '{theirs}'" + (f"; did you mean '{ours}'?" if ours else "")
    assert refused({theirs: 1, "timeout_ms": -1}, model).message == message
