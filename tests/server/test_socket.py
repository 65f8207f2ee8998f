"""`WebSocket /v1/embeddings`: every event of docs/protocol.md over real connections, exact whatever happens."""

from __future__ import annotations

import base64
import contextlib
import functools
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import websockets.exceptions
from fastapi import FastAPI
from fastapi.routing import APIWebSocketRoute
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.sync.client import ClientConnection, connect

from streambed import Engine
from streambed.engine.session import Session
from streambed.server.socket import Sockets
from streambed.settings import Settings
from streambed.streams import registry
from streambed.streams.limits import Limits
from streambed.wire import MAX_WATCHES
from tests.server.conftest import PROMPTS, Live, Serve, guard_of, until

QUIET = logging.Logger("client")
"""Of the client's library, which logs an error where a connection is cut while it works; the server's log is what counts."""
QUIET.addHandler(logging.NullHandler())
SECONDS = 20.0
"""How long an answer may take before a test calls it a hang."""
TEXTS = {
    "English": "The brook runs down to the sea. It doesn't stop, e.g. at 3.14 miles; it's a river by then!\n\tAnd on.",
    "Chinese": "小溪流向大海。它从不停歇，日夜奔流！春天的水是冷的；夏天，孩子们在溪边玩耍。这就是生活的样子。",
    "Thai": "ลำธารไหลลงสู่ทะเล มันไม่เคยหยุด ทั้งกลางวันและกลางคืน น้ำในฤดูใบไม้ผลิเย็นมาก",
    "code": "def brook(sea: int) -> int:\n    if sea <= 0:\n        return 0\n    return brook(sea - 1) + 0x1F\n\nclass A:",
    "emoji": "🌊👩‍👩‍👧 ok 🇩🇪🇯🇵 👍🏽 e\u0301 ﬁ <think> 🧑‍🚀🚀 <|endoftext|> é️⃣ 🌊",
}


class Peer:
    """A client's end of a WebSocket. What comes between the awaited events is kept in `seen`."""

    def __init__(self, ws: ClientConnection) -> None:
        self.ws = ws
        self.seen: list[dict[str, Any]] = []
        self._count = 0

    def send(self, type: str, **fields: Any) -> None:
        self.ws.send(json.dumps({"type": type} | fields))

    def next(self, seconds: float = SECONDS) -> dict[str, Any]:
        event: dict[str, Any] = json.loads(self.ws.recv(seconds))
        self.seen.append(event)
        return event

    def until(self, type: str, seconds: float = SECONDS, **fields: Any) -> dict[str, Any]:
        """Reads on to the first event of this type with these fields."""
        end = time.monotonic() + seconds
        while True:
            event = self.next(max(end - time.monotonic(), 0.001))
            if event["type"] == type and all(event.get(name) == value for name, value in fields.items()):
                return event

    def ask(self, type: str, **fields: Any) -> dict[str, Any]:
        """Sends an event and reads on to what answers it."""
        self._count += 1
        event_id = f"ask-{self._count}"
        self.send(type, event_id=event_id, **fields)
        while True:
            event = self.next()
            if event.get("event_id") == event_id:
                return event

    def sync(self) -> None:
        """Returns when everything that was sent has been taken in by the server."""
        assert self.ask("session.resume", session="none", resume_token="none")["type"] == "error"

    def quiet(self) -> None:
        """Asserts that everything was answered and nothing else comes (as far as the server has got)."""
        before = len(self.seen)
        self.sync()
        assert [event["type"] for event in self.seen[before:-1]] == []

    def create(self, **options: Any) -> dict[str, Any]:
        event = self.ask("session.create", **options)
        assert event["type"] == "session.created", event
        return event

    def closed(self) -> websockets.exceptions.ConnectionClosed:
        """Reads to the end of the connection."""
        end = time.monotonic() + SECONDS
        while True:
            try:
                self.next(max(end - time.monotonic(), 0.001))
            except websockets.exceptions.ConnectionClosed as closed:
                return closed

    def drop(self) -> None:
        """Cuts the connection without a word."""
        with contextlib.suppress(OSError):
            self.ws.socket.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def open_peer(live: Live, **more: Any) -> Iterator[Peer]:
    url = f"ws://127.0.0.1:{live.port}/v1/embeddings"
    options: dict[str, Any] = {"proxy": None, "ping_interval": None, "max_size": None, "logger": QUIET} | more
    with connect(url, **options) as ws:
        yield Peer(ws)


@pytest.fixture
def peer(live: Live) -> Iterator[Peer]:
    with open_peer(live) as peer:
        yield peer


def sockets_of(live: Live) -> Sockets:
    route = next(route for route in guard_of(live, FastAPI).routes if isinstance(route, APIWebSocketRoute))
    sockets = route.endpoint.__self__  # type: ignore[attr-defined]
    assert isinstance(sockets, Sockets)
    return sockets


@contextlib.contextmanager
def idle(engine: Engine) -> Iterator[None]:
    """The engine computes nothing meanwhile."""
    there, go = threading.Event(), threading.Event()

    def wait() -> None:
        there.set()
        go.wait(60)

    thread = threading.Thread(target=engine.compute._call, args=(wait,))
    thread.start()
    try:
        assert there.wait(SECONDS)
        yield
    finally:
        go.set()
        thread.join()


class Holder:
    """Holds up each change that has `HOLD` in it, in the thread that applies it."""

    def __init__(self) -> None:
        self.holding = threading.Event()
        self.go = threading.Event()


def settle() -> None:
    """Gives the server time to take in what was sent where nothing tells when it has. Too little makes a test weaker,
    never wrong."""
    time.sleep(0.1)


HOLD = "hold"
HEAVY = HOLD + " international" * 300
"""Long enough to be applied in a thread, few tokens."""


@pytest.fixture
def holder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Holder]:
    holder, replace = Holder(), Session.replace

    def held(self: Session, start: int, end: int, text: str) -> int:
        if HOLD in text:
            holder.holding.set()
            holder.go.wait(60)
        return replace(self, start, end, text)

    monkeypatch.setattr(Session, "replace", held)
    yield holder
    holder.go.set()


def hold(peer: Peer, session: str, holder: Holder, **more: Any) -> None:
    """Has a stream busy with a change until the holder lets it go."""
    holder.holding.clear()
    peer.send("input_text.append", session=session, text=HEAVY, **more)
    assert holder.holding.wait(SECONDS)


def vector(event: dict[str, Any]) -> np.ndarray:
    assert event["type"] == "embedding.done", event
    value = event["embedding"]
    found = np.frombuffer(base64.b64decode(value), "<f4") if isinstance(value, str) else np.array(value)
    assert abs(np.linalg.norm(found.astype(np.float64)) - 1) < 1e-5
    return found


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def posted(live: Live, text: str, **fields: Any) -> np.ndarray:
    """The vector by `POST /v1/embeddings`."""
    reply = live.post(text, **fields)
    assert reply.status_code == 200, reply.text
    return np.array(reply.json()["data"][0]["embedding"])


def check_vector(live: Live, event: dict[str, Any], text: str, **fields: Any) -> None:
    assert cosine(vector(event), posted(live, text, **fields)) >= 0.99999


def check_error(event: dict[str, Any], code: str, param: str | None = None, **fields: Any) -> None:
    assert event["type"] == "error", event
    assert list(event["error"]) == ["message", "type", "param", "code"]
    assert (event["error"]["code"], event["error"]["param"]) == (code, param), event
    assert {name: event.get(name) for name in fields} == fields


# Creation


def test_create_by_default(peer: Peer, live: Live) -> None:
    created = peer.ask("session.create")
    info = live.engine.info
    assert set(created) == {
        *("type", "session", "event_id", "resume_token", "revision", "offset", "kv", "credit", "limits"),
        *("dimensions", "overflow", "fingerprint", "expires_in_s"),
    }
    assert created["type"] == "session.created"
    assert (created["revision"], created["offset"], created["kv"]) == (0, 0, "cold")
    assert created["dimensions"] == info.dimensions
    assert created["fingerprint"] == info.fingerprint
    assert created["expires_in_s"] == live.settings.session_ttl
    assert created["credit"] == 64 << 10
    assert created["limits"] == {
        "max_characters": info.max_tokens * 32,
        "max_tokens": info.max_tokens - 1,
        "max_pending": 64,
        "max_unacknowledged": 1024,
        "max_frame_bytes": 1 << 20,
    }
    assert len(created["resume_token"]) >= 32
    other = peer.create()
    assert other["session"] != created["session"]
    assert other["resume_token"] != created["resume_token"]


def test_create_without_event_id(peer: Peer) -> None:
    peer.send("session.create")
    assert "event_id" not in peer.next()


def test_create_with_all_options(peer: Peer, live: Live) -> None:
    text = "def brook(): 🌊"
    created = peer.create(
        instruction="find code",
        input_type=None,
        prompt_name=None,
        dimensions=32,
        encoding_format="base64",
        emit={"on": "manual", "min_interval_ms": 0, "pause_ms": 10, "drift": 0.5},
        watch=[{"id": "w", "text": "a brook", "threshold": 0.99}],
        offset_unit="utf16",
        text=text,
    )
    assert (created["revision"], created["offset"], created["dimensions"]) == (0, len(text) + 1, 32)
    done = peer.ask("embedding.create", session=created["session"])
    assert isinstance(done["embedding"], str)
    assert (done["revision"], done["offset"]) == (0, len(text) + 1)
    assert len(vector(done)) == 32
    check_vector(live, done, text, instruction="find code", dimensions=32)
    tokens = len(live.engine.tokenizer.encode(f"Instruct: find code\nQuery:{text}"))
    assert done["usage"]["prompt_tokens"] == tokens + 1


