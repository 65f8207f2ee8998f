"""The client for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import urlsplit

import httpx
import numpy as np
import orjson
from numpy.typing import NDArray

from streambed.client.astream import AsyncStream
from streambed.client.reconnect import Ledger, backoff
from streambed.errors import ConnectionLost, SettingsError
from streambed.text.strings import check_text
from streambed.vectors.shape import decode
from streambed.wire import MAX_INPUTS, error_of

__all__ = ["DEFAULT_URL", "AsyncClient", "AsyncStream"]

DEFAULT_URL = "http://127.0.0.1:30000"


class AsyncClient:
    """A client of one server. Use it in an `async with` block, or close it."""

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        *,
        api_key: str | None = None,
        model: str | None = None,
        timeout: float = 30.0,
        reconnect: float = 60.0,
    ) -> None:
        """
        base_url: `http://` or `https://`, with or without `/v1`. model: by default the first that the server has.
        timeout: seconds that any one answer may take. reconnect: seconds that a stream tries to get its connection back.
        """
        self._base = base_url.rstrip("/").removesuffix("/v1")
        if urlsplit(self._base).scheme not in ("http", "https"):
            raise SettingsError(f"the server's URL is {base_url!r}; one such as {DEFAULT_URL} is expected")
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._model = model
        self._timeout, self._reconnect = timeout, reconnect
        self._http = httpx.AsyncClient(base_url=self._base, headers=self._headers, timeout=timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes the connections. Streams are closed on their own."""
        await self._http.aclose()

    async def embed(
        self,
        texts: str | Sequence[str],
        *,
        instruction: str | None = None,
        prompt_name: str | None = None,
        input_type: str | None = None,
        dimensions: int | None = None,
        reducer: str | None = None,
        long_input: Literal["merge", "truncate", "error"] | None = None,
    ) -> NDArray[np.float32]:
        """Embeds texts: float32 [len(texts), dimensions], of unit length; one string gives [1, dimensions].

        reducer: one of the server's, by name, instead of dimensions. long_input: what to do with a text beyond the window;
        by default what the server does, which is to merge its segments' vectors unless it was told otherwise.

        Raises:
            RequestError: as the server answers. ConnectionLost: it cannot be reached. TimeoutError.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        for text in texts:
            check_text(text)
        body = await self._body(
            instruction=instruction,
            prompt_name=prompt_name,
            input_type=input_type,
            dimensions=dimensions,
            reducer=reducer,
            long_input=long_input,
        )
        vectors = []
        for at in range(0, len(texts), MAX_INPUTS):
            reply = await self._request("POST", "/v1/embeddings", body | {"input": texts[at : at + MAX_INPUTS]})
            vectors += [decode(item["embedding"]) for item in reply["data"]]
        return np.stack(vectors) if vectors else np.empty((0, dimensions or 0), dtype=np.float32)

    async def prefix_embeddings(
        self,
        text: str,
        *,
        every: Literal["sentence"] | int | None = None,
        offsets: Sequence[int] | None = None,
        instruction: str | None = None,
        prompt_name: str | None = None,
        input_type: str | None = None,
        dimensions: int | None = None,
        reducer: str | None = None,
    ) -> list[tuple[int, NDArray[np.float32]]]:
        """Embeds beginnings of a text, which the server reads once: (offset, float32 [dimensions]), ascending.

        Each vector is that of `text[:offset]` on its own. every: `sentence` (the default) or a number of tokens; the whole
        text comes last. offsets: these places instead, in code points, rising. Raises as `embed`.
        """
        check_text(text)
        body = await self._body(
            instruction=instruction,
            prompt_name=prompt_name,
            input_type=input_type,
            dimensions=dimensions,
            reducer=reducer,
            every=every,
            offsets=None if offsets is None else list(offsets),
        )
        reply = await self._request("POST", "/v1/embeddings/prefixes", body | {"input": text})
        return [(item["offset"], decode(item["embedding"])) for item in reply["data"]]

    async def _body(self, **given: Any) -> dict[str, Any]:
        """What is given and not None, with what every request for vectors says."""
        body = {name: value for name, value in given.items() if value is not None}
        return body | {"model": await self._find_model(), "encoding_format": "base64"}

    def open_stream(
        self,
        text: str = "",
        *,
        instruction: str | None = None,
        prompt_name: str | None = None,
        input_type: str | None = None,
        dimensions: int | None = None,
        reducer: str | None = None,
        overflow: Literal["error", "segment"] | None = None,
        emit: str | dict[str, Any] | None = None,
        watch: Sequence[dict[str, Any]] | None = None,
    ) -> AsyncStream:
        """Opens a growing text; use it in an `async with` block. Connects when it is first used.

        overflow: whether a change that outgrows the window is refused (the default), or a `segment` ends there: its last
        embedding comes when one iterates, and the text goes on in a new window.

        emit: when to embed unasked: `append`, `pause`, `sentence` or `drift`, or a dict such as
        `{"on": "append", "min_interval_ms": 100}`. watch: `[{"id": ..., "text": ..., "threshold": ...}]`. Both as in
        docs/protocol.md.
        """
        options = {
            "instruction": instruction,
            "prompt_name": prompt_name,
            "input_type": input_type,
            "dimensions": dimensions,
            "reducer": reducer,
            "overflow": overflow,
            "emit": {"on": emit} if isinstance(emit, str) else emit,
            "watch": None if watch is None else list(watch),
            "encoding_format": "base64",
        }
        ledger = Ledger({name: value for name, value in options.items() if value is not None})
        url = f"ws{self._base.removeprefix('http')}/v1/embeddings"
        return AsyncStream(ledger, url, self._headers, self._timeout, self._reconnect, text)

    async def _find_model(self) -> str:
        if self._model is None:
            reply = await self._request("GET", "/v1/models")
            self._model = str(reply["data"][0]["id"])
        return self._model

    async def _request(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        content = None if body is None else orjson.dumps(body)
        headers = {} if body is None else {"Content-Type": "application/json"}
        try:
            async with asyncio.timeout(self._timeout):
                for attempt in range(100):
                    response = await self._http.request(method, path, content=content, headers=headers)
                    if response.status_code not in (429, 503):
                        break
                    await asyncio.sleep(backoff(attempt))
        except (httpx.TimeoutException, TimeoutError):
            raise TimeoutError(f"{self._base} did not answer within {self._timeout} seconds") from None
        except httpx.TransportError as error:
            raise ConnectionLost(f"{self._base} cannot be reached: {error}") from None
        try:
            value = orjson.loads(response.content)
        except orjson.JSONDecodeError:
            value = {}
        if response.status_code >= 400:
            raise error_of(value, response.status_code)
        if not isinstance(value, dict):
            raise ConnectionLost(f"{self._base} is no Streambed server")
        return value
