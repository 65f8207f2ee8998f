"""`POST /v1/embeddings`, its `/prefixes`, and `POST /tokenize`: OpenAI's contract over the engine."""

import asyncio
import contextlib
import functools
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response

from streambed.engine.engine import Engine
from streambed.engine.prefix_embeddings import Prefixes
from streambed.engine.sequence import Embedding, Lane
from streambed.errors import DeadlineExceeded, InvalidRequest, NotFound, TooLarge
from streambed.limits import MAX_PREFIXES
from streambed.server.ignored import parse_body
from streambed.server.inputs import Inputs, read_inputs
from streambed.server.metrics import Metrics, Stage
from streambed.server.replies import Json
from streambed.settings import Settings
from streambed.text.cuts import check_offsets
from streambed.text.segments import Document
from streambed.text.tokenizer import check_text
from streambed.text.units import codepoints, count
from streambed.vectors.reducers import Form, Reducers
from streambed.vectors.shape import merge
from streambed.wire import EmbeddingsRequest, PrefixesRequest, TokenizeRequest, parse_input
from streambed.workers import Workers

Result = TypeVar("Result")
Asked = TypeVar("Asked", EmbeddingsRequest, PrefixesRequest)
Prepared = TypeVar("Prepared")

LARGE_BODY = 128 << 10
"""Bodies beyond this take turns in the thread pool."""
SHORT_BODY, SHORT_REPLY = 2048, 4
"""Bytes of a body, and vectors of a reply, that are read, tokenised and written in less than a millisecond."""
GRACE_SECONDS = 5.0
"""The engine keeps deadlines at the start of each step; a step that hangs, or a disk, is given this long."""


