"""An open loop: nobody waits for the answers before, and every query's time counts from when it was due."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import cast

from streambed.bench.load import TYPISTS, Mixed, Throughput, open_loop
from streambed.bench.side import Growing, Side
from streambed.bench.texts import Texts, tokens_of


class Together:
    """Answers when so many wait, which they never would if one waited for another's answer."""

    name = "together"

    def __init__(self, number: int) -> None:
        self._barrier = asyncio.Barrier(number)
        self.texts: list[str] = []

    async def embed(self, texts: Sequence[str], instruction: str | None = None) -> int:
        self.texts += texts
        await self._barrier.wait()
        return 1


def test_queries_are_sent_when_they_are_due() -> None:
    async def run() -> tuple[list[float], list[str]]:
        side = Together(3)
        start = time.perf_counter() - 10  # all of this was due long ago: the client has been held up
        return await open_loop(cast(Side, side), start, [0.0, 1.0, 2.0], ["a", "b", "c"]), side.texts

    waits, texts = asyncio.run(run())
    assert texts == ["a", "b", "c"]
    assert all(wait >= least for wait, least in zip(waits, [10, 9, 8], strict=True))


def test_each_client_sends_while_there_is_work() -> None:
    case = Throughput(8, "mixed", Texts(0))
    case.draw()

    async def run() -> list[str]:
        side = Together(8)
        (rate,) = await case.measure(cast(Side, side))
        assert rate > 0
        return side.texts

    texts = asyncio.run(run())
    assert len(texts) == len(set(texts)) == 16
    assert case.work is not None
    assert [part.rows for part in case.work] == [tokens_of(text) for text in texts]


class Busy:
    """Answers after a moment; counts what it gets."""

    name = "busy"

    def __init__(self) -> None:
        self.queries = self.lists = self.words = self.open = 0

    async def embed(self, texts: Sequence[str], instruction: str | None = None) -> int:
        await asyncio.sleep(0.01)
        self.queries += len(texts) == 1
        self.lists += len(texts) > 1
        return 1

    async def grow(self, text: str) -> Growing:
        self.open += 1
        return self

    async def append(self, text: str) -> None:
        self.words += 1

    async def embedding(self) -> None:
        await asyncio.sleep(0.01)

    async def close(self) -> None:
        self.open -= 1


def test_queries_bulk_and_typed_words_come_at_once() -> None:
    case, side = Mixed(Texts(0), 1.0, TYPISTS), Busy()
    case.draw()
    found = asyncio.run(case.measure(cast(Side, side)))
    assert len(found) == len(case.metrics)
    assert side.words == TYPISTS  # a second long, a word a second
    assert side.queries == len(case._queries) > 0
    assert side.lists > 0
    assert side.open == 0, "what was opened is closed"


def test_there_is_a_query_however_short_it_is() -> None:
    case = Mixed(Texts(1), 0.0001)
    case.draw()
    assert case._arrivals == [0.0]
    assert len(case._queries) == 1
