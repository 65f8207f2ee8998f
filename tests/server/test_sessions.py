"""`/v1/sessions`: the same streams over plain HTTP."""

from __future__ import annotations

import base64
import json
import threading
import time
from typing import Any

import httpx
import numpy as np
import pytest

import streambed.server.sessions as sessions_module
from streambed.settings import Settings
from tests.server.conftest import Live, Serve, until
from tests.server.test_socket import check_error as check_event
from tests.server.test_socket import cosine, idle, open_peer, posted, sockets_of


class Sessions:
    """A client of one session over HTTP."""

    def __init__(self, live: Live, headers: dict[str, str] | None = None, **options: Any) -> None:
        self.live, self.headers = live, headers or {}
        reply = live.client.post("/v1/sessions", json=options, headers=self.headers)
        assert reply.status_code == 201, reply.text
        self.created: dict[str, Any] = reply.json()
        self.id: str = self.created["session"]
        self.path = f"/v1/sessions/{self.id}"

    def append(self, text: str, **fields: Any) -> httpx.Response:
        return self._send("POST", "/append", {"text": text} | fields)

    def set(self, text: str, **fields: Any) -> httpx.Response:
        return self._send("PUT", "/text", {"text": text} | fields)

    def embedding(self, **fields: Any) -> httpx.Response:
        return self._send("POST", "/embedding", fields)

    def get(self) -> httpx.Response:
        return self.live.client.get(self.path, headers=self.headers)

    def delete(self) -> httpx.Response:
        return self.live.client.delete(self.path, headers=self.headers)

    def _send(self, method: str, path: str, fields: dict[str, Any]) -> httpx.Response:
        return self.live.client.request(method, self.path + path, json=fields, headers=self.headers)


def check_error(reply: httpx.Response, status: int, code: str, param: str | None = None, **fields: Any) -> None:
    assert reply.status_code == status, reply.text
    body = reply.json()
    assert list(body["error"]) == ["message", "type", "param", "code"]
    assert (body["error"]["code"], body["error"]["param"]) == (code, param)
    assert {name: body[name] for name in set(body) - {"error"}} == fields


def vector(reply: httpx.Response) -> np.ndarray:
    assert reply.status_code == 200, reply.text
    value = reply.json()["embedding"]
    return np.frombuffer(base64.b64decode(value), "<f4") if isinstance(value, str) else np.array(value)


# A life


def test_life(live: Live) -> None:
    session = Sessions(live, text="a brook", instruction="find")
    created = session.created
    assert created["type"] == "session.created"
    assert (created["revision"], created["offset"], created["kv"]) == (0, 7, "cold")
    assert created["fingerprint"] == live.engine.info.fingerprint
    assert {"resume_token", "credit", "limits", "dimensions", "expires_in_s"} <= set(created)
    ack = session.append(" runs")
    assert ack.status_code == 200
    tokens = len(live.engine.tokenizer.encode("Instruct: find\nQuery:a brook runs"))
    assert ack.json() == {
        "type": "input_text.ack",
        "session": session.id,
        "revision": 1,
        "offset": 12,
        "tokens": tokens,
        "credit": 64 << 10,
    }
    done = session.embedding()
    assert cosine(vector(done), posted(live, "a brook runs", instruction="find")) >= 0.99999
    body = done.json()
    assert (body["type"], body["revision"], body["offset"]) == ("embedding.done", 1, 12)
    assert body["usage"]["prompt_tokens"] == tokens + 1
    state = session.get().json()
    assert 0 < state.pop("expires_in_s") <= live.settings.session_ttl
    assert state == {
        "session": session.id,
        "object": "session",
        "revision": 1,
        "offset": 12,
        "kv": "warm",
        "attached": False,
    }
    live.engine.evict()
    assert session.get().json()["kv"] == "cold"
    assert cosine(vector(session.embedding()), posted(live, "a brook runs", instruction="find")) >= 0.99999
    closed = session.delete()
    assert (closed.status_code, closed.json()) == (
        200,
        {"type": "session.closed", "session": session.id, "reason": "closed"},
    )
    for reply in (session.get(), session.append("x"), session.set("x"), session.embedding(), session.delete()):
        check_error(reply, 404, "not_found", "session")


def test_create_without_a_body(live: Live) -> None:
    reply = live.client.post("/v1/sessions")
    assert reply.status_code == 201
    assert reply.json()["offset"] == 0
    assert live.client.delete(f"/v1/sessions/{reply.json()['session']}").status_code == 200


