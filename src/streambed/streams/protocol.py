"""A session on the wire, as a state machine without I/O.

Inputs are a client's events and what became of earlier effects (a probe's vector, a commit to the journal, time). Outputs
are `Effect`s, to be carried out in their order: events to send, changes to commit, probes to wait for. The machine is told
the time and never asks for it. Errors are raised; one that is raised has changed nothing.

*Exactly once* (docs/protocol.md): every change raises `revision` by one. A digest of each of the last changes is kept, so
that a change that is sent again is known and acknowledged again. With a journal a change is applied at once, so that its
embedding need not wait for the disk, but acknowledged when it is on disk; if that fails it is taken back.
"""

from __future__ import annotations

import enum
import hashlib
import typing
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
import orjson

from streambed.errors import (
    InvalidRequest,
    NotFound,
    OffsetConflict,
    OffsetGap,
    Overloaded,
    RequestError,
    RevisionConflict,
    RevisionGap,
    StorageFull,
    TooLarge,
)
from streambed.streams.triggers import Target, Trigger, Vector, Watches
from streambed.text.incremental import common_prefix
from streambed.text.units import codepoints, count
from streambed.vectors.reducers import Form
from streambed.wire import (
    Change,
    EmbeddingCreate,
    EmbeddingDone,
    EmbeddingSkipped,
    Emit,
    InputTextAck,
    InputTextAppend,
    InputTextReplace,
    ServerEvent,
    SessionClosed,
    SessionOptions,
    Watch,
    WatchTriggered,
    error_event,
)

HISTORY = 1024
"""Changes that are known again when they are sent again."""
MAX_ENDINGS = 1024
"""Last embeddings of ended segments that wait for a socket; older ones go."""
MAX_UNACKED = 1024
"""Changes of a session that may wait for the journal."""
EMISSION = "emission"
"""Slot of automatic embeddings."""
DIGEST = 12
"""Bytes of a change's digest."""
SNAPSHOT_CHANGES = 256
SNAPSHOT_CHARACTERS = 64 << 10
"""After so much in changes, the whole text is journalled, so that recovery stays quick."""


class State(enum.Enum):
    DETACHED = "detached"
    """No socket holds the session; its time to live runs."""
    ATTACHED = "attached"
    CLOSED = "closed"


_WORK = (
    "session.update",
    "session.fork",
    "input_text.append",
    "input_text.replace",
    "input_text.set",
    "embedding.create",
)

TRANSITIONS: dict[tuple[State, str], State] = {
    **{(state, event): state for state in (State.DETACHED, State.ATTACHED) for event in _WORK},
    (State.DETACHED, "session.resume"): State.ATTACHED,
    (State.ATTACHED, "session.resume"): State.ATTACHED,  # the newest attachment wins
    (State.ATTACHED, "detach"): State.DETACHED,
    (State.DETACHED, "expire"): State.CLOSED,
    (State.DETACHED, "session.close"): State.CLOSED,
    (State.ATTACHED, "session.close"): State.CLOSED,
}
"""What may happen in which state, and what comes of it. Anything else is refused: `not_found` once it is closed."""


class Result(typing.Protocol):
    """What a probe ends in: `streambed.engine.sequence.Embedding`."""

    @property
    def vectors(self) -> Vector: ...
    @property
    def cached_tokens(self) -> int: ...
    @property
    def computed_tokens(self) -> int: ...
    @property
    def queue_s(self) -> float: ...
    @property
    def compute_s(self) -> float: ...


class Snapshot(typing.Protocol):
    """A probe that was asked for."""

    @property
    def future(self) -> Future[typing.Any]: ...


class Ended(Snapshot, typing.Protocol):
    """A segment that has ended, with its last probe. Positions count code points."""

    @property
    def number(self) -> int: ...
    @property
    def start(self) -> int: ...
    @property
    def end(self) -> int: ...
    @property
    def tokens(self) -> int: ...