class Embeddings:
    """The handlers, and the thread pool in which they tokenise and write JSON, off the event loop."""

    WORKERS = 2
    """Threads of the pool."""

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        names: tuple[str, ...],
        reducers: Reducers,
        metrics: Metrics,
        many: Callable[[], bool] = lambda: False,
    ) -> None:
        """many: whether there are several keys."""
        self._engine = engine
        self._metrics = metrics
        self._reducers = reducers
        self._settings = settings
        self.names = names
        self.workers = Workers(self.WORKERS, "streambed-text", many)
        self._large = asyncio.Lock()
        self._closing = False

    def close(self) -> None:
        self._closing = True
        self.workers.close()

    async def create(self, request: Request) -> Response:
        """Embeds the inputs. A client that leaves cancels what has not run."""
        return await self.embed(request, functools.partial(parse_body, EmbeddingsRequest, request), _write)

    async def embed(
        self,
        request: Request,
        read: Callable[[bytes], EmbeddingsRequest],
        write: Callable[[EmbeddingsRequest, Form, Inputs, list[Embedding]], Any],
    ) -> Response:
        """Reads the body by `read`, computes, and writes the reply by `write`; both run off the event loop."""

        def prepare(asked: EmbeddingsRequest, expired: Callable[[], bool]) -> Inputs:
            inputs = read_inputs(self._engine, self._settings, asked, expired)
            inputs.wanted  # noqa: B018 - computed here, off the event loop
            return inputs

        def submit(inputs: Inputs, **more: Any) -> list[Future[Embedding]]:
            return self._engine.submit_batch([segment.ids for segment in inputs.wanted], **more)

        return await self._answer(request, read, prepare, submit, write)

    async def prefixes(self, request: Request) -> Response:
        """Embeds beginnings of one text, which is read once. Each vector is that of the beginning on its own."""

        def write(asked: PrefixesRequest, form: Form, prefixes: Prefixes, embeddings: list[Embedding]) -> Any:
            vectors = form.vectors(prefixes.vectors(embeddings))
            data: list[dict[str, Any]] = []
            before = offset = 0
            for index, (cut, vector) in enumerate(zip(prefixes.cuts, vectors, strict=True)):
                offset += count(asked.input[before : cut.offset], asked.offset_unit)
                before = cut.offset
                item = {"object": "embedding", "index": index, "offset": offset, "tokens": cut.num_tokens + 1}
                data.append(item | form.encode(vector))
            # Each token is computed once, and each end token.
            return _reply(asked, data, len(prefixes.ids) + len(prefixes.cuts), embeddings)

        read = functools.partial(parse_body, PrefixesRequest, request)
        return await self._answer(request, read, self._cut, self._engine.submit_prefixes, write)

    async def _answer(
        self,
        request: Request,
        read: Callable[[bytes], Asked],
        prepare: Callable[[Asked, Callable[[], bool]], Prepared],
        submit: Callable[..., list[Future[Embedding]]],
        write: Callable[[Asked, Form, Prepared, list[Embedding]], Any],
    ) -> Response:
        """What both have in common: parse, tokenise, compute, write, each within the deadline."""
        started = time.monotonic()
        body = await request.body()
        short = len(body) <= SHORT_BODY
        asked = await self._work(request, lambda: read(body), short=short)
        self.check_model(asked.model)
        request.state.lane = asked.priority
        form = self._reducers.form(asked.dimensions, asked.encoding_format, asked.reducer)
        deadline = started + (asked.timeout_ms / 1000 if asked.timeout_ms else self._settings.timeout)
        gone = threading.Event()

        def expired() -> bool:
            return gone.is_set() or self._closing or time.monotonic() >= deadline

        work = self._work(request, lambda: prepare(asked, expired), len(body), deadline, short=short)
        try:
            prepared = await (work if len(body) <= LARGE_BODY else _attended(request, work))
        finally:
            gone.set()
        if prepared is None:
            return Response(status_code=499)  # nobody reads it
        tokenized = time.monotonic()
        if tokenized >= deadline:
            raise DeadlineExceeded("the deadline passed while the text was tokenised")
        lane = asked.priority and Lane[asked.priority.upper()]
        futures = submit(prepared, lane=lane, owner=request.state.owner, deadline=deadline)
        embeddings = await _results(request, futures, deadline + GRACE_SECONDS) if futures else []
        if embeddings is None:
            return Response(status_code=499)  # nobody reads it
        computed = time.monotonic()
        response = await self._work(
            request,
            lambda: Json(write(asked, form, prepared, embeddings)),
            first=True,
            short=len(embeddings) <= SHORT_REPLY,
        )
        ended = time.monotonic()
        timing: dict[Stage, float] = {
            "tokenize": tokenized - started,
            "queue": max((embedding.queue_s for embedding in embeddings), default=0.0),
            "compute": max((embedding.compute_s for embedding in embeddings), default=0.0),
            "serialize": ended - computed,
            "total": ended - started,
        }
        counted = request.state.lane = embeddings[0].lane.name.lower() if embeddings else "query"
        for stage, seconds in timing.items():
            self._metrics.stage(counted, stage, seconds)
        cached = sum(embedding.cached_tokens for embedding in embeddings)
        rows = sum(embedding.computed_tokens for embedding in embeddings)
        self._metrics.tokens(counted, cached + rows, cached, rows)
        told = (f"{name};dur={seconds * 1000:.2f}" for name, seconds in timing.items())
        response.headers["Server-Timing"] = ", ".join(told)
        return response

    async def tokenize(self, request: Request) -> Response:
        """Token ids of each input as `/v1/embeddings` sees it: prompt, text, and the end token."""
        body = await request.body()
        asked = await self._work(request, lambda: parse_body(TokenizeRequest, request, body))
        if asked.model is not None:
            self.check_model(asked.model)

        def work() -> Response:
            prompt = self._engine.prompt(asked.instruction, asked.prompt_name, asked.input_type)
            texts = [text for text in parse_input(asked.input, False, 0) if isinstance(text, str)]
            size, limit = sum(len(prompt) + len(text) for text in texts), self._engine.documents.max_characters
            if size > limit:
                raise TooLarge(
                    f"the texts have {size:,} characters with their prompts; the limit is {limit:,}", "input"
                )
            tokenizer = self._engine.tokenizer
            tokens = [[*ids, tokenizer.end_id] for ids in tokenizer.encode_batch([prompt + text for text in texts])]
            data = [
                {"index": index, "count": len(ids), "tokens": ids, "pieces": tokenizer.decode(ids)}
                for index, ids in enumerate(tokens)
            ]
            return Json({"object": "list", "prompt": prompt, "max_tokens": self._engine.info.max_tokens, "data": data})

        return await self._work(request, work, len(body))

    def check_model(self, model: str) -> None:
        """Raises NotFound, with the names that there are."""
        if model not in self.names:
            raise NotFound(f"no such model here; this server has {', '.join(self.names)}", "model")

    def _cut(self, asked: PrefixesRequest, expired: Callable[[], bool]) -> Prefixes:
        engine, text, unit = self._engine, asked.input, asked.offset_unit
        if asked.offsets is not None and "every" in asked.model_fields_set:
            raise InvalidRequest("every and offsets exclude each other; give one of them", "offsets")
        prompt = engine.prompt(asked.instruction, asked.prompt_name, asked.input_type)
        try:
            if asked.offsets is None or len(text) > engine.documents.max_characters:
                offsets = engine.documents.places(text, asked.every)
            else:
                check_text(text)
                check_offsets(asked.offsets, count(text, unit))
                offsets = codepoints(text, asked.offsets, unit, "offsets")
            if len(offsets) > MAX_PREFIXES:
                raise InvalidRequest(
                    f"these are {len(offsets):,} places; at most {MAX_PREFIXES:,} are allowed", "every"
                )
            prefixes = engine.documents.prefixes(text, offsets, prompt)
        except TooLarge as error:
            raise TooLarge(error.message, "input") from None
        prefixes.passes  # noqa: B018 - computed here, off the event loop
        return prefixes

    async def _work(
        self,
        request: Request,
        work: Callable[[], Result],
        size: int = 0,
        deadline: float | None = None,
        first: bool = False,
        short: bool = False,
    ) -> Result:
        async with contextlib.AsyncExitStack() as turn:
            if size > LARGE_BODY:  # one at a time, so that short texts always find a thread
                try:
                    async with asyncio.timeout(deadline and deadline - time.monotonic()):
                        await turn.enter_async_context(self._large)
                except TimeoutError:
                    raise DeadlineExceeded("the deadline passed while other large texts were tokenised") from None
            return await self.workers.run(request.state.owner, work, first=first, short=short)


