"""How much work waits, whose it is, and how long that will take. What could not be done in time is refused at once."""

from collections import Counter

from streambed.engine.sequence import Lane
from streambed.errors import Overloaded

PATIENCE = {Lane.QUERY: 1.5, Lane.BULK: 30.0}
"""Seconds that work may have to wait until it begins. A session's has other bounds: it waits for one answer at a time."""
TIMES_OWN = 40.0
"""And so many times as long as it takes itself: who sends much expects to wait."""


class Backlog:
    """Rows that wait or run, by lane and owner. Whoever calls holds the engine's lock."""

    def __init__(self) -> None:
        self._rows: Counter[tuple[Lane, str]] = Counter()

    def add(self, lane: Lane, owner: str, rows: int) -> None:
        """Counts rows that came, or, where there are less than none, that went."""
        key = (lane, owner)
        self._rows[key] += rows
        if self._rows[key] <= 0:
            del self._rows[key]

    def wait(self, lane: Lane, owner: str, rate: float) -> float:
        """Seconds until what an owner adds to a lane would begin. Until then each other owner gets as much as this one."""
        own = self._rows[lane, owner]
        ahead = sum(
            rows if other < lane else min(rows, own) for (other, _), rows in self._rows.items() if other <= lane
        )
        return ahead / rate

    def check(self, lane: Lane, owner: str, rows: int, rate: float) -> None:
        """Raises Overloaded where rows would have to wait for too long. An owner of whom nothing waits is never refused."""
        if lane not in PATIENCE or not self._rows[lane, owner]:
            return
        wait, most = self.wait(lane, owner, rate), PATIENCE[lane] + TIMES_OWN * rows / rate
        if wait > most:
            error = Overloaded(f"work for {wait:.1f} seconds is waiting already; try again later")
            error.retry_after = wait - most / 2
            raise error
