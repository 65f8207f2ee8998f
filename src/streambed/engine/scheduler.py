"""Which rows run in the next step.

Work stands in lanes. A step's budget is shared among the lanes that have work by their weights, so no lane starves and
none holds another up for longer than a step; within a lane, tasks go in the order in which they are *due*: their arrival
plus time in proportion to their length. Short texts pass long ones, and a long one that has waited passes them.
Long texts go through in chunks.

Where steps can pause, what is long has steps of its own, which more urgent work overtakes: bulk, and a long text of the lane
of queries. Lanes then share time instead of rows, and within that lane the order in which tasks are due still holds.
"""

from bisect import insort
from collections.abc import Callable, Collection, Iterable

import numpy as np

from streambed.engine.beginnings import Beginnings
from streambed.engine.kv import MAX_PROBES, KVMemory
from streambed.engine.prefix_cache import PrefixCache, compare
from streambed.engine.sequence import Embedding, Lane, Run, Sequence, Step, Task
from streambed.engine.shares import WEIGHTS, Shares
from streambed.engine.step_budget import StepBudget
from streambed.engine.turns import Turns
from streambed.errors import DeadlineExceeded, Internal, NotFound
from streambed.model.device import Copy, Vectors
from streambed.text.strings import common_prefix

URGENT = (Lane.STREAM, Lane.QUERY)
URGENT_SECONDS = 1.0
"""Seconds after a query during which another one is expected."""
OWNER_SECONDS = 10.0
"""Seconds after an owner's last work during which more of it is expected."""
ROWS_PER_SECOND = 1000.0
"""How a task's length counts as waiting time. Any rate gives a fair order; this one is that of a small machine."""
EAGER_ROWS = 32
"""So many eager rows run at once. Fewer wait a moment, since an explicit probe often follows and can share their
step."""
COPY_TOKENS_PER_ROW = 32
"""Copying this many tokens of KV takes about as long as computing one row (measured on a CPU)."""


