"""What many measurements come to, and how far apart they lie."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Spread(NamedTuple):
    """The middle half of some values."""

    low: float
    """The first quartile."""
    median: float
    high: float
    """The third quartile."""


def spread(values: Sequence[float]) -> Spread:
    """Quartiles, by linear interpolation between the values; of one value, three times that."""
    low, median, high = np.percentile(values, (25, 50, 75))
    return Spread(float(low), float(median), float(high))


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which so many percent of them lie, by linear interpolation."""
    return float(np.percentile(values, share))


class Answer(NamedTuple):
    """A request that was answered: when it was sent, when its answer was there, and the tokens of its texts."""

    sent: float
    done: float
    tokens: int


def rate_within(answers: Sequence[Answer], start: float, end: float) -> float:
    """Tokens a second between two times. Of a request that lies across one of them counts the part of its time that is
    within, since a window that holds a few large requests would otherwise measure where it happens to end."""
    tokens = sum(
        answer.tokens * max(0.0, min(answer.done, end) - max(answer.sent, start)) / (answer.done - answer.sent)
        for answer in answers
    )
    return tokens / (end - start)
