"""Bad requests: each ends in its row of the error table, none in a 500, none repeats what was sent, none does harm."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streambed.errors import ERROR_TABLE
from streambed.settings import Settings
from streambed.wire import EmbeddingsRequest
from tests.server.conftest import Live, Serve, read_all, until

CANARY = "canary7f3a"
"""Stands in everything that is sent and must not come back."""
CODES = {error.code: error for error in ERROR_TABLE}


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "tiny", "input": CANARY} | fields).encode()


def without(name: str) -> bytes:
    return json.dumps({key: value for key, value in json.loads(body()).items() if key != name}).encode()


def check_error(response: httpx.Response, status: int, code: str, param: str | None = None) -> dict[str, Any]:
    """OpenAI's error body, from the table. param: a regular expression for all of it; None for null."""
    assert response.status_code == status, response.text[:500]
    assert response.headers["content-type"] == "application/json"
    assert list(response.json()) == ["error"]
    error: dict[str, Any] = response.json()["error"]
    assert list(error)[:4] == ["message", "type", "param", "code"]
    assert list(error)[4:] in ([], ["details"])
    assert error["code"] == code
    retryable = CODES[code].retryable
    assert error["type"] == ("server_error" if retryable or status >= 500 else "invalid_request_error")
    assert ("retry-after" in response.headers) == retryable
    assert isinstance(error["message"], str)
    assert error["message"]
    assert "\n" not in error["message"]
    assert len(error["message"]) < 500
    if param is None:
        assert error["param"] is None
    else:
        assert re.fullmatch(param, error["param"] or ""), error
    assert CANARY not in response.text
    return error


