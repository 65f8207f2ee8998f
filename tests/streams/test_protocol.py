"""One session's state machine: what a client sends, what becomes of it, and what everybody hears.

No engine, journal or clock is near: the document is a string whose vector is drawn from its hash, and probes end, commits
reach the disk and time passes when a test says so.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import math
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from streambed.errors import (
    Internal,
    InvalidRequest,
    NotFound,
    Overloaded,
    RequestError,
    RevisionGap,
    StorageFull,
    TooLarge,
)
from streambed.streams import changes as changes_module
from streambed.streams import emission as emission_module
from streambed.streams.effects import Count, Probe, Report, Resolve, Send, Write
from streambed.streams.limits import Credit, Limits
from streambed.streams.protocol import TRANSITIONS, Protocol, State
from streambed.streams.store.store import DIGEST, HISTORY, Commit, Erase, SetOptions
from streambed.streams.store.store import Entry as StoreEntry
from streambed.streams.triggers import Target
from streambed.text.units import count
from streambed.vectors.reducers import Card, Form, Reducer
from streambed.wire import (
    EmbeddingCreate,
    EmbeddingDone,
    EmbeddingSkipped,
    Emit,
    ErrorEvent,
    InputText,
    InputTextAck,
    InputTextAppend,
    InputTextReplace,
    InputTextSet,
    ServerEvent,
    SessionClosed,
    SessionOptions,
    SessionReport,
    SessionResumed,
    SessionUpdate,
    SessionUpdated,
    Watch,
    WatchTriggered,
    error_of,
)

HIDDEN = 8
LIMITS = Limits(max_characters=1000, max_tokens=1000, max_pending=3, credit=100)


def hashed(text: str) -> np.ndarray:
    """Hidden states of a text: any direction, any length."""
    seed = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return np.random.default_rng(int.from_bytes(seed, "little")).standard_normal(HIDDEN).astype(np.float32)


def turned(text: str) -> np.ndarray:
    """Hidden states that turn by one degree with each character."""
    angle = math.radians(len(text))
    return np.array([math.cos(angle), math.sin(angle)], dtype=np.float32)


def unit(text: str, dimensions: int | None = None) -> np.ndarray:
    cut = hashed(text).astype(np.float64)[:dimensions]
    return cut / np.linalg.norm(cut)


def tokens(text: str) -> int:
    """Tokens of this model are bytes."""
    return len(text.encode())


class Vectors(Future[Any]):
    """What a probe of a text will end in."""

    def __init__(self, text: str, deadline: float | None = None) -> None:
        super().__init__()
        self.text = text
        self.deadline = deadline


class Asked(NamedTuple):
    """A probe that the text was asked for."""

    future: Vectors


class Answer(NamedTuple):
    """What a probe ends in."""

    vectors: np.ndarray
    cached_tokens: int = 5
    computed_tokens: int = 2
    queue_s: float = 0.001
    compute_s: float = 0.002


class Over(NamedTuple):
    """A segment that has ended."""

    number: int
    start: int
    end: int
    tokens: int
    future: Vectors


class Text:
    """A growing text that is a string. Where it may go on in segments, each has as many tokens as a window."""

    closed = False

    def __init__(
        self,
        text: str = "",
        max_tokens: int = LIMITS.max_tokens,
        overflow: str = "error",
        window: tuple[int, int] = (0, 0),
    ) -> None:
        self.max_tokens = max_tokens
        self.overflow = overflow
        self.busy = False
        self.ended: list[Over] = []
        self.restore(text, *window)

    @property
    def offset(self) -> int:
        return len(self.text)

    @property
    def num_tokens(self) -> int:
        return tokens(self.text[self.start :])

    def take_ended(self) -> list[Over]:
        ended, self.ended = self.ended, []
        return ended

    def restore(self, text: str, start: int, segment: int) -> None:
        self.start, self.segment = start, segment
        self.fill(text)

    def fill(self, text: str) -> None:
        if tokens(text[self.start :]) > self.max_tokens and self.overflow == "error":
            raise TooLarge("too many tokens")
        while tokens(text[self.start :]) > self.max_tokens:
            fit = (size for size in range(self.max_tokens, 0, -1))
            end = self.start + next(n for n in fit if tokens(text[self.start : self.start + n]) <= self.max_tokens)
            piece = text[self.start : end]
            self.ended.append(Over(self.segment, self.start, end, tokens(piece), Vectors(piece)))
            self.start, self.segment = end, self.segment + 1
        self.text = text

    def replace(self, start: int, end: int, text: str) -> int:
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise InvalidRequest("a lone surrogate")
        if not 0 <= start <= end <= len(self.text):
            raise InvalidRequest("not within the text")
        self.fill(self.text[:start] + text + self.text[end:])
        return 0

    def probe(self, deadline: float | None = None) -> Asked:
        if self.busy:
            raise Overloaded("too much work waits")
        return Asked(Vectors(self.text[self.start :], deadline))

    def close(self) -> None:
        self.closed = True


class Ear:
    """A client that only listens."""

    def __init__(self, name: str = "ear") -> None:
        self.name = name
        self.heard: list[ServerEvent] = []
        self.slots: list[str | None] = []

    def __repr__(self) -> str:
        return self.name

    def send(self, event: ServerEvent, slot: str | None = None) -> None:
        self.heard.append(event)
        self.slots.append(slot)

    def take(self) -> list[ServerEvent]:
        heard, self.heard = self.heard, []
        return heard

    def one(self, kind: type[Any]) -> Any:
        """The one event heard since the last look."""
        heard = self.take()
        assert [type(event) for event in heard] == [kind], heard
        return heard[0]

    def all(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.take() if isinstance(event, kind)]


class Desk:
    """A machine, and the hands that carry its effects out."""

    def __init__(
        self,
        text: str = "",
        *,
        durable: bool = False,
        limits: Limits = LIMITS,
        max_tokens: int = LIMITS.max_tokens,
        hidden: Callable[[str], np.ndarray] = hashed,
        attached: bool = True,
        revision: int = 0,
        digests: tuple[bytes, ...] = (),
        edited: bool = False,
        window: tuple[int, int] = (0, 0),
        reducer: Any = None,
        **options: Any,
    ) -> None:
        self.document = Text(text, max_tokens, options.get("overflow", "error"), window)
        self.hidden = hidden
        self.now = 1000.0
        self.probes: deque[Probe] = deque()
        self.commits: deque[Commit] = deque()
        self.slow = False  # whether clients take their time to read
        self.unread: list[Any] = []
        self.look: Callable[[Any], None] = lambda effect: None
        self.credit = Credit(limits.credit)
        self.written: list[StoreEntry] = []
        """Options and erasures, which reach the disk at once unless it is full."""
        self.full = False
        self.unresolved: list[Target] = []
        self.counted: list[Count] = []
        self.reports: list[tuple[Ear, type[SessionReport], str | None]] = []
        self.protocol = Protocol(
            "ses",
            self.document,
            SessionOptions(**options),
            Form(
                options.get("dimensions") or len(hidden("")),
                options.get("dimensions"),
                options.get("encoding_format", "float"),
                reducer,
            ),
            limits,
            self.credit,
            1 if durable else None,
            (revision, edited, digests[-HISTORY:]),
            self.now,
        )
        self.carry_out()
        self.ear = Ear()
        if attached:
            self.attach(self.ear)

    @property
    def text(self) -> str:
        return self.document.text

    def carry_out(self) -> None:
        for effect in self.protocol.take():
            self.look(effect)
            match effect:
                case Send(client, event, slot):
                    client.send(event, slot)  # type: ignore[attr-defined]
                    if slot == "emission":
                        self.unread.append((client, None))
                    elif isinstance(event, EmbeddingDone) and event.final:
                        self.unread.append((client, event.segment))
                case Report(client, kind, event_id):
                    self.reports.append((client, kind, event_id))  # type: ignore[arg-type]
                case Count():
                    self.counted.append(effect)
                case Write(Commit() as commit, alone):
                    assert not alone
                    self.commits.append(commit)
                case Write(entry, alone):
                    assert alone
                    self.written.append(entry)
                    self.protocol.written(entry, StorageFull("the disk is full") if self.full else None, self.now)
                    self.carry_out()
                case Resolve(target):
                    self.unresolved.append(target)
                case Probe():
                    self.probes.append(effect)
        if not self.slow:
            self.read()

    def read(self) -> None:
        """The automatic embeddings on their way arrive."""
        while self.unread:
            client, ended = self.unread.pop(0)
            self.protocol.sent(client, self.now, ended)
            self.carry_out()

    def attach(self, client: Ear) -> None:
        self.protocol.attach(client, None, SessionResumed, {}, self.now)
        self.carry_out()

    def detach(self) -> None:
        self.protocol.detach()
        self.carry_out()

    def receive(self, event: Any, client: Ear | None, deadline: float | None = None) -> None:
        """Has the machine take an event. Raises the error where it is refused; then nobody else hears anything."""
        self.protocol.receive(event, client or self.ear, self.now, deadline)
        counted = self.protocol._effects[-2:]
        match counted:
            case [Count(kind, outcome), Send(peer, ErrorEvent() as refusal)] if (
                peer is (client or self.ear) and kind == event.type and refusal.event_id == event.event_id
            ):
                error = error_of(asdict(refusal))
                assert outcome == error.code
                del self.protocol._effects[-2:]
                self.carry_out()
                raise error
        self.carry_out()

    def change(self, event: InputText, client: Ear | None = None) -> None:
        self.receive(event, client)

    def append(self, text: str, client: Ear | None = None, **more: Any) -> None:
        self.change(InputTextAppend(session="ses", text=text, **more), client)

    def replace(self, start: int, end: int, text: str, client: Ear | None = None, **more: Any) -> None:
        self.change(InputTextReplace(session="ses", start=start, end=end, text=text, **more), client)

    def set(self, text: str, client: Ear | None = None, **more: Any) -> None:
        self.change(InputTextSet(session="ses", text=text, **more), client)

    def refused(self, code: str, change: Callable[..., None], *values: Any, **more: Any) -> RequestError:
        """The change is refused with this code, says so to nobody else, and leaves no trace."""
        protocol = self.protocol
        before = self.text, protocol.changes.now, list(protocol.changes.digests), self.credit.left
        effects = len(self.probes), len(self.commits), list(self.ear.heard)
        with pytest.raises(RequestError) as raised:
            change(*values, **more)
        assert raised.value.code == code, raised.value
        assert raised.value.revision == protocol.changes.now.revision
        assert (self.text, protocol.changes.now, list(protocol.changes.digests), self.credit.left) == before
        assert (len(self.probes), len(self.commits), self.ear.heard) == effects
        return raised.value

    def embed(self, event_id: str | None = None, client: Ear | None = None, deadline: float | None = None) -> None:
        self.receive(EmbeddingCreate(session="ses", event_id=event_id), client, deadline)

    def update(self, emit: Emit | None = None, watch: list[Watch] | None = None) -> None:
        self.receive(SessionUpdate(session="ses", emit=emit, watch=watch), None)

    def close(self, reason: Any = "closed", client: Ear | None = None, event_id: str | None = None) -> None:
        self.protocol.close(reason, client, event_id)
        self.carry_out()

    def finish(self, error: RequestError | None = None) -> Probe | None:
        """The engine ends the oldest probe that somebody still waits for."""
        while self.probes:
            probe = self.probes.popleft()
            if not probe.future.cancelled():
                self.end(probe, error)
                return probe
        return None

    def end(self, probe: Probe, error: RequestError | None = None) -> None:
        self.protocol.probed(probe, error or Answer(self.hidden(asked(probe))[None]), self.now)
        self.carry_out()

    def tick(self, seconds: float = 0.0) -> None:
        self.now += seconds
        self.protocol.tick(self.now)
        self.carry_out()

    def wake(self) -> None:
        """Time passes until the machine wants to be woken."""
        wake_at = self.protocol.wake_at()
        assert wake_at is not None
        self.tick(max(wake_at - self.now, 0))

    def commit(self, revision: int) -> Commit:
        """The newest that makes this revision."""
        return next(commit for commit in reversed(self.commits) if commit.mark.revision == revision)

    def committed(self, which: int | Commit) -> None:
        self.protocol.written(self.commit(which) if isinstance(which, int) else which, None, self.now)
        self.carry_out()

    def storage_failed(self, which: int | Commit) -> None:
        commit = self.commit(which) if isinstance(which, int) else which
        self.protocol.written(commit, StorageFull("the disk is full"), self.now)
        self.carry_out()


def asked(probe: Probe) -> str:
    assert isinstance(probe.future, Vectors)
    return probe.future.text


def is_of(event: Any, text: str, revision: int) -> bool:
    """Whether it is the embedding of this text, and says so."""
    assert isinstance(event, EmbeddingDone), event
    return bool((event.revision, event.offset) == (revision, len(text)) and unit(text) @ event.embedding > 0.99999)


# States

EVENTS: dict[str, Callable[[Desk], None]] = {
    "session.update": lambda desk: desk.update(Emit()),
    "input_text.append": lambda desk: desk.append("x"),
    "input_text.replace": lambda desk: desk.replace(0, 1, "x"),
    "input_text.set": lambda desk: desk.set("x"),
    "embedding.create": lambda desk: desk.embed(),
    "session.resume": lambda desk: desk.attach(Ear()),
    "detach": lambda desk: desk.detach(),
    "expire": lambda desk: desk.close("expired"),
    "session.close": lambda desk: desk.close("closed"),
}
WORK = {"session.update", "input_text.append", "input_text.replace", "input_text.set", "embedding.create"}
DETACHED, ATTACHED, CLOSED = State.DETACHED, State.ATTACHED, State.CLOSED
LEGAL = {
    **{(state, event): state for state in (DETACHED, ATTACHED) for event in WORK},
    (DETACHED, "session.resume"): ATTACHED,
    (ATTACHED, "session.resume"): ATTACHED,
    (ATTACHED, "detach"): DETACHED,
    (DETACHED, "expire"): CLOSED,
    (DETACHED, "session.close"): CLOSED,
    (ATTACHED, "session.close"): CLOSED,
}


def desk_in(state: State) -> Desk:
    desk = Desk("text", attached=state is ATTACHED)
    if state is CLOSED:
        desk.close()
    assert desk.protocol.state is state
    return desk


@pytest.mark.parametrize(("state", "event"), list(itertools.product(State, EVENTS)))
def test_what_may_happen_in_which_state(state: State, event: str) -> None:
    desk = desk_in(state)
    if (state, event) in LEGAL:
        EVENTS[event](desk)
        assert desk.protocol.state is LEGAL[state, event]
        return
    # To detach what nobody holds is a bug of ours, not a request.
    with pytest.raises(AssertionError if event == "detach" else NotFound):
        EVENTS[event](desk)
    assert desk.protocol.state is state
    assert desk.text == "text"
    assert not desk.probes


def test_the_table_is_complete() -> None:
    forks = {(DETACHED, "session.fork"): DETACHED, (ATTACHED, "session.fork"): ATTACHED}
    assert LEGAL | forks == TRANSITIONS


@pytest.mark.parametrize(
    "late",
    [
        lambda desk, probe: desk.tick(10),
        lambda desk, probe: desk.end(probe),
        lambda desk, probe: desk.committed(1),
        lambda desk, probe: desk.storage_failed(1),
        lambda desk, probe: desk.protocol.resolved(desk.unresolved[0], hashed("")),
        lambda desk, probe: desk.protocol.resolved(desk.unresolved[0], Overloaded("no")),
    ],
)
def test_what_comes_too_late_for_a_closed_session_is_ignored(late: Callable[[Desk, Probe], None]) -> None:
    desk = Desk(durable=True, emit={"on": "append"}, watch=[{"id": "w", "text": "t", "threshold": -1}])
    desk.append("a")
    probe = desk.probes[0]
    desk.close()
    desk.ear.take()
    late(desk, probe)
    desk.carry_out()
    assert desk.ear.heard == []
    assert desk.protocol.wake_at() is None
    assert len(desk.probes) == 1


# Exactly once, by revision


def test_each_change_raises_the_revision_by_one_and_is_acknowledged() -> None:
    desk = Desk()
    for number, (change, values, text) in enumerate(
        [
            (desk.append, ("one two",), "one two"),
            (desk.replace, (0, 3, "1"), "1 two"),
            (desk.set, ("1 and 2",), "1 and 2"),
            (desk.append, ("",), "1 and 2"),
            (desk.set, ("",), ""),
        ],
        1,
    ):
        change(*values, event_id=f"e{number}", base_revision=number - 1)
        assert (desk.text, desk.protocol.changes.now.revision) == (text, number)
        assert desk.ear.one(InputTextAck) == InputTextAck(
            session="ses", event_id=f"e{number}", revision=number, offset=len(text), tokens=tokens(text), credit=100
        )


@pytest.mark.parametrize("back", [1, 2, 3])
def test_the_same_change_again_is_acknowledged_again(back: int) -> None:
    desk = Desk()
    changes = [(desk.append, ("abc",)), (desk.replace, (1, 2, "x")), (desk.set, ("abc",))]
    for base, (change, values) in enumerate(changes):
        change(*values, base_revision=base)
    desk.ear.take()
    change, values = changes[3 - back]
    change(*values, base_revision=3 - back, event_id="again")
    ack = desk.ear.one(InputTextAck)
    assert (ack.event_id, ack.revision, ack.offset) == ("again", 3, 3)
    assert (desk.text, desk.protocol.changes.now.revision) == ("abc", 3)


@pytest.mark.parametrize(
    "other",
    [
        lambda desk: desk.append("abd", base_revision=0),
        lambda desk: desk.set("abc", base_revision=0),
        lambda desk: desk.replace(0, 0, "abc", base_revision=0),
        lambda desk: desk.replace(1, 2, "x", base_revision=0),
        lambda desk: desk.append("abc", base_revision=1),
        lambda desk: desk.replace(1, 3, "x", base_revision=1),
        lambda desk: desk.replace(1, 2, "y", base_revision=1),
    ],
)
def test_another_change_at_an_old_revision_is_a_conflict(other: Callable[[Desk], None]) -> None:
    desk = Desk()
    desk.append("abc", base_revision=0)
    desk.replace(1, 2, "x", base_revision=1)
    assert desk.refused("revision_conflict", other, desk).param == "base_revision"


def test_a_change_to_a_revision_that_is_not_there_yet_is_a_gap() -> None:
    desk = Desk("text")
    for base in (1, 7):
        error = desk.refused("revision_gap", desk.append, "x", base_revision=base)
        assert error.param == "base_revision"


def test_changes_that_are_too_old_cannot_be_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes_module, "HISTORY", 3)
    desk = Desk()
    for base in range(5):
        desk.append("x", base_revision=base)
    for base in (0, 1):
        assert "as old as that" in desk.refused("revision_conflict", desk.append, "x", base_revision=base).message
    desk.ear.take()
    desk.append("x", base_revision=2)
    assert desk.ear.one(InputTextAck).revision == 5
    assert desk.text == "xxxxx"


def test_a_session_that_was_recovered_knows_what_was_applied_before() -> None:
    old = Desk()
    old.append("abc", base_revision=0)
    old.replace(0, 1, "x", base_revision=1)
    desk = Desk("xbc", revision=2, digests=tuple(old.protocol.changes.digests)[1:], edited=True)
    desk.replace(0, 1, "x", base_revision=1)
    assert desk.ear.one(InputTextAck).revision == 2
    desk.refused("revision_conflict", desk.append, "abc", base_revision=0)
    desk.refused("offset_conflict", desk.append, "bc", offset=1)
    desk.append("d", base_revision=2)
    assert (desk.text, desk.protocol.changes.now.revision) == ("xbcd", 3)


def test_clients_that_send_no_base_revision_take_their_chances() -> None:
    desk = Desk()
    desk.append("ab")
    desk.append("ab")
    desk.replace(0, 1, "x")
    assert (desk.text, desk.protocol.changes.now.revision) == ("xbab", 3)


# What was sent behind a change that is refused


UNPLACED: dict[str, Callable[[Desk], None]] = {
    "append": lambda desk: desk.append("b"),
    "replace": lambda desk: desk.replace(0, 0, "b"),
}
PLACED: dict[str, Callable[[Desk], None]] = {
    "append at a revision": lambda desk: desk.append("b", base_revision=1),
    "append at an offset": lambda desk: desk.append("b", offset=1),
    "replace at a revision": lambda desk: desk.replace(1, 1, "b", base_revision=1),
    "the whole text": lambda desk: desk.set("ab"),
}
REFUSED: dict[str, Callable[[Desk], None]] = {
    "too large": lambda desk: desk.append("x" * 2000),
    "no text": lambda desk: desk.append("\ud800"),
    "outside": lambda desk: desk.replace(5, 9, "x"),
    "too early": lambda desk: desk.append("x", base_revision=9),
    "elsewhere": lambda desk: desk.append("x", offset=9),
}


@pytest.mark.parametrize("behind", UNPLACED.values(), ids=UNPLACED)
@pytest.mark.parametrize("first", REFUSED.values(), ids=REFUSED)
def test_nothing_behind_a_refused_change_is_applied(
    first: Callable[[Desk], None], behind: Callable[[Desk], None]
) -> None:
    desk = Desk()
    desk.append("a")
    with pytest.raises(RequestError):
        first(desk)
    for _ in range(3):
        error = desk.refused("revision_conflict", behind, desk)
        assert (error.expected_offset, desk.text) == (1, "a")


@pytest.mark.parametrize("next_", PLACED.values(), ids=PLACED)
def test_a_client_that_knows_where_the_text_stands_goes_on(next_: Callable[[Desk], None]) -> None:
    desk = Desk()
    desk.append("a")
    with pytest.raises(TooLarge):
        desk.append("x" * 2000)
    next_(desk)
    desk.append("c")
    assert desk.text == "abc"


def test_what_was_sent_behind_a_change_that_the_disk_refused_is_not_applied() -> None:
    desk = Desk(durable=True)
    desk.append("a")
    desk.append("b")
    desk.storage_failed(1)
    desk.refused("revision_conflict", desk.append, "c")
    desk.append("a", base_revision=0)
    desk.append("b")
    assert desk.text == "ab"


def test_a_refusal_that_another_client_hears_changes_nothing() -> None:
    desk = Desk()
    with pytest.raises(TooLarge):
        desk.append("x" * 2000, Ear())
    desk.append("a")
    assert desk.text == "a"


def test_who_attaches_is_told_where_the_text_stands() -> None:
    desk = Desk()
    with pytest.raises(TooLarge):
        desk.append("x" * 2000)
    desk.attach(desk.ear)
    desk.append("a")
    assert desk.text == "a"


# Offsets


def test_an_append_that_is_sent_again_is_acknowledged_again() -> None:
    desk = Desk()
    desk.append("Hello", offset=0)
    desk.append(" world", offset=5)
    desk.ear.take()
    for text, offset in [("Hello", 0), (" world", 5), ("lo wo", 3), ("", 4), ("", 11), ("Hello world", 0)]:
        desk.append(text, offset=offset, event_id="again")
        ack = desk.ear.one(InputTextAck)
        assert (ack.event_id, ack.revision, ack.offset) == ("again", 2, 11)
    assert desk.text == "Hello world"


def test_an_overlap_is_skipped_and_the_rest_applied() -> None:
    desk = Desk("Hello")
    desk.append("lo world", offset=3, event_id="e")
    ack = desk.ear.one(InputTextAck)
    assert (desk.text, ack.event_id, ack.revision, ack.offset) == ("Hello world", "e", 1, 11)


@pytest.mark.parametrize(("text", "offset"), [("x", 0), ("lo!", 3), ("lp", 3), ("Hello World!", 0), ("Jello world", 0)])
def test_other_text_at_its_place_is_a_conflict(text: str, offset: int) -> None:
    desk = Desk("Hello world")
    error = desk.refused("offset_conflict", desk.append, text, offset=offset)
    assert (error.param, error.expected_offset) == ("offset", 11)


def test_a_hole_is_a_gap() -> None:
    desk = Desk("Hello")
    for text, more in [("x", {}), ("", {}), ("x", {"base_revision": 0})]:
        error = desk.refused("offset_gap", desk.append, text, offset=6, **more)
        assert (error.param, error.expected_offset) == ("offset", 5)


@pytest.mark.parametrize(
    "edit", [lambda desk: desk.replace(0, 1, "J"), lambda desk: desk.set("Jello"), lambda desk: desk.replace(1, 2, "")]
)
def test_an_edited_session_cannot_rely_on_offsets(edit: Callable[[Desk], None]) -> None:
    desk = Desk("Hello")
    edit(desk)
    held = desk.text
    error = desk.refused("offset_conflict", desk.append, held[2:], offset=2)
    assert error.expected_offset == len(held)
    assert desk.refused("offset_gap", desk.append, "x", offset=9).expected_offset == len(held)
    desk.append("!", offset=len(held))
    desk.append("?", offset=len(held) + 1, base_revision=2)
    assert desk.text == held + "!?"


def test_changes_at_the_end_are_no_edits() -> None:
    desk = Desk("Hello")
    desk.set("Hello wor")
    desk.replace(9, 9, "ld")
    desk.append("world", offset=6)
    assert (desk.text, desk.protocol.changes.now.edited, desk.protocol.changes.now.revision) == (
        "Hello world",
        False,
        2,
    )


def test_offset_and_base_revision_must_agree() -> None:
    desk = Desk("Hello")
    assert desk.refused("offset_conflict", desk.append, "o", offset=4, base_revision=0).expected_offset == 5
    desk.append("!", offset=5, base_revision=0)
    desk.append("!", offset=5, base_revision=0)
    assert desk.text == "Hello!"


# Units

MIXED = "aé你😀b"
ENDS = {"codepoint": [0, 1, 2, 3, 4, 5], "utf16": [0, 1, 2, 3, 5, 6], "utf8": [0, 1, 3, 6, 10, 11]}


@pytest.mark.parametrize("unit_", ENDS)
def test_lengths_in_a_unit(unit_: Any) -> None:
    assert [count(MIXED[:end], unit_) for end in range(6)] == ENDS[unit_]


@pytest.mark.parametrize("unit_", ENDS)
def test_positions_count_the_sessions_unit(unit_: str) -> None:
    ends = ENDS[unit_]
    for start, end in itertools.combinations(range(6), 2):
        desk = Desk(MIXED, offset_unit=unit_)
        desk.replace(ends[start], ends[end], "ß🙂")
        text = MIXED[:start] + "ß🙂" + MIXED[end:]
        assert desk.text == text
        assert desk.ear.one(InputTextAck).offset == count(text, unit_) == desk.protocol.acknowledged.offset  # type: ignore[arg-type]
        desk.embed()
        desk.finish()
        assert desk.ear.one(EmbeddingDone).offset == count(text, unit_)  # type: ignore[arg-type]


@pytest.mark.parametrize("unit_", ["utf16", "utf8"])
def test_positions_inside_a_character_are_refused(unit_: str) -> None:
    inside = set(range(ENDS[unit_][-1])) - set(ENDS[unit_])
    desk = Desk(MIXED, offset_unit=unit_)
    for position in inside:
        for start, end, param in [(position, ENDS[unit_][-1], "start"), (0, position, "end")]:
            error = desk.refused("invalid_request", desk.replace, start, end, "", base_revision=0)
            assert error.param == param
        assert desk.refused("invalid_request", desk.append, "b", offset=position).param == "offset"


@pytest.mark.parametrize("unit_", ENDS)
def test_offsets_of_appends_count_the_sessions_unit(unit_: str) -> None:
    desk = Desk(MIXED, offset_unit=unit_)
    end = ENDS[unit_][-1]
    desk.append("😀bc", offset=ENDS[unit_][3])
    assert desk.text == MIXED + "c"
    assert desk.ear.one(InputTextAck).offset == end + 1
    assert desk.refused("offset_gap", desk.append, "x", offset=end + 2).expected_offset == end + 1
    assert desk.refused("offset_conflict", desk.append, "x", offset=ENDS[unit_][4]).expected_offset == end + 1


@pytest.mark.parametrize(
    ("start", "end", "param"), [(6, 6, "start"), (0, 6, "end"), (2**62, 2**63, "start"), (3, 2, "start")]
)
def test_ranges_outside_the_text_are_refused(start: int, end: int, param: str) -> None:
    desk = Desk("Hello")
    assert desk.refused("invalid_request", desk.replace, start, end, "x").param == param


# Limits


def test_too_many_characters_are_refused() -> None:
    desk = Desk("12345678", limits=Limits(max_characters=10, max_tokens=1000))
    for change, values in [(desk.append, ("abc",)), (desk.set, ("x" * 11,)), (desk.replace, (2, 4, "abcde"))]:
        error = desk.refused("too_large", change, *values, base_revision=0)
        assert "11 characters; the limit is 10" in error.message
        assert error.param == "text"
    desk.replace(2, 4, "abcd", base_revision=0)
    desk.set("123456789x")
    assert desk.text == "123456789x"


def test_only_the_new_part_of_an_overlap_counts() -> None:
    desk = Desk("12345678", limits=Limits(max_characters=10, max_tokens=1000))
    desk.refused("too_large", desk.append, "678abc", offset=5)
    desk.append("678ab", offset=5)
    desk.append("8ab", offset=7)
    assert desk.text == "12345678ab"


def test_too_many_tokens_are_refused() -> None:
    desk = Desk("你你你", max_tokens=10)
    for change, values in [(desk.append, ("你",)), (desk.set, ("好你你你",)), (desk.replace, (0, 0, "é"))]:
        desk.refused("too_large", change, *values, base_revision=0)
    desk.append("!", event_id="e", base_revision=0)
    assert desk.ear.one(InputTextAck).tokens == 10


def test_a_lone_surrogate_is_refused() -> None:
    for unit_ in ENDS:
        desk = Desk("text", offset_unit=unit_)
        for change, values in [(desk.append, ("\ud800",)), (desk.set, ("a\udfff",)), (desk.replace, (0, 1, "\ud83d"))]:
            desk.refused("invalid_request", change, *values, base_revision=0)


def test_credit_is_what_may_wait_for_the_journal() -> None:
    desk = Desk(durable=True)
    assert desk.credit.left == 100
    desk.append("x" * 30)
    desk.replace(0, 30, "y" * 20)
    assert (desk.credit.uncommitted, desk.credit.left) == (50, 50)
    desk.committed(1)
    assert desk.ear.one(InputTextAck).credit == desk.credit.left == 80
    desk.append("x" * 200)
    assert desk.credit.left == 0
    desk.committed(3)
    assert desk.credit.left == 100


def test_only_so_many_changes_wait_for_the_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes_module, "MAX_UNCOMMITTED", 2)
    desk = Desk(durable=True)
    desk.append("a", base_revision=0)
    desk.append("b", base_revision=1)
    assert desk.refused("overloaded", desk.append, "c", base_revision=2).retryable
    desk.append("a", base_revision=0)  # that it was applied before can be said at any time
    desk.committed(1)
    desk.append("c", base_revision=2)
    assert desk.text == "abc"


# Embeddings that were asked for


def test_an_embedding_is_of_the_text_at_the_revision_when_it_was_asked_for() -> None:
    desk = Desk()
    for number, letter in enumerate("abc", 1):
        desk.append(letter)
        desk.ear.take()
        desk.embed(f"e{number}")
    desk.set("something else")
    desk.ear.take()
    while desk.finish():
        pass
    done = desk.ear.take()
    assert [event.event_id for event in done] == ["e1", "e2", "e3"]
    assert all(is_of(event, "abc"[:length], length) for length, event in enumerate(done, 1))
    assert desk.ear.slots[-3:] == [None] * 3  # none may be lost


def test_what_an_embedding_says_of_itself() -> None:
    desk = Desk("text", dimensions=4, encoding_format="base64")
    desk.embed("e", deadline=1234.0)
    assert asked(desk.probes[0]) == "text"
    assert desk.probes[0].future.deadline == 1234.0  # type: ignore[attr-defined]
    desk.now += 0.25
    desk.finish()
    done = desk.ear.one(EmbeddingDone)
    assert np.allclose(np.frombuffer(base64.b64decode(done.embedding), "<f4"), unit("text", 4), atol=1e-6)
    assert done.usage == {"prompt_tokens": 5, "cached_tokens": 5, "computed_tokens": 2}
    assert done.timing_ms == {"queue": 1.0, "compute": 2.0, "total": 250.0}
    assert done.drift is None


def test_drift_is_the_distance_from_the_vector_sent_before() -> None:
    desk = Desk("x" * 10, hidden=turned)
    for length, expected in [(10, None), (40, 1 - math.cos(math.radians(30))), (40, 0.0)]:
        desk.set("x" * length)
        desk.ear.take()
        desk.embed()
        desk.finish()
        drift = desk.ear.one(EmbeddingDone).drift
        assert drift == (None if expected is None else pytest.approx(expected, abs=1e-5))


def test_answers_keep_the_order_of_the_questions() -> None:
    desk = Desk("text")
    for event_id in ("e1", "e2", "e3"):
        desk.embed(event_id)
    first, second, third = desk.probes
    desk.end(third)
    desk.end(second, Overloaded("no"))
    assert desk.ear.heard == []
    desk.end(first)
    heard = desk.ear.take()
    assert [(event.type, event.event_id) for event in heard] == [
        ("embedding.done", "e1"),
        ("error", "e2"),
        ("embedding.done", "e3"),
    ]


def test_a_failed_embedding_is_an_error_for_who_asked() -> None:
    desk, other = Desk("text"), Ear()
    desk.embed("e1", other)
    desk.finish(Internal("computing failed"))
    error = other.one(ErrorEvent)
    assert (error.event_id, error.session, error.error["code"]) == ("e1", "ses", "internal")
    assert desk.ear.heard == []


@pytest.mark.parametrize("vector", [np.zeros(HIDDEN), np.full(HIDDEN, np.nan), np.full(HIDDEN, np.inf)])
def test_a_vector_without_a_direction_is_never_sent(vector: np.ndarray) -> None:
    desk = Desk("text", hidden=lambda text: vector.astype(np.float32), emit={"on": "append"})
    desk.finish()
    error = desk.ear.one(ErrorEvent)
    assert (error.error["code"], error.event_id) == ("internal", None)
    desk.embed("e")
    desk.finish()
    error = desk.ear.one(ErrorEvent)
    assert (error.error["code"], error.event_id) == ("internal", "e")


def test_an_empty_text_has_no_embedding() -> None:
    desk = Desk()
    with pytest.raises(InvalidRequest, match="empty"):
        desk.embed()
    desk.set("x")
    desk.set("")
    with pytest.raises(InvalidRequest, match="empty"):
        desk.embed()
    assert not desk.probes


def test_only_so_many_embeddings_wait() -> None:
    desk = Desk("text")
    for _ in range(3):
        desk.embed()
    with pytest.raises(Overloaded):
        desk.embed()
    assert len(desk.probes) == 3
    desk.finish()
    desk.embed()
    assert len(desk.probes) == 3


def test_an_embedding_that_the_engine_refuses_is_not_waited_for() -> None:
    desk = Desk("text")
    desk.document.busy = True
    for _ in range(5):
        with pytest.raises(Overloaded, match="too much work"):
            desk.embed()
    desk.document.busy = False
    desk.embed("e")
    desk.finish()
    assert is_of(desk.ear.one(EmbeddingDone), "text", 0)


def test_a_client_without_the_session_is_answered_too() -> None:
    desk, other = Desk("text"), Ear()
    desk.embed("e1", other)
    desk.finish()
    assert is_of(other.one(EmbeddingDone), "text", 0)
    assert desk.ear.heard == []
    desk.detach()
    desk.embed("e2", other)
    desk.finish()
    assert other.one(EmbeddingDone).event_id == "e2"


def test_a_finished_answer_does_not_wait_for_one_that_nobody_wants() -> None:
    desk, other = Desk("text"), Ear()
    desk.embed("gone")
    desk.embed("e", other)
    desk.end(desk.probes[1])
    desk.detach()
    assert other.one(EmbeddingDone).event_id == "e"


def test_who_has_left_hears_no_more() -> None:
    desk, other, late = Desk("x", watch=[EAST], hidden=turned), Ear(), Ear()
    desk.finish(Overloaded("no"))
    desk.embed("gone")
    desk.embed("e", other)
    desk.end(desk.probes[1])
    desk.ear.take()
    desk.attach(late)
    assert [event.type for event in desk.ear.take()] == ["session.closed"]
    assert other.one(EmbeddingDone).event_id == "e"
    while desk.finish():
        pass
    assert late.one(WatchTriggered).watch == "east"


# Automatic embeddings


def test_automatic_embeddings_are_latest_wins() -> None:
    desk = Desk(emit={"on": "append"})
    for letter in "abcd":
        desk.append(letter)
    desk.ear.take()
    assert len(desk.probes) == 1
    desk.finish()
    done, skipped = desk.ear.take()
    assert is_of(done, "a", 1)
    assert skipped == EmbeddingSkipped(session="ses", revision=3, superseded_by=4)
    assert desk.ear.slots[-2:] == ["emission", "skipped"]
    assert len(desk.probes) == 1
    desk.finish()
    assert is_of(desk.ear.one(EmbeddingDone), "abcd", 4)
    assert desk.protocol.wake_at() is None
    assert not desk.probes


def test_a_slow_reader_gets_the_newest_embedding_when_it_has_read_the_one_before() -> None:
    desk = Desk(emit={"on": "append"})
    desk.slow = True
    desk.append("a")
    desk.finish()
    for letter in "bcd":
        desk.append(letter)
        desk.tick(10)
    assert (desk.protocol.wake_at(), len(desk.probes)) == (None, 0)
    desk.ear.take()
    desk.read()
    assert desk.ear.one(EmbeddingSkipped) == EmbeddingSkipped(session="ses", revision=3, superseded_by=4)
    desk.finish()
    assert is_of(desk.ear.one(EmbeddingDone), "abcd", 4)
    assert not desk.probes


def test_what_another_has_not_read_holds_nobody_up() -> None:
    desk, late = Desk("a", emit={"on": "append"}), Ear()
    desk.slow = True
    desk.finish()
    desk.attach(late)
    desk.finish()
    assert is_of(late.one(EmbeddingDone), "a", 0)
    desk.append("b", late)
    desk.protocol.sent(desk.ear, desk.now)  # it is late's that counts
    desk.carry_out()
    assert not desk.probes
    desk.protocol.sent(late, desk.now)
    desk.carry_out()
    desk.finish()
    assert is_of(late.take()[-1], "ab", 1)


def test_nothing_is_skipped_where_every_change_is_embedded() -> None:
    desk = Desk(emit={"on": "append"})
    for number, letter in enumerate("abc", 1):
        desk.append(letter)
        desk.finish()
        ack, done = desk.ear.take()
        assert (ack.type, done.type, done.revision) == ("input_text.ack", "embedding.done", number)


def test_an_explicit_embedding_neither_waits_for_automatic_ones_nor_stops_them() -> None:
    desk = Desk(emit={"on": "append"})
    desk.append("a")
    desk.append("b")
    desk.embed("e")
    desk.append("c")
    desk.ear.take()
    while desk.finish():
        pass
    done = desk.ear.all(EmbeddingDone)
    assert [(event.revision, event.event_id) for event in done] == [(1, None), (2, "e"), (3, None)]
    assert all(is_of(event, "abc"[:length], length) for length, event in enumerate(done, 1))


def test_a_pause_is_waited_for() -> None:
    desk = Desk(emit={"on": "pause", "pause_ms": 300})
    desk.append("a")
    desk.tick(0.2)
    desk.append("b")
    desk.tick(0.2)
    assert not desk.probes
    desk.wake()
    desk.finish()
    assert is_of(desk.ear.take()[-1], "ab", 2)
    assert desk.protocol.wake_at() is None


def test_sentences_are_emitted_across_the_borders_of_chunks() -> None:
    desk = Desk(emit={"on": "sentence", "pause_ms": 60_000})
    emitted = []
    for chunk in ("It is 3.", "14.", " So", "。", "Yes"):
        desk.append(chunk)
        while desk.finish():
            emitted.append(desk.text)
    assert emitted == ["It is 3.14. So", "It is 3.14. So。"]
    desk.wake()
    assert asked(desk.probes[0]) == "It is 3.14. So。Yes"


def test_drift_emits_when_the_vector_has_moved_away_from_the_last_one_sent() -> None:
    desk = Desk(emit={"on": "drift", "drift": 1 - math.cos(math.radians(10.5))}, hidden=turned)
    sent = []
    for _ in range(30):
        desk.append("x")
        desk.finish()
        assert not desk.probes
        sent += [event.offset for event in desk.ear.all(EmbeddingDone)]
    assert sent == [1, 12, 23]
    assert not desk.ear.all(EmbeddingSkipped)


def test_drift_counts_from_what_was_emitted_whoever_asks_meanwhile() -> None:
    """Else a neighbour that asks again and again would hide a slow drift."""
    desk, other = Desk("x", emit={"on": "drift", "drift": 1 - math.cos(math.radians(10.5))}, hidden=turned), Ear()
    desk.finish()
    desk.append("x" * 5)
    desk.finish()
    desk.embed()
    desk.finish()
    assert [event.offset for event in desk.ear.all(EmbeddingDone)] == [1, 6]
    desk.embed("e", other)
    desk.finish()
    assert other.one(EmbeddingDone).drift is None, "it was sent nothing before"
    desk.append("x" * 10)
    desk.finish()
    assert [event.offset for event in desk.ear.all(EmbeddingDone)] == [16]


def test_manual_emits_nothing() -> None:
    desk = Desk("text")
    desk.append("a. ")
    assert desk.protocol.wake_at() is None
    desk.tick(1e6)
    assert not desk.probes


def test_a_failed_automatic_embedding_is_told_and_the_next_one_tried() -> None:
    desk = Desk(emit={"on": "append"})
    desk.append("a")
    desk.append("b")
    desk.ear.take()
    desk.finish(Overloaded("no"))
    error = desk.ear.one(ErrorEvent)
    assert (error.error["code"], error.event_id) == ("overloaded", None)
    desk.finish()
    assert is_of(desk.ear.one(EmbeddingDone), "ab", 2)


def test_an_engine_without_room_is_asked_again() -> None:
    desk = Desk(emit={"on": "append"})
    desk.document.busy = True
    desk.append("a")
    desk.ear.one(InputTextAck)
    assert not desk.probes
    desk.tick()
    assert desk.protocol.wake_at() == pytest.approx(desk.now + 0.1)
    desk.wake()
    assert not desk.probes
    desk.document.busy = False
    desk.wake()
    desk.finish()
    assert is_of(desk.ear.one(EmbeddingDone), "a", 1)


def test_automatic_embeddings_keep_their_distance() -> None:
    desk = Desk(emit={"on": "append", "min_interval_ms": 1000})
    starts = []
    for _ in range(36):
        desk.append("a")
        desk.tick(0.125)
        if probe := desk.finish():
            starts.append(probe.asked)
    assert starts == [1000.0, 1001.0, 1002.0, 1003.0, 1004.0]
    desk.wake()
    desk.finish()
    assert is_of(desk.ear.take()[-1], "a" * 36, 36)


def test_new_rules_do_not_shorten_the_distance() -> None:
    desk = Desk(emit={"on": "append", "min_interval_ms": 1000})
    desk.append("a")
    desk.finish()
    desk.tick(0.25)
    desk.update(watch=[Watch(id="w", embedding=[1.0] * HIDDEN, threshold=1.0)])
    assert not desk.probes
    assert desk.protocol.wake_at() == 1001.0


def test_an_empty_text_is_not_embedded() -> None:
    desk = Desk(emit={"on": "append"})
    assert (desk.protocol.wake_at(), len(desk.probes)) == (None, 0)
    desk.append("a")
    desk.set("")
    desk.finish()
    assert [event.revision for event in desk.ear.all(EmbeddingDone)] == [1]
    assert (desk.protocol.wake_at(), len(desk.probes)) == (None, 0)


def test_what_is_emitted_is_not_called_skipped() -> None:
    desk, other = Desk(emit={"on": "append"}), Ear()
    desk.append("a")
    desk.attach(other)  # while the first is computed
    desk.append("b")
    desk.finish()
    emitted = {event.revision for event in other.heard if isinstance(event, EmbeddingDone)}
    skipped = {event.revision for event in other.heard if isinstance(event, EmbeddingSkipped)}
    assert emitted == {1}
    assert not emitted & skipped


def test_new_rules_look_at_the_text_as_it_is() -> None:
    desk = Desk("text")
    desk.update(Emit(on="append"))
    desk.finish()
    assert is_of(desk.ear.one(EmbeddingDone), "text", 0)
    desk.update(Emit(on="manual"))
    desk.append("!")
    assert not desk.probes
    assert desk.protocol.options.emit == Emit(on="manual")


def test_what_is_not_updated_stays() -> None:
    desk = Desk("text", emit={"on": "append"}, watch=[{"id": "w", "embedding": [1.0] * HIDDEN, "threshold": 0.5}])
    before = desk.protocol.options
    desk.update()
    assert desk.protocol.options == before
    desk.update(watch=[])
    assert (desk.protocol.options.emit, desk.protocol.options.watch) == (before.emit, [])
    desk.update(Emit(on="pause"))
    assert (desk.protocol.options.emit.on, desk.protocol.options.watch) == ("pause", [])


def test_new_rules_are_in_force_when_they_are_on_disk() -> None:
    desk = Desk("text", durable=True)
    desk.update(Emit(on="append"))
    assert [type(entry) for entry in desk.written] == [SetOptions]
    assert SessionOptions.model_validate_json(desk.written[0].options).emit == Emit(on="append")  # type: ignore[union-attr]
    assert desk.reports[-1] == (desk.ear, SessionUpdated, None)
    assert desk.counted == [Count("session.update", "ok")]
    assert desk.protocol.options.emit == Emit(on="append")


def test_new_rules_that_cannot_be_written_are_not_in_force() -> None:
    desk = Desk("text", durable=True)
    desk.full = True
    desk.update(Emit(on="append"))
    assert desk.ear.one(ErrorEvent).error["code"] == "storage_full"
    assert desk.counted == [Count("session.update", "storage_full")]
    assert desk.protocol.options.emit == Emit()
    assert not desk.probes


@pytest.mark.parametrize("full", [False, True])
def test_nobody_hears_of_the_end_before_the_text_is_erased(full: bool) -> None:
    desk, order = Desk("text", durable=True), list[str]()
    desk.full = full  # the store tries again
    desk.look = lambda effect: order.append(type(effect.entry if isinstance(effect, Write) else effect.event).__name__)
    desk.close(client=desk.ear, event_id="bye")
    assert order == ["Erase", "SessionClosed"]
    assert isinstance(desk.written[0], Erase)
    assert desk.document.closed


# Watches

EAST = {"id": "east", "embedding": [1.0, 0.0], "threshold": 0.5}


def test_a_watch_triggers_once_for_each_crossing() -> None:
    desk = Desk(watch=[EAST], hidden=turned)
    triggered = []
    for degrees in (90, 59, 30, 61, 59, 70, 10, 180):
        desk.set("x" * degrees)
        while desk.finish():
            pass
        triggered += [(event.offset, event.score) for event in desk.ear.all(WatchTriggered)]
    assert triggered == [
        (59, pytest.approx(math.cos(math.radians(59)), abs=1e-5)),
        (10, pytest.approx(math.cos(math.radians(10)), abs=1e-5)),
    ]


def test_a_watch_alone_emits_nothing_else() -> None:
    desk = Desk(watch=[EAST], hidden=turned)
    desk.append("x")
    desk.append("x")
    while desk.finish():
        pass
    triggered = [event for event in desk.ear.take() if not isinstance(event, InputTextAck)]
    assert triggered == [
        WatchTriggered(session="ses", watch="east", score=pytest.approx(1, abs=1e-3), revision=1, offset=1)  # type: ignore[arg-type]
    ]


def test_looking_for_a_watch_does_not_use_up_the_emission() -> None:
    desk = Desk(emit={"on": "pause", "pause_ms": 300}, watch=[EAST], hidden=turned)
    desk.append("x")
    desk.finish()
    assert [event.type for event in desk.ear.take()] == ["input_text.ack", "watch.triggered"]
    desk.wake()
    assert desk.now == 1000.3
    desk.finish()
    assert desk.ear.one(EmbeddingDone).revision == 1


def test_what_is_asked_for_is_looked_at_too() -> None:
    desk = Desk(watch=[EAST], hidden=turned)
    desk.document.busy = True
    desk.append("x")
    desk.document.busy = False
    desk.embed("e")
    desk.ear.take()
    desk.finish()
    assert [event.type for event in desk.ear.take()] == ["watch.triggered", "embedding.done"]


def test_a_watch_with_a_text_looks_at_what_stands_there_once_it_is_embedded() -> None:
    desk = Desk("x", watch=[{"id": "text", "text": "t", "threshold": 0.5}, EAST], hidden=turned)
    (target,) = desk.unresolved
    desk.finish()
    assert [event.watch for event in desk.ear.take()] == ["east"]
    desk.protocol.resolved(target, turned("x"))
    desk.carry_out()
    assert [(event.watch, event.revision, event.offset) for event in desk.ear.take()] == [("text", 0, 1)]


def test_a_watch_whose_text_cannot_be_embedded_is_told() -> None:
    desk = Desk("x", watch=[{"id": "text", "text": "t", "threshold": 0.5}], hidden=turned)
    (target,) = desk.unresolved
    desk.protocol.resolved(target, TooLarge("watch 'text': too long", "watch"))
    desk.carry_out()
    assert desk.ear.one(ErrorEvent).error["code"] == "too_large"


def test_updating_keeps_the_state_of_watches_that_stay() -> None:
    desk = Desk("x", watch=[EAST], hidden=turned)
    desk.finish()
    assert desk.ear.one(WatchTriggered).watch == "east"
    desk.update(watch=[Watch(id="north", embedding=[0.0, 1.0], threshold=0.01), Watch.model_validate(EAST)])
    desk.finish()
    assert desk.ear.one(WatchTriggered).watch == "north"


def test_bad_watches_change_nothing() -> None:
    desk = Desk("x", watch=[EAST], hidden=turned)
    before = desk.protocol.options
    with pytest.raises(InvalidRequest) as raised:
        desk.update(Emit(on="append"), [Watch(id="w", embedding=[1.0], threshold=0)])
    assert raised.value.param == "watch[0].embedding"
    assert desk.protocol.options == before
    with pytest.raises(InvalidRequest):
        Desk(watch=[{"id": "w", "threshold": 0.5}])


def test_the_text_of_a_watch_is_embedded_once() -> None:
    desk = Desk("x", watch=[{"id": "text", "text": "t", "threshold": 0.5}], hidden=turned)
    assert len(desk.unresolved) == 1
    desk.update(Emit(on="append"), [Watch(id="text", text="t", threshold=0.5), Watch(id="new", text="n", threshold=0)])
    assert [target.watch.id for target in desk.unresolved] == ["text", "new"]


def test_nobody_hears_of_a_crossing_while_nobody_listens() -> None:
    desk, other, late = Desk("x" * 90, watch=[EAST], hidden=turned), Ear(), Ear()
    desk.finish()
    desk.detach()
    desk.set("x", other)
    desk.embed("e", other)
    desk.finish()
    assert [event.type for event in other.take()] == ["input_text.ack", "embedding.done"]
    desk.attach(late)
    desk.finish()
    assert late.one(WatchTriggered).watch == "east"


# Sockets come and go


def test_the_newest_attachment_wins() -> None:
    desk, other = Desk("text", durable=True), Ear()
    desk.append("!", event_id="e1")
    desk.embed("e2")
    probe = desk.probes[0]
    desk.attach(other)
    assert desk.ear.one(SessionClosed) == SessionClosed(session="ses", reason="taken_over")
    assert probe.future.cancelled()
    desk.committed(1)
    desk.end(probe)
    assert desk.ear.heard == []
    assert desk.protocol.emission.listener is other
    assert (desk.text, desk.protocol.acknowledged.revision) == ("text!", 1)


def test_who_attaches_again_loses_nothing() -> None:
    desk = Desk("text", durable=True)
    desk.append("!", event_id="e1")
    desk.embed("e2")
    desk.attach(desk.ear)
    desk.committed(1)
    desk.finish()
    assert [(event.type, event.event_id) for event in desk.ear.take()] == [
        ("input_text.ack", "e1"),
        ("embedding.done", "e2"),
    ]


def test_what_a_detached_client_waits_for_is_dropped() -> None:
    desk, other = Desk(durable=True, emit={"on": "append"}), Ear()
    desk.append("a", event_id="e1")
    desk.embed("e2")
    desk.append("b", other, event_id="e3")
    desk.embed("e4", other)
    desk.detach()
    assert [probe.future.cancelled() for probe in desk.probes if probe.peer is desk.ear] == [True]
    desk.committed(2)
    while desk.finish():
        pass
    assert desk.ear.heard == []
    ack, done = other.take()
    assert (ack.event_id, ack.revision, done.event_id) == ("e3", 2, "e4")
    assert is_of(done, "ab", 2)
    assert desk.protocol.wake_at() is None
    desk.append("c", other)
    assert not desk.probes


@pytest.mark.parametrize("on", ["append", "pause", "sentence", "drift"])
def test_who_attaches_gets_the_newest_text_embedded(on: str) -> None:
    desk, other, late = Desk(emit={"on": on, "drift": 1e-6}), Ear(), Ear()
    desk.append("a. ")
    desk.finish()
    desk.detach()
    desk.append("b", other)
    assert not desk.probes
    desk.attach(late)
    if not desk.probes:
        desk.wake()
    desk.finish()
    assert is_of(late.one(EmbeddingDone), "a. b", 2)


def test_a_socket_hears_of_changes_that_others_made() -> None:
    desk, other = Desk(), Ear()
    desk.append("a", other, event_id="e")
    assert (other.one(InputTextAck).event_id, desk.ear.one(InputTextAck).event_id) == ("e", None)


def test_closing_tells_everybody_who_waits() -> None:
    desk, other = Desk("text", durable=True, emit={"on": "append"}), Ear()
    desk.append("!", event_id="e1")
    desk.embed("e2", other)
    probes = list(desk.probes)
    desk.close("closed", other, "e3")
    gone, closed = desk.ear.take()
    assert (gone.type, gone.event_id, gone.error["code"]) == ("error", "e1", "not_found")
    assert closed == SessionClosed(session="ses", reason="closed")
    gone, closed = other.take()
    assert (gone.type, gone.event_id, gone.error["code"]) == ("error", "e2", "not_found")
    assert closed == SessionClosed(session="ses", event_id="e3", reason="closed")
    for probe in probes:
        desk.end(probe)
    assert desk.ear.heard == other.heard == []


def test_who_holds_and_closes_a_session_hears_it_once() -> None:
    desk = Desk("text")
    desk.close("closed", desk.ear, "e")
    assert desk.ear.one(SessionClosed) == SessionClosed(session="ses", event_id="e", reason="closed")


def test_a_session_expires_without_a_client() -> None:
    desk, other = Desk("text", attached=False), Ear()
    desk.embed("e", other)
    desk.close("expired")
    assert other.one(ErrorEvent).error["code"] == "not_found"


# With a journal


def test_a_change_is_applied_at_once_and_acknowledged_when_it_is_on_disk() -> None:
    desk = Desk(durable=True)
    desk.append("a", event_id="e1")
    desk.append("b", event_id="e2")
    assert (
        desk.text,
        desk.protocol.changes.now.revision,
        desk.protocol.acknowledged.revision,
        desk.protocol.acknowledged.offset,
    ) == ("ab", 2, 0, 0)
    assert desk.ear.heard == []
    desk.committed(1)
    ack = desk.ear.one(InputTextAck)
    assert (ack.event_id, ack.revision, ack.offset, ack.tokens) == ("e1", 1, 1, 2)
    desk.append("c", event_id="e3")
    desk.committed(3)
    ack = desk.ear.one(InputTextAck)
    assert (ack.event_id, ack.revision, ack.offset) == ("e3", 3, 3)
    assert (desk.protocol.acknowledged.revision, desk.protocol.acknowledged.offset) == (3, 3)


def test_its_embedding_does_not_wait_for_the_disk() -> None:
    desk = Desk(durable=True, emit={"on": "append"})
    desk.append("a")
    desk.embed("e")
    while desk.finish():
        pass
    assert [event.event_id for event in desk.ear.all(EmbeddingDone)] == [None, "e"]


def test_the_same_change_again_is_acknowledged_when_the_first_is_on_disk() -> None:
    desk, other = Desk(durable=True), Ear()
    desk.append("a", event_id="e1", base_revision=0)
    desk.append("b", event_id="e2", base_revision=1)
    desk.append("a", other, event_id="e3", base_revision=0)
    desk.append("b", other, event_id="e4", offset=1)
    assert desk.ear.heard == other.heard == []
    desk.committed(1)
    assert (desk.ear.one(InputTextAck).event_id, other.one(InputTextAck).event_id) == ("e1", "e3")
    desk.append("a", event_id="e5", base_revision=0)
    ack = desk.ear.one(InputTextAck)
    assert (ack.event_id, ack.revision) == ("e5", 1)
    desk.committed(2)
    assert (desk.ear.one(InputTextAck).event_id, other.one(InputTextAck).event_id) == ("e2", "e4")
    assert len(desk.commits) == 2


def test_commits_say_what_replaced_what() -> None:
    desk = Desk("Hello", durable=True, offset_unit="utf8")
    desk.append(" wörld")
    desk.replace(7, 9, "o")
    desk.set("Hello there")
    assert [
        (commit.mark.revision, commit.start, commit.end, commit.text, commit.mark.edited) for commit in desk.commits
    ] == [
        (1, 5, 5, " wörld", False),
        (2, 7, 8, "o", True),
        (3, 6, 11, "there", True),
    ]
    assert [commit.digest for commit in desk.commits] == list(desk.protocol.changes.digests)
    assert {len(commit.digest) for commit in desk.commits} == {DIGEST}


def test_what_was_applied_before_is_not_committed_again() -> None:
    desk = Desk(durable=True)
    desk.append("a", base_revision=0)
    desk.append("a", base_revision=0)
    desk.append("a", offset=0)
    with pytest.raises(RevisionGap):
        desk.append("a", base_revision=2)
    assert len(desk.commits) == 1


def test_after_so_many_changes_the_whole_text_is_committed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes_module, "SNAPSHOT_CHANGES", 3)
    monkeypatch.setattr(changes_module, "SNAPSHOT_CHARACTERS", 100)
    desk = Desk("-", durable=True)
    for text in ("a", "b", "c", "d", "e" * 100, "f"):
        desk.append(text)
    assert [commit.snapshot is not None for commit in desk.commits] == [False, False, True, False, True, False]
    digests = list(desk.protocol.changes.digests)
    assert desk.commits[2].snapshot == ("-abc", b"".join(digests[:3]))
    assert desk.commits[4].snapshot == ("-abcd" + "e" * 100, b"".join(digests[:5]))


def test_what_could_not_be_written_is_taken_back() -> None:
    desk, other = Desk(durable=True, offset_unit="utf8"), Ear()
    desk.append("é", event_id="e1", base_revision=0)
    desk.committed(1)
    digests = list(desk.protocol.changes.digests)
    desk.ear.take()
    desk.append("ü", event_id="e2", base_revision=1)
    desk.replace(0, 2, "e", other, event_id="e3", base_revision=2)
    desk.append("ü", other, event_id="e4", base_revision=1)
    desk.storage_failed(2)
    protocol = desk.protocol
    assert (desk.text, protocol.changes.now.revision, protocol.acknowledged.revision, protocol.acknowledged.offset) == (
        "é",
        1,
        1,
        2,
    )
    assert (list(protocol.changes.digests), protocol.changes.now.edited, desk.credit.uncommitted) == (
        digests,
        False,
        0,
    )
    errors = desk.ear.take() + other.take()
    assert [(event.event_id, event.error["code"], event.revision) for event in errors] == [  # type: ignore[attr-defined]
        ("e2", "storage_full", 1),
        ("e3", "storage_full", 1),
        ("e4", "storage_full", 1),
    ]
    # The session goes on from there, and its offsets may be relied on again.
    desk.append("éa", offset=0, event_id="e5")
    assert (desk.text, desk.protocol.changes.now.revision) == ("éa", 2)
    desk.refused("revision_conflict", desk.append, "ü", base_revision=1)
    desk.committed(2)
    ack = desk.ear.one(InputTextAck)
    assert (ack.event_id, ack.revision, ack.offset) == ("e5", 2, 3)


def test_an_edit_that_is_on_disk_stays_an_edit() -> None:
    desk = Desk("abc", durable=True)
    desk.replace(0, 1, "x")
    desk.committed(1)
    desk.replace(0, 1, "y")
    desk.storage_failed(2)
    assert (desk.text, desk.protocol.changes.now.edited) == ("xbc", True)


def test_a_change_after_a_failure_is_committed_whole() -> None:
    desk = Desk("abc", durable=True)
    desk.append("d")
    desk.append("e")
    desk.storage_failed(1)
    desk.commits.clear()
    for revision, text in enumerate("xy"):
        desk.append(text, base_revision=revision)
    assert [commit.mark.revision for commit in desk.commits] == [1, 2]
    assert desk.commits[0].snapshot == ("abcx", desk.commits[0].digest)
    assert desk.commits[1].snapshot is None


def test_embeddings_of_what_was_taken_back_are_refused() -> None:
    desk, other = Desk("a", durable=True), Ear()
    desk.embed("e0", other)
    desk.append("b", event_id="e1")
    desk.embed("e2")
    desk.append("c")
    desk.embed("e3", other)
    probes = list(desk.probes)
    desk.storage_failed(1)
    assert [probe.future.cancelled() for probe in probes] == [False, True, True]
    assert [(event.event_id, event.error["code"]) for event in desk.ear.take()] == [  # type: ignore[attr-defined]
        ("e1", "storage_full"),
        (None, "storage_full"),
        ("e2", "storage_full"),
    ]
    assert other.one(ErrorEvent).event_id == "e3"
    desk.embed("e4", other)
    while desk.finish():
        pass
    done = other.take()
    assert [event.event_id for event in done] == ["e0", "e4"]
    assert all(is_of(event, "a", 0) for event in done)


def test_an_automatic_embedding_of_what_was_taken_back_is_not_sent() -> None:
    desk = Desk("a", durable=True, emit={"on": "append"})
    desk.finish()
    desk.append("b")
    desk.append("c")
    desk.ear.take()
    taken_back = desk.probes[0]
    desk.storage_failed(1)
    desk.end(taken_back)
    assert [event.type for event in desk.ear.take()] == ["error", "error"]
    desk.probes.remove(taken_back)
    desk.finish()
    assert is_of(desk.ear.one(EmbeddingDone), "a", 0)
    assert desk.protocol.wake_at() is None


def test_the_text_that_is_left_is_embedded_again() -> None:
    desk = Desk("a", durable=True, emit={"on": "append"})
    desk.append("b")
    while desk.finish():
        pass
    assert is_of(desk.ear.take()[-1], "ab", 1)
    desk.storage_failed(1)
    desk.finish()
    assert is_of(desk.ear.take()[-1], "a", 0)


def test_a_watch_hears_nothing_of_what_was_taken_back() -> None:
    desk = Desk("x" * 90, durable=True, watch=[{"id": "text", "text": "t", "threshold": 0.5}], hidden=turned)
    (target,) = desk.unresolved
    desk.finish()
    desk.set("x")
    desk.finish()
    desk.storage_failed(1)
    desk.ear.take()
    desk.protocol.resolved(target, turned(""))
    while desk.finish():
        pass
    desk.carry_out()
    assert desk.ear.all(WatchTriggered) == []


def test_a_failure_that_was_dealt_with_is_not_dealt_with_again() -> None:
    """The journal answers each commit. Those behind the first that failed have gone already, whatever came since."""
    desk = Desk(durable=True)
    for text in "abc":
        desk.append(text)
    first, second, third = desk.commits
    desk.storage_failed(first)
    assert desk.text == ""
    desk.append("x", event_id="e1", offset=0)
    desk.append("y", event_id="e2")
    desk.ear.take()
    desk.storage_failed(second)
    desk.storage_failed(third)
    assert (desk.text, desk.protocol.changes.now.revision) == ("xy", 2)
    assert desk.ear.heard == []
    desk.committed(1)
    desk.committed(2)
    assert [(event.event_id, event.revision) for event in desk.ear.take()] == [("e1", 1), ("e2", 2)]  # type: ignore[attr-defined]


def test_a_second_failure_is_dealt_with_as_the_first() -> None:
    desk = Desk("-", durable=True)
    for text in ("a", "b", "c"):
        desk.append(text, event_id=text, base_revision=0)
        desk.storage_failed(1)
        assert (desk.text, desk.protocol.changes.now.revision) == ("-", 0)
        assert desk.ear.one(ErrorEvent).event_id == text


def test_a_failure_after_some_were_written() -> None:
    desk = Desk(durable=True)
    for text in "abc":
        desk.append(text, event_id=text)
    desk.committed(2)
    assert desk.ear.one(InputTextAck).revision == 2
    desk.storage_failed(3)
    error = desk.ear.one(ErrorEvent)
    assert (error.event_id, error.revision, desk.text) == ("c", 2, "ab")


def test_the_text_on_disk_is_put_together_change_by_change() -> None:
    desk = Desk("Hello world", durable=True)
    desk.replace(0, 5, "Goodbye")
    desk.replace(7, 8, ", ")
    desk.set("Goodbye")
    desk.append("!")
    for revision, text in [(1, "Goodbye world"), (2, "Goodbye, world"), (3, "Goodbye")]:
        desk.committed(revision)
        assert desk.protocol.acknowledged.offset == len(text)
    desk.storage_failed(4)
    assert desk.text == "Goodbye"
    desk.replace(0, 4, "", base_revision=3)
    desk.append("?")
    desk.committed(4)
    desk.storage_failed(5)
    assert desk.text == "bye"


# Segments


def segmented(text: str = "", **more: Any) -> Desk:
    """A desk whose windows hold 10 characters."""
    return Desk(
        text, overflow="segment", max_tokens=10, limits=replace(LIMITS, max_characters=60, max_tokens=10), **more
    )


def test_a_segment_ends_with_a_last_embedding() -> None:
    desk = segmented()
    desk.append("0123456789")
    assert (ack := desk.ear.one(InputTextAck)).segment == ack.start == 0
    desk.append("abc", event_id="more")
    ack = desk.ear.one(InputTextAck)
    assert (ack.offset, ack.tokens, ack.segment, ack.start, ack.event_id) == (13, 3, 1, 10, "more")
    desk.finish()
    last = desk.ear.one(EmbeddingDone)
    assert (last.segment, last.start, last.offset, last.final, last.event_id) == (0, 0, 10, True, None)
    assert last.usage["prompt_tokens"] == 11
    assert unit("0123456789") @ last.embedding > 0.99999
    desk.embed("now")
    desk.finish()
    done = desk.ear.one(EmbeddingDone)
    assert (done.segment, done.start, done.offset, done.final, done.event_id) == (1, 10, 13, None, "now")
    assert unit("abc") @ done.embedding > 0.99999


def test_one_change_may_end_several_segments() -> None:
    desk = segmented("é", offset_unit="utf8")
    desk.append("x" * 8)
    desk.append("y" * 12 + "z")
    desk.ear.take()
    for start, end, text in [(0, 10, "é" + "x" * 8), (10, 20, "y" * 10)]:
        desk.finish()
        last = desk.ear.one(EmbeddingDone)
        assert (last.start, last.offset, last.final) == (start, end, True)
        assert unit(text) @ last.embedding > 0.99999
    assert desk.protocol.changes.place == {"segment": 2, "start": 20}


def test_what_has_ended_cannot_change() -> None:
    desk = segmented("0123456789abc")
    error = desk.refused("invalid_request", desk.replace, 9, 10, "x")
    assert error.param == "start"
    assert "before 10" in error.message
    assert desk.refused("invalid_request", desk.set, "another").param == "text"
    desk.replace(10, 11, "A", base_revision=0)
    desk.set("0123456789A")
    assert desk.text == "0123456789A"


def test_the_text_may_outgrow_the_window_but_not_its_limit() -> None:
    desk = segmented("x" * 60)
    desk.refused("too_large", desk.append, "y")


def test_last_embeddings_wait_for_a_socket() -> None:
    desk = segmented("0123456789abc", attached=False)
    desk.carry_out()
    desk.finish()
    other = Ear("other")
    desk.append("d", other)
    assert [type(event) for event in other.take()] == [InputTextAck]
    desk.attach(desk.ear)
    last = desk.ear.one(EmbeddingDone)
    assert (last.segment, last.final) == (0, True)
    desk.detach()
    desk.attach(desk.ear)
    assert desk.ear.take() == []


def test_a_last_embedding_that_was_not_taken_comes_again() -> None:
    desk = segmented("0123456789abc")
    desk.slow = True
    desk.finish()
    assert desk.ear.one(EmbeddingDone).final
    desk.unread.clear()  # the connection has broken meanwhile
    desk.detach()
    late = Ear("late")
    desk.attach(late)
    assert late.one(EmbeddingDone).final
    desk.read()
    desk.detach()
    desk.attach(desk.ear)
    assert desk.ear.take() == []


def test_a_last_embedding_waits_for_the_journal() -> None:
    desk = segmented("012345678", durable=True)
    desk.append("9abc")
    desk.finish()
    assert desk.ear.take() == []
    desk.storage_failed(1)
    assert [type(event) for event in desk.ear.take()] == [ErrorEvent]
    desk.append("9xyz", base_revision=0)
    desk.finish()
    desk.committed(1)
    _, last = desk.ear.take()
    assert isinstance(last, EmbeddingDone)
    assert unit("0123456789") @ last.embedding > 0.99999
    desk.append("....")
    assert desk.protocol.changes.may_end_segment(0)


def test_more_last_embeddings_than_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emission_module, "MAX_ENDINGS", 2)
    desk = segmented("0123456789" * 5 + "x", attached=False)
    desk.carry_out()
    assert [probe.future.cancelled() for probe in desk.probes] == [True] * 3 + [False] * 2
    desk.finish()
    desk.finish()
    desk.attach(desk.ear)
    assert [event.segment for event in desk.ear.all(EmbeddingDone)] == [3, 4]


def test_last_embeddings_come_in_order_and_errors_with_them() -> None:
    desk = segmented("0123456789" * 3 + "x")
    first, second, third = desk.probes
    desk.end(second)
    assert desk.ear.take() == []
    desk.end(first, Internal("it failed"))
    error, done = desk.ear.take()
    assert isinstance(error, ErrorEvent)
    assert isinstance(done, EmbeddingDone)
    assert done.segment == 1
    desk.close()
    assert third.future.cancelled()


def test_an_automatic_embedding_of_a_segment_that_ended_gives_way() -> None:
    desk = segmented(emit=Emit.model_validate({"on": "append"}))
    desk.append("0123456789")
    (automatic,) = desk.probes
    desk.append("abc")
    assert automatic.future.cancelled()
    desk.finish()
    desk.finish()
    events = [(event.start, event.offset, event.final) for event in desk.ear.all(EmbeddingDone)]
    assert events == [(0, 10, True), (10, 13, None)]


def test_nothing_to_embed_right_after_a_segment() -> None:
    desk = segmented("0123456789", revision=3, window=(10, 1))
    with pytest.raises(InvalidRequest, match="empty"):
        desk.embed()
    assert desk.protocol.wake_at() is None


def test_a_segment_that_ended_is_taken_back_with_its_change() -> None:
    desk = segmented(durable=True)
    desk.append("01234567")
    desk.committed(1)
    desk.ear.take()
    desk.append("89abc", event_id="lost")
    commit = desk.commits[-1]
    assert commit.snapshot is not None, "the journal needs the whole text where a segment ends"
    assert (commit.mark.start, commit.mark.segment) == (10, 1)
    assert desk.protocol.changes.place == {"segment": 0, "start": 0}
    (ending,) = desk.probes
    desk.storage_failed(2)
    assert desk.ear.one(ErrorEvent).event_id == "lost"
    assert (desk.text, desk.document.start, desk.document.segment) == ("01234567", 0, 0)
    assert ending.future.cancelled()
    desk.append("89abc", base_revision=1)
    desk.committed(2)
    assert desk.ear.one(InputTextAck).start == 10


def test_a_reducer_changes_what_is_sent_alone() -> None:
    card = Card(format=1, method="pca", metric="cosine", input_dimensions=HIDDEN, dimensions=3, model="m",
                model_fingerprint="f", texts=9)  # fmt: skip
    weight = np.eye(HIDDEN, dtype=np.float32)[5:8]
    reducer = Reducer.build(card, ((weight, np.zeros(3, dtype=np.float32)),))
    watch = Watch(id="w", embedding=list(map(float, hashed("ab"))), threshold=0.99)
    desk = Desk("a", reducer=reducer, watch=[watch])
    desk.embed()
    while desk.finish():
        pass
    desk.append("b")
    desk.embed()
    while desk.finish():
        pass
    first, triggered, second = [event for event in desk.ear.take() if not isinstance(event, InputTextAck)]
    wanted = unit("ab")[5:8] / np.linalg.norm(unit("ab")[5:8])
    assert isinstance(second, EmbeddingDone)
    assert np.allclose(second.embedding, wanted, atol=1e-5)
    assert isinstance(first, EmbeddingDone)
    assert second.drift == pytest.approx(1 - unit("a") @ unit("ab"), abs=1e-5), "of the model's own vectors"
    assert isinstance(triggered, WatchTriggered)


def test_a_reducer_that_fails_is_an_error() -> None:
    card = Card(format=1, method="pca", metric="cosine", input_dimensions=HIDDEN, dimensions=1, model="m",
                model_fingerprint="f", texts=9)  # fmt: skip
    nothing = Reducer.build(card, ((np.zeros((1, HIDDEN), np.float32), np.zeros(1, np.float32)),))
    desk = Desk("a", reducer=nothing)
    desk.embed("e")
    desk.finish()
    assert desk.ear.one(ErrorEvent).error["code"] == "internal"


# Anything, in any order


class Entry(NamedTuple):
    """A change that was applied, and the text that it made."""

    key: tuple[Any, ...]
    text: str
    edits: bool


@dataclass
class Log:
    """What a session is: its changes. The slow and obvious way to say it."""

    unit: Any
    entries: list[Entry] = field(default_factory=list)

    @property
    def revision(self) -> int:
        return len(self.entries)

    @property
    def text(self) -> str:
        return self.text_at(self.revision)

    def text_at(self, revision: int) -> str:
        return self.entries[revision - 1].text if revision else ""

    def key(self, event: InputText) -> tuple[Any, ...]:
        place = (event.start, event.end) if isinstance(event, InputTextReplace) else ()
        return event.type, event.text, *place

    def judge(self, event: InputText) -> str | int | Entry:
        """The code of its error, the revision at which it was applied already, or what it adds."""
        base, text, edited = event.base_revision, self.text, any(entry.edits for entry in self.entries)
        if base is not None and base > self.revision:
            return "revision_gap"
        if base is not None and base < self.revision:
            return base + 1 if self.entries[base].key == self.key(event) else "revision_conflict"
        places = {count(text[:index], self.unit): index for index in range(len(text) + 1)}
        end = count(text, self.unit)
        new = text + event.text
        if isinstance(event, InputTextSet):
            new = event.text
        elif isinstance(event, InputTextReplace):
            if event.start not in places or event.end not in places or event.start > event.end:
                return "invalid_request"
            new = text[: places[event.start]] + event.text + text[places[event.end] :]
        elif event.offset is not None:
            if event.offset > end:
                return "offset_gap"
            if event.offset < end and (base is not None or edited):
                return "offset_conflict"
            if event.offset not in places:
                return "invalid_request"
            held = text[places[event.offset] :]
            if held.startswith(event.text) and base is None:
                return self.revision
            if not event.text.startswith(held):
                return "offset_conflict"
            new = text[: places[event.offset]] + event.text
        if len(new) > SMALL.max_characters or tokens(new) > SMALL.max_tokens:
            return "too_large"
        edits = not isinstance(event, InputTextAppend) and not new.startswith(text)
        if isinstance(event, InputTextReplace):
            edits = event.start < end
        return Entry(self.key(event), new, edits)


@dataclass
class Disk:
    """What the journal's file holds, and what the journal knows of it."""

    base: tuple[int, str, bytes, bool] = (0, "", b"", False)
    changes: dict[int, Commit] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    revision: int = 0
    """The newest revision that was told to be there."""

    def write(self, commit: Commit, entries: list[Entry], fate: str) -> bool:
        if commit.mark.revision != self.revision + 1:
            return False
        if fate != "lost":
            if commit.snapshot is not None:
                self.base, self.changes = (commit.mark.revision, *commit.snapshot, commit.mark.edited), {}
            else:
                assert commit.mark.revision not in self.changes, "the remains of a failure must be written over"
                self.changes[commit.mark.revision] = commit
            self.entries = entries
        if fate == "written":
            self.revision = commit.mark.revision
        return fate == "written"

    def read(self) -> tuple[int, str, tuple[bytes, ...], bool]:
        revision, text, joined, edited = self.base
        digests = [joined[at : at + DIGEST] for at in range(0, len(joined), DIGEST)]
        for number in sorted(self.changes):
            commit = self.changes[number]
            assert number == revision + 1
            edited = edited or commit.start < len(text)
            text = text[: commit.start] + commit.text + text[commit.end :]
            digests.append(commit.digest)
            revision = number
        return revision, text, tuple(digests), edited


