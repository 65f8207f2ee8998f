"""Streams with a journal: what was acknowledged outlives the process, whatever ends it; what has ended does not."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import queue
import random
import resource
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import websockets.exceptions
import websockets.sync.client

from streambed import Engine
from streambed.settings import Settings
from streambed.streams.registry import Registry
from streambed.streams.store.sqlite import SQLiteStore
from tests.checkpoints import load_engine
from tests.journals import bytes_of
from tests.server.conftest import Live, Servers, until
from tests.server.test_process import SECONDS, Process, refused

Event = dict[str, Any]
_numbers = itertools.count()


class Wire:
    """A WebSocket to a server, event by event."""

    def __init__(self, port: int, key: str | None = None) -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.socket = websockets.sync.client.connect(
            f"ws://127.0.0.1:{port}/v1/embeddings",
            additional_headers=headers, compression=None, proxy=None, open_timeout=SECONDS, close_timeout=1,
        )  # fmt: skip
        self.seen: list[Event] = []
        """Events that came while another was waited for, until they are cleared."""
        self.events: list[Event] = []
        """All that came."""

    def __enter__(self) -> Wire:
        self.socket.__enter__()
        return self

    def __exit__(self, *about: Any) -> None:
        self.socket.__exit__(*about)

    def send(self, type: str, **fields: Any) -> str:
        """Sends an event; returns its id."""
        event = {"type": type, "event_id": f"e{next(_numbers)}"} | fields
        self.socket.send(json.dumps(event))
        return str(event["event_id"])

    def receive(self, timeout: float = SECONDS) -> Event:
        """The next event. Raises TimeoutError."""
        event: Event = json.loads(self.socket.recv(timeout=timeout))
        self.events.append(event)
        return event

    def wait(self, condition: Callable[[Event], object]) -> Event:
        """The first event from now on for which it holds; those before it are kept in `seen`."""
        while True:
            event = self.receive()
            if condition(event):
                return event
            self.seen.append(event)

    def find(self, **fields: Any) -> Event:
        """The first event with these fields, whether it came already or not."""
        for event in self.events:
            if fields.items() <= event.items():
                return event
        return self.wait(lambda event: fields.items() <= event.items())

    def ask(self, type: str, **fields: Any) -> Event:
        """Sends an event and waits for its answer."""
        id = self.send(type, **fields)
        return self.wait(lambda event: event.get("event_id") == id)

    def create(self, **fields: Any) -> Event:
        event = self.ask("session.create", **fields)
        assert event["type"] == "session.created", event
        return event

    def resume(self, created: Event, **fields: Any) -> Event:
        values = {"session": created["session"], "resume_token": created["resume_token"]} | fields
        return self.ask("session.resume", **values)

    def change(self, type: str, session: str, **fields: Any) -> Event:
        """A change that must be acknowledged."""
        event = self.ask(f"input_text.{type}", session=session, **fields)
        assert event["type"] == "input_text.ack", event
        return event

    def embed(self, session: str) -> Event:
        event = self.ask("embedding.create", session=session)
        assert event["type"] == "embedding.done", event
        return event


def code(event: Event) -> str:
    """Of an error."""
    assert event["type"] == "error", event
    return str(event["error"]["code"])


def check_vector(process: Process | Live, text: str, vector: list[float]) -> None:
    """The text's embedding is what `POST /v1/embeddings` says of it."""
    names = process.client.get("/v1/models").json()["data"]
    reply = process.client.post("/v1/embeddings", json={"model": names[0]["id"], "input": text})
    assert reply.status_code == 200, reply.text
    expected = np.array(reply.json()["data"][0]["embedding"])
    assert np.dot(expected, np.array(vector)) >= 0.99999


def length(text: str, unit: str) -> int:
    match unit:
        case "utf16":
            return len(text.encode("utf-16-le")) // 2
        case "utf8":
            return len(text.encode())
    return len(text)


Serve = Callable[..., Process]


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@pytest.fixture
def serving(tiny_checkpoint: Path, journal: Path) -> Iterator[Serve]:
    """Starts `streambed serve` with the journal: `serving("--api-key", "k").ready()`."""
    processes: list[Process] = []

    def start(*arguments: str | Path) -> Process:
        common = ("--model", tiny_checkpoint, "--port", "0", "--threads", "1", "--dtype", "float32")
        processes.append(Process(*common, "--journal", journal, *arguments))
        return processes[-1]

    yield start
    for process in processes:
        process.close()
        assert "Traceback" not in process.output


class Local:
    """A server with the journal, in this process."""

    def __init__(self, engine: Engine, journal: Path) -> None:
        self._servers = Servers()
        self._engine = engine
        self._journal = journal

    def start(self, **settings: Any) -> Live:
        return self._servers.start(self._engine, Settings(journal=str(self._journal), drain=5.0, **settings))

    def stop(self) -> None:
        """An orderly end."""
        self._servers.stop()

    def restart(self, **settings: Any) -> Live:
        self.stop()
        return self.start(**settings)


@pytest.fixture
def local(engine: Engine, journal: Path) -> Iterator[Local]:
    local = Local(engine, journal)
    yield local
    local.stop()