NESTED = b"[" * 100_000 + b"]" * 100_000
BAD = "invalid_request"
TABLE: dict[str, tuple[bytes, dict[str, str], int, str, str | None]] = {
    # the input
    "empty string": (body(input=""), {}, 400, BAD, r"input(\[0\])?"),
    "empty list": (body(input=[]), {}, 400, BAD, "input"),
    "empty string in a list": (body(input=[CANARY, CANARY, ""]), {}, 400, BAD, r"input\[2\]"),
    "string, then number": (body(input=[CANARY, 1]), {}, 400, BAD, r"input\[1\]"),
    "string, then null": (body(input=[CANARY, None]), {}, 400, BAD, r"input\[1\]"),
    "string, then list": (body(input=[CANARY, [1]]), {}, 400, BAD, r"input\[1\]"),
    "number, then string": (body(input=[1, CANARY]), {}, 400, BAD, r"input\[0\]"),
    "list, then string": (body(input=[[1], CANARY]), {}, 400, BAD, r"input(\[1\])?"),
    "number": (body(input=5), {}, 400, BAD, "input"),
    "fraction": (body(input=1.5), {}, 400, BAD, "input"),
    "fractions": (body(input=[1.5]), {}, 400, BAD, r"input\[0\]"),
    "null": (body(input=None), {}, 400, BAD, "input"),
    "true": (body(input=True), {}, 400, BAD, "input"),
    "true in a list": (body(input=[True]), {}, 400, BAD, r"input\[0\]"),
    "object": (body(input={"text": CANARY}), {}, 400, BAD, "input"),
    "object in a list": (body(input=[{"text": CANARY}]), {}, 400, BAD, r"input\[0\]"),
    "null in a list": (body(input=[None]), {}, 400, BAD, r"input\[0\]"),
    "list in a list": (body(input=[[CANARY]]), {}, 400, BAD, r"input\[0\]"),
    "empty list in a list": (body(input=[[]]), {}, 400, BAD, r"input\[0\]"),
    "three levels": (body(input=[[[1]]]), {}, 400, BAD, r"input\[0\]"),
    "token ids": (body(input=[1, 2]), {}, 400, BAD, "input"),
    "lists of token ids": (body(input=[[1], [2]]), {}, 400, BAD, "input"),
    "one input too many": (body(input=["a"] * 2049), {}, 400, BAD, "input"),
    "a hundred thousand inputs": (body(input=["a"] * 100_000), {}, 400, BAD, "input"),
    "too long a text": (body(input=f"{CANARY} " * 700, long_input="error"), {}, 413, "too_large", "input"),
    "no input": (without("input"), {}, 400, BAD, "input"),
    # JSON that is none; the place is a byte of the body, since nothing of it was understood
    "NaN": (b'{"model":"tiny","input":NaN}', {}, 400, BAD, None),
    "NaN in a list": (b'{"model":"tiny","input":[NaN]}', {}, 400, BAD, None),
    "Infinity": (b'{"model":"tiny","input":Infinity}', {}, 400, BAD, None),
    "-Infinity": (b'{"model":"tiny","input":[-Infinity]}', {}, 400, BAD, None),
    "lone surrogate": (b'{"model":"tiny","input":"canary7f3a\\ud800"}', {}, 400, BAD, None),
    "lone low surrogate": (b'{"model":"tiny","input":"canary7f3a\\udc00 b"}', {}, 400, BAD, None),
    "lone surrogate in a list": (b'{"model":"tiny","input":["a","canary7f3a\\ud800b"]}', {}, 400, BAD, None),
    "surrogate in a field's name": (b'{"model":"tiny","input":"a","\\ud800":1}', {}, 400, BAD, None),
    "surrogate in UTF-8": (b'{"model":"tiny","input":"canary7f3a\xed\xa0\x80"}', {}, 400, BAD, None),
    "broken UTF-8": (b'{"model":"tiny","input":"canary7f3a\xff"}', {}, 400, BAD, None),
    "overlong UTF-8": (b'{"model":"tiny","input":"canary7f3a\xc0\x80"}', {}, 400, BAD, None),
    "UTF-16": (body().decode().encode("utf-16"), {}, 400, BAD, None),
    "UTF-16 without a mark": (body().decode().encode("utf-16-le"), {}, 400, BAD, None),
    "two byte order marks": (b"\xef\xbb\xbf" * 2 + body(), {}, 400, BAD, None),
    "control character": (b'{"model":"tiny","input":"canary7f3a\x00"}', {}, 400, BAD, None),
    "deep nesting": (NESTED, {}, 400, BAD, None),
    "deep nesting inside input": (b'{"model":"tiny","input":' + NESTED + b"}", {}, 400, BAD, None),
    "deep nesting, cut": (b'{"model":"tiny","input":' + b"[" * 100_000, {}, 400, BAD, None),
    "deep nesting of objects": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, {}, 400, BAD, None),
    "truncated": (body()[:-3], {}, 400, BAD, None),
    "two values": (body() + body(), {}, 400, BAD, None),
    "nothing": (b"", {}, 400, BAD, None),
    "a list": (b'["canary7f3a"]', {}, 400, BAD, None),
    "a string": (b'"canary7f3a"', {}, 400, BAD, None),
    "null body": (b"null", {}, 400, BAD, None),
    "single quotes": (b"{'input': 'canary7f3a'}", {}, 400, BAD, None),
    # dimensions
    "dimensions 31": (body(dimensions=31), {}, 400, BAD, "dimensions"),
    "dimensions 0": (body(dimensions=0), {}, 400, BAD, "dimensions"),
    "dimensions -1": (body(dimensions=-1), {}, 400, BAD, "dimensions"),
    "dimensions 65": (body(dimensions=65), {}, 400, BAD, "dimensions"),
    "dimensions 2^31": (body(dimensions=2**31), {}, 400, BAD, "dimensions"),
    "dimensions 2^63": (body(dimensions=2**63), {}, 400, BAD, "dimensions"),
    "dimensions 2^64": (body(dimensions=2**64), {}, 400, BAD, "dimensions"),
    "dimensions 10^200": (body(dimensions=10**200), {}, 400, BAD, "dimensions"),
    "dimensions of 5,000 digits": (body()[:-1] + b', "dimensions": ' + b"9" * 5000 + b"}", {}, 400, BAD, None),
    "dimensions 1e999": (body()[:-1] + b', "dimensions": 1e999}', {}, 400, BAD, None),
    "dimensions in quotes": (body(dimensions="32"), {}, 400, BAD, "dimensions"),
    "dimensions true": (body(dimensions=True), {}, 400, BAD, "dimensions"),
    "dimensions 32.5": (body(dimensions=32.5), {}, 400, BAD, "dimensions"),
    "dimensions 1e30": (body(dimensions=1e30), {}, 400, BAD, "dimensions"),
    "dimensions in a list": (body(dimensions=[32]), {}, 400, BAD, "dimensions"),
    # other fields
    "unknown field": (body(inputs=CANARY), {}, 400, BAD, "inputs"),
    "unknown field with a huge name": (body(**{"x" * 100_000: 1}), {}, 400, BAD, "x{1,64}"),
    "no model": (without("model"), {}, 400, BAD, "model"),
    "null model": (body(model=None), {}, 400, BAD, "model"),
    "model of another type": (body(model=["tiny"]), {}, 400, BAD, "model"),
    "another model": (body(model=CANARY), {}, 404, "not_found", "model"),
    "model in another case": (body(model="Tiny"), {}, 404, "not_found", "model"),
    "empty model": (body(model=""), {}, 404, "not_found", "model"),
    "encoding_format": (body(encoding_format=CANARY), {}, 400, BAD, "encoding_format"),
    "encoding_format of another type": (body(encoding_format=["float"]), {}, 400, BAD, "encoding_format"),
    "instruction and input_type": (body(instruction=CANARY, input_type="query"), {}, 400, BAD, "input_type"),
    "instruction and prompt_name": (body(instruction=CANARY, prompt_name="code"), {}, 400, BAD, "prompt_name"),
    "prompt_name and input_type": (body(prompt_name="code", input_type="query"), {}, 400, BAD, ".+"),
    "instruction of another type": (body(instruction=5), {}, 400, BAD, "instruction"),
    "instruction beyond the window": (body(instruction=f"{CANARY} " * 700), {}, 413, "too_large", "input"),
    "input_type": (body(input_type=CANARY), {}, 400, BAD, "input_type"),
    "unknown prompt_name": (body(prompt_name="passage"), {}, 400, BAD, "prompt_name"),
    "long_input": (body(long_input=CANARY), {}, 400, BAD, "long_input"),
    "priority": (body(priority=CANARY), {}, 400, BAD, "priority"),
    "priority as a number": (body(priority=0), {}, 400, BAD, "priority"),
    "timeout_ms 0": (body(timeout_ms=0), {}, 400, BAD, "timeout_ms"),
    "timeout_ms -1": (body(timeout_ms=-1), {}, 400, BAD, "timeout_ms"),
    "timeout_ms 0.5": (body(timeout_ms=0.5), {}, 400, BAD, "timeout_ms"),
    "timeout_ms true": (body(timeout_ms=True), {}, 400, BAD, "timeout_ms"),
    "timeout_ms 2^64": (body(timeout_ms=2**64), {}, 400, BAD, "timeout_ms"),
    "user of another type": (body(user=5), {}, 400, BAD, "user"),
    # headers
    "gzip": (gzip.compress(body()), {"content-encoding": "gzip"}, 415, "unsupported_media", None),
    "gzip that is none": (body(), {"content-encoding": "gzip"}, 415, "unsupported_media", None),
    "deflate, identity": (body(), {"content-encoding": "deflate, identity"}, 415, "unsupported_media", None),
    "text/plain": (body(), {"content-type": "text/plain"}, 415, "unsupported_media", None),
    "a form": (body(), {"content-type": "application/x-www-form-urlencoded"}, 415, "unsupported_media", None),
    "almost JSON": (body(), {"content-type": "application/jsonp"}, 415, "unsupported_media", None),
    "no content type": (body(), {"content-type": ""}, 415, "unsupported_media", None),
    "another host": (body(), {"host": "evil.example"}, 403, "forbidden_origin", None),
    "another host with a port": (body(), {"host": "evil.example:30000"}, 403, "forbidden_origin", None),
    "a host that begins well": (body(), {"host": "127.0.0.1.evil.example"}, 403, "forbidden_origin", None),
    "a host that ends well": (body(), {"host": "evil-localhost"}, 403, "forbidden_origin", None),
    "an address of another machine": (body(), {"host": "10.0.0.1:80"}, 403, "forbidden_origin", None),
    "no host": (body(), {"host": ""}, 403, "forbidden_origin", None),
}


