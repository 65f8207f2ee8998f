"""A device that runs the network in plain PyTorch. Others replace what they do better."""

import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import numpy as np
import torch

from streambed.model.checkpoint import Checkpoint, Qwen3Config
from streambed.model.device import Batch, Choices, Memory, Vectors
from streambed.model.qwen3 import Operators, Qwen3, rms_norm
from streambed.model.stock.attention import Span, attend, plan
from streambed.model.stock.linear import Linear
from streambed.model.stock.quantized import quantized
from streambed.model.stock.records import record_size
from streambed.model.stock.slab import GROWTH, Slab
from streambed.model.weights import load_network


class Rows(NamedTuple):
    """The rows of a run, one after another."""

    ids: Sequence[int]
    positions: Sequence[int]
    spans: Sequence[Span]
    """Which of them belong together, in their order."""
    wanted: Sequence[int]
    """Those whose final hidden states are asked for."""


class Stock:
    """See `Device`. What it asks of PyTorch is what any of its backends has: for attention, plain products."""

    fused = False
    """Whether attention may use the fused kernels, grouped heads included."""
    operators = Operators(Linear, rms_norm)
    slabs: type[Slab] = Slab
    slots_per_page = GROWTH
    single_thread_rows = 0
    pauses = 0
    full_matrices = 0
    kernels: str = "torch"

    def __init__(
        self,
        config: Qwen3Config,
        device: torch.device,
        dtype: torch.dtype,
        choices: Choices = Choices(),  # noqa: B008
    ) -> None:
        """Of the choices, kernels are the CPU's affair."""
        self.name, self.dtype = str(device), str(dtype).removeprefix("torch.")
        self._choices = choices
        self._kv_dtype = torch.int8 if choices.kv_dtype == "int8" else dtype
        self.kv_dtype = str(self._kv_dtype).removeprefix("torch.")
        self._slot_bytes = record_size(config.head_dim) if self._quantizes_kv else config.head_dim * dtype.itemsize
        """Of a key or value of one head."""
        self.bytes_per_slot = 2 * config.num_layers * config.num_kv_heads * self._slot_bytes
        self.padding = 0
        self.threads = torch.get_num_threads()
        self.network: Qwen3
        self._end_id = 0
        self._config, self._device, self._dtype = config, device, dtype
        if choices.quantize == "int8":
            self.operators = self.operators._replace(linear=quantized)
        attention = 4 * config.num_heads * config.head_dim * config.num_layers
        # Attention runs at about half the speed of the big matrices (measured at 5,000 tokens of context).
        self._context_cost = 2.0 * attention / (2 * config.num_weights)

    @property
    def multiplies(self) -> bool:
        """Whether plain products beat the fused kernel where rows are many."""
        return not self.fused

    @property
    def _quantizes_kv(self) -> bool:
        return self._kv_dtype == torch.int8

    def memory(self) -> Memory | None:
        """As `Device.memory`."""
        return None

    def load(self, checkpoint: Checkpoint, end_id: int) -> str:
        """As `Device.load`."""
        self._end_id = end_id
        self.network, digest = load_network(checkpoint, self._dtype, self._device, self.operators)
        if self._choices.quantize != "none":
            matrices = [
                each for layer in self.network.layers for each in vars(layer).values() if isinstance(each, Linear)
            ]
            self.full_matrices = sum(matrix.scales is None for matrix in matrices)
        return digest

    def new_kv(self, slots: int) -> Slab:
        """As `Device.new_kv`."""
        return self.slabs(self._config, slots, self._kv_dtype, self._device)

    def row_cost(self, context: int) -> float:
        """As `Device.row_cost`."""
        return 1.0 + context * self._context_cost

    def run(self, batch: Batch, between: Callable[[], None] | None = None) -> Vectors:
        """As `Device.run`."""
        for target in (*(copy.target for copy in batch.copies), *(part.kv for part in batch.parts)):
            if target is not None:
                _slab(target).back()
        for copy in batch.copies:
            _slab(copy.target).copy(_slab(copy.source), copy.start, copy.stop)
        ids: list[int] = []
        positions: list[int] = []
        wanted: list[int] = []
        spans: list[Span] = []
        for rows, start, probes, kv, base in batch.parts:
            first, stop = len(ids), start + len(rows)
            ids += rows
            positions += range(start, stop)
            wanted += range(len(ids), len(ids) + len(probes))
            ids += [self._end_id] * len(probes)
            positions += probes
            assert kv is None or base is None, "who has memory begins there"
            memory = next((_slab(each).kv for each in (kv, base) if each is not None), None)
            # One probe behind the last row is plain causal order. Others must not see the rows after their place: a span
            # of their own, so that the rows keep a kernel without a mask.
            apart = bool(probes) and (len(probes) > 1 or probes[0] != stop)
            assert kv is not None or not apart, "a text without memory has one probe, at its end"
            end = first + len(rows) + (0 if apart else len(probes))
            if end > first:
                spans.append(Span(first, end, start, memory, borrows=base is not None))
            if apart:
                spans.append(Span(end, len(ids), stop, memory, probes))
        return self._forward(Rows(ids, positions, spans, wanted), between)

    def _forward(self, rows: Rows, between: Callable[[], None] | None) -> Vectors:
        config, device = self._config, self._device
        if not rows.ids:
            return np.empty((0, config.hidden_size), dtype=np.float32)
        heads, kernels = (config.num_heads, config.num_kv_heads), (self.fused, self.multiplies)
        how = plan(rows.spans, *heads, self._dtype, device, *kernels, self._quantizes_kv)
        self.padding += how.padding
        with torch.inference_mode(), self._kernels():
            hidden = self.network.forward(
                torch.tensor(rows.ids, device=device),
                torch.tensor(rows.positions, device=device),
                functools.partial(attend, how),
                torch.tensor(rows.wanted, dtype=torch.int64, device=device),
                between,
            )
            vectors: Vectors = hidden.cpu().numpy()
        return vectors

    def _kernels(self) -> AbstractContextManager[None]:
        """Within it, PyTorch may use the kernels that are wanted here."""
        return nullcontext()


def _slab(kv: object) -> Slab:
    assert isinstance(kv, Slab), "a device gets back what it gave"
    return kv
