"""Which connection goes where there are too many."""

from __future__ import annotations

import asyncio
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import cast

import pytest

from streambed.limits import MAX_SILENT
from streambed.server.connections import ANSWERED, Connections, State
from streambed.settings import Settings
from tests.server.conftest import Live, Serve, until


class Transport:
    def __init__(self) -> None:
        self.aborted = False

    def abort(self) -> None:
        self.aborted = True


def test_the_silent_go_first_then_the_idle_then_who_does_not_send_on() -> None:
    connections, order = Connections(0), []
    states: list[State | None] = ["sending", None, "idle", "silent", "idle", "silent", None, "sending"]
    transports = [Transport() for _ in states]
    for transport, state in zip(transports, states, strict=True):
        connections.note(cast(asyncio.Transport, transport), state)
    while connections.admit(1):
        order += [number for number, each in enumerate(transports) if each.aborted and number not in order]
    assert order == [3, 5, 2, 4, 0, 7]
    assert not any(transports[number].aborted for number in (1, 6)), "who waits for us stays"


def test_what_a_connection_does_now_counts() -> None:
    connections, old, new = Connections(1), Transport(), Transport()
    for transport in (old, new):
        connections.note(cast(asyncio.Transport, transport), "silent")
    connections.note(cast(asyncio.Transport, old), None)  # it works
    assert connections.admit(1)
    assert not new.aborted, "there is room"
    assert connections.admit(2)
    assert (old.aborted, new.aborted) == (False, True)
    assert not connections.admit(2)


def test_there_are_never_many_silent_ones() -> None:
    connections, transports = Connections(100_000), [Transport() for _ in range(MAX_SILENT + 10)]
    for transport in transports:
        connections.note(cast(asyncio.Transport, transport), "silent")
        connections.note(cast(asyncio.Transport, transport), "silent")
    assert [each.aborted for each in transports] == [True] * 10 + [False] * MAX_SILENT, "the oldest go"
    for transport in transports[10:]:
        connections.note(cast(asyncio.Transport, transport), "idle")
    assert not any(each.aborted for each in transports[10:]), "who has spoken stays"


LIVEZ = b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
FEW = Settings(max_requests=2, max_sockets=4)
MOST = 4 * 2 + 4


@pytest.fixture
def few(serve: Serve) -> Live:
    """A server that keeps twelve connections."""
    return serve(FEW)


def answered(connection: socket.socket) -> bool:
    """Whether a connection that stays open is heard."""
    connection.sendall(LIVEZ)
    reply = b""
    while part := connection.recv(4096):
        reply += part
        if reply.endswith(b"}"):
            break
    return reply.startswith(b"HTTP/1.1 200")


def opened(live: Live, count: int) -> Iterator[socket.socket]:
    for _ in range(count):
        yield live.connect()


def test_silent_connections_keep_nobody_out(few: Live) -> None:
    kept = few.connect()
    assert answered(kept)
    silent = list(opened(few, 3 * MOST))
    for _ in range(5):
        assert few.raw(LIVEZ.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")).startswith(b"HTTP/1.1 200")
        assert few.post("a text").status_code == 200
    assert answered(kept), "who has spoken stays longer than who has not"
    assert silent[0].recv(1) == b"", "the oldest one has gone"
    for each in (kept, *silent):
        each.close()


def test_bodies_that_never_end_keep_nobody_out(few: Live) -> None:
    head = b"POST /v1/embeddings HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    head += b"Content-Length: 999\r\n\r\n{"
    half = list(opened(few, 3 * MOST))
    for each in half:
        each.sendall(head)
    until(lambda: few.post("a text").status_code == 200)
    for each in half:
        each.close()


_FEW_DESCRIPTORS = """
import resource, sys
soft = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, soft))
from streambed.server.connections import bound
print(bound(5000))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="descriptors are bounded otherwise")
@pytest.mark.parametrize("limit", [64, 256, 1024])
def test_connections_leave_descriptors_over(limit: int) -> None:
    run = subprocess.run(
        [sys.executable, "-c", _FEW_DESCRIPTORS, str(limit)], check=True, capture_output=True, text=True
    )
    assert 1 <= int(run.stdout) <= max(limit - ANSWERED - 128, 1)


def test_the_limit_of_descriptors_is_raised_as_far_as_it_may() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    code = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, {soft}), {hard}))" + (
        "\nfrom streambed.server.connections import bound\nprint(bound(500), resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    most, now = map(int, run.stdout.split())
    assert most == 500 < now
