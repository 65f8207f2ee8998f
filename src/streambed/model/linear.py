"""A matrix, in the memory layout that this processor multiplies fastest.

oneDNN reads weights in its own blocked order; reordering them once at load instead of at every call is worth 1.2 to 4
times (measured, `benchmarks/README.md`), and its epilogues save passes over the activations. Both are torch's own
operators, the ones that its compiler emits for frozen weights; where they are missing, plain PyTorch does the same sums.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

_ROWS_HINT = 128  # the blocked layout hardly depends on it: packing for 8 rows or for 512 measured the same


class Linear:
    """`x @ weight.T + bias` with the epilogues that a Qwen3 layer needs. x: [rows, in], result: [rows, out]."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.bias = bias
        self.packed = _can_pack(weight)
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS_HINT) if self.packed else weight

    def __call__(self, x: Tensor) -> Tensor:
        if self.packed:
            result: Tensor = _pointwise(x, self.weight, self.bias, "none", [], "")
            return result
        return functional.linear(x, self.weight, self.bias)

    def silu(self, x: Tensor) -> Tensor:
        """silu(self(x))"""
        if self.packed:
            result: Tensor = _pointwise(x, self.weight, self.bias, "swish", [], "")
            return result
        return functional.silu(functional.linear(x, self.weight, self.bias))

    def times(self, x: Tensor, other: Tensor) -> Tensor:
        """self(x) * other"""
        if self.packed:
            result: Tensor = _pointwise.binary(x, other, self.weight, self.bias, "mul")
            return result
        return functional.linear(x, self.weight, self.bias) * other

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        """self(x) + other"""
        if self.packed:
            result: Tensor = _pointwise.binary(x, other, self.weight, self.bias, "add")
            return result
        return functional.linear(x, self.weight, self.bias) + other


_pointwise: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)


def _can_pack(weight: Tensor) -> bool:
    if weight.device.type != "cpu" or not torch._C._has_mkldnn or _pointwise is None:
        return False
    return weight.dtype == torch.float32 or (
        weight.dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )
