"""Which pages may call the server."""

from __future__ import annotations

import pytest
from fastapi import FastAPI

from streambed.errors import ForbiddenOrigin
from streambed.server.origins import Origins, is_allowed
from streambed.settings import Settings
from tests.server.conftest import KEYS, Live, Serve
from tests.server.test_guard import ORIGIN, handshake

RIGHT = {"Authorization": "Bearer first-key"}


@pytest.mark.parametrize(
    ("origin", "allowed", "expected"),
    [
        ("https://a.example", ("https://a.example",), True),
        ("https://A.example:443", ("https://a.example",), True),
        ("https://a.example", (), False),
        ("http://a.example", ("https://a.example",), False),
        ("null", ("https://a.example",), False),
        ("null", ("*",), True),
        ("", ("https://a.example",), False),
        ("https://a.example, https://b.example", ("https://a.example",), False),
    ],
)
def test_is_allowed(origin: str, allowed: tuple[str, ...], expected: bool) -> None:
    assert is_allowed(origin, allowed) == expected


def test_check_origin() -> None:
    def check(headers: dict[bytes, bytes], *allowed: str, method: str = "POST") -> None:
        Origins(FastAPI(), allowed).check({"type": "http", "method": method, "state": {"headers": headers}})

    check({})
    check({b"origin": b"https://h:1", b"host": b"H:1"})
    check({b"origin": b"https://a.example", b"host": b"h"}, "https://a.example")
    check({b"origin": b"https://a.example"}, method="GET")
    with pytest.raises(ForbiddenOrigin):
        check({b"origin": b"https://a.example", b"host": b"h"})
    with pytest.raises(ForbiddenOrigin):
        check({b"origin": b"https://a.example"})


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
