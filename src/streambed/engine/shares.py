"""How lanes share a device whose steps can pause: by time.

Each lane has an account of the time that its work took, divided by its weight. A lane may go before another while its
account is not ahead of the other's, as in stride scheduling (Waldspurger, MIT/LCS/TM-528, 1995).
"""

from collections.abc import Collection

from streambed.engine.sequence import Lane

WEIGHTS = {Lane.STREAM: 8, Lane.QUERY: 4, Lane.BULK: 1}
BURST_SECONDS = 0.1
"""So far may a more urgent lane be ahead, per unit of weight: a burst is not held up for what is balanced later."""


class Shares:
    """The lanes' accounts. Used on the engine's thread alone."""

    def __init__(self) -> None:
        self._used = dict.fromkeys(Lane, 0.0)

    def charge(self, costs: dict[Lane, float], seconds: float) -> None:
        """Divides a step's seconds among the lanes whose rows it had, by what these cost."""
        whole = sum(costs.values()) or 1.0
        for lane, cost in costs.items():
            self._used[lane] += seconds * cost / whole / WEIGHTS[lane]

    def wait(self, waiting: Collection[Lane]) -> None:
        """Says which lanes have work: the others save nothing up."""
        least = min(self._used[lane] for lane in waiting)
        for lane in Lane:
            if lane not in waiting:
                self._used[lane] = max(self._used[lane], least)

    def may_pass(self, lane: Lane, other: Lane) -> bool:
        """Whether a lane's work may go before that of a less urgent one, both having some."""
        return self._used[lane] <= self._used[other] + BURST_SECONDS
