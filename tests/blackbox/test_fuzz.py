"""Whatever comes: bytes, frames, JSON, events in any order. One answer to each request, of the table if it is an error;
right answers to the polite; no text, no key and no traceback in the log. ATTACKS multiplies how much comes."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import struct
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import websockets.exceptions
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from streambed.errors import ERROR_TABLE
from tests.blackbox.conftest import HOSTILE, POLITE, Target, read

SCALE = int(os.environ.get("ATTACKS", "1"))
MARKER = f"text-{secrets.token_hex(8)}"
"""Stands in what is sent, and must not stand in the log."""
STATUSES = {error.code: error.status for error in ERROR_TABLE}

some = settings(
    max_examples=40 * SCALE, deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip

text = st.one_of(
    st.text(max_size=20),
    st.just(MARKER),
    st.sampled_from(["", "\ud800", "\x00", "é" * 300, "<|endoftext|>", "a " * 3000]),
)
number = st.one_of(
    st.integers(-2, 40), st.sampled_from([1 << 31, 1 << 63, -(1 << 63), 1 << 70]), st.floats(allow_nan=True)
)
value: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), number, text),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(text, inner, max_size=4)),
    max_leaves=12,
)
FIELDS = (
    "event_id", "session", "resume_token", "text", "from", "to", "offset", "base_revision", "emit", "watch", "dimensions",
    "encoding_format", "instruction", "input_type", "prompt_name", "overflow", "offset_unit", "reducer", "nothing",
)  # fmt: skip
KINDS = (
    "session.create", "session.update", "session.resume", "session.fork", "session.close", "input_text.append",
    "input_text.set", "input_text.replace", "embedding.create", "nothing",
)  # fmt: skip
event = st.fixed_dictionaries(
    {"type": st.one_of(st.sampled_from(KINDS), value)},
    optional=dict.fromkeys(FIELDS, value) | {"session": st.one_of(st.integers(0, 3), value)},
)
sound = st.one_of(  # what a client might send
    st.builds(lambda n, t: {"type": "input_text.append", "session": n, "text": t}, st.integers(0, 3), st.text(max_size=9)),
    st.builds(lambda n, t: {"type": "input_text.set", "session": n, "text": t}, st.integers(0, 3), st.text(max_size=9)),
    st.builds(
        lambda n, a, b, t: {"type": "input_text.replace", "session": n, "from": a, "to": b, "text": t},
        st.integers(0, 3), st.integers(0, 20), st.integers(0, 20), st.text(max_size=9),
    ),
    st.builds(lambda n: {"type": "embedding.create", "session": n}, st.integers(0, 3)),
    st.builds(
        lambda n, size: {"type": "session.update", "session": n, "dimensions": size},
        st.integers(0, 3), st.integers(31, 99),
    ),
    st.builds(lambda n: {"type": "session.fork", "session": n}, st.integers(0, 3)),
    st.builds(lambda n: {"type": "session.close", "session": n}, st.integers(0, 3)),
    st.just({"type": "session.create"}),
)  # fmt: skip


@pytest.fixture(autouse=True)
def unsaid(shared_target: Target) -> Iterator[None]:
    yield
    shared_target.check()
    for secret in (MARKER, HOSTILE, POLITE):
        assert secret not in shared_target.process.output


def check_error(body: dict[str, Any], status: int) -> None:
    error = body["error"]
    assert STATUSES[error["code"]] == (400 if status == 405 else status)
    assert error["code"] != "internal"
    assert error["message"]


def check_reply(reply: bytes) -> None:
    """HTTP with a body that is right for its status. Nothing at all where the request said too little to be one."""
    if not reply:
        return
    head, _, body = reply.partition(b"\r\n\r\n")
    status = int(head.split()[1])
    assert head.startswith(b"HTTP/1.1 ")
    assert status < 500, reply[:500]
    if status >= 400 and b"chunked" not in head:
        length = int(head.lower().split(b"content-length: ")[1].split()[0])
        check_error(json.loads(body[:length]), status)


class Client:
    """Sends events on one socket; what stands for a session by its number gets its id."""

    def __init__(self, target: Target) -> None:
        self.wire = target.socket()
        self.sessions: list[str] = []
        self.texts: dict[str, tuple[int, int]] = {}

    def send(self, event: dict[str, Any]) -> list[dict[str, Any]]:
        """All that comes before the answer to another event. (What a session has to say may come later.)"""
        if isinstance(at := event.get("session"), int) and 0 <= at < len(self.sessions):
            event = event | {"session": self.sessions[at]}
        self.wire.send(json.dumps(event))
        self.wire.send(json.dumps({"type": "session.fork", "session": "none", "event_id": "mark"}))
        events: list[dict[str, Any]] = []
        while True:
            came = json.loads(self.wire.recv(60))
            if came.get("event_id") == "mark":
                return events
            events.append(came)
            if came["type"] == "session.created":
                self.sessions.append(came["session"])


@some
@given(st.lists(st.one_of(event, sound, sound), max_size=12))
def test_events_in_any_order(shared_target: Target, events: list[dict[str, Any]]) -> None:
    """Each that is no change, no embedding and no session's is answered at once; nothing ends the socket."""
    client = Client(shared_target)
    with client.wire:
        client.send({"type": "session.create", "emit": {"on": "append"}})
        while not client.sessions:
            client.send({"type": "session.update", "session": 0})
        for each in events:
            for came in client.send(each):
                if came["type"] == "error":
                    assert came["error"]["code"] in STATUSES
                    assert came["error"]["code"] != "internal", (each, came)
        for session in client.sessions:
            with httpx.Client(base_url=shared_target.polite.base_url, trust_env=False, timeout=60) as asking:
                asking.headers["Authorization"] = f"Bearer {HOSTILE}"
                state = asking.get(f"/v1/sessions/{session}")
                assert state.status_code in (200, 404), "open, or closed by one of the events"
                if state.status_code == 200:
                    assert asking.delete(f"/v1/sessions/{session}").status_code == 200


