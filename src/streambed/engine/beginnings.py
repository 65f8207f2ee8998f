"""With what a text begins: with KV that it has, takes over, copies, or reads where it lies in another text's memory."""

from collections.abc import Callable

from streambed.engine.kv import MAX_PROBES, KVMemory
from streambed.engine.prefix_cache import PrefixCache
from streambed.engine.sequence import Sequence, Step, Task
from streambed.text.strings import common_prefix

FORK_TOKENS = 4
"""Shorter beginnings are computed again."""
BATCH_FORK_TOKENS = 64
"""As much must be in common with a text of a batch that needs memory of its own: to be copied, which is not for nothing."""


class Beginnings:
    """Starts tasks. Touched by the engine thread alone."""

    def __init__(self, kv: KVMemory, prefixes: PrefixCache, row_cost: Callable[[int], float]) -> None:
        self._kv, self._prefixes, self._row_cost = kv, prefixes, row_cost
        self.rebuilds = 0
        """Sequences that were evicted and began again."""

    def begin(self, step: Step, task: Task, budget: float, now: float) -> bool:
        """Finds what is cached of the task's text and reserves its memory."""
        sequence, kv = task.sequence, self._kv
        sequence.kept = task.keep
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
        adopts = giver is not None and sequence.kv is None and kv.is_idle(giver) and giver in self._prefixes
        if giver is not None and adopts and 2 * shared >= len(giver.ids):
            self._prefixes.remove(giver)  # most of it is this text: adopt
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

    def end(self, step: Step) -> None:
        """The step has ended, well or not."""
        for lender in step.lenders:
            self._kv.take_back(lender)

    def _find_prefix(self, task: Task) -> tuple[Sequence | None, int]:
        giver, shared = self._prefixes.longest(task.sequence.owner, task.ids)
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
        if lender in self._prefixes and lender not in step.lenders:
            self._kv.lend(lender)
            step.lenders.append(lender)
