"""Threads for work that is too long for the event loop, whose owners take turns.

Of what waits, that goes first whose owner has had least time, and one of several owners never has all threads: who brings
most waits behind himself alone.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

from streambed.accounts import Accounts

Result = TypeVar("Result")
_DAMPING = 0.05
_MOST_SECONDS = 0.05
"""A single book among short texts says nothing about them."""


class _Item(NamedTuple):
    work: Callable[[], Any]
    done: asyncio.Future[Any]


class Workers:
    """Belongs to the event loop."""

    def __init__(self, threads: int, name: str, many: Callable[[], bool]) -> None:
        """many: whether there are several owners."""
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._threads, self._many = threads, many
        self._waiting: dict[str, deque[_Item]] = {}
        self._running: dict[str, int] = {}
        self._accounts = Accounts()
        """In seconds."""
        self._closed = False
        self._seconds = 0.0
        """What one takes, on an average of the last ones."""

    def wait(self, owner: str) -> float:
        """Seconds until what an owner brings now would begin. Until then each other owner gets as much as this one."""
        own = len(self._waiting.get(owner, ()))
        ahead = sum(min(len(items), own) for items in self._waiting.values())
        return ahead * self._seconds / self._threads

    async def run(self, owner: str, work: Callable[[], Result], *, first: bool = False, short: bool = False) -> Result:
        """Has something done in a thread, and waits for it; what it raises is raised here. first: before what else waits
        of this owner. short: it takes less than a millisecond; where there are several owners and nothing of this one is
        at work, it is done at once, since to go to a thread and back takes longer on a loop that others keep busy. (With
        one owner all of it waits where it can be counted, or too much would be taken on.)"""
        if short and self._many() and not self._closed and owner not in self._waiting and owner not in self._running:
            return work()
        done: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        if self._closed:
            raise RuntimeError("the threads have ended")
        waiting = self._waiting.setdefault(owner, deque())
        (waiting.appendleft if first else waiting.append)(_Item(work, done))
        self._start()
        return await done

    def close(self) -> None:
        """Begins nothing more."""
        self._closed = True
        self._pool.shutdown(wait=False, cancel_futures=True)
        for items in self._waiting.values():
            for item in items:
                item.done.cancel()
        self._waiting.clear()

    def _start(self) -> None:
        self._accounts.keep(self._waiting.keys() | self._running.keys())
        most = max(self._threads - 1, 1) if self._many() else self._threads
        while sum(self._running.values()) < self._threads:
            ready = [owner for owner in self._waiting if self._running.get(owner, 0) < most]
            if not ready:
                return
            owner = self._accounts.choose(ready)
            item = self._waiting[owner].popleft()
            if not self._waiting[owner]:
                del self._waiting[owner]
            if item.done.cancelled():  # whoever wanted it has gone
                continue
            self._running[owner] = self._running.get(owner, 0) + 1
            asyncio.get_running_loop().create_task(self._run(owner, item))

    async def _run(self, owner: str, item: _Item) -> None:
        started = time.monotonic()
        error: BaseException | None = None
        result: Any = None
        try:
            result = await asyncio.get_running_loop().run_in_executor(self._pool, item.work)
        except BaseException as cause:  # noqa: BLE001 - raised in the call that waits
            error = cause
        if not item.done.done():
            if error is None:
                item.done.set_result(result)
            elif isinstance(error, asyncio.CancelledError):
                item.done.cancel()
            else:
                item.done.set_exception(error)
        seconds = time.monotonic() - started
        self._accounts.charge(owner, seconds)
        self._seconds += _DAMPING * (min(seconds, _MOST_SECONDS) - self._seconds)
        self._running[owner] -= 1
        if not self._running[owner]:
            del self._running[owner]
        if not self._closed:
            self._start()
