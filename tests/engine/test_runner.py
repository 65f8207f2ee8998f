"""Choices by device, and interior probes through the real network."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from streambed import Engine
from streambed.engine import runner
from streambed.engine.runner import Runner, choose_device, choose_dtype
from streambed.engine.sequence import Sequence
from streambed.errors import SettingsError

CPU = torch.device("cpu")


def test_interior_probes_equal_separate_texts(tiny_engine: Engine) -> None:
    """In one step, in several (steps hold 48 rows), on a warm sequence, and at places before what is cached."""
    whole = tiny_engine.tokenizer.encode("The quick brown fox jumps over the lazy dog. " * 9)
    expected = {}
    for end in range(0, len(whole) + 1, 7):
        expected[end] = tiny_engine.submit_batch([whole[:end], [1]])[0].result(60).vectors[0]
    sequence = Sequence("")
    tiny_engine.opened()
    for probes in (tuple(expected)[:3], tuple(expected), tuple(expected)[2:5]):
        got = tiny_engine.submit(sequence, whole, probes).result(60).vectors
        for probe, vector in zip(probes, got, strict=True):
            assert vector @ expected[probe] / np.linalg.norm(vector) / np.linalg.norm(expected[probe]) >= 0.99999
    tiny_engine.forget(sequence)


def test_rows_with_context_cost_more(tiny_engine: Engine) -> None:
    cost = tiny_engine._runner.row_cost
    assert cost(0) == 1.0
    assert cost(100) > cost(10) > 1.0


@pytest.mark.parametrize(("seconds_per_row", "rows"), [(1.0, 64), (0.001, 100), (1e-4, 1000), (1e-9, 8192)])
def test_calibration(tiny_engine: Engine, monkeypatch: pytest.MonkeyPatch, seconds_per_row: float, rows: int) -> None:
    one = Runner(tiny_engine._runner.network, 0)
    monkeypatch.setattr(one, "_time", lambda rows: rows * seconds_per_row)
    assert one.calibrate() == pytest.approx(rows, rel=0.01)


def test_choose_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "_multiplies_bfloat16", lambda device: True)
    assert choose_dtype("auto", CPU, builtin=True) is torch.float32
    assert choose_dtype("auto", CPU, builtin=False) is torch.bfloat16
    assert choose_dtype("float32", CPU, builtin=False) is torch.float32
    monkeypatch.setattr(runner, "_multiplies_bfloat16", lambda device: False)
    assert choose_dtype("auto", CPU, builtin=False) is torch.float32
    assert choose_dtype("bfloat16", CPU, builtin=False) is torch.bfloat16
    with pytest.raises(SettingsError, match="float16 overflows"):
        choose_dtype("float16", CPU, builtin=False)


def test_choose_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert choose_device("auto").type == "cuda"
    assert choose_device("cuda:0").type == "cuda"
    assert choose_device("cpu") == CPU
    with pytest.raises(SettingsError, match="sees 1 CUDA"):
        choose_device("cuda:1")
    for wrong in ("nonsense:::", "meta", "xpu"):
        with pytest.raises(SettingsError, match="auto, cpu, cuda, cuda:N or mps is expected"):
            choose_device(wrong)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == CPU
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert choose_dtype("auto", torch.device("cuda"), builtin=False) is torch.float32


def test_a_gpu_of_apples_is_taken_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device("auto") == CPU
    mps = choose_device("mps")
    assert mps.type == "mps"
    assert choose_dtype("auto", mps, builtin=False) is torch.float32, "the processor's bfloat16 says nothing about it"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(SettingsError, match="no GPU of Apple's here"):
        choose_device("mps")
