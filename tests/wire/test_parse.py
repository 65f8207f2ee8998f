"""From JSON to requests: what is taken, and what an error says."""

from __future__ import annotations

import json
from typing import Any

import pytest

from streambed.errors import InvalidRequest
from streambed.wire import (
    AppendRequest,
    EmbeddingsRequest,
    PrefixesRequest,
    SessionOptions,
    TokenizeRequest,
    parse,
)

GOOD = {"model": "m", "input": "a"}


def refused(body: bytes | dict[str, Any], model: Any = EmbeddingsRequest) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as error:
        parse(model, body if isinstance(body, bytes) else json.dumps(body).encode())
    assert error.value.__cause__ is None
    return error.value


def test_defaults() -> None:
    asked = parse(EmbeddingsRequest, json.dumps(GOOD).encode())
    assert asked.model_dump() == {
        "model": "m",
        "input": "a",
        "encoding_format": "float",
        "dimensions": None,
        "reducer": None,
        "user": None,
        "instruction": None,
        "input_type": None,
        "prompt_name": None,
        "long_input": None,
        "truncate_prompt_tokens": None,
        "empty": "error",
        "overlap": 0,
        "segments": False,
        "known_segments": None,
        "priority": None,
        "timeout_ms": None,
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("encoding_format", "base64"),
        ("encoding_format", "int8"),
        ("encoding_format", "ubinary"),
        ("reducer", "small"),
        ("dimensions", 32),
        ("user", "someone"),
        ("instruction", ""),
        ("input_type", "document"),
        ("prompt_name", "query"),
        ("long_input", "truncate"),
        ("long_input", "merge"),
        ("overlap", 20),
        ("segments", True),
        ("known_segments", ["ab"]),
        ("priority", "bulk"),
        ("empty", "null"),
        ("truncate_prompt_tokens", 1),
        ("truncate_prompt_tokens", -1),
        ("truncate_prompt_tokens", -1.0),
        ("timeout_ms", 1),
        ("input", ["a", "b"]),
        ("input", [[1, 2]]),
    ],
)
def test_fields(name: str, value: Any) -> None:
    assert getattr(parse(EmbeddingsRequest, json.dumps(GOOD | {name: value}).encode()), name) == value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model", 5),
        ("encoding_format", "hex"),
        ("dimensions", "32"),
        ("dimensions", True),
        ("dimensions", 32.5),
        ("dimensions", 2**64),
        ("user", 5),
        ("instruction", ["a"]),
        ("input_type", "classification"),
        ("prompt_name", 1),
        ("long_input", "mean"),
        ("overlap", -1),
        ("segments", 1),
        ("priority", "urgent"),
        ("empty", "zero"),
        ("truncate_prompt_tokens", 0),
        ("truncate_prompt_tokens", -2),
        ("truncate_prompt_tokens", -1.5),
        ("timeout_ms", 0),
        ("timeout_ms", -1),
        ("timeout_ms", 1.5),
        ("timeout_ms", True),
    ],
)
def test_wrong_values_name_the_field(name: str, value: Any) -> None:
    error = refused(GOOD | {name: value})
    assert error.param == name
    assert error.message.startswith(f"{name}: ")


@pytest.mark.parametrize("value", ["canary", ["canary"], {"canary": 1}])
@pytest.mark.parametrize(
    "name", ["encoding_format", "dimensions", "input_type", "long_input", "priority", "timeout_ms"]
)
def test_values_are_never_repeated(name: str, value: Any) -> None:
    assert "canary" not in refused(GOOD | {name: value}).message


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


@pytest.mark.parametrize(
    ("word", "meaning"),
    [
        ("query", "query"),
        ("search_query", "query"),
        ("document", "document"),
        ("search_document", "document"),
        ("passage", "document"),
        (None, None),
    ],
)
@pytest.mark.parametrize("model", [EmbeddingsRequest, PrefixesRequest, TokenizeRequest, SessionOptions])
def test_input_types_of_other_servers_mean_ours(model: Any, word: str | None, meaning: str | None) -> None:
    body = (GOOD if model is not SessionOptions else {}) | {"input_type": word}
    assert parse(model, json.dumps(body).encode()).input_type == meaning


@pytest.mark.parametrize("name", ["model", "input"])
def test_missing_field(name: str) -> None:
    error = refused({key: value for key, value in GOOD.items() if key != name})
    assert (error.message, error.param) == (f"{name} is missing", name)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b"nope",
        b'{"model":"m","input":NaN}',
        b'{"model":"m","input":Infinity}',
        b'{"model":"m","input":"\\ud800"}',
        b'{"model":"m","input":"\xff"}',
        b'{"model":"m","input":"a"} {}',
        b'{"model":"m","input":"a",}',
        b"[" * 100_000,
        '{"model":"m","input":"a"}'.encode("utf-16"),
    ],
    ids=lambda body: str(body[:30]),
)
def test_no_json(body: bytes) -> None:
    error = refused(body)
    assert error.message.startswith("the body is not valid JSON: ")
    assert error.param is None


@pytest.mark.parametrize("body", [b"[]", b"null", b"5", b'"a"', b"true"])
def test_no_object(body: bytes) -> None:
    assert refused(body).message == "the body is not a JSON object"


def test_tokenize_request() -> None:
    assert parse(TokenizeRequest, b'{"input":"a"}').model is None
    assert refused({"input": "a", "dimensions": 32}, TokenizeRequest).param == "dimensions"
    assert refused({"model": "m"}, TokenizeRequest).param == "input"