class Document(typing.Protocol):
    """What the machine needs of `streambed.engine.session.Session`. Positions count code points."""

    @property
    def text(self) -> str: ...
    @property
    def offset(self) -> int: ...
    @property
    def num_tokens(self) -> int: ...
    @property
    def start(self) -> int: ...
    @property
    def segment(self) -> int: ...
    def take_ended(self) -> Sequence[Ended]: ...
    def restore(self, text: str, start: int, segment: int) -> None: ...
    def replace(self, start: int, end: int, text: str) -> int: ...
    def probe(self, deadline: float | None = None) -> Snapshot: ...


class Client(typing.Protocol):
    """Who asks, and hears the answers: a socket, or one request over HTTP. The machine only tells them apart."""

    def send(self, event: ServerEvent, slot: str | None = None) -> None: ...


@dataclass(frozen=True)
class Send:
    """To a client. Of those with the same slot only the newest matters, if the client is slow; when it has taken one of slot
    `EMISSION`, or a segment's last embedding, `sent` must be told."""

    client: Client
    event: ServerEvent
    slot: str | None = None


class Window(typing.NamedTuple):
    """The segment that grows: where it begins, in code points, and its number."""

    start: int
    segment: int


START = Window(0, 0)


@dataclass(frozen=True, eq=False)
class Commit:
    """To the journal: `revision` puts `text` in the place of `[start, end)` and makes it, if given, `snapshot`."""

    revision: int
    start: int
    end: int
    text: str
    digest: bytes
    edited: bool
    snapshot: tuple[str, bytes] | None
    """The whole text and the digests of the last changes; always there where a segment has ended."""
    window: Window = START


@dataclass(eq=False)
class Probe:
    """A vector to wait for, and then to hand to `probed`."""

    snapshot: Snapshot
    revision: int
    offset: int
    tokens: int
    asked: float
    client: Client | None = None
    """Who asked for it; None for an automatic one."""
    event_id: str | None = None
    emitting: bool = False
    """Whether an automatic one is to be sent, or for the watches alone."""
    segment: int = 0
    start: int = 0
    """Where what it is of begins, in the session's unit."""
    final: bool = False
    """Whether it is a segment's last."""
    due: float | None = None
    """Since when an automatic one was due by the session's rules."""
    result: Result | RequestError | None = None
    ended: float = 0.0


Effect = Send | Commit | Probe


@dataclass(frozen=True)
class Limits:
    """What a session may hold and have in flight."""

    max_characters: int
    max_tokens: int
    max_pending: int = 64
    credit: int = 64 << 10
    max_frame_bytes: int = 1 << 20


@dataclass(frozen=True)
class _Applied:
    """A change that is not on disk yet."""

    commit: Commit
    offset: int
    """Length of the text after it, in the session's unit."""
    start: int
    """Where the segment that grows begins after it, in the same unit."""
    first_edit: bool
    """Whether the text was never changed but at its end before."""


@dataclass(frozen=True)
class _Owed:
    """An acknowledgement."""

    revision: int
    client: Client
    event_id: str | None


