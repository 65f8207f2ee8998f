"""Threads whose owners take turns."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable

import pytest

from streambed.workers import Workers


class Held:
    """Work that lasts until it is let go."""

    def __init__(self, count: int) -> None:
        self.gate = threading.Event()
        self.begun = threading.Semaphore(0)
        self.order: list[str] = []

    def work(self, name: str) -> Callable[[], str]:
        def run() -> str:
            self.order.append(name)
            self.begun.release()
            assert self.gate.wait(20)
            return name

        return run


def scenario(threads: int, many: bool, play: Callable[[Workers, Held], Awaitable[None]]) -> Held:
    held = Held(threads)

    async def run() -> None:
        workers = Workers(threads, "test", lambda: many)
        try:
            await play(workers, held)
        finally:
            held.gate.set()
            workers.close()

    asyncio.run(asyncio.wait_for(run(), 30))
    return held


def test_one_of_several_owners_never_has_all_threads() -> None:
    async def play(workers: Workers, held: Held) -> None:
        tasks = [asyncio.create_task(workers.run("a", held.work(f"a{n}"))) for n in range(5)]
        await asyncio.sleep(0.05)
        assert held.order == ["a0"], "the other thread is for the others"
        tasks.append(asyncio.create_task(workers.run("b", held.work("b"))))
        await asyncio.sleep(0.05)
        assert held.order == ["a0", "b"]
        held.gate.set()
        assert await asyncio.gather(*tasks) == ["a0", "a1", "a2", "a3", "a4", "b"]

    scenario(2, True, play)


def test_an_owner_alone_has_all_threads() -> None:
    async def play(workers: Workers, held: Held) -> None:
        tasks = [asyncio.create_task(workers.run("", held.work(str(n)))) for n in range(3)]
        await asyncio.sleep(0.05)
        assert sorted(held.order) == ["0", "1"]
        held.gate.set()
        await asyncio.gather(*tasks)

    scenario(2, False, play)


def test_who_has_had_least_goes_first() -> None:
    async def play(workers: Workers, held: Held) -> None:
        tasks = [asyncio.create_task(workers.run("a", held.work("a"))) for _ in range(3)]
        await asyncio.sleep(0.05)
        tasks += [asyncio.create_task(workers.run("b", held.work("b"))) for _ in range(2)]
        held.gate.set()
        await asyncio.gather(*tasks)
        assert held.order == ["a", "b", "b", "a", "a"] or held.order == ["a", "b", "a", "b", "a"], held.order
        assert (workers._accounts._had, workers._running, workers._waiting) == ({}, {}, {}), (
            "nothing is kept of who has gone"
        )

    scenario(1, True, play)


def test_what_is_first_goes_before_what_else_waits_of_its_owner() -> None:
    async def play(workers: Workers, held: Held) -> None:
        tasks = [asyncio.create_task(workers.run("a", held.work(name))) for name in ("one", "two")]
        tasks.append(asyncio.create_task(workers.run("a", held.work("first"), first=True)))
        await asyncio.sleep(0.05)
        assert workers.wait("a") >= 0.0 == workers.wait("b"), "who has nothing waiting waits for nothing"
        held.gate.set()
        await asyncio.gather(*tasks)

    assert scenario(1, False, play).order == ["one", "first", "two"]


def test_errors_are_raised_and_the_next_one_runs() -> None:
    async def play(workers: Workers, held: Held) -> None:
        def fail() -> None:
            raise ValueError("no")

        with pytest.raises(ValueError, match="no"):
            await workers.run("a", fail)
        held.gate.set()
        assert await workers.run("a", held.work("next")) == "next"

    scenario(1, True, play)


def test_what_nobody_waits_for_any_more_is_not_begun() -> None:
    async def play(workers: Workers, held: Held) -> None:
        tasks = [asyncio.create_task(workers.run("a", held.work(name))) for name in ("one", "two", "three")]
        await asyncio.sleep(0.05)
        tasks[1].cancel()
        await asyncio.sleep(0)
        held.gate.set()
        assert await tasks[0] == "one"
        assert await tasks[2] == "three"

    assert scenario(1, False, play).order == ["one", "three"]


def test_after_the_end_nothing_begins() -> None:
    async def play(workers: Workers, held: Held) -> None:
        waiting = [asyncio.create_task(workers.run("a", held.work(str(n)))) for n in range(2)]
        await asyncio.sleep(0.05)
        workers.close()
        with pytest.raises(RuntimeError):
            await workers.run("a", held.work("late"))
        held.gate.set()
        await asyncio.wait(waiting, timeout=20)
        assert waiting[1].cancelled()

    assert scenario(1, False, play).order == ["0"]


def test_what_is_short_is_done_at_once_where_nothing_else_is() -> None:
    async def play(workers: Workers, held: Held) -> None:
        here = threading.current_thread()
        assert await workers.run("a", threading.current_thread, short=True) is here
        task = asyncio.create_task(workers.run("a", held.work("long")))
        await asyncio.sleep(0.05)
        assert await workers.run("b", threading.current_thread, short=True) is here
        waiting = asyncio.create_task(workers.run("a", threading.current_thread, short=True))
        held.gate.set()
        assert await waiting is not here, "it waits for its turn, so that what waits can be counted"
        await task

    scenario(1, True, play)
