"""How much of the event loop one key's WebSockets may take.

An event runs on the loop, where nothing else runs meanwhile. What an owner's events have taken, he waits for as long before
the next one of his is read, whichever of his sockets it comes from: so half of the loop is always there for the others.
"""

import time

LEAST_SECONDS = 0.001
"""Shorter waits are not worth a timer; they add up."""


class Pace:
    """Belongs to the event loop."""

    def __init__(self, many: bool) -> None:
        """many: whether there are several keys; one alone has nobody to leave anything to."""
        self._many = many
        self._free: dict[str, float] = {}
        """When each owner may be read again."""

    def spend(self, owner: str, seconds: float) -> float:
        """Says that an event of an owner has taken so long. Returns the seconds for which not to read from its socket."""
        if not self._many:
            return 0.0
        now = time.monotonic()
        free = self._free[owner] = max(self._free.get(owner, 0.0), now - seconds) + 2 * seconds
        return free - now if free - now >= LEAST_SECONDS else 0.0
