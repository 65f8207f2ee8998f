"""Keys and values in int8: half the memory of bfloat16. Steps take as long (reading less and converting more, on a CPU).

A record is a key or a value of one head: a signed byte for each dimension, then, from a multiple of four on, what one is
worth, as a float32. A record depends on its own values alone, so a text has the same ones however it comes; and rows attend
to what their records say even within the step that makes them, so streamed equals one-shot.
"""

import torch
from torch import Tensor
from torch.nn import functional

from streambed.model.stock.quantized import quantize

_SCALE = 4
"""Bytes."""


def record_size(dim: int) -> int:
    """Bytes of a record of so many dimensions."""
    return dim + -dim % _SCALE + _SCALE


def to_records(x: Tensor) -> Tensor:
    """Keys or values [..., dim] as int8 [..., record_size(dim)]."""
    dim = x.shape[-1]
    values, scales = quantize(x.reshape(-1, dim))
    records = functional.pad(values, (0, record_size(dim) - dim))
    records[:, -_SCALE:] = scales[:, None].view(torch.int8)
    return records.view(*x.shape[:-1], -1)


def from_records(records: Tensor, dim: int, dtype: torch.dtype) -> Tensor:
    """What records [..., record_size(dim)] say: [..., dim]."""
    scales = records[..., -_SCALE:].contiguous().view(torch.float32)
    return (records[..., :dim] * scales).to(dtype)