frame = st.one_of(
    st.binary(max_size=60),
    st.builds(
        lambda first, masked, mask, payload: bytes([first, (0x80 if masked else 0) | min(len(payload), 125)])
        + (mask if masked else b"") + payload[:125],
        st.integers(0, 255), st.booleans(), st.binary(min_size=4, max_size=4), st.binary(max_size=125),
    ),
    st.builds(lambda size: b"\x81\xff" + struct.pack("!Q", size) + b"\0\0\0\0", st.integers(0, (1 << 64) - 1)),
)  # fmt: skip
HANDSHAKE = "\n".join(
    ("GET /v1/embeddings", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13",
     "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==")
)  # fmt: skip


@some
@given(st.lists(frame, max_size=8))
def test_frames_that_are_none(shared_target: Target, frames: list[bytes]) -> None:
    with shared_target.send(HANDSHAKE) as connection:
        assert b" 101 " in connection.recv(1 << 16)
        with contextlib.suppress(ConnectionError):
            for each in frames:
                connection.sendall(each)


line = st.one_of(
    st.sampled_from(
        [b"Content-Length: 5", b"Content-Length: -1", b"Content-Length: 99999999999999999999", b"Transfer-Encoding: chunked",
         b"Transfer-Encoding: gzip", b"Expect: 100-continue", b"Connection: close", b"Upgrade: websocket", b"Host: x",
         b"Content-Type: application/json", b" folded", b"NoColon", b"\x00: \x01", f"X: {MARKER}".encode()]
    ),
    st.binary(max_size=20).map(lambda some: b"X: " + some),
)  # fmt: skip
start = st.sampled_from(
    [b"GET / HTTP/1.1", b"POST /v1/embeddings HTTP/1.1", b"POST /v1/embeddings HTTP/1.0", b"PRI * HTTP/2.0", b"GET",
     f"GET /{MARKER} HTTP/1.1".encode(), b"BREW /v1/sessions HTTP/1.1", b"PUT /v1/sessions/x/text HTTP/1.1", b""]
)  # fmt: skip


@some
@given(start, st.lists(line, max_size=6), st.binary(max_size=60), st.booleans())
def test_heads_that_are_none(
    shared_target: Target, start: bytes, lines: list[bytes], body: bytes, with_key: bool
) -> None:
    lines = [start, *([f"Authorization: Bearer {HOSTILE}".encode()] if with_key else []), *lines]
    with shared_target.connect() as connection, contextlib.suppress(ConnectionError):
        connection.sendall(b"\r\n".join(lines) + b"\r\n\r\n" + body)
        connection.shutdown(1)
        check_reply(read(connection))


POSTS = (
    "/v1/embeddings", "/v1/embeddings/prefixes", "/tokenize", "/v1/sessions", "/v1/sessions/x/append",
    "/v1/sessions/x/embedding", "/embed", "/api/embed", "/api/embeddings", "/api/show", "/",
)  # fmt: skip
ASKED = (
    "model",
    "input",
    "inputs",
    "prompt",
    "dimensions",
    "encoding_format",
    "priority",
    "every",
    "offsets",
    "timeout_ms",
)


@some
@example("/v1/embeddings", b'{"input": "' + MARKER.encode() + b'", "model": "none"}')
@example("/v1/embeddings", b"\xff" + MARKER.encode())
@given(
    st.sampled_from(POSTS),
    st.one_of(
        st.binary(max_size=80),
        value.map(lambda some: json.dumps(some).encode()),
        st.dictionaries(st.sampled_from(ASKED), value, max_size=6).map(lambda some: json.dumps(some).encode()),
        st.tuples(st.dictionaries(st.sampled_from(ASKED), value, max_size=3), st.integers(0, 60)).map(
            lambda cut: json.dumps(cut[0]).encode()[: cut[1]]
        ),
    ),
)
def test_bodies_that_are_none(shared_target: Target, path: str, body: bytes) -> None:
    reply = shared_target.ask(f"POST {path}\nContent-Type: application/json", body)
    head, _, content = reply.partition(b"\r\n\r\n")
    status = int(head.split()[1])
    assert status in (200, 201) or 400 <= status < 500, reply[:500]
    if status >= 400 and path.startswith(("/v1", "/tok")):
        check_error(json.loads(content), status)


def test_the_log_would_show_it(shared_target: Target) -> None:
    """That secrets are not there is no accident of the test: what a route is, is."""
    assert "POST /v1/embeddings " in shared_target.process.output
    with pytest.raises(websockets.exceptions.InvalidStatus):
        shared_target.socket(MARKER)


@pytest.mark.slow
def test_much_more_of_it() -> None:
    command = [sys.executable, "-m", "pytest", "--no-cov", "-q", "-p", "no:cacheprovider", __file__]
    run = subprocess.run(command, env=os.environ | {"ATTACKS": "40"}, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout
