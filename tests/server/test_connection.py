"""Connections that say nothing, or say it slowly, end; others do not notice."""

from __future__ import annotations

import asyncio
import contextlib
import time

import httpx
import pytest
import uvicorn

from streambed import Engine
from streambed.server import connection
from streambed.server.app import create_app
from streambed.server.connection import Connection
from streambed.settings import Settings
from tests.server.conftest import Serve, read_all
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
    server = uvicorn.Server(uvicorn.Config(app, port=0, http=Connection, ws="none", log_config=None))

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
