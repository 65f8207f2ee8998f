"""Several clients at once: how much a server does, and how long short queries wait beside it."""

import asyncio
import time
from collections.abc import Iterator, Sequence

from streambed.bench.case import SPEED, Case, Metric
from streambed.bench.floor import Part
from streambed.bench.growing import type_words
from streambed.bench.side import Growing, Side
from streambed.bench.spread import Answer, percentile, rate_within
from streambed.bench.texts import Texts, tokens_of

CLIENTS = (1, 8, 32)
SIZES = {"short": (8, 16), "mixed": (8, 512), "long": (1024, 1024)}
"""Tokens of a text, from and to."""
REQUESTS = {"short": 64, "mixed": 16, "long": 4}
"""Texts in all, at least; with many clients one for each of them, or four where they are short."""
BULK_CLIENTS, BULK_TEXTS, BULK_TOKENS = 8, 16, 128
QUERIES_A_SECOND, QUERY_TOKENS = 3.0, (8, 12)
TYPISTS, WORDS_A_SECOND, TYPED_AFTER = 8, 1.0, 100
ALONE_SHARE, ALONE_SECONDS = 1 / 3, 30.0
"""How long bulk runs alone: a third of the time beside queries, at most half a minute."""


class Throughput(Case):
    """A number of texts, one a request, from clients that each send the next when they have an answer."""

    def __init__(self, clients: int, kind: str, texts: Texts) -> None:
        self._texts, self._clients, self._kind = texts, clients, kind
        self._draw = texts.texts(max(REQUESTS[kind], clients * (4 if kind == "short" else 1)), *SIZES[kind])
        # The sizes are drawn once, so that all rounds are of equal work.
        self._sizes = [tokens_of(text) for text in self._draw]
        super().__init__(
            f"{kind}, {clients} client{'s' * (clients > 1)}", [SPEED], work=[Part(size) for size in self._sizes]
        )

    def draw(self) -> None:
        self._draw = [self._texts.text(size) for size in self._sizes]

    async def measure(self, side: Side) -> Sequence[float]:
        left = iter(self._draw)

        async def client() -> None:
            for text in left:  # one iterator for all, so that nobody is idle while there is work
                await side.embed([text])

        started = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(self._clients):
                group.create_task(client())
        return [sum(self._sizes) / (time.perf_counter() - started)]


class Mixed(Case):
    """Short queries that come at random, whoever is still waiting, beside clients that send lists without end, and beside
    texts that grow by a word now and then.

    A query's time counts from when it was to be sent, so a server that stands still cannot hide it.
    """

    warms_up = False
    most_rounds = 1

    def __init__(self, texts: Texts, seconds: float, typists: int = 0) -> None:
        also = f" and {typists} typing {WORDS_A_SECOND:g} word a second" if typists else ""
        metrics = [
            Metric("query, P50", "ms"),
            Metric("query, P99", "ms"),
            Metric("bulk beside them", "tokens/s", more_is_better=True),
            Metric("of bulk alone", "%", more_is_better=True),
        ]
        if typists:
            metrics.append(Metric("a word, median", "ms"))
        super().__init__(
            f"{QUERIES_A_SECOND:g} queries a second beside {BULK_CLIENTS} clients{also}, {seconds:g} s", metrics
        )
        self._texts, self._seconds, self._typists = texts, seconds, typists
        self._arrivals: list[float] = []
        self._queries: list[str] = []

    def draw(self) -> None:
        # In a second or two, chance may send none.
        self._arrivals = self._texts.arrivals(QUERIES_A_SECOND, self._seconds) or [0.0]
        self._queries = self._texts.texts(len(self._arrivals), *QUERY_TOKENS)

    async def measure(self, side: Side) -> Sequence[float]:
        _, _, alone = await self._run(side, [], [], [], min(self._seconds * ALONE_SHARE, ALONE_SECONDS))
        texts = [await side.grow(self._texts.words(TYPED_AFTER)) for _ in range(self._typists)]
        try:
            waits, words, beside = await self._run(side, self._arrivals, self._queries, texts, self._seconds)
        finally:
            await asyncio.gather(*(text.close() for text in texts))
        found = [percentile(waits, 50) * 1000, percentile(waits, 99) * 1000, beside, 100 * beside / alone]
        return [*found, percentile(words, 50) * 1000] if words else found

    async def _run(
        self,
        side: Side,
        arrivals: Sequence[float],
        queries: Sequence[str],
        growing: Sequence[Growing],
        seconds: float,
    ) -> tuple[list[float], list[float], float]:
        """Seconds that each query and each typed word waits, and bulk's tokens a second."""
        answers: list[Answer] = []
        start = time.perf_counter()
        end = start + seconds

        async def bulk() -> None:
            while (sent := time.perf_counter()) < end:
                await side.embed([self._texts.text(BULK_TOKENS) for _ in range(BULK_TEXTS)])
                answers.append(Answer(sent, time.perf_counter(), BULK_TEXTS * BULK_TOKENS))

        async with asyncio.TaskGroup() as group:
            for _ in range(BULK_CLIENTS):
                group.create_task(bulk())
            typing = []
            for number, text in enumerate(growing):
                words = self._texts.words(round(seconds * WORDS_A_SECOND)).split()
                first = start + number / len(growing) / WORDS_A_SECOND
                typing.append(group.create_task(type_words(text, words, first, WORDS_A_SECOND)))
            waits = await open_loop(side, start, arrivals, queries)
        return waits, [wait for task in typing for wait in task.result()], rate_within(answers, start, end)


async def open_loop(side: Side, start: float, arrivals: Sequence[float], queries: Sequence[str]) -> list[float]:
    """Sends each query when it is due, whether the others are answered or not; seconds from then to its answer.

    start: by `time.perf_counter`; arrivals: seconds after it.
    """

    async def one(due: float, query: str) -> float:
        await asyncio.sleep(due - time.perf_counter())
        await side.embed([query])
        return time.perf_counter() - due

    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(one(start + arrival, query)) for arrival, query in zip(arrivals, queries, strict=True)
        ]
    return [task.result() for task in tasks]


def throughput(texts: Texts) -> list[Case]:
    """Each kind of text, with each number of clients."""
    return list(_throughput(texts))


def _throughput(texts: Texts) -> Iterator[Case]:
    for kind in SIZES:
        for clients in CLIENTS:
            yield Throughput(clients, kind, texts)


def mixed(texts: Texts, seconds: float) -> list[Case]:
    """Queries beside bulk, and beside texts that are typed as well, each for so long."""
    return [Mixed(texts, seconds), Mixed(texts, seconds, TYPISTS)]
