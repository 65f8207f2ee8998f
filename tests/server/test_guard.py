"""What every request passes first: key, admission, time, origin."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from streambed import Engine
from streambed.server import connection, guard
from streambed.server.dropin import dialect_of
from streambed.server.guard import OPEN_PATHS, is_open
from streambed.settings import Settings
from tests.server.conftest import Live, Serve, Servers, guard_of, read_all, until
from tests.server.test_socket import open_peer

KEYS = ("first-key", "second-key")
RIGHT = {"Authorization": "Bearer first-key"}
HEAD = b"POST /v1/embeddings HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 100\r\n"


def routes(live: Live) -> list[tuple[str, str]]:
    """Every method and path of the application, those that FastAPI adds included."""
    app = guard_of(live)._app
    assert isinstance(app, FastAPI)
    found = [(method, route.path) for route in app.routes for method in sorted(getattr(route, "methods", ()))]
    assert {path for _, path in found} >= {
        "/v1/embeddings",
        "/tokenize",
        "/info",
        "/docs",
        "/openapi.json",
    } | OPEN_PATHS
    return found


def error_of(response: httpx.Response) -> dict[str, Any]:
    error: dict[str, Any] = response.json()["error"]
    return error


# Keys


@pytest.fixture(scope="module")
def keyed(engine: Engine) -> Iterator[Live]:
    """A server that asks for one of KEYS; the client of the fixture sends the first."""
    servers = Servers()
    yield servers.start(engine, keys=KEYS)
    servers.stop()


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        b"",
        b"Bearer",
        b"Bearer ",
        b"Bearer wrong",
        b"Bearer first-ke",
        b"Bearer first-keyy",
        b"Bearer first-key second-key",
        b"Bearer FIRST-KEY",
        b"bearer",
        b"first-key",
        b"Basic first-key",
        b"Basic OmZpcnN0LWtleQ==",
        b"Bearer: first-key",
        b"Bearer \xff\xfe\xc3\xa9",
        "Bearer clé".encode(),
        b"Bearer " + b"x" * 10_000,
    ],
    ids=lambda value: str(value)[:30],
)
def test_wrong_key_on_every_route(keyed: Live, authorization: bytes | None) -> None:
    for method, path in [*routes(keyed), ("GET", "/nope"), ("POST", "/nope"), ("DELETE", "/v1/embeddings")]:
        if is_open(path):
            continue
        head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n".encode()
        if authorization is not None:
            head += b"Authorization: " + authorization + b"\r\n"
        head, _, content = keyed.raw(head + b"\r\n").partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 401 "), (method, path, head)
        assert b"\r\nwww-authenticate: bearer\r\n" in head.lower() + b"\r\n"
        if method != "HEAD":
            error = json.loads(content)["error"]  # words, where a route is another server's
            assert "key" in error if dialect_of(path) else error["code"] == "unauthorized"
            assert b"first-key" not in content


def test_key_with_a_control_character_is_refused(keyed: Live) -> None:
    answer = keyed.raw(b"GET /info HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer first-key\x00\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 "), "the parser has its word first"


def test_open_paths_need_no_key(keyed: Live) -> None:
    with httpx.Client(base_url=keyed.url, trust_env=False) as client:
        for path in ("/livez", "/readyz"):
            assert client.get(path).status_code == 200
        for path in ("/livez/", "/livez/../info", "/readyz?a=/info", "//livez", "/livez%2f..%2finfo", "/health"):
            assert "fingerprint" not in client.get(path, follow_redirects=True).text


@pytest.mark.parametrize(
    "path", ["/%69nfo", "/info?x=/livez", "/info#/livez", "/livez/../info", "http://127.0.0.1/info"]
)
def test_paths_written_otherwise_need_the_key_too(keyed: Live, path: str) -> None:
    request = f"GET {path} HTTP/1.1\r\nHost: x/livez?\r\nConnection: close\r\n\r\n"
    answer = keyed.raw(request.encode())
    assert answer.startswith((b"HTTP/1.1 401 ", b"HTTP/1.1 400 ")), answer


@pytest.mark.parametrize(
    "authorization",
    ["Bearer first-key", "Bearer second-key", "bearer first-key", "BEARER second-key", "Bearer   first-key"],
)
def test_right_key(keyed: Live, authorization: str) -> None:
    headers = {"Authorization": authorization}
    assert keyed.post("a", headers=headers).status_code == 200
    for method, path in routes(keyed):
        if path.startswith("/playground"):
            continue  # open to all
        response = keyed.client.request(method, path, headers={**headers, "Content-Type": "application/json"})
        if path == "/v1/models/{model:path}":
            expected = 404
        elif "{session}" in path:
            expected = 404 if method in ("GET", "DELETE", "POST") and "append" not in path else 400
        else:
            expected = {"/v1/sessions": 201, "/": 422, "/embed": 422}.get(path, 400) if method == "POST" else 200
        assert response.status_code == expected, (method, path)


def test_key_is_needed_before_anything_is_read(serve: Serve) -> None:
    """Who has no key learns nothing of sizes, types and models, and the body is not waited for."""
    live = serve(Settings(max_requests=1), keys=KEYS)
    answer = live.raw(HEAD.replace(b"100", b"99999999999") + b"Connection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 401 ")
    guard_of(live).draining = True
    response = live.post("a", headers={"Authorization": "Bearer wrong", "Content-Type": "text/plain"})
    assert response.status_code == 401


def test_without_keys_any_key_will_do(live: Live) -> None:
    for key in ("Bearer EMPTY", "Bearer sk-anything", "Basic x"):
        assert live.post("a", headers={"Authorization": key}).status_code == 200


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
    with live.connect() as first, live.connect() as second:
        for client in (first, second):  # their bodies have begun and not ended
            client.sendall(HEAD + b"Connection: close\r\n\r\n" + content[:10])
        until(lambda: guard_of(live)._running == 2)
        for path in ("/v1/embeddings", "/tokenize"):
            refused = live.client.post(path, json={})
            assert refused.status_code == 429
            assert int(refused.headers["Retry-After"]) >= 1
            assert error_of(refused)["code"] == "overloaded"
        for path in ("/livez", "/readyz", "/health", "/info", "/v1/models"):
            assert live.client.get(path).status_code == 200
        first.sendall(content[10:])
        assert read_all(first).startswith(b"HTTP/1.1 200 ")
        until(lambda: guard_of(live)._running == 1)
        assert live.post("a").status_code == 200
        second.sendall(content[10:])
        assert read_all(second).startswith(b"HTTP/1.1 200 ")
    until(lambda: guard_of(live)._running == 0)


def test_failed_requests_leave_their_place(serve: Serve) -> None:
    live = serve(Settings(max_requests=1, max_body=1024))
    for value in ("", "x" * 2000, "word " * 150, 5):
        live.post(value)
        live.client.post("/nope", json={})
        live.client.post("/v1/embeddings", content=b"{")
    assert live.post("a").status_code == 200
    until(lambda: guard_of(live)._running == 0)


def test_engine_overload_is_429(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    live = serve()
    monkeypatch.setattr("streambed.engine.engine.MAX_QUEUED_TOKENS", 10)
    monkeypatch.setattr(live.engine.compute, "_queued_tokens", 10)
    refused = live.post("a")
    assert (refused.status_code, error_of(refused)["code"]) == (429, "overloaded")
    assert "Retry-After" in refused.headers
    monkeypatch.undo()
    assert live.post("a").status_code == 200


# Time


@pytest.mark.parametrize("sent", [b"", b'{"model":'])
def test_slow_body_is_given_up(serve: Serve, monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    monkeypatch.setattr(guard, "BODY_SECONDS", 0.05)
    live = serve(Settings(max_requests=1))
    answer = live.raw(HEAD + b"Connection: close\r\n\r\n" + sent)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"did not arrive" in answer
    until(lambda: guard_of(live)._running == 0)
    assert live.post("a").status_code == 200


def test_connection_ends_after_a_slow_body(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Having its answer, a client may not drip on for ever."""
    monkeypatch.setattr(guard, "BODY_SECONDS", 0.05)
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.1)
    live = serve()
    with live.connect() as dripping:
        dripping.sendall(HEAD.replace(b"100", b"100000") + b"\r\n")
        assert dripping.recv(65536).startswith(b"HTTP/1.1 400 ")

        def closed() -> bool:
            try:
                dripping.sendall(b" ")
            except ConnectionError:
                return True
            return False

        until(closed)


