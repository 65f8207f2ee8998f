"""The nouns of the engine: a sequence (one text's KV), a task (what is wanted of it), a step (what runs next)."""

import enum
from collections import Counter, deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import NamedTuple

from streambed.errors import StreambedError
from streambed.model.device import KV, Batch, Copy, Part, Vectors


class Lane(enum.IntEnum):
    """A class of work, most urgent first."""

    STREAM = 0
    QUERY = 1
    BULK = 2


class Embedding(NamedTuple):
    """The result of a task."""

    vectors: Vectors
    """float32 [probes, hidden]: final hidden states of the probes, in the order asked for; not yet normalised."""
    cached_tokens: int
    computed_tokens: int
    queue_s: float
    compute_s: float
    lane: Lane


@dataclass(eq=False)
class Sequence:
    """One text on the engine. Touched by the engine thread alone.

    `ids` are the tokens whose KV stands in the first `len(ids)` slots, of `kv` or of `base`; eviction empties `ids` and `kv`
    and nothing else.
    """

    owner: str
    """Whose it is: KV is never shared between owners."""
    transient: bool = False
    """Whether it belongs to one request alone; when that ends, its KV may serve a later text."""
    ids: list[int] = field(default_factory=list)
    kv: KV | None = None
    base: KV | None = None
    """Another text's that begins like this one: it is read where it lies, while this runs without memory of its own."""
    source: "Sequence | None" = None
    """A sequence that this one began as a copy of; a hint where to find KV, never a promise."""
    tasks: "deque[Task]" = field(default_factory=deque)
    """What is wanted, in the order asked; only the first is worked on."""
    kept: bool = True
    """Whether its KV is worth having when it is done; else it is the first to go."""
    closed: bool = False
    evicted: bool = False
    """Whether its KV was taken while it had nothing to do, and is not there again."""

    def cut(self, length: int) -> None:
        """Forgets the KV from slot `length` on."""
        del self.ids[length:]


@dataclass(eq=False)
class Task:
    """Bring the sequence's KV to `ids`, then read out a vector at each of `probes`.

    Without probes it is *eager*: it only prepares, nobody waits, and any newer task of the sequence replaces it.
    """

    sequence: Sequence
    ids: list[int]
    """Never changed after submission."""
    probes: tuple[int, ...]
    """Prefix lengths in tokens, ascending, each within 0..len(ids)."""
    lane: Lane
    arrived: float
    deadline: float | None = None
    ready: float = 0.0
    """Not run before this time unless a step runs anyway."""
    keep: bool = True
    """Whether to have KV at all where the text could run without: for this sequence's next task, or for a later text."""
    behind: int = 0
    """Ids that a task of the same sequence, submitted with this one, brings already; they are not waiting work twice."""
    alike: int = 0
    """How many of its first ids another task of the same request has, too: the most with any."""
    future: Future[Embedding] = field(default_factory=Future)

    counted: int = 0
    """Rows for which it counts in the backlog."""
    due: float = 0.0
    size: int = 0
    """Rows to compute, as far as was known when it entered its lane."""
    blocked: bool = False
    """Whether it could not start: there was no memory for it, or for one before it."""
    started: float | None = None
    slots: int = 0
    """Slots that were reserved at the start; 0 while the task runs without memory."""
    cached: int = 0
    rows: int = 0
    """Rows computed for this task, probes not counted."""
    results: list[Vectors] = field(default_factory=list)

    def __post_init__(self) -> None:
        assert all(0 <= probe <= len(self.ids) for probe in self.probes), "a probe lies within its text"
        assert list(self.probes) == sorted(self.probes), "probes are ascending"

    @property
    def work(self) -> int:
        """What it adds to the work that waits, in rows."""
        return len(self.ids) - self.behind + len(self.probes) if self.probes else 0

    @property
    def done(self) -> int:
        """Probes that have been read out."""
        return len(self.results)

    @property
    def finished(self) -> bool:
        return self.done == len(self.probes) and len(self.sequence.ids) == len(self.ids)

    def answer(self, embedding: Embedding) -> None:
        """Ends the task well, unless its waiter has gone."""
        if self.future.set_running_or_notify_cancel():
            self.future.set_result(embedding)

    def fail(self, error: StreambedError) -> None:
        """Ends the task with an error, unless it has ended or its waiter has gone."""
        if not self.future.done() and self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)


class Run(NamedTuple):
    """One task's part of a step: rows for ids `[start, stop)`, then a row for each of `probes`."""

    task: Task
    start: int
    stop: int
    probes: tuple[int, ...]
    kv: KV | None
    """Where keys and values go; None where the whole text runs at once and nobody will continue it."""
    base: KV | None
    """As `Part.base`."""

    @property
    def rows(self) -> int:
        return self.stop - self.start + len(self.probes)


@dataclass
class Step:
    """One run of the network over rows of many sequences."""

    runs: list[Run] = field(default_factory=list)
    copies: list[Copy] = field(default_factory=list)
    lenders: list[Sequence] = field(default_factory=list)
    """Idle sequences with which others begin that have no memory: not evicted, nor continued, before the step ends."""
    costs: dict[Lane, float] = field(default_factory=dict)
    """Of each lane's rows, in rows without context."""
    pauses: bool = False
    """Whether others may overtake it between two layers. It is of one lane then, and its texts belong to no session."""

    @property
    def batch(self) -> Batch:
        """What the device runs."""
        return Batch(
            [Part(task.ids[start:stop], start, probes, kv, base) for task, start, stop, probes, kv, base in self.runs],
            self.copies,
        )

    @property
    def cost(self) -> float:
        return sum(self.costs.values())

    @property
    def lane(self) -> Lane:
        """The least urgent of its lanes."""
        return max(task.lane for task, *_ in self.runs)

    @property
    def due(self) -> float:
        """Of the first of its tasks."""
        return min(task.due for task, *_ in self.runs)

    @property
    def rows(self) -> int:
        return sum(run.rows for run in self.runs)

    @property
    def owners(self) -> Counter[str]:
        """Rows of each."""
        result: Counter[str] = Counter()
        for run in self.runs:
            result[run.task.sequence.owner] += run.rows
        return result

    def __bool__(self) -> bool:
        return bool(self.runs or self.copies)
