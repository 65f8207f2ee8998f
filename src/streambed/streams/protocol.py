"""A session on the wire, as a state machine without I/O.

Inputs are a client's events and what became of earlier effects (a probe's vector, an entry of the store, time). Outputs are
`Effect`s, to be carried out in their order. The machine is told the time and never asks for it. It has two halves, neither
of which knows the other: `Changes` has the text, `Emission` the vectors.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from streambed.errors import NotFound, RequestError, StorageFull
from streambed.streams.changes import Changes
from streambed.streams.effects import Count, Effect, Peer, Probe, Report, Send, Write, refusal
from streambed.streams.emission import Emission
from streambed.streams.limits import Credit, Limits
from streambed.streams.mark import Mark
from streambed.streams.store.store import Commit, Entry, Erase, SetOptions
from streambed.streams.triggers import Target, Vector
from streambed.vectors.reducers import Form
from streambed.wire import (
    EmbeddingCreate,
    InputText,
    SessionClosed,
    SessionCreated,
    SessionOptions,
    SessionResumed,
    SessionUpdate,
    SessionUpdated,
)

if TYPE_CHECKING:
    from streambed.engine.sequence import Embedding
    from streambed.engine.session import Session


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
"""The state after each event that is allowed. Others are refused, with `not_found` once the session is closed."""

Received = InputText | EmbeddingCreate | SessionUpdate
"""Events that `receive` takes. (To create, fork and resume is to `attach`.)"""


class _Update(NamedTuple):
    """New options that are on their way to the store."""

    options: SessionOptions
    peer: Peer
    event_id: str | None


class _Farewell(NamedTuple):
    """How the session ends, once its text is erased."""

    reason: Literal["closed", "expired"]
    peer: Peer | None
    event_id: str | None


class Protocol:
    """See the module. An event that is refused has changed nothing; its client hears why."""

    def __init__(
        self,
        session: str,
        text: Session,
        options: SessionOptions,
        form: Form,
        limits: Limits,
        credit: Credit,
        epoch: int | None = None,
        history: tuple[int, bool, Iterable[bytes]] = (0, False, ()),
        now: float = 0.0,
    ) -> None:
        """epoch: under which it writes to the store; None without one. history: revision, whether the text was ever edited
        other than at its end, and digests of the last changes, of a session that goes on."""
        self.session = session
        self.options = options
        self.form = form
        self.state = State.DETACHED
        self._text = text
        self._epoch = epoch
        self._effects: list[Effect] = []
        self.emission = Emission(session, text, options, form, limits, self._effects)
        self.changes = Changes(session, text, options, limits, credit, epoch, history, self._effects)
        self.emission.end_segments(text.take_ended(), self.changes.now.revision, now)
        self._update: _Update | None = None
        self._farewell: _Farewell | None = None

    def take(self) -> list[Effect]:
        """The effects since the last call."""
        effects = self._effects[:]
        self._effects.clear()
        return effects

    def wake_at(self) -> float | None:
        """When `tick` must be called; None for never."""
        return self.emission.wake_at()

    @property
    def acknowledged(self) -> Mark:
        return self.changes.acknowledged

    # What clients do

    def receive(self, event: Received, peer: Peer, now: float, deadline: float | None = None) -> None:
        """Takes a client's event. deadline: of the embedding that it asks for."""
        try:
            self._enter(event.type)
            if isinstance(event, EmbeddingCreate):
                self.emission.ask(event, peer, self.changes.now, now, deadline)
            elif isinstance(event, SessionUpdate):
                self._change_options(event, peer, now)
            else:
                self._change(event, peer, now)
        except RequestError as error:
            if isinstance(event, InputText):
                error.revision = self.changes.now.revision
                self.refused(peer)
            self._effects += refusal(self.session, peer, event.type, event.event_id, error)

    def refused(self, peer: Peer) -> None:
        """A change of this client was refused; what it has sent behind it belongs to another text. (One that asks over HTTP
        hears of each change before it sends the next.)"""
        if peer is self.emission.listener:
            self.changes.misled = peer

    def heard(self, peer: Peer) -> None:
        """The client has received all errors that it was sent."""
        if peer is self.changes.misled:
            self.changes.misled = None

    def attach(
        self,
        peer: Peer,
        event_id: str | None,
        kind: type[SessionCreated | SessionResumed],
        more: dict[str, Any],
        now: float,
    ) -> None:
        """A socket takes the session and is told its state; the socket that held it is told, and detached."""
        self._enter("session.resume")
        before = self.emission.attach(peer, now)
        if before is not None and before is not peer:
            self._effects.append(Send(before, SessionClosed(session=self.session, reason="taken_over")))
            self.changes.forget(before)
        self.changes.misled = None  # the report tells it all
        self._effects.append(Report(peer, kind, event_id, more))
        self.emission.tell_failures()
        self.emission.tell_endings(self.acknowledged.revision)
        self.emission.advance(self.changes.now, now)

    def detach(self) -> None:
        """The socket has gone, or lets the session go."""
        peer = self.emission.listener
        assert peer is not None
        self._enter("detach")
        self.emission.listener = None
        self.emission.forget(peer)
        self.changes.forget(peer)

    def fork(self) -> SessionOptions:
        """What a session with the same text begins with."""
        self._enter("session.fork")
        return self.options

    def close(self, reason: Literal["closed", "expired"], peer: Peer | None, event_id: str | None) -> None:
        """Ends the session. Its text is erased before anybody is told."""
        if (self.state, _CLOSES[reason]) not in TRANSITIONS:
            raise NotFound("the session was closed")
        self._farewell = _Farewell(reason, peer, event_id)
        if self._epoch is None:
            self._end()
        else:
            self._effects.append(Write(Erase(self.session, self._epoch), alone=True))

    def sent(self, peer: Peer, now: float, ended: int | None = None) -> None:
        """A peer has taken an automatic embedding or, where `ended` says of which segment, that segment's last."""
        self.emission.sent(peer, ended)
        self.tick(now)

    # What became of effects

    def tick(self, now: float) -> None:
        """Time has passed."""
        self.emission.advance(self.changes.now, now)

    def written(self, entry: Entry, error: StorageFull | None, now: float) -> None:
        """An entry is kept, and so all before it; or it is not."""
        match entry:
            case Commit() if error is None:
                self.changes.committed(entry)
                self.changes.acknowledge(self.emission.listener, progress=True)
                self.emission.tell_endings(self.acknowledged.revision)
            case Commit():
                assert error is not None
                self._take_back(entry, error, now)
            case SetOptions():
                assert self._update is not None
                (options, peer, event_id), self._update = self._update, None
                if error is None:
                    self._set_options(options, peer, event_id, now)
                else:
                    self._effects += refusal(self.session, peer, "session.update", event_id, error)
            case Erase():  # where it failed, the store tries again
                self._end()

    def probed(self, probe: Probe, result: Embedding | RequestError, now: float) -> None:
        """A probe has ended."""
        self.emission.probed(probe, result, now)
        self.emission.tell_endings(self.acknowledged.revision)
        self.tick(now)

    def resolved(self, target: Target, vector: Vector | RequestError) -> None:
        """A watch's text was embedded: a unit vector, or why it could not be."""
        self.emission.resolved(target, vector)

    # Inside

    def _enter(self, event: str) -> None:
        after = TRANSITIONS.get((self.state, event))
        if after is None:
            raise NotFound("the session was closed")
        self.state = after

    def _change(self, event: InputText, peer: Peer, now: float) -> None:
        applied = self.changes.apply(event, peer)
        if applied is not None:
            self.emission.changed(*applied, now)
            self.emission.end_segments(self._text.take_ended(), self.changes.now.revision, now)
        self.changes.acknowledge(self.emission.listener)
        self.tick(now)

    def _take_back(self, commit: Commit, error: StorageFull, now: float) -> None:
        refused = self.changes.take_back(commit, error, self.emission.listener)
        if refused is not None:
            self.emission.take_back(self.changes.now.revision, refused, now)
            self.tick(now)

    def _change_options(self, event: SessionUpdate, peer: Peer, now: float) -> None:
        """New rules; with a store, once they are kept."""
        old = self.options
        if event.watch is not None:
            self.emission.watches.check(event.watch)
        watch = old.watch if event.watch is None else event.watch
        options = old.model_copy(update={"emit": event.emit or old.emit, "watch": watch})
        if self._epoch is None:
            self._set_options(options, peer, event.event_id, now)
        else:
            self._update = _Update(options, peer, event.event_id)
            self._effects.append(Write(SetOptions(self.session, self._epoch, options.to_json()), alone=True))

    def _set_options(self, options: SessionOptions, peer: Peer, event_id: str | None, now: float) -> None:
        self.options = options
        self.emission.change_rules(options, now)
        self._effects.append(Count("session.update", "ok"))
        self._effects.append(Report(peer, SessionUpdated, event_id))
        self.tick(now)

    def _end(self) -> None:
        assert self._farewell is not None
        (reason, peer, event_id), listener = self._farewell, self.emission.listener
        self._enter(_CLOSES[reason])
        gone = NotFound("the session was closed")
        self.emission.close(gone)
        self.changes.close(gone)
        for who in {id(each): each for each in (peer, listener) if each is not None}.values():
            answer = event_id if who is peer else None
            closed = SessionClosed(session=self.session, event_id=answer, reason=reason)
            self._effects.append(Send(who, closed))
        self._text.close()


_CLOSES = {"closed": "session.close", "expired": "expire"}
