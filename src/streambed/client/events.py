"""What happens to a stream, as its ledger tells it."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from streambed.errors import RequestError, StreambedError
from streambed.vectors.shape import decode
from streambed.wire import EmbeddingDone


@dataclass(frozen=True)
class Emitted:
    """An embedding of the text, as a stream gives it."""

    vector: NDArray[np.float32] = field(repr=False)
    """float32 [dimensions], of unit length: the exact embedding of the text at `revision`, from `start` to `offset`."""
    revision: int
    offset: int
    """Characters of that text."""
    drift: float | None
    """Cosine distance from the embedding before; None for the first."""
    usage: dict[str, int]
    timing_ms: dict[str, float]
    segment: int = 0
    start: int = 0
    """Where that segment begins: 0 unless the text has outgrown the window."""
    final: bool = False
    """Whether it is the segment's last one."""

    @classmethod
    def of(cls, event: EmbeddingDone) -> "Emitted":
        return cls(
            decode(event.embedding),
            event.revision,
            event.offset,
            event.drift,
            event.usage,
            event.timing_ms,
            event.segment or 0,
            event.start or 0,
            bool(event.final),
        )


@dataclass(frozen=True)
class Triggered:
    """A watch has triggered."""

    watch: str
    score: float
    revision: int
    offset: int


@dataclass(frozen=True)
class Answered:
    """An embedding that was asked for is there, or will not come."""

    event_id: str
    """As `Ledger.ask` gave it."""
    answer: Emitted | RequestError


@dataclass(frozen=True)
class Refused:
    """Something was not applied, and no call waits for its answer: the next call raises this."""

    error: StreambedError


@dataclass(frozen=True)
class Retry:
    """What is pending is to be sent again."""

    seconds: float
    """Not before; 0 for at once."""


Happening = Emitted | Triggered | Answered | Refused | Retry
