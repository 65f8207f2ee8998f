"""From JSON to requests: what is taken, and what an error says."""

from __future__ import annotations

import json
from typing import Any

import pytest

from streambed.errors import InvalidRequest
from streambed.wire import EmbeddingsRequest, TokenizeRequest, parse

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
        ("model", None),
        ("model", 5),
        ("encoding_format", "hex"),
        ("encoding_format", None),
        ("dimensions", "32"),
        ("dimensions", True),
        ("dimensions", 32.0),
        ("dimensions", 2**64),
        ("user", 5),
        ("instruction", ["a"]),
        ("input_type", "passage"),
        ("prompt_name", 1),
        ("long_input", "mean"),
        ("overlap", -1),
        ("segments", 1),
        ("priority", "urgent"),
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
    assert (error.message, error.param) == ("unknown field 'dimension'", "dimension")
    error = refused(GOOD | {"x" * 10_000: 1})
    assert error.param == "x" * 64
    assert len(error.message) < 100


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
