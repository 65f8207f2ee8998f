"""The vectors of a session: which are computed, for whom, and what clients are told. It learns of changes from the
protocol."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from streambed.errors import InvalidRequest, NotFound, Overloaded, RequestError, StorageFull
from streambed.streams.effects import EMISSION, Count, Effect, Peer, Probe, Resolve, Send
from streambed.streams.limits import Limits
from streambed.streams.mark import Mark
from streambed.streams.triggers import Target, Trigger, Vector, Watches
from streambed.text.units import count
from streambed.vectors.reducers import Form
from streambed.wire import (
    EmbeddingCreate,
    EmbeddingDone,
    EmbeddingSkipped,
    ServerEvent,
    SessionOptions,
    WatchTriggered,
    error_event,
)

if TYPE_CHECKING:
    from streambed.engine.sequence import Embedding
    from streambed.engine.session import EndedSegment, Session

MAX_ENDINGS = 1024
"""Last embeddings of ended segments that wait for a socket; older ones go."""
_ASKED = "embedding.create"


class Emission:
    """Probes that were asked for, automatic ones, the last ones of segments; watches. `listener`: the socket that holds the
    session and hears what comes unasked, or None."""

    def __init__(
        self,
        session: str,
        text: Session,
        options: SessionOptions,
        form: Form,
        limits: Limits,
        effects: list[Effect],
    ) -> None:
        self._session = session
        self._text = text
        self._unit = options.offset_unit
        self._segmented = options.overflow == "segment"
        self._form = form
        self._limits = limits
        self._effects = effects
        self.listener: Peer | None = None
        self.watches = Watches(form.unit_dimensions)
        self.watches.check(options.watch)
        self._resolve(self.watches.replace(options.watch))
        self._trigger = Trigger(options.emit, bool(options.watch))
        self._explicit: deque[Probe] = deque()
        self._automatic: Probe | None = None
        self._unsent = False  # whether the listener has yet to take the last automatic embedding
        self._endings: deque[Probe] = deque()
        """Kept until a listener has taken them."""
        self._due: int | None = None
        self._skipped: int | None = None
        self._last: Vector | None = None  # that was sent to the listener
        self._emitted: Vector | None = None  # that was sent to it unasked
        self._seen: tuple[Vector, Probe] | None = None  # the last, sent or not

    @property
    def _is_empty(self) -> bool:
        return self._text.offset == self._text.start

    def wake_at(self) -> float | None:
        """When `advance` must be called; None for never."""
        idle = self.listener is None or self._automatic is not None or self._unsent or self._is_empty
        return None if idle else self._trigger.wake_at()

    # What clients do

    def attach(self, peer: Peer, now: float) -> Peer | None:
        """A socket listens from now on; returns the one that did before."""
        before, self.listener = self.listener, peer
        if before is not peer:
            self._last = self._emitted = None  # it has been sent nothing
            if before is not None:
                self.forget(before)
        if not self._is_empty:
            self._trigger.touch(now)
        return before

    def forget(self, peer: Peer) -> None:
        """Drops what this client waits for."""
        for probe in [probe for probe in self._explicit if probe.peer is peer]:
            self._abandon(probe)
        self._drop_automatic()
        self._answer()  # others may have waited behind it

    def ask(self, event: EmbeddingCreate, peer: Peer, mark: Mark, now: float, deadline: float | None) -> None:
        """A client asks for the embedding of the text as it is."""
        if self._is_empty:
            what = "text" if not self._text.start else "segment that grows"
            raise InvalidRequest(f"the {what} is empty; there is nothing to embed yet")
        if len(self._explicit) >= self._limits.max_pending:
            raise Overloaded(f"{len(self._explicit)} embeddings of this session are asked for and not answered yet")
        probe = self._probe(mark, now, deadline)
        probe.peer, probe.event_id = peer, event.event_id
        self._explicit.append(probe)
        self._effects.append(probe)

    def change_rules(self, options: SessionOptions, now: float) -> None:
        """When to emit and what to watch for are others; `Watches.check` has passed the latter."""
        self._resolve(self.watches.replace(options.watch))
        self._due = self._skipped = None
        self._trigger.change_rules(options.emit, bool(options.watch), now)

    def close(self, gone: NotFound) -> None:
        """Whoever waits for an embedding hears that there will be none."""
        while self._explicit:
            self._abandon(self._explicit[0], gone)
        for ending in self._endings:
            ending.future.cancel()
        self._endings.clear()
        self.listener = None

    def sent(self, peer: Peer, ended: int | None) -> None:
        """The automatic embedding that a peer had to take has been sent: another may follow. ended: it was the last one of
        this segment, which need not be sent again."""
        if ended is not None:
            self._endings = deque(ending for ending in self._endings if ending.mark.segment != ended)
        elif peer is self.listener:
            self._unsent = False

    # What becomes of the text

    def changed(self, before: str, inserted: str, now: float) -> None:
        """`inserted` now stands after `before`."""
        self._trigger.change(before, inserted, now)

    def end_segments(self, ended: Sequence[EndedSegment], revision: int, now: float) -> None:
        """The text has outgrown these segments; their last embeddings are on the way."""
        text, at, place = self._text.text if ended else "", 0, 0
        for each in ended:
            place += count(text[at : each.start], self._unit)
            start, at = place, each.end
            place += count(text[each.start : each.end], self._unit)
            probe = Probe(each.future, Mark(revision, place, start, each.number), each.tokens, now, final=True)
            self._endings.append(probe)
            self._effects.append(probe)
        while len(self._endings) > MAX_ENDINGS:
            self._endings.popleft().future.cancel()
        if ended and self._automatic is not None:  # of a segment that has ended
            self._automatic.future.cancel()
            self._automatic = None

    def take_back(self, revision: int, refused: StorageFull, now: float) -> None:
        """The changes after this revision were taken back."""
        for ending in [ending for ending in self._endings if ending.mark.revision > revision]:
            ending.future.cancel()
            self._endings.remove(ending)
        for probe in [probe for probe in self._explicit if probe.mark.revision > revision]:
            self._abandon(probe, refused)
        self._answer()
        self._drop_automatic()
        if self._seen is not None and self._seen[1].mark.revision > revision:
            self._seen = None
        if not self._is_empty:
            self._trigger.touch(now)

    def advance(self, mark: Mark, now: float) -> None:
        """Starts an automatic probe of the text as it is if one is due and none runs."""
        listener = self.listener
        if listener is None or self._is_empty:
            return
        emitting = self._trigger.wants_emit(now)
        if self._automatic is not None or self._unsent or not self._trigger.wants_probe(now):
            if emitting and self._trigger.emit.on != "drift" and self._due != mark.revision:
                self._skipped, self._due = self._due, mark.revision
            return
        try:
            probe = self._probe(mark, now, None)
        except RequestError:
            self._trigger.postpone(now)  # too much work waits; the next tick tries again
            return
        probe.emitting, probe.due = emitting, self._trigger.due
        self._trigger.probed(emitting, now)
        self._automatic = probe
        self._effects.append(probe)
        if emitting:
            superseded = self._due if self._due is not None and self._due < mark.revision else self._skipped
            if superseded is not None:
                skipped = EmbeddingSkipped(session=self._session, revision=superseded, superseded_by=mark.revision)
                self._send(listener, skipped, "skipped")
            self._due = self._skipped = None

    # What became of probes and watches

    def probed(self, probe: Probe, result: Embedding | RequestError, now: float) -> None:
        """A probe has ended. (That of a segment is told by `tell_endings`.)"""
        probe.result, probe.ended = result, now
        if probe is self._automatic:
            self._automatic = None
            self._emit(probe)
        elif not probe.final:
            self._answer()

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
        """Tells the listener, if there is one, which watches cannot be in force, and why."""
        if self.listener is None:
            return
        for target in self.watches.failed():
            assert target.error is not None
            self._send(self.listener, error_event(target.error, self._session, None))
            target.error = None

    def tell_endings(self, acknowledged: int) -> None:
        """Sends the listener, if there is one, the last embeddings of segments that have ended, in their order. Not before
        the change that ended them is acknowledged, since it may yet be taken back."""
        for ending in list(self._endings):
            if self.listener is None or ending.result is None or ending.mark.revision > acknowledged:
                return
            if ending.peer is self.listener:
                continue  # it is on its way
            ending.peer = self.listener
            vector = self._vector(ending.result)
            if isinstance(vector, RequestError):
                self._endings.remove(ending)
                mark = ending.mark
                what = f"segment {mark.segment}, from {mark.start:,} to {mark.offset:,}"
                told = type(vector)(f"{what}, has ended without an embedding: {vector.message}")
                self._send(self.listener, error_event(told, self._session, None))
                continue
            self._watch(vector, ending)
            self._send_embedding(self.listener, ending, vector, f"segment {ending.mark.segment}")

    # Inside

    def _send(self, peer: Peer, event: ServerEvent, slot: str | None = None) -> None:
        self._effects.append(Send(peer, event, slot))

    def _resolve(self, targets: list[Target]) -> None:
        self._effects += [Resolve(target) for target in targets]

    def _probe(self, mark: Mark, now: float, deadline: float | None) -> Probe:
        tokens = self._text.num_tokens
        return Probe(self._text.probe(deadline).future, mark, tokens, now)

    def _abandon(self, probe: Probe, error: RequestError | None = None) -> None:
        """An embedding that was asked for will not come; its client hears why, if it is still there."""
        probe.future.cancel()
        self._explicit.remove(probe)
        assert probe.peer is not None
        self._effects.append(Count(_ASKED, "cancelled"))
        if error is not None:
            self._send(probe.peer, error_event(error, self._session, probe.event_id))

    def _drop_automatic(self) -> None:
        """Drops the results of all probes that run."""
        if self._automatic is not None:
            self._automatic.future.cancel()
            self._automatic = None
        self._unsent = False
        self._due = self._skipped = None

    def _answer(self) -> None:
        """Sends the answers that are there to those who asked, in the order asked."""
        while self._explicit and self._explicit[0].result is not None:
            first = self._explicit.popleft()
            assert first.peer is not None
            assert first.result is not None
            vector = self._vector(first.result)
            if isinstance(vector, RequestError):
                self._effects.append(Count(_ASKED, vector.outcome))
                self._send(first.peer, error_event(vector, self._session, first.event_id))
                continue
            self._effects.append(Count(_ASKED, "ok"))
            self._watch(vector, first)
            self._send_embedding(first.peer, first, vector)

    def _emit(self, probe: Probe) -> None:
        """An automatic probe has ended."""
        listener = self.listener
        if listener is None:
            return
        assert probe.result is not None
        vector = self._vector(probe.result)
        if isinstance(vector, RequestError):
            self._send(listener, error_event(vector, self._session, None), "automatic")
            return
        self._watch(vector, probe)
        if not probe.emitting:
            return
        emit = self._trigger.emit
        if emit.on == "drift" and self._emitted is not None and _distance(self._emitted, vector) <= emit.drift:
            return
        self._emitted = vector
        self._send_embedding(listener, probe, vector, EMISSION)
        self._unsent = True

    def _vector(self, result: Embedding | RequestError) -> Vector | RequestError:
        """What a probe has ended in: a unit vector, or why there is none."""
        if isinstance(result, RequestError):
            return result
        try:
            vector: Vector = self._form.unit(result.vectors)[0]
        except RequestError as error:
            return error
        return vector

    def _watch(self, vector: Vector, probe: Probe) -> None:
        mark = probe.mark
        if self._seen is None or mark.revision >= self._seen[1].mark.revision:
            self._seen = (vector, probe)
        if self.listener is None:
            return
        for watch, score in self.watches.trigger(vector):
            event = WatchTriggered(
                session=self._session, watch=watch, score=round(score, 6), revision=mark.revision, offset=mark.offset
            )
            self._send(self.listener, event, f"watch {watch}")

    def _send_embedding(self, peer: Peer, probe: Probe, vector: Vector, slot: str | None = None) -> None:
        mark, result = probe.mark, probe.result
        assert result is not None
        assert not isinstance(result, RequestError)
        try:
            fields = self._form.encode(self._form.finish(vector[None])[0])
        except RequestError as error:
            self._send(peer, error_event(error, self._session, probe.event_id), slot)
            return
        drift = None
        if peer is self.listener:
            drift = None if self._last is None else round(_distance(self._last, vector), 6)
            self._last = vector
        place: dict[str, Any] = {}
        if self._segmented:
            place = {"segment": mark.segment, "start": mark.start, "final": probe.final or None}
        event = EmbeddingDone(
            session=self._session,
            event_id=probe.event_id,
            revision=mark.revision,
            offset=mark.offset,
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
        self._send(peer, event, slot)


def _distance(a: Vector, b: Vector) -> float:
    return max(0.0, float(1 - np.dot(a.astype(np.float64), b.astype(np.float64))))
