"""How many connections a server keeps, and which of them goes when there are too many: one whose client is not waiting for
anything. Descriptors are left over for the journal, for files, and to answer those who ask whether the server lives."""

import asyncio
import contextlib
import os
import sys
from collections import OrderedDict
from typing import Literal

from streambed.limits import MAX_SILENT

if sys.platform != "win32":  # which has no such limit
    import resource

ACCEPTED_AT_ONCE = 16
"""New connections between two looks at how many there are."""
SPARE = 120
"""Descriptors that connections leave over."""
ANSWERED = 32
"""So many beyond the limit are heard, and told that there are too many."""

State = Literal["silent", "idle", "sending"]
_ORDER: tuple[State, ...] = ("silent", "idle", "sending")
"""Whose turn it is first: who never said a whole head, who has had an answer, who has not sent all of a body."""


class Connections:
    """Those that could go, by what they do and how long they have done it. Belongs to the event loop."""

    def __init__(self, most: int) -> None:
        """most: connections of all kinds."""
        self.most = most
        self._by_state: dict[State, OrderedDict[asyncio.Transport, None]] = {state: OrderedDict() for state in _ORDER}

    def note(self, transport: asyncio.Transport, state: State | None) -> None:
        """What a connection does from now on; None: it waits for us, or it has ended."""
        if state is not None and transport in self._by_state[state]:
            return
        for waiting in self._by_state.values():
            waiting.pop(transport, None)
        if state is not None:
            self._by_state[state][transport] = None
        # Thousands that end together would hold up the loop.
        if len(silent := self._by_state["silent"]) > MAX_SILENT:
            silent.popitem(last=False)[0].abort()

    def admit(self, there: int) -> bool:
        """Makes room for one more, which counts among those that are there already. False where there is none."""
        if there <= self.most:
            return True
        for waiting in self._by_state.values():
            if waiting:
                waiting.popitem(last=False)[0].abort()
                return True
        return False


def bound(wanted: int) -> int:
    """How many connections there can be, up to as many as wanted; raises the process's limit for that as far as it may."""
    if sys.platform == "win32":
        return wanted
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    spare = _in_use() + SPARE + ANSWERED + ACCEPTED_AT_ONCE
    need = wanted + spare
    if soft != resource.RLIM_INFINITY and soft < need:
        raised = need if hard == resource.RLIM_INFINITY else min(need, hard)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
            soft = raised
    return wanted if soft == resource.RLIM_INFINITY else max(min(wanted, soft - spare), 1)


def _in_use() -> int:
    try:
        return len(os.listdir("/dev/fd"))
    except OSError:
        return 32
