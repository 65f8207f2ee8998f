"""A run that pauses between layers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from streambed.model.checkpoint import find_checkpoint
from streambed.model.cpu.device import CPU
from streambed.model.device import KV, Batch, Part


def test_what_runs_between_two_layers_changes_nothing(tiny_checkpoint: Path) -> None:
    """Neither its own vectors nor those of the run that waits; large and small, native and not."""
    checkpoint = find_checkpoint(str(tiny_checkpoint))
    device = CPU(checkpoint.config, torch.device("cpu"), torch.float32)
    device.load(checkpoint, 0)
    assert device.pauses == checkpoint.config.num_layers - 1 == 1

    def part(first: int, rows: int, kv: KV | None = None) -> Part:
        if kv is not None:
            kv.grow(rows + 1)
        return Part([first, *range(1, rows)], 0, (rows,), kv)

    large = Batch([part(7, 40, device.new_kv(64)), part(9, 20), part(5, 30, device.new_kv(64))], [])
    others = [Batch([part(3, rows, device.new_kv(64))], []) for rows in (2, 50)]
    alone = [device.run(batch) for batch in (large, *others)]
    within: list[np.ndarray] = []
    found = device.run(large, lambda: within.extend(device.run(batch) for batch in others))
    assert np.array_equal(found, alone[0])
    for one, other in zip(within, alone[1:], strict=True):
        assert np.array_equal(one, other)
