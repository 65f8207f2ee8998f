"""GPUs of NVIDIA's, by PyTorch's own kernels."""

from contextlib import AbstractContextManager

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from streambed.model.device import Memory
from streambed.model.qwen3 import Operators
from streambed.model.stock.device import Stock
from streambed.model.stock.linear import Linear


def rms_norm(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype | None = None) -> Tensor:
    """As `qwen3.rms_norm`, in one kernel. (On a CPU torch composes this one of more passes than that.)"""
    return functional.rms_norm(x.float(), x.shape[-1:], eps=eps).mul_(weight).to(dtype or x.dtype)


class CUDA(Stock):
    """See `Device`."""

    fused = True
    operators = Operators(Linear, rms_norm)

    def memory(self) -> Memory:
        free, total = torch.cuda.mem_get_info(self._device)
        return Memory(free, total, torch.cuda.memory_reserved(self._device))

    def _kernels(self) -> AbstractContextManager[None]:
        # All but cuDNN's, which compiles a plan for each new shape, and a text that grows has a new one at every append
        # (40 ms each, measured on an H200).
        return sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH])
