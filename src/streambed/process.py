"""Objects with a thread, a lock or connections, which work only in the process that made them."""

import os
from typing import ClassVar, NoReturn, Self
from weakref import WeakSet

_alive: "WeakSet[ProcessBound]" = WeakSet()
left_behind: list[object] = []
"""What a child has of its parent's connections and loops. Kept, since to close or collect them would take them away from the
parent, with whom the child shares them."""


class ProcessBound:
    """Cannot be pickled or copied, and is told in the child when the process has forked."""

    _instead: ClassVar[str]
    """Advice at the end of the messages: what to do in another process instead."""

    def __init__(self) -> None:
        self._home = os.getpid()
        _alive.add(self)

    @property
    def _at_home(self) -> bool:
        return self._home == os.getpid()

    def _after_fork(self) -> None:
        """Called in the child before anything else. Locks may be held by threads that are not here; their owner is gone."""

    def __reduce__(self) -> NoReturn:
        name = type(self).__name__
        raise TypeError(f"{name} cannot be pickled or copied, since it has threads or connections; {self._instead}")


class Closeable(ProcessBound):
    """The same, closed at the end of a `with` block."""

    def close(self) -> None:
        """Gives back what it holds."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _tell() -> None:
    for each in list(_alive):
        each._after_fork()


if hasattr(os, "register_at_fork"):  # where a process can fork
    os.register_at_fork(after_in_child=_tell)
