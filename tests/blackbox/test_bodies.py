"""Bodies: of more structure than any request has, and more of them than memory is for."""

from __future__ import annotations

import contextlib
import socket
import threading

import pytest

from tests.blackbox.conftest import JSON, Start, Target, error_of, read
from tests.server.conftest import until

MIB = 1 << 20
KEYS = b'{"model":"m","input":"x",' + b",".join(b'"k%d":0' % number for number in range(1_000_000)) + b"}"
NESTED = b'{"input":' + b"[" * 3_000_000
STRINGS = b'{"input":[' + b'"",' * 3_000_000 + b'""]}'
NUMBERS = b'{"input":[' + b"1," * 6_000_000 + b"1]}"


@pytest.fixture(scope="module", params=[(), ("--ignore-unknown-fields",)], ids=["strict", "lenient"])
def any_target(request: pytest.FixtureRequest, start_target: Start) -> Target:
    return start_target(*request.param)


@pytest.mark.parametrize("body", [KEYS, NESTED, STRINGS, NUMBERS], ids=["keys", "nested", "strings", "numbers"])
def test_structure_is_bounded_before_a_body_is_there(any_target: Target, body: bytes) -> None:
    """It is refused while most of it is still to come; the polite one waits behind none of it."""
    head = f"POST /v1/embeddings\n{JSON}\nContent-Length: {len(body)}"
    with any_target.send(head, body[: 10 * MIB]) as connection:
        reply = read(connection)
        assert reply.startswith(b"HTTP/1.1 400 ")
        assert "has more than" in error_of(reply)["message"]
    any_target.check()


@pytest.mark.parametrize(
    "path", ["/embed", "/api/embed", "/api/show", "/tokenize", "/v1/embeddings/prefixes", "/v1/sessions"]
)
def test_every_route_is_bounded(any_target: Target, path: str) -> None:
    reply = any_target.ask(f"POST {path}\n{JSON}", KEYS[:MIB])
    assert reply.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 422 "))  # as the server says it whose route it is
    assert b"has more than" in reply
    any_target.check()


def test_unfinished_bodies_have_one_budget(start_target: Start) -> None:
    """And the polite key's share of it is there."""
    target = start_target("--max-bodies", "64MiB")
    target.embed()
    before, refused = target.memory(), set[int]()
    connections = [target.send(f"POST /v1/embeddings\n{JSON}\nContent-Length: {16 * MIB}") for _ in range(40)]
    part = b'{"input":"' + b"x" * (4 * MIB)

    def fill(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection.sendall(part)

    def look() -> bool:
        """Whether any has been refused."""
        for number, connection in enumerate(connections):
            connection.setblocking(False)
            with contextlib.suppress(OSError):
                if b" 429 " in connection.recv(65536):
                    refused.add(number)
        return bool(refused)

    threads = [threading.Thread(target=fill, args=(connection,)) for connection in connections]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    until(look)
    assert target.embed() == target.before, "while they are unfinished"
    assert target.memory() - before < 64 * MIB * 1.1
    assert len(refused) < len(connections)
    for connection in connections:
        connection.close()
    until(lambda: target.ask(f"POST /v1/embeddings\n{JSON}", b"{}").startswith(b"HTTP/1.1 400"))
    target.check()


def test_a_request_counts_once_its_body_is_there(start_target: Start) -> None:
    """Half-sent ones take no place of those that work."""
    target = start_target("--max-requests", "2")
    half = [target.send(f"POST /v1/embeddings\n{JSON}\nContent-Length: 99", b"{") for _ in range(6)]
    assert target.embed() == target.before
    for connection in half:
        connection.close()
    target.check()
