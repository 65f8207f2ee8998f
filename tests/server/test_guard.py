"""What every request passes first: host, origin, admission; and handshakes."""

from __future__ import annotations

import json
import logging
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from streambed.server.guard import Admission
from streambed.settings import Settings
from tests.server.conftest import KEYS, Live, Serve, guard_of, read_all, until
from tests.server.test_socket import open_peer

ORIGIN = "https://app.example"
HEAD = b"POST /v1/embeddings HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 100\r\n"


def routes(live: Live) -> list[tuple[str, str]]:
    """Every method and path of the application, those that FastAPI adds included."""
    app = guard_of(live, FastAPI)
    found = [(method, route.path) for route in app.routes for method in sorted(getattr(route, "methods", ()))]
    assert {path for _, path in found} >= {"/v1/embeddings", "/tokenize", "/info", "/docs", "/openapi.json", "/livez"}
    return found


def error_of(response: httpx.Response) -> dict[str, Any]:
    error: dict[str, Any] = response.json()["error"]
    return error


# Hosts


def test_with_a_key_any_host_will_do(keyed: Live) -> None:
    assert keyed.post("a", headers={"Host": "embeddings.example.org"}).status_code == 200


def test_without_auth_any_host_will_do(serve: Serve) -> None:
    live = serve(Settings(no_auth=True))
    assert live.post("a", headers={"Host": "embeddings.example.org"}).status_code == 200


def test_host_is_checked_on_every_route(live: Live) -> None:
    for method, path in [*routes(live), ("GET", "/nope")]:
        assert live.client.request(method, path, headers={"Host": "evil.example"}).status_code == 403, path


# Admission


def test_too_many_requests(serve: Serve) -> None:
    live = serve(Settings(max_requests=2))
    content = json.dumps({"model": live.model, "input": "a"}).encode().ljust(100)
    places = guard_of(live, Admission).places["http"]
    with live.connect() as first, live.connect() as second:
        for client in (first, second):  # their bodies have begun and not ended: that takes no place
            client.sendall(HEAD + b"Connection: close\r\n\r\n" + content[:10])
        assert live.post("a").status_code == 200
        for client in (first, second):
            client.sendall(content[10:])
            assert read_all(client).startswith(b"HTTP/1.1 200 ")
    with places.open("") as one, places.open("") as two:  # as two requests that are being computed
        one.take(1)
        two.take(1)
        for path in ("/v1/embeddings", "/tokenize"):
            refused = live.client.post(path, json={})
            assert refused.status_code == 429
            assert int(refused.headers["Retry-After"]) >= 1
            assert error_of(refused)["code"] == "overloaded"
        for path in ("/livez", "/readyz", "/health", "/info", "/v1/models"):
            assert live.client.get(path).status_code == 200
        one.give_back()
        assert live.post("a").status_code == 200
    until(lambda: places.taken == 0)


def test_failed_requests_leave_their_place(serve: Serve) -> None:
    live = serve(Settings(max_requests=1, max_body=1024))
    for value in ("", "x" * 2000, "word " * 150, 5):
        live.post(value)
        live.client.post("/nope", json={})
        live.client.post("/v1/embeddings", content=b"{")
    assert live.post("a").status_code == 200
    until(lambda: guard_of(live, Admission).places["http"].taken == 0)


def test_engine_overload_is_429(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    live = serve()
    monkeypatch.setattr("streambed.engine.core.MAX_QUEUED_TOKENS", 10)
    monkeypatch.setattr(live.engine.compute, "_queued_tokens", 10)
    refused = live.post("a")
    assert (refused.status_code, error_of(refused)["code"]) == (429, "overloaded")
    assert "Retry-After" in refused.headers
    monkeypatch.undo()
    assert live.post("a").status_code == 200


# WebSocket handshakes


def handshake(live: Live, path: str = "/v1/embeddings", **headers: str | None) -> httpx.Response:
    """The answer to a handshake; a header that is None is left out."""
    fields = {
        "host": f"127.0.0.1:{live.port}",
        "connection": "Upgrade",
        "upgrade": "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    } | headers
    lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items() if value is not None)]
    with live.connect() as client:
        client.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
        answer = b""
        while b"\r\n\r\n" not in answer and (part := client.recv(65536)):
            answer += part
        head, _, content = answer.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101 "):  # a refusal ends the connection
            content += read_all(client)
    status, *rest = head.decode("latin-1").split("\r\n")
    pairs = [tuple(line.split(": ", 1)) for line in rest]
    return httpx.Response(int(status.split()[1]), headers=pairs, content=content)


@pytest.mark.parametrize(
    "authorization", [None, "", "Bearer", "Bearer wrong", "Basic first-key", "Bearer clé", "first-key"]
)
def test_handshake_with_a_wrong_key(keyed: Live, authorization: str | None) -> None:
    refused = handshake(keyed, authorization=authorization)
    assert refused.status_code == 401
    assert refused.headers["content-type"] == "application/json"
    assert refused.headers["www-authenticate"] == "Bearer"
    assert (error_of(refused)["code"], list(error_of(refused))) == (
        "unauthorized",
        ["message", "type", "param", "code"],
    )
    assert handshake(keyed, "/nope", authorization=authorization).status_code == 401, "paths are no news for strangers"


@pytest.mark.parametrize("key", KEYS)
def test_handshake_with_a_right_key(keyed: Live, key: str) -> None:
    assert handshake(keyed, authorization=f"Bearer {key}").status_code == 101
    assert handshake(keyed, authorization=f"Bearer {key}", host="embeddings.example.org").status_code == 101


