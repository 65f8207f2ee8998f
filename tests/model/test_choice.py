"""Which device runs a checkpoint, and in which numbers."""

from __future__ import annotations

import pytest
import torch

from streambed.errors import SettingsError
from streambed.model import choice
from streambed.model.choice import choose_device, choose_dtype

CPU = torch.device("cpu")


def test_choose_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "multiplies_bfloat16", lambda device: True)
    assert choose_dtype("auto", CPU, builtin=True) is torch.float32
    assert choose_dtype("auto", CPU, builtin=False) is torch.bfloat16
    assert choose_dtype("float32", CPU, builtin=False) is torch.float32
    monkeypatch.setattr(choice, "multiplies_bfloat16", lambda device: False)
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