def test_dripping_body_is_given_up_all_the_same(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time is for the whole body: each byte does not buy more of it."""
    monkeypatch.setattr(guard, "BODY_SECONDS", 0.1)
    live = serve()
    with live.connect() as dripping:
        dripping.sendall(HEAD.replace(b"100", b"100000") + b"\r\n")
        dripping.settimeout(0.02)
        answer = b""
        for _ in range(1000):
            dripping.sendall(b" ")
            try:
                answer = dripping.recv(65536)
                break
            except TimeoutError:
                continue
    assert answer.startswith(b"HTTP/1.1 400 ")


# Origins


ORIGIN = "https://app.example"


def test_cors(serve: Serve) -> None:
    live = serve(Settings(allow_origin=(ORIGIN,)), keys=KEYS)
    preflight = live.client.options(
        "/v1/embeddings",
        headers={
            "Origin": ORIGIN,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization, content-type",
        },
    )
    assert preflight.status_code == 200
    assert preflight.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert "POST" in preflight.headers["Access-Control-Allow-Methods"]
    allowed = preflight.headers["Access-Control-Allow-Headers"].lower()
    assert "authorization" in allowed
    assert "content-type" in allowed
    reply = live.post("a", headers=RIGHT | {"Origin": ORIGIN})
    assert reply.status_code == 200
    assert reply.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert "Server-Timing" in reply.headers["Access-Control-Expose-Headers"]


def test_cors_lets_the_page_read_a_refusal(serve: Serve) -> None:
    live = serve(Settings(allow_origin=(ORIGIN,)), keys=KEYS)
    refused = live.post("a", headers={"Authorization": "Bearer wrong", "Origin": ORIGIN})
    assert refused.status_code == 401
    assert refused.headers["Access-Control-Allow-Origin"] == ORIGIN


def test_cors_for_others(serve: Serve) -> None:
    live = serve(Settings(allow_origin=(ORIGIN, "http://localhost:5173")))
    for origin in ("https://evil.example", "https://app.example.evil.example", "null", "http://app.example"):
        preflight = live.client.options(
            "/v1/embeddings", headers={"Origin": origin, "Access-Control-Request-Method": "POST"}
        )
        assert preflight.status_code == 400
        assert "Access-Control-Allow-Origin" not in preflight.headers
        assert "Access-Control-Allow-Origin" not in live.post("a", headers={"Origin": origin}).headers
    second = live.post("a", headers={"Origin": "http://localhost:5173"})
    assert second.headers["Access-Control-Allow-Origin"] == "http://localhost:5173"


def test_cors_for_all(serve: Serve) -> None:
    live = serve(Settings(allow_origin=("*",)), keys=KEYS)
    reply = live.post("a", headers=RIGHT | {"Origin": "https://any.example"})
    assert reply.headers["Access-Control-Allow-Origin"] == "*"
    assert "Access-Control-Allow-Credentials" not in reply.headers


def test_no_cors_unless_asked(live: Live) -> None:
    response = live.post("a", headers={"Origin": ORIGIN})
    assert "Access-Control-Allow-Origin" not in response.headers
    preflight = live.client.options(
        "/v1/embeddings", headers={"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
    )
    assert "Access-Control-Allow-Origin" not in preflight.headers


def test_cors_compares_as_browsers_do(serve: Serve) -> None:
    """What was given at start and what a page sends need not be written alike."""
    live = serve(Settings(allow_origin=("HTTPS://App.Example:443/", "https://bücher.example")))
    for origin in (ORIGIN, "https://app.example:443", "https://APP.example", "https://xn--bcher-kva.example"):
        assert live.post("a", headers={"Origin": origin}).headers["Access-Control-Allow-Origin"] == origin
        assert handshake(live, origin=origin).status_code == 101
    for origin in ("http://app.example", "https://app.example:8443", "https://app.example/x", "https://me@app.example"):
        reply = live.post("a", headers={"Origin": origin})
        assert (reply.status_code, "Access-Control-Allow-Origin" in reply.headers) == (403, False)


def test_private_networks(serve: Serve) -> None:
    """Chromium asks whether a public page may call a server in the browser's own network: one that is allowed may."""
    ask = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Private-Network": "true"}
    live = serve(Settings(allow_origin=(ORIGIN,)), keys=KEYS)
    preflight = live.client.options("/v1/embeddings", headers=ask | {"Origin": ORIGIN})
    assert (preflight.status_code, preflight.headers["Access-Control-Allow-Private-Network"]) == (200, "true")
    others = live.client.options("/v1/embeddings", headers=ask | {"Origin": "https://evil.example"})
    assert others.status_code == 400
    for name in ("Access-Control-Allow-Origin", "Access-Control-Allow-Private-Network"):
        assert name not in others.headers
    assert "Access-Control-Allow-Private-Network" not in live.post("a", headers=RIGHT | {"Origin": ORIGIN}).headers
    closed = serve(Settings()).client.options("/v1/embeddings", headers=ask | {"Origin": ORIGIN})
    assert "Access-Control-Allow-Private-Network" not in closed.headers


def test_cors_for_openai_node_in_a_page(serve: Serve) -> None:
    live = serve(Settings(allow_origin=(ORIGIN,)))
    preflight = live.client.options(
        "/v1/embeddings",
        headers={
            "Origin": ORIGIN,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type,x-stainless-arch,x-stainless-lang",
        },
    )
    assert preflight.status_code == 200


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
        until(lambda: guard_of(live)._sockets == 1)
        assert handshake(live).status_code == 101
        second.drop()
        until(lambda: guard_of(live)._sockets == 0)


def test_refused_handshakes_leave_their_place(serve: Serve) -> None:
    live = serve(Settings(max_sockets=1))
    for path, headers in (("/nope", {}), ("/v1/embeddings", {"origin": "https://evil.example"})):
        assert handshake(live, path, **headers).status_code in (403, 404)
    assert guard_of(live)._sockets == 0
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
