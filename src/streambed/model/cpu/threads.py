"""How many threads a step computes with.

A step is hundreds of parallel regions, each of which ends when its slowest thread does. A thread that has lost its slice
of a core to another process holds all others up each time, so a step of few rows of a small network, which gains little
from more threads, can take twenty times as long with them. Such steps run on one thread.
"""

import contextlib
from collections.abc import Callable, Iterator

import torch

SIZES = (1, 4, 16, 64)
"""Rows of the steps that are measured."""
_TRIES = 3
SMALL_NETWORK = 50_000_000
"""Networks with more weights always use all threads. A number of weights instead of a time, since on a busy machine
every step is slow."""
_TOLERANCE = 1.25
"""A step may be this much slower on one thread on an idle machine, since one thread is not slowed down by other
processes."""


class Threads:
    """Chosen once, from a measurement. Used on the engine's thread alone."""

    def __init__(self, most: int) -> None:
        """most: threads that large steps compute with."""
        self.most = most
        self.single_rows = 0
        """Steps that cost up to so many rows run on one thread."""

    def measure(self, run: Callable[[int], float]) -> None:
        """Finds `single_rows`. run: computes so many rows, and returns the seconds that it took."""
        if self.most == 1:
            return
        for rows in SIZES:
            single = several = float("inf")
            for _ in range(_TRIES):  # in turns, and the best of each: other work on the machine disturbs single runs
                with _use(1, self.most):
                    single = min(single, run(rows))
                several = min(several, run(rows))
            if single > _TOLERANCE * several:
                return
            self.single_rows = rows

    @contextlib.contextmanager
    def for_rows(self, cost: float) -> Iterator[None]:
        """Within it torch computes with the threads that a step of this cost is best run with."""
        if cost > self.single_rows:
            yield
            return
        with _use(1, self.most):
            yield


@contextlib.contextmanager
def _use(threads: int, then: int) -> Iterator[None]:
    torch.set_num_threads(threads)  # a tenth of a microsecond
    try:
        yield
    finally:
        torch.set_num_threads(then)