@dataclass
class Protocol:
    """See the module. `durable`: whether changes are acknowledged only after `committed`."""

    id: str
    document: Document
    options: SessionOptions
    form: Form
    limits: Limits
    durable: bool
    revision: int = 0
    digests: deque[bytes] = field(default_factory=lambda: deque(maxlen=HISTORY))
    edited: bool = False
    """Whether the text was ever changed other than at its end."""
    now: float = 0.0
    """When it begins."""

    def __post_init__(self) -> None:
        self.state = State.DETACHED
        self.client: Client | None = None
        self.watches = Watches(self.form.unit_dimensions)
        self.watches.check(self.options.watch)
        self._unresolved = self.watches.replace(self.options.watch)
        self._trigger = Trigger(self.options.emit, bool(self.options.watch))
        self._effects: list[Effect] = []
        self._offset = self._count(self.document.text)
        self.acked = self.revision
        """The newest revision that was, or could be, acknowledged: with a journal, the newest on disk."""
        self.acked_offset = self._offset
        """Length of its text in the session's unit."""
        self._acked_text: str | None = None  # kept while something is not on disk
        self._start = self._count(self.document.text[: self.document.start])
        self._acked_window, self._acked_start = self._window, self._start
        self._started = self._window  # that `_start` is of
        self._endings: deque[Probe] = deque()
        """Kept until a client has taken them."""
        self._applied: deque[_Applied] = deque()
        self._unacked = 0
        self._owed: list[_Owed] = []
        self._explicit: deque[Probe] = deque()
        self._automatic: Probe | None = None
        self._unsent = False  # whether the client has yet to take the last automatic embedding
        self._due: int | None = None
        self._skipped: int | None = None
        self._last: Vector | None = None  # that was sent to the socket
        self._emitted: Vector | None = None  # that was sent to it unasked
        self._seen: tuple[Vector, Probe] | None = None  # the last, sent or not
        # A restart may have divided the text for a smaller window: the journal hears of it with the next change.
        self._since_snapshot = [SNAPSHOT_CHANGES if self.options.overflow == "segment" else 0, 0]
        self._tokens = self.document.num_tokens
        self.queued = 0
        """Characters of changes that wait to be applied, as whoever keeps them says."""
        self._end_segments(self.now)

    # What was, and what is to be done

    def take(self) -> list[Effect]:
        """The effects since the last call."""
        effects, self._effects = self._effects, []
        return effects

    def take_unresolved(self) -> list[Target]:
        """Watches whose text must be embedded; their vectors go to `resolved`."""
        targets, self._unresolved = self._unresolved, []
        return targets

    def wake_at(self) -> float | None:
        """When `tick` must be called; None for never."""
        idle = self.client is None or self._automatic is not None or self._unsent or self._is_empty
        return None if idle else self._trigger.wake_at()

    @property
    def offset(self) -> int:
        """Length of the text in the session's unit."""
        return self._offset

    @property
    def place(self) -> dict[str, typing.Any]:
        """`segment` and `start` of what grows, as acknowledged; nothing where the text goes on in no segments."""
        if self.options.overflow == "error":
            return {}
        return {"segment": self._acked_window.segment, "start": self._acked_start}

    @property
    def _window(self) -> Window:
        return Window(self.document.start, self.document.segment)

    @property
    def _is_empty(self) -> bool:
        """Whether there is nothing to embed."""
        return self.document.offset == self.document.start

    @property
    def unacked_characters(self) -> int:
        """Characters of changes that are applied and not on disk."""
        return self._unacked

    @property
    def credit(self) -> int:
        return max(0, self.limits.credit - self.unacked_characters - self.queued)

    def may_end_segment(self, characters: int) -> bool:
        """Whether a change of so many characters could outgrow the window, and so have a whole one divided."""
        # No tokenizer makes more tokens than bytes; what was in flight when the tokens were counted is small.
        return self.options.overflow == "segment" and self._tokens + 4 * characters + 64 > self.limits.max_tokens

    # What clients do

    def attach(self, client: Client, now: float) -> None:
        """A socket takes the session; the one that had it hears so and is out."""
        self._enter("session.resume")
        before, self.client = self.client, client
        if before is not None and before is not client:
            self._send(before, SessionClosed(session=self.id, reason="taken_over"))
            self._forget(before)
        if before is not client:
            self._last = self._emitted = None  # it has been sent nothing
        if not self._is_empty:
            self._trigger.touch(now)

    def detach(self) -> None:
        """The socket has gone, or lets the session go."""
        before, self.client = self.client, None
        assert before is not None
        self._enter("detach")
        self._forget(before)

    def fork(self) -> SessionOptions:
        """What a session with the same text begins with."""
        self._enter("session.fork")
        return self.options

    def change(self, event: Change, client: Client, now: float) -> None:
        """Applies a change, or finds that it was applied before. Raises a RequestError with `revision` set."""
        self._enter(event.type)
        try:
            self._change(event, client, now)
        except RequestError as error:
            error.revision = self.revision
            raise
        self._advance(now)

    def embed(self, event: EmbeddingCreate, client: Client, now: float, deadline: float | None) -> None:
        """Asks for the embedding of the text as it is."""
        self._enter(event.type)
        if self._is_empty:
            what = "text" if not self.document.start else "segment that grows"
            raise InvalidRequest(f"the {what} is empty; there is nothing to embed yet")
        if len(self._explicit) >= self.limits.max_pending:
            raise Overloaded(f"{len(self._explicit)} embeddings of this session are asked for and not answered yet")
        probe = self._probe(now, deadline, client, event.event_id)
        self._explicit.append(probe)
        self._effects.append(probe)

    def update(self, emit: Emit | None, watch: list[Watch] | None, now: float) -> None:
        """New rules. Raises InvalidRequest."""
        self._enter("session.update")
        if watch is not None:
            self.watches.check(watch)
            self._unresolved += self.watches.replace(watch)
        self.options = self.options.model_copy(
            update={
                "emit": emit or self.options.emit,
                "watch": self.options.watch if watch is None else watch,
            }
        )
        self._due = self._skipped = None
        self._trigger.change_rules(self.options.emit, bool(self.options.watch), now)
        self._advance(now)

    def close(self, reason: typing.Literal["closed", "expired"], client: Client | None, event_id: str | None) -> None:
        """Ends the session; whoever waits for something hears so."""
        self._enter("expire" if reason == "expired" else "session.close")
        gone = NotFound("the session was closed")
        for probe in self._explicit:
            probe.snapshot.future.cancel()
            assert probe.client is not None
            self._send(probe.client, error_event(gone, self.id, probe.event_id))
        self._explicit.clear()
        for ending in self._endings:
            ending.snapshot.future.cancel()
        self._endings.clear()
        for owed in self._owed:
            self._send(owed.client, error_event(gone, self.id, owed.event_id))
        self._owed.clear()
        for who in {id(each): each for each in (client, self.client) if each is not None}.values():
            answer = event_id if who is client else None
            self._send(who, SessionClosed(session=self.id, event_id=answer, reason=reason))
        self.client = None

    def sent(self, client: Client, now: float, ended: int | None = None) -> None:
        """The automatic embedding that a client had to take has been sent: another may follow. ended: it was the last one
        of this segment, which need not be sent again."""
        if ended is not None:
            self._endings = deque(ending for ending in self._endings if ending.segment != ended)
        elif client is self.client:
            self._unsent = False
            self._advance(now)

    # What became of effects

    def tick(self, now: float) -> None:
        """Time has passed."""
        if self.state is not State.CLOSED:
            self._advance(now)

    def committed(self, commit: Commit) -> None:
        """A change, and so all before it, is on disk."""
        while self._applied and self._applied[0].commit.revision <= commit.revision:
            done, text = self._applied.popleft(), self._acked_text
            self._unacked -= len(done.commit.text)
            assert text is not None
            self._acked_text = text[: done.commit.start] + done.commit.text + text[done.commit.end :]
            self.acked, self.acked_offset = done.commit.revision, done.offset
            self._acked_window, self._acked_start = done.commit.window, done.start
        if not self._applied:
            self._acked_text = None
        self._pay_acks(progress=True)
        self.tell_endings()

    def storage_failed(self, commit: Commit, error: StorageFull, now: float) -> None:
        """A change could not be written: all that are not on disk are taken back."""
        if self.state is State.CLOSED or not any(change.commit is commit for change in self._applied):
            return  # it was taken back with one before it
        assert self._acked_text is not None
        edited = any(change.first_edit for change in self._applied)
        self.document.restore(self._acked_text, *self._acked_window)
        self.revision, self._offset, self._start = self.acked, self.acked_offset, self._acked_start
        self._started = self._window
        for ending in [ending for ending in self._endings if ending.revision > self.revision]:
            ending.snapshot.future.cancel()
            self._endings.remove(ending)
        self.edited = self.edited and not edited
        for _ in range(min(len(self._applied), len(self.digests))):
            self.digests.pop()
        self._applied.clear()
        self._unacked = 0
        self._acked_text = None
        self._since_snapshot = [SNAPSHOT_CHANGES, 0]  # the journal may hold what it could not finish: write it anew
        owed, self._owed = self._owed, []
        refused = StorageFull(error.message)
        refused.revision = self.revision
        for each in owed:
            self._send(each.client, error_event(refused, self.id, each.event_id))
        for probe in [probe for probe in self._explicit if probe.revision > self.revision]:
            probe.snapshot.future.cancel()
            self._explicit.remove(probe)
            assert probe.client is not None
            self._send(probe.client, error_event(refused, self.id, probe.event_id))
        self._answer()
        self._drop_automatic()
        if self._seen is not None and self._seen[1].revision > self.revision:
            self._seen = None
        if not self._is_empty:
            self._trigger.touch(now)
        self._advance(now)

    def probed(self, probe: Probe, result: Result | RequestError, now: float) -> None:
        """A probe has ended."""
        probe.result, probe.ended = result, now
        if probe.final:
            self.tell_endings()
        elif probe.client is not None:
            self._answer()
        elif probe is self._automatic:
            self._automatic = None
            self._emit(probe)
            self._advance(now)

    def resolved(self, target: Target, vector: Vector | RequestError) -> None:
        """A watch's text was embedded: a unit vector, or why it could not be."""
        target.resolving = False
        if isinstance(vector, RequestError):
            target.error = vector
            self.tell_failures()
            return
        target.vector = vector
        # What stands there now is looked at, too.
        if self._seen is not None:
            self._watch(*self._seen)

    def tell_failures(self) -> None:
        """Tells the socket, if there is one, which watches cannot be in force, and why."""
        for target in self.watches.failed() if self.client is not None else ():
            assert self.client is not None
            assert target.error is not None
            self._send(self.client, error_event(target.error, self.id, None))
            target.error = None

    def tell_endings(self) -> None:
        """Sends the socket, if there is one, the last embeddings of segments that have ended, in their order. Not before the
        change that ended them is acknowledged, since it may yet be taken back."""
        for ending in list(self._endings):
            if self.client is None or ending.result is None or ending.revision > self.acked:
                return
            if ending.client is self.client:
                continue  # it is on its way
            ending.client = self.client
            vector = self._vector(ending)
            if isinstance(vector, RequestError):
                self._endings.remove(ending)
                what = f"segment {ending.segment}, from {ending.start:,} to {ending.offset:,}"
                told = type(vector)(f"{what}, has ended without an embedding: {vector.message}")
                self._send(self.client, error_event(told, self.id, None))
                continue
            self._watch(vector, ending)
            self._send_embedding(self.client, ending, vector, f"segment {ending.segment}")

    # Inside

    def _enter(self, event: str) -> None:
        after = TRANSITIONS.get((self.state, event))
        if after is None:
            raise NotFound("the session was closed")
        self.state = after

    def _send(self, client: Client, event: ServerEvent, slot: str | None = None) -> None:
        self._effects.append(Send(client, event, slot))

    def _forget(self, client: Client) -> None:
        """What a client waits for, nobody waits for any more."""
        for probe in [probe for probe in self._explicit if probe.client is client]:
            probe.snapshot.future.cancel()
            self._explicit.remove(probe)
        self._owed = [owed for owed in self._owed if owed.client is not client]
        self._drop_automatic()
        self._answer()  # others may have waited behind it

    def _drop_automatic(self) -> None:
        """Nobody is to hear of what is being looked at."""
        if self._automatic is not None:
            self._automatic.snapshot.future.cancel()
            self._automatic = None
        self._unsent = False
        self._due = self._skipped = None

    def _change(self, event: Change, client: Client, now: float) -> None:
        digest = _digest(event)
        base = event.base_revision
        if base is not None and base != self.revision:
            if base > self.revision:
                raise RevisionGap(f"base_revision is {base}, but the session is at {self.revision}", "base_revision")
            back = self.revision - base
            if back > len(self.digests):
                raise RevisionConflict(
                    f"base_revision is {base}, the session is at {self.revision}, and changes as old as that cannot be "
                    "compared any more",
                    "base_revision",
                )
            if self.digests[-back] != digest:
                raise RevisionConflict(
                    f"base_revision is {base}, but revision {base + 1} was another change (it is at {self.revision})",
                    "base_revision",
                )
            self._owe(base + 1, client, event.event_id)
            return
        place = self._place(event)
        if place is None:
            self._owe(self.revision, client, event.event_id)
            return
        start, end, text = place
        if start > end:
            raise InvalidRequest(f"start is {event.start}, behind end, {event.end}", "start")  # type: ignore[union-attr]
        if start < self.document.start:
            raise InvalidRequest(
                f"the text before {self._start:,} stands in segments that have ended, and can no longer change",
                "start" if isinstance(event, InputTextReplace) else "text",
            )
        length = self.document.offset
        if len(text) > (size := self.limits.max_characters - length + (end - start)):
            raise TooLarge(
                f"the text would have {length - (end - start) + len(text):,} characters; the limit is "
                f"{self.limits.max_characters:,}, which leaves {max(size, 0):,}",
                "text",
            )
        if len(self._applied) >= MAX_UNACKED:
            raise Overloaded(f"{len(self._applied)} changes wait for the journal")
        before = self.document.text
        self.document.replace(start, end, text)  # raises before it changes anything
        edited = start < length and not self.edited
        self.edited = self.edited or edited
        self.revision += 1
        self._offset += self._count(text) - self._count(before[start:end])
        self.digests.append(digest)
        self._trigger.change(before[max(start - 16, 0) : start], text, now)
        self._tokens = self.document.num_tokens
        moved = self._end_segments(now)
        if not self.durable:
            self.acked, self.acked_offset = self.revision, self._offset
            self._acked_window, self._acked_start = self._window, self._start
        else:
            if not self._applied:
                self._acked_text = before
            snapshot = self._snapshot(text, anyway=moved)
            commit = Commit(self.revision, start, end, text, digest, self.edited, snapshot, self._window)
            self._applied.append(_Applied(commit, self._offset, self._start, edited))
            self._unacked += len(text)
            self._effects.append(commit)
        self._owe(self.revision, client, event.event_id)

    def _end_segments(self, now: float) -> bool:
        """Waits for the last embeddings of segments that the text has outgrown. Whether another one grows now."""
        ended = self.document.take_ended()
        text, at, place = self.document.text if ended else "", 0, 0
        for each in ended:
            place += self._count(text[at : each.start])
            start, at = place, each.end
            place += self._count(text[each.start : each.end])
            probe = Probe(each, self.revision, place, each.tokens, now, segment=each.number, start=start, final=True)
            self._endings.append(probe)
            self._effects.append(probe)
        while len(self._endings) > MAX_ENDINGS:
            self._endings.popleft().snapshot.future.cancel()
        if ended and self._automatic is not None:  # of a segment that goes on no more
            self._automatic.snapshot.future.cancel()
            self._automatic = None
        moved = self._window != self._started  # leading spaces may have been left behind, without an end
        if moved:
            self._start = self._count(self.document.text[: self.document.start])
            self._started = self._window
        return moved

    def _place(self, event: Change) -> tuple[int, int, str] | None:
        """Which code points the change replaces by what; None where the text holds it already."""
        if isinstance(event, InputTextReplace):
            return self._position(event.start, "start"), self._position(event.end, "end"), event.text
        length = self.document.offset
        if not isinstance(event, InputTextAppend):
            same = common_prefix(self.document.text, event.text)
            return same, length, event.text[same:]
        if event.offset is None or (event.offset == self._offset and event.base_revision is not None):
            return length, length, event.text
        if event.offset > self._offset:
            raise self._misplaced(OffsetGap, f"offset is {event.offset}, but the text ends at {self._offset}")
        if event.base_revision is not None or (self.edited and event.offset != self._offset):
            why = "" if event.base_revision is not None else ", and was edited before, so base_revision is needed"
            raise self._misplaced(OffsetConflict, f"offset is {event.offset}, but the text ends at {self._offset}{why}")
        held = self.document.text[self._position(event.offset, "offset") :]
        if held.startswith(event.text):
            return None
        if not event.text.startswith(held):
            raise self._misplaced(OffsetConflict, f"the text at {event.offset} is another one")
        return length, length, event.text[len(held) :]

    def _misplaced(self, kind: type[RequestError], message: str) -> RequestError:
        error = kind(message, "offset")
        error.expected_offset = self._offset
        return error

    def _snapshot(self, text: str, anyway: bool) -> tuple[str, bytes] | None:
        self._since_snapshot[0] += 1
        self._since_snapshot[1] += len(text)
        few = self._since_snapshot[0] < SNAPSHOT_CHANGES and self._since_snapshot[1] < SNAPSHOT_CHARACTERS
        if few and not anyway:
            return None
        self._since_snapshot = [0, 0]
        return self.document.text, b"".join(self.digests)

    def _owe(self, revision: int, client: Client, event_id: str | None) -> None:
        self._owed.append(_Owed(revision, client, event_id))
        self._pay_acks()

    def _pay_acks(self, progress: bool = False) -> None:
        """One acknowledgement for each client that is owed any, and for the socket that holds the session: also of changes
        that somebody else made, or made before it came."""
        paid: dict[int, _Owed] = {}
        rest = []
        for owed in self._owed:
            if owed.revision <= self.acked:
                paid[id(owed.client)] = owed
            else:
                rest.append(owed)
        if not paid and not progress:
            return
        self._owed = rest
        if self.client is not None:
            paid.setdefault(id(self.client), _Owed(self.acked, self.client, None))
        for owed in paid.values():
            ack = InputTextAck(
                session=self.id,
                event_id=owed.event_id,
                revision=self.acked,
                offset=self.acked_offset,
                tokens=self.document.num_tokens,
                credit=self.credit,
                **self.place,
            )
            self._send(owed.client, ack, "ack")

    def _answer(self) -> None:
        """Sends the explicit answers that are there, in the order asked."""
        while self._explicit and self._explicit[0].result is not None:
            first = self._explicit.popleft()
            assert first.client is not None
            vector = self._vector(first)
            if isinstance(vector, RequestError):
                self._send(first.client, error_event(vector, self.id, first.event_id))
                continue
            self._watch(vector, first)
            self._send_embedding(first.client, first, vector)

    def _advance(self, now: float) -> None:
        """Starts an automatic probe if one is due and none runs."""
        if self.client is None or self._is_empty:
            return
        emitting = self._trigger.wants_emit(now)
        if self._automatic is not None or self._unsent or not self._trigger.wants_probe(now):
            if emitting and self.options.emit.on != "drift" and self._due != self.revision:
                self._skipped, self._due = self._due, self.revision
            return
        try:
            probe = self._probe(now, None, None, None)
        except RequestError:
            self._trigger.postpone(now)  # too much work waits; the next tick tries again
            return
        probe.emitting, probe.due = emitting, self._trigger.due
        self._trigger.probed(emitting, now)
        self._automatic = probe
        self._effects.append(probe)
        if emitting:
            superseded = self._due if self._due is not None and self._due < self.revision else self._skipped
            if superseded is not None:
                skipped = EmbeddingSkipped(session=self.id, revision=superseded, superseded_by=self.revision)
                self._send(self.client, skipped, "skipped")
            self._due = self._skipped = None

    def _probe(self, now: float, deadline: float | None, client: Client | None, event_id: str | None) -> Probe:
        tokens = self.document.num_tokens
        snapshot = self.document.probe(deadline)
        probe = Probe(snapshot, self.revision, self._offset, tokens, now, client, event_id)
        probe.segment, probe.start = self.document.segment, self._start
        return probe

    def _emit(self, probe: Probe) -> None:
        """An automatic probe has ended."""
        client = self.client
        if client is None:
            return
        vector = self._vector(probe)
        if isinstance(vector, RequestError):
            self._send(client, error_event(vector, self.id, None), "automatic")
            return
        self._watch(vector, probe)
        if not probe.emitting:
            return
        emit = self.options.emit
        if emit.on == "drift" and self._emitted is not None and _distance(self._emitted, vector) <= emit.drift:
            return
        self._emitted = vector
        self._send_embedding(client, probe, vector, EMISSION)
        self._unsent = True

    def _vector(self, probe: Probe) -> Vector | RequestError:
        """What a probe has ended in: a unit vector, or why there is none."""
        assert probe.result is not None
        if isinstance(probe.result, RequestError):
            return probe.result
        try:
            vector: Vector = self.form.unit(probe.result.vectors)[0]
        except RequestError as error:
            return error
        return vector

    def _watch(self, vector: Vector, probe: Probe) -> None:
        if self._seen is None or probe.revision >= self._seen[1].revision:
            self._seen = (vector, probe)
        for watch, score in self.watches.trigger(vector) if self.client is not None else ():
            assert self.client is not None
            event = WatchTriggered(
                session=self.id, watch=watch, score=round(score, 6), revision=probe.revision, offset=probe.offset
            )
            self._send(self.client, event, f"watch {watch}")

    def _send_embedding(self, client: Client, probe: Probe, vector: Vector, slot: str | None = None) -> None:
        result = probe.result
        assert result is not None
        assert not isinstance(result, RequestError)
        try:
            fields = self.form.encode(self.form.finish(vector[None])[0])
        except RequestError as error:
            self._send(client, error_event(error, self.id, probe.event_id), slot)
            return
        drift = None
        if client is self.client:
            drift = None if self._last is None else round(_distance(self._last, vector), 6)
            self._last = vector
        place: dict[str, typing.Any] = {}
        if self.options.overflow == "segment":
            place = {"segment": probe.segment, "start": probe.start, "final": probe.final or None}
        event = EmbeddingDone(
            session=self.id,
            event_id=probe.event_id,
            revision=probe.revision,
            offset=probe.offset,
            drift=drift,
            usage={
                "prompt_tokens": probe.tokens + 1,
                "cached_tokens": result.cached_tokens,
                "computed_tokens": result.computed_tokens,
            },
            timing_ms={
                "queue": round(result.queue_s * 1000, 3),
                "compute": round(result.compute_s * 1000, 3),
                "total": round((probe.ended - probe.asked) * 1000, 3),
            },
            **fields,
            **place,
        )
        self._send(client, event, slot)

    # Units

    def _count(self, text: str) -> int:
        return count(text, self.options.offset_unit)

    def _position(self, position: int, name: str) -> int:
        """Code points before a position in the session's unit. Raises InvalidRequest."""
        text = self.document.text
        if position > self._offset:
            raise InvalidRequest(f"{name} is {position}, but the text ends at {self._offset}", name)
        return codepoints(text, [position], self.options.offset_unit, name)[0]


def _digest(event: Change) -> bytes:
    """Tells changes apart, positions and all; who sends them again sends the same."""
    place = (event.start, event.end) if isinstance(event, InputTextReplace) else None
    text = event.text.encode("utf-8", "surrogatepass")  # a later check refuses lone surrogates
    return hashlib.blake2b(orjson.dumps([event.type, place]) + text, digest_size=DIGEST).digest()


def _distance(a: Vector, b: Vector) -> float:
    return max(0.0, float(1 - np.dot(a.astype(np.float64), b.astype(np.float64))))
