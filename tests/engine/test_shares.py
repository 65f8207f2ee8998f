"""Accounts of time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streambed.engine.sequence import Lane
from streambed.engine.shares import BURST_SECONDS, Shares


def test_a_lane_passes_until_it_is_ahead_by_a_burst_for_its_weight() -> None:
    shares = Shares()
    shares.wait(list(Lane))
    shares.charge({Lane.QUERY: 5.0}, 4 * BURST_SECONDS)
    assert shares.may_pass(Lane.QUERY, Lane.BULK)
    shares.charge({Lane.QUERY: 5.0}, 0.01)
    assert not shares.may_pass(Lane.QUERY, Lane.BULK)
    assert shares.may_pass(Lane.STREAM, Lane.BULK)
    shares.charge({Lane.BULK: 1.0}, 0.01)
    assert shares.may_pass(Lane.QUERY, Lane.BULK)


def test_a_step_of_several_lanes_is_charged_by_their_rows() -> None:
    shares = Shares()
    shares.charge({Lane.STREAM: 30.0, Lane.BULK: 10.0}, 4.0)
    assert not shares.may_pass(Lane.STREAM, Lane.QUERY)
    shares.charge({Lane.QUERY: 1.0}, 4 * (3.0 / 8))
    assert shares.may_pass(Lane.STREAM, Lane.QUERY)
    shares.charge({}, 1.0)


@given(st.lists(st.tuples(st.sampled_from(Lane), st.floats(0, 100)), max_size=20))
def test_who_rests_saves_nothing_up(spent: list[tuple[Lane, float]]) -> None:
    """However long a lane worked alone, one that comes back does not hold it up for that."""
    shares = Shares()
    for lane, seconds in spent:
        shares.charge({lane: 1.0}, seconds)
        shares.wait([lane])
        assert all(shares.may_pass(lane, other) for other in Lane)
