"""Who has no key, or another one, gets nowhere."""

from __future__ import annotations

import json

import httpx
import pytest

from streambed.server.routes import Routes
from streambed.settings import Settings
from tests.server.conftest import KEYS, Live, Serve
from tests.server.test_guard import HEAD, routes


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
        row = Routes().find(method, path)
        if row is not None and row.is_open(method):
            continue
        head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n".encode()
        if authorization is not None:
            head += b"Authorization: " + authorization + b"\r\n"
        head, _, content = keyed.raw(head + b"\r\n").partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 401 "), (method, path, head)
        assert b"\r\nwww-authenticate: bearer\r\n" in head.lower() + b"\r\n"
        if method != "HEAD":
            error = json.loads(content)["error"]  # words, where a route is another server's
            assert "key" in error if row is not None and row.dialect else error["code"] == "unauthorized"
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
    response = live.post("a", headers={"Authorization": "Bearer wrong", "Content-Type": "text/plain"})
    assert response.status_code == 401


def test_without_keys_any_key_will_do(live: Live) -> None:
    for key in ("Bearer EMPTY", "Bearer sk-anything", "Basic x"):
        assert live.post("a", headers={"Authorization": key}).status_code == 200
