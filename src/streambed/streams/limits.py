"""What a session may hold and have in flight."""

from dataclasses import asdict, dataclass

from streambed.errors import Overloaded
from streambed.limits import MAX_UNCOMMITTED


@dataclass(frozen=True)
class Limits:
    """The same for all sessions of a server."""

    max_characters: int
    max_tokens: int
    max_pending: int = 64
    """Embeddings that are asked for and not answered."""
    max_unacknowledged: int = MAX_UNCOMMITTED
    """Changes in flight. More are not read until some of these are acknowledged."""
    credit: int = 64 << 10
    max_frame_bytes: int = 1 << 20

    @property
    def told(self) -> dict[str, int]:
        """The limits that clients are told; credit is told as it is at the moment."""
        return {name: limit for name, limit in asdict(self).items() if name != "credit"}


@dataclass
class Credit:
    """Characters of one session in flight: sent by its clients, and not acknowledged."""

    limit: int
    queued: int = 0
    """Characters of changes that wait in the mailbox, and of the change that is being applied."""
    uncommitted: int = 0
    """Characters of changes that are applied and not yet on disk."""
    applying: int = 0
    """Characters of the change that is being applied. An acknowledgement of it no longer counts them."""
    changes: int = 0
    """Changes that are applied and not yet on disk."""

    @property
    def left(self) -> int:
        """Characters that may be sent before the next acknowledgement."""
        return max(0, self.limit - self.queued - self.uncommitted + self.applying)

    def check(self, size: int) -> None:
        """Raises Overloaded where so many more characters are too many. A single change is never too large."""
        in_flight = self.queued + self.uncommitted
        if size and in_flight and in_flight + size > self.limit:
            raise Overloaded(f"{in_flight:,} characters are not acknowledged yet; the session's credit is used up")
