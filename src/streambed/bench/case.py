"""What is measured: one row of a table, or a few."""

from collections.abc import Sequence
from typing import NamedTuple

from streambed.bench.floor import Work
from streambed.bench.side import Side


class Metric(NamedTuple):
    """A column of figures."""

    name: str
    unit: str
    more_is_better: bool = False

    def ratio(self, ours: float, theirs: float) -> float:
        """How many times better ours is: above 1 we win."""
        return ours / theirs if self.more_is_better else theirs / ours


MILLISECONDS = Metric("time", "ms")
SPEED = Metric("speed", "tokens/s", more_is_better=True)


class Case:
    """Something that each side is asked to do once a round, in turns. A kind of case is a class of its own."""

    only_ours = False
    """Whether other servers are not asked."""
    warms_up = True
    """Whether a round that is not counted comes first."""
    most_rounds: int | None = None

    def __init__(self, name: str, metrics: Sequence[Metric] = (MILLISECONDS,), work: Work | None = None) -> None:
        """work: what the first metric is of, where that has a floor."""
        self.name, self.metrics, self.work = name, tuple(metrics), work

    async def open(self, sides: Sequence[Side]) -> None:
        """Before the first round."""

    def draw(self) -> None:
        """Before each round: the texts that all sides get in it."""

    async def measure(self, side: Side) -> Sequence[float]:
        """A figure for each metric."""
        raise NotImplementedError

    async def close(self) -> None:
        """After the last round, or a failure."""