@pytest.mark.parametrize(
    "options", [{}, {"input_type": "query"}, {"input_type": "document"}, {"prompt_name": "code"}, {"instruction": ""}]
)
def test_prompts(peer: Peer, live: Live, options: dict[str, Any]) -> None:
    session = peer.create(text="a bro", **options)["session"]
    peer.send("input_text.append", session=session, text="ok")
    done = peer.ask("embedding.create", session=session)
    check_vector(live, done, "a brook", **options)
    name = options.get("prompt_name", options.get("input_type"))
    if name in PROMPTS:
        assert cosine(vector(done), live.engine.embed([PROMPTS[name] + "a brook"])[0]) >= 0.99999


@pytest.mark.parametrize(
    ("options", "code", "param"),
    [
        ({"dimensions": 31}, "invalid_request", "dimensions"),
        ({"dimensions": 65}, "invalid_request", "dimensions"),
        ({"dimensions": "64"}, "invalid_request", "dimensions"),
        ({"dimensions": True}, "invalid_request", "dimensions"),
        ({"encoding_format": "hex"}, "invalid_request", "encoding_format"),
        ({"offset_unit": "grapheme"}, "invalid_request", "offset_unit"),
        ({"emit": {"on": "always"}}, "invalid_request", "emit.on"),
        ({"emit": {"on": "append", "every": 5}}, "invalid_request", "emit.every"),
        ({"emit": {"pause_ms": 0}}, "invalid_request", "emit.pause_ms"),
        ({"emit": {"drift": 0}}, "invalid_request", "emit.drift"),
        ({"emit": {"pause_ms": 300.5}}, "invalid_request", "emit.pause_ms"),
        ({"watch": [None]}, "invalid_request", "watch[0]"),
        ({"instruction": "a", "input_type": "query"}, "invalid_request", None),
        ({"prompt_name": "nope"}, "invalid_request", "prompt_name"),
        ({"text": 5}, "invalid_request", "text"),
        ({"text": "word " * 600}, "too_large", None),
        ({"text": "x" * (512 * 32 + 1)}, "too_large", "text"),
        ({"watch": [{"id": "w", "threshold": 0.5}]}, "invalid_request", "watch[0]"),
        ({"watch": [{"id": "w", "text": "a", "embedding": [1.0] * 64, "threshold": 1}]}, "invalid_request", "watch[0]"),
        ({"watch": [{"id": "w", "embedding": [1.0] * 63, "threshold": 1}]}, "invalid_request", "watch[0].embedding"),
        ({"watch": [{"id": "w", "embedding": [0.0] * 64, "threshold": 1}]}, "invalid_request", "watch[0].embedding"),
        ({"watch": [{"id": "w", "text": "a", "threshold": 0.5}] * 2}, "invalid_request", "watch[1].id"),
        ({"watch": [{"id": "w", "text": "a", "threshold": 1.5}]}, "invalid_request", "watch[0].threshold"),
        ({"watch": [{"id": "", "text": "a", "threshold": 0.5}]}, "invalid_request", "watch[0].id"),
        ({"watch": [{"id": str(n), "text": "a", "threshold": 0.5} for n in range(65)]}, "invalid_request", "watch"),
        ({"colour": "blue"}, "invalid_request", "colour"),
        ({"session": "mine"}, "invalid_request", "session"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_options(peer: Peer, live: Live, options: dict[str, Any], code: str, param: str | None) -> None:
    sessions = live.engine.stats().sessions
    answer = peer.ask("session.create", **options)
    assert answer["type"] == "error", answer
    assert answer["error"]["code"] == code
    if param is not None:
        assert answer["error"]["param"] == param
    assert live.engine.stats().sessions == sessions, "nothing is left of it"
    peer.create()


# Changes


def test_append_replace_set(peer: Peer, live: Live) -> None:
    session = peer.create()["session"]
    steps = [
        ("input_text.append", {"text": "A brook runs to"}, "A brook runs to"),
        ("input_text.append", {"text": " the sea", "offset": 15}, "A brook runs to the sea"),
        ("input_text.append", {"text": ".", "base_revision": 2}, "A brook runs to the sea."),
        ("input_text.replace", {"start": 2, "end": 7, "text": "river"}, "A river runs to the sea."),
        ("input_text.replace", {"start": 0, "end": 2, "text": "", "base_revision": 4}, "river runs to the sea."),
        ("input_text.replace", {"start": 22, "end": 22, "text": " 海"}, "river runs to the sea. 海"),
        ("input_text.replace", {"start": 0, "end": 0, "text": "🌊"}, "🌊river runs to the sea. 海"),
        ("input_text.set", {"text": "🌊river walks"}, "🌊river walks"),
        ("input_text.set", {"text": ""}, ""),
        ("input_text.set", {"text": "again", "base_revision": 9}, "again"),
        ("input_text.append", {"text": ""}, "again"),
    ]
    for revision, (type, fields, text) in enumerate(steps, 1):
        ack = peer.ask(type, session=session, **fields)
        assert ack == {
            "type": "input_text.ack",
            "session": session,
            "event_id": ack["event_id"],
            "revision": revision,
            "offset": len(text),
            "tokens": len(live.engine.tokenizer.encode(text)),
            "credit": 64 << 10,
        }
        answer = peer.ask("embedding.create", session=session)
        if text:
            assert (answer["revision"], answer["offset"]) == (revision, len(text))
            check_vector(live, answer, text)
        else:
            check_error(answer, "invalid_request", session=session)


def test_acks_are_cumulative(peer: Peer) -> None:
    session = peer.create()["session"]
    for number in range(200):
        peer.send("input_text.append", session=session, text="a ", event_id=str(number))
    last = peer.until("input_text.ack", revision=200)
    assert (last["offset"], last["event_id"]) == (400, "199")
    acks = [event for event in peer.seen if event["type"] == "input_text.ack"]
    revisions = [ack["revision"] for ack in acks]
    assert revisions == sorted(set(revisions))
    assert all(ack["offset"] == 2 * ack["revision"] and ack["event_id"] == str(ack["revision"] - 1) for ack in acks)


def test_changes_apply_once(peer: Peer) -> None:
    session = peer.create(text="0")["session"]
    for number in range(1, 4):
        peer.ask("input_text.append", session=session, text=str(number), base_revision=number - 1)
    again = peer.ask("input_text.append", session=session, text="2", base_revision=1)
    assert (again["type"], again["revision"], again["offset"]) == ("input_text.ack", 3, 4)
    other = peer.ask("input_text.append", session=session, text="x", base_revision=1)
    check_error(other, "revision_conflict", "base_revision", session=session, revision=3)
    kind = peer.ask("input_text.set", session=session, text="2", base_revision=1)
    check_error(kind, "revision_conflict", "base_revision", revision=3)
    gap = peer.ask("input_text.append", session=session, text="x", base_revision=4)
    check_error(gap, "revision_gap", "base_revision", revision=3)
    assert peer.ask("input_text.append", session=session, text="", offset=4)["offset"] == 4, "nothing was applied"


def test_appends_by_offset(peer: Peer) -> None:
    session = peer.create(text="abc")["session"]
    steps: list[tuple[int, str, int]] = [(3, "def", 6), (3, "def", 6), (0, "ab", 6), (4, "efgh", 8), (8, "i", 9)]
    for offset, text, after in steps:
        ack = peer.ask("input_text.append", session=session, text=text, offset=offset)
        assert (ack["type"], ack["offset"]) == ("input_text.ack", after)
    conflict = peer.ask("input_text.append", session=session, text="XYZ", offset=3)
    check_error(conflict, "offset_conflict", "offset", session=session, expected_offset=9)
    gap = peer.ask("input_text.append", session=session, text="k", offset=10)
    check_error(gap, "offset_gap", "offset", session=session, expected_offset=9)
    peer.ask("input_text.replace", session=session, start=0, end=1, text="a")
    edited = peer.ask("input_text.append", session=session, text="i", offset=8)
    check_error(edited, "offset_conflict", "offset", expected_offset=9)
    assert peer.ask("input_text.append", session=session, text="j", offset=9)["offset"] == 10


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"start": 2, "end": 1, "text": "x"}, "invalid_request", "start"),
        ({"start": 0, "end": 4, "text": "x"}, "invalid_request", "end"),
        ({"start": 4, "end": 4, "text": "x"}, "invalid_request", "start"),
        ({"start": -1, "end": 1, "text": "x"}, "invalid_request", "start"),
        ({"start": 0, "end": 1}, "invalid_request", "text"),
        ({"start": 0, "end": 1.5, "text": "x"}, "invalid_request", "end"),
        ({"start": 0, "end": 1, "text": "x", "offset": 0}, "invalid_request", "offset"),
    ],
)
def test_bad_replace(peer: Peer, fields: dict[str, Any], code: str, param: str) -> None:
    session = peer.create(text="abc")["session"]
    check_error(peer.ask("input_text.replace", session=session, **fields), code, param, session=session)
    ack = peer.ask("input_text.append", session=session, text="d")
    assert (ack["revision"], ack["offset"]) == (1, 4)


