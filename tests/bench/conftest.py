"""A server of somebody else's, which speaks as much of OpenAI's API as it must and computes nothing."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.client.conftest import engine, live, nowhere, prompted_checkpoint, serve, session_live

__all__ = ["engine", "live", "nowhere", "prompted_checkpoint", "serve", "session_live"]


@dataclass
class Other:
    """What it got, and what it answers."""

    url: str = ""
    posted: list[dict[str, Any]] = field(default_factory=list)
    status: int = 200
    spared: int = 0
    """Texts whose embeddings are missing from an answer."""
    fails_from: int | None = None
    """Texts of one request that are too many."""


@pytest.fixture
def other() -> Iterator[Other]:
    state = Other()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            known = self.path == "/v1/models"
            self.answer(200 if known else 404, {"data": [{"id": "theirs"}]} if known else {"detail": "Not Found"})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            state.posted.append(body)
            item = {"object": "embedding", "embedding": base64.b64encode(b"\0\0\x80?").decode()}
            data = [item | {"index": place} for place in range(len(body["input"]) - state.spared)]
            many = state.fails_from is not None and len(body["input"]) >= state.fails_from
            self.answer(413 if many else state.status, {"data": data, "usage": {"prompt_tokens": 7}})

        def answer(self, status: int, value: object) -> None:
            content = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield state
    server.shutdown()
    server.server_close()
    thread.join(20)
    assert not thread.is_alive()
