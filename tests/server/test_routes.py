"""One table says all about routes, and the server is as it says."""

from __future__ import annotations

import pytest
from fastapi import FastAPI

from streambed.server.routes import FILES, ROUTES, WEBSOCKET, Routes, Row
from tests.server.conftest import KEYS, Live, guard_of

ROWS = Routes()


@pytest.mark.parametrize(
    ("method", "path", "handler"),
    [
        ("POST", "/v1/embeddings", "embeddings.create"),
        ("GET", "/v1/embeddings", "embeddings.create"),  # for other methods
        (WEBSOCKET, "/v1/embeddings", "sockets.serve"),
        (WEBSOCKET, "/tokenize", "embeddings.tokenize"),
        ("DELETE", "/v1/sessions/x", "sessions.delete"),
        ("PATCH", "/v1/sessions/x", "sessions.get"),
        ("GET", "/v1/models/a/b", "health.model"),
        ("GET", "/", "home"),
        ("POST", "/", "dropin.tei_embed"),
        ("GET", "/docs", "reference.page"),
        ("GET", "/docs/", "reference.files"),
        ("GET", "/playground/key", "playground.files"),
        ("POST", "/playground/key", "playground.enter"),
        ("GET", "/v1/sessions/", None),
        ("GET", "/docsx", None),
        ("GET", "//livez", None),
        ("GET", "", None),
    ],
)
def test_find(method: str, path: str, handler: str | None) -> None:
    row = ROWS.find(method, path)
    assert (None if row is None else row.handler) == handler


def test_what_is_open() -> None:
    """Files are open to read; a new row asks for a key unless it says otherwise."""
    paths = {(row.method, row.path) for row in ROUTES if row.open}
    assert paths == {
        ("GET", "/"),
        ("GET", "/livez"),
        ("GET", "/readyz"),
        ("GET", "/docs"),
        ("GET", "/playground"),
        ("POST", "/playground/key"),
        ("DELETE", "/playground/key"),
        (FILES, "/docs"),
        (FILES, "/playground"),
    }
    (files,) = [row for row in ROUTES if row.handler == "playground.files"]
    assert [files.is_open(method) for method in ("GET", "PUT", "DELETE", FILES)] == [True, False, False, False]


def test_rows_are_routes(live: Live) -> None:
    """The application has these and no others, in this order: routing and the table find the same."""
    found = [str(getattr(route, "path", "")) for route in guard_of(live, FastAPI).routes]
    assert found == [row.path for row in ROUTES]


BOUNDED = [row for row in ROUTES if row.limit is not None and row.method in ("POST", "PUT")]


@pytest.mark.parametrize("row", BOUNDED, ids=lambda row: f"{row.method} {row.path}")
def test_limits_of_bodies(keyed: Live, row: Row) -> None:
    """The row's own; what says that it has more is refused unread."""
    size = (row.limit or 0) + 1
    head = f"{row.method} {row.template.replace('{session}', 'x')} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    head += f"Content-Type: application/json\r\nAuthorization: Bearer {KEYS[0]}\r\nContent-Length: {size}\r\n\r\n"
    answer = keyed.raw(head.encode())
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert f"the body has {size:,} bytes; the limit is {row.limit:,}".encode() in answer
