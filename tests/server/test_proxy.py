"""Below a path of a proxy's: said once at start, or by a proxy that is trusted."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from streambed import Client, Engine
from streambed.server.playground import COOKIE
from streambed.server.proxy import Proxy, route_path
from streambed.settings import Settings
from tests.server.conftest import Live, Servers
from tests.server.test_guard import handshake

HTML = {"Accept": "text/html"}


@pytest.fixture(scope="module")
def below(engine: Engine) -> Iterator[Live]:
    """A server below /sub that asks for a key."""
    servers = Servers()
    yield servers.start(engine, Settings(root_path="/sub", drain=5.0), keys=("key",))
    servers.stop()


@pytest.fixture(scope="module")
def behind(engine: Engine) -> Iterator[Live]:
    """A server that trusts the proxy on this machine."""
    servers = Servers()
    yield servers.start(engine, Settings(trusted_proxy=("127.0.0.0/8",), drain=5.0), keys=("key",))
    servers.stop()


def test_with_the_prefix_and_without(below: Live) -> None:
    """Proxies do either."""
    for path in ("/livez", "/v1/models", "/v1/models/tiny", "/docs", "/docs/page.js", "/playground/", "/openapi.json"):
        first, second = below.client.get(path), below.client.get(f"/sub{path}")
        assert (first.status_code, first.content) == (second.status_code, second.content) == (200, first.content)
    body = {"model": "tiny", "input": "a"}
    assert below.client.post("/sub/v1/embeddings", json=body).status_code == 200
    assert below.client.get("/subway/livez").status_code == 404
    for path in ("/v1/embeddings", "/sub/v1/embeddings"):
        assert handshake(below, path, authorization="Bearer key").status_code == 101
    assert handshake(below, "/sub/sub/v1/embeddings", authorization="Bearer key").status_code == 404


@pytest.mark.parametrize("end", ["", "/"])
def test_our_own_client(below: Live, end: str) -> None:
    with Client(f"{below.url}/sub{end}", api_key="key") as client, client.open_stream("a brook") as stream:
        assert client.embed("a brook").shape == (1, 64)
        assert stream.embedding().vector.shape == (64,)


@pytest.mark.parametrize("start", ["", "/sub"])
def test_all_that_leads_elsewhere_has_it(below: Live, start: str) -> None:
    get = below.client.get
    for path in ("/", ""):
        assert get(f"{start}{path}" or "/", headers=HTML).headers["location"] == "/sub/playground/"
    assert get(f"{start}/playground").headers["location"] == "/sub/playground/"
    assert get(f"{start}/docs/").headers["location"] == "../docs", "relative to where the browser is"
    assert get(f"{start}/", headers={"Accept": "*/*"}).json()["embeddings"] == "/sub/v1/embeddings"
    assert get(f"{start}/openapi.json").json()["servers"] == [{"url": "/sub"}]
    assert get(f"{start}/v1/embedding").json()["error"]["message"].endswith("did you mean POST /v1/embeddings?")


def test_the_cookie_is_of_that_path(below: Live) -> None:
    """Other programs of that host have no use for it."""
    with httpx.Client(base_url=below.url, timeout=60, trust_env=False) as browser:
        entered = browser.post("/sub/playground/key", json={"api_key": "key"}, headers={"Origin": below.url})
        assert (entered.status_code, "Path=/sub;" in entered.headers["set-cookie"]) == (204, True)
        assert browser.get("/sub/info").status_code == 200
        assert browser.get("/info").status_code == 401, "a browser sends it below that path alone"
        assert browser.delete("/sub/playground/key", headers={"Origin": below.url}).status_code == 204
        assert COOKIE not in browser.cookies


@pytest.mark.parametrize(
    "path", ["/sub/info", "/sub/sub/info", "/sub/playground/../info", "/sub//livez", "/sub/docs/../info"]
)
def test_a_prefix_opens_nothing(below: Live, path: str) -> None:
    with httpx.Client(base_url=below.url, headers={"Authorization": ""}, timeout=60, trust_env=False) as stranger:
        assert stranger.request("GET", httpx.URL(below.url + path)).status_code in (401, 404)
        assert b"fingerprint" not in stranger.request("GET", httpx.URL(below.url + path)).content


@pytest.mark.parametrize("prefix", ["/playground", "/docs", "/v1", "/livez"])
def test_prefixes_that_are_routes_open_nothing(engine: Engine, prefix: str) -> None:
    """What the guard takes for the path is what routing takes for it."""
    servers = Servers()
    live = servers.start(engine, Settings(root_path=prefix, drain=5.0), keys=("key",))
    with httpx.Client(base_url=live.url, timeout=60, trust_env=False) as stranger:
        for path in itertools.product([f"{prefix}", f"{prefix}{prefix}", ""], ["/info", "/v1/models", "/metrics"]):
            assert stranger.get("".join(path)).status_code in (401, 404), path
    assert live.client.get(f"{prefix}/info").status_code == 200
    assert live.client.get("/v1/models").status_code == 200
    assert live.client.get("/v1/v1/models").status_code == (200 if prefix == "/v1" else 404)
    servers.stop()


@pytest.mark.parametrize(
    ("headers", "prefix"),
    [
        ({}, ""),
        ({"X-Forwarded-Prefix": "/sub"}, "/sub"),
        ({"X-Forwarded-Prefix": "/sub/"}, "/sub"),
        ({"x-forwarded-prefix": "/team/embeddings"}, "/team/embeddings"),
        ({"X-Forwarded-Prefix": "sub"}, ""),
        ({"X-Forwarded-Prefix": "//evil.example"}, ""),
        ({"X-Forwarded-Prefix": "/\\evil.example"}, ""),
        ({"X-Forwarded-Prefix": "/a/../b"}, ""),
        ({"X-Forwarded-Prefix": "/a b"}, ""),
        ({"X-Forwarded-Prefix": "/a, /b"}, ""),
        ({"X-Forwarded-Prefix": ""}, ""),
    ],
)
def test_a_trusted_proxy_names_it(behind: Live, headers: dict[str, str], prefix: str) -> None:
    for path in ("/", f"{prefix}/"):
        reply = behind.client.get(path, headers=HTML | headers)
        assert reply.headers["location"] == f"{prefix}/playground/"


def test_others_do_not(below: Live) -> None:
    forged = {"X-Forwarded-Prefix": "/evil", "X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "https"}
    assert below.client.get("/", headers=HTML | forged).headers["location"] == "/sub/playground/"
    page = forged | {"Origin": "https://evil.example"}
    assert below.client.post("/playground/key", json={"api_key": "key"}, headers=page).status_code == 403


def test_how_browsers_reach_it(behind: Live) -> None:
    """A proxy that ends TLS and writes its own Host: its pages are of this host, and the cookie travels by TLS alone."""
    proxied = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "example.org", "Origin": "https://example.org"}
    entered = behind.client.post("/playground/key", json={"api_key": "key"}, headers=proxied)
    assert (entered.status_code, "secure" in entered.headers["set-cookie"].lower()) == (204, True)
    behind.client.cookies.clear()
    assert handshake(behind, authorization="Bearer key", **proxied).status_code == 101
    other = proxied | {"Origin": "https://evil.example"}
    assert handshake(behind, authorization="Bearer key", **other).status_code == 403
    twice = [("X-Forwarded-Host", "example.org"), ("X-Forwarded-Host", "b"), ("Origin", "https://example.org")]
    assert behind.client.post("/playground/key", json={"api_key": "key"}, headers=twice).status_code == 403


@pytest.mark.parametrize(
    ("networks", "client", "trusted"),
    [
        ((), "127.0.0.1", False),
        (("127.0.0.1",), "127.0.0.1", True),
        (("10.0.0.0/8",), "10.1.2.3", True),
        (("10.0.0.0/8",), "11.1.2.3", False),
        (("10.0.0.0/8",), "::ffff:10.1.2.3", True),
        (("::1",), "::1", True),
        (("fe80::/10",), "fe80::1%eth0", True),
        (("10.0.0.0/8",), "not an address", False),
    ],
)
def test_who_is_trusted(networks: tuple[str, ...], client: str, trusted: bool) -> None:
    proxy = Proxy(lambda *_: None, Settings(trusted_proxy=networks), lambda path: False)  # type: ignore[arg-type,return-value]
    scope: dict[str, Any] = {"client": (client, 1), "headers": [(b"x-forwarded-prefix", b"/sub")]}
    assert proxy._forwarded(scope) == ({b"prefix": "/sub"} if trusted else {})


def test_route_path() -> None:
    assert route_path({"path": "/sub/a", "root_path": "/sub"}) == "/a"
    assert route_path({"path": "/a"}) == "/a"