@dataclass
class Waiting:
    """What answers an event."""

    revision: int
    text: str | None = None
    """Of an embedding."""


class Listener(Ear):
    """A client that hands on what it hears, and knows what it waits for."""

    def __init__(self, name: str, hear: Callable[[Listener, ServerEvent], None]) -> None:
        super().__init__(name)
        self.hear = hear
        self.waiting: dict[str, Waiting] = {}
        self.gone = False

    def send(self, event: ServerEvent, slot: str | None = None) -> None:
        self.hear(self, event)


SMALL = Limits(max_characters=24, max_tokens=48, max_pending=3)
FATES = ["written", "written", "lost", "written, but not told"]
CHUNKS = ["", "a", "b", "aa", "é", "你", "😀", "a. ", "。", "ab😀é", "x" * 9]
chunks = st.sampled_from(CHUNKS)
rules_of_emission = st.builds(
    Emit,
    on=st.sampled_from(["manual", "append", "append", "pause", "sentence", "drift"]),
    min_interval_ms=st.sampled_from([0, 0, 100, 1000]),
    pause_ms=st.sampled_from([10, 300]),
    drift=st.sampled_from([0.001, 0.5]),
)
watched = [Watch(id=text, embedding=list(map(float, hashed(text))), threshold=0.3) for text in ("a", "b", "aa")]
watch_lists = st.lists(st.sampled_from(watched), unique_by=lambda watch: watch.id, max_size=2)


