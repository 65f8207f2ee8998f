"""Matrices in int8: half the bytes of bfloat16, and products of integers.

Symmetric, with a scale for each output of a matrix and each row of what it is multiplied with, found as the row comes
(as in LLM.int8(), arXiv 2208.07339, without its outliers). A row's scale depends on nothing but the row, and sums of
integers are exact, so a batch gives what its rows give alone. The vocabulary stays as it is: a step reads only its own rows
of it, and of the built-in model's parts it suffers second most.
"""

import torch
from torch import Tensor

from streambed.model.stock.linear import Linear

MOST_ERROR = 0.015
"""Of a matrix, relative. Values that are normally distributed have half of it; outliers, which set an output's scale, more.
Three of the built-in model's twenty matrices have such (queries, keys and values of the first two layers, and the first
one's output): in int8 the worst cosine to full precision is 0.986 with them and 0.9997 without."""

_PART = 256
"""Outputs that are quantised at once."""


class QuantizedLinear(Linear):
    """As `Linear`, whose weight is int8, and its inputs, too, while they are multiplied."""

    def __init__(self, weight: Tensor, scales: Tensor, bias: Tensor | None = None) -> None:
        """weight: int8 [out, in]; scales: [out]."""
        super().__init__(weight, bias)
        self.scales: Tensor = scales

    def __call__(self, x: Tensor) -> Tensor:
        integers, scales = quantize(x)
        result = torch._int_mm(integers, self.weight.T).float() * scales[:, None] * self.scales
        return (result if self.bias is None else result + self.bias).to(x.dtype)


def quantized(weight: Tensor, bias: Tensor | None = None) -> Linear:
    """A matrix in int8, unless that would distort it by more than `MOST_ERROR`."""
    integers, scales = torch.empty_like(weight, dtype=torch.int8), torch.empty(len(weight))
    lost = whole = 0.0
    for at in range(0, len(weight), _PART):  # in floats, all at once would take four to eight times its memory
        part = slice(at, at + _PART)
        values = weight[part].float()
        integers[part], scales[part] = quantize(values)
        whole += float(torch.linalg.vector_norm(values)) ** 2
        lost += float(torch.linalg.vector_norm(values.addcmul(integers[part], scales[part, None], value=-1))) ** 2
    if lost > MOST_ERROR**2 * whole:
        return Linear(weight, bias)
    return QuantizedLinear(integers, scales, bias)


def quantize(rows: Tensor) -> tuple[Tensor, Tensor]:
    """int8 of the rows' shape, and what one is worth in each row: float32 [rows]."""
    rows = rows.float()
    scales = rows.abs().amax(-1) / 127
    return (rows / scales.clamp(min=torch.finfo(torch.float32).tiny)[:, None]).round_().to(torch.int8), scales
