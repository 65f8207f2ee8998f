"""Whose task goes next."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from streambed.engine.sequence import Lane, Sequence, Task
from streambed.engine.turns import Turns


def task(owner: str, rows: int = 1) -> Task:
    return Task(Sequence(owner), [1] * rows, (rows,), Lane.QUERY, 0.0)


def served(turns: Turns, tasks: list[Task], budget: int) -> list[Task]:
    """What a step of so many rows takes."""
    taken = []
    for each in turns.order(Lane.QUERY, tasks):
        if budget <= 0:
            break
        budget -= len(each.ids)
        turns.charge(each, len(each.ids))
        taken.append(each)
    return taken


@given(st.lists(st.integers(1, 50), max_size=20))
def test_an_owner_alone_keeps_his_order(rows: list[int]) -> None:
    tasks = [task("", each) for each in rows]
    assert served(Turns(), tasks, 10**9) == tasks


def test_a_queue_of_one_holds_up_nobody_else() -> None:
    tasks = [task("a") for _ in range(100)] + [task("b")]
    assert tasks[-1] in served(Turns(), tasks, 2)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 20)), min_size=60, max_size=200))
def test_who_waits_all_the_time_gets_his_share(asked: list[tuple[str, int]]) -> None:
    """Up to the largest task, owners who always have work have had equally much."""
    turns, waiting = Turns(), [task(owner, rows) for owner, rows in asked]
    had: Counter[str] = Counter()
    while True:
        owners = Counter(each.sequence.owner for each in waiting)
        if len(owners) < 3:
            break
        for each in served(turns, waiting, 10):
            waiting.remove(each)
            had[each.sequence.owner] += len(each.ids)
        if min(Counter(each.sequence.owner for each in waiting).values(), default=0) and len(had) == 3:
            assert max(had.values()) - min(had.values()) <= 2 * 20 + 10


def test_whoever_comes_later_begins_with_the_others() -> None:
    """To have been away is no credit, and to have worked alone no debt."""
    turns = Turns()
    for _ in range(50):
        served(turns, [task("a", 10)], 10)
    both = served(turns, [task("a", 1) for _ in range(10)] + [task("b", 1) for _ in range(10)], 10)
    assert Counter(each.sequence.owner for each in both) == {"a": 5, "b": 5}
