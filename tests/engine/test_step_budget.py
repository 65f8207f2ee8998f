"""How many rows a step has: measured at the start, then followed in real steps."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from streambed.engine import step_budget
from streambed.engine.step_budget import MAX_ROWS, MIN_ROWS, STEP_SECONDS, StepBudget
from streambed.model.device import Batch, Vectors


class Machine:
    """A device that takes the time that a test says, by a clock of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: Callable[[int], float]) -> None:
        self.now, self.seconds = 0.0, seconds
        self.batches: list[list[int]] = []
        monkeypatch.setattr(step_budget.time, "perf_counter", lambda: self.now)

    def run(self, batch: Batch) -> Vectors:
        sizes = [len(part.ids) + len(part.probes) for part in batch.parts]
        self.batches.append(sizes)
        self.now += self.seconds(sum(sizes))
        return np.empty((0, 1), dtype=np.float32)


@pytest.mark.parametrize("window", [64, 100, 512, 40_000])
@pytest.mark.parametrize(("each", "rows"), [(1.0, 64), (0.001, 100), (1e-4, 1000), (1e-9, 8192)])
def test_measured_at_the_start(monkeypatch: pytest.MonkeyPatch, each: float, rows: int, window: int) -> None:
    """By texts that fit in the window, so that rows that were asked for are rows that ran."""
    machine, budget = Machine(monkeypatch, lambda rows: rows * each), StepBudget()
    budget.measure(machine, window)  # type: ignore[arg-type]
    assert budget.rows == pytest.approx(rows, rel=0.01)
    assert budget.patient_rows == 4 * budget.rows
    assert all(size <= window for sizes in machine.batches for size in sizes)


def test_what_is_fixed_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    machine, budget = Machine(monkeypatch, lambda rows: 1.0), StepBudget(48)
    budget.measure(machine, 512)  # type: ignore[arg-type]
    for _ in range(20):
        budget.record(48, 10.0)
    assert (budget.rows, budget.patient_rows, machine.batches) == (48, 48, [])


def run(budget: StepBudget, seconds: Callable[[float], float], steps: int, patient: bool = False) -> float:
    """Full steps; returns how long the last one took."""
    took = 0.0
    for _ in range(steps):
        rows = budget.patient_rows if patient else budget.rows
        took = seconds(rows)
        budget.record(rows, took)
    return took


@pytest.mark.parametrize("patient", [False, True])
def test_a_machine_that_was_busy_at_the_start_does_not_stay_slow(patient: bool) -> None:
    budget = StepBudget()  # 64 rows, as if nothing had been faster
    fixed = 0.01

    def seconds(rows: float) -> float:
        return fixed + rows * 2e-4 * (0.8 if patient else 1.0)

    run(budget, seconds, 60, patient)
    assert seconds(budget.rows) == pytest.approx(STEP_SECONDS, rel=0.25)


def test_a_machine_that_becomes_busy_has_smaller_steps() -> None:
    budget = StepBudget()
    run(budget, lambda rows: rows * 1e-4, 100)
    assert budget.rows == pytest.approx(1000, rel=0.1)
    assert run(budget, lambda rows: rows * 5e-4, 100) == pytest.approx(STEP_SECONDS, rel=0.1)


def test_one_stall_does_little() -> None:
    budget = StepBudget()
    run(budget, lambda rows: rows * 1e-4, 100)
    before = budget.rows
    budget.record(budget.rows, 30.0)
    assert budget.rows > 0.8 * before


def test_steps_of_few_rows_say_nothing() -> None:
    budget = StepBudget()
    run(budget, lambda rows: rows * 1e-4, 100)
    before = budget.rows
    for _ in range(100):
        budget.record(5, 0.02)
    assert budget.rows == before


def test_it_stays_within_bounds() -> None:
    budget = StepBudget()
    run(budget, lambda rows: 0.0, 200)
    assert budget.rows == MAX_ROWS
    run(budget, lambda rows: 60.0, 200)
    assert budget.rows == MIN_ROWS
