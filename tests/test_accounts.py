"""Who is next, and what is kept of whom."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streambed.accounts import Accounts


def test_who_comes_begins_with_the_one_who_has_had_least() -> None:
    accounts = Accounts()
    accounts.keep(["a", "b"])
    accounts.charge("a", 10.0)
    accounts.charge("b", 4.0)
    accounts.keep(["a", "b", "c"])
    assert accounts._had == {"a": 6.0, "b": 0.0, "c": 0.0}
    assert [accounts.choose(each) for each in (["a", "b"], ["b", "c"], ["c", "b"], ["a"])] == ["b", "b", "c", "a"]


def test_who_has_gone_is_forgotten() -> None:
    accounts = Accounts()
    accounts.keep(["a"])
    accounts.charge("a", 1e9)
    accounts.keep([])
    accounts.keep(["a", "b"])
    assert accounts._had == {"a": 0.0, "b": 0.0}


@given(st.lists(st.floats(0.1, 5.0), min_size=30, max_size=100))
def test_those_who_stay_get_equally_much(amounts: list[float]) -> None:
    accounts, had = Accounts(), dict.fromkeys("abc", 0.0)
    for amount in amounts:
        accounts.keep(had)
        owner = accounts.choose(had)
        accounts.charge(owner, amount)
        had[owner] += amount
        assert max(had.values()) - min(had.values()) <= max(amounts) + 1e-9
