"""Weights as int8: half the bytes of bfloat16, and products of integers.

Symmetric, with a scale for each output of a matrix and each row of what it is multiplied with, found as the row comes
(as in LLM.int8(), arXiv 2208.07339, without its outliers). A row's scale depends on nothing but the row, and sums of
integers are exact, so a batch gives what its rows give alone.
"""

import torch
from torch import Tensor

from streambed.model.stock.linear import Embedding, Linear

_ROWS = 4096
"""Quantised at once: no second copy of a vocabulary in a larger format ever exists."""


def quantize(rows: Tensor) -> tuple[Tensor, Tensor]:
    """int8 of the rows' shape, and what one is worth in each row: float32 [rows]."""
    rows = rows.float()
    scales = rows.abs().amax(-1) / 127
    return (rows / scales.clamp(min=torch.finfo(torch.float32).tiny)[:, None]).round_().to(torch.int8), scales


class QuantizedLinear(Linear):
    """As `Linear`, whose weight is int8, and its inputs, too, while they are multiplied."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        quantized, self.scales = quantize(weight)
        super().__init__(quantized, bias)

    def __call__(self, x: Tensor) -> Tensor:
        quantized, scales = quantize(x)
        sums = torch._int_mm(quantized, self.weight.T)
        result = sums.float() * scales[:, None] * self.scales
        return (result if self.bias is None else result + self.bias).to(x.dtype)


class QuantizedEmbedding(Embedding):
    """As `Embedding`, with int8 in memory."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__(torch.empty(weight.shape, dtype=torch.int8))
        self.dtype = weight.dtype
        self.scales = torch.empty(len(weight))
        for start in range(0, len(weight), _ROWS):
            some = slice(start, start + _ROWS)
            self.weight[some], self.scales[some] = quantize(weight[some])

    def __call__(self, ids: Tensor) -> Tensor:
        return (self.weight[ids] * self.scales[ids][:, None]).to(self.dtype)
