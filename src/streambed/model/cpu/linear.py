"""A matrix, in the memory layout that this processor multiplies fastest.

oneDNN reads weights in its own blocked order; reordering them once at load instead of at every call is worth 1.2 to 4
times (measured, `benchmarks/README.md`), and its epilogues save passes over the activations. Both are torch's own
operators, the ones that its compiler emits for frozen weights; where they are missing, plain PyTorch does the same sums.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from streambed.model.stock.linear import Linear

_ROWS_HINT = 128  # the blocked layout hardly depends on it: packing for 8 rows or for 512 measured the same
# Where PyTorch lacks it, `can_pack` says so and neither of these is called.
_operator = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
_pointwise: Callable[..., Tensor] = getattr(_operator, "default", torch.add)
_binary: Callable[..., Tensor] = getattr(_operator, "binary", torch.add)


class PackedLinear(Linear):
    """As `Linear`, whose weight is in oneDNN's order."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__(torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS_HINT), bias)

    def __call__(self, x: Tensor) -> Tensor:
        return _pointwise(x, self.weight, self.bias, "none", [], "")

    def silu(self, x: Tensor) -> Tensor:
        return _pointwise(x, self.weight, self.bias, "swish", [], "")

    def times(self, x: Tensor, other: Tensor) -> Tensor:
        return _binary(x, other, self.weight, self.bias, "mul")

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        return _binary(x, other, self.weight, self.bias, "add")


def linear(weight: Tensor, bias: Tensor | None = None) -> Linear:
    """The fastest that there is for these values."""
    return PackedLinear(weight, bias) if can_pack(weight.dtype) else Linear(weight, bias)


def can_pack(dtype: torch.dtype) -> bool:
    """Whether oneDNN packs matrices of this format on this processor."""
    if not torch._C._has_mkldnn or _operator is None:
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()))
