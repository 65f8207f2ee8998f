"""A scheduler without a network, a thread, or a clock but the test's."""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakKeyDictionary

import numpy as np
import torch

from streambed.engine.kv import KVMemory
from streambed.engine.prefix_cache import PrefixCache
from streambed.engine.scheduler import Scheduler
from streambed.engine.sequence import Lane, Sequence, Step, Task
from streambed.engine.step_budget import StepBudget
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
        """pauses: so often a step can be overtaken, where `between` is called. A layer of such a step takes a second, as
        does a whole step of another kind."""
        step = self.scheduler.schedule(self.now, pauses=pauses)
        self.write(step)
        for _ in range(pauses if step.pauses else 0):
            self.scheduler.charge(step, 1.0)
            between()
            overtaking = self.scheduler.overtake(self.now, step)
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
        self.scheduler.charge(step, 1.0)
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


def request(one: Simulation, texts: list[list[int]], lane: Lane = Lane.QUERY) -> list[Task]:
    tasks = [Task(Sequence("", transient=True), ids, (len(ids),), lane, one.now, keep=False) for ids in texts]
    one.scheduler.submit(tasks)
    return tasks
