"""Fields that are not known."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ConfigDict

from streambed.server.dropin import OllamaEmbeddingsRequest, TeiRequest
from streambed.wire import AppendRequest, EmbeddingsRequest, Emit, Strict, TokenizeRequest, validate
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
        (OllamaEmbeddingsRequest, "input", "prompt"),
        (TeiRequest, "input", "inputs"),
        (EmbeddingsRequest, "metadata", None),
        (EmbeddingsRequest, "truncation_side", None),
    ],
)
def test_the_words_of_other_servers_lead_to_ours(model: Any, theirs: str, ours: str | None) -> None:
    # What is missing or wrong beside it comes second: the unknown field is probably why.
    message = f"unknown field '{theirs}'" + (f"; did you mean '{ours}'?" if ours else "")
    assert refused({theirs: 1, "timeout_ms": -1}, model).message == message


class _Open(Strict):
    """A body that takes what it does not know."""

    model_config = ConfigDict(extra="ignore")

    text: str
    emit: Emit | None = None


def test_a_model_may_take_what_it_does_not_know() -> None:
    ignored: list[str] = []
    asked = validate(_Open, {"text": "a", "options": {"seed": 1}, "emit": {"on": "append", "beep": 1}}, ignored)
    assert (asked.text, ignored) == ("a", ["emit.beep"])
    assert refused({"text": "a", "options": 1, "emit": {"beep": 1}}, _Open).param == "emit.beep"
