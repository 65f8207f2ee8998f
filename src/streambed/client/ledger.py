"""A client's side of the protocol, without I/O: what was sent, what is acknowledged, and what to send again.

Every change is kept until it is acknowledged and carries the revision that it was made to, so after a lost connection all
that is pending can be sent again: the server applies each once (docs/protocol.md).
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from streambed.client.events import Answered, Emitted, Happening, Refused, Retry, Triggered
from streambed.errors import (
    ConnectionLost,
    InvalidRequest,
    NotFound,
    RequestError,
    RevisionConflict,
    TooLarge,
)
from streambed.text.strings import check_text, common_prefix
from streambed.wire import (
    EmbeddingDone,
    EmbeddingSkipped,
    ErrorEvent,
    InputTextAck,
    ServerEvent,
    SessionClosed,
    SessionCreated,
    SessionReport,
    SessionResumed,
    WatchTriggered,
    error_of,
)

RETRY_SECONDS = 0.25
"""After how long at least a change is sent again that the server had no room for."""
PIECE = 64 << 10
"""Characters of one change; more than that goes as several, so that every frame is small enough."""
_CONFLICTS = ("revision_conflict", "offset_conflict")


@dataclass(eq=False)
class PendingChange:
    """A change that is not acknowledged. start and end: code points of the text that it was made to."""

    type: str
    start: int
    end: int
    text: str
    number: int
    """No other change of the stream has it."""
    sent: bool = False

    def apply(self, text: str) -> str:
        return text[: self.start] + self.text + text[self.end :]


@dataclass(eq=False)
class Ask:
    """An embedding that was asked for and is not answered."""

    event_id: str
    needs: int = 0
    """The newest revision that was acknowledged of those made before it was asked for."""
    sent: bool = False


@dataclass
class Ledger:
    """One stream's account. `options`: fields of `session.create`, without the text.

    Frames come out of `opening` and `frames`; what the server sends goes into `receive`.
    """

    options: dict[str, Any]
    session: str | None = None
    resume_token: str | None = None
    revision: int = 0
    """Changes acknowledged, in the session that there is now."""
    credit: int = PIECE
    text: str = ""
    """With all changes, acknowledged or not."""
    live: bool = False
    """Whether the session is open on the connection that there is now."""
    reason: RequestError | None = None
    """Why the server refused something that is sent again, until it takes a change."""
    limits: dict[str, int] = field(default_factory=dict)
    fingerprint: str | None = None
    start: int = 0
    """Where the segment that grows begins, as acknowledged."""

    def __post_init__(self) -> None:
        self._acked = ""
        self._pending: deque[PendingChange | Ask] = deque()
        self._asked = self._changes = 0
        self._paused = False
        self._epoch = 0  # raised when what is to be sent begins anew

    # What the user does

    def change(self, type: str, start: int, end: int, text: str) -> None:
        """Takes a change. Raises InvalidRequest where the range is outside the text or the text no text."""
        check_text(text)
        if not 0 <= start <= end <= len(self.text):
            raise InvalidRequest(f"range [{start}, {end}) is not within the text's {len(self.text)} characters")
        most = self.limits.get("max_characters", len(self.text) + len(text))
        if len(self.text) - (end - start) + len(text) > most:
            raise TooLarge(f"the text would have more than {most:,} characters, which is the server's limit")
        if len(text) > PIECE:
            # In pieces, of which all but the first are appended: so none of them reaches back before a segment that the
            # one before has ended. What both texts begin with is left alone.
            text += self.text[end:]
            same = common_prefix(self.text[start:], text)
            start, end, text = start + same, len(self.text), text[same:]
            type = "input_text.replace"
        for at in range(0, max(len(text), 1), PIECE):
            change = self._make(type, start, end, text[at : at + PIECE])
            self._pending.append(change)
            self.text = change.apply(self.text)
            type = "input_text.append"
            start = end = start + len(change.text)

    def _make(self, type: str, start: int, end: int, text: str) -> PendingChange:
        self._changes += 1
        return PendingChange(type, start, end, text, self._changes)

    def ask(self) -> str:
        """Asks for an embedding of the text as it is; returns the id that its answer carries."""
        self._asked += 1
        ask = Ask(f"ask-{self._asked}")
        self._pending.append(ask)
        return ask.event_id

    def forget(self, event_id: str) -> None:
        """Forgets an embedding that no call waits for any more."""
        self._pending = deque(
            item for item in self._pending if not (isinstance(item, Ask) and item.event_id == event_id)
        )

    @property
    def unacknowledged(self) -> int:
        """Changes that the server has not acknowledged."""
        return sum(isinstance(item, PendingChange) for item in self._pending)

    @property
    def unacknowledged_characters(self) -> int:
        return sum(len(item.text) for item in self._pending if isinstance(item, PendingChange))

    # What goes out

    def opening(self) -> dict[str, Any]:
        """The first frame of a connection."""
        self.live = self._paused = False
        self._epoch += 1
        for item in self._pending:
            item.sent = False
        if self.session is None:
            return {"type": "session.create", "event_id": "open", **self.options}
        return {
            "type": "session.resume",
            "event_id": "open",
            "session": self.session,
            "resume_token": self.resume_token,
        }

    def frames(self) -> Iterator[dict[str, Any]]:
        """What may be sent now. Ends where it has to begin anew, which may happen while one of them is being sent."""
        if not self.live:
            return
        base, in_flight, epoch = self.revision, 0, self._epoch
        for item in list(self._pending):
            if epoch != self._epoch or (self._paused and not item.sent):
                return
            if isinstance(item, Ask):
                if not item.sent:
                    item.sent = True
                    yield {"type": "embedding.create", "session": self.session, "event_id": item.event_id}
                continue
            if not item.sent:
                if in_flight and in_flight + len(item.text) > self.credit:
                    return
                item.sent = True
                yield self._frame(item, base)
            in_flight += len(item.text)
            base += 1

    def again(self) -> None:
        """All changes are to be sent once more."""
        self._paused = False
        self._epoch += 1
        for item in self._pending:
            if isinstance(item, PendingChange):
                item.sent = False

    def _frame(self, change: PendingChange, base: int) -> dict[str, Any]:
        frame: dict[str, Any] = {
            "type": change.type,
            "session": self.session,
            "event_id": f"change-{change.number}",
            "base_revision": base,
            "text": change.text,
        }
        if change.type == "input_text.replace":
            frame |= {"start": change.start, "end": change.end}
        return frame

    # What comes in

    def receive(self, event: ServerEvent) -> list[Happening]:
        """Takes an event; returns what has happened by it. Raises a StreambedError that ends the stream."""
        match event:
            case SessionReport():
                self._report(event)
            case InputTextAck():
                self.start = event.start or 0
                self._ack(event.revision)
                if event.revision == self.revision and event.offset != len(self._acked):
                    raise RevisionConflict("another client changed the session's text")
            case EmbeddingDone():
                emitted = Emitted.of(event)
                return [emitted] if event.event_id is None else self._answer(event.event_id, emitted)
            case WatchTriggered():
                return [Triggered(event.watch, event.score, event.revision, event.offset)]
            case SessionClosed():
                self._closed(event)
            case ErrorEvent():
                return self._error(event)
            case EmbeddingSkipped():
                pass
        return []

    def _behind(self, event_id: str) -> int:
        """How many changes that were made before an ask are not acknowledged."""
        count = 0
        for item in self._pending:
            if isinstance(item, Ask) and item.event_id == event_id:
                return count
            count += isinstance(item, PendingChange)
        return 0

    def _find(self, event_id: str) -> Ask | None:
        return next((item for item in self._pending if isinstance(item, Ask) and item.event_id == event_id), None)

    def _answer(self, event_id: str, emitted: Emitted) -> list[Happening]:
        ask, behind = self._find(event_id), self._behind(event_id)
        if ask is None:
            return []  # no call waits for it any more
        if emitted.revision < (self.revision + behind if behind else ask.needs):
            # Of a text that lacks a change made before it was asked for: the server had refused one for a while.
            ask.sent = False
            return []
        self.forget(event_id)
        return [Answered(event_id, emitted)]

    def _report(self, event: SessionReport) -> None:
        self.session, self.resume_token = event.session, event.resume_token
        self.limits, self.fingerprint = event.limits, event.fingerprint
        self.start = event.start or 0
        if isinstance(event, SessionCreated):
            self.revision, self.credit, self.live = 0, event.credit, True
        elif isinstance(event, SessionResumed):
            if event.revision < self.revision:
                raise RevisionConflict(
                    f"the server is at revision {event.revision}, but had acknowledged {self.revision}: it lost text"
                )
            self._ack(event.revision)
            if event.offset != len(self._acked):
                raise RevisionConflict("the session's text is not what this stream made it: another client changed it")
            self.live = True

    def _ack(self, revision: int) -> None:
        while self.revision < revision:
            change = next((item for item in self._pending if isinstance(item, PendingChange)), None)
            if change is None:
                raise RevisionConflict("another client changed the session's text")
            self.revision += 1
            self.reason = None
            for item in list(self._pending)[self._pending.index(change) :]:
                if isinstance(item, Ask):
                    item.needs = self.revision
            self._pending.remove(change)
            self._acked = change.apply(self._acked)

    def _closed(self, event: SessionClosed) -> None:
        self.live = False
        if event.reason == "expired" or (event.reason == "closed" and event.event_id is None):
            raise NotFound("the session has expired, or was closed elsewhere", "session")
        if event.reason == "taken_over":
            raise ConnectionLost("another connection has taken the session over")

    def _error(self, event: ErrorEvent) -> list[Happening]:
        error = error_of(asdict(event))
        event_id = event.event_id or ""
        if event_id == "open":
            if isinstance(error, NotFound) and self.session is not None:
                self._begin_again()
                return [Retry(0.0)]
            if error.retryable:
                self.reason = error
                return [Retry(RETRY_SECONDS)]
            raise error
        if event_id.startswith("ask-"):
            ask = self._find(event_id)
            if ask is None:
                return []
            # Refused for want of a text that is still to come, perhaps.
            if error.retryable or (isinstance(error, InvalidRequest) and self._behind(event_id)):
                self._paused, self.reason, ask.sent = True, error, False
                return [Retry(RETRY_SECONDS)]
            self.forget(event_id)
            return [Answered(event_id, error)]
        if not event_id.startswith("change-"):
            return [Refused(error)]  # of an automatic embedding, or of a watch
        if error.code in _CONFLICTS:
            raise error
        if error.retryable:
            self._paused, self.reason = True, error
            return [Retry(RETRY_SECONDS)]
        if error.code == "revision_gap":
            return []  # a consequence: one before it was refused, and is or will be dealt with
        return [*self._drop(int(event_id.removeprefix("change-")), error), Retry(0.0)]

    def _drop(self, number: int, error: RequestError) -> list[Happening]:
        """The server refuses this change. Those after it were made to a text that will never exist, so they go too."""
        items = list(self._pending)
        at = next(
            (n for n, item in enumerate(items) if isinstance(item, PendingChange) and item.number == number), None
        )
        if at is None:
            return []  # it was dropped before
        kept, gone = items[:at], items[at:]
        self._pending = deque(kept)
        self.text = self._acked
        for item in kept:
            self.text = item.apply(self.text) if isinstance(item, PendingChange) else self.text
        asks: list[Happening] = [Answered(item.event_id, error) for item in gone if isinstance(item, Ask)]
        return asks or [Refused(error)]  # whoever asked hears of it

    def _begin_again(self) -> None:
        """The server has lost the session: all of its text is new to the next one."""
        held = self._acked
        self.session = self.resume_token = None
        self.revision, self._acked, self.live = 0, "", False
        for item in self._pending:
            if isinstance(item, Ask):
                item.needs = 0
        for at in reversed(range(0, len(held), PIECE)):
            self._pending.appendleft(self._make("input_text.append", at, at, held[at : at + PIECE]))
