"""What all commands are tested with."""

from __future__ import annotations

import pytest

from streambed.engine.step_budget import StepBudget


@pytest.fixture(autouse=True)
def _nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each command of a test loads an engine of its own; how many rows its steps may have is the same each time."""
    monkeypatch.setattr(StepBudget, "measure", lambda budget, device, window: budget._fixed or budget._set(4096))
