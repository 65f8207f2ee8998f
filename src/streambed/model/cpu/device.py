"""CPUs: native kernels for small steps, packed matrices, memory that is paged in, and few threads where few rows run."""

import mmap
import time
from collections.abc import Callable

import torch

from streambed.model.checkpoint import Checkpoint, Qwen3Config
from streambed.model.cpu.linear import linear
from streambed.model.cpu.native.build import BuildError, open_library
from streambed.model.cpu.slab import CAN_MAP, MappedSlab
from streambed.model.cpu.small_steps import SmallSteps
from streambed.model.cpu.threads import SMALL_NETWORK, Threads
from streambed.model.device import Batch, Kernels, Vectors, blank_batch
from streambed.model.qwen3 import Operators, rms_norm
from streambed.model.stock.device import Rows, Stock
from streambed.model.stock.slab import Slab


class CPU(Stock):
    """See `Device`."""

    fused = True
    operators = Operators(linear, rms_norm)
    slabs = MappedSlab if CAN_MAP else Slab

    def __init__(
        self, config: Qwen3Config, device: torch.device, dtype: torch.dtype, kernels: Kernels = "auto"
    ) -> None:
        super().__init__(config, device, dtype, kernels)
        if CAN_MAP:  # pages fill as slots are written, one page per head and layer at a time
            self.slots_per_page = max(1, mmap.PAGESIZE // (config.head_dim * dtype.itemsize))
        self.choice = Threads(self.threads)
        self._small_steps: SmallSteps | None = None
        self.pauses = config.num_layers - 1

    @property
    def multiplies(self) -> bool:
        # The fused kernel does not use the matrix units. bf16 scores cost a little precision, so only where they win by a
        # factor.
        return self._dtype == torch.bfloat16

    def load(self, checkpoint: Checkpoint, end_id: int) -> str:
        digest = super().load(checkpoint, end_id)
        if self._native:
            try:
                self._small_steps = SmallSteps(open_library(), self.network, self.threads)
                self.kernels = "native"
            except (BuildError, ValueError) as error:  # plain PyTorch computes the same, more slowly
                self.kernels = f"torch; native ones are not there: {error}"
        if self._small_steps is None and self._config.num_weights < SMALL_NETWORK:
            self._time(1)
            self.choice.measure(self._time)
            self.single_thread_rows = self.choice.single_rows
        return digest

    def run(self, batch: Batch, between: Callable[[], None] | None = None) -> Vectors:
        cost = sum((len(ids) + len(probes)) * self.row_cost(start + len(ids)) for ids, start, probes, _ in batch.parts)
        with self.choice.for_rows(cost):
            return super().run(batch, between)

    def _forward(self, rows: Rows, between: Callable[[], None] | None) -> Vectors:
        if self._small_steps is not None and self._small_steps.fits(rows):
            return self._small_steps.forward(rows)
        return super()._forward(rows, between)

    def _time(self, rows: int) -> float:
        """Seconds that so many rows take."""
        started = time.perf_counter()
        super().run(blank_batch(rows, len(self.network.rotary)))
        return time.perf_counter() - started
