"""The text of a session as its clients change it: what is new, where it goes, what is on disk, and who waits for an ack.

*Exactly once* (docs/protocol.md): every change raises the revision by one. A digest of each of the last changes is kept, so
that one that is sent again is known and acknowledged again. With a store a change is applied at once, so that its embedding
need not wait for the disk, but acknowledged when it is kept; if that fails it is taken back.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

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
from streambed.limits import MAX_UNCOMMITTED
from streambed.streams.effects import Count, Effect, Peer, Send, Write
from streambed.streams.limits import Credit, Limits
from streambed.streams.mark import Mark
from streambed.streams.store.store import DIGEST, HISTORY, Commit
from streambed.text.strings import common_prefix
from streambed.text.units import codepoints, count
from streambed.wire import (
    InputText,
    InputTextAck,
    InputTextAppend,
    InputTextReplace,
    InputTextSet,
    SessionOptions,
    error_event,
)

if TYPE_CHECKING:
    from streambed.engine.session import Session

SNAPSHOT_CHANGES = 256
SNAPSHOT_CHARACTERS = 64 << 10
"""After so many characters of changes the whole text is written, so that recovery stays quick."""
_CONTEXT = 16
"""Characters before a change that triggers see with it."""


class Applied(NamedTuple):
    """A change that was new: the text before it, and what it inserted."""

    before: str
    text: str


@dataclass(frozen=True)
class _Pending:
    """A change that is not on disk yet."""

    commit: Commit
    mark: Mark
    """After it, in the session's unit."""
    kind: str


@dataclass(frozen=True)
class _Owed:
    """An acknowledgement."""

    revision: int
    peer: Peer
    event_id: str | None