def post(live: Live, content: bytes | Iterator[bytes], headers: dict[str, str]) -> httpx.Response:
    return live.client.post("/v1/embeddings", content=content, headers={"content-type": "application/json"} | headers)


@pytest.mark.parametrize("name", TABLE)
def test_bad_request(live: Live, name: str) -> None:
    content, headers, status, code, param = TABLE[name]
    check_error(post(live, content, headers), status, code, param)


def test_the_server_is_none_the_worse(serve: Serve) -> None:
    """All of the table against one server, which then answers as before."""
    live = serve(Settings(max_body=1 << 20))
    before = live.post("all is well").json()["data"][0]["embedding"]
    live.engine.check_integrity()  # after which the step has been counted
    steps = live.engine.stats().steps
    for content, headers, status, _, _ in TABLE.values():
        assert post(live, content, headers).status_code == status
    assert live.engine.stats().steps == steps, "nothing of it came as far as the network"
    after = live.post("all is well")
    assert after.status_code == 200
    assert np.dot(before, after.json()["data"][0]["embedding"]) >= 0.99999
    live.engine.check_integrity()


@pytest.mark.parametrize(
    ("content", "headers"),
    [
        (body(input=" "), {}),
        (body(input=[" ", "\n", "\t\t"]), {}),
        (body(input="\x00"), {}),
        (body(input="\ufeff"), {}),
        (b"\xef\xbb\xbf" + body(), {}),
        (body(input="a\u0301\u0301\u0301"), {}),
        (b'{"model":"tiny","input":"\\ud83c\\udf0a"}', {}),
        (b'  {"model":"tiny",\n"input":"a"}  ', {}),
        (b'{"model":"none","input":"a","model":"tiny"}', {}),
        (body(input=["a"] * 2048), {}),
        (body(dimensions=None, instruction=None, input_type=None, prompt_name=None, user=None, priority=None), {}),
        (body(timeout_ms=2**62), {}),
        (body(dimensions=32.0, timeout_ms=60000.0, overlap=0.0), {}),
        (body(encoding_format=None, long_input=None, segments=None, known_segments=None, overlap=None), {}),
        (body(), {"content-type": "application/json; charset=utf-8"}),
        (body(), {"content-type": "Application/JSON;charset=UTF-8"}),
        (body(), {"content-encoding": "identity"}),
        (body(), {"host": "localhost"}),
        (body(), {"host": "LOCALHOST:1234"}),
        (body(), {"host": "127.0.0.2:80"}),
        (body(), {"host": "[::1]:30000"}),
        (body(), {"host": "[::1]"}),
    ],
    ids=lambda value: str(value)[:50],
)
def test_unusual_but_good(live: Live, content: bytes, headers: dict[str, str]) -> None:
    assert post(live, content, headers).status_code == 200


