"""What is said of a machine."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from streambed import machine as machine_read
from streambed.doctor import machine
from streambed.machine import OpenFiles

Said = dict[str, tuple[str, str]]


def examine() -> Said:
    return {finding.name: (finding.status, finding.detail) for finding in machine.examine()}


def test_this_machine() -> None:
    found = examine()
    names = ["processor", "cores", "PyTorch uses", "memory", "huge pages", "open files"]
    assert list(found)[:6] == names
    assert list(found)[-1] == "versions"
    assert f"torch {torch.__version__}" in found["versions"][1]
    assert all(detail for _, detail in found.values())


def test_limits_of_a_container(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "usable_cores": 8,
        "core_limit": 1.5,
        "total_memory": 8 << 30,
        "usable_memory": 2 << 30,
        "free_memory": 1 << 30,
    }.items():
        monkeypatch.setattr(machine_read, name, lambda value=value: value)
    found = examine()
    assert found["cores"] == ("ok", "8 usable; a container's limit of 1.5")
    assert found["memory"] == ("ok", "8.00 GiB, 1.00 GiB free; a container's limit of 2.00 GiB")


@pytest.mark.parametrize(
    ("limits", "status", "detail"),
    [
        (
            OpenFiles(255, 255),
            "warn",
            "255 at once are few for a server, whose connections take one each; raise `ulimit -n`",
        ),
        (OpenFiles(1024, 4096), "ok", "1,024 at once; serve raises it to 4,096"),
        (OpenFiles(4096, 4096), "ok", "4,096 at once"),
        (OpenFiles(1024, None), "ok", "1,024 at once; serve lifts the limit"),
        (OpenFiles(None, None), "ok", "any number at once; serve lifts the limit"),
        (None, "note", "unknown"),
    ],
)
def test_open_files(monkeypatch: pytest.MonkeyPatch, limits: OpenFiles | None, status: str, detail: str) -> None:
    monkeypatch.setattr(machine_read, "open_files", lambda: limits)
    assert examine()["open files"] == (status, detail)


def test_system_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("core_limit", "huge_pages", "total_memory", "usable_memory", "free_memory", "open_files"):
        monkeypatch.setattr(machine_read, name, lambda: None)
    found = examine()
    assert [found[name] for name in ("huge pages", "memory", "open files")] == [("note", "unknown")] * 3
    assert found["cores"] == ("ok", f"{machine_read.usable_cores()} usable")
    monkeypatch.setattr(machine_read, "total_memory", lambda: 1 << 30)
    monkeypatch.setattr(machine_read, "usable_memory", lambda: 1 << 30)
    assert examine()["memory"] == ("ok", "1.00 GiB")


def test_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """As two devices would be named; this machine may have none."""
    about = SimpleNamespace(name="Card", total_memory=80 << 30)
    for name, value in {
        "is_available": True,
        "device_count": 2,
        "get_device_properties": about,
        "mem_get_info": (70 << 30, 80 << 30),
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0) if device.index else (7, 5))
    found = examine()
    assert found["CUDA 0"] == ("ok", "Card, 80.00 GiB, 70.00 GiB free, no native bfloat16")
    assert found["CUDA 1"] == ("ok", "Card, 80.00 GiB, 70.00 GiB free, native bfloat16")
