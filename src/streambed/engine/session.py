"""A session: one growing text, its tokens, and the exact embedding of what it holds."""

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from streambed.arguments import as_integer
from streambed.engine.compute import Compute
from streambed.engine.documents import Documents
from streambed.engine.sequence import Embedding, Lane, Sequence, Task
from streambed.errors import InvalidRequest, NotFound, TooLarge
from streambed.process import Closeable
from streambed.text.incremental import IncrementalTokenizer
from streambed.text.strings import check_text, common_prefix
from streambed.vectors.shape import shorten


class Snapshot(NamedTuple):
    """An embedding that was asked for, and the state of the text that it is of."""

    future: Future[Embedding]
    revision: int
    offset: int
    start: int = 0
    """Where the segment that it is of begins."""


Overflow = Literal["error", "segment"]
OVERFLOW = get_args(Overflow)
"""What becomes of a text that outgrows the window: see `Engine.open_session`."""
MAX_ENDED = 1024
"""Ended segments that wait to be taken; older ones go."""
EAGER_SECONDS = 0.02
"""How long a few appended tokens wait for an explicit probe before they are computed on their own."""


@dataclass(frozen=True)
class EndedSegment:
    """A segment that the text has outgrown, and its last embedding."""

    number: int
    start: int
    end: int
    tokens: int
    """Of instruction and segment, without the end token."""
    future: Future[Embedding]
    _choose_dimensions: Callable[[int | None], int] = field(repr=False)

    def embedding(self, dimensions: int | None = None, timeout: float | None = None) -> NDArray[np.float32]:
        """Of the characters `[start, end)` on their own: float32 [dimensions], of unit length."""
        hidden = self.future.result(timeout).vectors
        return shorten(hidden, self._choose_dimensions(dimensions)).squeeze(0)


