from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from streambed.model.stock.records import from_records, record_size, to_records


@given(seed=st.integers(0, 99), dim=st.integers(1, 130), rows=st.integers(1, 5))
def test_what_a_record_says_is_off_by_half_a_step_at_most(seed: int, dim: int, rows: int) -> None:
    x = torch.randn(rows, 3, dim, generator=torch.Generator().manual_seed(seed)) * 10.0 ** (seed % 7 - 3)
    records = to_records(x)
    assert records.shape == (rows, 3, record_size(dim))
    said = from_records(records, dim, torch.float32)
    assert ((said - x).abs() <= 0.5001 * x.abs().amax(-1, keepdim=True) / 127).all()
    assert torch.equal(to_records(x[:1]), records[:1]), "it depends on its own values alone"


@given(seed=st.integers(0, 99), dtype=st.sampled_from([torch.float32, torch.bfloat16]))
def test_memory_holds_what_rows_attended_to(seed: int, dtype: torch.dtype) -> None:
    """So a text that is continued sees what it saw."""
    x = torch.randn(9, 2, 16, generator=torch.Generator().manual_seed(seed)).to(dtype)
    memory = torch.zeros(2, 40, record_size(16), dtype=torch.int8)
    memory[:, 7:16] = to_records(x).transpose(0, 1)
    assert torch.equal(from_records(memory[:, 7:16], 16, dtype).transpose(0, 1), from_records(to_records(x), 16, dtype))


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_zeros_and_what_is_no_number(value: float) -> None:
    said = from_records(to_records(torch.full((2, 8), value)), 8, torch.float32)
    assert torch.equal(said.isnan(), torch.full((2, 8), value).isnan())
    assert not said.nan_to_num().any()
