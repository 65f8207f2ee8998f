"""Fixtures for all tests. No test reaches a network beyond this machine."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "true"
# Where several processes share the cores, one each, also in the servers that tests start: threads that wait for each other's
# turn cost many times what they save.
os.environ["OMP_NUM_THREADS"] = "1" if "PYTEST_XDIST_WORKER" in os.environ else "2"

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

from streambed import Engine
from streambed.text.incremental import Splits
from streambed.text.tokenizer import Tokenizer
from tests.checkpoints import BUILTIN, load_engine, make_checkpoint, write_qwen_tokenizer

pytest_plugins = ["tests.groups"]
signal.signal(
    signal.SIGINT, signal.default_int_handler
)  # a job in the background ignores it, and so would our children
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("default")


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random checkpoint: two layers, four heads on two KV heads, a window of 512."""
    return make_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny")


@pytest.fixture(scope="session")
def qwen_tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real Qwen3 vocabulary."""
    return write_qwen_tokenizer(tmp_path_factory.mktemp("qwen"))


@pytest.fixture(scope="session", params=["text", "parse"])
def qwen_splits(request: pytest.FixtureRequest, qwen_tokenizer_file: Path) -> Splits:
    return Splits(Tokenizer(qwen_tokenizer_file, request.param))


@pytest.fixture(scope="session", params=["text", "parse"])
def builtin_splits(request: pytest.FixtureRequest) -> Splits:
    return Splits(Tokenizer(BUILTIN / "tokenizer.json", request.param))


@pytest.fixture
def open_engine(tiny_checkpoint: Path) -> Iterator[Callable[..., Engine]]:
    """Loads engines for one test, without measuring how fast they are; checks their integrity and closes them after it."""
    engines: list[Engine] = []

    def open_one(model: str | Path = tiny_checkpoint, **settings: object) -> Engine:
        engines.append(load_engine(model, **settings))
        return engines[-1]

    yield open_one
    for engine in engines:
        if engine.ready:
            engine.check_integrity()
        engine.close()


@pytest.fixture(scope="session")
def shared_tiny_engine(tiny_checkpoint: Path) -> Iterator[Engine]:
    with load_engine(tiny_checkpoint, max_batch_tokens=48) as engine:
        yield engine


@pytest.fixture
def tiny_engine(shared_tiny_engine: Engine) -> Iterator[Engine]:
    """A float32 engine on the tiny checkpoint, shared by many tests; a step of 48 rows makes chunks of longer texts."""
    yield shared_tiny_engine
    shared_tiny_engine.check_integrity()
