"""A matrix, with the epilogues that a layer needs, and the vocabulary."""

from torch import Tensor
from torch.nn import functional


class Linear:
    """`x @ weight.T + bias`. x: [rows, in], result: [rows, out]."""

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


class Embedding:
    """What each token of the vocabulary starts as: weight [vocabulary, hidden]."""

    def __init__(self, weight: Tensor) -> None:
        self.weight, self.dtype = weight, weight.dtype

    def __call__(self, ids: Tensor) -> Tensor:
        """[rows, hidden]"""
        return self.weight[ids]
