"""Whose task of a lane goes next: that of the owner who has had least, so that nobody waits behind another's queue."""

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator

from streambed.accounts import Accounts
from streambed.engine.sequence import Lane, Task


class Turns:
    """The owners' accounts in each lane, in rows. Used on the engine's thread alone."""

    def __init__(self) -> None:
        self._accounts = {lane: Accounts() for lane in Lane}

    def order(self, lane: Lane, tasks: Iterable[Task]) -> Iterator[Task]:
        """All tasks of a lane, each owner's in the order in which they are given. `charge` each before the next is
        asked for."""
        queues: defaultdict[str, deque[Task]] = defaultdict(deque)
        for task in tasks:
            queues[task.sequence.owner].append(task)
        accounts = self._accounts[lane]
        accounts.keep(queues)
        while queues:
            owner = accounts.choose(queues)  # of equals the one whose task is due first
            yield queues[owner].popleft()
            if not queues[owner]:
                del queues[owner]

    def charge(self, task: Task, rows: float) -> None:
        """Its owner has had so many rows more."""
        self._accounts[task.lane].charge(task.sequence.owner, rows)
