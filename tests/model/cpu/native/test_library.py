"""Products and norms in C, against PyTorch's."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from streambed.model.cpu.blocks import Blocks
from streambed.model.cpu.native.library import Library
from streambed.model.cpu.steps import aligned
from streambed.model.stock.linear import Linear
from streambed.model.stock.quantized import QuantizedLinear, quantize


def product(library: Library, blocks: Blocks, x: torch.Tensor, threads: int = 2) -> np.ndarray:
    matrix = blocks.describe()
    pool = ctypes.c_void_p(library.open_pool(threads))
    given, found = x.float().numpy(), np.empty((len(x), blocks.outputs), dtype=np.float32)
    operand = aligned(library.operand_bytes(matrix.format, matrix.inputs, len(x)))
    library.product(pool, matrix, given.ctypes.data, found.ctypes.data, len(x), operand.ctypes.data)
    library.close_pool(pool)
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@settings(max_examples=30)
@given(
    rows=st.integers(1, 150),
    inputs=st.integers(1, 200),
    outputs=st.integers(1, 200),
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
    found = product(library, Blocks(Linear(weight, beside)), x)
    # The values of bfloat16 are exact inputs, and sums are taken in float32.
    assert np.abs(found - wanted.numpy()).max() <= 1e-5 * (1 + float(wanted.abs().max())) * inputs**0.5


@settings(max_examples=30)
@given(
    rows=st.integers(1, 150),
    inputs=st.integers(2, 200),  # torch._int_mm is wrong for one
    outputs=st.integers(1, 200),
    bias=st.booleans(),
    seed=st.integers(0, 9),
)
def test_products_of_integers(library: Library, rows: int, inputs: int, outputs: int, bias: bool, seed: int) -> None:
    """Exactly PyTorch's: halves are few among random values, and everything else is rounded the same way."""
    generator = torch.Generator().manual_seed(seed)
    beside = torch.randn(outputs, generator=generator) if bias else None
    linear = QuantizedLinear(*quantize(torch.randn(outputs, inputs, generator=generator)), beside)
    x = torch.randn(rows, inputs, generator=generator) * 10.0 ** torch.randint(-3, 4, (rows, 1), generator=generator)
    x[0] = 0
    found, wanted = torch.from_numpy(product(library, Blocks(linear), x)), linear(x)
    steps = x.abs().amax(-1, keepdim=True) / 127 * linear.scales * 127
    assert ((found - wanted).abs() <= 1e-5 * wanted.abs().max() + 1.01 * steps).all(), (
        "one value rounded otherwise at most"
    )
    assert torch.isclose(found, wanted, rtol=1e-5, atol=1e-5).float().mean() > 0.9


def test_norm(library: Library) -> None:
    x, weight = torch.randn(5, 72), torch.randn(72)
    found = np.empty((5, 72), dtype=np.float32)
    library.rms_norm(x.data_ptr(), weight.data_ptr(), found.ctypes.data, 5, 72, 1e-6)
    wanted = torch.nn.functional.rms_norm(x, (72,), weight, 1e-6)
    assert np.abs(found - wanted.numpy()).max() < 1e-5


@pytest.mark.parametrize("threads", [1, 2, 3, 9])
def test_a_pool_runs_each_piece_once(library: Library, threads: int) -> None:
    """A piece that ran twice or never would show: outputs are written by pieces, and all are compared."""
    linear = Linear(torch.randn(1000, 64))
    blocks, x = Blocks(linear), torch.randn(7, 64)
    for _ in range(30):
        assert np.allclose(product(library, blocks, x, threads), linear(x).numpy(), atol=1e-4)
