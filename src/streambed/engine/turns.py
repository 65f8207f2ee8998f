"""Whose task of a lane goes next: that of the owner who has had least, so that nobody waits behind another's queue.

Max-min fairness by start-time accounts: whoever comes has had as much as the one of those there who has had least.
"""

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator

from streambed.engine.sequence import Lane, Task


class Turns:
    """The owners' accounts, in rows. Used on the engine's thread alone."""

    def __init__(self) -> None:
        self._had: dict[Lane, dict[str, float]] = defaultdict(dict)

    def order(self, lane: Lane, tasks: Iterable[Task]) -> Iterator[Task]:
        """All tasks of a lane, each owner's in the order in which they are given. `charge` each before the next is
        asked for."""
        queues: defaultdict[str, deque[Task]] = defaultdict(deque)
        for task in tasks:
            queues[task.sequence.owner].append(task)
        before = self._had[lane]
        least = min((before[owner] for owner in queues if owner in before), default=0.0)
        had = self._had[lane] = {owner: max(before.get(owner, least) - least, 0.0) for owner in queues}
        while queues:
            owner = min(queues, key=had.__getitem__)  # of equals the one whose task is due first
            yield queues[owner].popleft()
            if not queues[owner]:
                del queues[owner]

    def charge(self, task: Task, rows: float) -> None:
        """Its owner has had so many rows more."""
        self._had[task.lane][task.sequence.owner] += rows
