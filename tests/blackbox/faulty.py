"""`python -m tests.blackbox.faulty serve ...`: the server on a machine that fails when a file says so.

The file of FAULTS holds one word. `raise` and `memory`: steps fail; `nan`: what they compute is not finite; `hang`: they
wait until the file holds something else; a number: the wall clock is off by so many seconds. The server itself has no such
hook.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from streambed.cli.main import main
from streambed.model.cpu.device import CPU
from streambed.model.stock.device import Stock

FAULTS = "FAULTS"
Run = Callable[..., Any]


def word() -> str:
    path = Path(os.environ[FAULTS])
    return path.read_text() if path.exists() else ""


def failing(run: Run) -> Run:
    def run_or_fail(*values: Any, **more: Any) -> Any:
        match word():
            case "raise":
                raise RuntimeError("the device failed")
            case "memory":
                raise MemoryError
            case "nan":
                return np.full_like(run(*values, **more), np.nan)
        while word() == "hang":
            time.sleep(0.01)
        return run(*values, **more)

    return run_or_fail


def jumping(clock: Callable[[], float]) -> Callable[[], float]:
    def now() -> float:
        said = word()
        return clock() + (float(said) if said.lstrip("-").isdigit() else 0.0)

    return now


if __name__ == "__main__":
    for device in (CPU, Stock):
        device.run = failing(device.run)  # type: ignore[method-assign]
    time.time = jumping(time.time)  # type: ignore[assignment]
    main()