def test_prompt_name_is_not_repeated_at_length(live: Live) -> None:
    response = post(live, body(prompt_name="x" * 100_000), {})
    assert response.status_code == 400
    assert len(response.content) < 1000


# Size


def test_declared_too_large_is_refused_before_it_is_read(live: Live) -> None:
    for length in (b"1048577", b"1073741824", b"9" * 18):
        answer = live.raw(
            b"POST /v1/embeddings HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b"Content-Length: " + length + b"\r\n\r\n"
        )
        head, _, content = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 413 ")
        assert b"\r\nconnection: close" in head.lower()
        assert json.loads(content)["error"]["code"] == "too_large"


@pytest.mark.parametrize("part", [64, 1000, 65536])
def test_chunked_too_large_is_refused_while_it_is_read(live: Live, part: int) -> None:
    """An endless body: the answer comes although the end never does."""
    with live.connect() as connection:
        connection.sendall(
            b"POST /v1/embeddings HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        chunk = b"%x\r\n%s\r\n" % (part, b" " * part)
        with contextlib.suppress(ConnectionError):  # closed as soon as it is too much
            for _ in range((1 << 20) // part + 1):
                connection.sendall(chunk)
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'"code":"too_large"' in answer


@pytest.mark.parametrize("chunked", [False, True])
def test_who_sends_all_before_it_reads_gets_the_answer(live: Live, chunked: bool) -> None:
    """Proxies do, and Python's own client. To close with bytes unread would reset the connection."""
    connection = http.client.HTTPConnection("127.0.0.1", live.port, timeout=20)
    content = iter([b" " * 65536] * 256) if chunked else b" " * (16 << 20)
    connection.request("POST", "/v1/embeddings", content, {"Content-Type": "application/json"}, encode_chunked=chunked)
    reply = connection.getresponse()
    assert (reply.status, reply.getheader("connection")) == (413, "close")
    assert json.loads(reply.read())["error"]["code"] == "too_large"
    connection.close()


def test_chunked_of_bounded_size_is_fine(live: Live) -> None:
    content = body(input="a" * 100)
    response = post(live, iter([content[at : at + 7] for at in range(0, len(content), 7)]), {})
    assert response.status_code == 200


def test_body_of_the_largest_size(serve: Serve) -> None:
    live = serve(Settings(max_body=4096))
    assert post(live, body().ljust(4096), {}).status_code == 200
    assert post(live, iter([body().ljust(4096)]), {}).status_code == 200
    check_error(post(live, body().ljust(4097), {}), 413, "too_large")
    check_error(post(live, iter([body().ljust(4097)]), {}), 413, "too_large")


# Heads that are none


@pytest.mark.parametrize(
    "head",
    [
        b"POST /v1/embeddings HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\nContent-Length: 2\r\n",
        b"POST /v1/embeddings HTTP/1.1\r\nHost: evil.example\r\nHost: 127.0.0.1\r\nContent-Length: 2\r\n",
        b"POST /v1/embeddings HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 2\r\nContent-Length: 3\r\n",
        b"POST /v1/embeddings HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 2, 3\r\n",
        b"POST /v1/embeddings HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -2\r\n",
        b"POST /v1/embeddings HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: " + b"9" * 30 + b"\r\n",
        b"POST /v1/embeddings HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 2\r\nX: " + b"x" * 100_000 + b"\r\n",
        b"POST /v1/embeddings HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 2\r\n" + b"X: y\r\n" * 20_000,
        b"POST /" + b"v" * 100_000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 2\r\n",
        b"POST /v1/embeddings HTTP/1.1\r\nContent-Length: 2\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n",
    ],
    ids=[
        "hosts",
        "hosts turned",
        "lengths",
        "lengths in one",
        "negative",
        "huge",
        "long",
        "many",
        "path",
        "no host",
        "TLS",
    ],
)
def test_head_that_is_none(live: Live, head: bytes) -> None:
    """What matters is that none passes."""
    answer = live.raw(head + b"Content-Type: application/json\r\nConnection: close\r\n\r\n{}")
    assert re.match(rb"HTTP/1\.1 4(00|03|04|13|14|31) ", answer) or answer == b"", answer[:200]
    assert live.post("a").status_code == 200


@pytest.mark.parametrize(
    "name", ["Content-Type: application/json", "Authorization: Bearer a", "Authorization: Bearer b"]
)
def test_deciding_header_given_twice(live: Live, name: str) -> None:
    answer = live.raw(
        b"POST /v1/embeddings HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Type: application/json\r\n"
        b"Authorization: Bearer a\r\n" + name.encode() + b"\r\nContent-Length: 2\r\n\r\n{}"
    )
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"more than once" in answer


def test_length_and_chunked_together(live: Live) -> None:
    """Request smuggling: whichever is believed, what stands behind the request is no second one that gets an answer."""
    answer = live.raw(
        b"POST /v1/embeddings HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nConnection: close\r\n"
        b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /info HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    )
    assert answer.count(b"HTTP/1.1 ") == 1
    assert answer.startswith(b"HTTP/1.1 400 ")


# Paths and methods


@pytest.mark.parametrize(
    "path",
    ["/nope", "/v1", "/v1/embedding", "//v1/embeddings", "/v1/completions", "/V1/models", "/../info", "/redoc"],
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_unknown_path(live: Live, method: str, path: str) -> None:
    with live.connect() as connection:
        connection.sendall(
            f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            f"Content-Length: 2\r\nConnection: close\r\n\r\n{{}}".encode()
        )
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "not_found"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/embeddings"),
        ("PUT", "/v1/embeddings"),
        ("DELETE", "/v1/embeddings"),
        ("OPTIONS", "/v1/embeddings"),
        ("GET", "/tokenize"),
        ("POST", "/v1/models"),
        ("POST", "/livez"),
        ("PATCH", "/info"),
    ],
)
def test_wrong_method(live: Live, method: str, path: str) -> None:
    response = live.client.request(method, path, headers={"content-type": "application/json"})
    check_error(response, 405, BAD)


def test_wrong_method_names_the_right_one(live: Live) -> None:
    assert live.client.get("/v1/embeddings").headers["allow"] == "POST"


def test_slash_at_the_end_is_an_unknown_path(live: Live) -> None:
    check_error(live.client.post("/v1/embeddings/", json={}), 404, "not_found")


# Other routes


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({}, 400, "input"),
        ({"input": ""}, 400, r"input\[0\]"),
        ({"input": [CANARY, ""]}, 400, r"input\[1\]"),
        ({"input": [1, 2]}, 400, "input"),
        ({"input": CANARY, "model": CANARY}, 404, "model"),
        ({"input": CANARY, "dimensions": 32}, 400, "dimensions"),
        ({"input": CANARY, "instruction": "a", "input_type": "query"}, 400, "input_type"),
        ({"input": CANARY, "prompt_name": "passage"}, 400, "prompt_name"),
        ({"input": ["a"] * 2049}, 400, "input"),
    ],
)
def test_bad_tokenize(live: Live, fields: dict[str, Any], status: int, param: str) -> None:
    check_error(live.client.post("/tokenize", json=fields), status, "not_found" if status == 404 else BAD, param)


