"""How many rows a step has, so that a keystroke waits a tenth of a second for others and no longer.

Measured at the start, then followed in real steps: a machine that was busy when the engine started does not stay slow, and
one that becomes busy has smaller steps.
"""

import time

from streambed.model.device import Device, blank_batch

STEP_SECONDS = 0.1
"""How long a step should take: the most that a keystroke waits for others."""
PAUSE_SECONDS = 0.025
"""Longest layer of a step of bulk."""
SHARED_SECONDS = 0.01
"""How long a step should take where others wait for its end, and then for that of the next, which is theirs."""
PATIENCE = 4
"""How much larger a step may be while no session is open: nobody types."""
MIN_ROWS, MAX_ROWS = 64, 8192
_PATIENT_GAIN = 0.8
"""What a row of a patient step takes of a row's time in others: larger steps compute a quarter faster."""
_FULL = 0.5
"""Steps that use less of their budget say little: what a step costs without rows would count too much."""
_DAMPING = 0.3
_MOST = 1.15
"""One step changes the budget by no more than this factor, so that a single stall does little."""


class StepBudget:
    """`rows`: what a step may cost, in rows without context. Used on the engine's thread alone."""

    def __init__(self, rows: int | None = None) -> None:
        """rows: fixed, for patient steps too; None to measure."""
        self._fixed = rows
        self._rows = float(rows or MIN_ROWS)
        self.rate: float | None = None
        """Rows a second, without context, of steps that are full; None until there was one."""

    @property
    def rows(self) -> int:
        return int(self._rows)

    @property
    def shared_rows(self) -> int:
        """Where others than those whose rows it has may come: they wait for its end, and share the step after it."""
        return self._fixed or max(MIN_ROWS, int(self._rows * SHARED_SECONDS / STEP_SECONDS))

    @property
    def patient_rows(self) -> int:
        """Where no keystroke can be waiting."""
        return self._fixed or self.rows * PATIENCE

    def pausing_rows(self, pauses: int) -> int:
        """Rows of a step that pauses so often: as many as what overtakes it can wait for, which is PAUSE_SECONDS."""
        return self._fixed or int(self._rows * max(1.0, PAUSE_SECONDS * (pauses + 1) / STEP_SECONDS))

    def measure(self, device: Device, window: int) -> None:
        """Finds it by steps of texts as long as the window, or as the step; warms the device up on the way."""
        if self._fixed:
            return
        rows = MIN_ROWS
        _time(device, window, rows)
        while True:
            seconds = min(_time(device, window, rows), _time(device, window, rows))
            if seconds >= STEP_SECONDS / 2 or rows >= MAX_ROWS:
                self._set(rows * STEP_SECONDS / seconds)
                self.rate = rows / seconds
                return
            rows *= 4

    def record(self, cost: float, seconds: float) -> None:
        """A step that cost so many rows has taken so long."""
        if cost < _FULL * self._rows:
            return
        rate = cost / max(seconds, 1e-6)
        self.rate = rate if self.rate is None else self.rate + _DAMPING * (rate - self.rate)
        if self._fixed:
            return
        gain = _PATIENT_GAIN if cost > _PATIENT_GAIN * self.patient_rows * _FULL else 1.0
        expected = STEP_SECONDS * gain * cost / self._rows
        change = (expected / max(seconds, 1e-6)) ** _DAMPING
        self._set(self._rows * min(max(change, 1 / _MOST), _MOST))

    def _set(self, rows: float) -> None:
        self._rows = min(max(rows, MIN_ROWS), MAX_ROWS)


def _time(device: Device, window: int, rows: int) -> float:
    """Seconds of a step of so many rows."""
    started = time.perf_counter()
    device.run(blank_batch(rows, window))
    return time.perf_counter() - started
