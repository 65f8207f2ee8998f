"""Rates and keystrokes, as their processes measure them; here in this one, of something small."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from streambed.bench import rates
from streambed.bench.keystroke import KEYSTROKES, time_keystrokes
from streambed.bench.rates import measure_rates
from streambed.settings import Settings


@pytest.fixture(autouse=True)
def _same_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_a_format_that_is_not_there_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"ROWS": (8, 16), "_OUTPUTS": 64, "_INPUTS": 32, "_MATRICES": 2, "_READ": 1 << 16}.items():
        monkeypatch.setattr(rates, name, value)
    found = measure_rates(["float32", "int8", "no such format"], 1)
    assert found.threads == 1
    assert found.reads > 0
    assert set(found.products) <= {"float32", "int8"}
    assert "float32" in found.products
    assert all(set(products) == {8, 16} and min(products.values()) > 0 for products in found.products.values())


def test_keystrokes(tiny_checkpoint: Path) -> None:
    settings = Settings(model=str(tiny_checkpoint), threads=1, dtype="float32", max_batch_tokens=64)
    found = time_keystrokes(settings, " a river of light", ["word"] * KEYSTROKES)
    assert len(found) == KEYSTROKES * 3 // 4
    assert min(found) > 0
