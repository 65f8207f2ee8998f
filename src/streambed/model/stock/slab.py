"""KV in one piece, which grows by a copy."""

import torch
from torch import Tensor

from streambed.model.checkpoint import Qwen3Config
from streambed.model.stock.records import record_size

GROWTH = 64
"""Slots that a slab grows by. Doubling would copy less, but hold up to twice what the budget counts; copying all of 8,000
tokens of 0.6B takes an H200 half a millisecond, once in 64 tokens."""


class Slab:
    """KV of one sequence: [layers, 2, kv_heads, slots, head_dim], heads-major, so that a head's keys are contiguous. In int8
    the last dimension is that of records."""

    def __init__(self, config: Qwen3Config, slots: int, dtype: torch.dtype, device: torch.device) -> None:
        size = record_size(config.head_dim) if dtype == torch.int8 else config.head_dim
        self._shape = (config.num_layers, 2, config.num_kv_heads, slots, size)
        self._dtype, self._device = dtype, device
        self.written = 0
        self.kv = self._empty(0)

    def grow(self, slots: int) -> None:
        """As `KV.grow`."""
        self.written = max(self.written, slots)

    def back(self) -> None:
        """Takes the memory for what is about to be written. Raises torch.OutOfMemoryError, OSError."""
        if self.written > self.kv.shape[3]:
            self.kv = self._larger()

    def copy(self, source: "Slab", start: int, stop: int) -> None:
        self.kv[:, :, :, start:stop] = source.kv[:, :, :, start:stop]

    def _larger(self) -> Tensor:
        larger = self._empty(min(-(-self.written // GROWTH) * GROWTH, self._shape[3]))
        larger[:, :, :, : self.kv.shape[3]] = self.kv
        return larger

    def _empty(self, slots: int) -> Tensor:
        return torch.empty((*self._shape[:3], slots, self._shape[4]), dtype=self._dtype, device=self._device)
