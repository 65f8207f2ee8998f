"""The seam between texts and vectors: tasks in, embeddings out.

`Engine` turns texts into tasks; who computes them is behind this. `core` does so in this process.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from streambed.engine.sequence import Sequence as TokenSequence
from streambed.engine.sequence import Task
from streambed.engine.stats import EngineStats, StepReport
from streambed.model.device import Memory, Quantize


@dataclass(frozen=True)
class ComputeInfo:
    """What computes, and how much it takes."""

    dtype: str
    device: str
    max_tokens: int
    """Most tokens of one text, instruction and end token included: the window, or less where memory for KV is short."""
    max_batch_tokens: int
    """Rows of a step, as measured at the start."""
    kv_memory: int
    kv_bytes_per_token: int
    threads: int
    single_thread_rows: int
    """Steps that cost up to so many rows run on one thread; 0 where none does."""
    kernels: str
    """What steps run on: `native`, or `torch` and why."""
    quantize: Quantize
    kv_dtype: str
    """What keys and values are kept in."""
    full_matrices: int
    """Matrices that quantisation would distort, and which are as the checkpoint has them."""

    @property
    def has_int8(self) -> bool:
        """Whether matrices or KV are kept in int8, which costs a little of the meaning."""
        return "int8" in (self.quantize, self.kv_dtype)


class Compute(Protocol):
    """Safe to use from any thread of the process that made it."""

    info: ComputeInfo
    weights: str
    """Digest of what decides a vector beyond its token ids."""
    step_listeners: list[Callable[[StepReport], None]]
    """Are told of each step, on a thread of its own; must be quick and must not raise."""

    def post(self, tasks: Sequence[Task]) -> None:
        """Queues all of these tasks, or none; tasks of one sequence end in their order.

        Raises:
            Overloaded: too much work is waiting. NotReady: it is closing or dead.
        """

    def opened(self) -> None:
        """Counts an open session."""

    def forget(self, sequence: TokenSequence) -> None:
        """Ends a session's sequence: waiting calls get an error, its KV is freed."""

    def evict(self, sequence: TokenSequence | None = None) -> None:
        """Evicts to text: the KV of one idle session, or of everything idle."""

    def check_integrity(self) -> None:
        """Asserts what must hold between steps."""

    def check_open(self) -> None:
        """Raises NotReady unless it takes work."""

    @property
    def ready(self) -> bool:
        """Whether it takes work."""

    def stats(self) -> EngineStats:
        """Counters and gauges; never waits for a step."""

    def memory(self) -> Memory | None:
        """Of the device, if it has its own. Raises RuntimeError where it does not answer."""

    def close(self, timeout: float | None = None) -> None:
        """Ends after the step in progress; whoever still waits gets NotReady."""