@pytest.mark.parametrize(("unit", "width"), [("codepoint", 1), ("utf16", 2), ("utf8", 4)])
def test_offset_units(peer: Peer, live: Live, unit: str, width: int) -> None:
    created = peer.create(offset_unit=unit, text="a🌊b")
    session = created["session"]
    assert created["offset"] == 2 + width
    ack = peer.ask("input_text.replace", session=session, start=1, end=1 + width, text="🌊🌊")
    assert ack["offset"] == 2 + 2 * width
    ack = peer.ask("input_text.append", session=session, text="c", base_revision=1, offset=2 + 2 * width)
    assert ack["offset"] == 3 + 2 * width
    if width > 1:
        inside = peer.ask("input_text.replace", session=session, start=2, end=3, text="x")
        check_error(inside, "invalid_request", "start")
        inside = peer.ask("input_text.replace", session=session, start=1, end=2, text="x")
        check_error(inside, "invalid_request", "end")
    beyond = peer.ask("input_text.append", session=session, text="d", offset=4 + 2 * width)
    check_error(beyond, "offset_gap", "offset", expected_offset=3 + 2 * width)
    done = peer.ask("embedding.create", session=session)
    assert done["offset"] == 3 + 2 * width
    check_vector(live, done, "a🌊🌊bc")


def test_limits_of_text(serve: Serve) -> None:
    live = serve(Settings(max_session_characters=1000))
    with open_peer(live) as peer:
        created = peer.create(text="x " * 450)
        session = created["session"]
        assert created["limits"]["max_characters"] == 1000
        refused = peer.ask("input_text.append", session=session, text="x" * 101)
        check_error(refused, "too_large", "text", session=session, revision=0)
        assert peer.ask("input_text.append", session=session, text="x " * 50)["offset"] == 1000
        assert peer.ask("input_text.replace", session=session, start=0, end=2, text="yy")["offset"] == 1000
        refused = peer.ask("input_text.set", session=session, text=" word" * 201)
        check_error(refused, "too_large", "text", revision=2)
        refused = peer.ask("input_text.set", session=session, text="1" * 600)  # a digit is a token
        assert (refused["error"]["code"], refused["revision"]) == ("too_large", 2)
        done = peer.ask("embedding.create", session=session)
        assert (done["revision"], done["offset"]) == (2, 1000)
        check_vector(live, done, "yy" + "x " * 499)


# Embeddings


def test_embeddings_come_in_order(peer: Peer, live: Live) -> None:
    """With their event_ids, each of the text as it was when it was asked for, while automatic ones run."""
    session = peer.create(emit={"on": "append"})["session"]
    text, texts = "", {}
    for number in range(30):
        text += f" word{number}"
        texts[number] = text
        peer.send("input_text.append", session=session, text=f" word{number}")
        peer.send("embedding.create", session=session, event_id=f"e{number}")
    peer.until("embedding.done", event_id="e29")
    asked = [event for event in peer.seen if event["type"] == "embedding.done" and "event_id" in event]
    assert [event["event_id"] for event in asked] == [f"e{number}" for number in range(30)]
    assert [event["revision"] for event in asked] == list(range(1, 31))
    for number in range(0, 30, 5):
        check_vector(live, asked[number], texts[number])


def test_embedding_done_has_its_fields(peer: Peer, live: Live) -> None:
    text = "usage of a text " + "and more of it " * 3
    created = peer.create(text=text)
    done = peer.ask("embedding.create", session=created["session"])
    assert set(done) == {
        *("type", "session", "event_id", "revision", "offset", "embedding", "usage", "timing_ms"),
    }, "no drift where there is nothing to drift from"
    count = len(live.engine.tokenizer.encode(text)) + 1
    assert done["usage"]["prompt_tokens"] == count
    assert done["usage"]["cached_tokens"] + done["usage"]["computed_tokens"] == count
    assert set(done["timing_ms"]) == {"queue", "compute", "total"}
    assert done["timing_ms"]["total"] >= done["timing_ms"]["queue"] >= 0
    again = peer.ask("embedding.create", session=created["session"])
    assert again["usage"] == {"prompt_tokens": count, "cached_tokens": count - 1, "computed_tokens": 1}
    assert abs(again["drift"]) < 1e-5


def test_drift_is_the_distance_from_the_one_before(peer: Peer) -> None:
    session = peer.create(text="a brook", dimensions=32)["session"]
    before = vector(peer.ask("embedding.create", session=session))
    for text in (" runs", " to the sea", ""):
        peer.send("input_text.append", session=session, text=text)
        done = peer.ask("embedding.create", session=session)
        assert done["drift"] == pytest.approx(1 - cosine(before, vector(done)), abs=1e-5)
        before = vector(done)


def test_nothing_to_embed(peer: Peer) -> None:
    session = peer.create()["session"]
    check_error(peer.ask("embedding.create", session=session), "invalid_request", session=session)


@pytest.mark.parametrize("encoding_format", ["float", "base64"])
@pytest.mark.parametrize("dimensions", [32, 33, None])
def test_dimensions_and_encoding(peer: Peer, live: Live, dimensions: int | None, encoding_format: str) -> None:
    created = peer.create(text="a brook", dimensions=dimensions, encoding_format=encoding_format)
    assert created["dimensions"] == (dimensions or 64)
    done = peer.ask("embedding.create", session=created["session"])
    assert isinstance(done["embedding"], str) == (encoding_format == "base64")
    assert len(vector(done)) == (dimensions or 64)
    check_vector(live, done, "a brook", dimensions=dimensions)


def test_too_many_asked_for(peer: Peer, live: Live) -> None:
    session = peer.create(text="a brook")["session"]
    with idle(live.engine):
        for number in range(66):
            peer.send("embedding.create", session=session, event_id=str(number))
        for number in (64, 65):
            check_error(peer.until("error"), "overloaded", session=session, event_id=str(number))
    peer.until("embedding.done", event_id="63")
    done = [event["event_id"] for event in peer.seen if event["type"] == "embedding.done"]
    assert done == [str(number) for number in range(64)]


def test_deadline_of_the_server(serve: Serve) -> None:
    live = serve(Settings(timeout=0.05))
    with open_peer(live) as peer:
        session = peer.create(text="a brook")["session"]
        with idle(live.engine):
            peer.send("embedding.create", session=session, event_id="late")
            peer.sync()
            time.sleep(0.1)
        check_error(peer.until("error", event_id="late"), "deadline", session=session)
        peer.quiet()


# Automatic embeddings


def test_manual_emits_nothing(peer: Peer, live: Live) -> None:
    session = peer.create(text="a brook.")["session"]
    peer.ask("input_text.append", session=session, text=" It runs.\n")
    until(lambda: live.engine.stats().waiting == 0)
    time.sleep(0.4)  # longer than a pause
    peer.quiet()
    assert not any(event["type"] == "embedding.done" for event in peer.seen)


def test_emit_after_every_change(peer: Peer, live: Live) -> None:
    session = peer.create(emit={"on": "append"})["session"]
    text = ""
    for revision, piece in enumerate(("A", " brook", " runs", "."), 1):
        text += piece
        peer.send("input_text.append", session=session, text=piece)
        done = peer.until("embedding.done", revision=revision)
        assert "event_id" not in done
        assert done["offset"] == len(text)
        check_vector(live, done, text)


def test_first_text_is_emitted(peer: Peer, live: Live) -> None:
    peer.send("session.create", text="a brook", emit={"on": "append"})
    assert peer.next()["type"] == "session.created"
    done = peer.until("embedding.done", revision=0)
    check_vector(live, done, "a brook")


def test_superseded_ones_are_skipped(peer: Peer, live: Live) -> None:
    session = peer.create(emit={"on": "append"})["session"]
    with idle(live.engine):
        for _ in range(10):
            peer.send("input_text.append", session=session, text="a ")
        peer.until("input_text.ack", revision=10)
    last = peer.until("embedding.done", revision=10)
    check_vector(live, last, "a " * 10)
    events = [event for event in peer.seen if event["type"].startswith("embedding.")]
    assert [(event["type"], event["revision"]) for event in events] == [
        ("embedding.done", 1),
        ("embedding.skipped", 9),
        ("embedding.done", 10),
    ]
    assert events[1] == {"type": "embedding.skipped", "session": session, "revision": 9, "superseded_by": 10}
    peer.quiet()


def test_emit_after_a_pause(peer: Peer, live: Live) -> None:
    session = peer.create(emit={"on": "pause", "pause_ms": 100})["session"]
    for piece in ("A", " brook", " runs.", " Far"):
        peer.send("input_text.append", session=session, text=piece)
    done = peer.until("embedding.done")
    assert done["revision"] == 4
    check_vector(live, done, "A brook runs. Far")
    peer.quiet()


def test_emit_at_the_end_of_a_sentence(peer: Peer, live: Live) -> None:
    session = peer.create(emit={"on": "sentence", "pause_ms": 3_600_000})["session"]
    for piece in ("A brook", " runs 3.", "5 miles"):
        peer.ask("input_text.append", session=session, text=piece)
    until(lambda: live.engine.stats().waiting == 0)
    peer.quiet()
    assert not any(event["type"] == "embedding.done" for event in peer.seen)
    peer.send("input_text.append", session=session, text=". ")
    done = peer.until("embedding.done", revision=4)
    check_vector(live, done, "A brook runs 3.5 miles. ")
    peer.send("input_text.append", session=session, text="And")
    peer.send("input_text.append", session=session, text="。")
    check_vector(live, peer.until("embedding.done", revision=6), "A brook runs 3.5 miles. And。")


