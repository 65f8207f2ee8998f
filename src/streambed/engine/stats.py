"""What the engine says of its work, for whoever counts."""

from dataclasses import dataclass
from typing import NamedTuple


class StepReport(NamedTuple):
    """A step that has run, for whoever counts."""

    rows: int
    """Probes included."""
    probes: int
    seconds: float
    owners: dict[str, int]
    """Rows of each."""


@dataclass(frozen=True)
class LaneStats:
    """What of a lane has not begun."""

    waiting: int
    oldest_s: float


@dataclass(frozen=True)
class EngineStats:
    """Counters since the start and gauges of now."""

    steps: int
    rows: int
    """Rows computed, probes included."""
    padding: int
    """Rows that were computed beside them and thrown away."""
    step_rows: int
    """What a step may cost now, in rows without context."""
    cached_tokens: int
    """Tokens that finished tasks found computed already."""
    waiting: int
    lanes: dict[str, LaneStats]
    sessions: int
    cached_texts: int
    evictions: int
    rebuilds: int
    """Texts that were computed again since their KV was evicted."""
    kv_bytes: int
    last_progress_s: float
    """Seconds since a step ended or the engine was idle."""