def _write(asked: EmbeddingsRequest, form: Form, inputs: Inputs, embeddings: list[Embedding]) -> Any:
    """The reply. What stands beside OpenAI's fields is there only if it was asked for, or a text was long."""
    hidden = iter([embedding.vectors[0] for embedding in embeddings])
    found = [
        [None if inputs.is_known(index, place) else next(hidden) for place in range(len(document.segments))]
        for index, document in enumerate(inputs.documents)
    ]
    complete = [index for index, rows in enumerate(found) if rows and not any(row is None for row in rows)]
    vectors: dict[int, NDArray[np.float32]] = {}
    if complete:
        rows = np.stack([row for index in complete for row in found[index] if row is not None])
        merged = merge(rows, [inputs.documents[index].weights for index in complete])
        vectors = dict(zip(complete, form.vectors(merged), strict=True))
    data, long_inputs = [], []
    for index, document in enumerate(inputs.documents):
        item: dict[str, Any] = {"object": "embedding", "index": index, "embedding": None}
        if index in vectors:
            item |= form.encode(vectors[index])
        if inputs.hashes is not None:
            item["segments"] = _segments(form, document, inputs.hashes[index], found[index])
        data.append(item)
        if len(document.segments) > 1 or document.truncated:
            told = {"index": index, "segments": len(document.segments), "tokens": sum(document.weights)}
            long_inputs.append(told | {"truncated": document.truncated})
    reply = _reply(asked, data, sum(len(segment.ids) + 1 for segment in inputs.wanted), embeddings)
    return reply | {"long_inputs": long_inputs} if long_inputs else reply


def _segments(
    form: Form, document: Document, hashes: list[str | None], rows: list[NDArray[np.float32] | None]
) -> list[dict[str, Any]]:
    return [
        {"start": segment.start, "end": segment.end, "tokens": tokens, "hash": digest}
        | ({"embedding": None} if row is None else form.encode(form.vectors(row[None])[0]))
        for segment, tokens, digest, row in zip(document.segments, document.weights, hashes, rows, strict=True)
    ]


def _reply(
    asked: EmbeddingsRequest | PrefixesRequest, data: list[Any], prompt_tokens: int, embeddings: list[Embedding]
) -> dict[str, Any]:
    return {
        "object": "list",
        "data": data,
        "model": asked.model,
        "usage": {
            "prompt_tokens": prompt_tokens,
            "total_tokens": prompt_tokens,
            "prompt_tokens_details": {"cached_tokens": sum(embedding.cached_tokens for embedding in embeddings)},
        },
    }


async def _results(request: Request, futures: list[Future[Embedding]], until: float) -> list[Embedding] | None:
    """All results, or the first error; None where the client left. Whatever is not done then is cancelled."""
    results = [asyncio.wrap_future(future) for future in futures]
    try:
        async with asyncio.timeout(until - time.monotonic()):
            if await _attended(request, asyncio.wait(results)) is None:
                return None
        errors = [error for result in results if (error := result.exception())]
        if errors:
            raise errors[0]
        return [result.result() for result in results]
    except TimeoutError:
        raise DeadlineExceeded("the deadline passed while the text was computed") from None
    finally:
        for result in results:
            result.cancel()


async def _attended(request: Request, work: Coroutine[Any, Any, Result]) -> Result | None:
    """What comes of `work`; None where the client left."""
    done, left = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(request))
    try:
        both: set[asyncio.Future[Any]] = {done, left}
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        return done.result() if done.done() else None
    finally:
        done.cancel()
        left.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