class Session(Closeable):
    """Made by `Engine.open_session`. Safe to use from any thread; changes apply in the order of the calls.

    Changes return at once; their rows are computed in the background. Positions count code points. Tokenizer and sequence
    hold the segment that grows, which is the whole text unless `overflow` is `segment`. In a child of `fork` it raises
    NotReady.
    """

    _instead = "open a session on an engine of each process that needs one"

    def __init__(
        self,
        compute: Compute,
        documents: Documents,
        tokenizer: IncrementalTokenizer,
        sequence: Sequence,
        prompt: str,
        overflow: Overflow = "error",
    ) -> None:
        self._compute, self._documents = compute, documents
        self._tokenizer = tokenizer
        self._sequence = sequence
        self._prompt = prompt
        self._overflow: Overflow = overflow
        self._revision = 0
        self._before = ""
        """What ended segments hold, and the spaces around them."""
        self._segment = 0
        self._ended: deque[EndedSegment] = deque(maxlen=MAX_ENDED)
        self._closed = False
        self._lock = threading.Lock()
        super().__init__()
        compute.opened()

    @property
    def text(self) -> str:
        """The text so far, without the instruction."""
        with self._lock:
            return self._before + self._tokenizer.text

    @property
    def offset(self) -> int:
        """Its length in code points: where the next append starts."""
        with self._lock:
            return len(self._before) + self._tokenizer.length

    @property
    def start(self) -> int:
        """Where the segment that grows begins: what an embedding is of goes from here to the text's end."""
        with self._lock:
            return len(self._before)

    @property
    def segment(self) -> int:
        """Its number, from 0."""
        with self._lock:
            return self._segment

    @property
    def overflow(self) -> Overflow:
        return self._overflow

    def take_ended(self) -> list[EndedSegment]:
        """The segments that have ended since the last call."""
        with self._lock:
            ended = list(self._ended)
            self._ended.clear()
            return ended

    @property
    def tokens(self) -> list[int]:
        """Ids of instruction and text (of the segment that grows), without the end token: always those of one-shot
        tokenisation."""
        with self._lock:
            return self._tokenizer.tokens

    @property
    def num_tokens(self) -> int:
        """How many they are."""
        with self._lock:
            return self._tokenizer.num_tokens

    @property
    def unsettled(self) -> int:
        """Characters at its end that each change tokenises again."""
        return self._tokenizer.unsettled

    @property
    def is_warm(self) -> bool:
        """Whether its KV is there, at least of a part; otherwise the next embedding computes it again."""
        return self._sequence.kv is not None

    @property
    def revision(self) -> int:
        """How many changes were applied."""
        with self._lock:
            return self._revision

    def append(self, text: str) -> int:
        """Adds text at the end; returns the new revision.

        Raises:
            InvalidRequest: a lone surrogate. TooLarge: the text would outgrow the window, and is not to go on in segments.
            Overloaded: too much work waits to end a segment now. Nothing is applied then.
        """
        with self._lock:
            end = len(self._before) + self._tokenizer.length
            return self._change(end, end, text)

    def replace(self, start: int, end: int, text: str) -> int:
        """Puts `text` in the place of characters `[start, end)`; returns the new revision. Raises as `append`, and
        InvalidRequest for a range outside the text or in a segment that has ended."""
        with self._lock:
            return self._change(start, end, text)

    def set(self, text: str) -> int:
        """Makes `text` the whole text; what it shares with the old one at its start is kept. Raises as `replace`."""
        check_text(text)
        with self._lock:
            old = self._before + self._tokenizer.text
            same = common_prefix(old, text)
            return self._change(same, len(old), text[same:])

    def restore(self, text: str, start: int = 0, segment: int = 0) -> None:
        """Makes it what it was: the text, with the segment that grows from `start`. Raises as `append`."""
        with self._lock:
            before, number = self._before, self._segment
            self._before, self._segment = text[:start], segment
            try:
                self._fill(text[start:])
            except BaseException:
                self._before, self._segment = before, number
                raise
            self._revision += 1

    def embedding(self, dimensions: int | None = None, timeout: float | None = None) -> NDArray[np.float32]:
        """The exact embedding of the text as it is now: float32 [dimensions], of unit length.

        timeout: seconds to wait; TimeoutError after that.
        """
        dimensions = self._documents.choose_dimensions(dimensions)
        future = self.probe().future
        try:
            return shorten(future.result(timeout).vectors, dimensions).squeeze(0)
        finally:
            future.cancel()

    def probe(self, deadline: float | None = None) -> Snapshot:
        """Asks for the embedding of the text as it is now, without waiting. deadline: time.monotonic()."""
        with self._lock:
            self._check_open()
            ids = self._tokenizer.tokens
            (future,) = self._submit(ids, deadline=deadline)
            start = len(self._before)
            return Snapshot(future, self._revision, start + self._tokenizer.length, start)

    def fork(self) -> "Session":
        """An independent session with the same text; its KV is copied, not computed."""
        with self._lock:
            self._check_open()
            sequence = Sequence(self._sequence.owner, source=self._sequence)
            tokenizer = self._tokenizer.fork()
            twin = Session(self._compute, self._documents, tokenizer, sequence, self._prompt, self._overflow)
            twin._revision, twin._before, twin._segment = self._revision, self._before, self._segment
            return twin

    def evict(self) -> None:
        """Gives the KV back and keeps the text; the next embedding computes it again. Does nothing while work runs."""
        self._compute.evict(self._sequence)

    def close(self) -> None:
        """Ends the session; whoever still waits for an embedding of it is told."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._compute.forget(self._sequence)

    def _change(self, start: int, end: int, text: str) -> int:
        self._check_open()
        check_text(text)
        start, end = as_integer("start", start, None), as_integer("end", end, None)
        first, limit = len(self._before), self._documents.max_tokens - 1
        if not 0 <= start <= end <= first + self._tokenizer.length:
            raise InvalidRequest(f"range [{start}, {end}) is not within the text's {first + self._tokenizer.length}")
        if start < first:
            raise InvalidRequest(f"the text before {first:,} stands in segments that have ended and cannot change")
        try:
            self._tokenizer.replace(start - first, end - first, text, limit)
        except TooLarge:
            if self._overflow == "error":
                raise
            grown = self._tokenizer.text
            self._divide(grown[: start - first] + text + grown[end - first :])
        self._revision += 1
        self._prepare()
        return self._revision

    def _fill(self, text: str) -> None:
        """Makes `text` the segment that grows, or several."""
        self._check_open()
        try:
            self._tokenizer.set(text, self._documents.max_tokens - 1)
        except TooLarge:
            if self._overflow == "error":
                raise
            self._divide(text)
        if text:
            self._prepare()

    def _divide(self, text: str) -> None:
        """Ends as many segments as it takes until the rest of `text` fits.

        The sequence goes from each to the next as to any other text, so the instruction's KV stays.
        """
        first = len(self._before)
        parts, rest = self._documents.outgrow(self._prompt, text)
        futures = self._submit(*(part.ids for part in parts))
        self._tokenizer.set(text[rest:], self._documents.max_tokens - 1)
        choose = self._documents.choose_dimensions
        for part, future in zip(parts, futures, strict=True):
            ended = EndedSegment(self._segment, first + part.start, first + part.end, len(part.ids), future, choose)
            self._ended.append(ended)
            self._segment += 1
        self._before += text[:rest]

    def _submit(self, *texts: list[int], deadline: float | None = None) -> list[Future[Embedding]]:
        """Brings the sequence to each of these ids in turn, with a probe at each end. All are queued, or none."""
        now = time.monotonic()
        tasks = [Task(self._sequence, ids, (len(ids),), Lane.STREAM, now, deadline) for ids in texts]
        self._compute.post(tasks)
        return [task.future for task in tasks]

    def _prepare(self) -> None:
        """Has the rows of the text computed that are not yet, though nobody waits."""
        now = time.monotonic()
        ids = self._tokenizer.tokens
        self._compute.post([Task(self._sequence, ids, (), Lane.STREAM, now, ready=now + EAGER_SECONDS)])

    def _after_fork(self) -> None:
        self._lock = threading.Lock()
        self._ended.clear()  # their vectors come to the parent alone

    def _check_open(self) -> None:
        if self._closed:
            raise NotFound("the session is closed")
        self._compute.check_open()