def test_what_is_sent_at_once_is_done_in_its_order(local: Local) -> None:
    """New options and the end of a session wait for the disk; what stands between them does, too."""
    with Wire(local.start().port) as wire:
        for _ in range(5):
            session = wire.create(text="a brook")["session"]
            ids = [
                wire.send("input_text.append", session=session, text=" runs"),
                wire.send("session.update", session=session, emit={"on": "manual"}),
                wire.send("input_text.append", session=session, text=" to"),
                wire.send("session.update", session=session, watch=[]),
                wire.send("input_text.append", session=session, text=" the sea"),
                wire.send("session.close", session=session),
            ]
            heard = []
            while not heard or heard[-1]["type"] != "session.closed":
                heard.append(wire.receive())
            answers = [(event.get("event_id"), event["type"], event.get("revision")) for event in heard]
            assert not [event for event in heard if event["type"] == "error"]
            assert (ids[1], "session.updated", 1) in answers
            assert (ids[3], "session.updated", 2) in answers
            assert (ids[4], "input_text.ack", 3) in answers


# Kills


@dataclass
class Writer:
    """A session as its client knows it: the changes it sent, and what became of them."""

    created: Event
    unit: str
    texts: list[str] = field(default_factory=lambda: [""])
    """The text at each revision, sent or acknowledged."""
    changes: list[tuple[str, Event]] = field(default_factory=list)
    """What leads from each revision to the next."""
    acked: int = 0
    closing: bool = False
    closed: bool = False

    @property
    def id(self) -> str:
        return str(self.created["session"])

    @property
    def sent(self) -> int:
        return len(self.changes)

    def make(self, rng: random.Random) -> None:
        """Thinks of a change."""
        text = self.texts[-1]
        words = "".join(rng.choices(["a", "the ", "é", "世", "😀", "\n", "end. ", "x", ""], k=rng.randint(0, 6)))
        kind = rng.choice(["append", "append", "append", "replace", "set"]) if len(text) < 90 else "shorten"
        if kind == "append":
            change, after = {"text": words}, text + words
            if rng.random() < 0.3:
                change["offset"] = length(text, self.unit)  # type: ignore[assignment]
        elif kind == "set":
            after = text[: rng.randint(0, len(text))] + words
            change = {"text": after}
        else:
            start, end = sorted((rng.randint(0, len(text)), rng.randint(0, len(text))))
            if kind == "shorten":
                kind, start, end = "replace", 5, len(text)
            after = text[:start] + words + text[end:]
            places = {"start": length(text[:start], self.unit), "end": length(text[:end], self.unit)}
            change = {"text": words} | places  # type: ignore[assignment]
        self.changes.append((kind, {"base_revision": self.sent} | change))
        self.texts.append(after)

    def send(self, wire: Wire, revision: int) -> None:
        """Sends the change that makes this revision, whether or not it was sent before."""
        kind, change = self.changes[revision - 1]
        wire.send(f"input_text.{kind}", session=self.id, **change)

    def hear(self, event: Event) -> None:
        if event["type"] == "session.closed":
            assert self.closing
            self.closed = True
            return
        assert event["type"] == "input_text.ack", event
        assert self.acked <= event["revision"] <= self.sent, event
        assert event["offset"] == length(self.texts[event["revision"]], self.unit), event
        self.acked = event["revision"]


