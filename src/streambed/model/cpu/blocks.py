"""A matrix as the C library reads it: in blocks of 64 outputs, each with all of its inputs, in groups of four bytes.

A group is a float, two of bfloat16 or four of int8, which is what an instruction for products takes from each of sixteen
outputs, so those lie side by side. Matrix units (AMX) load the same blocks as tiles.
"""

import torch
from torch import Tensor
from torch.nn import functional

from streambed.model.cpu.native.library import FORMATS, Matrix
from streambed.model.stock.linear import Linear

BLOCK = 64
_UNIT = 64
"""Bytes that the inputs of an output are padded to a multiple of: a row of a tile."""


class Blocks(Linear):
    """A matrix that only C multiplies with."""

    def __init__(self, plain: Linear) -> None:
        weight, bias = plain.weight, plain.bias

        def whole(values: Tensor) -> Tensor:
            return functional.pad(values, (0, -len(values) % BLOCK))

        self.outputs, self.inputs = weight.shape
        self.format = FORMATS[str(weight.dtype).removeprefix("torch.")]
        self.offsets = None
        if plain.scales is not None:
            # All at once, it would convert a copy of the matrix.
            sums = [weight[at : at + BLOCK].sum(-1, dtype=torch.int32) for at in range(0, self.outputs, BLOCK)]
            self.scales, self.offsets = whole(plain.scales), whole(128 * torch.cat(sums))
        super().__init__(pack(weight), None if bias is None else whole(bias.float()))

    def __call__(self, x: Tensor) -> Tensor:
        raise AssertionError("these blocks are for C")

    def describe(self) -> Matrix:
        """For C; valid as long as this is."""
        return Matrix(
            self.weight.data_ptr(), *map(_pointer, (self.bias, self.scales, self.offsets)), self.format, self.outputs,
            self.inputs, BLOCK, self.weight[0, :, 0].numel(),
        )  # fmt: skip


def pack(weight: Tensor) -> Tensor:
    """[outputs, inputs] as [blocks, groups, BLOCK, values of a group], padded with zeros."""
    outputs, inputs = weight.shape
    size = weight.element_size()
    padded = functional.pad(weight, (0, -inputs % (_UNIT // size), 0, -outputs % BLOCK))
    groups = padded.view(torch.int32).view(len(padded) // BLOCK, BLOCK, -1).transpose(1, 2)
    return groups.contiguous().view(weight.dtype).view(*groups.shape, 4 // size)


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
