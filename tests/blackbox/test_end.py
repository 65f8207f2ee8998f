"""How it ends: at once when told twice, and meanwhile nobody is told that it is ready."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
from pathlib import Path

import pytest

from tests.blackbox.conftest import JSON, POLITE, Start, Target, read
from tests.server.conftest import until

READYZ = b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


def busy(start_target: Start, *flags: str | Path) -> Target:
    """A server with a request that takes longer than any test."""
    target = start_target("--max-batch-tokens", "1", "--drain", "600", *flags)
    body = json.dumps(
        {"model": target.model, "input": [f"{number} is a text of some length " * 20 for number in range(500)]}
    ).encode()
    target.send(f"POST /v1/embeddings\n{JSON}\nContent-Length: {len(body)}", body, POLITE)
    until(lambda: target.polite.get("/info").json()["stats"]["waiting"] > 0)
    return target


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_at_once(start_target: Start, first: signal.Signals, second: signal.Signals) -> None:
    target = busy(start_target)
    process = target.process.process
    process.send_signal(first)
    until(lambda: "shutting down" in target.process.output.lower())
    assert process.poll() is None, "it drains"
    process.send_signal(second)
    assert process.wait(20) is not None
    assert "Traceback" not in target.process.output, target.process.output[-3000:]


def test_a_kept_connection_is_told_that_it_is_not_ready(start_target: Start) -> None:
    target = busy(start_target)
    with target.socket() as held, target.connect() as kept:
        held.send(json.dumps({"type": "session.create"}))
        held.recv()
        kept.sendall(READYZ)
        assert kept.recv(65536).startswith(b"HTTP/1.1 200 ")
        kept.sendall(READYZ[:10])  # a request that has begun keeps its connection
        target.process.process.send_signal(signal.SIGTERM)
        until(lambda: "shutting down" in target.process.output.lower())
        with contextlib.suppress(OSError):
            kept.sendall(READYZ[10:])
        reply = read(kept)
        assert b" 200 " not in reply
    target.process.process.send_signal(signal.SIGTERM)
    assert target.process.process.wait(20) is not None
    assert "Traceback" not in target.process.output, target.process.output[-3000:]


def shut_up(target: Target) -> socket.socket:
    """A WebSocket of which nobody reads anything beyond the handshake."""
    head = "GET /v1/embeddings\nConnection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Version: 13\n"
    connection = target.send(f"{head}Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
    reply = b""
    while not reply.endswith(b"\r\n\r\n"):
        reply += connection.recv(1)
    return connection


def masked(text: str) -> bytes:
    """A text frame, masked by zeros."""
    return b"\x81\xfe" + len(text).to_bytes(2, "big") + bytes(4) + text.encode()


def test_sockets_that_never_read_leave_no_traceback(start_target: Start) -> None:
    target = start_target("--drain", "1")
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            connection = stack.enter_context(shut_up(target))
            frame = masked(json.dumps({"type": "nonsense" * 20}))
            connection.settimeout(1)
            with contextlib.suppress(TimeoutError):
                while True:  # until what it is sent back has filled all buffers, and the server reads no more
                    connection.sendall(frame)
        target.process.process.send_signal(signal.SIGTERM)
        assert target.process.process.wait(60) == 0
    assert "Traceback" not in target.process.output, target.process.output[-3000:]
