"""Which rows run next: no network, no thread, no clock but the test's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streambed.engine.kv import MAX_PROBES
from streambed.engine.scheduler import OWNER_SECONDS
from streambed.engine.sequence import Lane, Sequence, Step, Task
from streambed.errors import DeadlineExceeded, Internal, NotFound
from tests.engine.simulation import Simulation, request


def rows(step: Step, task: Task) -> int:
    return sum(run.stop - run.start + len(run.probes) for run in step.runs if run.task is task)


def test_a_long_text_goes_through_in_chunks() -> None:
    one = Simulation()
    task = one.submit(950)
    steps = one.drain()
    assert steps == 10
    assert task.future.result(0).vectors.tolist() == [[0, 950]]
    assert task.future.result(0).computed_tokens == 951


def test_a_keystroke_waits_for_no_document() -> None:
    one = Simulation()
    document = one.submit(30_000, Lane.BULK)
    for _ in range(20):
        one.step()
        key = one.submit(3, Lane.STREAM, first=9)
        step = one.step()
        assert key.future.done()
        assert rows(step, document) >= 1
        assert step.rows <= 60, "bulk leaves half of a step that carries something urgent"
    assert not document.future.done()


def test_every_lane_gets_its_share() -> None:
    one = Simulation()
    tasks = {lane: one.submit(5000, lane, first=lane) for lane in Lane}
    got = dict.fromkeys(Lane, 0)
    for _ in range(13):
        step = one.step()
        for lane in Lane:
            got[lane] += rows(step, tasks[lane])
    assert got[Lane.STREAM] > got[Lane.QUERY] > got[Lane.BULK] > 0
    assert sum(got.values()) >= 13 * 95


def test_what_a_lane_leaves_over_goes_to_the_others() -> None:
    one = Simulation()
    one.submit(10, Lane.STREAM, first=5)
    query = one.submit(5000, Lane.QUERY)
    assert rows(one.step(), query) == pytest.approx(89, abs=2)


def test_where_several_owners_work_nobody_waits_for_long_steps() -> None:
    """Nor where others were here lately. Who has been alone all the time has the longest, who has not, ordinary ones."""
    one = Simulation(max_rows=1000, patient_rows=4000)

    def rows_of_a_step() -> int:
        step = one.scheduler.schedule(one.now, patient=True)
        one.scheduler.finish(step, np.zeros((sum(len(run.probes) for run in step.runs), 2), dtype=np.float32), one.now)
        return step.rows

    one.submit(30_000, first=1)
    assert rows_of_a_step() == 4000
    other = one.submit(3, first=2, sequence=Sequence("other", transient=True))
    assert rows_of_a_step() == 100
    assert other.future.done()
    assert rows_of_a_step() == 100, "another one may come"
    one.now += OWNER_SECONDS
    one.submit(30_000, first=3)
    assert rows_of_a_step() == 1000
    assert rows_of_a_step() == 1000


def test_short_texts_pass_a_long_one_that_passes_them_in_the_end() -> None:
    one = Simulation()
    document = one.submit(5_000)
    for count in range(1000):
        one.now += 0.1
        short = one.submit(99, first=count + 10)
        one.step()
        if document.future.done():
            break
        assert short.future.done() or one.now > 4
    assert document.future.done()
    assert one.now < 60


def test_steps_are_larger_where_nobody_waits_for_their_end() -> None:
    one = Simulation(max_rows=100, patient_rows=400)

    def rows_of_a_step(patient: bool) -> int:
        step = one.scheduler.schedule(one.now, patient)
        one.scheduler.finish(step, np.zeros((sum(len(run.probes) for run in step.runs), 2), dtype=np.float32), one.now)
        return step.rows

    one.submit(9_000, Lane.BULK)
    assert rows_of_a_step(patient=True) == 400
    assert rows_of_a_step(patient=False) == 100
    one.submit(3, first=1)
    assert rows_of_a_step(patient=True) <= 60, "a query beside bulk"
    one.now += 0.5
    assert rows_of_a_step(patient=True) == 100, "another query may come"
    one.now += 0.6
    assert rows_of_a_step(patient=True) == 400
    other = Simulation(max_rows=100, patient_rows=400)
    other.submit(9_000)
    assert other.scheduler.schedule(0.0, patient=True).rows == 400, "queries alone"


def test_many_short_texts_share_a_step() -> None:
    one = Simulation()
    tasks = [one.submit(4, first=n + 10) for n in range(20)]
    step = one.step()
    assert len(step.runs) == 20
    assert [task.future.result(0).vectors[0, 0] for task in tasks] == [n + 10 for n in range(20)]


def test_owners_share_nothing() -> None:
    one = Simulation()
    one.submit(200, sequence=Sequence("a", transient=True))
    one.drain()
    other = one.submit(200, sequence=Sequence("b", transient=True))
    one.drain()
    assert other.future.result(0).cached_tokens == 0


def test_a_long_copy_goes_in_chunks() -> None:
    one = Simulation(max_rows=10)
    session = Sequence("")
    one.submit(2000, sequence=session)
    one.drain()
    twin = one.submit(2001, sequence=Sequence("", source=session))
    copied = []
    while not twin.future.done():
        copied += [copy.stop - copy.start for copy in one.step().copies]
    assert sum(copied) == 2000
    assert max(copied) <= 10 * 32


def test_a_source_may_change_or_vanish_while_it_is_copied() -> None:
    for vanish in (True, False):
        one = Simulation(max_rows=10)
        session = Sequence("")
        one.submit(2000, sequence=session)
        one.drain()
        twin = one.submit(2001, sequence=Sequence("", source=session))
        one.step()
        if vanish:
            one.scheduler.evict(session)
        else:
            one.submit(100, sequence=session, first=50)
        one.drain()
        result = twin.future.result(0)
        assert result.cached_tokens == 320
        assert result.computed_tokens == 2001 - 320 + 1


def test_tasks_of_a_sequence_answer_in_order_for_what_was_asked() -> None:
    one = Simulation()
    session = Sequence("")
    first = one.submit(40, Lane.STREAM, sequence=session, first=1)
    second = one.submit(10, Lane.STREAM, sequence=session, first=2)
    third = one.submit(50, Lane.STREAM, sequence=session, first=2)
    one.drain()
    assert [task.future.result(0).vectors.tolist() for task in (first, second, third)] == [
        [[1, 40]],
        [[2, 10]],
        [[2, 50]],
    ]
    assert third.future.result(0).cached_tokens == 10
    assert third.future.result(0).computed_tokens == 41


def test_eager_work_waits_a_moment_and_gives_way() -> None:
    one = Simulation()
    session = Sequence("")
    eager = one.submit(5, Lane.STREAM, sequence=session, probes=(), ready=0.02)
    assert not one.step()
    assert one.scheduler.next_ready() == 0.02
    asked = one.submit(6, Lane.STREAM, sequence=session)
    assert eager.future.cancelled()
    one.step()
    assert asked.future.done()
    late = one.submit(8, Lane.STREAM, sequence=session, probes=(), ready=0.02)
    one.now = 0.03
    assert one.step().rows == 2
    assert late.future.done()
    large = one.submit(80, Lane.STREAM, sequence=session, probes=(), ready=9.0)
    one.step()
    assert large.future.done(), "much of it is not kept waiting"
    joins = one.submit(82, Lane.STREAM, sequence=session, probes=(), ready=9.0)
    one.submit(10, first=44)
    one.step()
    assert joins.future.done(), "a step that runs anyway takes it along"


def test_several_probes_of_one_text() -> None:
    one = Simulation(max_rows=50)
    probes = (0, 5, 5, 30, 99, 100, 180)
    task = one.submit(180, probes=probes)
    one.drain()
    assert task.future.result(0).vectors[:, 1].tolist() == list(probes)
    assert task.future.result(0).computed_tokens == 180 + len(probes)


def test_more_probes_than_fit_in_a_step() -> None:
    one = Simulation(max_rows=1000)
    probes = tuple(range(0, 300, 2))
    task = one.submit(300, probes=probes)
    step = one.step()
    assert len(step.runs[0].probes) == MAX_PROBES
    one.drain()
    assert task.future.result(0).vectors[:, 1].tolist() == list(probes)


def test_probes_where_memory_has_room_for_one() -> None:
    one = Simulation(max_rows=1000, slots=128)
    assert one.kv.max_slots == 128
    probes = tuple(range(120, 128))
    task = one.submit(127, probes=probes)
    one.drain()
    assert task.future.result(0).vectors[:, 1].tolist() == list(probes)


def test_what_comes_too_late_is_not_computed() -> None:
    one = Simulation()
    late, started = one.submit(50, deadline=1.0), one.submit(5000, deadline=2.0, first=3)
    one.now = 1.0
    step = one.step()
    assert rows(step, late) == 0
    with pytest.raises(DeadlineExceeded):
        late.future.result(0)
    one.now = 2.0
    assert not one.step()
    with pytest.raises(DeadlineExceeded):
        started.future.result(0)
    again = one.submit(5000, first=3)
    one.drain()
    assert again.future.result(0).cached_tokens > 0, "what was computed before is not lost"


def test_the_cancelled_are_skipped() -> None:
    one = Simulation()
    tasks = [one.submit(60, first=n) for n in range(4)]
    one.step()
    for task in tasks[1:]:
        task.future.cancel()
    assert not one.step()
    assert one.scheduler.tasks() == []


def test_memory_for_one_at_a_time() -> None:
    one = Simulation(max_rows=10, slots=256)
    first, second = one.submit(200, first=1), one.submit(200, first=2)
    small = one.submit(20, first=3, keep=False)
    one.drain()
    assert all(task.future.done() for task in (first, second, small))
    assert one.kv.evictions >= 1
    with pytest.raises(AssertionError, match="admission"):
        one.submit(256)


def test_who_waits_for_memory_does_not_stop_who_has_it() -> None:
    """A short text is due before the long ones that hold all the memory; they must go on, or nobody ever does."""
    one = Simulation(max_rows=10, slots=512)
    long = [one.submit(240, first=n) for n in (1, 2)]
    while not all(task.started is not None for task in long):
        one.step()
    short = one.submit(40, first=3)
    assert one.scheduler.tasks()[0] is short
    assert one.step()
    one.drain()
    assert all(task.future.done() for task in [*long, short])


def test_context_makes_rows_dearer() -> None:
    one = Simulation(context_cost=0.01)
    task = one.submit(2000)
    taken = []
    while not task.future.done():
        taken.append(one.step().rows)
    assert taken[0] > 1.5 * taken[3]


def test_a_failed_step_ends_its_tasks_and_no_others() -> None:
    one = Simulation(max_rows=10)
    session, parent = Sequence(""), Sequence("")
    one.submit(1000, sequence=parent, first=7)
    one.drain()
    twin = one.submit(1001, Lane.STREAM, sequence=Sequence("", source=parent), first=7)
    hurt = one.submit(300, sequence=session, first=5)
    step = one.scheduler.schedule(one.now)
    spared = one.submit(8000, first=6)
    assert step.copies
    assert [run.task for run in step.runs] == [hurt]
    one.scheduler.abandon(step, Internal("no"))
    one.scheduler.check_integrity()
    for task in (hurt, twin):
        with pytest.raises(Internal):
            task.future.result(0)
    assert (session.kv, session.ids) == (None, [])
    one.drain()
    assert spared.future.done()
    again = one.submit(300, sequence=session, first=5)
    one.drain()
    assert again.future.done()


def test_a_failed_step_without_memory_spares_those_who_have_none_yet() -> None:
    one = Simulation(max_rows=10)
    hurt, waiting = one.submit(8, first=1, keep=False), one.submit(9, first=2, keep=False)
    step = one.scheduler.schedule(0.0)
    running = [run.task for run in step.runs]
    assert hurt in running
    later = one.submit(7, first=3)
    one.scheduler.abandon(step, Internal("no"))
    one.scheduler.check_integrity()
    assert isinstance(hurt.future.exception(0), Internal)
    one.drain()
    assert later.future.result(0).vectors.tolist() == [[3, 7]]
    assert waiting in running or waiting.future.result(0)


def test_a_value_that_is_not_finite_is_an_error_of_that_text_alone() -> None:
    one = Simulation()
    bad, good = one.submit(5, first=1), one.submit(6, first=2)
    step = one.scheduler.schedule(0.0)
    one.scheduler.finish(step, np.array([[np.nan, 1], [1, 1]], dtype=np.float32), 0.0)
    one.scheduler.check_integrity()
    with pytest.raises(Internal, match="not finite"):
        bad.future.result(0)
    assert good.future.done()
    assert len(one.prefixes) == 1, "nothing of the bad one is kept"


def test_closing_a_sequence() -> None:
    one = Simulation()
    session = Sequence("")
    started, waiting = (one.submit(500, Lane.STREAM, sequence=session) for _ in range(2))
    one.step()
    one.scheduler.close(session)
    one.scheduler.check_integrity()
    later = one.submit(5, Lane.STREAM, sequence=session)
    for task in (started, waiting, later):
        with pytest.raises(NotFound):
            task.future.result(0)
    assert session.kv is None


# Steps that pause


def test_a_keystroke_overtakes_bulk_between_two_layers() -> None:
    one = Simulation()
    document = one.submit(2_000, Lane.BULK)
    one.step(pauses=27)
    keys: list[Task] = []

    def type_() -> None:
        if len(keys) < 3:
            assert all(key.future.done() for key in keys), "each was computed at the next layer"
            keys.append(one.submit(3, Lane.STREAM, first=9 + len(keys)))

    step = one.step(27, type_)
    assert len(keys) == 3
    assert all(key.future.done() for key in keys)
    assert [run.task for run in step.runs] == [document]
    assert step.rows >= 100, "and bulk had a whole step"


@pytest.mark.parametrize(("lane", "share"), [(Lane.STREAM, 8 / 9), (Lane.QUERY, 4 / 5)])
@pytest.mark.parametrize("during", [False, True])
def test_lanes_share_time_by_their_weights(lane: Lane, share: float, during: bool) -> None:
    """So what is long ends, though there is always something urgent: between its steps, or while they pause, too."""
    one = Simulation()
    document = one.submit(1_200, Lane.BULK)
    seconds = dict.fromkeys(Lane, 0)
    charge = one.scheduler.charge

    def record(step: Step, spent: float) -> None:
        charge(step, spent)
        for each in step.costs:
            assert len(step.costs) == 1, "each has steps of its own"
            seconds[each] += spent

    one.scheduler.charge = record  # type: ignore[method-assign]

    def ask() -> None:
        one.submit(50, lane, first=10 + sum(seconds.values()))

    for _ in range(2_000):
        ask()
        one.step(5, ask if during else lambda: None)
        if document.future.done():
            break
    assert document.future.done()
    assert seconds[lane] / sum(seconds.values()) == pytest.approx(share, abs=0.05)


def test_lanes_that_overtake_share_by_their_weights() -> None:
    one = Simulation()
    one.submit(5_000, Lane.BULK)
    typed, asked = one.submit(5_000, Lane.STREAM, first=1), [one.submit(30, first=9 + n) for n in range(9)]
    step = one.scheduler.schedule(one.now, pauses=3)
    assert rows(step, typed) > sum(rows(step, each) for each in asked) > 20


def test_a_long_query_is_overtaken_by_keys_and_by_what_is_due_before_it() -> None:
    one = Simulation()
    long = one.submit(3_000)
    came: list[Task] = []

    def come() -> None:
        if not came:
            came.append(one.submit(3, Lane.STREAM, first=7))
            came.append(one.submit(50, first=8))
            one.now += 3
            came.append(one.submit(50, first=9))  # due after the long one: 3 + 50 / 1000
            came.append(one.submit(400, Lane.BULK, first=10))

    step = one.step(27, come)
    assert [run.task for run in step.runs] == [long]
    assert [task.future.done() for task in came] == [True, True, False, False]
    one.drain(pauses=27)
    assert all(task.future.done() for task in came)


@pytest.mark.parametrize("during", [False, True])
def test_a_long_query_ends_though_short_ones_never_stop(during: bool) -> None:
    one = Simulation()
    long = one.submit(3_000)

    def ask() -> None:
        one.now += 0.3
        one.submit(99, first=round(100 * one.now))

    for _ in range(100):
        ask()
        one.step(5, ask if during else lambda: None)
    assert long.future.done()


def test_a_text_that_is_posted_again_is_short_work() -> None:
    one = Simulation()
    one.submit(1_000)
    one.drain()
    again, other = one.submit(1_010), one.submit(20, first=9)
    step = one.step(27)
    assert {run.task for run in step.runs} == {again, other}
    assert not step.pauses


def test_a_query_that_is_given_up_while_it_is_paused_keeps_its_memory_until_then() -> None:
    one = Simulation()
    long = one.submit(3_000, deadline=5.0)

    def leave() -> None:
        long.future.cancel()
        one.now = 9.0
        one.submit(3, Lane.STREAM, first=7)
        one.scheduler.evict(None)
        assert long.sequence.kv is not None

    step = one.step(1, leave)
    assert step.pauses
    one.drain(pauses=1)
    assert one.scheduler.tasks() == []


def test_a_long_query_without_memory_holds_up_those_behind_it() -> None:
    """Or it would wait for ever behind short ones, which need less."""
    one = Simulation(slots=320)
    held = one.submit(250, Lane.BULK)
    one.step(1)
    long = one.submit(200, first=5)
    one.now = 0.15
    behind = one.submit(90, first=6)
    one.step(1)
    assert long.blocked
    assert not behind.future.done()
    one.drain(pauses=1)
    assert all(task.future.done() for task in (held, long, behind))


def test_who_came_too_late_or_left_overtakes_nothing() -> None:
    one = Simulation()
    one.submit(500, Lane.BULK)
    late: list[Task] = []

    def leave() -> None:
        left, task = one.submit(3, Lane.QUERY, first=7), one.submit(3, Lane.QUERY, first=8, deadline=1.0)
        late.append(task)
        left.future.cancel()
        one.now = 2.0

    assert one.step(1, leave).pauses
    assert isinstance(late[0].future.exception(0), DeadlineExceeded)
    assert one.scheduler.tasks([Lane.QUERY]) == []


def test_memory_that_bulk_holds_is_not_taken_from_it() -> None:
    """Too little for both: who would overtake waits, and bulk ends."""
    one = Simulation(slots=320)
    document = one.submit(250, Lane.BULK)
    other = []
    one.step(2, lambda: other.append(one.submit(200, Lane.STREAM, first=5)) if not other else None)
    assert not other[0].future.done()
    one.drain(pauses=2)
    assert document.future.done()
    assert other[0].future.done()


@settings(max_examples=60)
@given(st.data())
def test_any_load_ends_with_one_answer_each(data: st.DataObject) -> None:
    """Random tasks, lanes, lengths, cancellations and evictions in little memory: all end, in order, intact."""
    one = Simulation(max_rows=data.draw(st.integers(1, 40)), slots=256)
    sessions = [Sequence(name) for name in ("", "", "a")]
    tasks: list[Task] = []
    pauses = data.draw(st.sampled_from([0, 0, 1, 3]))

    def come() -> None:
        kind = data.draw(st.integers(0, 9))
        if kind < 7:
            length = data.draw(st.integers(0, 180))
            probes = tuple(sorted(data.draw(st.lists(st.integers(0, length), max_size=3))))
            sequence = data.draw(st.sampled_from([None, *sessions]))
            # What is bulk belongs to no session.
            lanes = [Lane.STREAM, Lane.QUERY] if sequence is not None and pauses else list(Lane)
            lane, first = data.draw(st.sampled_from(lanes)), data.draw(st.integers(0, 2))
            if sequence is None:
                probes = (*probes, length)
            keep = data.draw(st.booleans()) or sequence is not None
            tasks.append(one.submit(length, lane, first, sequence=sequence, probes=probes, keep=keep))
            if sequence is None:
                more = data.draw(
                    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 30), st.integers(0, 5)), max_size=8)
                )
                tasks.extend(request(one, [[a, *range(1, b), *[9] * c] for a, b, c in more], lane))
        elif kind == 7 and tasks:
            data.draw(st.sampled_from(tasks)).future.cancel()
        elif kind == 8:
            one.scheduler.evict(data.draw(st.sampled_from([None, *sessions])))

    for _ in range(data.draw(st.integers(1, 30))):
        come()
        one.now += 0.05
        one.step(pauses, come)
    one.drain(pauses=pauses)
    for task in tasks:
        assert task.future.done()
        if not task.future.cancelled():
            result = task.future.result(0)
            assert result.vectors[:, 1].tolist() == list(task.probes) if task.probes else result.vectors.size == 0
            assert result.cached_tokens + result.computed_tokens == len(task.ids) + len(task.probes)