def test_handshake_with_a_key_in_the_path(keyed: Live, caplog: pytest.LogCaptureFixture) -> None:
    """It does not help, and does not end up in a log."""
    caplog.set_level(logging.INFO)
    for path in ("?api_key=first-key", "?token=first-key", "?authorization=Bearer%20first-key"):
        assert handshake(keyed, f"/v1/embeddings{path}").status_code == 401
    assert handshake(keyed, "/v1/embeddings?key=first-key", authorization="Bearer first-key").status_code == 101
    assert "first-key" not in caplog.text


def test_handshake_without_keys(live: Live) -> None:
    for authorization in (None, "Bearer EMPTY", "Basic x"):
        assert handshake(live, authorization=authorization).status_code == 101


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (None, 101),
        ("{scheme}://127.0.0.1:{port}", 101),
        ("HTTP://127.0.0.1:{port}", 101),
        ("https://127.0.0.1:{port}", 101),  # something before us ends TLS
        ("http://127.0.0.1", 403),
        ("http://localhost:{port}", 403),
        ("http://127.0.0.1:{port}.evil.example", 403),
        ("https://evil.example", 403),
        ("null", 403),
        ("", 403),
    ],
)
def test_origin_of_a_handshake(live: Live, origin: str | None, status: int) -> None:
    name = None if origin is None else origin.format(scheme="http", port=live.port)
    answer = handshake(live, origin=name)
    assert answer.status_code == status
    if status == 403:
        assert error_of(answer)["code"] == "forbidden_origin"


def test_origin_counts_with_a_key_too(keyed: Live) -> None:
    assert handshake(keyed, authorization="Bearer first-key", origin="https://evil.example").status_code == 403
    assert handshake(keyed, authorization="Bearer wrong", origin="https://evil.example").status_code in (401, 403)


def test_allowed_origins_of_handshakes(serve: Serve) -> None:
    live = serve(Settings(allow_origin=(ORIGIN, "http://localhost:5173")))
    for origin in (ORIGIN, "http://localhost:5173", f"http://127.0.0.1:{live.port}", None):
        assert handshake(live, origin=origin).status_code == 101
    for origin in ("https://evil.example", f"{ORIGIN}.evil.example", "http://app.example", "null"):
        assert handshake(live, origin=origin).status_code == 403
    assert handshake(serve(Settings(allow_origin=("*",))), origin="https://any.example").status_code == 101


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1.evil.example", "", "10.0.0.1:{port}"]
)
def test_host_of_a_handshake(live: Live, host: str) -> None:
    """A page whose name was pointed here (DNS rebinding) has an origin that fits its Host."""
    name = host.format(port=live.port)
    refused = handshake(live, host=name, origin=f"http://{name}")
    assert (refused.status_code, error_of(refused)["code"]) == (403, "forbidden_origin")
    assert handshake(live, host=name).status_code == 403


@pytest.mark.parametrize("host", ["localhost", "localhost:{port}", "127.0.0.1", "[::1]:{port}"])
def test_own_names_of_a_handshake(live: Live, host: str) -> None:
    name = host.format(port=live.port)
    assert handshake(live, host=name, origin=f"http://{name}").status_code == 101


def test_decisive_headers_of_a_handshake_twice(keyed: Live) -> None:
    twice = handshake(keyed, authorization="Bearer first-key\r\nAuthorization: Bearer wrong")
    assert twice.status_code == 400
    twice = handshake(
        keyed, authorization="Bearer first-key", origin="https://evil.example\r\nOrigin: http://127.0.0.1"
    )
    assert twice.status_code in (400, 403)


@pytest.mark.parametrize(
    "path", ["/", "/nope", "/v1/embeddings/", "/v1/sessions", "/livez", "/readyz", "/v1//embeddings", "/docs"]
)
def test_handshake_at_another_path(live: Live, path: str) -> None:
    refused = handshake(live, path)
    assert (refused.status_code, error_of(refused)["code"]) == (404, "not_found")


def test_too_many_sockets(serve: Serve) -> None:
    live = serve(Settings(max_sockets=2))
    with open_peer(live) as first, open_peer(live) as second:
        for peer in (first, second):
            peer.create()
        refused = handshake(live)
        assert (refused.status_code, error_of(refused)["code"]) == (429, "overloaded")
        assert int(refused.headers["Retry-After"]) >= 1
        assert live.post("a").status_code == 200, "requests have a limit of their own"
        first.ws.close()
        until(lambda: guard_of(live, Admission).places["websocket"].taken == 1)
        assert handshake(live).status_code == 101
        second.drop()
        until(lambda: guard_of(live, Admission).places["websocket"].taken == 0)


def test_refused_handshakes_leave_their_place(serve: Serve) -> None:
    live = serve(Settings(max_sockets=1))
    for path, headers in (("/nope", {}), ("/v1/embeddings", {"origin": "https://evil.example"})):
        assert handshake(live, path, **headers).status_code in (403, 404)
    assert guard_of(live, Admission).places["websocket"].taken == 0
    with open_peer(live) as peer:
        peer.create()


def test_no_sockets(serve: Serve) -> None:
    live = serve(Settings(max_sockets=0))
    assert handshake(live).status_code == 429
    assert live.post("a").status_code == 200


def test_pages_of_others_may_not_write(live: Live) -> None:
    """A form or a fetch without a body needs no preflight; it would fill an open server with sessions."""
    for method, path in (("POST", "/v1/sessions"), ("POST", "/v1/embeddings"), ("DELETE", "/v1/sessions/x")):
        answer = live.client.request(method, path, headers={"Origin": "https://evil.example"})
        assert (answer.status_code, error_of(answer)["code"]) == (403, "forbidden_origin")
    assert live.client.post("/v1/sessions", headers={"Origin": live.url}).status_code == 201
