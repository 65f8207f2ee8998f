"""What all may take together, and what one key may."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streambed.errors import Overloaded
from streambed.server.allowance import Allowance


def test_one_key_leaves_half_to_the_others() -> None:
    allowance = Allowance(10, "things are here", many=lambda: True)
    with allowance.open("a") as a, allowance.open("b") as b:
        a.take(5)
        with pytest.raises(Overloaded, match="5 things are here for this key"):
            a.take(1)
        b.take(5)
        with pytest.raises(Overloaded, match="10 things are here; try"):
            b.take(1)
    assert (allowance.taken, allowance.by_owner) == (0, {})


def test_a_server_with_one_key_gives_it_all() -> None:
    allowance = Allowance(10, "things are here", many=lambda: False)
    with allowance.open(None) as share:
        share.take(10)
        assert allowance.taken == 10


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 6)), max_size=40), st.integers(1, 20))
def test_no_more_is_taken_than_there_is_and_all_is_given_back(asked: list[tuple[str, int]], limit: int) -> None:
    allowance = Allowance(limit, "things are here", many=lambda: True)
    taken = dict.fromkeys("abc", 0)
    opened = []
    for owner, size in asked:
        opened.append(allowance.open(owner))
        share = opened[-1].__enter__()
        fits = taken[owner] + size <= allowance.of_one and sum(taken.values()) + size <= limit
        if fits:
            share.take(size)
            taken[owner] += size
        else:
            with pytest.raises(Overloaded):
                share.take(size)
        assert allowance.taken == sum(taken.values()) <= limit
    for each in opened:
        each.__exit__(None, None, None)
    assert (allowance.taken, allowance.by_owner) == (0, {})