def test_sentence_emits_after_a_pause_too(peer: Peer) -> None:
    session = peer.create(emit={"on": "sentence", "pause_ms": 10})["session"]
    peer.send("input_text.append", session=session, text="no sentence")
    assert peer.until("embedding.done")["revision"] == 1


def test_emit_when_the_vector_has_moved(peer: Peer, live: Live) -> None:
    """Only what is farther than the threshold from the last one sent, and all of that (but for what is superseded)."""
    session = peer.create(emit={"on": "drift", "drift": 0.2})["session"]
    text, texts = "", []
    for piece in ("A", " brook", "", " runs", " to", "", " the", " sea"):
        text += piece
        texts.append(text)
        peer.ask("input_text.append", session=session, text=piece)
        until(lambda: live.engine.stats().waiting == 0)
        peer.sync()
    expected, last = [], None
    for revision, one in enumerate(texts, 1):
        now = posted(live, one)
        if last is None or 1 - cosine(last, now) > 0.2:
            expected.append(revision)
            last = now
    assert 1 < len(expected) < len(texts), "the texts are of both kinds"
    until(lambda: (peer.sync() or True) and len(dones(peer)) >= len(expected))
    assert [event["revision"] for event in dones(peer)] == expected
    assert all(event["drift"] > 0.2 for event in dones(peer)[1:])


def dones(peer: Peer) -> list[dict[str, Any]]:
    return [event for event in peer.seen if event["type"] == "embedding.done"]


def test_least_interval(peer: Peer, live: Live) -> None:
    """One at once, then none before the interval is over; the last state is not forgotten."""
    session = peer.create(emit={"on": "append", "min_interval_ms": 400})["session"]
    for _ in range(8):
        peer.ask("input_text.append", session=session, text="a ")
    last = peer.until("embedding.done", revision=8)
    check_vector(live, last, "a " * 8)
    assert len(dones(peer)) < 8
    skipped = [event for event in peer.seen if event["type"] == "embedding.skipped"]
    assert skipped[-1]["superseded_by"] == 8


def test_every_automatic_revision_is_sent_or_skipped(peer: Peer) -> None:
    session = peer.create(emit={"on": "append"})["session"]
    for _ in range(100):
        peer.send("input_text.append", session=session, text="a")
    peer.until("embedding.done", revision=100)
    sent = [event["revision"] for event in dones(peer)]
    assert sent == sorted(set(sent))
    skipped = [event for event in peer.seen if event["type"] == "embedding.skipped"]
    assert all(event["revision"] < event["superseded_by"] for event in skipped)
    assert {event["superseded_by"] for event in skipped} <= set(sent)
    for before, after in zip([0, *sent], sent, strict=False):
        gap = after - before > 1
        assert gap == any(event["superseded_by"] == after for event in skipped), "a gap is told, and only a gap"


# Updates


def test_update(peer: Peer, live: Live) -> None:
    session = peer.create(text="a brook")["session"]
    updated = peer.ask("session.update", session=session, emit={"on": "append"})
    assert updated["type"] == "session.updated"
    assert (updated["session"], updated["offset"], updated["revision"]) == (session, 7, 0)
    check_vector(live, peer.until("embedding.done", revision=0), "a brook")
    peer.send("input_text.append", session=session, text=" runs")
    peer.until("embedding.done", revision=1)
    assert peer.ask("session.update", session=session, emit={})["type"] == "session.updated"
    peer.ask("input_text.append", session=session, text=" far")
    until(lambda: live.engine.stats().waiting == 0)
    peer.quiet()


def test_update_leaves_what_is_not_given(peer: Peer) -> None:
    session = peer.create(emit={"on": "append"}, watch=[{"id": "w", "text": "a", "threshold": -1}])["session"]
    assert peer.ask("session.update", session=session)["type"] == "session.updated"
    assert peer.ask("session.update", session=session, watch=[])["type"] == "session.updated"
    peer.send("input_text.append", session=session, text="a")
    peer.until("embedding.done", revision=1)
    peer.quiet()
    assert not any(event["type"] == "watch.triggered" for event in peer.seen)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"emit": {"on": "never"}}, "emit.on"),
        ({"watch": [{"id": "w", "threshold": 0.5}]}, "watch[0]"),
        ({"watch": [{"id": "w", "embedding": [1.0], "threshold": 0.5}]}, "watch[0].embedding"),
        ({"watch": [{"id": "w", "text": "a", "threshold": 0.5}] * 2}, "watch[1].id"),
        ({"dimensions": 32}, "dimensions"),
        ({"text": "a"}, "text"),
    ],
)
def test_bad_update(peer: Peer, fields: dict[str, Any], param: str) -> None:
    session = peer.create(text="a", emit={"on": "append"})["session"]
    peer.until("embedding.done")
    check_error(peer.ask("session.update", session=session, **fields), "invalid_request", param, session=session)
    peer.send("input_text.append", session=session, text="b")
    peer.until("embedding.done", revision=1)


# Watches


@pytest.mark.parametrize("by", ["text", "embedding"])
@pytest.mark.parametrize("dimensions", [32, None])
def test_watch(peer: Peer, live: Live, by: str, dimensions: int | None) -> None:
    """Once when it comes near, again after it has gone away; whatever is emitted."""
    near, far = "a brook runs to the sea", "def f(x): return 5"
    target = posted(live, near, dimensions=dimensions)
    assert cosine(target, posted(live, far, dimensions=dimensions)) < 0.9
    value: Any = near if by == "text" else [5 * float(number) for number in target]
    session = peer.create(dimensions=dimensions, watch=[{"id": "sea", by: value, "threshold": 0.99}])["session"]

    def triggers() -> list[int]:
        return [event["revision"] for event in peer.seen if event["type"] == "watch.triggered"]

    for text in (far, near, near + "", far, near):
        peer.ask("input_text.set", session=session, text=text)
        peer.ask("embedding.create", session=session)
        until(lambda: live.engine.stats().waiting == 0)
        peer.sync()
    until(lambda: (peer.sync() or True) and len(triggers()) >= 2)
    assert triggers() == [2, 5]
    first = next(event for event in peer.seen if event["type"] == "watch.triggered")
    assert (first["session"], first["watch"], first["offset"]) == (session, "sea", len(near))
    assert first["score"] == pytest.approx(1, abs=1e-4)
    assert "event_id" not in first


def test_watch_looks_at_every_change_by_itself(peer: Peer, live: Live) -> None:
    target = posted(live, "a brook runs")
    session = peer.create(watch=[{"id": "w", "embedding": target.tolist(), "threshold": 0.999}])["session"]
    peer.ask("input_text.append", session=session, text="a brook")
    peer.send("input_text.append", session=session, text=" runs")
    assert peer.until("watch.triggered")["revision"] == 2
    peer.quiet()
    assert dones(peer) == []


def test_watch_looks_at_what_is_there(peer: Peer, live: Live) -> None:
    session = peer.create(text="a brook runs")["session"]
    watch = [{"id": str(n), "text": "a brook runs", "threshold": 0.99} for n in range(MAX_WATCHES)]
    assert peer.ask("session.update", session=session, watch=watch)["type"] == "session.updated"
    triggered = {peer.until("watch.triggered")["watch"] for _ in range(MAX_WATCHES)}
    assert triggered == {str(n) for n in range(MAX_WATCHES)}


def test_watch_that_cannot_be(peer: Peer) -> None:
    """A watch's text that is too long is told when it is found out, and the others work."""
    watch = [{"id": "long", "text": "word " * 600, "threshold": 0.5}, {"id": "w", "text": "a", "threshold": 0.99}]
    session = peer.create(text="a", watch=watch)["session"]
    found = [peer.until("error")] if not any(e["type"] == "error" for e in peer.seen) else []
    check_error((found or [e for e in peer.seen if e["type"] == "error"])[0], "too_large", "watch", session=session)
    if not any(event["type"] == "watch.triggered" for event in peer.seen):
        peer.until("watch.triggered", watch="w")


# Forks


def test_fork(peer: Peer, live: Live) -> None:
    options = {"dimensions": 32, "encoding_format": "base64", "offset_unit": "utf16", "emit": {"on": "append"}}
    created = peer.create(text="🌊 a brook", instruction="find", **options)
    session = created["session"]
    peer.ask("input_text.append", session=session, text=" runs")
    forked = peer.ask("session.fork", session=session)
    assert (forked["type"], forked["forked_from"]) == ("session.created", session)
    twin = forked["session"]
    assert twin != session
    assert forked["resume_token"] != created["resume_token"]
    assert (forked["offset"], forked["dimensions"]) == (15, 32)
    texts = {session: "🌊 a brook runs", twin: "🌊 a brook runs"}
    for one, piece in ((session, " to the sea"), (twin, " dry")):
        texts[one] += piece
        ack = peer.ask("input_text.append", session=one, text=piece)
        assert ack["offset"] == len(texts[one]) + 1
    for one, text in texts.items():
        done = peer.ask("embedding.create", session=one)
        assert isinstance(done["embedding"], str)
        check_vector(live, done, text, instruction="find", dimensions=32)
    assert peer.ask("session.close", session=session)["type"] == "session.closed"
    assert peer.ask("embedding.create", session=twin)["type"] == "embedding.done"


