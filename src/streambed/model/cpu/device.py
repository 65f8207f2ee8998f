"""CPUs: steps in C, memory that is paged in; where C cannot be built, packed matrices and few threads where few rows run."""

import mmap
import sys
import time
from collections.abc import Callable

import torch

from streambed.model.checkpoint import Checkpoint, Qwen3Config
from streambed.model.cpu.blocks import Blocks
from streambed.model.cpu.linear import linear
from streambed.model.cpu.native.build import BuildError, open_library
from streambed.model.cpu.native.library import Library
from streambed.model.cpu.slab import CAN_MAP, MappedSlab
from streambed.model.cpu.steps import NativeSteps, unfit
from streambed.model.cpu.threads import SMALL_NETWORK, Threads
from streambed.model.device import Batch, Choices, Vectors, blank_batch
from streambed.model.qwen3 import Operators, rms_norm
from streambed.model.stock.device import Rows, Stock
from streambed.model.stock.linear import Linear
from streambed.model.stock.quantized import quantized
from streambed.model.stock.slab import Slab


class CPU(Stock):
    """See `Device`."""

    fused = True
    operators = Operators(linear, rms_norm)
    slabs = MappedSlab if CAN_MAP else Slab

    def __init__(
        self,
        config: Qwen3Config,
        device: torch.device,
        dtype: torch.dtype,
        choices: Choices = Choices(),  # noqa: B008
    ) -> None:
        super().__init__(config, device, dtype, choices)
        if CAN_MAP:  # pages fill as slots are written, one page per head and layer at a time
            self.slots_per_page = max(1, mmap.PAGESIZE // self._slot_bytes)
        self.choice = Threads(self.threads)
        self.pauses = config.num_layers - 1
        self._steps: NativeSteps | None = None
        self._library = self._open() if choices.kernels == "auto" else None

    @property
    def multiplies(self) -> bool:
        # The fused kernel does not use the matrix units. bf16 scores cost a little precision, so only where they win by a
        # factor.
        return self._dtype == torch.bfloat16

    def _open(self) -> Library | None:
        """The library, where there is one that knows such a network; else `kernels` says why not."""
        if reason := unfit(self._config):
            self.kernels = f"torch; native ones do not know {reason}"
            return None
        try:
            library = open_library()
        except BuildError as error:  # plain PyTorch computes the same, more slowly
            self.kernels = f"torch; native ones are not there: {error}"
            return None
        self.kernels = "native"
        plain = quantized if self._choices.quantize == "int8" else Linear

        def blocks(weight: torch.Tensor, bias: torch.Tensor | None = None) -> Linear:
            return Blocks(plain(weight, bias))

        self.operators = self.operators._replace(linear=blocks)
        return library

    def load(self, checkpoint: Checkpoint, end_id: int) -> str:
        digest = super().load(checkpoint, end_id)
        if self._library is not None:
            self._steps = NativeSteps(self._library, self.network, self.threads, self._quantizes_kv)
            # What is left to PyTorch is little, and its idle threads would go on spinning.
            self.choice.single_rows = sys.maxsize
        elif self._config.num_weights < SMALL_NETWORK:
            self._time(1)
            self.choice.measure(self._time)
            self.single_thread_rows = self.choice.single_rows
        return digest

    def run(self, batch: Batch, between: Callable[[], None] | None = None) -> Vectors:
        cost = sum((len(ids) + len(probes)) * self.row_cost(start + len(ids)) for ids, start, probes, *_ in batch.parts)
        with self.choice.for_rows(cost):
            return super().run(batch, between)

    def _forward(self, rows: Rows, between: Callable[[], None] | None) -> Vectors:
        if self._steps is not None and rows.ids:
            return self._steps.forward(rows, between)
        return super()._forward(rows, between)

    def _time(self, rows: int) -> float:
        """Seconds that so many rows take."""
        started = time.perf_counter()
        super().run(blank_batch(rows, len(self.network.rotary)))
        return time.perf_counter() - started
