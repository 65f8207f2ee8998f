"""Which rows run in the next step.

Work stands in lanes. A step's budget is shared among the lanes that have work by their weights, so no lane starves and
none holds another up for longer than a step; within a lane, tasks go in the order in which they are *due*: their arrival
plus time in proportion to their length. Short texts pass long ones, and a long one that has waited passes them.
Long texts go through in chunks.
"""

from bisect import insort
from collections.abc import Callable, Collection, Iterable

import numpy as np

from streambed.engine.kv import MAX_PROBES, KVMemory
from streambed.engine.prefix_cache import PrefixCache, compare
from streambed.engine.sequence import Embedding, Lane, Run, Sequence, Step, Task
from streambed.engine.step_budget import StepBudget
from streambed.errors import DeadlineExceeded, Internal, NotFound
from streambed.model.device import Copy, Vectors
from streambed.text.strings import common_prefix

WEIGHTS = {Lane.STREAM: 8, Lane.QUERY: 4, Lane.BULK: 1}
URGENT = (Lane.STREAM, Lane.QUERY)
URGENT_SECONDS = 1.0
"""Seconds after a query during which another one is expected."""
ROWS_PER_SECOND = 1000.0
"""How a task's length counts as waiting time. Any rate gives a fair order; this one is that of a small machine."""
EAGER_ROWS = 32
"""So many eager rows run at once. Fewer wait a moment, since an explicit probe often follows and can share their
step."""
FORK_TOKENS = 4
"""Shorter beginnings are computed again."""
BATCH_FORK_TOKENS = 64
"""As much must be in common with a text of a batch that needs memory of its own: to be copied, which is not for nothing."""
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
        self.rebuilds = 0
        self._urgent = float("-inf")
        self._bulk_is_due = False
        self._row_cost = row_cost
        self._lanes: dict[Lane, list[Task]] = {lane: [] for lane in Lane}

    def submit(self, tasks: Collection[Task]) -> None:
        """Queues each task, of one request, after those of its sequence; it replaces an eager one that nobody waits for."""
        compare(task for task in tasks if not task.keep)
        for task in tasks:
            self._submit(task)

    def _submit(self, task: Task) -> None:
        assert len(task.ids) < self.kv.max_slots, "admission checks the length"
        sequence = task.sequence
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
        no query came lately, since the next one would have to wait for its step. pauses: how often a step of bulk can be
        overtaken; then bulk has steps of its own, in turn with those of urgent work, and nothing waits for their end.
        """
        step = Step()
        self._drop_late(Lane, now)
        ready = self.next_ready()
        if ready is None or ready > now:
            return step
        if self._lanes[Lane.STREAM] or self._lanes[Lane.QUERY]:
            self._urgent = now
        if pauses and self._lanes[Lane.BULK]:
            if not self._bulk_is_due and self._fill_urgent(step, now):
                self._bulk_is_due = True
                return step
            self._bulk_is_due = False
            self._fill(step, Lane.BULK, self.budget.pausing_rows(pauses), now)
            if step:
                return step
        large = patient and not (self._lanes[Lane.BULK] and now < self._urgent + URGENT_SECONDS)
        for lane, budget in self._budgets(self.budget.patient_rows if large else self.budget.rows).items():
            self._fill(step, lane, budget, now)
        return step

    def overtake(self, now: float) -> Step:
        """A step of urgent work that is ready, to be run while one of bulk is paused; empty where there is none. The paused
        one's sequences are all bulk's, and busy, so the two have none in common."""
        step = Step()
        self._drop_late(URGENT, now)
        self._fill_urgent(step, now)
        return step

    def _drop_late(self, lanes: Iterable[Lane], now: float) -> None:
        for task in self.tasks(lanes):
            if task.future.cancelled():
                self._remove(task)
            elif task.deadline is not None and now >= task.deadline:
                self._remove(task)
                task.fail(DeadlineExceeded("the deadline passed before the text could be computed"))

    def _fill_urgent(self, step: Step, now: float) -> bool:
        """Takes what is ready of all lanes but bulk. Whether there was anything."""
        if all(head.ready > now for lane in URGENT for head in self._lanes[lane]):
            return False
        self._urgent = now
        for lane, budget in self._budgets(self.budget.rows, URGENT).items():
            self._fill(step, lane, budget, now)
        return bool(step)

    def _budgets(self, total: int, lanes: Iterable[Lane] = Lane) -> dict[Lane, float]:
        """What each lane that has work may spend of `total`: its weighted share, then what the others leave over."""
        demand = {lane: self._demand(self._lanes[lane], total) for lane in lanes if self._lanes[lane]}
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

    def _fill(self, step: Step, lane: Lane, budget: float, now: float) -> None:
        """Adds rows of a lane's tasks that cost up to `budget`, at least one row."""
        blocked = False
        for task in list(self._lanes[lane]):
            if budget <= 0.0:
                break
            if task.started is None:
                # Without memory for one, nobody behind it starts, or a long text would wait for ever behind short ones.
                # Tasks that have started go on wherever they are in the lane: they hold the memory that it waits for.
                blocked = blocked or not self._start(step, task, budget, now)
                if blocked:
                    continue
            cost = self._take(step, task, budget)
            budget -= cost
            step.cost += cost

    def _start(self, step: Step, task: Task, budget: float, now: float) -> bool:
        """Finds what is cached of the task's text and reserves its memory."""
        sequence, kv = task.sequence, self.kv
        giver, shared = (None, 0) if sequence.ids else self._find_prefix(task)
        leads = False
        if not task.keep and sequence.kv is None and len(task.probes) <= 1:
            lender, length = max((giver, shared), self._find_lender(step, task), key=lambda found: found[1])
            # Those that begin as it does can borrow from it; but then it computes itself what is not worth a copy.
            again = length if length < BATCH_FORK_TOKENS else 0
            leads = task.alike - length >= max(FORK_TOKENS, again)
            rest = (len(task.ids) - length + 1) * self._row_cost(length)
            if lender is not None and length >= FORK_TOKENS and not leads and rest <= budget:
                self._borrow(step, task, lender, length)
                task.started, task.cached = now, length
                return True
        # If its task was cancelled before its first row, it has memory with nothing written; a prefix can be copied into
        # it.
        adopts = giver is not None and sequence.kv is None and kv.is_idle(giver) and giver in self.prefixes
        if giver is not None and adopts and 2 * shared >= len(giver.ids):
            self.prefixes.remove(giver)  # most of it is this text: adopt
            kv.move(giver, sequence, shared)
            sequence.source = None
        elif giver is not None and shared >= (FORK_TOKENS if task.keep else BATCH_FORK_TOKENS):
            sequence.source = giver  # a useful start: copy
            kv.touch(giver)
        else:
            sequence.source = None
        same = common_prefix(sequence.ids, task.ids)
        cost = (len(task.ids) - same + len(task.probes)) * self._row_cost(0)
        needs = task.keep or sequence.kv or sequence.source or cost > budget or len(task.probes) > 1
        if needs or leads:
            slots = min(len(task.ids) + min(max(len(task.probes), 1), MAX_PROBES), kv.max_slots)
            if kv.reserve(sequence, slots):
                task.slots = slots
            elif needs:
                return False
        if sequence.evicted:
            sequence.evicted = False
            self.rebuilds += 1
        sequence.cut(same)
        task.started, task.cached = now, same
        return True

    def _find_prefix(self, task: Task) -> tuple[Sequence | None, int]:
        giver, shared = self.prefixes.longest(task.sequence.owner, task.ids)
        source = task.sequence.source
        if source is not None:
            same = common_prefix(source.ids, task.ids)
            if same > shared:
                return source, same
        return giver, shared

    def _find_lender(self, step: Step, task: Task) -> tuple[Sequence | None, int]:
        """The sequence with memory whose tokens, with those that this step brings it, begin most like the task's; and how
        many are the same."""
        best: tuple[Sequence | None, int] = (None, 0)
        for run in step.runs:
            if run.kv is not None and run.task.sequence.owner == task.sequence.owner:
                same = min(common_prefix(run.task.ids, task.ids), run.stop)
                best = (run.task.sequence, same) if same > best[1] else best
        return best

    def _borrow(self, step: Step, task: Task, lender: Sequence, length: int) -> None:
        """Begins a task without memory in another sequence's."""
        task.sequence.base, task.sequence.ids = lender.kv, task.ids[:length]
        if lender in self.prefixes and lender not in step.lenders:
            self.kv.lend(lender)
            step.lenders.append(lender)

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
        self._take_back(step)
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
        self._take_back(step)
        running, targets = {run.task for run in step.runs}, {id(copy.target) for copy in step.copies}
        for task in [head for lane in self._lanes.values() for head in lane]:
            if task in running or id(task.sequence.kv) in targets:
                self.kv.release(task.sequence)
                self._remove(task)
                task.fail(error)

    def _take_back(self, step: Step) -> None:
        for lender in step.lenders:
            self.kv.take_back(lender)

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