class Changes:
    """`now` is where the text stands, `acknowledged` where it stood at the newest change that was, or could be,
    acknowledged: with a store, the newest that is kept."""

    def __init__(
        self,
        session: str,
        text: Session,
        options: SessionOptions,
        limits: Limits,
        credit: Credit,
        epoch: int | None,
        history: tuple[int, bool, Iterable[bytes]],
        effects: list[Effect],
    ) -> None:
        """epoch: under which changes are written; None where nothing is. history: revision, whether the text was edited,
        and the digests of the last changes."""
        self._session = session
        self._text = text
        self._unit = options.offset_unit
        self._segmented = options.overflow == "segment"
        self._limits = limits
        self._credit = credit
        self._epoch = epoch
        self._effects = effects
        revision, edited, digests = history
        self.digests = deque(digests, maxlen=HISTORY)
        here = Mark(revision, text.offset, text.start, text.segment, edited)
        self.now = self.acknowledged = here.counted(text.text, self._unit)
        self._start = text.start  # `now.start` in code points
        self._pending: deque[_Pending] = deque()
        self._acknowledged_text: str | None = None  # kept while something is not on disk
        self._owed: list[_Owed] = []
        # A restart may have divided the text for a smaller window: the store hears of it with the next change.
        self._changes_since = SNAPSHOT_CHANGES if self._segmented else 0
        self.misled: Peer | None = None
        """A client of whose changes one was refused, and that has not heard yet: those behind it were sent in the belief
        that it would be there."""
        self._characters_since = 0
        self._tokens = text.num_tokens

    @property
    def place(self) -> dict[str, Any]:
        """`segment` and `start` of what grows, as acknowledged; nothing where the text goes on in no segments."""
        return {"segment": self.acknowledged.segment, "start": self.acknowledged.start} if self._segmented else {}

    def may_end_segment(self, characters: int) -> bool:
        """Whether a change of so many characters could outgrow the window, and so have a whole one divided."""
        # No tokenizer makes more tokens than bytes; what was in flight when the tokens were counted is small.
        return self._segmented and self._tokens + 4 * characters + 64 > self._limits.max_tokens

    def apply(self, event: InputText, peer: Peer) -> Applied | None:
        """Applies a change, or finds that the text has it already. Either is acknowledged in time."""
        if self.misled is peer and not _is_placed(event):
            raise self._misplaced(
                RevisionConflict, "a change before this one was refused; go on with base_revision or offset", None
            )
        applied = self._apply(event, peer)
        if self.misled is peer:
            self.misled = None
        return applied

    def _apply(self, event: InputText, peer: Peer) -> Applied | None:
        digest = _digest(event)
        known = self._find(event.base_revision, digest)
        place = None if known is not None else self._place(event)
        if place is None:
            self._effects.append(Count(event.type, "ok"))
            self._owed.append(_Owed(self.now.revision if known is None else known, peer, event.event_id))
            return None
        start, end, text = place
        self._check(event, start, end, text)
        whole = self._text.text
        self._text.replace(start, end, text)  # raises before it changes anything
        self._owed.append(_Owed(self.now.revision + 1, peer, event.event_id))
        self.digests.append(digest)
        self._tokens = self._text.num_tokens
        moved = self._move(count(text, self._unit) - count(whole[start:end], self._unit), start < len(whole))
        if self._epoch is None:
            self.acknowledged = self.now
            self._effects.append(Count(event.type, "ok"))
        else:
            self._write(self._epoch, event.type, (start, end, text, digest), whole, moved)
        return Applied(whole[max(start - _CONTEXT, 0) : start], text)

    def _move(self, grown: int, edited: bool) -> bool:
        """Follows a text that has changed. Returns whether a new segment has begun."""
        before, text = self.now, self._text
        moved = text.start != self._start  # leading spaces may have been left behind, without an end of a segment
        self._start = text.start
        start = count(text.text[: text.start], self._unit) if moved else before.start
        self.now = Mark(before.revision + 1, before.offset + grown, start, text.segment, before.edited or edited)
        return moved

    def _write(self, epoch: int, kind: str, change: tuple[int, int, str, bytes], whole: str, moved: bool) -> None:
        start, end, text, digest = change
        now = self.now
        mark = Mark(now.revision, self._text.offset, self._text.start, now.segment, now.edited)
        commit = Commit(self._session, epoch, mark, start, end, text, digest, self._snapshot(text, moved))
        if not self._pending:
            self._acknowledged_text = whole
        self._pending.append(_Pending(commit, now, kind))
        self._credit.uncommitted += len(text)
        self._credit.changes = len(self._pending)
        self._effects.append(Write(commit))

    def committed(self, commit: Commit) -> None:
        """A change, and so all before it, is on disk."""
        while self._pending and self._pending[0].mark.revision <= commit.mark.revision:
            done, text = self._pending.popleft(), self._acknowledged_text
            assert text is not None
            self._credit.uncommitted -= len(done.commit.text)
            self._acknowledged_text = text[: done.commit.start] + done.commit.text + text[done.commit.end :]
            self.acknowledged = done.mark
            self._effects.append(Count(done.kind, "ok"))
        self._credit.changes = len(self._pending)
        if not self._pending:
            self._acknowledged_text = None

    def take_back(self, commit: Commit, error: StorageFull, listener: Peer | None) -> StorageFull | None:
        """A change could not be written: all that are not on disk are taken back. Returns what those who wait for them are
        told; None where it was taken back before. listener: the socket that holds the session."""
        if not any(each.commit is commit for each in self._pending):
            return None
        text = self._acknowledged_text
        assert text is not None
        self._start = codepoints(text, [self.acknowledged.start], self._unit, "start")[0]
        self._text.restore(text, self._start, self.acknowledged.segment)
        self.now = self.acknowledged
        for _ in range(min(len(self._pending), len(self.digests))):
            self.digests.pop()
        refused = StorageFull(error.message)
        refused.revision = self.now.revision
        self.misled = listener if any(owed.peer is listener for owed in self._owed) else self.misled
        self._changes_since = SNAPSHOT_CHANGES  # the store may hold what it could not finish: write it anew
        self._characters_since = 0
        self._abandon(refused)
        return refused

    def close(self, gone: NotFound) -> None:
        """Refuses the changes that wait for an acknowledgement, with this error."""
        self._abandon(gone)

    def _abandon(self, error: RequestError) -> None:
        self._effects += [Count(each.kind, error.outcome) for each in self._pending]
        self._effects += [Send(each.peer, error_event(error, self._session, each.event_id)) for each in self._owed]
        self._pending.clear()
        self._owed.clear()
        self._credit.uncommitted = self._credit.changes = 0
        self._acknowledged_text = None

    def forget(self, peer: Peer) -> None:
        """Forgets the acknowledgements that this peer waits for."""
        self._owed = [owed for owed in self._owed if owed.peer is not peer]

    def acknowledge(self, listener: Peer | None, progress: bool = False) -> None:
        """One acknowledgement for each client that is owed any, and for the socket that holds the session: also of changes
        that somebody else made, or made before it came. progress: tell that one in any case."""
        paid: dict[int, _Owed] = {}
        rest = []
        for owed in self._owed:
            if owed.revision <= self.acknowledged.revision:
                paid[id(owed.peer)] = owed
            else:
                rest.append(owed)
        if not paid and not progress:
            return
        self._owed = rest
        if listener is not None:
            paid.setdefault(id(listener), _Owed(self.acknowledged.revision, listener, None))
        for owed in paid.values():
            ack = InputTextAck(
                session=self._session,
                event_id=owed.event_id,
                revision=self.acknowledged.revision,
                offset=self.acknowledged.offset,
                tokens=self._text.num_tokens,
                credit=self._credit.left,
                **self.place,
            )
            self._effects.append(Send(owed.peer, ack, "ack"))

    # What a change is, and where it goes

    def _find(self, base: int | None, digest: bytes) -> int | None:
        """The revision that this change has made before; None where it is a new one."""
        now = self.now.revision
        if base is None or base == now:
            return None
        if base > now:
            raise RevisionGap(f"base_revision is {base}, but the session is at {now}", "base_revision")
        back = now - base
        if back > len(self.digests):
            raise RevisionConflict(
                f"base_revision is {base}, the session is at {now}, and changes as old as that cannot be compared any more",
                "base_revision",
            )
        if self.digests[-back] != digest:
            raise RevisionConflict(
                f"base_revision is {base}, but revision {base + 1} was another change (it is at {now})", "base_revision"
            )
        return base + 1

    def _place(self, event: InputText) -> tuple[int, int, str] | None:
        """Which code points the change replaces by what; None where the text holds it already."""
        if isinstance(event, InputTextReplace):
            return self._position(event.start, "start"), self._position(event.end, "end"), event.text
        length, offset = self._text.offset, self.now.offset
        if not isinstance(event, InputTextAppend):
            same = common_prefix(self._text.text, event.text)
            return same, length, event.text[same:]
        if event.offset is None or (event.offset == offset and event.base_revision is not None):
            return length, length, event.text
        if event.offset > offset:
            raise self._misplaced(OffsetGap, f"offset is {event.offset}, but the text ends at {offset}")
        if event.base_revision is not None or (self.now.edited and event.offset != offset):
            why = "" if event.base_revision is not None else ", and was edited before, so base_revision is needed"
            raise self._misplaced(OffsetConflict, f"offset is {event.offset}, but the text ends at {offset}{why}")
        held = self._text.text[self._position(event.offset, "offset") :]
        if held.startswith(event.text):
            return None
        if not event.text.startswith(held):
            raise self._misplaced(OffsetConflict, f"the text at {event.offset} is another one")
        return length, length, event.text[len(held) :]

    def _check(self, event: InputText, start: int, end: int, text: str) -> None:
        if isinstance(event, InputTextReplace) and start > end:
            raise InvalidRequest(f"start is {event.start}, behind end, {event.end}", "start")
        if start < self._text.start:
            raise InvalidRequest(
                f"the text before {self.now.start:,} stands in segments that have ended, and can no longer change",
                "start" if isinstance(event, InputTextReplace) else "text",
            )
        kept, most = self._text.offset - (end - start), self._limits.max_characters
        if kept + len(text) > most:
            raise TooLarge(
                f"the text would have {kept + len(text):,} characters; the limit is {most:,}, which leaves "
                f"{max(most - kept, 0):,}",
                "text",
            )
        if len(self._pending) >= MAX_UNCOMMITTED:
            raise Overloaded(f"{len(self._pending)} changes wait for the journal")

    def _misplaced(self, kind: type[RequestError], message: str, param: str | None = "offset") -> RequestError:
        error = kind(message, param)
        error.expected_offset = self.now.offset
        return error

    def _position(self, position: int, name: str) -> int:
        """Code points before a position in the session's unit. Raises InvalidRequest."""
        if position > self.now.offset:
            raise InvalidRequest(f"{name} is {position}, but the text ends at {self.now.offset}", name)
        return codepoints(self._text.text, [position], self._unit, name)[0]

    def _snapshot(self, text: str, anyway: bool) -> tuple[str, bytes] | None:
        self._changes_since += 1
        self._characters_since += len(text)
        few = self._changes_since < SNAPSHOT_CHANGES and self._characters_since < SNAPSHOT_CHARACTERS
        if few and not anyway:
            return None
        self._changes_since = self._characters_since = 0
        return self._text.text, b"".join(self.digests)


def _is_placed(event: InputText) -> bool:
    """Whether it says itself to what text it belongs, or is all of it."""
    placed = event.base_revision is not None or isinstance(event, InputTextSet)
    return placed or (isinstance(event, InputTextAppend) and event.offset is not None)


def _digest(event: InputText) -> bytes:
    """Tells changes apart, positions and all; who sends them again sends the same."""
    place = (event.start, event.end) if isinstance(event, InputTextReplace) else None
    text = event.text.encode("utf-8", "surrogatepass")  # a later check refuses lone surrogates
    return hashlib.blake2b(orjson.dumps([event.type, place]) + text, digest_size=DIGEST).digest()
