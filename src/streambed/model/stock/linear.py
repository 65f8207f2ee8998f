"""A matrix, with the epilogues that a layer needs."""

from torch import Tensor
from torch.nn import functional


class Linear:
    """`x @ weight.T + bias`. x: [rows, in], result: [rows, out]."""

    scales: Tensor | None = None
    """Of a weight in integers: what one is worth in each output."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.weight, self.bias = weight, bias

    def __call__(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight, self.bias)

    def silu(self, x: Tensor) -> Tensor:
        """silu(self(x))"""
        return functional.silu(self(x))

    def times(self, x: Tensor, other: Tensor) -> Tensor:
        """self(x) * other"""
        return self(x) * other

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        """self(x) + other"""
        return self(x) + other