def test_fork_copies_what_is_computed(peer: Peer) -> None:
    session = peer.create(text="a brook runs to the sea " * 10)["session"]
    count = peer.ask("embedding.create", session=session)["usage"]["prompt_tokens"]
    twin = peer.ask("session.fork", session=session)["session"]
    usage = peer.ask("embedding.create", session=twin)["usage"]
    assert usage == {"prompt_tokens": count, "cached_tokens": count - 1, "computed_tokens": 1}


def test_fork_waits_for_what_came_before(peer: Peer, holder: Holder) -> None:
    """Events of a session act in the order in which they were sent, a fork like any other."""
    session = peer.create()["session"]
    hold(peer, session, holder)
    peer.send("input_text.append", session=session, text=" more")
    peer.send("session.fork", session=session, event_id="fork")
    settle()
    holder.go.set()
    forked = peer.until("session.created", event_id="fork")
    assert forked["offset"] == len(HEAVY) + 5


# Ends


def test_close(peer: Peer) -> None:
    created = peer.create(text="a brook")
    session = created["session"]
    assert peer.ask("session.close", session=session) == {
        "type": "session.closed",
        "session": session,
        "event_id": peer.seen[-1]["event_id"],
        "reason": "closed",
    }
    for type, fields in (
        ("session.close", {}),
        ("session.update", {}),
        ("session.fork", {}),
        ("session.resume", {"resume_token": created["resume_token"]}),
        ("input_text.append", {"text": "a"}),
        ("input_text.replace", {"start": 0, "end": 0, "text": "a"}),
        ("input_text.set", {"text": "a"}),
        ("embedding.create", {}),
    ):
        check_error(peer.ask(type, session=session, **fields), "not_found", "session", session=session)


def test_close_answers_what_waits(peer: Peer, live: Live) -> None:
    session = peer.create(text="a brook")["session"]
    with idle(live.engine):
        for number in range(3):
            peer.send("embedding.create", session=session, event_id=str(number))
        peer.send("session.close", session=session, event_id="close")
        for number in range(3):
            check_error(peer.next(), "not_found", event_id=str(number), session=session)
        assert peer.next()["event_id"] == "close"
    peer.quiet()


def test_close_gives_everything_back(serve: Serve, open_engine: Callable[..., Engine]) -> None:
    live = serve(engine=open_engine())
    with open_peer(live) as peer:
        sizes: list[int] = []
        for _ in range(3):
            session = peer.create(text="a brook " * 30)["session"]
            peer.ask("embedding.create", session=session)
            twin = peer.ask("session.fork", session=session)["session"]
            for one in (session, twin):
                peer.ask("session.close", session=one)
            until(lambda: live.engine.stats().sessions == 0)
            sizes.append(live.engine.stats().kv_bytes)
        assert len(set(sizes)) == 1, "what stays behind as spare does not grow"


# Resuming


def test_resume_after_a_drop(live: Live) -> None:
    with open_peer(live) as peer:
        created = peer.create(text="a brook", dimensions=32)
        session, token = created["session"], created["resume_token"]
        peer.ask("input_text.append", session=session, text=" runs")
        peer.ask("embedding.create", session=session)
        peer.drop()
    with open_peer(live) as peer:
        resumed = peer.ask("session.resume", session=session, resume_token=token)
        assert set(resumed) == set(created)
        assert resumed["type"] == "session.resumed"
        assert (resumed["revision"], resumed["offset"], resumed["kv"]) == (1, 12, "warm")
        assert (resumed["dimensions"], resumed["resume_token"]) == (32, token)
        done = peer.ask("embedding.create", session=session)
        assert done["usage"]["computed_tokens"] == 1
        check_vector(live, done, "a brook runs", dimensions=32)


def test_resume_cold(peer: Peer, live: Live) -> None:
    created = peer.create(text="a brook runs")
    fields = {"session": created["session"], "resume_token": created["resume_token"]}
    peer.ask("embedding.create", session=created["session"])
    assert peer.ask("session.resume", **fields)["kv"] == "warm"
    live.engine.evict()
    assert peer.ask("session.resume", **fields)["kv"] == "cold"
    done = peer.ask("embedding.create", session=created["session"])
    assert done["usage"]["cached_tokens"] == 0
    check_vector(live, done, "a brook runs")
    assert peer.ask("session.resume", **fields)["kv"] == "warm"


def test_resume_on_the_same_socket(peer: Peer) -> None:
    created = peer.create(text="a")
    for _ in range(3):
        resumed = peer.ask("session.resume", session=created["session"], resume_token=created["resume_token"])
        assert resumed["type"] == "session.resumed"
    peer.ask("input_text.append", session=created["session"], text="b")
    peer.quiet()
    assert not any(event["type"] == "session.closed" for event in peer.seen)


def test_the_newest_socket_has_it(peer: Peer, live: Live) -> None:
    created = peer.create(text="a")
    session, token = created["session"], created["resume_token"]
    with open_peer(live) as other:
        for old, new in ((peer, other), (other, peer), (peer, other)):
            assert new.ask("session.resume", session=session, resume_token=token)["type"] == "session.resumed"
            assert old.next() == {"type": "session.closed", "session": session, "reason": "taken_over"}
            check_error(old.ask("input_text.append", session=session, text="x"), "not_found", "session")
            assert new.ask("input_text.append", session=session, text="b")["type"] == "input_text.ack"
            old.quiet()
        assert other.seen[-1]["offset"] == 4


def test_taken_over_drops_what_the_old_socket_waits_for(peer: Peer, live: Live) -> None:
    created = peer.create(text="a brook")
    session, token = created["session"], created["resume_token"]
    with open_peer(live) as other:
        with idle(live.engine):
            for number in range(3):
                peer.send("embedding.create", session=session, event_id=str(number))
            peer.sync()
            other.ask("session.resume", session=session, resume_token=token)
            peer.until("session.closed", reason="taken_over")
        other.ask("embedding.create", session=session)
        peer.quiet()
        assert dones(peer) == []


def test_taken_over_drops_what_the_old_socket_had_queued(peer: Peer, live: Live, holder: Holder) -> None:
    created = peer.create()
    session, token = created["session"], created["resume_token"]
    with open_peer(live) as other:
        hold(peer, session, holder)
        peer.send("input_text.append", session=session, text=" dropped")
        peer.send("embedding.create", session=session)
        settle()
        other.send("session.resume", session=session, resume_token=token, event_id="take")
        settle()
        holder.go.set()
        resumed = other.until("session.resumed", event_id="take") if not resumed_of(other) else resumed_of(other)[-1]
        assert (resumed["revision"], resumed["offset"]) == (1, len(HEAVY)), "what was at work is applied, no more"
        peer.until("session.closed", reason="taken_over")
        assert other.ask("input_text.append", session=session, text="!", base_revision=1)["revision"] == 2
        done = other.ask("embedding.create", session=session)
        check_vector(live, done, HEAVY + "!")
        peer.quiet()
        assert dones(peer) == []


def resumed_of(peer: Peer) -> list[dict[str, Any]]:
    return [event for event in peer.seen if event["type"] == "session.resumed"]


def test_what_comes_after_a_take_over_is_not_applied(peer: Peer, live: Live, holder: Holder) -> None:
    """While a change is at work a newer socket resumes, then the old one appends: the newest attachment wins."""
    created = peer.create()
    session, token = created["session"], created["resume_token"]
    with open_peer(live) as other:
        hold(peer, session, holder)
        other.send("session.resume", session=session, resume_token=token, event_id="take")
        settle()
        peer.send("input_text.append", session=session, text=" late", event_id="late")
        settle()
        holder.go.set()
        if not resumed_of(other):
            other.until("session.resumed")
        assert resumed_of(other)[-1]["revision"] == 1
        ack = other.ask("input_text.append", session=session, text="!", base_revision=1)
        assert (ack["type"], ack.get("revision")) == ("input_text.ack", 2), ack
        assert ack["offset"] == len(HEAVY) + 1


def test_take_over_and_back_while_it_is_busy(peer: Peer, live: Live, holder: Holder) -> None:
    """The last one to resume has the session, can use it, and lets it go when it ends."""
    created = peer.create()
    session, token = created["session"], created["resume_token"]
    with open_peer(live) as other:
        hold(peer, session, holder)
        other.send("session.resume", session=session, resume_token=token, event_id="there")
        settle()
        peer.send("session.resume", session=session, resume_token=token, event_id="back")
        settle()
        holder.go.set()
        until(lambda: (peer.sync() or True) and bool(resumed_of(peer)))
        ack = peer.ask("input_text.append", session=session, text="!")
        assert ack["type"] == "input_text.ack", ack
        other.sync()
        check_error(other.ask("input_text.append", session=session, text="x"), "not_found", "session")
    peer.ws.close()
    until(lambda: not live.client.get(f"/v1/sessions/{session}").json()["attached"])


def test_wrong_token(peer: Peer, live: Live) -> None:
    created = peer.create(text="a")
    session = created["session"]
    with open_peer(live) as other:
        for token in ("", "x", created["resume_token"][:-1], created["resume_token"] + "x", "ü"):
            answer = other.ask("session.resume", session=session, resume_token=token)
            check_error(answer, "not_found", "session", session=session)
        answer = other.ask("session.resume", session="ses_none", resume_token=created["resume_token"])
        check_error(answer, "not_found", "session")
        missing = other.ask("session.resume", session=session)
        check_error(missing, "invalid_request", "resume_token")
        check_error(
            other.ask("session.resume", session=session, resume_token="x" * 129), "invalid_request", "resume_token"
        )
    peer.quiet()
    assert peer.ask("input_text.append", session=session, text="b")["offset"] == 2


