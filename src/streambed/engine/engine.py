"""The engine: one thread that turns tasks into vectors, and the library's front door."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from collections.abc import Sequence as Sequence_
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self, get_args

import numpy as np
import torch

from streambed.arguments import as_every, as_offsets, check_choice, describe
from streambed.engine.beginnings import Beginnings
from streambed.engine.kv import KVMemory, physical_memory
from streambed.engine.prefixes import Prefixes
from streambed.engine.runner import Runner, choose_device, choose_dtype
from streambed.engine.scheduler import Scheduler
from streambed.engine.sequence import Embedding, Lane, Sequence, Task, Vectors
from streambed.engine.session import OVERFLOW, Overflow, Session
from streambed.engine.stats import EngineStats as EngineStats
from streambed.engine.stats import LaneStats
from streambed.engine.stats import StepReport as StepReport
from streambed.errors import (
    CheckpointError,
    DeadlineExceeded,
    Internal,
    InvalidRequest,
    NotReady,
    Overloaded,
    SettingsError,
    TooLarge,
)
from streambed.model.checkpoint import BUILTIN, Checkpoint, find_checkpoint
from streambed.model.weights import load_network
from streambed.process import ProcessBound
from streambed.text.cuts import check_offsets, cut, sentence_ends, token_ends
from streambed.text.incremental import IncrementalTokenizer, Splits
from streambed.text.instructions import QWEN_TEMPLATE, Prompts, find_template, parse_template
from streambed.text.segments import Document, LongInput, Segment, check_room, segments
from streambed.text.strings import Empty, check_text, find_texts, list_texts
from streambed.text.tokenizer import SpecialTokens, Tokenizer
from streambed.vectors.shape import check_dimensions, merge, shorten, spread

logger = logging.getLogger(__name__)

CHARACTERS_PER_TOKEN = 32
"""More than any text has on average; beyond the window times this, a text is not even tokenised."""
MAX_QUEUED_TOKENS = 1 << 20
"""Beyond this much waiting work, more is refused; an idle engine takes any request."""
EAGER_SECONDS = 0.02
"""How long a few appended tokens wait for an explicit probe before they are computed on their own."""
PATIENCE = 4
"""How much larger a step may be while no session is open: nobody types, and larger steps compute a quarter faster."""
MAX_FAILURES = 3
"""Steps that may fail one after another before the engine gives up."""


@dataclass(frozen=True)
class EngineInfo:
    """What was loaded, for logs, `/info` and clients that keep vectors."""

    model: str
    fingerprint: str
    """Equal for two engines exactly when they give the same vectors for the same text, up to rounding."""
    dtype: str
    device: str
    dimensions: int
    """Of the model's own vectors."""
    default_dimensions: int
    """Of those that come where nobody says how many: the checkpoint's `truncate_dim`, or all."""
    default_prompt_name: str | None
    """Of the prompt that stands before texts where nobody names one."""
    instruction_template: str
    """The form of an instruction."""
    window: int
    """The checkpoint's own limit."""
    max_tokens: int
    """Most tokens of one text, instruction and end token included: the window, or less where memory for KV is short."""
    max_batch_tokens: int
    kv_memory: int
    kv_bytes_per_token: int
    special_tokens: str
    threads: int
    single_thread_rows: int
    """Steps that cost up to so many rows run on one thread; 0 where none does."""


