"""The page's files are open; its cookie stands for a key, on this host's own pages alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace

import httpx
import pytest
import websockets.exceptions

from streambed.limits import VISIT_SECONDS
from streambed.server import playground
from streambed.server.keyring import Key, Quota
from streambed.server.playground import COOKIE, Visits
from streambed.settings import Settings
from tests.server.conftest import Live, Serve
from tests.server.test_socket import open_peer


@pytest.fixture
def keyed(serve: Serve) -> Live:
    return serve(Settings(drain=5.0), keys=("first-key", "second-key"))


@pytest.fixture
def browser(keyed: Live) -> Iterator[httpx.Client]:
    """A client that keeps cookies and has no key."""
    with httpx.Client(base_url=keyed.url, trust_env=False) as client:
        yield client


def enter(browser: httpx.Client, key: str = "first-key") -> httpx.Response:
    return browser.post("/playground/key", json={"api_key": key}, headers={"Origin": str(browser.base_url).rstrip("/")})


def test_the_files_are_open(browser: httpx.Client) -> None:
    reply = browser.get("/playground/")
    assert reply.status_code == 200
    assert reply.headers["content-type"].startswith("text/html")
    policy = reply.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    assert reply.headers["x-content-type-options"] == "nosniff"
    moved = browser.get("/playground")
    assert (moved.status_code, moved.headers["location"]) == (308, "/playground/")


@pytest.mark.parametrize("path", ["/playground/../guard.py", "/playground/%2e%2e/guard.py", "/playground/none.js"])
def test_nothing_else_is(browser: httpx.Client, path: str) -> None:
    reply = browser.request("GET", httpx.URL(str(browser.base_url) + path))
    assert reply.status_code in (401, 404)
    assert b"import" not in reply.content


def test_cookies_of_other_programs_do_not_hide_the_visit(browser: httpx.Client) -> None:
    """All ports of a host share them, and some hold what no cookie should."""
    enter(browser)
    visit = browser.cookies[COOKIE]
    browser.cookies.clear()
    cookie = f'prefs={{"a":1,"b":[2]}}; {COOKIE}={visit}'
    assert browser.get("/info", headers={"Cookie": cookie}).status_code == 200


def test_who_brings_no_key_takes_no_place(serve: Serve) -> None:
    live = serve(Settings(drain=5.0, max_requests=1), keys=("first-key",))
    head = "POST /playground/{} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n"
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            connection = stack.enter_context(live.connect())
            connection.sendall(head.format("key", 100).encode())
        reply = live.raw(head.format("whatever", 100).encode().replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert b" 401 " in reply.split(b"\r\n")[0]
        reply = live.raw(head.format("key", 1 << 20).encode())
        assert b" 413 " in reply.split(b"\r\n")[0]
        assert live.post("a", headers={"Authorization": "Bearer first-key"}).status_code == 200


def test_a_key_becomes_a_cookie(keyed: Live, browser: httpx.Client) -> None:
    assert browser.get("/info").status_code == 401
    reply = enter(browser)
    assert (reply.status_code, reply.content) == (204, b"")
    header = reply.headers["set-cookie"].lower()
    for part in ("httponly", "samesite=strict", "path=/", "max-age="):
        assert part in header
    assert "first-key" not in header
    assert browser.get("/info").status_code == 200
    assert browser.get("/info", headers={"Sec-Fetch-Site": "same-origin"}).status_code == 200
    body = {"model": keyed.model, "input": "a"}
    origin = {"Origin": keyed.url}
    assert browser.post("/v1/embeddings", json=body, headers=origin).status_code == 200
    session = browser.post("/v1/sessions", json={"text": "mine"}, headers=origin).json()["session"]
    listed = keyed.client.get("/v1/sessions", headers={"Authorization": "Bearer first-key"}).json()["data"]
    assert [each["session"] for each in listed] == [session], "it is the key's own"
    cookie = {"Cookie": f"{COOKIE}={browser.cookies[COOKIE]}", "Origin": keyed.url}
    with open_peer(keyed, additional_headers=cookie) as peer:
        peer.create(text="a brook")
    left = browser.delete("/playground/key", headers=origin)
    assert left.status_code == 204
    assert browser.get("/info", headers={"Cookie": cookie["Cookie"]}).status_code == 401


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "cross-site"}, 401),
        ({"Sec-Fetch-Site": "same-site"}, 401),
        ({"Sec-Fetch-Site": "none"}, 401),
        ({"Origin": "https://a.example"}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": "Bearer second-key"}, 200),
    ],
)
def test_other_pages_have_nothing_of_it(browser: httpx.Client, headers: dict[str, str], status: int) -> None:
    enter(browser)
    assert browser.get("/info", headers=headers).status_code == status


def test_other_pages_open_no_stream(keyed: Live, browser: httpx.Client) -> None:
    enter(browser)
    cookie = {"Cookie": f"{COOKIE}={browser.cookies[COOKIE]}", "Origin": "https://a.example"}
    with (
        pytest.raises(websockets.exceptions.InvalidStatus) as refused,
        open_peer(keyed, additional_headers=cookie),
    ):
        pass
    assert refused.value.response.status_code in (401, 403)
    assert (
        browser.post("/playground/key", json={"api_key": "x"}, headers={"Origin": "https://a.example"}).status_code
        == 403
    )


@pytest.mark.parametrize(
    "cookie", ["", "streambed", "streambed=", "streambed=x; a=b", "a=b; ;;=", '"', "streambed=\xff"]
)
def test_other_cookies(browser: httpx.Client, cookie: str) -> None:
    assert browser.get("/info", headers={"Cookie": cookie.encode("latin-1")}).status_code == 401  # type: ignore[dict-item]


@pytest.mark.parametrize("body", [{"api_key": "wrong"}, {"api_key": ""}, {"api_key": "first-key2"}])
def test_a_wrong_key(browser: httpx.Client, body: dict[str, str]) -> None:
    reply = browser.post("/playground/key", json=body)
    assert (reply.status_code, reply.json()["error"]["code"]) == (401, "unauthorized")
    assert "set-cookie" not in reply.headers


@pytest.mark.parametrize("body", [{}, {"api_key": 1}, {"api_key": "a", "more": 1}, {"api_key": "a" * 5000}, []])
def test_a_wrong_body(browser: httpx.Client, body: object) -> None:
    assert browser.post("/playground/key", json=body).status_code == 400


def test_without_keys_none_is_needed(live: Live) -> None:
    assert live.client.get("/playground/").status_code == 200
    assert live.client.post("/playground/key", json={"api_key": "any"}).status_code == 204
    live.client.cookies.clear()


def test_visits_end(monkeypatch: pytest.MonkeyPatch) -> None:
    visits, now = Visits(), [0.0]
    monkeypatch.setattr(playground, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(playground, "MAX_VISITS", 2)
    a, b, c = (Key(name.encode(), name, name, Quota()) for name in "abc")
    first, second = (f"{COOKIE}={visits.open(key)}" for key in (a, b))
    assert (visits.key(first), visits.key(second)) == (a, b)
    visits.key(first)
    third = f"{COOKIE}={visits.open(c)}"
    assert [visits.key(each) for each in (first, second, third)] == [a, None, c], "the longest unused goes first"
    now[0] = VISIT_SECONDS
    assert [visits.key(each) for each in (first, third)] == [None, None]
