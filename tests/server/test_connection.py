"""Connections that say nothing, or say it slowly, end; others do not notice."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import threading
import time
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import uvicorn
import websockets.exceptions
from websockets.protocol import State
from websockets.server import ServerProtocol

from streambed import Engine
from streambed.server import connection
from streambed.server.app import create_app
from streambed.server.connection import Connection, WebSocketConnection
from streambed.server.connections import Connections
from streambed.settings import Settings
from tests.server.conftest import Serve, Servers, read_all, until
from tests.server.test_socket import open_peer


async def closed_within(reader: asyncio.StreamReader, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            return await reader.read() == b""
    except ConnectionError:
        return True
    except TimeoutError:
        return False


def test_heads_have_a_deadline(tiny_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.3)
    app = create_app(tiny_engine, Settings())
    http: Any = functools.partial(Connection, connections=Connections(10))
    server = uvicorn.Server(uvicorn.Config(app, port=0, http=http, ws="none", log_config=None))

    async def scenario() -> None:
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        silent, silent_writer = await asyncio.open_connection("127.0.0.1", port)
        slow, slow_writer = await asyncio.open_connection("127.0.0.1", port)
        kept, kept_writer = await asyncio.open_connection("127.0.0.1", port)

        async def drip() -> None:
            with contextlib.suppress(ConnectionError):
                for byte in b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 500:
                    slow_writer.write(bytes([byte]))
                    await slow_writer.drain()
                    await asyncio.sleep(0.02)

        dripping = asyncio.create_task(drip())
        for _ in range(3):  # one that works is used for longer than a head may take
            kept_writer.write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await kept.readuntil(b"}")).startswith(b"HTTP/1.1 200")
            await asyncio.sleep(0.2)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            body = {"model": tiny_engine.info.model, "input": "the " * 400}
            assert (await client.post("/v1/embeddings", json=body)).status_code == 200
        assert await closed_within(silent, 5)
        assert await closed_within(slow, 5)
        await dripping
        for writer in (silent_writer, slow_writer, kept_writer):
            writer.close()
        server.should_exit = True
        await serving

    asyncio.run(scenario())


def test_sockets_have_no_deadline_for_heads(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that has become a WebSocket may be silent, whether before or after its first event."""
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.1)
    live = serve()
    with open_peer(live) as peer, open_peer(live) as silent, live.connect() as head:
        session = peer.create(text="a")["session"]
        assert read_all(head) == b"", "the deadline is over"
        time.sleep(0.2)
        assert peer.ask("input_text.append", session=session, text="b")["offset"] == 2
        assert silent.create()["offset"] == 0


def test_socket_on_a_connection_that_was_used_before(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request, then a handshake that arrives byte by byte, on one connection."""
    monkeypatch.setattr(connection, "HEAD_SECONDS", 1.0)
    live = serve()
    with live.connect() as client:
        client.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = b""
        while not answer.endswith(b"}"):
            answer += client.recv(65536)
        upgrade = b"GET /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        for byte in upgrade + b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n":
            client.sendall(bytes([byte]))
        assert client.recv(65536).startswith(b"HTTP/1.1 101 ")
        time.sleep(1.3)
        client.sendall(b"\x81\x80\x00\x00\x00\x00")  # an empty text frame
        assert b"invalid_request" in client.recv(65536)


@pytest.mark.parametrize(
    "more", [b"Content-Length: 1", b"Transfer-Encoding: chunked", b"X: " + b"y" * 9000, b"\r\n".join([b"X: y"] * 140)]
)
def test_handshakes_that_are_none_are_answered(serve: Serve, more: bytes) -> None:
    """uvicorn's own WebSocket would leave them open, unanswered, and fail over them when it shuts down."""
    live = serve()
    head = b"GET /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    reply = live.raw(head + more + b"\r\n\r\n")
    assert reply.startswith(b"HTTP/1.1 400 ")
    assert reply.count(b"HTTP/1.1") == 1
    assert b'"code":"invalid_request"' in reply


def test_a_frame_that_is_no_text_is_no_error_of_ours(serve: Serve) -> None:
    live = serve()
    with open_peer(live) as peer:
        peer.create()
        with contextlib.suppress(websockets.exceptions.ConnectionClosed):
            peer.ws.send(b"\xff\xfe", text=True)
            while True:
                peer.ws.recv(20)
    assert live.errors == []


def test_who_reads_nothing_is_dropped(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Connection, "_patience", 0.3)
    live = serve()
    asked = b"GET /playground/samples.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 1500
    with live.connect() as connection:
        connection.settimeout(20)
        with contextlib.suppress(ConnectionError):
            connection.sendall(asked)

        def alone() -> bool:
            time.sleep(
                0.1
            )  # asked without a pause, it would keep the server from the requests that are to fill the buffers
            return "streambed_requests_in_progress 1.0" in live.client.get("/metrics").text

        until(alone)
    assert live.client.get("/livez").status_code == 200


def test_who_reads_slowly_is_not(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Connection, "_patience", 0.5)
    live = serve()
    count = 600
    with live.connect() as connection:
        connection.sendall(b"GET /playground/samples.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * (count - 1))
        connection.sendall(b"GET /playground/samples.json HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        got = []
        for _ in range(20):
            time.sleep(0.1)
            got.append(connection.recv(1 << 16))
        while part := connection.recv(1 << 20):
            got.append(part)
    assert b"".join(got).count(b"HTTP/1.1 200") == count


def test_who_reads_nothing_does_not_hold_up_the_end(tiny_engine: Engine) -> None:
    servers = Servers()
    live = servers.start(tiny_engine, Settings(drain=15.0))
    with live.connect() as connection:
        connection.sendall(b"GET /playground/samples.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 1000)
        time.sleep(0.5)
        ending = threading.Thread(target=servers.stop)
        ending.start()
        ending.join(30)
        assert not ending.is_alive()


def test_the_end_of_a_server_closes_a_socket_that_is_closing() -> None:
    """The client has said goodbye and TLS waits for its last word: another close frame is not to be had."""
    closed: list[bool] = []
    socket = object.__new__(WebSocketConnection)
    socket.handshake_complete, socket.close_sent = True, False
    socket.conn = ServerProtocol(state=State.CLOSING)
    socket.transport = SimpleNamespace(close=lambda: closed.append(True))  # type: ignore[assignment]
    socket.queue, socket.close_timer = asyncio.Queue(), None
    socket.stop_keepalive = lambda: None  # type: ignore[method-assign]
    socket.shutdown()
    assert closed


@pytest.mark.parametrize("read_paused", [True, False])
def test_who_is_not_read_is_not_ended_for_a_pong_that_waits(read_paused: bool) -> None:
    """His answer lies behind a message that we have not taken."""
    happened: list[str] = []
    socket = object.__new__(WebSocketConnection)
    socket.read_paused, socket.close_sent = read_paused, False
    socket.transport = SimpleNamespace(  # type: ignore[assignment]
        is_closing=lambda: False, abort=lambda: happened.append("aborted"), write=lambda data: None, close=lambda: None
    )
    socket.conn, socket.logger = ServerProtocol(state=State.OPEN), logging.getLogger("streambed.websocket")
    socket.schedule_ping = lambda: happened.append("asked again")  # type: ignore[method-assign]
    socket.keepalive_timeout()
    assert happened == (["asked again"] if read_paused else ["aborted"])
    assert socket.pong_timer is socket.pending_ping_payload is None
