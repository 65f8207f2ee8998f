"""CPUs: packed matrices, memory that is paged in, and few threads where few rows run."""

import mmap
import time

import torch

from streambed.model.checkpoint import Checkpoint, Qwen3Config
from streambed.model.cpu.linear import linear
from streambed.model.cpu.slab import CAN_MAP, MappedSlab
from streambed.model.cpu.threads import SMALL_NETWORK, Threads
from streambed.model.device import Batch, Vectors, blank_batch
from streambed.model.qwen3 import Operators, rms_norm
from streambed.model.stock.device import Stock
from streambed.model.stock.slab import Slab


class CPU(Stock):
    """See `Device`."""

    fused = True
    operators = Operators(linear, rms_norm)
    slabs = MappedSlab if CAN_MAP else Slab

    def __init__(self, config: Qwen3Config, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(config, device, dtype)
        if CAN_MAP:  # pages fill as slots are written, one page per head and layer at a time
            self.slots_per_page = max(1, mmap.PAGESIZE // (config.head_dim * dtype.itemsize))
        self.choice = Threads(self.threads)

    @property
    def multiplies(self) -> bool:
        # The fused kernel does not use the matrix units. bf16 scores cost a little precision, so only where they win by a
        # factor.
        return self._dtype == torch.bfloat16

    def load(self, checkpoint: Checkpoint, end_id: int) -> str:
        digest = super().load(checkpoint, end_id)
        if self._config.num_weights < SMALL_NETWORK:
            self._time(1)
            self.choice.measure(self._time)
            self.single_thread_rows = self.choice.single_rows
        return digest

    def run(self, batch: Batch) -> Vectors:
        cost = sum((len(ids) + len(probes)) * self.row_cost(start + len(ids)) for ids, start, probes, _ in batch.parts)
        with self.choice.for_rows(cost):
            return super().run(batch)

    def _time(self, rows: int) -> float:
        """Seconds that so many rows take."""
        started = time.perf_counter()
        super().run(blank_batch(rows, len(self.network.rotary)))
        return time.perf_counter() - started
