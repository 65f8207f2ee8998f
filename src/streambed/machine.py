"""What this machine has: cores, memory, a container's limits, instructions for number formats. Only this file reads it.

What the system does not say is None. PyTorch is imported only where it is asked, so that programs can do without it.
"""

import os
import platform
from pathlib import Path
from typing import NamedTuple

_ROOT = Path("/")
_CGROUP = Path("sys/fs/cgroup")
"""Control groups, below `_ROOT`; a container sees its own here."""


class OpenFiles(NamedTuple):
    """How many files the process may have open: now, and at most if it asks. None is any number."""

    now: int | None
    most: int | None


def usable_cores() -> int:
    """Cores that this process may run on; a container's quota is not counted."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every platform
        return os.cpu_count() or 1


def core_limit() -> float | None:
    """How many cores a container's quota comes to; None without a quota."""
    words = (_read(_CGROUP / "cpu.max") or "").split()  # version 2
    if len(words) != 2:
        words = [_read(_CGROUP / "cpu" / f"cpu.cfs_{name}_us") or "" for name in ("quota", "period")]
    quota, period = words
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) else None


def total_memory() -> int | None:
    """Bytes of memory of the machine; a container's limit is not counted."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError):  # not on every platform
        return None


def usable_memory() -> int | None:
    """Bytes of memory that this process may use at most: the machine's, or a container's limit if that is lower."""
    if (total := total_memory()) is None:
        return None
    limits = [_read(_CGROUP / name) or "" for name in ("memory.max", "memory/memory.limit_in_bytes")]
    return min([total, *(int(limit) for limit in limits if limit.isdigit())])


def free_memory() -> int | None:
    """Bytes of memory that this process can still get; a container's limit counts."""
    bounds = (
        meminfo().get("MemAvailable"),
        _free_in_container("memory.max", "memory.current", "inactive_file"),
        _free_in_container("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    )
    return min((bound for bound in bounds if bound is not None), default=None)


def _free_in_container(limit: str, usage: str, cache: str) -> int | None:
    """What the limit leaves. The kernel counts cached files as used and drops them when memory is needed, so they are
    free here."""
    most, used = _read(_CGROUP / limit) or "", _read(_CGROUP / usage) or ""
    if not most.isdigit() or not used.isdigit():
        return None
    stat = [line.split() for line in (_read((_CGROUP / usage).parent / "memory.stat") or "").splitlines()]
    return max(0, int(most) - int(used) + sum(int(row[1]) for row in stat if len(row) == 2 and row[0] == cache))


def meminfo() -> dict[str, int]:
    """Bytes by name, such as MemAvailable, as /proc/meminfo has them; empty where there is none."""
    lines = (_read(Path("proc/meminfo")) or "").splitlines()
    rows = [line.replace(":", " ").split() for line in lines]
    return {row[0]: int(row[1]) << 10 for row in rows if len(row) == 3 and row[1].isdigit() and row[2] == "kB"}


def huge_pages() -> str | None:
    """When the kernel uses transparent huge pages: always, madvise or never."""
    words = _read(Path("sys/kernel/mm/transparent_hugepage/enabled"))
    if words is None:
        return None
    return next((word.strip("[]") for word in words.split() if word.startswith("[")), words)


def open_files() -> OpenFiles | None:
    """The limits of open files; each connection of a server takes one."""
    try:
        import resource
    except ImportError:  # not on every platform
        return None
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    return OpenFiles(*(None if limit == resource.RLIM_INFINITY else limit for limit in limits))


def processor() -> str:
    """The processor's name."""
    for line in (_read(Path("proc/cpuinfo")) or "").splitlines():
        if line.startswith("model name"):
            return " ".join(line.partition(":")[2].split())
    return platform.processor() or platform.machine() or "unknown"


def features() -> list[str]:
    """The processor's name and all extensions that the system knows of it: what is built for one may not run on another."""
    lines = (_read(Path("proc/cpuinfo")) or "").splitlines()
    known = next((line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features"))), [])
    return [processor(), *sorted(known)]


def instructions() -> str:
    """The instructions that PyTorch finds and uses on this processor, such as `AVX512, AVX512-BF16, no AMX`."""
    import torch

    parts = [torch.backends.cpu.get_cpu_capability()]
    for name, helper in (("AVX512-BF16", "_is_avx512_bf16_supported"), ("AMX", "_is_amx_tile_supported")):
        if hasattr(torch.cpu, helper):
            parts.append(name if getattr(torch.cpu, helper)() else f"no {name}")
    return ", ".join(parts)


def multiplies_bfloat16() -> bool:
    """Whether this processor has instructions that multiply bfloat16, by PyTorch's own test."""
    import torch

    return torch.cpu._is_avx512_bf16_supported()  # processors with AMX say yes too


def _read(path: Path) -> str | None:
    """A file of /proc or /sys; None where this system has none."""
    try:
        return (_ROOT / path).read_text(errors="replace").strip()
    except OSError:
        return None
