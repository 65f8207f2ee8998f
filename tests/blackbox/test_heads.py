"""Heads of requests: too large, too long, and of two minds about where the body ends."""

from __future__ import annotations

import pytest

from tests.blackbox.conftest import JSON, Target, error_of, read


@pytest.mark.parametrize("pieces", [1, 50])
@pytest.mark.parametrize(
    ("head", "status", "code"),
    [
        (b"GET /livez HTTP/1.1\r\nHost: a\r\nX-Long: " + b"x" * 100_000 + b"\r\n\r\n", 431, "headers_too_large"),
        (b"GET /livez HTTP/1.1\r\nHost: a\r\n" + b"X-Many: x\r\n" * 10_000 + b"\r\n", 431, "headers_too_large"),
        (b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414, "uri_too_long"),
        (b"GET /livez?" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414, "uri_too_long"),
        (b"BREW\r\n\r\n", 400, "invalid_request"),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400, "invalid_request"),
    ],
    ids=["one header", "many headers", "a path", "a query", "no HTTP", "no header"],
)
def test_a_head_that_cannot_be_served_is_answered_and_ends_the_connection(
    target: Target, head: bytes, status: int, code: str, pieces: int
) -> None:
    size = -(-len(head) // pieces)
    with target.connect() as connection:
        try:
            for at in range(0, len(head), size):
                connection.sendall(head[at : at + size])
        except (BrokenPipeError, ConnectionResetError):
            assert pieces > 1, "what comes at once is read"
        reply = read(connection)
    if reply or pieces == 1:
        assert reply.startswith(b"HTTP/1.1 %d " % status), reply[:200]
        assert error_of(reply)["code"] == code
        assert reply.count(b"HTTP/1.1 ") == 1


BODY = b'{"model":"m","input":"x"}'
CHUNKED = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
TWO_LENGTHS = [
    "Content-Length: {}\nTransfer-Encoding: chunked",
    "Transfer-Encoding: chunked\nContent-Length: {}",
]
SECOND = b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


@pytest.mark.parametrize("body", [CHUNKED, BODY, b"0\r\n\r\n", b"zz\r\n"], ids=["chunked", "plain", "empty", "neither"])
@pytest.mark.parametrize("lines", TWO_LENGTHS)
def test_nothing_is_served_behind_a_body_of_two_lengths(target: Target, lines: str, body: bytes) -> None:
    with target.send(f"POST /v1/embeddings\n{JSON}\n{lines.format(len(body))}", body + SECOND * 3) as connection:
        reply = read(connection)
    assert reply.startswith(b"HTTP/1.1 400 "), reply[:200]
    assert reply.count(b"HTTP/1.1 ") == 1, "one request, one answer, and the end"


@pytest.mark.parametrize("body", [b"zz\r\nrest", b"5\r\nab", b"-1\r\n\r\n"])
def test_nothing_is_served_behind_a_broken_body(target: Target, body: bytes) -> None:
    with target.send(f"POST /v1/embeddings\n{JSON}\nTransfer-Encoding: chunked", body + SECOND * 3) as connection:
        connection.shutdown(1)
        reply = read(connection)
    assert reply.count(b"HTTP/1.1 ") <= 1
    assert b" 200 " not in reply
