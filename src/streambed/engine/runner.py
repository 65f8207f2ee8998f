"""Step -> tensors -> network -> vectors: the only file of the engine that touches a device."""

from __future__ import annotations

import time

import numpy as np
import torch

from streambed import machine
from streambed.engine.sequence import Step, Vectors
from streambed.engine.threads import SMALL_NETWORK, Threads
from streambed.errors import SettingsError
from streambed.model.attention import Span, kernels, plan
from streambed.model.qwen3 import Qwen3

STEP_SECONDS = 0.1
"""How long a step should take: the most that a keystroke waits for others."""
_MIN_ROWS, _MAX_ROWS = 64, 8192


class Runner:
    """Runs steps on the network's device."""

    def __init__(self, network: Qwen3, end_id: int) -> None:
        self.network = network
        self.padding = 0
        """Rows of padding that attention has computed for nothing."""
        self._end_id = end_id
        config = network.config
        linear = 2 * sum(
            rows * columns * config.num_layers
            for rows, columns in (
                (config.hidden_size, (2 * config.num_heads + 2 * config.num_kv_heads) * config.head_dim),
                (config.hidden_size, 3 * config.intermediate_size),
            )
        )
        attention = 4 * config.num_heads * config.head_dim * config.num_layers
        # Attention runs at about half the speed of the big matrices (measured at 5,000 tokens of context).
        self._context_cost = 2.0 * attention / linear
        self.threads = Threads(torch.get_num_threads())
        if network.device.type == "cpu" and linear / 2 < SMALL_NETWORK:
            self._time(1)
            self.threads.measure(self._time)

    def row_cost(self, context: int) -> float:
        """What a row costs after `context` tokens, in rows without context."""
        return 1.0 + context * self._context_cost

    def run(self, step: Step) -> Vectors:
        """Copies, computes, and returns the hidden states of the step's probes in their order: float32 [probes, hidden].

        Raises RuntimeError, MemoryError or OSError where the device fails, or has not the memory.
        """
        for target in step.slabs:
            target.back()
        for copy in step.copies:
            copy.target.copy(copy.source, copy.start, copy.stop)
        ids: list[int] = []
        positions: list[int] = []
        wanted: list[int] = []
        spans: list[Span] = []
        for task, start, stop, probes, slab in step.runs:
            first, rows = len(ids), stop - start
            ids += task.ids[start:stop]
            positions += range(start, stop)
            wanted += range(len(ids), len(ids) + len(probes))
            ids += [self._end_id] * len(probes)
            positions += probes
            kv = slab.kv if slab else None
            # One probe behind the last row is plain causal order. Others must not see the rows after their place: a span of
            # their own, so that the rows keep a kernel without a mask.
            apart = bool(probes) and (len(probes) > 1 or probes[0] != stop)
            assert kv is not None or not apart, "a text without memory has one probe, at its end"
            end = first + rows + (0 if apart else len(probes))
            if end > first:
                spans.append(Span(first, end, start, kv))
            if apart:
                spans.append(Span(end, len(ids), stop, kv, probes))
        cost = sum((stop - start + len(probes)) * self.row_cost(stop) for _, start, stop, probes, _ in step.runs)
        with self.threads.for_rows(cost):
            return self._forward(ids, positions, spans, wanted)

    def _forward(self, ids: list[int], positions: list[int], spans: list[Span], wanted: list[int]) -> Vectors:
        network = self.network
        if not ids:
            return np.empty((0, network.config.hidden_size), dtype=np.float32)
        device, config = network.device, network.config
        attention = plan(spans, config.num_heads, config.num_kv_heads, network.dtype, device)
        self.padding += attention.padding
        with torch.inference_mode(), kernels():
            hidden = network.forward(
                torch.tensor(ids, device=device),
                torch.tensor(positions, device=device),
                attention,
                torch.tensor(wanted, dtype=torch.int64, device=device),
            )
            vectors: Vectors = hidden.cpu().numpy()
        return vectors

    def calibrate(self) -> int:
        """Rows that run in STEP_SECONDS on this device, measured; warms it up on the way."""
        rows = _MIN_ROWS
        self._time(rows)
        while True:
            seconds = min(self._time(rows), self._time(rows))
            if seconds >= STEP_SECONDS / 2 or rows >= _MAX_ROWS:
                return max(_MIN_ROWS, min(int(rows * STEP_SECONDS / seconds), _MAX_ROWS))
            rows *= 4

    def _time(self, rows: int) -> float:
        rows = min(rows, len(self.network.rotary))
        started = time.perf_counter()
        self._forward([self._end_id] * rows, list(range(rows)), [Span(0, rows, 0, None)], [rows - 1])
        return time.perf_counter() - started


def choose_device(device: str) -> torch.device:
    """`auto` is CUDA where there is one, else the CPU. Raises SettingsError for what this machine has not.

    `mps`, Apple's GPU, is for those who try it: it takes the plain way through attention, and we have not run it.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(str(device))
    except RuntimeError:
        raise SettingsError(f"is {device!r}; auto, cpu, cuda, cuda:N or mps is expected", "device") from None
    if chosen.type not in ("cpu", "cuda", "mps"):
        raise SettingsError(f"is {device!r}; auto, cpu, cuda, cuda:N or mps is expected", "device")
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise SettingsError(f"is {device!r}, but PyTorch sees no GPU of Apple's here", "device")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise SettingsError(f"is {device!r}, but PyTorch sees {torch.cuda.device_count()} CUDA devices here", "device")
    return chosen


def choose_dtype(dtype: str, device: torch.device, builtin: bool) -> torch.dtype:
    """`auto` is float32 for the built-in model, bfloat16 where the processor multiplies it natively, else float32."""
    if dtype == "auto":
        return torch.bfloat16 if not builtin and _multiplies_bfloat16(device) else torch.float32
    chosen = {"float32": torch.float32, "bfloat16": torch.bfloat16}.get(str(dtype))
    if chosen is None:
        raise SettingsError(
            f"is {dtype!r}; auto, float32 or bfloat16 is expected (float16 overflows on Qwen3)", "dtype"
        )
    return chosen


def _multiplies_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.get_device_capability(device) >= (8, 0))
    return device.type == "cpu" and machine.multiplies_bfloat16()
