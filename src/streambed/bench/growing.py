"""Texts that grow: in a stream, posted again, and typed by many at once."""

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Iterator, Sequence

from streambed.bench.case import Case, Metric
from streambed.bench.floor import Part
from streambed.bench.side import Growing, Side
from streambed.bench.spread import percentile
from streambed.bench.texts import END, Texts

STREAM_TOKENS = (100, 500, 2000, 5500, 8000)
REPOST_TOKENS = (505, 1854, 5451)
APPENDED = 8
TYPISTS = (1, 10, 50, 100, 200)
WORDS_A_SECOND, TYPED_AFTER = 4.0, 100
TYPING_SECONDS = 8.0


class Grown(Case):
    """A text that is there, and a little more at its end: until the embedding of the whole is there.

    Where a side has streams the text is one; others get the whole text again.
    """

    def __init__(self, name: str, texts: Texts, tokens: int, more: Iterator[str], rows: int) -> None:
        """more: what is added in each round; rows: with the end token."""
        super().__init__(name, work=[Part(rows, tokens)])
        self._texts, self._tokens, self._more = texts, tokens, more
        self._grown: dict[str, Growing] = {}
        self._next = ""

    async def open(self, sides: Sequence[Side]) -> None:
        text = self._texts.words(self._tokens)
        for side in sides:
            self._grown[side.name] = await side.grow(text)

    def draw(self) -> None:
        self._next = next(self._more)

    async def measure(self, side: Side) -> Sequence[float]:
        grown = self._grown[side.name]
        started = time.perf_counter()
        await grown.append(self._next)
        await grown.embedding()
        return [(time.perf_counter() - started) * 1000]

    async def close(self) -> None:
        for grown in self._grown.values():
            await grown.close()


class Reposted(Case):
    """A text posted again, longer by a few tokens each time, to every side."""

    def __init__(self, name: str, texts: Texts, tokens: int) -> None:
        super().__init__(name, work=[Part(APPENDED + END, tokens - END)])
        self._texts, self._tokens = texts, tokens
        self._text = ""

    async def open(self, sides: Sequence[Side]) -> None:
        self._text = self._texts.text(self._tokens)
        for side in sides:
            await side.embed([self._text])

    def draw(self) -> None:
        self._text += self._texts.words(APPENDED)

    async def measure(self, side: Side) -> Sequence[float]:
        started = time.perf_counter()
        await side.embed([self._text])
        return [(time.perf_counter() - started) * 1000]


class Typists(Case):
    """So many texts that each grow by a word now and then: how long a word waits until an embedding covers it."""

    warms_up = False
    most_rounds = 3

    def __init__(self, count: int, texts: Texts) -> None:
        names = ("a word, median", "a word, P95", "a word, at most")
        super().__init__(f"{count} typing {WORDS_A_SECOND:g} words a second", [Metric(name, "ms") for name in names])
        self._count, self._texts = count, texts
        self._drawn: list[tuple[str, str]] = []

    def draw(self) -> None:
        typed = round(TYPING_SECONDS * WORDS_A_SECOND)
        self._drawn = [(self._texts.words(TYPED_AFTER), self._texts.words(typed)) for _ in range(self._count)]

    async def measure(self, side: Side) -> Sequence[float]:
        grown = [await side.grow(before) for before, _ in self._drawn]
        try:
            start = time.perf_counter()
            async with asyncio.TaskGroup() as group:
                tasks = []
                for number, (text, (_, typed)) in enumerate(zip(grown, self._drawn, strict=True)):
                    first = start + number / self._count / WORDS_A_SECOND
                    tasks.append(group.create_task(type_words(text, typed.split(), first, WORDS_A_SECOND)))
            waits = [wait * 1000 for task in tasks for wait in task.result()]
            return [percentile(waits, 50), percentile(waits, 95), max(waits)]
        finally:
            await asyncio.gather(*(text.close() for text in grown))


async def type_words(grown: Growing, words: Sequence[str], start: float, words_a_second: float) -> list[float]:
    """Appends words at their times, and asks for an embedding whenever there are words that none covers and none is being
    computed. Seconds that each word waits, from its own time on."""
    uncovered: deque[float] = deque()
    typed = asyncio.Event()
    waits: list[float] = []

    async def type_all() -> None:
        for number, word in enumerate(words):
            due = start + number / words_a_second
            await asyncio.sleep(due - time.perf_counter())
            await grown.append(f" {word}")
            uncovered.append(due)
            typed.set()

    async with asyncio.TaskGroup() as group:
        group.create_task(type_all())
        while len(waits) < len(words):
            await typed.wait()
            typed.clear()
            covered = list(uncovered)
            uncovered.clear()
            await grown.embedding()
            now = time.perf_counter()
            waits += [now - due for due in covered]
    return waits


def stream(texts: Texts) -> list[Case]:
    """Keystrokes, and appends of several tokens, after texts of each size."""
    cases: list[Case] = []
    for tokens in STREAM_TOKENS:
        cases.append(Grown(f"a keystroke after {tokens:,}", texts, tokens, _characters(texts), 1 + END))
        appends = iter(lambda: texts.words(APPENDED), None)
        cases.append(Grown(f"{APPENDED} tokens after {tokens:,}", texts, tokens, appends, APPENDED + END))
    return cases


def repost(texts: Texts) -> list[Case]:
    """Texts of each size, posted again."""
    return [Reposted(f"{tokens:,} tokens, {APPENDED} more each time", texts, tokens) for tokens in REPOST_TOKENS]


def sessions(texts: Texts) -> list[Case]:
    """So many typists at once."""
    return [Typists(count, texts) for count in TYPISTS]


def _characters(texts: Texts) -> Iterator[str]:
    """Words without end, a character at a time."""
    return itertools.chain.from_iterable(texts.words(1) for _ in itertools.count())
