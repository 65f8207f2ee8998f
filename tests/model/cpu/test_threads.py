from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from streambed import Engine
from streambed.model.checkpoint import find_checkpoint
from streambed.model.cpu import device as cpu_device
from streambed.model.cpu.device import CPU
from streambed.model.cpu.threads import SIZES, Threads
from streambed.model.device import Choices
from tests.engine.conftest import device_of


@pytest.fixture(autouse=True)
def _two_threads() -> Iterator[None]:
    """`measure` goes back to it."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("single", "several", "rows"),
    [
        (lambda rows: 0.0001 * rows, lambda rows: 0.0001 * rows, 64),  # gains nothing from threads
        (lambda rows: 0.0001 * rows, lambda rows: 0.3, 64),  # a neighbour holds each region up
        (lambda rows: 0.0001 * rows, lambda rows: 0.0001 + 0.00005 * rows, 1),
        (lambda rows: 0.0001 * rows, lambda rows: 0.001 + 0.00005 * rows, 16),
        (lambda rows: 0.0002, lambda rows: 0.0001, 0),
        (lambda rows: 0.2 * rows, lambda rows: 2.0 * rows, 64),  # a machine so busy that all takes long
    ],
)
def test_small_steps_run_on_one_thread_where_it_is_as_fast(
    single: Callable[[int], float], several: Callable[[int], float], rows: int
) -> None:
    threads = Threads(2)
    asked: list[tuple[int, int]] = []

    def run(rows: int) -> float:
        asked.append((rows, torch.get_num_threads()))
        return single(rows) if torch.get_num_threads() == 1 else several(rows)

    threads.measure(run)
    assert threads.single_rows == rows
    measured = [size for size in SIZES if (size, 1) in asked]
    assert measured == list(SIZES[: len(measured)]), "ascending, and no further than need be"
    assert {count for size in measured for count in (asked.count((size, 1)), asked.count((size, 2)))} == {3}


def test_one_bad_moment_decides_nothing() -> None:
    times = iter([9.0, 0.01, 9.0, 0.02, 0.01, 9.0] * len(SIZES))
    threads = Threads(2)
    threads.measure(lambda rows: next(times))
    assert threads.single_rows == 64


def test_one_thread_has_nothing_to_choose() -> None:
    threads = Threads(1)
    threads.measure(lambda rows: pytest.fail("measured"))
    assert threads.single_rows == 0


def test_large_networks_are_not_even_measured(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[Threads] = []
    monkeypatch.setattr(Threads, "measure", lambda threads, run: measured.append(threads))
    checkpoint = find_checkpoint(str(tiny_checkpoint))
    for _ in range(2):
        CPU(checkpoint.config, torch.device("cpu"), torch.float32, Choices("torch")).load(checkpoint, 0)
        monkeypatch.setattr(cpu_device, "SMALL_NETWORK", 1000)
    assert len(measured) == 1


def test_steps_use_the_threads_that_were_chosen(tiny_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what a step costs, context included; afterwards all threads are there again, also where a step fails."""
    one = device_of(tiny_engine)
    monkeypatch.setattr(one, "choice", Threads(2))
    one.choice.single_rows = 16
    seen: list[int] = []
    forward = one._forward

    def count(*values: object) -> object:
        seen.append(torch.get_num_threads())
        return forward(*values)  # type: ignore[arg-type]

    monkeypatch.setattr(one, "_forward", count)
    tiny_engine.evict()
    small, large = tiny_engine.embed(["a b"])[0], tiny_engine.embed(["one two three four five six seven " * 3])[0]
    assert seen == [1, 2]
    one.choice.single_rows = 0
    tiny_engine.evict()
    assert tiny_engine.embed(["a b"])[0] @ small > 0.99999
    assert large @ large > 0.99999
    assert seen[-1] == 2
    with pytest.raises(RuntimeError, match="lost"), one.choice.for_rows(0):
        raise RuntimeError("lost")
    assert torch.get_num_threads() == 2