class Scheduler:
    """Tasks waiting and running, and what they may use. Touched by the engine thread alone."""

    def __init__(
        self,
        kv: KVMemory,
        prefixes: PrefixCache,
        budget: StepBudget,
        row_cost: Callable[[int], float],
    ) -> None:
        """row_cost: what a row costs after that many tokens, in rows without context."""
        self.kv, self.prefixes = kv, prefixes
        self.budget = budget
        self.cached_tokens = 0
        self._urgent = float("-inf")
        self._shares = Shares()
        self._turns = Turns()
        self._several = False
        """Whether there ever were several owners: then none has steps for which another would wait."""
        self._came: dict[str, float] = {}
        """When work of each owner came last, of those who came lately."""
        self._row_cost = row_cost
        self._beginnings = Beginnings(kv, prefixes, row_cost)
        self._lanes: dict[Lane, list[Task]] = {lane: [] for lane in Lane}

    @property
    def rebuilds(self) -> int:
        """As `Beginnings.rebuilds`."""
        return self._beginnings.rebuilds

    def submit(self, tasks: Collection[Task]) -> None:
        """Queues each task, of one request, after those of its sequence; it replaces an eager one that nobody waits for."""
        compare(task for task in tasks if not task.keep)
        for task in tasks:
            self._submit(task)

    def _submit(self, task: Task) -> None:
        assert len(task.ids) < self.kv.max_slots, "admission checks the length"
        sequence = task.sequence
        self._came[sequence.owner] = task.arrived
        if sequence.closed:
            task.fail(NotFound("the session is closed"))
            return
        if sequence.tasks and not sequence.tasks[-1].probes:
            eager = sequence.tasks[-1]
            self._remove(eager)
            eager.future.cancel()
        sequence.tasks.append(task)
        if len(sequence.tasks) == 1:
            self._enter(task)

    def close(self, sequence: Sequence) -> None:
        """Ends a sequence: its tasks fail, its KV goes."""
        sequence.closed = True
        for task in list(sequence.tasks):
            self._remove(task)
            task.fail(NotFound("the session was closed"))
        self.kv.release(sequence)

    def evict(self, sequence: Sequence | None) -> None:
        """Evicts one idle sequence, or all of them."""
        for victim in self.kv.idle() if sequence is None else [sequence]:
            if self.kv.is_idle(victim):
                self.prefixes.remove(victim)
                self.kv.release(victim)
                victim.evicted = True

    def tasks(self, lanes: Iterable[Lane] = Lane) -> list[Task]:
        """All that wait or run, those of a lane in its order."""
        return [task for lane in lanes for head in self._lanes[lane] for task in head.sequence.tasks]

    def next_ready(self) -> float | None:
        """Time from which the next step should run; None where nothing waits."""
        return min((head.ready for lane in self._lanes.values() for head in lane), default=None)

    def schedule(self, now: float, patient: bool = False, pauses: int = 0) -> Step:
        """Picks the next step; empty where nothing is ready. Tasks that came too late or whose waiter left end here.

        patient: nobody types, so the step may be larger; that computes faster in the end. Bulk is patient only where
        no query came lately, since the next one would have to wait for its step. pauses: how often a step can be overtaken;
        then what is long has steps of its own, and nothing waits for their end.
        """
        step = Step()
        self._drop_late(Lane, now)
        ready = self.next_ready()
        if ready is None or ready > now:
            return step
        if self._lanes[Lane.STREAM] or self._lanes[Lane.QUERY]:
            self._urgent = now
        if pauses and (long := self._long_lane()) is not None:
            self._shares.wait([lane for lane in Lane if self._lanes[lane]])
            lanes = [lane for lane in URGENT if self._shares.may_pass(lane, long)]
            wanted = self._is_long if long is Lane.QUERY else _any
            due = min(task.due for task in self._lanes[long] if wanted(task))
            if self._fill_ready(step, lanes, now, lambda task: self._precedes(task, long, due)):
                return step
            self._fill(step, long, self.budget.pausing_rows(pauses), now, wanted)
            if step:
                step.pauses = bool(step.runs) and all(run.task.sequence.transient for run in step.runs)
                return step
        large = patient and not (self._lanes[Lane.BULK] and now < self._urgent + URGENT_SECONDS)
        self._fill_lanes(step, Lane, self._rows(now, large), now, _any)
        return step

    def _rows(self, now: float, large: bool = False) -> int:
        """Rows of a step whose end others have to wait for. With several owners it is short, lest one be held up by
        another's work. large: nobody types, and only one is here."""
        if len(self._came) > 1:
            self._several = True
            self._came = {owner: came for owner, came in self._came.items() if came > now - OWNER_SECONDS}
        if not self._several:
            return self.budget.patient_rows if large else self.budget.rows
        return self.budget.shared_rows if len(self._came) > 1 else self.budget.rows

    def overtake(self, now: float, paused: Step) -> Step:
        """A step of what is ready and may go before one that is paused, to be run meanwhile; empty where there is none. The
        paused one's sequences belong to no session and are busy, so the two have none in common."""
        step = Step()
        self._drop_late(URGENT, now, {run.task for run in paused.runs})
        lanes = [lane for lane in URGENT if self._shares.may_pass(lane, paused.lane)]
        self._fill_ready(step, lanes, now, lambda task: self._precedes(task, paused.lane, paused.due))
        return step

    def charge(self, step: Step, seconds: float) -> None:
        """Says that so many seconds went to a step."""
        self._shares.charge(step.costs, seconds)

    def _drop_late(self, lanes: Iterable[Lane], now: float, running: Collection[Task] = ()) -> None:
        for task in self.tasks(lanes):
            if task in running:
                continue
            if task.future.cancelled():
                self._remove(task)
            elif task.deadline is not None and now >= task.deadline:
                self._remove(task)
                task.fail(DeadlineExceeded("the deadline passed before the text could be computed"))

    def _long_lane(self) -> Lane | None:
        """The lane whose long work goes next; None where there is none."""
        query = any(map(self._is_long, self._lanes[Lane.QUERY]))
        if query and (not self._lanes[Lane.BULK] or self._shares.may_pass(Lane.QUERY, Lane.BULK)):
            return Lane.QUERY
        return Lane.BULK if self._lanes[Lane.BULK] else None

    def _is_long(self, task: Task) -> bool:
        """Whether it is a query, of no session, that takes more than a step."""
        rows = task.size if task.started is None else len(task.ids) - len(task.sequence.ids)
        return (
            task.lane is Lane.QUERY
            and task.sequence.transient
            and rows * self._row_cost(len(task.ids)) > self.budget.rows
        )

    def _precedes(self, task: Task, lane: Lane, due: float) -> bool:
        """Whether it may go before long work of a lane, the first of which is due then."""
        return not self._is_long(task) and (task.lane < lane or (task.lane is lane and task.due < due))

    def _fill_ready(self, step: Step, lanes: list[Lane], now: float, wanted: Callable[[Task], bool]) -> bool:
        """Takes what is wanted of these urgent lanes, if any of it is ready. Whether it took something."""
        if all(head.ready > now for lane in lanes for head in self._lanes[lane] if wanted(head)):
            return False
        self._urgent = now
        self._fill_lanes(step, lanes, self._rows(now), now, wanted)
        return bool(step)

    def _fill_lanes(
        self, step: Step, lanes: Iterable[Lane], total: int, now: float, wanted: Callable[[Task], bool]
    ) -> None:
        for lane, budget in self._budgets(total, lanes, wanted).items():
            self._fill(step, lane, budget, now, wanted)

    def _budgets(self, total: int, lanes: Iterable[Lane], wanted: Callable[[Task], bool]) -> dict[Lane, float]:
        """What each lane that has work may spend of `total`: its weighted share, then what the others leave over."""
        heads = {lane: [task for task in self._lanes[lane] if wanted(task)] for lane in lanes}
        demand = {lane: self._demand(tasks, total) for lane, tasks in heads.items() if tasks}
        weight = sum(WEIGHTS[lane] for lane in demand)
        budgets = {lane: min(demand[lane], total * WEIGHTS[lane] / weight) for lane in demand}
        for lane in demand:
            rest = total - sum(budgets.values())
            if lane is Lane.BULK and len(demand) > 1:
                # With urgent work in the step, bulk fills it to a half only: the urgent vectors are ready sooner.
                rest -= total / 2
            budgets[lane] += max(0.0, min(demand[lane] - budgets[lane], rest))
        return {lane: max(budget, 1.0) for lane, budget in budgets.items()}

    def _demand(self, heads: list[Task], most: int) -> float:
        demand = 0.0
        for task in heads:
            rows = task.size if task.started is None else len(task.ids) - len(task.sequence.ids)
            # A little more than _take will charge: what is left over by rounding would be another step.
            demand += (rows + len(task.probes) - task.done) * self._row_cost(len(task.ids))
            if demand >= most:
                return float(most)
        return demand

    def _fill(self, step: Step, lane: Lane, budget: float, now: float, wanted: Callable[[Task], bool]) -> None:
        """Adds rows of a lane's tasks that are wanted and cost up to `budget`, at least one row."""
        blocked = False
        for task in self._turns.order(lane, self._lanes[lane]):
            if budget <= 0.0:
                break
            if not wanted(task):
                blocked = blocked or (task.started is None and task.blocked)
                continue
            if task.started is None:
                # Without memory for one, nobody behind it starts, or a long text would wait for ever behind short ones.
                # Tasks that have started go on wherever they are in the lane: they hold the memory that it waits for.
                task.blocked = blocked = blocked or not self._beginnings.begin(step, task, budget, now)
                if blocked:
                    continue
            cost = self._take(step, task, budget)
            self._turns.charge(task, cost)
            budget -= cost
            step.costs[lane] = step.costs.get(lane, 0.0) + cost

    def _take(self, step: Step, task: Task, budget: float) -> float:
        """Adds as much of a task as `budget` allows, at least one row. Returns the cost."""
        sequence, spent = task.sequence, 0.0
        kv = sequence.kv
        if sequence.source is not None and kv is not None:
            start, source = len(sequence.ids), sequence.source
            same = common_prefix(source.ids, task.ids)  # the source may have changed or been evicted meanwhile
            stop = min(same, start + max(int(budget * COPY_TOKENS_PER_ROW), 1))
            if stop > start and source.kv is not None:
                kv.grow(stop)
                step.copies.append(Copy(source.kv, kv, start, stop))
                sequence.ids += task.ids[start:stop]
                task.cached += stop - start
                spent += (stop - start) / COPY_TOKENS_PER_ROW
            if stop < same:
                return spent
            sequence.source = None
        start = len(sequence.ids)
        affordable = int(max(budget - spent, 1.0) / self._row_cost(start))
        if kv is None:
            affordable = len(task.ids)  # decided at the start: the whole text at once
        stop = min(len(task.ids), start + max(affordable, 1))
        room = task.slots - stop if kv is not None else 1
        probes = tuple(probe for probe in task.probes[task.done :] if probe <= stop)[: min(room, MAX_PROBES)]
        if kv is not None:
            kv.grow(stop + len(probes))
        step.runs.append(Run(task, start, stop, probes, kv, sequence.base))
        return spent + (stop - start) * self._row_cost((start + stop) // 2) + len(probes) * self._row_cost(stop)

    def finish(self, step: Step, vectors: Vectors, now: float) -> None:
        """Records what a step computed and ends the tasks that are complete. vectors: [probes of the step, hidden]."""
        self._beginnings.end(step)
        at = 0
        for task, start, stop, probes, kv, _ in step.runs:
            task.results.extend(vectors[at : at + len(probes)])
            at += len(probes)
            task.rows += stop - start
            task.sequence.ids += task.ids[start:stop]
            if task.finished:
                self._complete(task, now)
            else:
                assert kv is not None or not task.probes, "a text without memory runs in one step"

    def abandon(self, step: Step, error: Internal) -> None:
        """Ends all tasks of a step that failed. Their KV may be half written, so it goes."""
        self._beginnings.end(step)
        running, targets = {run.task for run in step.runs}, {id(copy.target) for copy in step.copies}
        for task in [head for lane in self._lanes.values() for head in lane]:
            if task in running or id(task.sequence.kv) in targets:
                self.kv.release(task.sequence)
                self._remove(task)
                task.fail(error)

    def _complete(self, task: Task, now: float) -> None:
        assert task.started is not None
        vectors = np.stack(task.results) if task.results else np.empty((0, 0), dtype=np.float32)
        finite = bool(np.isfinite(vectors).all())
        if not finite:
            self.kv.release(task.sequence)
        self._remove(task)
        if finite:
            # Tokens that a task of the same request has computed do not count as cached.
            cached = max(task.cached - task.behind, 0)
            self.cached_tokens += cached
            queued, computed = task.started - task.arrived, now - task.started
            task.answer(Embedding(vectors, cached, task.rows + len(task.probes), queued, computed, task.lane))
        else:
            task.fail(Internal("the model gave a value that is not finite for this text"))

    def _enter(self, task: Task) -> None:
        """Puts the first task of a sequence into its lane, now that its cached prefix is known."""
        task.size = len(task.ids) - common_prefix(task.sequence.ids, task.ids)
        if task.keep and task.sequence.transient:  # a text that is posted again, longer, is short work
            cached = self.prefixes.longest(task.sequence.owner, task.ids)[1]
            task.size -= cached - -(-cached // COPY_TOKENS_PER_ROW)
        task.due = task.arrived + task.size / ROWS_PER_SECOND
        if not task.probes and task.size >= EAGER_ROWS:
            task.ready = 0.0
        insort(self._lanes[task.lane], task, key=lambda other: other.due)

    def _remove(self, task: Task) -> None:
        """Removes a task in whatever state, and queues the next one of its sequence."""
        sequence = task.sequence
        if sequence.tasks[0] is not task:
            sequence.tasks.remove(task)
            return
        self._lanes[task.lane].remove(task)
        sequence.tasks.popleft()
        if task.started is not None:
            self.kv.commit(sequence)
        if sequence.tasks:
            self._enter(sequence.tasks[0])
        elif sequence.kv is None:
            sequence.ids, sequence.base = [], None  # it ran without memory; nothing of it is left
        elif sequence.transient and not self.prefixes.add(sequence):
            self.kv.release(sequence)

    def check_integrity(self) -> None:
        """Asserts what must hold between steps."""
        self.kv.check_integrity()
        self.prefixes.check_integrity()
        for lane, heads in self._lanes.items():
            assert [head.due for head in heads] == sorted(head.due for head in heads), "a lane is in order"
            for head in heads:
                assert head.lane is lane
                assert head.sequence.tasks[0] is head, "only the first task of a sequence stands in a lane"
                assert head.started is not None or not head.results, "what has results was started"
                assert head.started is None or not head.slots or not self.kv.is_idle(head.sequence), "running is busy"


def _any(task: Task) -> bool:
    return True
