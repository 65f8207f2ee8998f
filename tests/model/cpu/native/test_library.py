"""Products and norms in C, against PyTorch's."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from streambed.model.cpu.linear import PackedLinear, can_pack
from streambed.model.cpu.native.library import FORMATS, Library, Matrix


def product(library: Library, linear: PackedLinear, x: torch.Tensor, threads: int = 2) -> np.ndarray:
    layout = linear.layout()
    bias = None if linear.bias is None else linear.bias.float()
    matrix = Matrix(
        weight=layout.pointer, bias=None if bias is None else bias.data_ptr(),
        outputs=layout.outputs, inputs=layout.inputs, block=layout.block, padded=layout.padded,
    )  # fmt: skip
    pool = ctypes.c_void_p(library.open_pool(threads))
    given, found = x.float().numpy(), np.empty((len(x), layout.outputs), dtype=np.float32)
    format_ = FORMATS[str(x.dtype).removeprefix("torch.")]
    library.product(pool, matrix, format_, given.ctypes.data, found.ctypes.data, len(x))
    library.close_pool(pool)
    return found


@pytest.mark.parametrize("dtype", [dtype for dtype in (torch.float32, torch.bfloat16) if can_pack(dtype)])
@settings(max_examples=40)
@given(
    rows=st.integers(1, 40),
    inputs=st.integers(1, 200),
    outputs=st.integers(16, 200),
    bias=st.booleans(),
    seed=st.integers(0, 9),
)
def test_products(
    library: Library, dtype: torch.dtype, rows: int, inputs: int, outputs: int, bias: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(outputs, inputs, generator=generator).to(dtype)
    beside = torch.randn(outputs, generator=generator).to(dtype) if bias else None
    x = torch.randn(rows, inputs, generator=generator).to(dtype)
    wanted = x.double() @ weight.double().T + (0 if beside is None else beside.double())
    found = product(library, PackedLinear(weight.clone(), beside), x)
    # The values of bfloat16 are exact inputs, and sums are taken in float32.
    assert np.abs(found - wanted.numpy()).max() <= 1e-5 * (1 + float(wanted.abs().max())) * inputs**0.5


def test_norm(library: Library) -> None:
    x, weight = torch.randn(5, 72), torch.randn(72)
    found = np.empty((5, 72), dtype=np.float32)
    library.rms_norm(x.data_ptr(), weight.data_ptr(), found.ctypes.data, 5, 72, 1e-6)
    wanted = torch.nn.functional.rms_norm(x, (72,), weight, 1e-6)
    assert np.abs(found - wanted.numpy()).max() < 1e-5


@pytest.mark.parametrize("threads", [1, 2, 3, 9])
def test_a_pool_runs_each_piece_once(library: Library, threads: int) -> None:
    """A piece that ran twice or never would show: outputs are written by pieces, and all are compared."""
    linear = PackedLinear(torch.randn(1000, 64))
    x = torch.randn(7, 64)
    for _ in range(30):
        assert np.allclose(product(library, linear, x, threads), linear(x).numpy(), atol=1e-4)