def test_other_key(serve: Serve) -> None:
    live = serve(keys=("alpha", "beta"))
    alpha, beta = ({"Authorization": f"Bearer {key}"} for key in ("alpha", "beta"))
    with open_peer(live, additional_headers=alpha) as peer, open_peer(live, additional_headers=beta) as other:
        created = peer.create(text="a")
        session, token = created["session"], created["resume_token"]
        answer = other.ask("session.resume", session=session, resume_token=token)
        check_error(answer, "not_found", "session")
        for type, fields in (("input_text.append", {"text": "x"}), ("session.close", {}), ("session.fork", {})):
            check_error(other.ask(type, session=session, **fields), "not_found", "session", session=session)
        assert live.client.get(f"/v1/sessions/{session}", headers=beta).status_code == 404
        assert live.client.get(f"/v1/sessions/{session}", headers=alpha).json()["offset"] == 1
        peer.quiet()


def test_session_of_another_socket(peer: Peer, live: Live) -> None:
    """Without resuming it, a socket has no say in a session, even with the right key."""
    session = peer.create(text="a")["session"]
    with open_peer(live) as other:
        for type, fields in (("input_text.append", {"text": "x"}), ("session.close", {}), ("embedding.create", {})):
            check_error(other.ask(type, session=session, **fields), "not_found", "session", session=session)
    assert peer.ask("input_text.append", session=session, text="b")["offset"] == 2


def test_session_expires(serve: Serve) -> None:
    live = serve(Settings(session_ttl=0.2))
    with open_peer(live) as peer:
        kept, dropped = peer.create(text="kept"), peer.create(text="dropped")
        assert kept["expires_in_s"] == 0.2
        with open_peer(live) as other:
            other.ask("session.resume", session=dropped["session"], resume_token=dropped["resume_token"])
        until(lambda: live.client.get(f"/v1/sessions/{dropped['session']}").status_code == 404)
        answer = peer.ask("session.resume", session=dropped["session"], resume_token=dropped["resume_token"])
        check_error(answer, "not_found", "session")
        until(lambda: len(sockets_of(live)._registry) == 1)
        assert peer.ask("embedding.create", session=kept["session"])["type"] == "embedding.done", "it has a client"


def test_sessions_of_a_closed_socket_are_detached(live: Live) -> None:
    with open_peer(live) as peer:
        sessions = [peer.create(text="a")["session"] for _ in range(3)]
        assert all(live.client.get(f"/v1/sessions/{one}").json()["attached"] for one in sessions)
    for one in sessions:
        until(lambda one=one: not live.client.get(f"/v1/sessions/{one}").json()["attached"])
        assert live.client.delete(f"/v1/sessions/{one}").status_code == 200


# Flow


def small_credit(monkeypatch: pytest.MonkeyPatch, credit: int) -> None:
    monkeypatch.setattr(registry, "Limits", functools.partial(Limits, credit=credit))