class Stream:
    """Writers on one socket at a time, through kills."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.writers: list[Writer] = []
        self.kept = 0
        """How many changes were on disk though their acknowledgement was lost."""

    def writer(self, id: str) -> Writer:
        return next(writer for writer in self.writers if writer.id == id)

    def create(self, wire: Wire) -> None:
        unit = ["codepoint", "utf16", "utf8"][len(self.writers) % 3]
        text = self.rng.choice(["", "begin 😀 "])
        self.writers.append(Writer(wire.create(offset_unit=unit, text=text), unit, [text]))

    def recover(self, wire: Wire, process: Process) -> None:
        """Resumes all; sends what is missing, and a part of what is not, again."""
        for writer in list(self.writers):
            event = wire.resume(writer.created)
            if writer.closed or (writer.closing and event["type"] == "error"):
                assert code(event) == "not_found", "it was closed"
                self.writers.remove(writer)
                continue
            writer.closing = False
            assert event["type"] == "session.resumed", event
            revision = event["revision"]
            assert writer.acked <= revision <= writer.sent, "what was acknowledged is there, and nothing else"
            assert event["offset"] == length(writer.texts[revision], writer.unit)
            state = process.client.get(f"/v1/sessions/{writer.id}").json()
            assert (state["revision"], state["offset"]) == (revision, event["offset"])
            self.kept += revision - writer.acked
            writer.acked = revision
            if not writer.texts[-1]:
                writer.changes.append(("append", {"base_revision": writer.sent, "text": "not empty"}))
                writer.texts.append("not empty")
            for number in range(max(1, revision - self.rng.randint(0, 20)), writer.sent + 1):
                writer.send(wire, number)
            self.settle(wire, writer)
            event = wire.embed(writer.id)
            assert (event["revision"], event["offset"]) == (writer.sent, length(writer.texts[-1], writer.unit))
            check_vector(process, writer.texts[-1], event["embedding"])

    def settle(self, wire: Wire, writer: Writer) -> None:
        """Waits until all is acknowledged."""
        while writer.acked < writer.sent:
            self.writer_of(event := wire.receive()).hear(event)
        # Acknowledgements of what was sent again may still be on their way; this one is behind them.
        kind = wire.ask("session.update", session=writer.id)["type"]
        assert kind == "session.updated"

    def writer_of(self, event: Event) -> Writer:
        assert event["type"] in ("input_text.ack", "session.closed"), event
        return self.writer(event["session"])

    def run(self, wire: Wire) -> None:
        """Writes until the connection breaks."""
        rng = self.rng
        try:
            while True:
                writer = rng.choice([writer for writer in self.writers if not writer.closing])
                writer.make(rng)
                writer.send(wire, writer.sent)
                if len(self.writers) < 6 and rng.random() < 0.01:
                    wire.seen.clear()
                    try:
                        self.create(wire)
                    finally:
                        for event in wire.seen:
                            self.writer_of(event).hear(event)
                if sum(not each.closing for each in self.writers) > 3 and rng.random() < 0.01:
                    writer.closing = True
                    wire.send("session.close", session=writer.id)
                crowded = any(each.sent - each.acked > 100 for each in self.writers if not each.closing)
                with contextlib.suppress(TimeoutError):
                    while True:
                        event = wire.receive(SECONDS if crowded else 0)
                        self.writer_of(event).hear(event)
                        crowded = any(each.sent - each.acked > 100 for each in self.writers if not each.closing)
        except (websockets.exceptions.ConnectionClosed, EOFError, OSError):
            with contextlib.suppress(websockets.exceptions.ConnectionClosed):
                while True:  # what had come before
                    event = wire.receive()
                    self.writer_of(event).hear(event)


def kills(serving: Serve, seed: int, rounds: int) -> None:
    stream = Stream(seed)
    process = serving().ready()
    with Wire(process.port) as wire:
        for _ in range(3):
            stream.create(wire)
        first = stream.writers[0]
        for _ in range(600):  # beyond the changes after which the whole text is written
            first.make(stream.rng)
            first.send(wire, first.sent)
            if first.sent % 100 == 0:
                stream.settle(wire, first)
    for _ in range(rounds):
        with Wire(process.port) as wire:
            stream.recover(wire, process)
            killer = threading.Timer(stream.rng.uniform(0, 0.2), process.process.kill)
            killer.start()
            stream.run(wire)
            killer.join()
        assert process.end() == -signal.SIGKILL
        process.close()
        process = serving().ready()
    with Wire(process.port) as wire:
        stream.recover(wire, process)
    assert process.end(signal.SIGTERM) == 0


def test_kills(serving: Serve) -> None:
    """kill -9 at random instants: nothing acknowledged is lost, nothing is applied twice, nothing closed comes back."""
    seed = random.randrange(1 << 32)
    try:
        kills(serving, seed, 2)
    except BaseException as error:
        error.add_note(f"seed {seed}")
        raise


@pytest.mark.slow
def test_many_kills(serving: Serve) -> None:
    kills(serving, 1, 200)


# A full disk


def limit(process: Process, size: int) -> None:
    """Files of the process cannot grow beyond this size any more. Python ignores SIGXFSZ, so that writes fail."""
    _, most = resource.prlimit(process.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(process.process.pid, resource.RLIMIT_FSIZE, (size, most))


@pytest.mark.slow
def test_full_disk(serving: Serve, journal: Path) -> None:
    """Changes are refused, nothing of them is applied, and all else goes on; with room again, so do they."""
    process = serving().ready()
    marker = "quartz-marker-of-the-one-that-ends"
    with Wire(process.port) as wire:
        created, ending = wire.create(text="it begins "), wire.create(text=marker)
        session = created["session"]
        wire.change("append", session, text="well ", base_revision=0)
        limit(process, 0)
        changes = [
            ("append", {"text": "and ", "base_revision": 1}),
            ("replace", {"start": 0, "end": 2, "text": "this", "base_revision": 2}),
            ("set", {"text": "altogether another text", "base_revision": 3}),
        ]
        for _ in range(3):
            ids = [wire.send(f"input_text.{kind}", session=session, **change) for kind, change in changes]
            errors = {}
            while len(errors) < len(ids):
                event = wire.receive()
                assert event["type"] == "error", event
                errors[event["event_id"]] = event
            assert set(errors) == set(ids)
            assert code(errors[ids[0]]) == "storage_full"
            assert {code(event) for event in errors.values()} <= {"storage_full", "revision_gap"}
            assert {event["revision"] for event in errors.values()} == {1}

        # How it stands is what was acknowledged; what needs no disk goes on.
        state = process.client.get(f"/v1/sessions/{session}").json()
        assert (state["revision"], state["offset"]) == (1, len("it begins well "))
        assert process.post("tiny").status_code == 200
        event = wire.embed(session)
        assert (event["revision"], event["offset"]) == (1, len("it begins well "))
        check_vector(process, "it begins well ", event["embedding"])
        reply = process.client.post(f"/v1/sessions/{session}/append", json={"text": "x"})
        assert (reply.status_code, reply.json()["revision"]) == (507, 1)
        assert reply.json()["error"]["code"] == "storage_full"
        assert "Retry-After" in reply.headers
        assert process.client.post("/v1/sessions", json={"text": "new"}).status_code == 507
        assert code(wire.ask("session.create", text="new")) == "storage_full"
        assert code(wire.ask("session.fork", session=session)) == "storage_full"
        assert code(wire.ask("session.update", session=session, emit={"on": "append"})) == "storage_full"
        assert len(process.client.get("/v1/sessions").json()["data"]) == 2
        # Who ends a session need not wait for room.
        assert wire.ask("session.close", session=ending["session"])["type"] == "session.closed"
        assert marker.encode() in bytes_of(journal), "or this test would see nothing"

        limit(process, resource.RLIM_INFINITY)
        until(lambda: marker.encode() not in bytes_of(journal), SECONDS)
        for number, (kind, change) in enumerate(changes):
            assert wire.change(kind, session, **change)["revision"] == number + 2
        assert wire.create(text="new")["revision"] == 0

    assert process.end(signal.SIGKILL) == -signal.SIGKILL
    process = serving().ready()
    assert len(process.client.get("/v1/sessions").json()["data"]) == 2
    with Wire(process.port) as wire:
        event = wire.resume(created)
        assert (event["type"], event["revision"]) == ("session.resumed", 4)
        check_vector(process, "altogether another text", wire.embed(session)["embedding"])
        assert code(wire.resume(ending)) == "not_found"


@pytest.mark.slow
def test_disk_that_is_full_now_and_then(serving: Serve, journal: Path) -> None:
    """Each change is acknowledged or refused, whatever fits at its time, also while other sessions come and go."""
    seed = random.randrange(1 << 32)
    rng = random.Random(seed)
    process = serving().ready()
    log = journal.with_name(journal.name + "-wal")
    with Wire(process.port) as wire:
        writer = Writer(wire.create(), "codepoint")
        refusals = 0
        for turn in range(40):
            size = (log if log.exists() and rng.random() < 0.7 else journal).stat().st_size
            unlimited = turn % 5 == 4
            limit(process, resource.RLIM_INFINITY if unlimited else rng.choice([0, size, size + 2000, size + 9000]))
            sent = {}
            for number in range(rng.randint(1, 20)):
                writer.make(rng)
                kind, change = writer.changes[-1]
                sent[wire.send(f"input_text.{kind}", session=writer.id, **change)] = writer.sent
                if number % 4 == 0:
                    process.client.post("/v1/sessions", json={"text": "x" * rng.choice([1, 300])})
                    for each in process.client.get("/v1/sessions").json()["data"]:
                        if not each["attached"]:
                            process.client.delete(f"/v1/sessions/{each['session']}")
            refused: set[int] = set()
            while sent:
                event = wire.receive()
                if event["type"] == "input_text.ack":
                    writer.hear(event)
                    sent = {id: revision for id, revision in sent.items() if revision > writer.acked}
                else:
                    assert code(event) in ("storage_full", "revision_gap"), f"seed {seed}, turn {turn}: {event}"
                    refused.add(sent.pop(event["event_id"]))
            about = f"seed {seed}, turn {turn}"
            refusals += len(refused)
            assert all(revision > writer.acked for revision in refused), about
            assert not unlimited or not refused, f"refused with room for all: {about}"
            del writer.texts[writer.acked + 1 :], writer.changes[writer.acked :]
            state = process.client.get(f"/v1/sessions/{writer.id}").json()
            assert (state["revision"], state["offset"]) == (writer.acked, len(writer.texts[-1])), about
            if writer.texts[-1]:
                check_vector(process, writer.texts[-1], wire.embed(writer.id)["embedding"])
    assert refusals > 10, f"seed {seed}"
    assert writer.acked > 10, f"seed {seed}"
    assert process.end(signal.SIGKILL) == -signal.SIGKILL
    process = serving().ready()
    with Wire(process.port) as wire:
        resumed = wire.resume(writer.created)
        assert (resumed["revision"], resumed["offset"]) == (writer.acked, len(writer.texts[-1])), f"seed {seed}"
        text = writer.texts[-1] + "end"
        wire.change("append", writer.id, text="end", base_revision=writer.acked)
        check_vector(process, text, wire.embed(writer.id)["embedding"])


@pytest.mark.slow
def test_full_disk_and_many_in_flight(serving: Serve) -> None:
    """Changes without `base_revision`, one on the heels of the other: each is refused or kept, and the session goes on."""
    process = serving().ready()
    with Wire(process.port) as wire:
        created = wire.create(text="0 ")
        session, text = created["session"], "0 "
        for turn in range(6):
            limit(process, 0)
            ids = {wire.send("input_text.append", session=session, text="x"): n for n in range(100)}
            while ids:
                event = wire.receive()
                assert code(event) == "storage_full", event
                assert event["revision"] == turn
                ids.pop(event["event_id"])
            limit(process, resource.RLIM_INFINITY)
            for _ in range(20):
                event = wire.ask("input_text.append", session=session, text=f"{turn} ")
                if event["type"] == "input_text.ack":
                    break
                assert code(event) == "storage_full", event
            assert event["type"] == "input_text.ack", f"refused for ever, turn {turn}: {event}"
            text += f"{turn} "
            assert (event["revision"], event["offset"]) == (turn + 1, len(text))
    assert process.end(signal.SIGKILL) == -signal.SIGKILL
    process = serving().ready()
    with Wire(process.port) as wire:
        event = wire.resume(created)
        assert (event["revision"], event["offset"]) == (6, len(text))
        check_vector(process, text, wire.embed(session)["embedding"])


class Gate:
    """Holds a journal's transactions, and has them fail on demand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.on = False
        self.arrived: queue.SimpleQueue[SQLiteStore] = queue.SimpleQueue()
        self._what: queue.SimpleQueue[str] = queue.SimpleQueue()
        commit, open_ = SQLiteStore._commit, SQLiteStore._open
        failing = threading.Event()

        def gated(journal: SQLiteStore, batch: list[Any]) -> None:
            if self.on and batch:
                self.arrived.put(journal)
                if self._what.get(timeout=SECONDS) == "fail":
                    failing.set()
                    journal._disconnect()
            commit(journal, batch)
            failing.clear()

        def opened(journal: SQLiteStore) -> sqlite3.Connection:
            if failing.is_set():
                raise sqlite3.OperationalError("disk I/O error")
            return open_(journal)

        monkeypatch.setattr(SQLiteStore, "_commit", gated)
        monkeypatch.setattr(SQLiteStore, "_open", opened)

    def wait(self) -> SQLiteStore:
        """Until a transaction is about to begin."""
        return self.arrived.get(timeout=SECONDS)

    def let(self, what: str) -> None:
        """`go` or `fail`."""
        self._what.put(what)


