from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import silu

from streambed.model.cpu.linear import PackedLinear, linear
from streambed.model.stock.linear import Linear

ROWS = (1, 2, 3, 8, 31, 64, 127, 128, 129, 600)
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.02}  # bfloat16: two roundings of 2^-8

Method = Callable[[Linear, Tensor, Tensor], Tensor]
Exact = Callable[[Tensor, Tensor], Tensor]
METHODS: dict[str, tuple[Method, Exact]] = {
    "call": (lambda matrix, x, other: matrix(x), lambda product, other: product),
    "silu": (lambda matrix, x, other: matrix.silu(x), lambda product, other: silu(product)),
    "times": (lambda matrix, x, other: matrix.times(x, other), lambda product, other: product * other),
    "plus": (lambda matrix, x, other: matrix.plus(x, other), lambda product, other: product + other),
}


def check(method: str, rows: int, inputs: int, outputs: int, bias: bool, dtype: torch.dtype, seed: int = 0) -> None:
    """Both forms agree with the sum in float64, and so with each other; neither writes to what it is given."""
    run, exact = METHODS[method]
    generator = torch.Generator().manual_seed(seed)
    weight = (torch.randn(outputs, inputs, generator=generator) * inputs**-0.5).to(dtype)
    offset = torch.randn(outputs, generator=generator).to(dtype) if bias else None
    x = torch.randn(rows, inputs, generator=generator).to(dtype)
    other = torch.randn(rows, outputs, generator=generator).to(dtype)
    kept = [tensor.clone() for tensor in (weight, x, other)]
    product = x.double() @ weight.double().T + (0 if offset is None else offset.double())
    expected = exact(product, other.double())
    for matrix in (linear(weight, offset), Linear(weight, offset)):
        result = run(matrix, x, other)
        assert result.dtype == dtype
        assert result.shape == (rows, outputs)
        assert torch.allclose(result.double(), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    assert all(torch.equal(now, then) for now, then in zip((weight, x, other), kept, strict=True))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_packed_and_unpacked_agree(method: str, bias: bool, dtype: torch.dtype) -> None:
    for rows in ROWS:
        check(method, rows, 64, 96, bias, dtype, seed=rows)


@given(
    method=st.sampled_from(sorted(METHODS)),
    rows=st.integers(1, 600),
    inputs=st.integers(1, 130),
    outputs=st.integers(1, 130),
    bias=st.booleans(),
    dtype=st.sampled_from(list(TOLERANCE)),
    seed=st.integers(0, 99),
)
@settings(max_examples=60)
def test_any_shape(
    method: str, rows: int, inputs: int, outputs: int, bias: bool, dtype: torch.dtype, seed: int
) -> None:
    check(method, rows, inputs, outputs, bias, dtype, seed)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_a_packed_matrix_is_a_copy(dtype: torch.dtype) -> None:
    weight = torch.randn(8, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    matrix = linear(weight)
    if not isinstance(matrix, PackedLinear):
        pytest.skip("not packed on this processor")
    x = torch.eye(8, dtype=dtype)
    before = matrix(x)
    weight.zero_()
    assert before.any()
    assert torch.equal(matrix(x), before)


def test_float16_is_never_packed() -> None:
    assert type(linear(torch.zeros(8, 8, dtype=torch.float16))) is Linear
