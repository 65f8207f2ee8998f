"""Requests one at a time: short texts, long ones, and many queries under one instruction."""

import time
from collections.abc import Sequence

from streambed.bench.case import Case
from streambed.bench.floor import Part
from streambed.bench.side import Side
from streambed.bench.texts import END, Texts

LATENCY_TOKENS = (8, 32, 128, 512, 2048)
SHORT = 10
"""Tokens of a short text."""
QUERIES, QUERY_TOKENS, INSTRUCTION_TOKENS = 64, (8, 12), 20
_FORM_TOKENS = 6
"""Of `Instruct: ...\\nQuery:` around an instruction, about."""


class Request(Case):
    """Texts of these many tokens, in one request."""

    def __init__(self, name: str, texts: Texts, sizes: Sequence[int]) -> None:
        super().__init__(name, work=[Part(size) for size in sizes])
        self._texts, self._sizes = texts, sizes
        self._drawn: list[str] = []

    def draw(self) -> None:
        self._drawn = [self._texts.text(size) for size in self._sizes]

    async def measure(self, side: Side) -> Sequence[float]:
        return [await _milliseconds(side, self._drawn)]


class Instructed(Case):
    """Queries under an instruction that is new in each round, so what is saved is saved within the request."""

    def __init__(self, name: str, texts: Texts) -> None:
        least, most = QUERY_TOKENS
        prompt = INSTRUCTION_TOKENS + _FORM_TOKENS
        sizes = [least + number % (most + 1 - least) for number in range(QUERIES)]
        # The instruction is the same before all queries: no more than one reading of it is needed.
        super().__init__(name, work=[Part(prompt), *(Part(size, prompt) for size in sizes)])
        self._texts, self._sizes = texts, sizes
        self._instruction, self._drawn = "", [""]

    def draw(self) -> None:
        self._instruction = self._texts.words(INSTRUCTION_TOKENS).strip()
        self._drawn = [self._texts.words(size - END) for size in self._sizes]

    async def measure(self, side: Side) -> Sequence[float]:
        return [await _milliseconds(side, self._drawn, self._instruction)]


def seed(texts: Texts) -> list[Case]:
    """One short text, and twenty."""
    return [Request(f"{count} x {SHORT} tokens", texts, [SHORT] * count) for count in (1, 20)]


def latency(texts: Texts) -> list[Case]:
    """One text of each size."""
    return [Request(f"{tokens:,} tokens", texts, [tokens]) for tokens in LATENCY_TOKENS]


def instructed(texts: Texts) -> list[Case]:
    """Many queries, one instruction."""
    return [Instructed(f"{QUERIES} queries under {INSTRUCTION_TOKENS} tokens", texts)]


async def _milliseconds(side: Side, texts: Sequence[str], instruction: str | None = None) -> float:
    started = time.perf_counter()
    await side.embed(texts, instruction)
    return (time.perf_counter() - started) * 1000