@pytest.mark.parametrize("piece", [1, 7, 1000])
@pytest.mark.parametrize(
    "text", ["The brook doesn't stop. 3.14!\n\n", "小溪流向大海。它从不停歇", "🌊👩‍👩‍👧 e\u0301 ลำธารไหล"]
)
def test_embedding_is_that_of_the_text(live: Live, text: str, piece: int) -> None:
    session, sent = Sessions(live), ""
    for start in range(0, len(text), piece):
        sent += text[start : start + piece]
        assert session.append(text[start : start + piece], offset=start).json()["offset"] == len(sent)
    done = session.embedding()
    assert done.json()["revision"] == -(-len(text) // piece)
    assert cosine(vector(done), posted(live, text)) >= 0.99999


@pytest.mark.parametrize(
    "options", [{"dimensions": 32}, {"dimensions": 33, "input_type": "query"}, {"prompt_name": "code"}]
)
def test_options(live: Live, options: dict[str, Any]) -> None:
    session = Sessions(live, text="a brook 🌊", encoding_format="base64", offset_unit="utf16", **options)
    assert session.created["offset"] == 10
    assert session.append("!", offset=10).json()["offset"] == 11
    done = session.embedding()
    assert isinstance(done.json()["embedding"], str)
    assert cosine(vector(done), posted(live, "a brook 🌊!", **options)) >= 0.99999


# Exactly once


def test_append_by_offset(live: Live) -> None:
    session = Sessions(live)
    assert session.append("abc", offset=0).json()["revision"] == 1
    again = session.append("abc", offset=0)
    assert (again.status_code, again.json()["revision"], again.json()["offset"]) == (200, 1, 3)
    overlap = session.append("bcde", offset=1)
    assert (overlap.status_code, overlap.json()["revision"], overlap.json()["offset"]) == (200, 2, 5)
    check_error(session.append("x", offset=4), 409, "offset_conflict", "offset", expected_offset=5, revision=2)
    check_error(session.append("x", offset=6), 409, "offset_gap", "offset", expected_offset=5, revision=2)
    assert session.get().json()["offset"] == 5, "an error applies nothing"
    assert session.append("f", offset=5).json()["offset"] == 6
    assert cosine(vector(session.embedding()), posted(live, "abcdef")) >= 0.99999


def test_base_revision(live: Live) -> None:
    session = Sessions(live)
    assert session.append("a", base_revision=0).json()["revision"] == 1
    assert session.append("b", base_revision=1).json()["revision"] == 2
    for base, text in ((0, "a"), (1, "b"), (0, "a")):
        assert session.append(text, base_revision=base).json()["revision"] == 2
    check_error(session.append("x", base_revision=0), 409, "revision_conflict", "base_revision", revision=2)
    check_error(session.set("a", base_revision=0), 409, "revision_conflict", "base_revision", revision=2)
    check_error(session.append("x", base_revision=3), 409, "revision_gap", "base_revision", revision=2)
    check_error(
        session.append("x", base_revision=2, offset=1), 409, "offset_conflict", "offset", expected_offset=2, revision=2
    )
    assert session.append("c", base_revision=2, offset=2).json()["offset"] == 3


def test_set_is_idempotent(live: Live) -> None:
    """Sent again it changes nothing of the text; with base_revision, not even the revision."""
    session = Sessions(live, text="a brook runs")
    for _ in range(3):
        ack = session.set("a brook sleeps", base_revision=0)
        assert (ack.json()["revision"], ack.json()["offset"]) == (1, 14)
    before = vector(session.embedding())
    for _ in range(2):
        assert session.set("a brook sleeps").json()["offset"] == 14
    done = session.embedding()
    assert done.json()["usage"]["computed_tokens"] == 1, "what it begins alike is not computed again"
    assert cosine(before, vector(done)) >= 0.99999
    assert cosine(vector(done), posted(live, "a brook sleeps")) >= 0.99999


def test_changes_at_the_same_time_apply_one_after_another(live: Live) -> None:
    session = Sessions(live)
    replies: list[httpx.Response] = []

    def append(number: int) -> None:
        with httpx.Client(base_url=live.url, trust_env=False, timeout=60) as client:
            replies.append(client.post(session.path + "/append", json={"text": f" {number}"}))

    threads = [threading.Thread(target=append, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(reply.json()["revision"] for reply in replies) == list(range(1, 13))
    state = session.get().json()
    assert (state["revision"], state["offset"]) == (12, 10 * 2 + 2 * 3)


# Refusals


@pytest.mark.parametrize(
    ("method", "path", "content", "status", "param"),
    [
        ("POST", "/append", b"", 400, "text"),
        ("POST", "/append", b"{}", 400, "text"),
        ("POST", "/append", b"{", 400, None),
        ("POST", "/append", b"[]", 400, None),
        ("POST", "/append", b'{"text": 5}', 400, "text"),
        ("POST", "/append", b'{"text": null}', 400, "text"),
        ("POST", "/append", b'{"text": "\\ud800"}', 400, None),
        ("POST", "/append", b'{"text": "\xff"}', 400, None),
        ("POST", "/append", b'{"text": "a", "offset": -1}', 400, "offset"),
        ("POST", "/append", b'{"text": "a", "offset": 0.5}', 400, "offset"),
        ("POST", "/append", b'{"text": "a", "base_revision": true}', 400, "base_revision"),
        ("POST", "/append", b'{"text": "a", "session": "s"}', 400, "session"),
        ("POST", "/append", b'{"text": "a", "event_id": "s"}', 400, "event_id"),
        ("PUT", "/text", b"", 400, "text"),
        ("PUT", "/text", b'{"text": "a", "offset": 0}', 400, "offset"),
        ("POST", "/embedding", b"", 400, None),
        ("POST", "/embedding", b'{"timeout_ms": 0}', 400, "timeout_ms"),
        ("POST", "/embedding", b'{"timeout_ms": "5"}', 400, "timeout_ms"),
        ("POST", "/embedding", b'{"model": "tiny"}', 400, "model"),
        ("PUT", "/append", b'{"text": "a"}', 405, None),
        ("POST", "/text", b'{"text": "a"}', 405, None),
        ("POST", "/nope", b"{}", 404, None),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_requests(live: Live, method: str, path: str, content: bytes, status: int, param: str | None) -> None:
    session = Sessions(live)
    headers = {"Content-Type": "application/json"}
    reply = live.client.request(method, session.path + path, content=content, headers=headers)
    assert reply.status_code == status, reply.text
    assert reply.json()["error"]["param"] == param
    ack = session.append("a").json()
    assert (ack["type"], ack["revision"], ack["offset"]) == ("input_text.ack", 1, 1)


@pytest.mark.parametrize(
    ("options", "status", "param"),
    [
        ({"dimensions": 31}, 400, "dimensions"),
        ({"emit": {"on": "x"}}, 400, "emit.on"),
        ({"instruction": "a", "prompt_name": "code"}, 400, None),
        ({"prompt_name": "nope"}, 400, "prompt_name"),
        ({"watch": [{"id": "w", "threshold": 1}]}, 400, "watch[0]"),
        ({"text": "word " * 600}, 413, None),
        ({"text": "x" * (512 * 32 + 1)}, 413, "text"),
        ({"colour": 1}, 400, "colour"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_options(live: Live, options: dict[str, Any], status: int, param: str | None) -> None:
    before = len(sockets_of(live)._registry)
    reply = live.client.post("/v1/sessions", json=options)
    assert reply.status_code == status, reply.text
    if param is not None:
        assert reply.json()["error"]["param"] == param
    assert len(sockets_of(live)._registry) == before


def test_body_of_a_session_is_bounded(serve: Serve) -> None:
    live = serve()
    session = Sessions(live)
    frame = json.dumps({"text": "a"}).encode()
    for method, path in (("POST", "/v1/sessions"), ("POST", session.path + "/append"), ("PUT", session.path + "/text")):
        headers = {"Content-Type": "application/json"}
        content = frame + b" " * ((2 << 20) + 1 - len(frame))
        check_error(live.client.request(method, path, content=content, headers=headers), 413, "too_large")
        assert live.client.request(method, path, content=content[:-1], headers=headers).status_code in (200, 201)


def test_too_much_text(live: Live) -> None:
    session = Sessions(live, text="word " * 500)
    reply = session.append("word " * 20)
    assert (reply.status_code, reply.json()["error"]["code"], reply.json()["revision"]) == (413, "too_large", 0)
    reply = session.set("x" * (512 * 32 + 1))
    check_error(reply, 413, "too_large", "text", revision=0)
    assert cosine(vector(session.embedding()), posted(live, "word " * 500)) >= 0.99999


@pytest.fixture
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that stands still is not waited for."""
    monkeypatch.setattr(sessions_module, "GRACE_SECONDS", 0.1)


@pytest.mark.usefixtures("short_grace")
def test_timeout(live: Live) -> None:
    session = Sessions(live, text="a brook")
    with idle(live.engine):
        check_error(session.embedding(timeout_ms=30), 504, "deadline")
    assert session.embedding(timeout_ms=60_000).status_code == 200


@pytest.mark.usefixtures("short_grace")
def test_timeout_of_the_server(serve: Serve) -> None:
    live = serve(Settings(timeout=0.03))
    session = Sessions(live, text="a brook")
    with idle(live.engine):
        check_error(session.embedding(), 504, "deadline")
    assert session.embedding(timeout_ms=60_000).status_code == 200, "a request may ask for more"


@pytest.mark.usefixtures("short_grace")
def test_what_timed_out_is_not_computed(live: Live) -> None:
    """R3: past its `timeout_ms`, 504 without computing."""
    session = Sessions(live, text="a brook")
    session.embedding()
    until(lambda: live.engine.stats().waiting == 0)
    rows = live.engine.stats().rows
    with idle(live.engine):
        for _ in range(5):
            check_error(session.embedding(timeout_ms=20), 504, "deadline")
    until(lambda: live.engine.stats().waiting == 0)
    assert live.engine.stats().rows == rows


# Owners and limits


def test_sessions_of_another_key(serve: Serve) -> None:
    live = serve(keys=("alpha", "beta"))
    alpha, beta = ({"Authorization": f"Bearer {key}"} for key in ("alpha", "beta"))
    mine, theirs = Sessions(live, alpha, text="a"), Sessions(live, beta, text="b")
    foreign = Sessions.__new__(Sessions)
    foreign.live, foreign.headers, foreign.id, foreign.path = live, beta, mine.id, mine.path
    for reply in (foreign.get(), foreign.append("x"), foreign.set("x"), foreign.embedding(), foreign.delete()):
        check_error(reply, 404, "not_found", "session")
    for session in (mine, theirs):
        until(lambda: session.get().json()["kv"] == "warm")  # noqa: B023 - called at once
        listed = live.client.get("/v1/sessions", headers=session.headers).json()
        assert listed["object"] == "list"
        assert [one["session"] for one in listed["data"]] == [session.id]
        assert listed["data"] == [session.get().json() | {"expires_in_s": listed["data"][0]["expires_in_s"]}]
        assert "resume_token" not in listed["data"][0]
    assert mine.get().json()["offset"] == 1
    assert live.client.get("/v1/sessions", headers={"Authorization": "Bearer x"}).status_code == 401


def test_listing(live: Live, serve: Serve) -> None:
    live = serve()
    assert live.client.get("/v1/sessions").json() == {"object": "list", "data": []}
    sessions = [Sessions(live, text="a" * number) for number in range(1, 4)]
    data = live.client.get("/v1/sessions").json()["data"]
    assert [(one["session"], one["offset"]) for one in data] == [
        (session.id, number) for number, session in enumerate(sessions, 1)
    ]
    sessions[1].delete()
    assert [one["session"] for one in live.client.get("/v1/sessions").json()["data"]] == [
        sessions[0].id,
        sessions[2].id,
    ]


def test_too_many_sessions(serve: Serve) -> None:
    live = serve(Settings(max_sessions=2), keys=("alpha", "beta"))
    sessions = [Sessions(live) for _ in range(2)]
    refused = live.client.post("/v1/sessions", json={})
    check_error(refused, 429, "overloaded")
    assert int(refused.headers["Retry-After"]) >= 1
    Sessions(live, {"Authorization": "Bearer beta"})
    sessions[0].delete()
    Sessions(live)
    assert live.client.post("/v1/sessions", json={}).status_code == 429


@pytest.mark.parametrize("path", ["ses_none", "..%2fsessions", "%00", "x" * 5000, "ses_none/append", "é"])
def test_no_such_session(live: Live, path: str) -> None:
    for method in ("GET", "DELETE", "POST"):
        reply = live.client.request(method, f"/v1/sessions/{path}", json={"text": "a"} if method == "POST" else None)
        assert reply.status_code in (404, 405), (method, reply.text)
        assert reply.json()["error"]["code"] in ("not_found", "invalid_request")


# With sockets


def test_socket_hears_of_changes_over_http(live: Live) -> None:
    session = Sessions(live, text="a brook")
    with open_peer(live) as peer:
        resumed = peer.ask("session.resume", session=session.id, resume_token=session.created["resume_token"])
        assert resumed["type"] == "session.resumed"
        assert session.get().json()["attached"]
        assert session.append(" runs").json()["revision"] == 1
        ack = peer.next()
        assert (ack["type"], ack["session"], ack["revision"], ack["offset"]) == ("input_text.ack", session.id, 1, 12)
        assert "event_id" not in ack
        done = session.embedding()
        assert cosine(vector(done), posted(live, "a brook runs")) >= 0.99999
        peer.quiet()
        updated = peer.ask("session.update", session=session.id, emit={"on": "append"})
        assert updated["type"] == "session.updated"
        peer.until("embedding.done", revision=1)
        assert session.set("a river").json()["revision"] == 2
        emitted = peer.until("embedding.done", revision=2)
        assert cosine(np.array(emitted["embedding"]), posted(live, "a river")) >= 0.99999
        peer.ask("input_text.append", session=session.id, text="!")
        assert session.get().json()["revision"] == 3
    until(lambda: not session.get().json()["attached"])


def test_delete_while_a_socket_holds_it(live: Live) -> None:
    with open_peer(live) as peer:
        session = peer.create(text="a")["session"]
        assert live.client.delete(f"/v1/sessions/{session}").json()["reason"] == "closed"
        assert peer.next() == {"type": "session.closed", "session": session, "reason": "closed"}
        check_event(peer.ask("input_text.append", session=session, text="x"), "not_found", "session")
        peer.quiet()


def test_delete_answers_who_waits(live: Live) -> None:
    session = Sessions(live, text="a brook")
    replies: list[httpx.Response] = []
    with idle(live.engine), httpx.Client(base_url=live.url, trust_env=False, timeout=60) as client:
        request = threading.Thread(target=lambda: replies.append(client.post(session.path + "/embedding", json={})))
        before = live.engine.stats().waiting
        request.start()
        until(lambda: live.engine.stats().waiting > before)
        assert session.delete().status_code == 200
        request.join(20)
    assert replies[0].status_code == 404
    assert replies[0].json()["error"]["code"] == "not_found"


def test_close_by_a_socket(live: Live) -> None:
    session = Sessions(live, text="a")
    with open_peer(live) as peer:
        peer.ask("session.resume", session=session.id, resume_token=session.created["resume_token"])
        assert peer.ask("session.close", session=session.id)["type"] == "session.closed"
    check_error(session.get(), 404, "not_found", "session")


# Time to live


def test_time_to_live(serve: Serve) -> None:
    live = serve(Settings(session_ttl=0.2))
    session = Sessions(live, text="a")
    assert session.created["expires_in_s"] == 0.2
    until(lambda: session.get().status_code == 404)
    for reply in (session.append("x"), session.embedding(), session.delete()):
        check_error(reply, 404, "not_found", "session")
    until(lambda: len(sockets_of(live)._registry) == 0)
    assert live.client.get("/v1/sessions").json()["data"] == []


@pytest.mark.parametrize("request_", ["append", "set", "embedding"])
def test_requests_prolong_it(serve: Serve, request_: str) -> None:
    live = serve(Settings(session_ttl=1.0))
    session, idle_one = Sessions(live, text="a"), Sessions(live, text="b")
    for _ in range(12):
        time.sleep(0.15)
        reply = getattr(session, request_)(*(["a"] if request_ != "embedding" else []))
        assert reply.status_code == 200, reply.text
    assert idle_one.get().status_code == 404
    assert session.get().status_code == 200


def test_a_socket_keeps_it(serve: Serve) -> None:
    live = serve(Settings(session_ttl=0.2))
    with open_peer(live) as peer:
        session = peer.create(text="a")["session"]
        time.sleep(0.6)
        state = live.client.get(f"/v1/sessions/{session}").json()
        assert (state["attached"], state["expires_in_s"]) == (True, 0.2)
        assert peer.ask("input_text.append", session=session, text="b")["offset"] == 2
    until(lambda: live.client.get(f"/v1/sessions/{session}").status_code == 404)
