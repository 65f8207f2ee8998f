"""Quartiles, percentiles, and tokens a second in a window."""

from __future__ import annotations

import pytest

from streambed.bench.spread import Answer, Spread, percentile, rate_within, spread


def test_quartiles() -> None:
    assert spread([5.0]) == Spread(5, 5, 5)
    assert spread([4.0, 1.0, 3.0, 2.0, 5.0]) == Spread(2, 3, 4)
    assert spread([1.0, 2.0]) == Spread(1.25, 1.5, 1.75)


def test_percentiles() -> None:
    values = [float(value) for value in range(101)]
    assert (percentile(values, 50), percentile(values, 99), percentile(values, 100)) == (50, 99, 100)


@pytest.mark.parametrize(
    ("answers", "rate"),
    [
        ([], 0),
        ([Answer(10, 20, 100)], 10),
        ([Answer(8, 12, 100)], 5),  # half of it is before the window
        ([Answer(19, 23, 400)], 10),  # a quarter of it is within
        ([Answer(0, 40, 400)], 10),
        ([Answer(0, 9, 400), Answer(21, 22, 400)], 0),
        ([Answer(10, 15, 100), Answer(15, 25, 100)], 15),
    ],
)
def test_what_lies_across_an_end_counts_in_part(answers: list[Answer], rate: float) -> None:
    assert rate_within(answers, 10, 20) == pytest.approx(rate)
