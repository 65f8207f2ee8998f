"""How much of the event loop one key may take with its WebSockets and bodies.

An event runs on the loop, where nothing else runs meanwhile, and so does the counting of a body's structure. For as long
as that has taken, nothing more of its owner is read, whichever connection it comes from: so half of the loop is always
there for the others. Nor are events read of who owes tokens (`usage`).
"""

import time
from collections.abc import Callable

LEAST_SECONDS = 0.001
"""Shorter waits are not worth a timer; they add up."""


class Pace:
    """Belongs to the event loop."""

    def __init__(self, many: Callable[[], bool], debt: Callable[[str], float] = lambda owner: 0.0) -> None:
        """many: whether there are several keys; one alone has nobody to leave anything to. debt: seconds until an owner no
        longer owes tokens."""
        self._many, self._debt = many, debt
        self._free: dict[str, float] = {}
        """When each owner may be read again."""

    def spend(self, owner: str, seconds: float) -> float:
        """Says that an event of an owner has taken so long. Returns the seconds for which not to read the next one: as
        `wait`, or until he owes nothing."""
        if self._many():
            self._free[owner] = max(self._free.get(owner, 0.0), time.monotonic() - seconds) + 2 * seconds
        return max(self.wait(owner), self._debt(owner))

    def wait(self, owner: str) -> float:
        """Seconds for which not to read more of what an owner has begun to send."""
        wait = self._free.get(owner, 0.0) - time.monotonic()
        return wait if wait >= LEAST_SECONDS else 0.0
