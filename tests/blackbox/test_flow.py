"""A client that does not wait: nothing of what it sends is left out in the middle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.blackbox.conftest import Start, Target


@pytest.fixture(scope="module")
def kept(start_target: Start, tmp_path_factory: pytest.TempPathFactory) -> Target:
    """A server with a journal."""
    return start_target("--journal", Path(tmp_path_factory.mktemp("flow") / "journal"))


def text_of(target: Target, session: str, socket: Any) -> int:
    """The length of its text, once all that was sent has been answered."""
    socket.send(json.dumps({"type": "session.fork", "session": session, "event_id": "last"}))
    while True:
        event = json.loads(socket.recv(timeout=60))
        if event.get("event_id") == "last":
            offset: int = event["offset"]
            return offset


def test_thousands_of_changes_within_the_credit_are_all_applied(kept: Target) -> None:
    with kept.socket() as socket:
        socket.send(json.dumps({"type": "session.create", "overflow": "segment"}))
        created = json.loads(socket.recv())
        assert created["limits"]["max_unacknowledged"] >= 1
        assert created["credit"] >= 4 * 3000
        for number in range(3000):
            text = f"{number:3d} "[:4]
            socket.send(json.dumps({"type": "input_text.append", "session": created["session"], "text": text}))
        assert text_of(kept, created["session"], socket) == 4 * 3000
    kept.check()


@pytest.mark.parametrize("bad", ["\ud800", "x" * 300_000], ids=["no text", "too large"])
@pytest.mark.parametrize("journal", [True, False])
def test_nothing_behind_a_refused_change_is_applied(kept: Target, target: Target, bad: str, journal: bool) -> None:
    """Until the client shows that it has heard."""
    with (kept if journal else target).socket() as socket:
        socket.send(json.dumps({"type": "session.create"}))
        session = json.loads(socket.recv())["session"]

        def append(text: str, **more: Any) -> None:
            socket.send(json.dumps({"type": "input_text.append", "session": session, "text": text} | more))

        for text in ("one ", "two ", bad, "three ", "four "):
            append(text)
        assert text_of(target, session, socket) == len("one two ")
        append("three ", offset=len("one two "))
        append("four ")
        assert text_of(target, session, socket) == len("one two three four ")


def test_an_event_that_cannot_be_read_is_a_refused_change(target: Target) -> None:
    with target.socket() as socket:
        socket.send(json.dumps({"type": "session.create"}))
        session = json.loads(socket.recv())["session"]
        for more in ({}, {"unknown": 1}, {}):
            event = {"type": "input_text.append", "session": session, "text": "word "}
            socket.send(json.dumps(event | more))
        assert text_of(target, session, socket) == len("word ")
