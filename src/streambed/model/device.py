"""The seam between the engine and hardware: tokens, slots and rows in, vectors out.

The engine decides which rows run next and who pays for memory. What a slot is made of, which kernel reads it and how a
network is stored is a device's own; nothing outside `model/` asks which device there is.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from streambed.model.checkpoint import Checkpoint

Vectors = NDArray[np.float32]
Kernels = Literal["auto", "torch"]
Quantize = Literal["none", "int8"]
KVDtype = Literal["auto", "int8"]


class KV(Protocol):
    """Keys and values of one sequence, in slots counted from 0."""

    written: int
    """Slots that are, or are about to be, backed by memory: they are paid for until it goes."""

    def grow(self, slots: int) -> None:
        """Says that the first `slots` slots are about to be written. Takes no memory: scheduling cannot fail."""


class Part(NamedTuple):
    """Rows of one sequence: a row for each of `ids`, in the slots from `start` on, then a row for each probe.

    A probe is an end token at a place: it sees the slots below its place, and its own. Places are ascending and at most
    `start + len(ids)`.
    """

    ids: Sequence[int]
    start: int
    probes: tuple[int, ...]
    kv: KV | None
    """None if the text is never continued: it has one probe at most, at its end."""
    base: KV | None = None
    """Where a text without memory starts: its first `start` tokens stand in another one's first slots, which are read where
    they lie. That text may be one of the same batch."""


class Copy(NamedTuple):
    """Slots `[start, stop)` to be copied before the rows run."""

    source: KV
    target: KV
    start: int
    stop: int


class Batch(NamedTuple):
    """What a device runs at once."""

    parts: list[Part]
    copies: list[Copy]


def blank_batch(rows: int, window: int) -> Batch:
    """So many rows, to be timed: of texts that fit in the window, with nothing in particular in them."""
    sizes = [window] * (rows // window) + [rows % window] * bool(rows % window)
    return Batch([Part([0] * (size - 1), 0, (size - 1,), None) for size in sizes], [])


class Choices(NamedTuple):
    """What an operator chooses of how a device computes. See `EngineOptions`."""

    kernels: Kernels = "auto"
    quantize: Quantize = "none"
    kv_dtype: KVDtype = "auto"


class Memory(NamedTuple):
    """Bytes of memory that a device has of its own."""

    free: int
    total: int
    reserved: int
    """By this process."""


class Device(Protocol):
    """A network on hardware. Loaded and used by one thread."""

    name: str
    """As PyTorch names it: `cpu`, `cuda:0`."""
    dtype: str
    """What is computed in: `float32`, `bfloat16`."""
    kv_dtype: str
    """What keys and values are kept in: `dtype`, or `int8`."""
    bytes_per_slot: int
    slots_per_page: int
    """Memory is taken for so many slots at a time."""
    threads: int
    pauses: int
    """Places within a run at which it calls `between`; 0 if it cannot."""
    kernels: str
    """What steps run on: `native`, or `torch` and why."""
    full_matrices: int
    """As `ComputeInfo.full_matrices`; known once the weights are loaded."""
    single_thread_rows: int
    """Batches that cost up to so many rows run on one thread."""
    padding: int
    """Padding rows computed so far."""

    def memory(self) -> Memory | None:
        """None where it uses the machine's."""

    def load(self, checkpoint: Checkpoint, end_id: int) -> str:
        """Loads the weights; returns the digest of config and weights. end_id: the token of probes. Raises
        CheckpointError."""

    def new_kv(self, slots: int) -> KV:
        """Room for so many slots, none of which takes memory yet."""

    def row_cost(self, context: int) -> float:
        """What a row costs after `context` tokens, in rows without context."""

    def run(self, batch: Batch, between: Callable[[], None] | None = None) -> Vectors:
        """Copies and computes; the hidden states of the probes in their order: float32 [probes, hidden].

        between: is called after each layer but the last, once all copies are made, and may run other batches, of other
        sequences.

        Raises RuntimeError, MemoryError or OSError where the device fails, or has not the memory.
        """
