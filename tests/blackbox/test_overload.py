"""A minute at three times capacity, with default limits: what is accepted is answered in time, the rest hears so at once,
and two seconds later nothing is left of it."""

from __future__ import annotations

import asyncio
import statistics

import pytest
from benchmarks.reliability import overload, quantile, serving

from tests.blackbox.conftest import POLITE

MOST_SECONDS = 3.0


@pytest.mark.slow
def test_what_is_accepted_is_answered_in_time() -> None:
    with serving("--api-key", POLITE) as server:
        found = asyncio.run(overload(server.port))
    assert set(found.statuses) <= {200, 429, 503}, found.statuses
    assert found.statuses[429], "it was too much"
    assert found.statuses[200] > 0.3 * found.rate * 60, "and yet work was done"
    assert quantile(found.accepted, 0.99) <= MOST_SECONDS
    assert statistics.median(found.refused) <= 5 * statistics.median(found.idle)
    assert statistics.median(found.after) <= 5 * statistics.median(found.idle)
