"""What is read of a machine: files of /proc and of both versions of control groups, made up in a folder."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from streambed import machine

Pretend = Callable[[dict[str, str]], None]


@pytest.fixture
def pretend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pretend:
    """Makes the files of a machine, which then has no others."""

    def write(files: dict[str, str]) -> None:
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(f"{text}\n")

    monkeypatch.setattr(machine, "_ROOT", tmp_path)
    return write


def test_usable_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 2, 5}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert machine.usable_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    assert machine.usable_cores() == 8
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert machine.usable_cores() == 1


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"cpu.max": "150000 100000"}, 1.5),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, 0.5),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "50000"}, None),
        ({"cpu.max": "100000 0"}, None),
        ({"cpu.max": ""}, None),
        ({}, None),
    ],
)
def test_core_limit(pretend: Pretend, files: dict[str, str], limit: float | None) -> None:
    pretend({f"sys/fs/cgroup/{name}": text for name, text in files.items()})
    assert machine.core_limit() == limit


@pytest.mark.parametrize(
    ("files", "usable"),
    [
        ({}, 1 << 30),
        ({"memory.max": "max"}, 1 << 30),
        ({"memory.max": "1000"}, 1000),
        ({"memory.max": str(1 << 40)}, 1 << 30),
        ({"memory/memory.limit_in_bytes": "2000"}, 2000),
        ({"memory/memory.limit_in_bytes": "9223372036854771712"}, 1 << 30),  # how version 1 writes "no limit"
    ],
)
def test_usable_memory(pretend: Pretend, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], usable: int) -> None:
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1 << 18}.__getitem__)
    pretend({f"sys/fs/cgroup/{name}": text for name, text in files.items()})
    assert machine.total_memory() == 1 << 30
    assert machine.usable_memory() == usable


@pytest.mark.parametrize("error", [AttributeError, ValueError])
def test_system_that_does_not_say_how_much_memory_it_has(
    pretend: Pretend, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def sysconf(name: str) -> int:
        raise error

    monkeypatch.setattr(os, "sysconf", sysconf)
    assert machine.total_memory() is machine.usable_memory() is None


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({}, 50 << 10),
        ({"memory.max": "40000", "memory.current": "30000"}, 10_000),
        ({"memory.max": "40000", "memory.current": "30000", "memory.stat": "anon 9\ninactive_file 5000"}, 15_000),
        ({"memory.max": "40000", "memory.current": "45000"}, 0),
        ({"memory.max": "max", "memory.current": "30000"}, 50 << 10),
        ({"memory.max": "40000"}, 50 << 10),
        (
            {
                "memory/memory.limit_in_bytes": "40000",
                "memory/memory.usage_in_bytes": "30000",
                "memory/memory.stat": "inactive_file 1\ntotal_inactive_file 5000",
            },
            15_000,
        ),
    ],
)
def test_free_memory(pretend: Pretend, files: dict[str, str], free: int) -> None:
    """What was only read from files can be had."""
    pretend({"proc/meminfo": "MemTotal:  100 kB\nMemAvailable:  50 kB"})
    pretend({f"sys/fs/cgroup/{name}": text for name, text in files.items()})
    assert machine.free_memory() == free


def test_meminfo(pretend: Pretend) -> None:
    assert machine.meminfo() == {}
    pretend({"proc/meminfo": "MemTotal:       24684084 kB\nHugePages_Total:       0\nDirectMap4k: ? kB"})
    assert machine.meminfo() == {"MemTotal": 24684084 << 10}


def test_processor(pretend: Pretend) -> None:
    assert machine.processor()
    pretend({"proc/cpuinfo": "processor\t: 0\nmodel name\t: A  Processor: 9\n\nprocessor\t: 1\nmodel name\t: Another"})
    assert machine.processor() == "A Processor: 9"


def test_features(pretend: Pretend) -> None:
    """Those of the first processor, in an order of their own: what is built is kept by them."""
    pretend({"proc/cpuinfo": "model name\t: A\nflags\t\t: sse2 fma avx2\n\nmodel name\t: A\nflags\t\t: sse2"})
    assert machine.features() == ["A", "avx2", "fma", "sse2"]
    pretend({"proc/cpuinfo": "Features\t: fp asimd"})
    assert machine.features()[1:] == ["asimd", "fp"]
    pretend({"proc/cpuinfo": "vendor_id\t: none"})
    assert len(machine.features()) == 1


@pytest.mark.parametrize(("words", "chosen"), [("always [madvise] never", "madvise"), ("never", "never")])
def test_huge_pages(pretend: Pretend, words: str, chosen: str) -> None:
    assert machine.huge_pages() is None
    pretend({"sys/kernel/mm/transparent_hugepage/enabled": words})
    assert machine.huge_pages() == chosen


def test_open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = SimpleNamespace(RLIMIT_NOFILE=7, RLIM_INFINITY=99, getrlimit={7: (1024, 99), 8: (0, 0)}.__getitem__)
    monkeypatch.setitem(sys.modules, "resource", asked)
    assert machine.open_files() == (1024, None)
    monkeypatch.setitem(sys.modules, "resource", None)
    assert machine.open_files() is None


def test_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert machine.multiplies_bfloat16()
    assert machine.instructions() == "AVX512, AVX512-BF16, no AMX"
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported")
    assert machine.instructions() == "AVX512, AVX512-BF16"


def test_pytorch_is_not_needed_for_the_rest() -> None:
    program = "import sys; sys.modules['torch'] = None; from streambed import machine; machine.processor()"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
