"""With what a text begins: KV that it has, takes over, copies or borrows."""

from __future__ import annotations

import pytest

from streambed.engine.beginnings import BATCH_FORK_TOKENS, FORK_TOKENS
from streambed.engine.sequence import Lane, Sequence, Task
from tests.engine.simulation import Simulation, request


def test_texts_nobody_will_continue_need_no_memory() -> None:
    one = Simulation()
    tasks = [one.submit(4, first=n + 10, keep=False) for n in range(20)]
    step = one.step()
    assert all(run.kv is None for run in step.runs)
    assert all(task.future.done() for task in tasks)
    assert one.kv.used == 0
    long = one.submit(150, keep=False)
    one.drain()
    assert long.future.done()
    assert len(one.prefixes) == 1


def test_a_grown_text_is_adopted_and_a_shared_start_is_forked() -> None:
    one = Simulation()
    one.submit(200)
    one.drain()
    grown = one.submit(210)
    one.drain()
    assert (grown.future.result(0).cached_tokens, grown.future.result(0).computed_tokens) == (200, 11)
    assert len(one.prefixes) == 1, "it moved"
    branch = Task(Sequence("", transient=True), [*range(64), 77, 78], (66,), Lane.QUERY, one.now)
    one.scheduler.submit([branch])
    step = one.step()
    assert [(copy.start, copy.stop) for copy in step.copies] == [(0, 64)]
    assert branch.future.result(0).cached_tokens == 64
    assert len(one.prefixes) == 2, "it was copied"
    again = one.submit(210)
    one.drain()
    assert (again.future.result(0).cached_tokens, again.future.result(0).computed_tokens) == (210, 1)


def test_who_has_memory_with_nothing_in_it_takes_a_copy() -> None:
    """A session whose empty text was probed has a slab already, so it can adopt none."""
    one = Simulation()
    session = Sequence("")
    one.submit(0, sequence=session, probes=(0,))
    one.submit(50)
    one.drain()
    assert session.kv is not None
    assert session.ids == []
    task = one.submit(60, sequence=session)
    one.drain()
    assert task.future.result(0).cached_tokens == 50
    assert one.prefixes.longest("", list(range(50)))[1] == 50, "the giver keeps its own"


@pytest.mark.parametrize(
    ("keep", "more", "least"), [(True, 1, FORK_TOKENS), (False, 1, FORK_TOKENS), (False, 200, BATCH_FORK_TOKENS)]
)
def test_short_starts_are_computed_again(keep: bool, more: int, least: int) -> None:
    """More of what must be copied, for a text of a batch that does not fit into a step, than of what is read in place."""
    for shared in (least - 1, least):
        one = Simulation()
        one.submit(1000)
        one.drain()
        ids = [*range(shared), *[7777] * more]
        task = Task(Sequence("", transient=True), ids, (len(ids),), Lane.QUERY, one.now, keep=keep)
        one.scheduler.submit([task])
        one.drain()
        assert task.future.result(0).cached_tokens == (shared if shared == least else 0)


def test_texts_of_a_request_that_begin_alike_compute_the_beginning_once() -> None:
    one = Simulation(max_rows=1000)
    one.submit(5, first=99)
    one.drain()
    instruction = [7] * 20
    request(one, [[*instruction, place, 1, 2] for place in range(30)])
    step = one.step()
    assert step.rows == 20 + 30 * 4
    assert not step.copies
    assert len(one.prefixes) == 2, "one of them stays in memory"
    again = request(one, [[*instruction, place, 3] for place in range(50, 60)])
    step = one.step()
    assert step.rows == 10 * 3
    assert not step.copies
    assert [task.future.result(0).cached_tokens for task in again] == [20] * 10


def test_texts_that_begin_alike_in_groups_and_the_same_text_twice() -> None:
    one = Simulation(max_rows=1000)
    first, second = [1] * 10, [1, *[2] * 10]
    texts = [[*first, 50], [*second, 50], [*first, 51], [*second, 51], [*first, 51, 52, 53, 54], [9, 9], [9, 9, 9]]
    request(one, [*texts, texts[4]])
    rows = sorted(run.stop - run.start for run in one.step().runs)
    # The beginnings once each. What one and the same text has beyond its group's is not worth to compute that again, and
    # two tokens in common are not, either.
    assert rows == sorted([11, 1, 4, 4, 12, 1, 2, 3])


def test_a_batch_takes_nobody_elses_memory() -> None:
    """What its texts have in common is kept for the moment, and goes first."""
    one = Simulation(max_rows=1000, slots=320)
    session = Sequence("")
    one.submit(100, Lane.STREAM, first=3, sequence=session)
    one.drain()
    for start in range(50, 60):
        request(one, [[start] * 60 + [place] for place in range(8)], Lane.BULK)
        one.drain()
    assert session.kv is not None
    assert one.kv.evictions > 0


def test_who_lends_is_not_evicted_nor_continued_while_the_step_runs() -> None:
    one = Simulation(max_rows=50)
    lender = one.submit(30)
    one.drain()
    (borrower,) = request(one, [[*range(30), 5]], Lane.BULK)

    def disturb() -> None:
        one.scheduler.evict(None)
        one.submit(40, Lane.QUERY)  # would go on in the lender's memory

    step = one.step(1, disturb)
    assert [run.base for run in step.runs] == [lender.sequence.kv]
    assert borrower.future.result(0).cached_tokens == 30
    assert one.kv.is_idle(lender.sequence), "afterwards it is as it was"
