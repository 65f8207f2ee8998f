"""The machine: what it has, and what a server needs of it."""

import importlib.metadata
import platform
from collections.abc import Iterator
from functools import partial

import torch

import streambed
from streambed import machine
from streambed.doctor.report import Finding, gib
from streambed.model.choice import find_gpus

MIN_DESCRIPTORS = 256
"""Fewer are soon used up: each connection takes one, beside those of the process itself."""

_found = partial(Finding, "machine")


def examine() -> Iterator[Finding]:
    """Processor, cores, memory, limits, accelerators and versions."""
    limit, pages = machine.core_limit(), machine.huge_pages()
    quota = "" if limit is None else f"; a container's limit of {limit:g}"
    numpy, tokenizers = (importlib.metadata.version(name) for name in ("numpy", "tokenizers"))
    yield from (
        _found("processor", "ok", machine.processor()),
        _found("cores", "ok", f"{machine.usable_cores()} usable{quota}"),
        _found("PyTorch uses", "ok", machine.instructions()),
        _memory(),
        _found("huge pages", "ok" if pages else "note", pages or "unknown"),
        _open_files(),
        *_gpus(),
        _found(
            "versions",
            "ok",
            f"streambed {streambed.__version__}, Python {platform.python_version()}, torch {torch.__version__}, "
            f"numpy {numpy}, tokenizers {tokenizers}",
        ),
    )


def _memory() -> Finding:
    total, usable, free = machine.total_memory(), machine.usable_memory(), machine.free_memory()
    if total is None or usable is None:
        return _found("memory", "note", "unknown")
    detail = gib(total) if free is None else f"{gib(total)}, {gib(free)} free"
    return _found("memory", "ok", detail + (f"; a container's limit of {gib(usable)}" if usable < total else ""))


def _open_files() -> Finding:
    """serve raises the limit as far as it may, so the higher one counts."""
    if (limits := machine.open_files()) is None:
        return _found("open files", "note", "unknown")
    now, most = limits
    if most is not None and most < MIN_DESCRIPTORS:
        detail = f"{most} at once are few for a server, whose connections take one each; raise `ulimit -n`"
        return _found("open files", "warn", detail)
    detail = "any number at once" if now is None else f"{now:,} at once"
    if most is None:
        detail += "; serve lifts the limit"
    elif now is None or most > now:
        detail += f"; serve raises it to {most:,}"
    return _found("open files", "ok", detail)


def _gpus() -> Iterator[Finding]:
    gpus = find_gpus()
    if not gpus:
        yield _found("CUDA", "note", "no device that PyTorch sees")
    for index, gpu in enumerate(gpus):
        detail = f"{gpu.name}, {gib(gpu.total)}, {gib(gpu.free)} free, {'' if gpu.bfloat16 else 'no '}native bfloat16"
        yield _found(f"CUDA {index}", "ok", detail)
