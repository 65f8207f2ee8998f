"""What all clients together may take of something at once, and what one key may: the rest is there for the others."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from streambed.errors import Overloaded, QuotaExceeded

LARGEST_SHARE = 1 / 2
"""Of one key, where there are several."""


@dataclass
class Allowance:
    """Places or bytes. Belongs to the event loop."""

    limit: int
    what: str
    """As in `64 requests are in progress`."""
    many: Callable[[], bool]
    """Whether there are several keys."""
    quota: Callable[[str], int | None] = lambda owner: None
    """What an owner may take at most, if anybody said so."""
    taken: int = 0
    by_owner: Counter[str] = field(default_factory=Counter)

    @property
    def of_one(self) -> int:
        """What one key may take."""
        return max(int(self.limit * LARGEST_SHARE), 1) if self.many() else self.limit

    @contextlib.contextmanager
    def open(self, owner: str | None) -> Iterator["Share"]:
        """What one request takes; it is given back at the end."""
        share = Share(self, owner or "")
        try:
            yield share
        finally:
            share.give_back()


@dataclass
class Share:
    """Of one request."""

    allowance: Allowance
    owner: str
    taken: int = 0

    def take(self, more: int) -> None:
        """Raises Overloaded where there is not so much, QuotaExceeded."""
        allowance = self.allowance
        if allowance.taken + more > allowance.limit:
            raise Overloaded(f"{allowance.taken:,} {allowance.what}; try again later")
        most = allowance.quota(self.owner)
        if most is not None and allowance.by_owner[self.owner] + more > most:
            raise QuotaExceeded(f"{allowance.by_owner[self.owner]:,} {allowance.what}; this key may have {most:,}")
        if allowance.by_owner[self.owner] + more > allowance.of_one:
            raise Overloaded(f"{allowance.by_owner[self.owner]:,} {allowance.what} for this key; try again later")
        allowance.taken += more
        allowance.by_owner[self.owner] += more
        self.taken += more

    def give_back(self) -> None:
        self.allowance.taken -= self.taken
        self.allowance.by_owner[self.owner] -= self.taken
        if not self.allowance.by_owner[self.owner]:
            del self.allowance.by_owner[self.owner]
        self.taken = 0
