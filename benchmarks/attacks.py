"""Bad neighbours: what one key does for `reliability.py` to see what it costs another."""

import asyncio
import contextlib
import json
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import websockets.asyncio.client

from benchmarks.wire import HOSTILE, WORDS, Client

KEYS = b'{"model":"m","input":"x",' + b",".join(b'"k%d":0' % number for number in range(1_000_000)) + b"}"
Attack = Callable[[int], Awaitable[None]]
Socket = websockets.asyncio.client.ClientConnection


@contextlib.asynccontextmanager
async def streaming(port: int) -> AsyncIterator[Socket]:
    headers = {"Authorization": f"Bearer {HOSTILE}"}
    url = f"ws://127.0.0.1:{port}/v1/embeddings"
    async with websockets.asyncio.client.connect(
        url, additional_headers=headers, compression=None, proxy=None, ping_interval=None, open_timeout=60
    ) as socket:
        yield socket


async def call(socket: Socket, **event: Any) -> dict[str, Any]:
    """Sends an event; the next one that is no acknowledgement."""
    await socket.send(json.dumps(event))
    while True:
        answer: dict[str, Any] = json.loads(await socket.recv())
        if answer["type"] != "input_text.ack":
            return answer


async def large_json(port: int) -> None:
    await Client(port, HOSTILE).ask("POST", "/v1/embeddings", raw=KEYS)


async def large_frames(port: int) -> None:
    frame = json.dumps({"type": "session.create"} | {f"k{number}": 0 for number in range(80_000)})[: 1 << 20]
    async with streaming(port) as socket:
        while True:
            await socket.send(frame)
            await socket.recv()


async def empty_frames(port: int) -> None:
    async with streaming(port) as socket:
        while not socket.transport.is_closing():
            socket.transport.write((b"\x89\x80" + bytes(4)) * 5000)
            await asyncio.sleep(0.001)


async def silence(port: int) -> None:
    writers = [(await asyncio.open_connection("127.0.0.1", port))[1] for _ in range(100)]
    await asyncio.sleep(0.5)
    for writer in writers:
        writer.close()


async def half_bodies(port: int) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST /v1/embeddings HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {HOSTILE}\r\n"
    writer.write(f"{head}Content-Type: application/json\r\nContent-Length: 16000000\r\n\r\n".encode())
    writer.write(b'{"input":"' + b"x" * 4_000_000)
    await asyncio.sleep(5)
    writer.close()


async def edits(port: int) -> None:
    async with streaming(port) as socket:
        text = " ".join(random.choices(WORDS, k=5000))
        session = (await call(socket, type="session.create", text=text))["session"]
        for number in range(1 << 30):
            change = {
                "type": "input_text.replace",
                "session": session,
                "start": 0,
                "end": 1,
                "text": "xyzw"[number % 4],
            }
            await socket.send(json.dumps(change))
            await call(socket, type="embedding.create", session=session)


async def queries(port: int) -> None:
    client = await Client(port, HOSTILE).open()
    while True:
        await client.embed(words=40, texts=32, priority="query")


async def watches(port: int) -> None:
    async with streaming(port) as socket:
        session = (await call(socket, type="session.create"))["session"]
        while True:
            watch = [
                {"id": str(number), "text": " ".join(random.choices(WORDS, k=30)), "threshold": 0.5}
                for number in range(64)
            ]
            await call(socket, type="session.update", session=session, watch=watch)


NEIGHBOURS: dict[str, tuple[int, Attack]] = {
    "3 that post 13 MB of unknown keys": (3, large_json),
    "3 that send 1 MiB frames of keys": (3, large_frames),
    "4 that flood with pings": (4, empty_frames),
    "5,000 silent connections": (50, silence),
    "64 half-sent bodies of 16 MB": (64, half_bodies),
    "4 that edit the start of a long text": (4, edits),
    "64 that send lists as queries": (64, queries),
    "8 that set 64 watches, again and again": (8, watches),
}


def attack(name: str, port: int) -> None:
    """Runs in a process of its own, on the last core."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    count, once = NEIGHBOURS[name]

    async def again() -> None:
        while True:
            with contextlib.suppress(Exception):
                await once(port)
            await asyncio.sleep(0.001)

    async def all_of_them() -> None:
        await asyncio.gather(*(again() for _ in range(count)))

    asyncio.run(all_of_them())
