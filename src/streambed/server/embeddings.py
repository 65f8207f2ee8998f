"""`POST /v1/embeddings` and `POST /tokenize`: OpenAI's contract over the engine."""

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

from streambed.engine.engine import Engine
from streambed.engine.sequence import Embedding, Lane
from streambed.errors import DeadlineExceeded, InvalidRequest, NotFound
from streambed.settings import Settings
from streambed.text.tokenizer import check_text
from streambed.vectors.shape import check_dimensions, encode, shorten
from streambed.wire import EmbeddingsRequest, TokenizeRequest, parse, parse_input

Result = TypeVar("Result")

_LANES = {"query": Lane.QUERY, "bulk": Lane.BULK, None: None}
_GRACE_SECONDS = 5.0
"""The engine keeps deadlines at the start of each step; a step that hangs is given this long."""


class Embeddings:
    """The handlers, and the thread pool in which they tokenise and write JSON, off the event loop."""

    def __init__(self, engine: Engine, settings: Settings, names: tuple[str, ...]) -> None:
        self._engine = engine
        self._settings = settings
        self._names = names
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="streambed-text")

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    async def create(self, request: Request) -> Response:
        """Embeds the inputs. A client that leaves cancels what has not run."""
        started = time.monotonic()
        body = await request.body()
        asked = await self._work(lambda: parse(EmbeddingsRequest, body))
        self._check_model(asked.model)
        check_dimensions(asked.dimensions, self._engine.info.dimensions)
        deadline = started + (asked.timeout_ms / 1000 if asked.timeout_ms else self._settings.timeout)
        texts = await self._work(lambda: self._tokenize(asked))
        tokenized = time.monotonic()
        if tokenized >= deadline:
            raise DeadlineExceeded("the deadline passed while the text was tokenised")
        owner = request.state.owner
        futures = self._engine.submit_batch(texts, lane=_LANES[asked.priority], owner=owner, deadline=deadline)
        embeddings = await _wait(request, futures, deadline + _GRACE_SECONDS)
        if embeddings is None:
            return Response(status_code=499)  # nobody reads it
        reply = await self._work(lambda: self._reply(asked, texts, embeddings))
        timing = {
            "tokenize": tokenized - started,
            "queue": max(embedding.queue_s for embedding in embeddings),
            "compute": max(embedding.compute_s for embedding in embeddings),
            "total": time.monotonic() - started,
        }
        header = ", ".join(f"{name};dur={seconds * 1000:.2f}" for name, seconds in timing.items())
        return Response(reply, media_type="application/json", headers={"Server-Timing": header})

    async def tokenize(self, request: Request) -> Response:
        """Token ids of each input as `/v1/embeddings` sees it: prompt, text, and the end token."""
        body = await request.body()
        asked = await self._work(lambda: parse(TokenizeRequest, body))
        if asked.model is not None:
            self._check_model(asked.model)

        def work() -> bytes:
            prompt = self._engine.prompt(asked.instruction, asked.prompt_name, asked.input_type)
            texts = parse_input(asked.input, False, 0)
            tokenizer = self._engine.tokenizer
            data = []
            for index, ids in enumerate(self._encode(prompt, texts)):
                tokens = [*ids, tokenizer.end_id]
                data.append(
                    {"index": index, "count": len(tokens), "tokens": tokens, "pieces": tokenizer.decode(tokens)}
                )
            return orjson.dumps(
                {"object": "list", "prompt": prompt, "max_tokens": self._engine.info.max_tokens, "data": data}
            )

        return Response(await self._work(work), media_type="application/json")

    def _check_model(self, model: str) -> None:
        if model not in self._names:
            raise NotFound(f"no such model here; this server has {', '.join(self._names)}", "model")

    def _tokenize(self, asked: EmbeddingsRequest) -> list[list[int]]:
        engine = self._engine
        prompt = engine.prompt(asked.instruction, asked.prompt_name, asked.input_type)
        texts = parse_input(asked.input, self._settings.accept_token_ids, engine.tokenizer.size)
        encoded = self._encode(prompt, texts)
        truncate = asked.long_input == "truncate"
        return [
            engine.fit(ids, truncate, index if isinstance(asked.input, list) else None)
            for index, ids in enumerate(encoded)
        ]

    def _encode(self, prompt: str, texts: list[str] | list[list[int]]) -> list[list[int]]:
        tokenizer = self._engine.tokenizer
        strings = [text for text in texts if isinstance(text, str)]
        if len(strings) < len(texts):
            ids = tokenizer.encode(prompt)
            return [ids + text for text in texts if isinstance(text, list)]
        for index, text in enumerate(strings):
            try:
                check_text(text)
            except InvalidRequest as error:
                raise InvalidRequest(f"input[{index}]: {error.message}", f"input[{index}]") from None
        if len(strings) == 1:  # without waking the library's own thread pool
            return [tokenizer.encode(prompt + strings[0])]
        return tokenizer.encode_batch([prompt + text for text in strings])

    def _reply(self, asked: EmbeddingsRequest, texts: list[list[int]], embeddings: list[Embedding]) -> bytes:
        vectors = shorten(np.concatenate([embedding.vectors for embedding in embeddings]), asked.dimensions)
        prompt_tokens = sum(len(ids) + 1 for ids in texts)
        cached = sum(embedding.cached_tokens for embedding in embeddings)
        return orjson.dumps(
            {
                "object": "list",
                "data": [
                    {"object": "embedding", "index": index, "embedding": encode(vector, asked.encoding_format)}
                    for index, vector in enumerate(vectors)
                ],
                "model": asked.model,
                "usage": {
                    "prompt_tokens": prompt_tokens,
                    "total_tokens": prompt_tokens,
                    "prompt_tokens_details": {"cached_tokens": cached},
                },
            },
            option=orjson.OPT_SERIALIZE_NUMPY,
        )

    async def _work(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)


async def _wait(request: Request, futures: list[Future[Embedding]], until: float) -> list[Embedding] | None:
    """All results, or the first error; None where the client left. Whatever is not done then is cancelled."""
    results = asyncio.gather(*map(asyncio.wrap_future, futures))
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        both: set[asyncio.Future[Any]] = {results, gone}
        await asyncio.wait(both, timeout=until - time.monotonic(), return_when=asyncio.FIRST_COMPLETED)
        if results.done():
            return results.result()
        if gone.done():
            return None
        raise DeadlineExceeded("the deadline passed while the text was computed")
    finally:
        gone.cancel()
        results.cancel()
        for future in futures:
            future.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
