"""A real server over real sockets, and what must be true of it after each attack.

Nothing here imports the server: who attacks it knows docs/protocol.md and no more. In `make test` counts, bytes and order
are asserted, never seconds: whoever is polite does not wait behind the attack, which goes on when the answer is there.
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets.sync.client

from tests.server.conftest import until
from tests.server.test_process import SECONDS, Process

HOSTILE, POLITE = "hostile-key-0123456789", "polite-key-0123456789"
JSON = "Content-Type: application/json"


class Target:
    """A server, one who attacks it and one who is polite, each with a key."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.connections: list[socket.socket] = []
        self.polite = httpx.Client(
            base_url=f"http://127.0.0.1:{process.port}",
            headers={"Authorization": f"Bearer {POLITE}"},
            timeout=SECONDS,
            trust_env=False,
        )
        self.model = self.polite.get("/v1/models").json()["data"][0]["id"]
        self.before = self.embed()
        self.descriptors = self.count_descriptors()

    def embed(self, text: str = "a polite text") -> str:
        """The vector of a text, as the polite one gets it."""
        body = {"model": self.model, "input": text, "encoding_format": "base64"}
        reply = self.polite.post("/v1/embeddings", json=body)
        assert reply.status_code == 200, reply.text
        vector: str = reply.json()["data"][0]["embedding"]
        return vector

    def connect(self) -> socket.socket:
        """A connection; closed with the server at the latest."""
        self.connections.append(socket.create_connection(("127.0.0.1", self.process.port), timeout=SECONDS))
        return self.connections[-1]

    def close(self) -> None:
        self.polite.close()
        for connection in self.connections:
            connection.close()
        self.process.close()

    def send(self, head: str, body: bytes = b"", key: str = HOSTILE) -> socket.socket:
        """Begins a request of the attacker's: `POST /path` and header lines, then bytes as they are."""
        connection = self.connect()
        start, *lines = head.splitlines()
        lines = [f"{start} HTTP/1.1", "Host: 127.0.0.1", f"Authorization: Bearer {key}", *lines]
        connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        return connection

    def ask(self, head: str, body: bytes = b"", key: str = HOSTILE) -> bytes:
        """All that comes back until the server closes; what it does not read is no matter."""
        with self.send(f"{head}\nContent-Length: {len(body)}\nConnection: close", b"", key) as connection:
            with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                connection.sendall(body)
            return read(connection)

    def socket(self, key: str = HOSTILE) -> websockets.sync.client.ClientConnection:
        return websockets.sync.client.connect(
            f"ws://127.0.0.1:{self.process.port}/v1/embeddings",
            additional_headers={"Authorization": f"Bearer {key}"},
            compression=None, proxy=None, open_timeout=SECONDS, close_timeout=1, ping_interval=None,
        )  # fmt: skip

    def count_descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.process.process.pid}/fd").iterdir()))

    def memory(self) -> int:
        """Bytes that no file backs."""
        status = Path(f"/proc/{self.process.process.pid}/status").read_text()
        return int(status.split("RssAnon:")[1].split()[0]) << 10

    def check(self) -> None:
        """Alive, ready, right, with nothing left over and no traceback."""
        with httpx.Client(base_url=self.polite.base_url, timeout=SECONDS, trust_env=False) as stranger:
            assert stranger.get("/livez").status_code == 200
            assert stranger.get("/readyz").status_code == 200
        assert self.embed() == self.before, "the same text has the same vector"
        until(lambda: self.count_descriptors() <= self.descriptors + 4)
        assert self.process.process.poll() is None
        assert "Traceback" not in self.process.output, self.process.output[-5000:]


def ask(wire: websockets.sync.client.ClientConnection, kind: str, **fields: Any) -> dict[str, Any]:
    """Sends an event; the next one that comes."""
    wire.send(json.dumps({"type": kind, **fields}))
    event: dict[str, Any] = json.loads(wire.recv(SECONDS))
    return event


def read(connection: socket.socket) -> bytes:
    """Until the server closes."""
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(1 << 16):
            parts.append(part)
    return b"".join(parts)


def error_of(reply: bytes) -> dict[str, Any]:
    """The error of a reply's body."""
    error: dict[str, Any] = json.loads(reply.partition(b"\r\n\r\n")[2])["error"]
    return error


Start = Callable[..., Target]


@pytest.fixture(scope="module")
def start_target(tiny_checkpoint: Path) -> Iterator[Start]:
    """Starts servers with these flags; at the end each must be as good as new."""
    targets: list[Target] = []

    def start(*flags: str | Path, module: str = "streambed", **environment: str) -> Target:
        process = Process(
            tiny_checkpoint, "--dtype", "float32", "--threads", "1", "--kv-memory", "64MiB", "--port", "0",
            "--kernels", "torch", "--api-key", HOSTILE, "--api-key", POLITE, *flags, module=module,
            **environment,
        ).ready()  # fmt: skip
        targets.append(Target(process))
        return targets[-1]

    yield start
    for target in targets:
        target.close()


@pytest.fixture(scope="module")
def shared_target(start_target: Start) -> Target:
    return start_target()


@pytest.fixture
def target(shared_target: Target) -> Iterator[Target]:
    """A server with default limits, shared by the tests of a file; as good as new after each."""
    yield shared_target
    shared_target.check()
