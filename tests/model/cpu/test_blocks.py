from __future__ import annotations

import pytest
import torch

from streambed.model.cpu.blocks import BLOCK, Blocks, pack
from streambed.model.stock.linear import Linear


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
@pytest.mark.parametrize("shape", [(64, 64), (1, 1), (65, 130), (200, 72)])
def test_where_each_weight_lies(dtype: torch.dtype, shape: tuple[int, int]) -> None:
    weight = torch.randint(-100, 100, shape).to(dtype)
    packed = pack(weight)
    values = 4 // weight.element_size()
    assert packed.shape[1:] == (packed.shape[1], BLOCK, values)
    assert packed.shape[1] % 16 == 0, "whole tiles"
    for output in {0, shape[0] // 2, shape[0] - 1}:
        lies = packed[output // BLOCK, :, output % BLOCK].flatten()
        assert torch.equal(lies[: shape[1]], weight[output])
        assert not lies[shape[1] :].any(), "padded with zeros"


def test_pytorch_does_not_multiply_with_them() -> None:
    with pytest.raises(AssertionError):
        Blocks(Linear(torch.randn(4, 4)))(torch.randn(1, 4))
