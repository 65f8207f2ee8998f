"""How fast this machine multiplies and reads: what results are compared with. To be run in a process of its own."""

import time
from collections.abc import Callable, Sequence

from streambed.bench.floor import Rates

ROWS = (8, 512, 2048)
_OUTPUTS, _INPUTS, _MATRICES = 3072, 1024, 28
"""Those of the 0.6B shape's MLP, and so many that no cache holds them all."""
_READ = 1 << 30
"""Bytes."""
_ROUNDS = 5


def measure_rates(formats: Sequence[str], threads: int) -> Rates:
    """The best of several runs each, a few seconds in all. formats: `float32`, `bfloat16`, `int8`; one that PyTorch cannot
    multiply here is left out."""
    import torch

    torch.set_num_threads(threads)
    products = {}
    for numbers in formats:
        try:
            products[numbers] = {rows: _product_rate(numbers, rows) for rows in ROWS}
        except (RuntimeError, AttributeError, NotImplementedError):
            continue
    return Rates(threads, _read_rate(), products)


def _product_rate(numbers: str, rows: int) -> float:
    """Multiply-adds a second, over matrices that oneDNN has packed."""
    import torch

    multiply: Callable[[], object]
    if numbers == "int8":
        shape = (_OUTPUTS, _INPUTS)
        weights = [torch.randint(-127, 128, shape, dtype=torch.int8) for _ in range(_MATRICES)]
        packed = [torch.ops.onednn.qlinear_prepack(weight, [rows, _INPUTS]) for weight in weights]
        scales, zeros = torch.ones(_OUTPUTS), torch.zeros(_OUTPUTS, dtype=torch.int32)
        x = torch.randint(0, 256, (rows, _INPUTS), dtype=torch.uint8)
        product = torch.ops.onednn.qlinear_pointwise

        def multiply() -> object:
            return [
                product(x, 0.01, 0, weight, scales, zeros, None, 1.0, 0, torch.bfloat16, "none", [], "")
                for weight in packed
            ]
    else:
        from streambed.model.cpu.linear import linear

        dtype = getattr(torch, numbers)
        matrices = [linear(torch.randn(_OUTPUTS, _INPUTS).to(dtype)) for _ in range(_MATRICES)]
        y = torch.randn(rows, _INPUTS).to(dtype)

        def multiply() -> object:
            return [matrix(y) for matrix in matrices]

    return rows * _OUTPUTS * _INPUTS * _MATRICES / _best(multiply)


def _read_rate() -> float:
    """Bytes a second. A product of two vectors reads both and does little else."""
    import torch

    one, other = torch.ones(2, _READ // 8)
    return _READ / _best(lambda: torch.dot(one, other))


def _best(work: Callable[[], object]) -> float:
    """Seconds of the fastest of several runs, after one that is not counted."""
    work()
    found = []
    for _ in range(_ROUNDS):
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return min(found)
