"""KV that the operating system pages in: one contiguous range of virtual addresses, as long as the window.

So growth never copies and attention reads plain strided views: no page tables, no gathers.
"""

import contextlib
import mmap
import sys

import torch
from torch import Tensor

from streambed.model.stock.slab import Slab

CAN_MAP = hasattr(mmap, "MAP_PRIVATE")
"""Whether the operating system pages private mappings in as they are written; Windows has none."""
_MAP_NORESERVE = 0x4000 if sys.platform == "linux" else 0


class MappedSlab(Slab):
    """A slab that takes all of its addresses at once and its memory as it is written."""

    def _larger(self) -> Tensor:
        values = torch.Size(self._shape).numel()
        size = values * self._dtype.itemsize
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE)
        if hasattr(mmap, "MADV_NOHUGEPAGE"):
            # With huge pages one token would commit 2 MiB in every head of every layer. Kernels built without them
            # refuse the advice, and need none.
            with contextlib.suppress(OSError):
                memory.madvise(mmap.MADV_NOHUGEPAGE)
        # The tensor keeps the mapping alive, and dropping it gives the memory back.
        return torch.frombuffer(memory, dtype=self._dtype, count=values).view(self._shape)
