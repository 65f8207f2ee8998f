"""What comes to a session, one thing at a time and in the order in which it came.

A serial executor: the machine behind it is never touched by two at once. Messages run on the event loop, those that are long
in a thread, and what comes meanwhile waits.
"""

import asyncio
import contextlib
import functools
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from streambed.limits import MAX_WAITING
from streambed.streams.effects import Peer
from streambed.streams.limits import Credit

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Message:
    """Something to do."""

    run: Callable[[], None]
    is_long: Callable[[], bool] = lambda: False
    """Whether it is to run in a thread; called when its turn has come."""
    is_event: bool = False
    """Whether it is a client's event; those wait through a pause, in their order."""
    peer: Peer | None = None
    """The peer with which it is dropped, if it has not run by then."""
    size: int = 0
    """Characters of a change."""


class Mailbox:
    """Belongs to the event loop, on which all but `tell` must be called."""

    def __init__(
        self, run_long: Callable[[Callable[[], None]], Awaitable[None]], credit: Credit, after: Callable[[], None]
    ) -> None:
        """run_long: runs something in a thread. after: is called on the loop when a message has run."""
        self._run_long = run_long
        self._credit = credit
        self._after = after
        self._waiting: deque[Message] = deque()
        self._paused = False
        self._busy: asyncio.Task[None] | None = None
        self._moved = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    def post(self, message: Message) -> None:
        """Runs it when its turn comes, which may be at once."""
        held = self._paused and message.is_event
        if self._busy is None and not held and not message.is_long():
            self._run(message)
            self._after()
            self._moved.set()
            return
        self._waiting.append(message)
        self._credit.queued += message.size
        self._work()

    async def call(self, work: Callable[[], Result], *, is_long: bool = False, is_event: bool = False) -> Result:
        """Has something done in its turn, and waits for it; what it raises is raised here."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Result] = loop.create_future()

        def run() -> None:
            try:
                result = work()
            except Exception as error:  # noqa: BLE001 - raised in the caller
                tell(loop, settle, done, None, error)
            else:
                tell(loop, settle, done, result, None)

        self.post(Message(run, lambda: is_long, is_event))
        return await done

    async def room(self) -> None:
        """Waits while so much is in flight that one more could be refused for that alone."""
        while len(self._waiting) + self._credit.changes + 1 >= MAX_WAITING:
            self._moved.clear()
            await self._moved.wait()

    def drop(self, peer: Peer) -> None:
        """Drops the messages of a peer that have not run."""
        self._credit.queued -= sum(message.size for message in self._waiting if message.peer is peer)
        self._waiting = deque(message for message in self._waiting if message.peer is not peer)
        self._moved.set()

    def pause(self) -> None:
        """Clients' events wait until `resume`."""
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        self._work()

    def _work(self) -> None:
        if self._busy is None:
            self._busy = asyncio.get_running_loop().create_task(self._work_off())

    def _take(self) -> Message | None:
        for at, message in enumerate(self._waiting):
            if not self._paused or not message.is_event:
                del self._waiting[at]
                return message
        return None

    async def _work_off(self) -> None:
        credit = self._credit
        try:
            while (message := self._take()) is not None:
                credit.applying = message.size
                if message.is_long():
                    await self._run_long(functools.partial(self._run, message))
                else:
                    self._run(message)
                credit.queued -= message.size
                credit.applying = 0
                self._after()
                self._moved.set()
                await asyncio.sleep(0)  # lets others run
        finally:
            self._busy = None

    def _run(self, message: Message) -> None:
        try:
            message.run()
        except Exception as error:  # one session's bug must not end the others
            logger.error("a stream failed for a reason of our own: %s", type(error).__name__, exc_info=error)


def tell(loop: asyncio.AbstractEventLoop, call: Callable[..., None], *values: Any) -> None:
    """Calls on the loop, from another thread. A loop that has ended has nobody left to tell."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(call, *values)


def settle(done: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    """Ends a future that somebody may no longer wait for."""
    if done.cancelled():
        return
    if error is None:
        done.set_result(result)
    else:
        done.set_exception(error)
