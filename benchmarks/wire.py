"""A client for `reliability.py` that does as little as can be: what it costs would be taken for the server's."""

import asyncio
import contextlib
import json
import random
import re
import time
from typing import Any, NamedTuple

HOSTILE, POLITE = "hostile-key-0123456789", "polite-key-0123456789"
WORDS = ["river", "stone", "cloud", "paper", "light", "green", "table", "water", "north", "small", "quick", "brown"]


class Reply(NamedTuple):
    """What a request ended in. status: 0 where the connection broke."""

    status: int
    seconds: float
    body: bytes = b""


class Client:
    """HTTP/1.1 over connections that it keeps."""

    def __init__(self, port: int, key: str) -> None:
        self._port, self._key = port, key
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self.model = ""

    async def open(self) -> "Client":
        reply = await self.ask("GET", "/v1/models")
        self.model = json.loads(reply.body)["data"][0]["id"]
        return self

    async def aclose(self) -> None:
        for _, writer in self._free:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        self._free.clear()

    async def ask(self, method: str, path: str, value: Any = None, raw: bytes | None = None) -> Reply:
        started = time.perf_counter()
        body = raw if raw is not None else b"" if value is None else json.dumps(value).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {self._key}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        connection = self._free.pop() if self._free else await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = connection
        try:
            writer.write(head.encode() + body)
            lines = (await reader.readuntil(b"\r\n\r\n")).lower()
            size = re.search(rb"content-length: (\d+)", lines)
            found = await reader.readexactly(int(size[1]) if size else 0)
        except (OSError, asyncio.IncompleteReadError):
            writer.close()
            return Reply(0, time.perf_counter() - started)
        if b"connection: close" in lines:
            writer.close()
        else:
            self._free.append(connection)
        return Reply(int(lines[9:12]), time.perf_counter() - started, found)

    async def embed(self, words: int = 10, texts: int = 1, **more: Any) -> Reply:
        drawn = [" ".join(random.choices(WORDS, k=words)) for _ in range(texts)]
        body = {"model": self.model, "input": drawn if texts > 1 else drawn[0], "encoding_format": "base64"}
        return await self.ask("POST", "/v1/embeddings", body | more)