class Sessions(RuleBasedStateMachine):
    """Clients, an engine, a disk and a clock around one machine, and a log of changes that says how it must stand."""

    @initialize(
        durable=st.sampled_from([True, True, False]),
        unit_=st.sampled_from(list(ENDS)),
        emit=rules_of_emission,
        watch=watch_lists,
    )
    def begin(self, durable: bool, unit_: str, emit: Emit, watch: list[Watch]) -> None:
        self.durable, self.unit = durable, unit_
        self.names = itertools.count(1)
        self.log, self.acked, self.disk = Log(unit_), 0, Disk()
        self.options = {"offset_unit": unit_, "emit": emit, "watch": watch}
        self.start()

    def start(self, **saved: Any) -> None:
        self.desk = Desk(
            self.log.text, durable=self.durable, limits=SMALL, max_tokens=SMALL.max_tokens, attached=False,
            **self.options, **saved,
        )  # fmt: skip
        self.desk.look = self.look
        self.holder: Listener | None = None
        self.misled: Listener | None = None  # of whose changes one was refused, and that has not shown that it knows
        self.clients: list[Listener] = []
        self.order: list[tuple[Listener, str]] = []  # of embeddings that were asked for
        self.sent: list[InputText] = []
        self.histories: dict[int, list[Entry]] = {}  # by the id of a commit
        self.dead: set[int] = set()  # commits that were taken back
        self.told: deque[tuple[Commit, bool]] = deque()  # by the disk, not heard yet
        self.ending: Probe | None = None
        self.automatic: Probe | None = None  # the last
        self.accepted: Counter[str] = Counter()  # events, by kind
        self.kept: list[Commit] = []  # so that ids stay theirs

    def look(self, effect: Any) -> None:
        """Before hands carry it out."""
        match effect:
            case Probe():
                text = self.log.text
                assert text
                state = (asked(effect), effect.mark.revision, effect.mark.offset, effect.tokens)
                assert state == (text, self.log.revision, count(text, self.unit), tokens(text))
                if effect.peer is None:
                    assert self.holder is not None
                    self.automatic = effect
            case Write(Commit() as commit):
                assert self.durable
                assert commit.mark.revision == self.log.revision
                self.histories[id(commit)] = list(self.log.entries)
                self.kept.append(commit)

    # What clients hear

    def hear(self, client: Listener, event: ServerEvent) -> None:
        assert not client.gone, f"{client} is gone and hears {event}"
        assert event.session == "ses"
        match event:
            case InputTextAck():
                stands = (self.acked, count(self.log.text_at(self.acked), self.unit), tokens(self.log.text))
                assert (event.revision, event.offset, event.tokens) == stands
                covered = [
                    name
                    for name, waiting in client.waiting.items()
                    if waiting.text is None and waiting.revision <= event.revision
                ]
                assert event.event_id == (covered[-1] if covered else None)
                assert covered or client is self.holder
                for name in covered:
                    del client.waiting[name]
            case EmbeddingDone():
                probe = self.ending
                assert probe is not None
                if event.event_id is None:
                    assert client is self.holder
                    text, revision = asked(probe), probe.mark.revision
                else:
                    assert self.order.pop(0) == (client, event.event_id)
                    waiting = client.waiting.pop(event.event_id)
                    assert waiting.text is not None
                    text, revision = waiting.text, waiting.revision
                assert (event.revision, event.offset) == (revision, count(text, self.unit))
                assert unit(text) @ event.embedding > 0.99999
            case ErrorEvent(event_id=None):
                assert client is self.holder
            case ErrorEvent():
                assert event.event_id is not None
                waiting = client.waiting.pop(event.event_id)
                if event.error["code"] == "storage_full":
                    assert waiting.revision > self.acked == event.revision
                    self.order = [each for each in self.order if each != (client, event.event_id)]
                else:
                    assert (event.error["code"], self.order.pop(0)) == ("internal", (client, event.event_id))
            case SessionClosed():
                assert event.reason == "taken_over"
                assert client is self.holder
                self.leave()
            case EmbeddingSkipped():
                assert client is self.holder
                assert self.automatic is not None
                assert event.revision < event.superseded_by == self.automatic.mark.revision
            case WatchTriggered():
                assert client is self.holder
                probe = self.ending
                assert probe is not None
                target = hashed(event.watch)
                assert event.score == pytest.approx(unit(asked(probe)) @ target / np.linalg.norm(target), abs=1e-4)
                assert event.score >= 0.3 - 1e-6
                assert (event.revision, event.offset) == (probe.mark.revision, probe.mark.offset)
            case _:
                raise AssertionError(f"{client} hears {event}")

    def leave(self) -> None:
        assert self.holder is not None
        self.holder.gone = True
        self.holder.waiting.clear()
        self.order = [each for each in self.order if each[0] is not self.holder]
        self.holder = None

    def who(self, holds: bool) -> Listener:
        """The socket that holds the session, or one that asks over HTTP."""
        if holds and self.holder is not None:
            return self.holder
        self.clients.append(Listener(f"http{next(self.names)}", self.hear))
        return self.clients[-1]

    # What happens

    @rule(again=st.booleans())
    def attach(self, again: bool) -> None:
        if again and self.holder is not None:
            client = self.holder
        else:
            client = Listener(f"socket{next(self.names)}", self.hear)
            self.clients.append(client)
        desk = self.desk
        desk.protocol.attach(client, None, SessionResumed, {}, desk.now)
        kept, desk.protocol._effects[:] = desk.protocol._effects[:], []
        ours = [effect for effect in kept if isinstance(effect, Send) and effect.peer is not client]
        desk.protocol._effects[:] = ours
        desk.carry_out()  # the one that had it is out
        self.holder, self.misled = client, None
        desk.protocol._effects[:] = [effect for effect in kept if effect not in ours]
        desk.carry_out()

    @precondition(lambda self: self.holder is not None)
    @rule()
    def detach(self) -> None:
        self.leave()
        self.desk.detach()

    def post(self, event: InputText, client: Listener) -> None:
        verdict = self.log.judge(event)
        assert event.event_id is not None
        placed = event.base_revision is not None or isinstance(event, InputTextSet)
        if client is self.misled and not placed and getattr(event, "offset", None) is None:
            verdict = "revision_conflict"
        if isinstance(verdict, str):
            assert self.desk.refused(verdict, self.desk.change, event, client).code == verdict
            if client is self.holder:
                self.misled = client
            return
        if client is self.misled:
            self.misled = None
        if isinstance(verdict, Entry):
            self.log.entries.append(verdict)
            if not self.durable:
                self.acked = self.log.revision
            verdict = self.log.revision
        client.waiting[event.event_id] = Waiting(verdict)
        self.accepted[event.type] += 1
        self.desk.change(event, client)
        self.sent.append(event)

    def name(self) -> str:
        return f"e{next(self.names)}"

    def base(self, back: int | None) -> int | None:
        return None if back is None else max(self.log.revision - back, 0)

    bases = st.sampled_from([None, None, 0, 0, 0, 1, 2, 5, -1])

    @rule(text=chunks, back=bases, holds=st.booleans())
    def append(self, text: str, back: int | None, holds: bool) -> None:
        event = InputTextAppend(session="ses", event_id=self.name(), text=text, base_revision=self.base(back))
        self.post(event, self.who(holds))

    @rule(data=st.data(), back=st.sampled_from([None, None, None, 0, 1]), holds=st.booleans())
    def append_at(self, data: st.DataObject, back: int | None, holds: bool) -> None:
        """What stands at an offset, or other text, and more."""
        text = self.log.text
        place = data.draw(st.integers(0, len(text)))
        start = count(text[:place], self.unit) + data.draw(st.sampled_from([0, 0, 0, 0, 1]))
        new = data.draw(st.sampled_from([text[place:], text[place : place + 2], ""])) + data.draw(chunks)
        event = InputTextAppend(
            session="ses", event_id=self.name(), text=new, offset=start, base_revision=self.base(back)
        )
        self.post(event, self.who(holds))

    @rule(start=st.integers(0, 30), length=st.integers(-1, 8), text=chunks, back=bases, holds=st.booleans())
    def replace(self, start: int, length: int, text: str, back: int | None, holds: bool) -> None:
        start %= count(self.log.text, self.unit) + 2
        event = InputTextReplace(
            session="ses", event_id=self.name(), start=start, end=max(start + length, 0), text=text,
            base_revision=self.base(back),
        )  # fmt: skip
        self.post(event, self.who(holds))

    @rule(keep=st.integers(0, 24), text=chunks, back=bases, holds=st.booleans())
    def set(self, keep: int, text: str, back: int | None, holds: bool) -> None:
        event = InputTextSet(
            session="ses", event_id=self.name(), text=self.log.text[:keep] + text, base_revision=self.base(back)
        )
        self.post(event, self.who(holds))

    @precondition(lambda self: self.sent)
    @rule(back=st.integers(1, 4), holds=st.booleans())
    def send_again(self, back: int, holds: bool) -> None:
        event = self.sent[-min(back, len(self.sent))]
        self.post(event.model_copy(update={"event_id": self.name()}), self.who(holds))

    @rule(holds=st.booleans())
    def ask(self, holds: bool) -> None:
        client, name, desk = self.who(holds), self.name(), self.desk
        if not self.log.text or len(self.order) >= SMALL.max_pending or desk.document.busy:
            with pytest.raises((InvalidRequest, Overloaded)):
                desk.embed(name, client)
            return
        client.waiting[name] = Waiting(self.log.revision, self.log.text)
        self.accepted["embedding.create"] += 1
        self.order.append((client, name))
        desk.embed(name, client)

    @rule(emit=st.none() | rules_of_emission, watch=st.none() | watch_lists)
    def update(self, emit: Emit | None, watch: list[Watch] | None) -> None:
        self.accepted["session.update"] += 1
        self.desk.update(emit, watch)
        if emit is not None:
            self.options["emit"] = emit
        if watch is not None:
            self.options["watch"] = watch

    @rule(fails=st.sampled_from([False, False, False, True]))
    def finish(self, fails: bool) -> None:
        self.end_a_probe(fails)

    def end_a_probe(self, fails: bool = False) -> bool:
        """The engine ends the oldest that somebody waits for, if there is one."""
        probes = self.desk.probes
        while probes and probes[0].future.cancelled():
            probes.popleft()
        if not probes:
            return False
        self.ending = probes[0]
        self.desk.finish(Internal("computing failed") if fails else None)
        self.ending = None
        return True

    @precondition(lambda self: self.desk.commits)
    @rule(fates=st.lists(st.sampled_from(FATES), min_size=1, max_size=3))
    def write(self, fates: list[str]) -> None:
        for fate in fates[: len(self.desk.commits)]:
            self.write_one(fate)

    def write_one(self, fate: str) -> None:
        commit = self.desk.commits.popleft()
        entries = self.histories.pop(id(commit))
        ok = self.disk.write(commit, entries, fate)
        assert not (ok and id(commit) in self.dead), "what was taken back is on disk"
        self.told.append((commit, ok))
        revision, text, digests, edited = self.disk.read()
        assert self.disk.entries == entries or not ok
        assert (revision, text) == (len(self.disk.entries), self.disk.entries[-1].text if self.disk.entries else "")
        assert len(digests) == revision
        assert edited == any(entry.edits for entry in self.disk.entries)

    @precondition(lambda self: self.told)
    @rule(many=st.integers(1, 3))
    def tell(self, many: int) -> None:
        for _ in range(min(many, len(self.told))):
            self.tell_one()

    def tell_one(self) -> None:
        """The machine hears what became of its oldest commit: of each, in their order, as from the journal."""
        commit, ok = self.told.popleft()
        if ok:
            assert commit.mark.revision == self.acked + 1
            self.acked = commit.mark.revision
            self.desk.committed(commit)
            return
        if id(commit) not in self.dead:
            self.dead |= {id(each) for each in self.kept}
            del self.log.entries[self.acked :]
            if self.holder is not None and any(each.text is None for each in self.holder.waiting.values()):
                self.misled = self.holder
        self.desk.storage_failed(commit)

    @rule(seconds=st.sampled_from([0.0, 0.01, 0.1, 0.3, 2.0]))
    def tick(self, seconds: float) -> None:
        self.desk.tick(seconds)

    @precondition(lambda self: self.desk.protocol.wake_at() is not None and not self.desk.document.busy)
    @rule()
    def wake(self) -> None:
        before = self.automatic
        self.desk.wake()
        assert self.automatic is not before

    @rule(busy=st.booleans())
    def fill_the_engine(self, busy: bool) -> None:
        self.desk.document.busy = busy

    @rule(slow=st.booleans())
    def read(self, slow: bool) -> None:
        self.desk.slow = slow
        self.desk.read()

    @precondition(lambda self: self.durable)
    @rule()
    def end_and_recover(self) -> None:
        revision, text, digests, edited = self.disk.read()
        assert revision >= self.acked
        assert self.disk.entries[: self.acked] == self.log.entries[: self.acked]
        now = self.desk.now
        self.log.entries = list(self.disk.entries)
        self.acked = self.disk.revision = revision
        sent = self.sent
        self.start(revision=revision, digests=digests, edited=edited)
        self.sent, self.desk.now = sent, now + 100
        assert text == self.desk.text

    # What always holds

    @invariant()
    def it_stands_as_its_log(self) -> None:
        protocol = self.desk.protocol
        assert (self.desk.text, protocol.changes.now.revision, protocol.acknowledged.revision) == (
            self.log.text,
            self.log.revision,
            self.acked,
        )
        assert protocol.acknowledged.offset == count(self.log.text_at(self.acked), self.unit)
        assert len(protocol.changes.digests) == self.log.revision
        assert protocol.emission.listener is self.holder
        assert protocol.options.emit == self.options["emit"]
        waiting = len(self.desk.commits) + sum(ok for _, ok in self.told)
        assert self.log.revision - self.acked <= waiting + len(self.told)

    @invariant()
    def nobody_waits_for_what_has_happened(self) -> None:
        for client in self.clients:
            assert not client.gone or not client.waiting
            assert all(each.revision > self.acked for each in client.waiting.values() if each.text is None)
        asked_for = [(client, name) for client in self.clients for name, each in client.waiting.items() if each.text]
        assert {name for _, name in asked_for} == {name for _, name in self.order}

    @invariant()
    def nothing_automatic_is_late(self) -> None:
        wake_at = self.desk.protocol.wake_at()
        assert wake_at is None or wake_at > self.desk.now or self.desk.document.busy

    def teardown(self) -> None:
        """Everything goes well from here on: all are answered, and the newest text is embedded."""
        if not hasattr(self, "desk"):
            return
        self.desk.document.busy = self.desk.slow = False
        self.desk.read()
        while self.desk.commits:
            self.write_one("written")
        while self.told:
            self.tell_one()
        busy = True
        while busy:
            busy = self.end_a_probe()
            if self.desk.protocol.wake_at() is not None:
                self.desk.wake()
                busy = True
        self.it_stands_as_its_log()
        assert not any(client.waiting for client in self.clients)
        assert Counter(count.kind for count in self.desk.counted) == self.accepted
        if self.durable:
            assert self.disk.entries[: self.acked] == self.log.entries
        looked_at = self.options["emit"].on != "manual" or self.options["watch"]
        if self.holder is not None and self.log.text and looked_at:
            assert self.automatic is not None
            assert asked(self.automatic) == self.log.text


Sessions.TestCase.settings = settings(max_examples=150, stateful_step_count=50, report_multiple_bugs=False)
test_sessions = Sessions.TestCase
