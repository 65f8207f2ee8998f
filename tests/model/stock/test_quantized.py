from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from streambed.model.stock.linear import Linear
from streambed.model.stock.quantized import QuantizedLinear, quantize, quantized


@given(seed=st.integers(0, 99), rows=st.integers(1, 9), size=st.integers(1, 200))
def test_a_value_is_off_by_half_a_step_at_most(seed: int, rows: int, size: int) -> None:
    x = torch.randn(rows, size, generator=torch.Generator().manual_seed(seed)) * 10.0 ** (seed % 7 - 3)
    quantized, scales = quantize(x)
    assert quantized.dtype == torch.int8
    assert int(quantized.abs().max()) == 127, "the largest uses all there is"
    assert ((quantized * scales[:, None] - x).abs() <= 0.5001 * scales[:, None]).all()


def test_a_row_of_zeros() -> None:
    quantized, scales = quantize(torch.zeros(2, 8))
    assert not quantized.any()
    assert not scales.any()


@given(seed=st.integers(0, 99), bias=st.booleans())
def test_a_row_in_a_batch_is_the_row_alone(seed: int, bias: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight, x = torch.randn(24, 72, generator=generator), torch.randn(20, 72, generator=generator)
    linear = QuantizedLinear(*quantize(weight), torch.randn(24, generator=generator) if bias else None)
    whole = linear(x)
    assert torch.equal(whole, torch.cat([linear(row[None]) for row in x]))
    wanted = x @ weight.T + (0 if linear.bias is None else linear.bias)
    assert torch.nn.functional.cosine_similarity(whole, wanted).min() > 0.999


def test_a_matrix_that_would_suffer_stays_as_it_is() -> None:
    """One value that is far from the others sets the scale of its output, and leaves those few steps."""
    weight = torch.randn(600, 256)
    matrix = quantized(weight)
    assert isinstance(matrix, QuantizedLinear)
    assert all(map(torch.equal, (matrix.weight, matrix.scales), quantize(weight)))
    weight[:, 7] *= 30
    before = weight.clone()
    kept = quantized(weight)
    assert type(kept) is Linear
    assert kept.weight is weight
    assert torch.equal(weight, before)


def test_a_matrix_of_zeros() -> None:
    assert not quantized(torch.zeros(4, 8))(torch.ones(2, 8)).any()