def test_a_bug_of_ours_is_a_500_that_says_nothing(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    live = serve()

    def broken(*_: object) -> str:
        raise RuntimeError(f"{CANARY} in {__file__}")

    monkeypatch.setattr(live.engine, "prompt", broken)
    response = live.post("a")
    error = check_error(response, 500, "internal")
    assert "/" not in error["message"]
    assert response.headers["connection"] == "close"
    until(lambda: len(live.errors) == 2)
    assert {record.name for record in live.errors} == {"streambed", "uvicorn.error"}
    live.errors.clear()
    monkeypatch.undo()
    assert live.post("a").status_code == 200


# Anything at all

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=True)
    | st.text(max_size=20)
    | st.text(st.characters(categories=["Cs", "Cc", "Cf", "So", "Mn"]), max_size=8),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(VALUES)
@settings(max_examples=75)
def test_any_json_as_input(session_live: Live, value: object) -> None:
    response = post(session_live, json.dumps({"model": "tiny", "input": value}).encode(), {})
    assert response.status_code in (200, 400)
    assert "error" in response.json() if response.status_code == 400 else response.json()["data"]


@given(st.dictionaries(st.sampled_from([*EmbeddingsRequest.model_fields, "x"]), VALUES))
@settings(max_examples=50)
def test_any_json_in_any_field(session_live: Live, fields: dict[str, object]) -> None:
    response = post(session_live, json.dumps({"model": "tiny", "input": "a"} | fields).encode(), {})
    assert response.status_code in (200, 400, 404)


@given(st.binary(max_size=100))
@settings(max_examples=50)
def test_any_bytes_as_body(session_live: Live, content: bytes) -> None:
    assert post(session_live, content, {}).status_code == 400


def test_fuzzing_left_the_server_well(live: Live) -> None:
    assert live.post("a").status_code == 200
