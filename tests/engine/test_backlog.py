"""What is refused because it could not be done in time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streambed.engine.backlog import PATIENCE, TIMES_OWN, Backlog
from streambed.engine.sequence import Lane
from streambed.errors import Overloaded

RATE = 100.0


def backlog(*rows: tuple[Lane, str, int]) -> Backlog:
    found = Backlog()
    for each in rows:
        found.add(*each)
    return found


def test_who_has_nothing_waiting_is_never_refused() -> None:
    found = backlog((Lane.QUERY, "a", 1_000_000))
    found.check(Lane.QUERY, "b", 1_000_000, RATE)
    assert found.wait(Lane.QUERY, "b", RATE) == 0


def test_what_would_wait_too_long_is_refused_with_a_time_that_fits() -> None:
    most = PATIENCE[Lane.QUERY] + TIMES_OWN * 1 / RATE
    found = backlog((Lane.QUERY, "a", int(most * RATE)))
    found.check(Lane.QUERY, "a", 1, RATE)
    found.add(Lane.QUERY, "a", 100)
    with pytest.raises(Overloaded) as raised:
        found.check(Lane.QUERY, "a", 1, RATE)
    assert raised.value.retry_after == pytest.approx(most / 2 + 1, abs=0.1)
    found.check(Lane.QUERY, "a", 10, RATE)  # who sends much expects to wait


def test_an_owner_waits_for_as_much_of_the_others_as_of_himself() -> None:
    found = backlog((Lane.QUERY, "a", 1000), (Lane.QUERY, "b", 100), (Lane.STREAM, "c", 50), (Lane.BULK, "d", 9000))
    assert found.wait(Lane.QUERY, "b", RATE) == (100 + 100 + 50) / RATE
    assert found.wait(Lane.QUERY, "a", RATE) == (1000 + 100 + 50) / RATE


def test_sessions_are_never_refused_for_this() -> None:
    backlog((Lane.STREAM, "a", 10**9)).check(Lane.STREAM, "a", 10**6, RATE)


@given(st.lists(st.tuples(st.sampled_from(Lane), st.sampled_from("ab"), st.integers(1, 50)), max_size=30))
def test_what_came_and_went_leaves_nothing(rows: list[tuple[Lane, str, int]]) -> None:
    found = backlog(*rows)
    for lane, owner, count in rows:
        found.add(lane, owner, -count)
    assert not found._rows