def test_late_refusal(local: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refusal of what was taken back before does not take back what has come since."""
    gate = Gate(monkeypatch)
    live = local.start()
    with Wire(live.port) as wire:
        created = wire.create(text="0")
        session = created["session"]
        wire.change("append", session, text="1")
        gate.on = True
        two = wire.send("input_text.append", session=session, text="two")
        journal = gate.wait()
        three = wire.send("input_text.append", session=session, text="three")
        until(lambda: journal._queue.qsize() == 1)
        gate.let("fail")
        assert [code(event := wire.receive()) for _ in range(2)] == ["storage_full"] * 2
        assert event["revision"] == 1
        assert {each["event_id"] for each in wire.events[-2:]} == {two, three}
        metrics = live.client.get("/metrics").text
        assert 'streambed_events_total{outcome="storage_full",type="input_text.append"} 2.0' in metrics
        live.errors.clear()
        gate.wait()  # the transaction that refuses "three"; meanwhile the client goes on
        ids = [wire.send("input_text.append", session=session, text=text) for text in ("4", "5")]
        until(lambda: journal._queue.qsize() == 2)
        gate.let("go")
        gate.wait()
        gate.on = False
        gate.let("go")
        last = wire.wait(lambda event: event.get("event_id") == ids[-1])
        text = "01"
        if last["type"] == "input_text.ack":
            text += "45"
            assert last["revision"] == 3
        assert [event["type"] for event in wire.seen if event["type"] == "error"] == [], "they were written"
        for _ in range(5):
            event = wire.ask("input_text.append", session=session, text="6")
            if event["type"] == "input_text.ack":
                break
        assert event["type"] == "input_text.ack", event
        metrics = live.client.get("/metrics").text
        if last["type"] == "input_text.ack":
            assert 'streambed_events_total{outcome="storage_full",type="input_text.append"} 2.0' in metrics
        text += "6"
        assert event["offset"] == len(text)
    live = local.restart()
    with Wire(live.port) as wire:
        event = wire.resume(created)
        assert event["offset"] == len(text)
        check_vector(live, text, wire.embed(session)["embedding"])


# Starts


@pytest.mark.slow
def test_second_server(serving: Serve, journal: Path) -> None:
    """Refused at once, in a line that says why; the first does not notice."""
    process = serving().ready()
    with Wire(process.port) as wire:
        session = wire.create()["session"]
        second = serving()
        said = refused(second)
        assert said == f"--journal {journal}: it is in use by another process"
        assert "Loading" not in second.output
        assert wire.change("append", session, text="a")["revision"] == 1
    assert process.end(signal.SIGTERM) == 0
    process = serving().ready()
    assert process.client.get(f"/v1/sessions/{session}").json()["revision"] == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: path.write_text("Dear diary,\n" * 100), "file is not a database"),
        (lambda path: path.mkdir(), "not a file"),
        (lambda path: path.parent.rmdir(), "No such file or directory"),
    ],
)
def test_no_journal(serving: Serve, journal: Path, make: Callable[[Path], object], says: str) -> None:
    make(journal)
    process = serving()
    assert refused(process) == f"--journal {journal}: {says}"
    assert "Loading" not in process.output


def test_damaged_journal(serving: Serve, journal: Path) -> None:
    """The server starts, and says what is lost."""
    SQLiteStore(journal)._disconnect()
    with contextlib.closing(sqlite3.connect(journal)) as connection:
        connection.execute("DROP TABLE changes")
        connection.execute("DROP TABLE sessions")
        connection.execute("CREATE TABLE other (id)")
        connection.commit()
    process = serving().ready()
    assert "journal: its file is damaged; 0 sessions were recovered" in process.output
    assert "Traceback" not in process.output


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE sessions SET options = '{' WHERE id = ?",
        """UPDATE sessions SET options = '{"from_the_future": 1}' WHERE id = ?""",
        """UPDATE sessions SET options = '{"dimensions": "many"}' WHERE id = ?""",
        "UPDATE sessions SET text = x'ff' WHERE id = ?",
    ],
)
def test_damaged_session(local: Local, engine: Engine, journal: Path, damage: str) -> None:
    """It is not there; the others are."""
    live = local.start()
    ids = [live.client.post("/v1/sessions", json={"text": f"text {n}"}).json()["session"] for n in range(3)]
    live.client.post(f"/v1/sessions/{ids[1]}/append", json={"text": "more"})
    local.stop()
    with contextlib.closing(sqlite3.connect(journal)) as connection:
        assert connection.execute(damage, (ids[1],)).rowcount == 1
        connection.commit()
    opened = SQLiteStore(journal)
    try:
        registry = Registry(engine, Settings(), opened)
    finally:
        opened.close()
    assert [stream.id for stream in registry.of("")] == [ids[0], ids[2]]


# Ends


def test_erased(serving: Serve, journal: Path) -> None:
    """A session that is closed, over either protocol, or expires, leaves no byte of its text on disk."""
    process = serving("--session-ttl", "1").ready()
    names = ("closed", "deleted", "expired", "forgotten", "kept")
    markers = {name: f"quartz-marker-{name}-" for name in names}

    def on_disk() -> set[str]:
        held = bytes_of(journal)
        return {name for name, marker in markers.items() if marker.encode() in held}

    with Wire(process.port) as keeper:
        with Wire(process.port) as wire:
            created = {name: wire.create(text="", watch=[]) for name in names}
            sessions = {name: event["session"] for name, event in created.items()}
            for name, session in sessions.items():
                for _ in range(5):
                    wire.change("append", session, text=markers[name])
                wire.change("replace", session, start=3, end=9, text=markers[name])
                if name != "kept":
                    wire.change("set", session, text="nothing of it any more")
            assert on_disk() == set(names)

            event = wire.ask("session.close", session=sessions["closed"])
            assert (event["type"], event["reason"]) == ("session.closed", "closed")
            assert on_disk() == set(names) - {"closed"}

            reply = process.client.delete(f"/v1/sessions/{sessions['deleted']}")
            assert (reply.status_code, reply.json()["reason"]) == (200, "closed")
            assert on_disk() == {"expired", "forgotten", "kept"}
            event = wire.wait(lambda event: event["type"] == "session.closed")
            assert event["session"] == sessions["deleted"]

            for name in ("closed", "deleted"):
                assert code(wire.resume(created[name])) == "not_found"
                assert process.client.delete(f"/v1/sessions/{sessions[name]}").status_code == 404
            assert keeper.resume(created["kept"])["type"] == "session.resumed"
        until(lambda: on_disk() == {"kept"}, SECONDS)
        assert process.client.get(f"/v1/sessions/{sessions['expired']}").status_code == 404
        assert code(keeper.resume(created["expired"])) == "not_found"
        assert keeper.embed(sessions["kept"])["revision"] == 6

    # Time goes on for what a restart found.
    assert process.end(signal.SIGKILL) == -signal.SIGKILL
    assert on_disk() == {"kept"}
    process = serving("--session-ttl", "1").ready()
    until(lambda: on_disk() == set(), SECONDS)
    assert process.client.get("/v1/sessions").json()["data"] == []
    assert process.end(signal.SIGTERM) == 0
    with contextlib.closing(sqlite3.connect(journal)) as connection:
        for table in ("sessions", "changes"):
            assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)


@pytest.mark.slow
def test_drain(serving: Serve) -> None:
    """SIGTERM says where to go on, and there it does, for who has the key and the token."""
    keys = ("--api-key", "key-one", "--api-key", "key-two")
    process = serving(*keys).ready()
    with Wire(process.port, "key-one") as wire:
        created = [wire.create(text=f"session {n}: ") for n in range(3)]
        for number, event in enumerate(created):
            for _ in range(number):
                wire.change("append", event["session"], text="more ")
        wire.send("input_text.append", session=created[2]["session"], text="perhaps")
        process.process.send_signal(signal.SIGTERM)
        farewells = {}
        with contextlib.suppress(websockets.exceptions.ConnectionClosed):
            while True:
                event = wire.receive()
                if event["type"] == "session.closed":
                    assert event["reason"] == "draining"
                    farewells[event["session"]] = event["resume"]
        assert wire.socket.close_code == 1012
    assert process.end() == 0
    assert set(farewells) == {event["session"] for event in created}
    for number, event in enumerate(created[:2]):
        assert farewells[event["session"]] == {
            "resume_token": event["resume_token"],
            "revision": number,
            "offset": len("session 0: ") + number * len("more "),
            "expires_in_s": 600.0,
        }

    process = serving(*keys).ready()
    with Wire(process.port, "key-two") as wire:
        for event in created:
            assert code(wire.resume(event)) == "not_found", "another key"
    with Wire(process.port, "key-one") as wire:
        first, second, _ = created
        for token in ("", "wrong", second["resume_token"], first["resume_token"][:-1]):
            assert code(wire.resume(first, resume_token=token)) == "not_found"
        for number, event in enumerate(created):
            resumed = wire.resume(event)
            assert resumed["type"] == "session.resumed", resumed
            assert resumed["resume_token"] == event["resume_token"]
            assert resumed["fingerprint"] == event["fingerprint"]
            assert resumed["revision"] >= farewells[event["session"]]["revision"] >= number
        assert resumed["revision"] in (2, 3)
        assert code(wire.ask("input_text.append", session="ses_nobody", text="x")) == "not_found"
        assert wire.change("append", first["session"], text="!", base_revision=0)["revision"] == 1
    headers = [{"Authorization": f"Bearer {key}"} for key in ("key-one", "key-two")]
    listed = [process.client.get("/v1/sessions", headers=each).json()["data"] for each in headers]
    assert [len(each) for each in listed] == [3, 0]
    path = f"/v1/sessions/{first['session']}"
    assert [process.client.get(path, headers=each).status_code for each in headers] == [200, 404]
    assert process.client.delete(path, headers=headers[1]).status_code == 404
    assert created[0]["resume_token"] not in process.output


# What is there after a restart


def test_options_survive(local: Local) -> None:
    """All of them: what was said at creation, and what has changed since."""
    live = local.start()
    options = {
        "instruction": "Find the sentence",
        "dimensions": 32,
        "encoding_format": "base64",
        "offset_unit": "utf16",
        "emit": {"on": "append"},
        "watch": [{"id": "cat", "text": "a cat", "threshold": -1}],
    }
    with Wire(live.port) as wire:
        created = wire.create(text="😀 ", **options)
        other = wire.create(text="b ", emit={"on": "append"})
        changed = wire.create(text="c ")
        vector = [1.0] + [0.0] * 63
        event = wire.ask(
            "session.update",
            session=changed["session"],
            emit={"on": "append"},
            watch=[{"id": "by vector", "embedding": vector, "threshold": -1}],
        )
        assert event["type"] == "session.updated"
        event = wire.ask("session.update", session=other["session"], emit={"on": "manual"})
        assert event["type"] == "session.updated"

    live = local.restart()
    with Wire(live.port) as wire:
        resumed = wire.resume(created)
        assert (resumed["offset"], resumed["dimensions"]) == (3, 32)
        session = created["session"]
        assert wire.change("append", session, text="😀")["offset"] == 5
        assert wire.find(type="watch.triggered", session=session)["watch"] == "cat"
        done = wire.find(type="embedding.done", session=session, revision=1)
        assert "event_id" not in done, "it came unasked"
        values = np.frombuffer(base64.b64decode(done["embedding"]), "<f4")
        reply = live.post("😀 😀", dimensions=32, instruction="Find the sentence")
        assert np.dot(values, np.array(reply.json()["data"][0]["embedding"])) >= 0.99999

        assert wire.resume(changed)["type"] == "session.resumed"
        wire.change("append", changed["session"], text="d")
        assert wire.find(type="watch.triggered", session=changed["session"])["watch"] == "by vector"
        wire.find(type="embedding.done", session=changed["session"], revision=1)

        assert wire.resume(other)["type"] == "session.resumed"
        wire.change("append", other["session"], text="d")
        asked = wire.embed(other["session"])
        told = [each for each in wire.events if each.get("session") == other["session"]]
        assert [each for each in told if each["type"] == "embedding.done"] == [asked], "nothing comes unasked"


def test_sent_again_after_a_restart(local: Local) -> None:
    """A change that was applied before is known, and another in its place is not it; by revision and by offset."""
    live = local.start()
    with Wire(live.port) as wire:
        created = wire.create()
        session = created["session"]
        for number, word in enumerate(("one ", "two ", "three ")):
            wire.change("append", session, text=word, base_revision=number)
    live = local.restart()
    with Wire(live.port) as wire:
        wire.resume(created)
        for number, word in enumerate(("one ", "two ", "three ")):
            event = wire.change("append", session, text=word, base_revision=number)
            assert (event["revision"], event["offset"]) == (3, 14)
        event = wire.ask("input_text.append", session=session, text="other", base_revision=1)
        assert (code(event), event["revision"]) == ("revision_conflict", 3)
        event = wire.ask("input_text.append", session=session, text="later", base_revision=4)
        assert (code(event), event["revision"]) == ("revision_gap", 3)
        event = wire.change("append", session, text="three four", offset=8)
        assert (event["revision"], event["offset"]) == (4, 18)
        wire.change("replace", session, start=0, end=3, text="1", base_revision=4)
    live = local.restart()
    with Wire(live.port) as wire:
        assert wire.resume(created)["revision"] == 5
        event = wire.ask("input_text.append", session=session, text="four five", offset=12)
        assert code(event) == "offset_conflict", "that it was edited is known after a restart"
        event = wire.change("replace", session, start=0, end=3, text="1", base_revision=4)
        assert (event["revision"], event["offset"]) == (5, 16)
        check_vector(live, "1 two three four", wire.embed(session)["embedding"])


def test_over_http_alone(local: Local) -> None:
    live = local.start()
    created = live.client.post("/v1/sessions", json={"text": "it begins"}).json()
    path = f"/v1/sessions/{created['session']}"
    assert live.client.post(f"{path}/append", json={"text": ", goes on"}).json()["revision"] == 1
    live = local.restart()
    state = live.client.get(path).json()
    assert (state["revision"], state["offset"], state["kv"], state["attached"]) == (1, 18, "cold", False)
    assert state["expires_in_s"] > 500
    reply = live.client.post(f"{path}/append", json={"text": " and ends", "offset": 18, "base_revision": 1})
    assert (reply.status_code, reply.json()["revision"], reply.json()["offset"]) == (200, 2, 27)
    check_vector(live, "it begins, goes on and ends", live.client.post(f"{path}/embedding").json()["embedding"])
    live = local.restart()
    assert live.client.put(f"{path}/text", json={"text": "it ends", "base_revision": 2}).json()["offset"] == 7
    live = local.restart()
    # A recovered session that nobody used ends like any other.
    assert live.client.delete(path).json()["reason"] == "closed"
    live = local.restart()
    assert live.client.get("/v1/sessions").json()["data"] == []


def test_forks_survive(local: Local) -> None:
    """A fork and what it was made from are two sessions on disk, too."""
    live = local.start()
    with Wire(live.port) as wire:
        created = wire.create(text="root ", offset_unit="utf8", emit={"on": "manual"})
        wire.change("append", created["session"], text="é ")
        fork = wire.ask("session.fork", session=created["session"])
        assert fork["type"] == "session.created"
        wire.change("append", created["session"], text="left")
        stood = wire.change("append", fork["session"], text="right")
    live = local.restart()
    with Wire(live.port) as wire:
        for event, text in ((created, "root é left"), (fork, "root é right")):
            resumed = wire.resume(event)
            assert resumed["offset"] == len(text.encode())
            check_vector(live, text, wire.embed(event["session"])["embedding"])
        assert resumed["revision"] == stood["revision"]
        assert wire.ask("session.close", session=created["session"])["type"] == "session.closed"
    live = local.restart()
    assert [each["session"] for each in live.client.get("/v1/sessions").json()["data"]] == [fork["session"]]


def test_segments_survive(local: Local) -> None:
    """Where the segment that grows begins is on disk, so a restart ends none of them elsewhere."""
    live = local.start()
    text = " ".join(f"word{number % 90}." if number % 7 == 0 else f"word{number % 90}" for number in range(900))
    with Wire(live.port) as wire:
        created = wire.create(overflow="segment", offset_unit="utf16")
        assert (created["overflow"], created["segment"], created["start"]) == ("segment", 0, 0)
        for at in range(0, len(text), 700):
            ack = wire.change("append", created["session"], text="🌊" + text[at : at + 700])
        whole = "".join("🌊" + text[at : at + 700] for at in range(0, len(text), 700))
        assert ack["segment"] > 1
    for _ in range(2):
        live = local.restart()
        path = f"/v1/sessions/{created['session']}"
        state = live.client.get(path).json()
        assert (state["segment"], state["start"], state["offset"]) == (ack["segment"], ack["start"], ack["offset"])
        with Wire(live.port) as wire:
            resumed = wire.resume(created)
            assert (resumed["overflow"], resumed["segment"], resumed["start"]) == (
                "segment",
                ack["segment"],
                ack["start"],
            )
            event = wire.ask("input_text.set", session=created["session"], text="another")
            assert code(event) == "invalid_request"
            ack = wire.change("append", created["session"], text=" more")
            whole += " more"
            done = wire.embed(created["session"])
            assert (done["segment"], done["start"], done["offset"]) == (ack["segment"], ack["start"], ack["offset"])
            start = len(whole.encode("utf-16-le")[: 2 * ack["start"]].decode("utf-16-le"))
            check_vector(live, whole[start:], done["embedding"])


def test_segments_stay_as_a_smaller_window_ended_them(local: Local, engine: Engine, journal: Path) -> None:
    text = " ".join(f"The brook number {number} runs to the sea." for number in range(30))
    with Wire(local.start().port) as wire:
        created = wire.create(overflow="segment")
        assert wire.change("append", created["session"], text=text)["segment"] == 0
    local.stop()
    config = engine.checkpoint.config
    memory = 256 * 2 * 2 * config.num_kv_heads * config.head_dim * 4
    with load_engine(engine.checkpoint.directory, max_batch_tokens=48, kv_memory=memory) as small:
        after = Local(small, journal)
        windows = []
        for start in range(3):
            with Wire(after.start().port) as wire:
                resumed = wire.resume(created)
                windows.append((resumed["segment"], resumed["start"]))
                if not start:
                    at = resumed["start"]
                    edit = {"start": at, "end": at + 12, "text": "; \n\nZZZ. Y\n\n"}
                    ack = wire.change("replace", created["session"], **edit)
                    windows = [(ack["segment"], ack["start"])]
            after.stop()
        assert windows[0][0] >= 1
        assert len(set(windows)) == 1


def test_limit_of_sessions_counts_recovered_ones(local: Local) -> None:
    live = local.start(max_sessions=2)
    created = [live.client.post("/v1/sessions", json={}) for _ in range(3)]
    assert [reply.status_code for reply in created] == [201, 201, 429]
    live = local.restart(max_sessions=2)
    assert live.client.post("/v1/sessions", json={}).status_code == 429
    assert live.client.delete(f"/v1/sessions/{created[0].json()['session']}").status_code == 200
    assert live.client.post("/v1/sessions", json={}).status_code == 201
