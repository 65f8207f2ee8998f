"""In turns: who is asked when, with which texts, and when it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import pytest

from streambed.bench import compare
from streambed.bench.case import Case, Metric
from streambed.bench.compare import take_turns
from streambed.bench.side import Side
from streambed.errors import ConnectionLost


class Named:
    def __init__(self, name: str) -> None:
        self.name = name


SIDES = cast(list[Side], [Named("Streambed"), Named("a"), Named("b")])


class Written(Case):
    """Writes down what is asked of it."""

    def __init__(self, fails: str = "") -> None:
        super().__init__("written", [Metric("one", "ms"), Metric("two", "ms")])
        self.log: list[Any] = []
        self._drawn, self._fails = 0, fails

    async def open(self, sides: Sequence[Side]) -> None:
        self.log.append(("open", *(side.name for side in sides)))

    def draw(self) -> None:
        self._drawn += 1

    async def measure(self, side: Side) -> Sequence[float]:
        if side.name == self._fails:
            raise ConnectionLost("gone")
        self.log.append((side.name, self._drawn))
        return [float(self._drawn), 0.5]

    async def close(self) -> None:
        self.log.append("close")


def test_every_round_asks_each_side_once_with_the_same_texts() -> None:
    case = Written()
    found = asyncio.run(take_turns(case, SIDES, 2, 0.0))
    turns = [(side.name, drawn) for drawn in (1, 2, 3) for side in SIDES]
    assert case.log == [("open", "Streambed", "a", "b"), *turns, "close"]
    assert found == {side.name: [[2, 0.5], [3, 0.5]] for side in SIDES}, "the first round warms up"


def test_a_case_of_ours_asks_nobody_else() -> None:
    case = Written()
    case.only_ours, case.warms_up, case.most_rounds = True, False, 1
    assert asyncio.run(take_turns(case, SIDES, 5, 0.0)) == {"Streambed": [[1, 0.5]]}


def test_a_slow_case_has_fewer_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "CASE_SECONDS", -1.0)
    found = asyncio.run(take_turns(Written(), SIDES, 50, 0.0))
    assert {len(rounds) for rounds in found.values()} == {compare.LEAST_ROUNDS}


def test_a_case_is_closed_after_a_failure() -> None:
    case = Written(fails="b")
    with pytest.raises(ConnectionLost):
        asyncio.run(take_turns(case, SIDES, 2, 0.0))
    assert case.log[-1] == "close"