def test_credit(serve: Serve, holder: Holder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond it nothing is applied, and other sessions on the socket go on."""
    small_credit(monkeypatch, len(HEAVY) + 100)
    live = serve()
    with open_peer(live) as peer:
        created = peer.create()
        session, other = created["session"], peer.create()["session"]
        assert created["credit"] == len(HEAVY) + 100
        hold(peer, session, holder)
        peer.send("input_text.append", session=session, text=" ab" * 20, event_id="queued")
        peer.send("input_text.append", session=session, text=" cd" * 20, event_id="beyond")
        refused = peer.until("error")
        check_error(refused, "overloaded", session=session, event_id="beyond")
        assert peer.ask("input_text.append", session=other, text="goes on")["offset"] == 7
        assert peer.ask("embedding.create", session=other)["type"] == "embedding.done"
        holder.go.set()
        ack = peer.until("input_text.ack", event_id="queued")
        assert (ack["revision"], ack["offset"], ack["credit"]) == (2, len(HEAVY) + 60, len(HEAVY) + 100)
        assert peer.ask("input_text.append", session=session, text=" cd" * 20)["offset"] == len(HEAVY) + 120
        check_vector(live, peer.ask("embedding.create", session=session), HEAVY + " ab" * 20 + " cd" * 20)


def test_what_is_at_work_counts_against_credit(serve: Serve, holder: Holder, monkeypatch: pytest.MonkeyPatch) -> None:
    """`credit` is the number of unacknowledged characters in flight: a change that is being applied is unacknowledged."""
    small_credit(monkeypatch, 6000)
    live = serve()
    with open_peer(live) as peer:
        session = peer.create()["session"]
        hold(peer, session, holder)
        assert 6000 - len(HEAVY) < 2000
        peer.send("input_text.append", session=session, text=" international" * 143, event_id="beyond")
        settle()
        holder.go.set()
        check_error(answers_of(peer, {"beyond"})["beyond"], "overloaded", session=session)


def test_one_large_change_needs_no_credit(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text longer than the credit can be set while nothing is in flight; who waits for each ack is never refused."""
    small_credit(monkeypatch, 100)
    live = serve()
    with open_peer(live) as peer:
        session = peer.create()["session"]
        for number in range(3):
            ack = peer.ask("input_text.set", session=session, text=f"{number}" + " international" * 300)
            assert (ack["type"], ack["revision"]) == ("input_text.ack", number + 1)


def test_backlog_of_events_is_bounded(serve: Serve, holder: Holder, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is beyond it is not read, and so not refused either."""
    live = serve()
    with open_peer(live) as peer:
        session = peer.create(text="a")["session"]
        hold(peer, session, holder)
        stream = sockets_of(live)._registry.find("", session)
        for number in range(3000):
            peer.send("input_text.append", session=session, text="", event_id=str(number))
        until(lambda: len(stream._mailbox) > 1000)
        settle()
        assert len(stream._mailbox) <= 1024
        holder.go.set()
        peer.until("input_text.ack", revision=3001)
        peer.quiet()


def test_events_behind_a_long_change_keep_their_order(peer: Peer, live: Live, holder: Holder) -> None:
    session = peer.create()["session"]
    hold(peer, session, holder)
    peer.send("embedding.create", session=session, event_id="one")
    peer.send("input_text.append", session=session, text=" two")
    peer.send("embedding.create", session=session, event_id="two")
    peer.send("input_text.set", session=session, text="three")
    peer.send("embedding.create", session=session, event_id="three")
    peer.send("session.close", session=session, event_id="close")
    settle()
    assert dones(peer) == []
    holder.go.set()
    # Closing tells who waits; what was computed by then is sent.
    peer.until("session.closed", event_id="close")
    answers = {event["event_id"]: event for event in peer.seen if event.get("event_id") in ("one", "two", "three")}
    assert set(answers) == {"one", "two", "three"}, "each is answered"
    assert all(event["type"] == "embedding.done" or event["error"]["code"] == "not_found" for event in answers.values())


# Events that meet a session that is about to end: each is answered, once


def test_update_behind_a_delete_is_answered(peer: Peer, live: Live, holder: Holder) -> None:
    session = peer.create()["session"]
    hold(peer, session, holder)
    with deleting(live, session):
        for type, fields in (
            ("session.update", {"emit": {"on": "append"}}),
            ("input_text.append", {"text": "x"}),
            ("embedding.create", {}),
        ):
            peer.send(type, session=session, event_id=type, **fields)
        settle()
        holder.go.set()
        answers = answers_of(peer, {"session.update", "input_text.append", "embedding.create"})
    assert {event["error"]["code"] for event in answers.values()} == {"not_found"}


def test_close_behind_a_delete_is_answered(peer: Peer, live: Live, holder: Holder) -> None:
    session = peer.create()["session"]
    hold(peer, session, holder)
    with deleting(live, session):
        peer.send("session.close", session=session, event_id="close")
        settle()
        holder.go.set()
        answers = answers_of(peer, {"close"})
    assert answers["close"]["type"] in ("session.closed", "error")


def test_fork_behind_a_delete_is_answered(peer: Peer, live: Live, holder: Holder) -> None:
    session = peer.create()["session"]
    hold(peer, session, holder)
    with deleting(live, session):
        peer.send("session.fork", session=session, event_id="fork")
        settle()
        holder.go.set()
        answers = answers_of(peer, {"fork"})
    check_error(answers["fork"], "not_found", "session", session=session)


@contextlib.contextmanager
def deleting(live: Live, session: str) -> Iterator[None]:
    """A DELETE that the server has taken in and cannot answer before what is at work is done."""
    replies = []
    request = threading.Thread(target=lambda: replies.append(live.client.delete(f"/v1/sessions/{session}")))
    request.start()
    try:
        until(lambda: sockets_of(live)._registry._streams.get(session) is None)
        yield
    finally:
        request.join()
    assert replies[0].status_code == 200


def answers_of(peer: Peer, event_ids: set[str], seconds: float = 5) -> dict[str, dict[str, Any]]:
    """Reads on until each of these is answered."""
    found: dict[str, dict[str, Any]] = {}
    end = time.monotonic() + seconds
    while missing := event_ids - set(found):
        try:
            event = peer.next(max(end - time.monotonic(), 0.001))
        except TimeoutError:
            raise AssertionError(f"never answered: {missing}") from None
        if event.get("event_id") in event_ids:
            assert event["event_id"] not in found, "answered twice"
            found[event["event_id"]] = event
    return found


def test_create_of_a_client_that_left_leaves_nothing(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client goes while its session is being opened, and something was still to be sent to it."""
    there, go, open_session = threading.Event(), threading.Event(), Engine.open_session

    def slow(self: Engine, text: str = "", **more: Any) -> Session:
        if text == HOLD:
            there.set()
            go.wait(60)
        return open_session(self, text, **more)

    monkeypatch.setattr(Engine, "open_session", slow)
    before = live.engine.stats().sessions
    with open_peer(live) as peer:
        first = peer.create(text="a", emit={"on": "append"})["session"]
        peer.until("embedding.done")
        peer.send("session.create", text=HOLD)
        assert there.wait(SECONDS)
        peer.drop()
        until(lambda: live.client.post(f"/v1/sessions/{first}/append", json={"text": "b"}).status_code == 200)
        until(lambda: not live.client.get(f"/v1/sessions/{first}").json()["attached"])  # the socket has ended
        go.set()
    assert live.client.delete(f"/v1/sessions/{first}").status_code == 200
    until(lambda: live.engine.stats().sessions <= before, 5)


def test_create_that_fails_for_a_reason_of_our_own_is_answered(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Engine, text: str = "", **more: Any) -> Session:
        raise RuntimeError("a bug")

    with open_peer(live) as peer, monkeypatch.context() as patch:
        patch.setattr(Engine, "open_session", broken)
        peer.send("session.create", event_id="create")
        check_error(answers_of(peer, {"create"})["create"], "internal")
        patch.undo()
        assert live.errors
        live.errors.clear()  # it is told to the operator
        peer.create()


def test_watch_of_the_largest_numbers(peer: Peer) -> None:
    """Their squares overflow: told or taken, but without a warning in the server."""
    watch = [{"id": "w", "embedding": [1e308] * 64, "threshold": 1}]
    peer.send("session.create", watch=watch, event_id="create")
    assert answers_of(peer, {"create"})["create"]["type"] in ("session.created", "error")


# Limits


def test_sessions_of_a_key(serve: Serve) -> None:
    live = serve(Settings(max_sessions=3))
    with open_peer(live) as peer:
        sessions = [peer.create()["session"] for _ in range(3)]
        check_error(peer.ask("session.create"), "overloaded")
        check_error(peer.ask("session.fork", session=sessions[0]), "overloaded", session=sessions[0])
        assert live.client.post("/v1/sessions", json={}).status_code == 429
        peer.ask("session.close", session=sessions[0])
        peer.create()
        check_error(peer.ask("session.create"), "overloaded")
        assert len(sockets_of(live)._registry) == 3


def test_sessions_are_counted_by_key(serve: Serve) -> None:
    live = serve(Settings(max_sessions=1), keys=("alpha", "beta"))
    headers = [{"Authorization": f"Bearer {key}"} for key in ("alpha", "beta")]
    with open_peer(live, additional_headers=headers[0]) as a, open_peer(live, additional_headers=headers[1]) as b:
        for peer in (a, b):
            peer.create()
            check_error(peer.ask("session.create"), "overloaded")


def test_sessions_of_a_socket(serve: Serve) -> None:
    live = serve(Settings(max_sessions_per_socket=2))
    with open_peer(live) as peer, open_peer(live) as other:
        first, second = peer.create(), peer.create()
        check_error(peer.ask("session.create"), "overloaded")
        check_error(peer.ask("session.fork", session=first["session"]), "overloaded")
        third = other.create()
        refused = peer.ask("session.resume", session=third["session"], resume_token=third["resume_token"])
        check_error(refused, "overloaded", session=third["session"])
        other.quiet()
        again = peer.ask("session.resume", session=second["session"], resume_token=second["resume_token"])
        assert again["type"] == "session.resumed", "one that it has already takes no more room"
        peer.ask("session.close", session=first["session"])
        moved = peer.ask("session.resume", session=third["session"], resume_token=third["resume_token"])
        assert moved["type"] == "session.resumed"
        assert live.client.get("/v1/sessions").json()["data"] != []


# Frames


@pytest.mark.parametrize(
    ("frame", "param"),
    [
        ("", None),
        ("{", None),
        ("nonsense", None),
        ("[]", None),
        ("5", None),
        ("null", None),
        ('"session.create"', None),
        ('{"type": "session.create"} x', None),
        ('{"type": NaN}', None),
        ('{"type": "session.create", "text": "\\ud800"}', None),
        ("[" * 100_000, None),
        ('{"a":' * 5000, None),
        ("{}", "type"),
        ('{"type": null}', "type"),
        ('{"type": 5}', "type"),
        ('{"type": ["session.create"]}', "type"),
        ('{"type": ""}', "type"),
        ('{"type": "session.created"}', "type"),
        ('{"type": "response.create"}', "type"),
        ('{"type": "' + "x" * 100_000 + '"}', "type"),
        ('{"type": "session.create", "colour": "blue"}', "colour"),
        ('{"type": "session.create", "' + "x" * 1000 + '": 1}', "x" * 64),
        ('{"type": "embedding.create"}', "session"),
        ('{"type": "embedding.create", "session": 5}', "session"),
        ('{"type": "embedding.create", "session": null}', "session"),
        ('{"type": "input_text.append", "session": "s"}', "text"),
        ('{"type": "input_text.append", "session": "s", "text": "a", "offset": -1}', "offset"),
        ('{"type": "input_text.append", "session": "s", "text": "a", "offset": "1"}', "offset"),
        ('{"type": "input_text.append", "session": "s", "text": "a", "base_revision": true}', "base_revision"),
        ('{"type": "session.create", "event_id": 5}', "event_id"),
        ('{"type": "session.create", "event_id": "' + "x" * 65 + '"}', "event_id"),
        (b"{}", None),
        (b"\xff\xfe", None),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_frames_are_answered_and_the_socket_stays(peer: Peer, frame: str | bytes, param: str | None) -> None:
    peer.ws.send(frame)
    answer = peer.next()
    check_error(answer, "invalid_request", param)
    assert "event_id" not in answer
    assert len(answer["error"]["message"]) < 300
    peer.create()


def test_errors_echo_session_and_event(peer: Peer) -> None:
    peer.ws.send('{"type": "nope", "session": "mine", "event_id": "e"}')
    check_error(peer.next(), "invalid_request", "type", session="mine", event_id="e")
    peer.ws.send('{"type": "embedding.create", "session": "mine", "event_id": "e"}')
    check_error(peer.next(), "not_found", "session", session="mine", event_id="e")
    peer.ws.send(json.dumps({"type": "nope", "session": "s" * 65, "event_id": "e" * 65}))
    answer = peer.next()
    assert "session" not in answer
    assert "event_id" not in answer
    peer.ws.send(json.dumps({"type": "nope", "session": {}, "event_id": []}))
    check_error(peer.next(), "invalid_request", "type")
    longest = "é" * 64
    assert peer.ws.send(json.dumps({"type": "session.create", "event_id": longest})) is None
    assert peer.next()["event_id"] == longest


def test_fragmented_frame(peer: Peer) -> None:
    peer.ws.send(iter(['{"type": "session', ".create", '", "text": "🌊', '", "event_id": "e"}']))
    created = peer.next()
    assert (created["type"], created["offset"], created["event_id"]) == ("session.created", 1, "e")


def test_ping_is_answered(peer: Peer) -> None:
    assert peer.ws.ping().wait(SECONDS)


@pytest.mark.parametrize(
    ("frame", "code"),
    [(b'{"type": "session.create", "text": "\xff"}', 1007), (b" " * ((1 << 20) + 1), 1009)],
    ids=["UTF-8", "size"],
)
def test_frames_that_end_the_socket(live: Live, frame: bytes, code: int) -> None:
    with open_peer(live) as peer:
        created = peer.create(text="a brook")
        session = created["session"]
        peer.ask("input_text.append", session=session, text=" runs")
        with contextlib.suppress(websockets.exceptions.ConnectionClosed):
            peer.ws.send(frame, text=True)
        closed = peer.closed()
        assert closed.rcvd is not None
        assert closed.rcvd.code == code
    # That it is uvicorn who logs it is not for us to change; whether it should be an error is another question.
    live.errors[:] = [record for record in live.errors if "Invalid UTF-8" not in record.getMessage()]
    with open_peer(live) as peer:
        resumed = peer.ask("session.resume", session=session, resume_token=created["resume_token"])
        assert (resumed["revision"], resumed["offset"]) == (1, 12)


def test_why_a_frame_ends_the_socket_reaches_who_reads_late(live: Live) -> None:
    """A client that sends all of it before it reads: a connection closed with bytes unread would be reset."""
    size = 16 << 20
    with live.connect() as connection:
        connection.sendall(
            b"GET /v1/embeddings HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        assert connection.recv(4096).startswith(b"HTTP/1.1 101")
        connection.sendall(b"\x81\xff" + size.to_bytes(8, "big") + b"\0\0\0\0" + b" " * size)
        assert connection.recv(4)[2:] == (1009).to_bytes(2, "big")


def test_largest_frame(peer: Peer) -> None:
    frame = json.dumps({"type": "session.create", "event_id": "e"})
    peer.ws.send(frame + " " * ((1 << 20) - len(frame)))
    assert peer.next()["type"] == "session.created"


# Time


@pytest.mark.parametrize("reason", ["idle", "lifetime"])
def test_time_of_a_socket(serve: Serve, reason: str) -> None:
    live = serve(Settings(socket_idle=0.3) if reason == "idle" else Settings(socket_life=0.3))
    with open_peer(live) as peer:
        created = peer.create(text="a brook")
        session, token = created["session"], created["resume_token"]
        if reason == "lifetime":  # however busy it is
            with contextlib.suppress(websockets.exceptions.ConnectionClosed):
                for _ in range(100_000):
                    peer.send("input_text.set", session=session, text="a brook")
                    peer.next()
        closed = peer.closed()
        assert closed.rcvd is not None
        assert closed.rcvd.code == 1001
        farewell = peer.seen[-1]
        assert (farewell["type"], farewell["session"], farewell["reason"]) == ("session.closed", session, reason)
        assert set(farewell["resume"]) == {"resume_token", "revision", "offset", "expires_in_s"}
        assert (farewell["resume"]["resume_token"], farewell["resume"]["offset"]) == (token, 7)
    with open_peer(live) as peer:
        resumed = peer.ask("session.resume", session=session, resume_token=token)
        assert resumed["offset"] == 7
        assert resumed["revision"] >= farewell["resume"]["revision"]


# Exactness


LANGUAGES = tuple(TEXTS)
UNITS = {
    "codepoint": len,
    "utf16": lambda text: len(text.encode("utf-16-le")) // 2,
    "utf8": lambda text: len(text.encode()),
}
PLACE = st.floats(0, 1)
CHUNK = st.integers(1, 12)
OPERATIONS = st.one_of(
    st.tuples(st.just("type"), CHUNK),
    st.tuples(st.just("type"), CHUNK),
    st.tuples(st.just("append"), CHUNK),
    st.tuples(st.just("replace"), PLACE, PLACE, st.sampled_from(LANGUAGES), st.integers(0, 9)),
    st.tuples(st.just("set"), PLACE, st.sampled_from(LANGUAGES), st.integers(0, 20)),
    st.tuples(st.just("embed")),
    st.tuples(st.just("embed")),
    st.tuples(st.just("read")),
    st.tuples(st.just("evict")),
    st.tuples(st.just("reconnect"), st.integers(0, 3), st.booleans()),
)


class Typist:
    """A client of one session, and the model of what must become of it."""

    def __init__(self, live: Live, language: str, unit: str, emit: dict[str, Any]) -> None:
        self.live = live
        self.source, self.taken = TEXTS[language] * 3, 0
        self.units = UNITS[unit]
        self.stack = contextlib.ExitStack()
        self.peer = self.stack.enter_context(open_peer(live))
        created = self.peer.create(offset_unit=unit, emit=emit)
        self.session, self.token = created["session"], created["resume_token"]
        self.texts = [""]
        """By revision."""
        self.changes: list[tuple[str, dict[str, Any]]] = []
        self.asked: set[str] = set()
        self.embeddings: list[dict[str, Any]] = []

    @property
    def text(self) -> str:
        return self.texts[-1]

    def change(self, type: str, after: str, /, **fields: Any) -> None:
        self.changes.append((type, fields | {"base_revision": len(self.changes)}))
        self.texts.append(after)
        self.resend(len(self.changes) - 1)

    def resend(self, start: int) -> None:
        for type, fields in self.changes[start:]:
            self.peer.send(type, session=self.session, **fields)

    def append(self, size: int) -> None:
        piece = self.source[self.taken : self.taken + size]
        self.taken += size
        if len(self.texts) % 2:
            self.change("input_text.append", self.text + piece, text=piece)
        else:
            self.change("input_text.append", self.text + piece, text=piece, offset=self.units(self.text))

    def type(self, size: int) -> None:
        for _ in range(size):
            self.append(1)

    def replace(self, one: float, other: float, language: str, size: int) -> None:
        text = self.text
        start, end = sorted(round(place * len(text)) for place in (one, other))
        end = min(end, start + 8)
        piece = TEXTS[language][start : start + size]
        positions = {"start": self.units(text[:start]), "end": self.units(text[:end])}
        self.change("input_text.replace", text[:start] + piece + text[end:], text=piece, **positions)

    def set(self, place: float, language: str, size: int) -> None:
        text = self.text[: round(place * len(self.text))] + TEXTS[language][:size]
        self.change("input_text.set", text, text=text)

    def embed(self) -> None:
        if self.text:
            event_id = f"at-{len(self.texts) - 1}-{len(self.asked)}"
            self.asked.add(event_id)
            self.peer.send("embedding.create", session=self.session, event_id=event_id)

    def read(self) -> None:
        """Waits for everything that was asked for."""
        until(lambda: self.take() and not self.asked)

    def take(self) -> bool:
        self.peer.sync()
        for event in self.peer.seen:
            assert event["type"] != "error" or event["session"] == "none", event
            if event["type"] == "input_text.ack":
                assert event["offset"] == self.units(self.texts[event["revision"]])
            if event["type"] == "embedding.done":
                self.embeddings.append(event)
                if (event_id := event.get("event_id")) is not None:
                    assert event["revision"] == int(event_id.split("-")[1])
                    self.asked.remove(event_id)
        self.peer.seen.clear()
        return True

    def evict(self) -> None:
        self.live.engine.evict()

    def reconnect(self, lost: int, read_first: bool) -> None:
        """Drops the connection and resumes; `lost` acknowledgements too many are taken for lost."""
        if read_first:
            self.take()
        self.peer.drop()
        self.stack.close()
        self.asked.clear()
        self.peer = self.stack.enter_context(open_peer(self.live))
        resumed = self.peer.ask("session.resume", session=self.session, resume_token=self.token)
        assert resumed["type"] == "session.resumed", resumed
        revision = resumed["revision"]
        assert resumed["offset"] == self.units(self.texts[revision])
        self.resend(max(revision - lost, 0))

    def finish(self) -> None:
        self.read()
        state = self.live.client.get(f"/v1/sessions/{self.session}").json()
        assert (state["revision"], state["offset"]) == (len(self.changes), self.units(self.text))
        if self.text:
            self.embed()
            self.read()
        self.peer.send("session.close", session=self.session)
        self.stack.close()
        texts = sorted({self.texts[event["revision"]] for event in self.embeddings})
        assert "" not in texts
        reply = self.live.post(texts) if texts else None
        expected = {} if reply is None else dict(zip(texts, reply.json()["data"], strict=True))
        for event in self.embeddings:
            text = self.texts[event["revision"]]
            assert event["offset"] == self.units(text)
            assert cosine(vector(event), np.array(expected[text]["embedding"])) >= 0.99999, text


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    language=st.sampled_from(LANGUAGES),
    unit=st.sampled_from(tuple(UNITS)),
    on=st.sampled_from(["manual", "append", "append", "sentence"]),
    operations=st.lists(OPERATIONS, min_size=4, max_size=16),
)
def test_vectors_are_those_of_the_text_whatever_happens(
    live: Live, language: str, unit: str, on: str, operations: list[tuple[Any, ...]]
) -> None:
    typist = Typist(live, language, unit, {"on": on, "pause_ms": 10})
    with typist.stack:
        typist.append(3)
        for name, *values in operations:
            getattr(typist, name)(*values)
        typist.finish()


@pytest.mark.parametrize("language", LANGUAGES)
def test_typed_character_by_character(live: Live, language: str) -> None:
    """Every language to the end, an embedding asked for at every character, the connection lost every thirty."""
    typist = Typist(live, language, "utf16", {"on": "append"})
    with typist.stack:
        for number in range(len(TEXTS[language])):
            typist.append(1)
            typist.embed()
            if number % 10 == 9:
                typist.read()
            if number % 30 == 26:
                typist.reconnect(2, read_first=number % 60 == 26)
            if number % 40 == 39:
                typist.evict()
        typist.finish()
    assert len({event["revision"] for event in typist.embeddings}) > len(TEXTS[language]) // 2


# What has begun is finished


def test_close_of_a_client_that_left_is_finished(serve: Serve, tmp_path: Path) -> None:
    """Its text is erased and its memory is given back, though nobody hears the answer."""
    live = serve(Settings(journal=str(tmp_path / "journal")))
    before = live.engine.stats().sessions
    for _ in range(8):
        with open_peer(live) as peer:
            session = peer.create(text="secret text", emit={"on": "append"})["session"]
            peer.send("input_text.append", session=session, text=HEAVY)
            peer.send("session.close", session=session)
            peer.drop()
    until(lambda: live.client.get("/v1/sessions").json()["data"] == [])
    until(lambda: live.engine.stats().sessions <= before)
    until(lambda: b"secret text" not in b"".join(file.read_bytes() for file in tmp_path.iterdir()))


def test_changes_near_the_start_of_a_long_text_hold_nobody_up(live: Live) -> None:
    """Each is one character, and has all that follows tokenised again: that is done in a thread, and others have their
    turn between them."""
    turns = 0
    with open_peer(live) as peer, open_peer(live) as other:
        session, mine = peer.create()["session"], other.create()["session"]
        peer.ask("input_text.append", session=session, text=HEAVY)
        for number in range(100):
            peer.send("input_text.replace", session=session, start=0, end=1, text="x", event_id=f"r{number}")
        until(lambda: stream_is_busy(live, session))
        while stream_is_busy(live, session):
            other.ask("input_text.append", session=mine, text="x")
            turns += 1
    assert turns > 3


def stream_is_busy(live: Live, session: str) -> bool:
    return sockets_of(live)._registry._streams[session]._mailbox._busy is not None
