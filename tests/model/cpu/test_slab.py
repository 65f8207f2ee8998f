"""KV that is paged in as it is written."""

from __future__ import annotations

import torch

from streambed.model.checkpoint import Qwen3Config
from streambed.model.cpu.slab import MappedSlab
from streambed.model.stock.slab import Slab

CPU = torch.device("cpu")


def test_pages_come_when_written() -> None:
    def resident() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096

    config = Qwen3Config(100, 64, 96, 28, 16, 8, 128, 32768, 1e-6, 1e6, False)
    slab = MappedSlab(config, 32768, torch.bfloat16, CPU)
    assert slab.kv.nbytes == 0
    slab.grow(16)
    slab.back()
    before = resident()
    assert slab.kv.nbytes > 3 << 30
    slab.kv[:, :, :, :16] = 1
    assert resident() - before < 8 << 20
    copy = MappedSlab(config, 32768, torch.bfloat16, CPU)
    copy.grow(16)
    copy.back()
    copy.copy(slab, 4, 16)
    assert copy.kv[27, 1, 7, 4:16].eq(1).all()
    assert copy.kv[27, 1, 7, :4].eq(0).all()


def test_systems_without_private_mappings_grow_by_a_copy() -> None:
    slab = Slab(Qwen3Config(100, 64, 96, 2, 4, 2, 16, 512, 1e-6, 1e6, False), 500, torch.float32, CPU)
    slab.grow(3)
    slab.back()
    slab.kv[:, :, :, :3] = 1
    slab.grow(65)
    slab.back()
    assert slab.kv.shape[3] == 128
    assert slab.kv[:, :, :, :3].eq(1).all()
