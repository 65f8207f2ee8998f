"""A server that does not have the machine to itself."""

import contextlib
from collections.abc import Sequence

from streambed.bench.case import Case
from streambed.bench.child import busy
from streambed.bench.growing import APPENDED, Grown
from streambed.bench.requests import SHORT, Request
from streambed.bench.side import Side
from streambed.bench.texts import END, Texts

BUSY = (0, 1, 2)
"""Other processes, each of which keeps a core busy."""
AFTER = 1000


class Beside(Case):
    """Another case, while so many processes are busy."""

    def __init__(self, case: Case, number: int) -> None:
        super().__init__(f"{case.name}, {number} busy beside it", case.metrics, case.work)
        self._case, self._number = case, number
        self._others = contextlib.ExitStack()

    async def open(self, sides: Sequence[Side]) -> None:
        await self._case.open(sides)
        self._others.enter_context(busy(self._number))

    def draw(self) -> None:
        self._case.draw()

    async def measure(self, side: Side) -> Sequence[float]:
        return await self._case.measure(side)

    async def close(self) -> None:
        self._others.close()
        await self._case.close()


def neighbour(texts: Texts) -> list[Case]:
    """A short query, and an append."""
    cases: list[Case] = []
    for number in BUSY:
        query = Request(f"a query of {SHORT} tokens", texts, [SHORT])
        appends = iter(lambda: texts.words(APPENDED), None)
        append = Grown(f"{APPENDED} tokens after {AFTER:,}", texts, AFTER, appends, APPENDED + END)
        cases += [Beside(query, number), Beside(append, number)]
    return cases
