"""A session's mailbox: one thing at a time and in order, whatever is long, paused or dropped."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from streambed.errors import Overloaded
from streambed.streams.limits import Credit
from streambed.streams.mailbox import Mailbox, Message
from streambed.wire import ServerEvent


class Somebody:
    def send(self, event: ServerEvent, slot: str | None = None) -> None:
        raise AssertionError("a mailbox says nothing")


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


class Box:
    """A mailbox, and what was done."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self.done: list[str] = []
        self.credit = Credit(100)

        async def run_long(work: Callable[[], None]) -> None:
            await asyncio.get_running_loop().run_in_executor(pool, work)

        self.mailbox = Mailbox(run_long, self.credit, lambda: self.done.append("after"))
        self.gate = threading.Event()

    def note(self, name: str, **more: object) -> Message:
        return Message(lambda: self.done.append(name), **more)  # type: ignore[arg-type]

    def long(self, name: str) -> Message:
        def run() -> None:
            assert threading.current_thread() is not threading.main_thread()
            assert self.gate.wait(20)
            self.done.append(name)

        return Message(run, lambda: True)

    async def settle(self) -> None:
        while self.mailbox._busy is not None:
            await asyncio.sleep(0.001)


def test_what_is_short_is_done_at_once(pool: ThreadPoolExecutor) -> None:
    async def scenario() -> None:
        box = Box(pool)
        box.mailbox.post(box.note("a"))
        assert box.done == ["a", "after"]
        assert len(box.mailbox) == 0

    asyncio.run(scenario())


def test_what_comes_meanwhile_waits_in_its_order(pool: ThreadPoolExecutor) -> None:
    async def scenario() -> None:
        box = Box(pool)
        box.mailbox.post(box.long("long"))
        await asyncio.sleep(0.01)  # it runs
        for name in "abc":
            box.mailbox.post(box.note(name))
        assert box.done == []
        assert len(box.mailbox) == 3
        box.gate.set()
        await box.settle()
        assert box.done == ["long", "after", "a", "after", "b", "after", "c", "after"]

    asyncio.run(scenario())


def test_credit_counts_what_waits_but_not_what_has_its_turn(pool: ThreadPoolExecutor) -> None:
    async def scenario() -> None:
        box, left = Box(pool), list[int]()
        box.mailbox.post(box.long("long"))
        box.mailbox.post(Message(lambda: left.append(box.credit.left), peer=Somebody(), size=60))
        box.mailbox.post(Message(lambda: left.append(box.credit.left), peer=Somebody(), size=30))
        assert box.credit.left == 10
        with pytest.raises(Overloaded):
            box.credit.check(11)
        box.gate.set()
        await box.settle()
        assert left == [70, 100]
        assert box.credit == Credit(100)

    asyncio.run(scenario())


def test_in_a_pause_clients_wait_and_results_do_not(pool: ThreadPoolExecutor) -> None:
    async def scenario() -> None:
        box, peer = Box(pool), Somebody()
        box.mailbox.pause()
        box.mailbox.post(box.note("event", is_event=True, peer=peer))
        box.mailbox.post(box.note("result"))
        await box.settle()
        assert box.done == ["result", "after"]
        box.mailbox.resume()
        box.mailbox.post(box.note("later", is_event=True, peer=peer))
        await box.settle()
        assert [each for each in box.done if each != "after"] == ["result", "event", "later"]

    asyncio.run(scenario())


def test_what_ends_a_session_waits_for_the_events_before_it(pool: ThreadPoolExecutor) -> None:
    async def scenario() -> None:
        box = Box(pool)
        box.mailbox.pause()
        box.mailbox.post(box.note("event", is_event=True, peer=Somebody()))
        end = asyncio.create_task(box.mailbox.call(lambda: box.done.append("end"), is_event=True))
        await asyncio.sleep(0)
        box.mailbox.resume()
        await end
        assert [each for each in box.done if each != "after"] == ["event", "end"]

    asyncio.run(scenario())


def test_what_a_peer_had_queued_goes_with_it(pool: ThreadPoolExecutor) -> None:
    async def scenario() -> None:
        box, gone, stays = Box(pool), Somebody(), Somebody()
        box.mailbox.post(box.long("long"))
        box.mailbox.post(box.note("gone", peer=gone, size=5))
        box.mailbox.post(box.note("stays", peer=stays, size=7))
        box.mailbox.post(box.note("result"))
        box.mailbox.drop(gone)
        assert box.credit.queued == 7
        box.gate.set()
        await box.settle()
        assert [each for each in box.done if each != "after"] == ["long", "stays", "result"]

    asyncio.run(scenario())


def test_a_call_returns_or_raises_what_its_work_did(pool: ThreadPoolExecutor) -> None:
    async def scenario() -> None:
        box = Box(pool)
        assert await box.mailbox.call(lambda: 7) == 7
        assert await box.mailbox.call(threading.current_thread, is_long=True) is not threading.main_thread()
        with pytest.raises(ZeroDivisionError):
            await box.mailbox.call(lambda: 1 // 0)

    asyncio.run(scenario())


def test_a_bug_in_one_message_does_not_end_the_others(
    pool: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        box = Box(pool)
        box.gate.set()
        box.mailbox.post(Message(lambda: 1 // 0))  # type: ignore[arg-type,return-value]
        box.mailbox.post(box.long("long"))
        box.mailbox.post(Message(lambda: 1 // 0))  # type: ignore[arg-type,return-value]
        box.mailbox.post(box.note("later"))
        await box.settle()
        assert [each for each in box.done if each != "after"] == ["long", "later"]

    asyncio.run(scenario())
    assert caplog.text.count("ZeroDivisionError: ") == 2
