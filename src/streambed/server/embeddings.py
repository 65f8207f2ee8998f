"""`POST /v1/embeddings`, its `/prefixes`, and `POST /tokenize`: OpenAI's contract over the engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import orjson
from starlette.requests import Request
from starlette.responses import Response

from streambed.engine.beginnings import Beginnings
from streambed.engine.engine import Engine
from streambed.engine.sequence import Embedding, Lane, Vectors
from streambed.errors import DeadlineExceeded, InvalidRequest, NotFound, TooLarge
from streambed.settings import Settings
from streambed.text.cuts import check_offsets
from streambed.text.tokenizer import check_text
from streambed.text.units import codepoints, count
from streambed.vectors.shape import check_dimensions, encode, shorten
from streambed.wire import MAX_PREFIXES, EmbeddingsRequest, PrefixesRequest, TokenizeRequest, parse, parse_input

Result = TypeVar("Result")
Asked = TypeVar("Asked", EmbeddingsRequest, PrefixesRequest)
Prepared = TypeVar("Prepared")

_LANES = {"query": Lane.QUERY, "bulk": Lane.BULK, None: None}
LARGE_BODY = 128 << 10
"""Bodies beyond this take turns in the thread pool."""
_GRACE_SECONDS = 5.0
"""The engine keeps deadlines at the start of each step; a step that hangs is given this long."""


class Embeddings:
    """The handlers, and the thread pool in which they tokenise and write JSON, off the event loop."""

    def __init__(self, engine: Engine, settings: Settings, names: tuple[str, ...]) -> None:
        self._engine = engine
        self._settings = settings
        self._names = names
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="streambed-text")
        self._large = asyncio.Lock()

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    async def create(self, request: Request) -> Response:
        """Embeds the inputs. A client that leaves cancels what has not run."""

        def reply(asked: EmbeddingsRequest, texts: list[list[int]], embeddings: list[Embedding]) -> bytes:
            vectors = np.concatenate([embedding.vectors for embedding in embeddings])
            prompt_tokens = sum(len(ids) + 1 for ids in texts)
            return _reply(asked, vectors, [{}] * len(vectors), prompt_tokens, embeddings)

        return await self._answer(request, EmbeddingsRequest, self._tokenize, self._engine.submit_batch, reply)

    async def prefixes(self, request: Request) -> Response:
        """Embeds beginnings of one text, which is read once. Each vector is that of the beginning on its own."""

        def reply(asked: PrefixesRequest, beginnings: Beginnings, embeddings: list[Embedding]) -> bytes:
            text, unit = asked.input, asked.offset_unit
            places = [
                {"offset": count(text[: cut.offset], unit), "tokens": cut.num_tokens + 1} for cut in beginnings.cuts
            ]
            # Each token is computed once, and each end token.
            prompt_tokens = len(beginnings.ids) + len(beginnings.cuts)
            return _reply(asked, beginnings.vectors(embeddings), places, prompt_tokens, embeddings)

        return await self._answer(request, PrefixesRequest, self._cut, self._engine.submit_beginnings, reply)

    async def _answer(
        self,
        request: Request,
        kind: type[Asked],
        prepare: Callable[[Asked], Prepared],
        submit: Callable[..., list[Future[Embedding]]],
        reply: Callable[[Asked, Prepared, list[Embedding]], bytes],
    ) -> Response:
        """What both have in common: parse, tokenise, compute, write, each within the deadline."""
        started = time.monotonic()
        body = await request.body()
        asked = await self._work(lambda: parse(kind, body), len(body))
        self._check_model(asked.model)
        check_dimensions(asked.dimensions, self._engine.info.dimensions)
        deadline = started + (asked.timeout_ms / 1000 if asked.timeout_ms else self._settings.timeout)
        prepared = await self._work(lambda: prepare(asked), len(body))
        tokenized = time.monotonic()
        if tokenized >= deadline:
            raise DeadlineExceeded("the deadline passed while the text was tokenised")
        futures = submit(prepared, lane=_LANES[asked.priority], owner=request.state.owner, deadline=deadline)
        embeddings = await _wait(request, futures, deadline + _GRACE_SECONDS)
        if embeddings is None:
            return Response(status_code=499)  # nobody reads it
        content = await self._work(lambda: reply(asked, prepared, embeddings))
        timing = {
            "tokenize": tokenized - started,
            "queue": max(embedding.queue_s for embedding in embeddings),
            "compute": max(embedding.compute_s for embedding in embeddings),
            "total": time.monotonic() - started,
        }
        header = ", ".join(f"{name};dur={seconds * 1000:.2f}" for name, seconds in timing.items())
        return Response(content, media_type="application/json", headers={"Server-Timing": header})

    async def tokenize(self, request: Request) -> Response:
        """Token ids of each input as `/v1/embeddings` sees it: prompt, text, and the end token."""
        body = await request.body()
        asked = await self._work(lambda: parse(TokenizeRequest, body), len(body))
        if asked.model is not None:
            self._check_model(asked.model)

        def work() -> bytes:
            prompt = self._engine.prompt(asked.instruction, asked.prompt_name, asked.input_type)
            texts = [text for text in parse_input(asked.input, False, 0) if isinstance(text, str)]
            size, limit = sum(len(prompt) + len(text) for text in texts), self._engine.max_characters
            if size > limit:
                raise TooLarge(
                    f"the texts have {size:,} characters with their prompts; the limit is {limit:,}", "input"
                )
            tokenizer = self._engine.tokenizer
            data = []
            for index, ids in enumerate(tokenizer.encode_batch([prompt + text for text in texts])):
                tokens = [*ids, tokenizer.end_id]
                data.append(
                    {"index": index, "count": len(tokens), "tokens": tokens, "pieces": tokenizer.decode(tokens)}
                )
            return orjson.dumps(
                {"object": "list", "prompt": prompt, "max_tokens": self._engine.info.max_tokens, "data": data}
            )

        return Response(await self._work(work, len(body)), media_type="application/json")

    def _check_model(self, model: str) -> None:
        if model not in self._names:
            raise NotFound(f"no such model here; this server has {', '.join(self._names)}", "model")

    def _tokenize(self, asked: EmbeddingsRequest) -> list[list[int]]:
        engine = self._engine
        prompt = engine.prompt(asked.instruction, asked.prompt_name, asked.input_type)
        inputs = parse_input(asked.input, self._settings.accept_token_ids, engine.tokenizer.size)
        truncate = asked.long_input == "truncate"
        texts = [text for text in inputs if isinstance(text, str)]
        if texts:
            return engine.tokenize(texts, prompt, truncate)
        start = engine.tokenize([prompt])[0]
        ids = [start + ids for ids in inputs if not isinstance(ids, str)]
        return [engine.fit(one, truncate, index) for index, one in enumerate(ids)]

    def _cut(self, asked: PrefixesRequest) -> Beginnings:
        text, unit, offsets = asked.input, asked.offset_unit, asked.offsets
        check_text(text)
        if offsets is not None:
            if "every" in asked.model_fields_set:
                raise InvalidRequest("every and offsets exclude each other; give one of them", "offsets")
            check_offsets(offsets, count(text, unit))
            offsets = [codepoints(text, offset, unit, "offsets") for offset in offsets]
        prompt = self._engine.prompt(asked.instruction, asked.prompt_name, asked.input_type)
        beginnings = self._engine.beginnings(text, asked.every, offsets, prompt)
        if len(beginnings.cuts) > MAX_PREFIXES:
            raise TooLarge(f"these are {len(beginnings.cuts):,} places; at most {MAX_PREFIXES:,} are allowed", "every")
        return beginnings

    async def _work(self, work: Callable[[], Result], size: int = 0) -> Result:
        loop = asyncio.get_running_loop()
        if size <= LARGE_BODY:
            return await loop.run_in_executor(self._pool, work)
        async with self._large:  # one at a time, so that short texts always find a thread
            return await loop.run_in_executor(self._pool, work)


def _reply(
    asked: EmbeddingsRequest | PrefixesRequest,
    vectors: Vectors,
    about: list[dict[str, int]],
    prompt_tokens: int,
    embeddings: list[Embedding],
) -> bytes:
    """OpenAI's reply. vectors: hidden states; about: what else is said of each."""
    return orjson.dumps(
        {
            "object": "list",
            "data": [
                {"object": "embedding", "index": index, **more, "embedding": encode(vector, asked.encoding_format)}
                for index, (vector, more) in enumerate(zip(shorten(vectors, asked.dimensions), about, strict=True))
            ],
            "model": asked.model,
            "usage": {
                "prompt_tokens": prompt_tokens,
                "total_tokens": prompt_tokens,
                "prompt_tokens_details": {"cached_tokens": sum(embedding.cached_tokens for embedding in embeddings)},
            },
        },
        option=orjson.OPT_SERIALIZE_NUMPY,
    )


async def _wait(request: Request, futures: list[Future[Embedding]], until: float) -> list[Embedding] | None:
    """All results, or the first error; None where the client left. Whatever is not done then is cancelled."""
    results = [asyncio.wrap_future(future) for future in futures]
    done = asyncio.ensure_future(asyncio.wait(results))
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        both: set[asyncio.Future[Any]] = {done, gone}
        await asyncio.wait(both, timeout=until - time.monotonic(), return_when=asyncio.FIRST_COMPLETED)
        if done.done():
            errors = [error for result in results if (error := result.exception())]
            if errors:
                raise errors[0]
            return [result.result() for result in results]
        if gone.done():
            return None
        raise DeadlineExceeded("the deadline passed while the text was computed")
    finally:
        done.cancel()
        gone.cancel()
        for result in results:
            result.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
