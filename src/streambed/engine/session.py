"""A session: one growing text, its tokens, and the exact embedding of what it holds."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from streambed.engine.sequence import Embedding, Sequence
from streambed.errors import NotFound
from streambed.text.incremental import IncrementalTokenizer
from streambed.vectors.shape import check_dimensions, shorten

if TYPE_CHECKING:
    from streambed.engine.engine import Engine


class Snapshot(NamedTuple):
    """An embedding that was asked for, and the state of the text that it is of."""

    future: Future[Embedding]
    revision: int
    offset: int


class Session:
    """Made by `Engine.open_session`. Safe to use from any thread; changes apply in the order of the calls.

    Changes return at once; their rows are computed in the background. Positions count code points.
    """

    def __init__(self, engine: Engine, tokenizer: IncrementalTokenizer, sequence: Sequence, revision: int = 0) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self._sequence = sequence
        self._revision = revision
        self._closed = False
        self._lock = threading.Lock()
        engine.opened()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def text(self) -> str:
        """The text so far, without the instruction."""
        with self._lock:
            return self._tokenizer.text

    @property
    def offset(self) -> int:
        """Its length in code points: where the next append starts."""
        with self._lock:
            return self._tokenizer.length

    @property
    def tokens(self) -> list[int]:
        """Ids of instruction and text, without the end token: always those of one-shot tokenisation."""
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
        return self._sequence.slab is not None

    @property
    def revision(self) -> int:
        """How many changes were applied."""
        with self._lock:
            return self._revision

    def append(self, text: str) -> int:
        """Adds text at the end; returns the new revision.

        Raises:
            InvalidRequest: a lone surrogate. TooLarge: the text would outgrow the window. Nothing is applied then.
        """
        with self._lock:
            return self._change(self._tokenizer.length, self._tokenizer.length, text)

    def replace(self, start: int, end: int, text: str) -> int:
        """Puts `text` in the place of characters `[start, end)`; returns the new revision. Raises as `append`, and
        InvalidRequest for a range outside the text."""
        with self._lock:
            return self._change(start, end, text)

    def set(self, text: str) -> int:
        """Makes `text` the whole text; what it shares with the old one at its start is kept. Raises as `append`."""
        with self._lock:
            return self._change(None, None, text)

    def embedding(self, dimensions: int | None = None, timeout: float | None = None) -> NDArray[np.float32]:
        """The exact embedding of the text as it is now: float32 [dimensions], of unit length.

        timeout: seconds to wait; TimeoutError after that.
        """
        check_dimensions(dimensions, self._engine.info.dimensions)
        future = self.probe().future
        try:
            vector: NDArray[np.float32] = shorten(future.result(timeout).vectors, dimensions)[0]
            return vector
        finally:
            future.cancel()

    def probe(self, deadline: float | None = None) -> Snapshot:
        """Asks for the embedding of the text as it is now, without waiting. deadline: time.monotonic()."""
        with self._lock:
            self._check_open()
            ids = self._tokenizer.tokens
            future = self._engine.submit(self._sequence, ids, (len(ids),), deadline=deadline)
            return Snapshot(future, self._revision, self._tokenizer.length)

    def fork(self) -> Session:
        """An independent session with the same text; its KV is copied, not computed."""
        with self._lock:
            self._check_open()
            sequence = Sequence(self._sequence.owner, source=self._sequence)
            return Session(self._engine, self._tokenizer.fork(), sequence, self._revision)

    def evict(self) -> None:
        """Gives the KV back and keeps the text; the next embedding computes it again. Does nothing while work runs."""
        self._engine.evict(self._sequence)

    def close(self) -> None:
        """Ends the session; whoever still waits for an embedding of it is told."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._engine.forget(self._sequence)

    def _change(self, start: int | None, end: int | None, text: str) -> int:
        self._check_open()
        limit = self._engine.info.max_tokens - 1
        if start is None or end is None:
            self._tokenizer.set(text, limit)
        else:
            self._tokenizer.replace(start, end, text, limit)
        self._revision += 1
        self._engine.submit(self._sequence, self._tokenizer.tokens, ())
        return self._revision

    def prepare(self) -> None:
        """Has the text computed in the background."""
        with self._lock:
            self._check_open()
            self._engine.submit(self._sequence, self._tokenizer.tokens, ())

    def _check_open(self) -> None:
        if self._closed:
            raise NotFound("the session is closed")
        self._engine.check_open()
