"""The ledger says and hears what tests/transcripts/ demands of every client; the page's stream passes the same."""

from __future__ import annotations

import json
from collections import deque
from pathlib import Path
from typing import Any

import pytest

from streambed.client.events import Refused, Retry
from streambed.client.ledger import Ledger
from streambed.errors import StreambedError
from streambed.text.strings import common_prefix
from streambed.wire import load

TRANSCRIPTS = Path(__file__).parents[1] / "transcripts"
EVENTS = json.loads((TRANSCRIPTS / "events.json").read_text())
NAMES = sorted(path.stem for path in TRANSCRIPTS.glob("*.json") if path.stem != "events")


class Client:
    """A program with a ledger, which does what AsyncStream does. It ends where the ledger raises."""

    def __init__(self) -> None:
        self.ledger = Ledger({})
        self.sent: deque[dict[str, Any]] = deque()
        self.ids: dict[str, str] = {}
        self.retry = False
        self.refused: str | None = None
        self.ended: StreambedError | None = None

    def connection(self, what: str) -> None:
        self.retry = False
        if what == "lost":
            self.ledger.live = False
        else:
            self.sent.append(self.ledger.opening())

    def writes(self, text: str) -> None:
        self.refused, before = None, self.ledger.text
        start = common_prefix(before, text)
        tail = common_prefix(before[start:][::-1], text[start:][::-1])
        kind = "append" if start == len(before) else "replace"
        self.ledger.change(f"input_text.{kind}", start, len(before) - tail, text[start : len(text) - tail])
        self.sent.extend(self.ledger.frames())

    def client(self, expected: dict[str, Any], name: str | None) -> None:
        frame = self.sent.popleft()
        assert {key: frame.get(key) for key in expected} == expected
        if name is not None:
            self.ids[name] = frame["event_id"]

    def server(self, event: dict[str, Any]) -> None:
        if "event_id" in event:
            event = event | {"event_id": self.ids[event["event_id"]]}
        loaded = load(EVENTS[event["type"]] | event)
        assert loaded is not None
        try:
            happenings = self.ledger.receive(loaded)
        except StreambedError as error:
            self.ended, self.ledger.live = error, False
            return
        if event["type"] == "session.closed":
            self.retry = False  # the connection goes with it
        for happening in happenings:
            if isinstance(happening, Refused):
                self.refused = str(happening.error)
            elif isinstance(happening, Retry):
                self.retry = True
                if not happening.seconds:
                    self.later("")
        self.sent.extend(self.ledger.frames())

    def later(self, _: str) -> None:
        if not self.retry:
            return
        self.retry = False
        self.ledger.again()
        if not self.ledger.live:
            self.sent.append(self.ledger.opening())
        self.sent.extend(self.ledger.frames())

    def sees(self, expected: dict[str, Any]) -> None:
        seen = {
            "text": self.ledger.text,
            "acknowledged": self.ledger.revision,
            "told": str(self.ledger.reason) if self.ledger.reason else self.refused,
            "ended": type(self.ended).__name__,
        }
        assert {key: seen[key] for key in expected} == expected


@pytest.mark.parametrize("name", NAMES)
def test_the_ledger_passes(name: str) -> None:
    client = Client()
    for number, step in enumerate(json.loads((TRANSCRIPTS / f"{name}.json").read_text())):
        only, given = step.pop("only", "ledger"), step.pop("as", None)
        if only != "ledger":
            continue
        ((kind, what),) = step.items()
        if kind == "client":
            client.client(what, given)
        else:
            assert not client.sent, f"step {number}: sent beside what it must"
            getattr(client, kind)(what)
    assert not client.sent