class Engine(ProcessBound):
    """A loaded model with its thread. Safe to use from any thread of the process that loaded it."""

    _instead = "load an engine in each process that needs one, or serve one to all and use Client"

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        dtype: str = "auto",
        device: str = "auto",
        kv_memory: int | None = None,
        max_batch_tokens: int | None = None,
        special_tokens: SpecialTokens = "text",
        instruction_template: str | None = None,
    ) -> None:
        """Loads the weights and starts the thread; `Engine.load` finds the checkpoint first.

        dtype: `auto`, `float32` or `bfloat16`. device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`. kv_memory: bytes for KV, a
        quarter of the memory by default. max_batch_tokens: rows of a step; by default as many as run in a tenth of a
        second. special_tokens: whether `<|endoftext|>` and its like in a text are plain `text` or `parse`d.
        instruction_template: the form of an instruction, with `{instruction}` in its place; by default the one that the
        checkpoint's prompts show, else Qwen's.

        Raises:
            CheckpointError, SettingsError: in one line.
        """
        chosen_device = choose_device(device)
        chosen_dtype = choose_dtype(dtype, chosen_device, checkpoint.is_builtin)
        for name, number in (("max_batch_tokens", max_batch_tokens), ("kv_memory", kv_memory)):
            if number is not None and (type(number) is not int or number < 1):
                raise SettingsError(f"is {number!r}; an integer of at least 1 is expected", name)
        if special_tokens not in (modes := get_args(SpecialTokens)):
            raise SettingsError(f"is {special_tokens!r}; {' or '.join(modes)} is expected", "special_tokens")
        self.checkpoint = checkpoint
        pipeline = checkpoint.pipeline
        self.tokenizer = Tokenizer(checkpoint.tokenizer_file, special_tokens, pipeline.lower_case)
        self.tokenizer.check_named(pipeline.named_tokens)
        template = (
            find_template(pipeline.prompts) if instruction_template is None else parse_template(instruction_template)
        )
        self._prompts = Prompts(pipeline.prompts, pipeline.default_prompt_name, template)
        if self.tokenizer.size > checkpoint.config.vocab_size:
            raise CheckpointError(
                f"{checkpoint.tokenizer_file}: has token ids up to {self.tokenizer.size - 1}, "
                f"but the embedding table has {checkpoint.config.vocab_size} rows"
            )
        self.splits = Splits(self.tokenizer)
        if kv_memory is None:
            kv_memory = physical_memory(chosen_device) // 4
        self._prefixes = Prefixes()
        self._kv = KVMemory(
            checkpoint.config, checkpoint.window, chosen_dtype, chosen_device, kv_memory, self._prefixes.remove
        )
        self._runner: Runner
        self._scheduler: Scheduler
        self._lock = threading.Condition()
        self._inbox: list[Callable[[], None]] = []
        self._outstanding: set[Task] = set()
        self._calls: list[Future[None]] = []
        self._queued_tokens = 0
        self._closing = False
        self._broken: str | None = None
        self._sessions = 0
        self._steps = 0
        self._rows = 0
        self._progress = self._checked = time.monotonic()
        self._failures = 0
        self.step_listeners: list[Callable[[StepReport], None]] = []
        """Are told of each step, on the engine's thread; must be quick and must not raise."""
        loaded: Future[tuple[str, int]] = Future()

        def load() -> tuple[str, int]:
            network, weights = load_network(checkpoint, chosen_dtype, chosen_device, checkpoint.window)
            self._runner = Runner(network, self.tokenizer.end_id)
            rows = self._runner.calibrate() if max_batch_tokens is None else max_batch_tokens
            patient_rows = rows * PATIENCE if max_batch_tokens is None else rows
            self._scheduler = Scheduler(self._kv, self._prefixes, rows, self._runner.row_cost, patient_rows)
            return weights, rows

        # The thread loads what it will run. OpenMP keeps a team of workers for each thread that ever computed, and where
        # all teams together outnumber the cores it puts them to sleep between loops: loading here cost 40 % of speed.
        self._thread = threading.Thread(target=self._serve, args=(load, loaded), name="streambed-engine", daemon=True)
        self._thread.start()
        super().__init__()
        weights, rows = loaded.result()
        kind = str(chosen_dtype).removeprefix("torch.")
        self.info = EngineInfo(
            model=checkpoint.name,
            fingerprint=_fingerprint(weights, self.tokenizer, self._prompts, kind),
            dtype=kind,
            device=str(chosen_device),
            dimensions=checkpoint.config.hidden_size,
            default_dimensions=pipeline.default_dimensions or checkpoint.config.hidden_size,
            default_prompt_name=pipeline.default_prompt_name,
            instruction_template=template,
            window=checkpoint.window,
            max_tokens=self._kv.max_slots,
            max_batch_tokens=rows,
            kv_memory=kv_memory,
            kv_bytes_per_token=self._kv.bytes_per_slot,
            special_tokens=special_tokens,
            threads=self._runner.threads.most,
            single_thread_rows=self._runner.threads.single_rows,
        )

    @classmethod
    def load(
        cls,
        model: str | os.PathLike[str] = BUILTIN,
        *,
        revision: str | None = None,
        dtype: str = "auto",
        device: str = "auto",
        kv_memory: int | None = None,
        max_batch_tokens: int | None = None,
        special_tokens: SpecialTokens = "text",
        instruction_template: str | None = None,
        allow_unknown_config: bool = False,
    ) -> Engine:
        """Loads `builtin`, a directory or a hub id such as `Qwen/Qwen3-Embedding-0.6B`. See `Engine` for the rest.

        allow_unknown_config: keys of the checkpoint's files whose meaning is not known are a warning, not an error.
        """
        if not isinstance(model, str | os.PathLike):
            raise SettingsError(f"is {describe(model)}; 'builtin', a directory or a hub id is expected", "model")
        return cls(
            find_checkpoint(os.fspath(model), revision, allow_unknown_config=allow_unknown_config),
            dtype=dtype,
            device=device,
            kv_memory=kv_memory,
            max_batch_tokens=max_batch_tokens,
            special_tokens=special_tokens,
            instruction_template=instruction_template,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

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
        self.check_open()
        texts = list_texts(texts)
        check_choice("long_input", long_input, get_args(LongInput))
        check_choice("empty", empty, get_args(Empty))
        self.choose_dimensions(dimensions)
        prompt = self.prompt(instruction, prompt_name, input_type)
        places = find_texts(texts, empty)
        documents = self.divide(texts, prompt, long_input)
        vectors = self.embed_documents([documents[place] for place in places], dimensions)
        return vectors if len(places) == len(texts) else spread(vectors, places, len(texts))

    def embed_documents(self, documents: Sequence_[Document], dimensions: int | None = None) -> Vectors:
        """Embeds what `divide` made: float32 [len(documents), dimensions], of unit length. Raises as `embed`."""
        dimensions = self.choose_dimensions(dimensions)
        futures = self.submit_batch([segment.ids for document in documents for segment in document.segments])
        if not futures:
            return np.empty((0, dimensions), dtype=np.float32)
        try:
            hidden = np.concatenate([future.result().vectors for future in futures])
            return shorten(merge(hidden, [document.weights for document in documents]), dimensions)
        finally:
            for future in futures:
                future.cancel()

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
        self.check_open()
        check_text(text)
        if not text:
            raise InvalidRequest("text is empty; it has no beginnings", "text")
        dimensions = self.choose_dimensions(dimensions)
        places = self.places(text, as_every(every)) if offsets is None else as_offsets(offsets)
        if not places:
            return []
        beginnings = self.beginnings(text, places, self.prompt(instruction, prompt_name, input_type))
        futures = self.submit_beginnings(beginnings)
        try:
            found = [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()
        vectors = shorten(beginnings.vectors(found), dimensions)
        return [(cut.offset, vector) for cut, vector in zip(beginnings.cuts, vectors, strict=True)]

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
        self.check_open()
        check_text(text)
        check_choice("overflow", overflow, OVERFLOW)
        prompt = self.prompt(instruction, prompt_name, input_type)
        tokenizer = IncrementalTokenizer(self.splits, prompt)
        tokenizer.set("", self.info.max_tokens - 1)
        if overflow == "segment":
            check_room(tokenizer.num_tokens, self.info.max_tokens - 1)
        session = Session(self, tokenizer, Sequence(owner), prompt, overflow)
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
        return self._prompts.choose(instruction, prompt_name, input_type)

    def choose_dimensions(self, dimensions: int | None) -> int:
        """The dimensions that are asked for, or the default. Raises InvalidRequest where they are out of range."""
        check_dimensions(dimensions, self.info.dimensions)
        return dimensions or self.info.default_dimensions

    def divide(
        self,
        texts: Sequence_[str],
        prompt: str = "",
        long_input: LongInput = "error",
        overlap: int = 0,
        expired: Callable[[], bool] = lambda: False,
    ) -> list[Document]:
        """Each text under a prompt as segments that fit in the window: one, unless it is long and to be merged.

        expired: whether to give up, asked after each segment.

        Raises:
            DeadlineExceeded: `expired` said so.
            InvalidRequest: a text has a lone surrogate.
            TooLarge: a text is too long, and to be refused. What is hopelessly long is refused before it costs anything.
        """
        limit, most = self.max_characters, self.info.max_tokens - 1
        for index, text in enumerate(texts):
            size = len(prompt) + len(text)
            if size > limit and (long_input == "error" or len(prompt) > limit):
                raise TooLarge(
                    f"text {index} has {size:,} characters with its prompt; more than {limit:,} never fit in a window of "
                    f"{self.info.max_tokens:,} tokens",
                    f"input[{index}]",
                )
        if len(prompt) > most:
            self.fit(self.tokenizer.encode(prompt))  # once, rather than once for each text
        # What is to be merged and longer than any window is tokenised segment by segment alone.
        fits = [len(prompt) + len(text) <= limit for text in texts]
        heads = [
            (prompt + text)[:limit] for text, whole in zip(texts, fits, strict=True) if whole or long_input != "merge"
        ]
        # One text alone does not wake the library's own thread pool.
        encoded = iter(self.tokenizer.encode_batch(heads) if len(heads) > 1 else map(self.tokenizer.encode, heads))
        before = len(self.tokenizer.encode(prompt)) if prompt else 0
        documents = []
        for index, (text, whole) in enumerate(zip(texts, fits, strict=True)):
            ids = next(encoded) if whole or long_input != "merge" else []
            if whole and len(ids) <= most:
                documents.append(Document([Segment(0, len(text), ids)], before))
            elif long_input == "merge":
                parts = []
                for segment in segments(self.splits, prompt, text, most, overlap):
                    parts.append(segment)
                    if expired():
                        raise DeadlineExceeded("the deadline passed while the text was divided")
                documents.append(Document(parts, before))
            else:
                cut = self.fit(ids, long_input == "truncate", None if len(texts) == 1 else index)
                end = self.tokenizer.end_of((prompt + text)[:limit], len(cut)) - len(prompt)
                documents.append(Document([Segment(0, end, cut)], before, truncated=True))
        return documents

    @property
    def max_characters(self) -> int:
        """Texts with more characters are not even tokenised."""
        return self.info.max_tokens * CHARACTERS_PER_TOKEN

    def fit(self, ids: list[int], truncate: bool = False, index: int | None = None) -> list[int]:
        """The ids if they fit in the window with the end token, or cut to fit. Raises TooLarge."""
        limit = self.info.max_tokens - 1
        if len(ids) <= limit:
            return ids
        if truncate:
            return ids[:limit]
        which = "the text" if index is None else f"text {index}"
        raise TooLarge(
            f"{which} has {len(ids) + 1} tokens with its end token; the limit is {self.info.max_tokens}",
            "input" if index is None else f"input[{index}]",
        )

    # What the server and sessions call

    def submit_batch(
        self,
        texts: Sequence_[list[int]],
        *,
        lane: Lane | None = None,
        owner: str = "",
        deadline: float | None = None,
    ) -> list[Future[Embedding]]:
        """One probe at the end of each text of ids, which `fit` has passed. All are queued, or none.

        lane: by default `QUERY`, or `BULK` for more than a few steps' worth of work. deadline: time.monotonic().

        Raises:
            Overloaded: too much work is waiting. NotReady: the engine is closing or dead.
        """
        size = sum(map(len, texts)) + len(texts)
        if lane is None:
            lane = Lane.BULK if len(texts) > 1 and size > 4 * self.info.max_batch_tokens else Lane.QUERY
        now = time.monotonic()
        tasks = [
            # A text on its own often comes back longer, so its KV is worth having; one of many seldom does.
            Task(Sequence(owner, transient=True), ids, (len(ids),), lane, now, deadline, keep=len(texts) == 1)
            for ids in texts
        ]
        self._post(tasks)
        return [task.future for task in tasks]

    def places(self, text: str, every: Literal["sentence"] | int) -> list[int]:
        """Offsets at the ends of sentences, or after each `every` tokens. Raises InvalidRequest, TooLarge."""
        if len(text) > self.max_characters:
            self.divide([text])  # refuses it
        check_text(text)
        return sentence_ends(text) if every == "sentence" else token_ends(self.splits, text, every)

    def beginnings(self, text: str, offsets: Sequence_[int], prompt: str = "") -> Beginnings:
        """The beginnings of a text that end at `offsets`, tokenised. Raises as `prefix_embeddings`."""
        if len(prompt) + len(text) > self.max_characters:
            self.divide([text], prompt)  # refuses it
        check_text(text)
        check_offsets(offsets, len(text))
        return Beginnings(*cut(self.splits, prompt, text, offsets, self.info.max_tokens - 1))

    def submit_beginnings(
        self, beginnings: Beginnings, *, lane: Lane | None = None, owner: str = "", deadline: float | None = None
    ) -> list[Future[Embedding]]:
        """One pass over the text, with a probe at each beginning. Lane and errors as in `submit_batch`."""
        sequence, now = Sequence(owner, transient=True), time.monotonic()
        if lane is None:
            many = len(beginnings.passes) > 64 or len(beginnings.cuts) > 4 * self.info.max_batch_tokens
            lane = Lane.BULK if many else Lane.QUERY
        tasks = [
            Task(sequence, one.ids, one.probes, lane, now, deadline, behind=one.behind) for one in beginnings.passes
        ]
        self._post(tasks)
        return [task.future for task in tasks]

    def submit(
        self,
        sequence: Sequence,
        ids: list[int],
        probes: tuple[int, ...],
        *,
        lane: Lane = Lane.STREAM,
        deadline: float | None = None,
    ) -> Future[Embedding]:
        """Brings a session's sequence to `ids`, then probes; without probes it only prepares. Raises as submit_batch."""
        now = time.monotonic()
        ready = 0.0 if probes else now + EAGER_SECONDS
        task = Task(sequence, ids, probes, lane, now, deadline, ready)
        self._post([task])
        return task.future

    def submit_segments(self, sequence: Sequence, texts: Sequence_[list[int]]) -> list[Future[Embedding]]:
        """Brings a session's sequence to each of these ids in turn, with a probe at each end. All are queued, or none."""
        now = time.monotonic()
        tasks = [Task(sequence, ids, (len(ids),), Lane.STREAM, now) for ids in texts]
        self._post(tasks)
        return [task.future for task in tasks]

    def opened(self) -> None:
        """Counts a session in."""
        with self._lock:
            self._sessions += 1

    def forget(self, sequence: Sequence) -> None:
        """Ends a session's sequence: whoever waits for it is told, its KV goes."""
        with self._lock:
            self._sessions -= 1
            self._inbox.append(lambda: self._scheduler.close(sequence))
            self._lock.notify()

    def evict(self, sequence: Sequence | None = None) -> None:
        """Evicts to text: the KV of one idle session, or of everything idle."""
        self._call(lambda: self._scheduler.evict(sequence))

    def check_integrity(self) -> None:
        """Asserts the invariants of scheduler and memory, on the engine's own thread."""
        self._call(lambda: self._scheduler.check_integrity())

    def check_open(self) -> None:
        """Raises NotReady unless it takes work, which it does in the process that loaded it alone."""
        if self._broken is not None:
            raise NotReady(self._broken)
        if self._closing:
            raise NotReady("the engine is closing")

    @property
    def ready(self) -> bool:
        """Whether it takes work."""
        return self._broken is None and not self._closing

    def stats(self) -> EngineStats:
        """Counters and gauges; never waits for a step."""
        with self._lock:
            idle = not self._outstanding
            now = time.monotonic()
            queued: dict[Lane, list[float]] = {lane: [] for lane in Lane}
            for task in self._outstanding:
                if task.started is None and task.probes:
                    queued[task.lane].append(task.arrived)
            return EngineStats(
                steps=self._steps,
                rows=self._rows,
                padding=self._runner.padding,
                lanes={
                    lane.name.lower(): LaneStats(len(times), now - min(times, default=now))
                    for lane, times in queued.items()
                },
                rebuilds=self._scheduler.rebuilds,
                cached_tokens=self._scheduler.cached_tokens,
                waiting=len(self._outstanding),
                sessions=self._sessions,
                cached_texts=len(self._prefixes),
                evictions=self._kv.evictions,
                kv_bytes=self._kv.used,
                last_progress_s=0.0 if idle else now - self._progress,
            )

    def close(self, timeout: float | None = None) -> None:
        """Stops the thread after the step in progress; whoever still waits gets NotReady."""
        with self._lock:
            self._closing = True
            self._lock.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout)

    def _after_fork(self) -> None:
        self._lock = threading.Condition()
        self._broken = f"the engine belongs to process {self._home}, which loaded it; {self._instead}"

    # The thread

    def _post(self, tasks: Sequence_[Task]) -> None:
        size = sum(task.work for task in tasks)
        with self._lock:
            self.check_open()
            if size and self._queued_tokens and self._queued_tokens + size > MAX_QUEUED_TOKENS:
                raise Overloaded(f"{self._queued_tokens:,} tokens are waiting already; try again later")
            if not self._outstanding:
                self._progress = time.monotonic()
            self._queued_tokens += size
            for task in tasks:
                self._outstanding.add(task)
            self._inbox.append(lambda: self._submit(tasks))
            self._lock.notify()
        for task in tasks:
            task.future.add_done_callback(lambda _, task=task: self._release(task))  # type: ignore[misc]

    def _submit(self, tasks: Iterable[Task]) -> None:
        for task in tasks:
            self._scheduler.submit(task)

    def _release(self, task: Task) -> None:
        with self._lock:
            if task in self._outstanding:
                self._outstanding.remove(task)
                self._queued_tokens -= task.work
            if task.future.cancelled():
                self._lock.notify()  # let the thread drop it soon, even if it sleeps

    def _call(self, work: Callable[[], None]) -> None:
        """Has the engine's thread do something between steps, and waits; what it raises is raised here."""
        done: Future[None] = Future()

        def answer() -> None:
            try:
                work()
            except Exception as error:  # noqa: BLE001 - the caller's to hear
                done.set_exception(error)
            else:
                done.set_result(None)

        with self._lock:
            self.check_open()
            self._calls.append(done)
            self._inbox.append(answer)
            self._lock.notify()
        try:
            done.result()
        finally:
            self._calls.remove(done)

    def _serve(self, load: Callable[[], tuple[str, int]], loaded: Future[tuple[str, int]]) -> None:
        try:
            try:
                loaded.set_result(load())
            except BaseException as error:  # noqa: BLE001 - whoever loads the engine hears of it
                self._broken = "the engine could not start"
                loaded.set_exception(error)
                return
            while self._receive():
                self.step()
            self._end(NotReady("the engine was closed"))
        except BaseException as error:  # whatever ends this thread, those who wait must hear of it
            logger.critical("the engine died: %s", type(error).__name__, exc_info=error)
            self._broken = "the engine has died; restart the server"
            self._end(Internal("the engine has died"))

    def _receive(self) -> bool:
        """Waits for something to do and takes in what has come. False when it is time to end."""
        with self._lock:
            while not self._closing and not self._inbox:
                ready = self._scheduler.next_ready()
                wait = None if ready is None else ready - time.monotonic()
                if wait is not None and wait <= 0:
                    break
                if not self._lock.wait(wait) or self._scheduler.next_ready() is not None:
                    break
            if self._closing:
                return False
            inbox, self._inbox = self._inbox, []
        for work in inbox:
            work()
        return True

    def step(self) -> None:
        """One step: schedule -> run -> finish. On the engine's thread alone."""
        step = self._scheduler.schedule(time.monotonic(), patient=not self._sessions)
        if not step:
            self._check_when_idle()
            return
        started = time.monotonic()
        try:
            vectors = self._runner.run(step)
        except (RuntimeError, MemoryError, OSError) as error:  # the device's: out of memory, a failed kernel
            self._failures += 1
            logger.error("a step of %d rows failed: %s", step.rows, type(error).__name__, exc_info=error)
            if self._failures >= MAX_FAILURES:
                raise
            failed = Internal("computing this text failed; try again")
            # The CPU's allocator says it in words alone.
            failed.out_of_memory = isinstance(error, MemoryError | torch.OutOfMemoryError) or "memory" in str(error)
            self._scheduler.abandon(step, failed)
            return
        self._failures = 0
        self._steps += 1
        self._rows += step.rows
        self._scheduler.finish(step, vectors, time.monotonic())
        self._progress = time.monotonic()
        report = StepReport(step.rows, len(vectors), self._progress - started)
        for listener in self.step_listeners:
            listener(report)

    def _check_when_idle(self) -> None:
        if self._scheduler.next_ready() is None and time.monotonic() > self._checked + 1.0:
            self._scheduler.check_integrity()
            self._checked = time.monotonic()

    def _end(self, error: NotReady | Internal) -> None:
        with self._lock:
            self._closing = True
            outstanding, calls = list(self._outstanding), list(self._calls)
        for task in outstanding:
            task.fail(error)
        for call in calls:
            if not call.done():
                call.set_exception(error)


def _fingerprint(weights: str, tokenizer: Tokenizer, prompts: Prompts, dtype: str) -> str:
    """Hash of everything that decides a vector."""
    parts = [weights, tokenizer.digest, tokenizer.end_id, tokenizer.special_tokens, "lasttoken", "unit", dtype]
    # What is not as in most checkpoints comes last, so that the others' fingerprints stay as they were.
    if unnamed := prompts.choose():
        parts.append(["default prompt", unnamed])
    if prompts.template != QWEN_TEMPLATE:
        parts.append(["template", prompts.template])
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
