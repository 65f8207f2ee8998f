"""Engines that several test files compare."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from streambed import Engine
from streambed.engine.core import Core
from streambed.model.cpu.device import CPU
from tests.checkpoints import load_engine


def core_of(engine: Engine) -> Core:
    """What computes in this process."""
    assert isinstance(engine.compute, Core)
    return engine.compute


def device_of(engine: Engine) -> CPU:
    """What it computes on."""
    device = core_of(engine)._device
    assert isinstance(device, CPU)
    return device


@pytest.fixture(scope="module")
def small_engine(tiny_checkpoint: Path) -> Iterator[Engine]:
    """Steps of 24 rows, and KV for about 1,000 tokens, so that chunks, evictions and forks happen all the time."""
    memory = 1000 * 2 * 2 * 2 * 16 * 4
    with load_engine(tiny_checkpoint, max_batch_tokens=24, kv_memory=memory) as engine:
        yield engine


@pytest.fixture(scope="module")
def reference_engine(tiny_checkpoint: Path) -> Iterator[Engine]:
    """Computes every text whole, in one step, and caches nothing."""
    with load_engine(tiny_checkpoint, max_batch_tokens=8192) as engine:
        yield engine
