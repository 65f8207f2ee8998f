"""Which rows run next: no network, no thread, no clock but the test's."""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakKeyDictionary

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from streambed.engine.kv import MAX_PROBES, KVMemory
from streambed.engine.prefix_cache import PrefixCache
from streambed.engine.scheduler import BATCH_FORK_TOKENS, FORK_TOKENS, Scheduler
from streambed.engine.sequence import Lane, Sequence, Step, Task
from streambed.engine.step_budget import StepBudget
from streambed.errors import DeadlineExceeded, Internal, NotFound
from streambed.model.checkpoint import Qwen3Config
from streambed.model.cpu.device import CPU
from streambed.model.device import KV

CONFIG = Qwen3Config(100, 8, 8, 1, 1, 1, 16, 40_000, 1e-6, 1e6, False)
SLOT = 2 * 16 * 4


class Simulation:
    """A scheduler whose steps take no time; vectors are (task's first id, probe's place). What its steps write to memory is
    kept, and whatever they read must be the text's own."""

    def __init__(
        self, max_rows: int = 100, slots: int = 100_000, context_cost: float = 0.0, patient_rows: int | None = None
    ) -> None:
        self.prefixes = PrefixCache()
        device = CPU(CONFIG, torch.device("cpu"), torch.float32)
        self.kv = KVMemory(device, 40_000, slots * SLOT, self.prefixes.remove)
        budget = StepBudget(max_rows)
        if patient_rows is not None:
            budget = StepBudget()
            budget._set(max_rows)
            assert budget.patient_rows == patient_rows
        self.scheduler = Scheduler(self.kv, self.prefixes, budget, lambda context: 1.0 + context * context_cost)
        self.now = 0.0
        self.contents: WeakKeyDictionary[KV, list[int]] = WeakKeyDictionary()

    def submit(self, length: int, lane: Lane = Lane.QUERY, first: int = 0, **more: object) -> Task:
        ids = [first, *range(1, length)][:length]
        sequence = more.pop("sequence", None) or Sequence("", transient=True)
        probes = more.pop("probes", (length,))
        task = Task(sequence, ids, probes, lane, self.now, **more)  # type: ignore[arg-type]
        self.scheduler.submit([task])
        return task

    def step(self, pauses: int = 0, between: Callable[[], object] = lambda: None) -> Step:
        """pauses: so often bulk can be overtaken, where `between` is called."""
        step = self.scheduler.schedule(self.now, pauses=pauses)
        self.write(step)
        for _ in range(pauses if step.is_bulk else 0):
            between()
            overtaking = self.scheduler.overtake(self.now)
            self.write(overtaking)
            self.finish(overtaking)
        return self.finish(step)

    def write(self, step: Step) -> None:
        for source, target, start, stop in step.copies:
            self.contents.setdefault(target, [])[start:] = self.contents[source][start:stop]
        for part in step.batch.parts:
            if part.kv is not None:
                self.contents.setdefault(part.kv, [])[part.start :] = [*part.ids, *[-1] * len(part.probes)]

    def read(self, step: Step) -> None:
        for task, start, stop, _, kv, base in step.runs:
            if kv is not None:
                assert self.contents[kv][:stop] == task.ids[:stop]
            else:
                assert (start > 0) == (base is not None)
                assert base is None or self.contents[base][:start] == task.ids[:start]

    def finish(self, step: Step) -> Step:
        self.read(step)
        vectors = [[run.task.ids[0] if run.task.ids else -1, probe] for run in step.runs for probe in run.probes]
        self.scheduler.finish(step, np.array(vectors, dtype=np.float32).reshape(-1, 2), self.now)
        self.scheduler.check_integrity()
        return step

    def drain(self, most: int = 10_000, pauses: int = 0) -> int:
        for count in range(most):
            if not self.step(pauses):
                return count
        raise AssertionError("never done")


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


def request(one: Simulation, texts: list[list[int]], lane: Lane = Lane.QUERY) -> list[Task]:
    tasks = [Task(Sequence("", transient=True), ids, (len(ids),), lane, one.now, keep=False) for ids in texts]
    one.scheduler.submit(tasks)
    return tasks


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


def test_bulk_and_urgent_work_have_steps_in_turn() -> None:
    """So neither waits for the other's rows, and bulk ends though there is always something urgent."""
    one = Simulation()
    document = one.submit(1_000, Lane.BULK)
    lanes = []
    for count in range(200):
        one.submit(50, Lane.QUERY, first=count + 10)
        step = one.step(pauses=5)
        lanes.append({run.task.lane for run in step.runs})
        if document.future.done():
            break
    assert document.future.done()
    assert all(len(each) == 1 for each in lanes)
    assert lanes[:4] == [{Lane.QUERY}, {Lane.BULK}] * 2


def test_lanes_that_overtake_share_by_their_weights() -> None:
    one = Simulation()
    one.submit(5_000, Lane.BULK)
    typed, asked = one.submit(5_000, Lane.STREAM, first=1), one.submit(5_000, Lane.QUERY, first=2)
    step = one.scheduler.schedule(one.now, pauses=3)
    assert rows(step, typed) > rows(step, asked) > 20


def test_who_came_too_late_or_left_overtakes_nothing() -> None:
    one = Simulation()
    one.submit(500, Lane.BULK)
    left, late = one.submit(3, Lane.QUERY, first=7), one.submit(3, Lane.QUERY, first=8, deadline=1.0)
    one.scheduler._bulk_is_due = True

    def leave() -> None:
        left.future.cancel()
        one.now = 2.0

    step = one.step(1, leave)
    assert step.is_bulk
    assert isinstance(late.future.exception(0), DeadlineExceeded)
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
