"""HEAD is GET without the body."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from streambed import Engine
from tests.server.conftest import Live, Servers, until
from tests.server.test_guard import routes


@pytest.fixture(scope="module")
def keyed(engine: Engine) -> Iterator[Live]:
    servers = Servers()
    yield servers.start(engine, keys=("first-key",))
    servers.stop()


def test_head_on_every_route(keyed: Live) -> None:
    """Also on those of a parameter, of files, of redirects, and where there is nothing."""
    client = keyed.client
    session = client.post("/v1/sessions", json={"text": "a"}).json()["session"]
    paths = {path.replace("{session}", session).replace("{model:path}", "tiny") for method, path in routes(keyed)}
    for path in sorted(paths | {"/playground/app.js", "/docs/page.js", "/docs/", "/playground/none.js", "/nope"}):
        got, head = client.get(path), client.head(path)
        assert head.content == b""
        assert head.status_code == got.status_code, path
        same = {name: value for name, value in got.headers.items() if name not in ("date", "x-request-id")}
        if path in ("/info", "/metrics", f"/v1/sessions/{session}", "/v1/sessions"):
            same.pop("content-length")  # what they tell has changed
        assert same.items() <= head.headers.items(), path
    assert "HEAD" in client.post("/v1/models", json={}).headers["allow"]


def test_head_on_one_connection(keyed: Live) -> None:
    """No body that the next reply would be taken for."""
    lines = [f"{method} /livez HTTP/1.1\r\nHost: h\r\n" for method in ("HEAD", "GET", "HEAD")]
    answer = keyed.raw(("\r\n".join(lines) + "Connection: close\r\n\r\n").encode())
    assert answer.count(b"HTTP/1.1 200") == 3
    assert answer.count(b'{"status":"ok"}') == 1


def test_head_asks_for_the_key_as_get_does(keyed: Live) -> None:
    head = keyed.client.head("/info", headers={"Authorization": "Bearer wrong"})
    assert (head.status_code, head.headers["www-authenticate"]) == (401, "Bearer")
    assert keyed.client.head("/readyz", headers={"Authorization": "Bearer wrong"}).status_code == 200


def test_the_log_says_head(keyed: Live, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "streambed.access")
    for method in ("HEAD", "GET"):
        keyed.client.request(method, "/v1/models")
    until(lambda: len([record for record in caplog.records if record.name == "streambed.access"]) == 2)
    said = [record.getMessage() for record in caplog.records if record.name == "streambed.access"]
    assert said == ["HEAD /v1/models", "GET /v1/models"]
