"""The library's front door: texts to tasks, embeddings to vectors."""

import os
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, Literal, Self, get_args

import numpy as np

from streambed.arguments import as_every, as_offsets, check_choice, describe
from streambed.engine.compute import Compute
from streambed.engine.core import Core
from streambed.engine.documents import Documents
from streambed.engine.info import EngineInfo
from streambed.engine.options import EngineOptions
from streambed.engine.prefix_embeddings import Prefixes
from streambed.engine.sequence import Embedding, Lane, Task
from streambed.engine.sequence import Sequence as TokenSequence
from streambed.engine.session import OVERFLOW, Overflow, Session
from streambed.engine.stats import EngineStats
from streambed.errors import InvalidRequest, SettingsError
from streambed.model.checkpoint import BUILTIN, Checkpoint, find_checkpoint
from streambed.model.device import Kernels, KVDtype, Quantize, Vectors
from streambed.process import Closeable
from streambed.text.segments import Document, LongInput
from streambed.text.strings import Empty, check_text, find_texts, list_texts
from streambed.text.tokenizer import SpecialTokens
from streambed.vectors.shape import merge, shorten, spread


class Engine(Closeable):
    """A loaded model. Safe to use from any thread of the process that loaded it."""

    _instead = Core._instead

    def __init__(self, checkpoint: Checkpoint, options: EngineOptions | None = None, **more: Any) -> None:
        """Loads the weights; `Engine.load` finds the checkpoint first. more: fields of `EngineOptions`, one by one.

        Raises:
            CheckpointError, SettingsError: in one line.
        """
        options = replace(options or EngineOptions(), **more)
        self.checkpoint = checkpoint
        self.documents = documents = Documents(checkpoint, options.special_tokens, options.instruction_template)
        self.tokenizer = documents.tokenizer
        self.compute: Compute = Core(checkpoint, options, documents.tokenizer.end_id)
        documents.max_tokens = self.compute.info.max_tokens
        self.info = EngineInfo.of(checkpoint, documents, self.compute)
        super().__init__()

    @classmethod
    def load(
        cls,
        model: str | os.PathLike[str] = BUILTIN,
        *,
        revision: str | None = None,
        dtype: str = "auto",
        device: str = "auto",
        kernels: Kernels = "auto",
        quantize: Quantize = "none",
        kv_dtype: KVDtype = "auto",
        kv_memory: int | None = None,
        max_batch_tokens: int | None = None,
        special_tokens: SpecialTokens = "text",
        instruction_template: str | None = None,
        allow_unknown_config: bool = False,
    ) -> Self:
        """Loads `builtin`, a directory or a hub id such as `Qwen/Qwen3-Embedding-0.6B`.

        revision: of a hub id. allow_unknown_config: keys of the checkpoint's files whose meaning is not known are a warning,
        not an error. For the rest see `EngineOptions`.

        Raises:
            CheckpointError, SettingsError: in one line.
        """
        if not isinstance(model, str | os.PathLike):
            raise SettingsError(f"is {describe(model)}; 'builtin', a directory or a hub id is expected", "model")
        options = EngineOptions(
            dtype,
            device,
            kernels,
            quantize,
            kv_dtype,
            kv_memory,
            max_batch_tokens,
            special_tokens,
            instruction_template,
        )
        return cls(find_checkpoint(os.fspath(model), revision, allow_unknown_config=allow_unknown_config), options)

    # What a library user calls

    def embed(
        self,
        texts: str | Iterable[str],
        *,
        instruction: str | None = None,
        prompt_name: str | None = None,
        input_type: str | None = None,
        dimensions: int | None = None,
        long_input: LongInput = "error",
        empty: Empty = "error",
    ) -> Vectors:
        """Embeds texts: float32 [number of texts, dimensions], of unit length, in the order given.

        texts: any iterable of strings; one string gives [1, dimensions]. empty: an empty text is an error, or with `null`
        its row is NaN and the others are computed.

        At most one of instruction, prompt_name and input_type says what the vectors are for. dimensions: 32 to the
        model's own; by default the checkpoint's `truncate_dim`, or all. long_input: what to do with a text beyond the
        window: refuse it; `truncate` it, keeping the end token; or `merge` its segments' vectors into their mean,
        weighted by tokens.

        Raises:
            InvalidRequest: a wrong argument, an item that is no text, or empty texts, which `details` lists as
            `{"indexes": [...]}`; before anything is computed. TooLarge: a text is longer than the window.
        """
        self.compute.check_open()
        texts = list_texts(texts)
        check_choice("long_input", long_input, get_args(LongInput))
        check_choice("empty", empty, get_args(Empty))
        self.documents.choose_dimensions(dimensions)
        prompt = self.prompt(instruction, prompt_name, input_type)
        places = find_texts(texts, empty)
        documents = self.documents.divide(texts, prompt, long_input)
        vectors = self.embed_documents([documents[place] for place in places], dimensions)
        return vectors if len(places) == len(texts) else spread(vectors, places, len(texts))

    def embed_documents(self, documents: Sequence[Document], dimensions: int | None = None) -> Vectors:
        """Embeds what `Documents.divide` made: float32 [len(documents), dimensions], of unit length. Raises as `embed`."""
        dimensions = self.documents.choose_dimensions(dimensions)
        if not documents:
            return np.empty((0, dimensions), dtype=np.float32)
        futures = self.submit_batch([segment.ids for document in documents for segment in document.segments])
        hidden = np.concatenate([embedding.vectors for embedding in _results(futures)])
        return shorten(merge(hidden, [document.weights for document in documents]), dimensions)

    def prefix_embeddings(
        self,
        text: str,
        *,
        every: Literal["sentence"] | int = "sentence",
        offsets: Iterable[int] | None = None,
        instruction: str | None = None,
        prompt_name: str | None = None,
        input_type: str | None = None,
        dimensions: int | None = None,
    ) -> list[tuple[int, Vectors]]:
        """Embeds beginnings of a text, reading it once: (offset, float32 [dimensions] of unit length), ascending.

        Each vector is that of `text[:offset]` on its own. every: at the ends of sentences, or after so many tokens; the
        whole text comes last. offsets: these places instead, in code points, rising. The rest as in `embed`.

        Raises:
            InvalidRequest, TooLarge: as `embed`; an empty text, offsets that do not rise within it.
        """
        self.compute.check_open()
        check_text(text)
        if not text:
            raise InvalidRequest("text is empty; it has no beginnings", "text")
        documents = self.documents
        dimensions = documents.choose_dimensions(dimensions)
        places = documents.places(text, as_every(every)) if offsets is None else as_offsets(offsets)
        if not places:
            return []
        prefixes = documents.prefixes(text, places, self.prompt(instruction, prompt_name, input_type))
        vectors = shorten(prefixes.vectors(_results(self.submit_prefixes(prefixes))), dimensions)
        return [(cut.offset, vector) for cut, vector in zip(prefixes.cuts, vectors, strict=True)]

    def open_session(
        self,
        text: str = "",
        *,
        instruction: str | None = None,
        prompt_name: str | None = None,
        input_type: str | None = None,
        overflow: Overflow = "error",
        owner: str = "",
    ) -> Session:
        """Opens a growing text, optionally under an instruction. Close it, or use it in a `with` block.

        overflow: what becomes of a text that outgrows the window. `error`: the change that would do it is refused.
        `segment`: the text so far ends, at a good place, as a segment with a last embedding of its own (`take_ended`), and
        the rest goes on in a new window; from then on embeddings are of that.

        Raises:
            InvalidRequest: a wrong argument or a lone surrogate. TooLarge: the text is longer than the window, or the
            instruction leaves no room for segments.
        """
        self.compute.check_open()
        check_text(text)
        check_choice("overflow", overflow, OVERFLOW)
        prompt = self.prompt(instruction, prompt_name, input_type)
        tokenizer = self.documents.grow(prompt, overflow == "segment")
        session = Session(self.compute, self.documents, tokenizer, TokenSequence(owner), prompt, overflow)
        try:
            if text:
                session.append(text)
        except BaseException:
            session.close()
            raise
        return session

    def prompt(
        self, instruction: str | None = None, prompt_name: str | None = None, input_type: str | None = None
    ) -> str:
        """The text to put before texts; see `Prompts.choose`."""
        return self.documents.prompts.choose(instruction, prompt_name, input_type)

    # What the server calls

    def submit_batch(
        self,
        texts: Sequence[list[int]],
        *,
        lane: Lane | None = None,
        owner: str = "",
        deadline: float | None = None,
    ) -> list[Future[Embedding]]:
        """One probe at the end of each text of ids, which `Documents.fit` has passed. All are queued, or none.

        lane: by default `QUERY`, or `BULK` for more than a few steps' worth of work. deadline: time.monotonic().

        Raises:
            Overloaded: too much work is waiting. NotReady: the engine is closing or dead.
        """
        many = len(texts) > 1 and sum(map(len, texts)) + len(texts) > 4 * self.info.max_batch_tokens
        lane, now = _lane(lane, many), time.monotonic()
        return self._post(
            # A text on its own often comes back longer, so its KV is worth having; one of many seldom does.
            Task(TokenSequence(owner, transient=True), ids, (len(ids),), lane, now, deadline, keep=len(texts) == 1)
            for ids in texts
        )

    def submit_prefixes(
        self, prefixes: Prefixes, *, lane: Lane | None = None, owner: str = "", deadline: float | None = None
    ) -> list[Future[Embedding]]:
        """One pass over the text, with a probe at each beginning. Lane and errors as in `submit_batch`."""
        sequence, now = TokenSequence(owner, transient=True), time.monotonic()
        many = len(prefixes.passes) > 64 or len(prefixes.cuts) > 4 * self.info.max_batch_tokens
        lane = _lane(lane, many)
        return self._post(
            Task(sequence, one.ids, one.probes, lane, now, deadline, behind=one.behind) for one in prefixes.passes
        )

    def evict(self) -> None:
        """Evicts to text: the KV of everything idle."""
        self.compute.evict()

    def check_integrity(self) -> None:
        """Asserts the invariants of scheduler and memory."""
        self.compute.check_integrity()

    @property
    def ready(self) -> bool:
        """Whether it takes work."""
        return self.compute.ready

    def stats(self) -> EngineStats:
        """Counters and gauges; never waits for a step."""
        return self.compute.stats()

    def close(self, timeout: float | None = None) -> None:
        """Ends after the step in progress; whoever still waits gets NotReady. timeout: seconds to wait for that."""
        self.compute.close(timeout)

    def _post(self, tasks: Iterable[Task]) -> list[Future[Embedding]]:
        posted = list(tasks)
        self.compute.post(posted)
        return [task.future for task in posted]


def _results(futures: list[Future[Embedding]]) -> list[Embedding]:
    """The results of all. After a failure the others are cancelled."""
    try:
        return [future.result() for future in futures]
    finally:
        for future in futures:
            future.cancel()


def _lane(asked: Lane | None, many: bool) -> Lane:
    return asked if asked is not None else Lane.BULK if many else Lane.QUERY
