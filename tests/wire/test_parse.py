"""From JSON to requests: what is taken, and what an error says."""

from __future__ import annotations

import json
from typing import Any

import pytest

from streambed.wire import (
    EmbeddingsRequest,
    PrefixesRequest,
    SessionOptions,
    TokenizeRequest,
    parse,
    parse_object,
)
from tests.wire.bodies import GOOD, refused


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


def test_a_byte_order_mark_is_no_part_of_the_body() -> None:
    body = json.dumps(GOOD).encode()
    assert parse(EmbeddingsRequest, b"\xef\xbb\xbf" + body) == parse(EmbeddingsRequest, body)
    assert parse_object("\ufeff" + body.decode(), "the frame") == GOOD
    assert refused(b"\xef\xbb\xbf" * 2 + body).message.startswith("the body is not valid JSON: ")
    assert parse(EmbeddingsRequest, b'{"model":"m","input":"\xef\xbb\xbfa"}').input == "\ufeffa", "of a text it is"


@pytest.mark.parametrize("body", [b"[]", b"null", b"5", b'"a"', b"true"])
def test_no_object(body: bytes) -> None:
    assert refused(body).message == "the body is not a JSON object"


def test_tokenize_request() -> None:
    assert parse(TokenizeRequest, b'{"input":"a"}').model is None
    assert refused({"input": "a", "dimensions": 32}, TokenizeRequest).param == "dimensions"
    assert refused({"model": "m"}, TokenizeRequest).param == "input"
