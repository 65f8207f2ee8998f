"""What a store is to do, and what is written to it. Positions count code points.

*Epochs.* Whoever serves a session has claimed it; each claim raises the session's epoch. Every entry carries the epoch of
the claim under which it was made, and the store refuses one whose epoch is not the present one: so an older owner that does
not know yet that it has lost the session can write nothing.
"""

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

from streambed.errors import StorageFull
from streambed.limits import HISTORY as HISTORY  # so many digests a store keeps
from streambed.streams.mark import Mark

DIGEST = 12
"""Bytes of a change's digest."""


@dataclass(frozen=True)
class Saved:
    """A session as it is kept."""

    id: str
    owner: str
    token: bytes
    """Digest of the resume token."""
    options: str
    """`SessionOptions` as JSON, its text left out."""
    text: str = ""
    mark: Mark = field(default_factory=Mark)
    digests: tuple[bytes, ...] = ()
    """Of the last changes, at most HISTORY."""
    epoch: int = 1


@dataclass(frozen=True)
class Open:
    """A session begins. Takes the place of whatever has its id."""

    saved: Saved

    @property
    def session(self) -> str:
        return self.saved.id

    @property
    def epoch(self) -> int:
        return self.saved.epoch


@dataclass(frozen=True, eq=False)
class SetOptions:
    """A session has new options."""

    session: str
    epoch: int
    options: str


@dataclass(frozen=True, eq=False)
class Commit:
    """A session's text has changed: `text` is now in the place of `[start, end)`, and the session stands at `mark`."""

    session: str
    epoch: int
    mark: Mark
    start: int
    end: int
    text: str
    digest: bytes
    snapshot: tuple[str, bytes] | None
    """The whole text and the digests of the last changes; always there where a segment has ended."""


@dataclass(frozen=True, eq=False)
class Erase:
    """A session has ended; all of it is erased."""

    session: str
    epoch: int


Entry = Open | SetOptions | Commit | Erase
Done = Callable[[StorageFull | None], None]
"""Is told, on any thread, that an entry is kept, or that it is not and why. Called once."""


class Store(Protocol):
    """Entries of a session are written in the order of submission, or refused; never skipped. A change is refused unless it
    follows the newest that was told to be kept."""

    on_commit: Callable[[int, int, float], None]
    """Is told of each transaction: its entries, how many were refused, seconds. On any thread."""

    def recover(self) -> list[Saved]:
        """Claims all sessions that there are, and begins to take entries. What cannot be read of one session loses that
        session alone. Raises SettingsError where nothing can be read."""

    def claim(self, session: str) -> Future[Saved]:
        """Claims one session, from whoever serves it. Ends in NotFound where there is none, or StorageFull."""

    def submit(self, entry: Entry, done: Done) -> None:
        """Writes an entry soon. Never waits."""

    def close(self) -> None:
        """Writes what was submitted, and ends."""
