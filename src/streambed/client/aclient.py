"""The client for asyncio."""

import asyncio
import itertools
import os
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, Literal, Self

import httpx
import numpy as np
import orjson

from streambed.arguments import as_every, as_offsets, check_choice, describe
from streambed.client import options
from streambed.client.address import DEFAULT_URL, Address, Certificate, Verify
from streambed.client.astream import AsyncStream
from streambed.client.batch import Batch, Progress, Rows, divide, renumber, run
from streambed.client.ledger import Ledger
from streambed.client.retry import backoff, retry_after
from streambed.errors import ConnectionLost, InvalidRequest, RequestError, SettingsError, StreambedError, TimedOut
from streambed.limits import MAX_INPUTS
from streambed.process import ProcessBound, left_behind
from streambed.text.strings import Empty, check_text, find_texts, list_texts
from streambed.vectors.shape import decode
from streambed.wire import error_of

__all__ = ["DEFAULT_URL", "AsyncClient", "AsyncStream"]


class AsyncClient(ProcessBound):
    """A client of one server, for asyncio. Use it in an `async with` block, or close it.

    Use it on one event loop. In a child of `fork` it makes connections of its own, for a loop of the child's own; streams
    stay with the process that opened them.
    """

    _instead = "make a client in each process that needs one"

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        *,
        api_key: str | None = None,
        model: str | None = None,
        timeout: float = 30.0,
        reconnect: float = 60.0,
        verify: Verify = True,
        cert: Certificate | None = None,
    ) -> None:
        """Connects to nothing yet.

        base_url: `http://` or `https://`, with or without `/v1`. model: by default the first that the server has.
        timeout: seconds that any one answer may take. reconnect: seconds that a stream tries to get its connection back.
        verify: False does not check the server's certificate; a file or folder of certificates is trusted instead of the
        usual authorities; an `ssl.SSLContext` decides all. cert: the client's own certificate, a file that has the key,
        too, or (certificate, key), or (certificate, key, password). Both are for requests and streams.

        The environment's proxies (`HTTPS_PROXY` and its like) are used, but never on the way to this machine itself.

        Raises:
            SettingsError: an argument is wrong.
        """
        super().__init__()
        self._address = Address(base_url, api_key, verify, cert)
        if model is not None and not isinstance(model, str):
            raise SettingsError(f"model is {describe(model)}; a string is expected")
        self._model = model
        self._timeout, self._reconnect = _seconds("timeout", timeout), _seconds("reconnect", reconnect, or_none=True)
        self._http = self._address.open_http(self._timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes the connections. Streams are closed on their own."""
        self._adopt()
        await self._http.aclose()

    async def embed(
        self,
        texts: str | Iterable[str],
        *,
        instruction: str | None = None,
        prompt_name: str | None = None,
        input_type: str | None = None,
        dimensions: int | None = None,
        reducer: str | None = None,
        long_input: Literal["merge", "truncate", "error"] | None = None,
        empty: Empty = "error",
        priority: Literal["query", "bulk"] | None = None,
        progress: Progress | None = None,
    ) -> Rows:
        """Embeds texts: float32 [number of texts, dimensions], of unit length, in the order given.

        texts: any iterable of strings, however many; one string gives [1, dimensions]. Many are sent as several requests,
        a few at once, each of which may take `timeout` seconds.

        At most one of instruction, prompt_name and input_type (`query` or `document`) says what the vectors are for.
        dimensions: the leading ones to keep. reducer: one of the server's, by name, instead of dimensions. long_input: what
        to do with a text beyond the window; by default what the server does, which is to merge its segments' vectors
        unless it was told otherwise. empty: an empty text is an error, or with `null` its row is NaN and the others are
        computed. priority: `query` goes before `bulk`; by default the server decides by size, and what takes several
        requests is bulk. progress: called with the number of texts that are done, and of all, after each answer.

        Raises:
            InvalidRequest: a wrong argument, an item that is no text, or empty texts, which `details` lists as
            `{"indexes": [...]}`; before anything is sent. RequestError: as the server answers. ConnectionLost: it cannot be
            reached. TimedOut: it did not answer within `timeout` seconds. If some requests were answered before one failed,
            the error's `partial` has their vectors: float32 [number of texts, dimensions], NaN in the rows that are missing.
        """
        texts = list_texts(texts)
        check_choice("long_input", long_input, options.LONG_INPUT)
        check_choice("empty", empty, options.EMPTY)
        check_choice("priority", priority, options.PRIORITY)
        if progress is not None and not callable(progress):
            raise InvalidRequest(f"progress is {describe(progress)}; a callable is expected", "progress")
        given = options.shape(instruction, prompt_name, input_type, dimensions, reducer)
        places = find_texts(texts, empty)
        chunks = divide(texts, places, instruction or "", MAX_INPUTS)
        if priority is None and len(chunks) > 1:
            priority = "bulk"
        batch = Batch(len(texts), len(texts) - len(places), progress)

        async def ask(chunk: list[int]) -> None:
            try:
                batch.put(chunk, await self._embed(body, [texts[place] for place in chunk]))
            except RequestError as error:
                raise renumber(error, chunk, len(texts)) from None

        try:
            body = await self._body(**given, long_input=long_input, priority=priority)
            await run(chunks, ask)
            if batch.vectors is None:
                # Only the server knows how many dimensions these options give.
                batch.put([], (await self._embed(body, ["."]))[:0])
        except StreambedError as error:
            error.partial = batch.vectors
            raise
        assert batch.vectors is not None, "each request has been answered"
        return batch.vectors

    async def prefix_embeddings(
        self,
        text: str,
        *,
        every: Literal["sentence"] | int | None = None,
        offsets: Iterable[int] | None = None,
        instruction: str | None = None,
        prompt_name: str | None = None,
        input_type: str | None = None,
        dimensions: int | None = None,
        reducer: str | None = None,
    ) -> list[tuple[int, Rows]]:
        """Embeds beginnings of a text, which the server reads once: (offset, float32 [dimensions]), ascending.

        Each vector is that of `text[:offset]` on its own. every: `sentence` (the default) or a number of tokens; the whole
        text comes last. offsets: these places instead, in code points, rising. The rest as in `embed`.

        Raises:
            InvalidRequest: a wrong argument, or an empty text. RequestError, ConnectionLost, TimedOut: as `embed`.
        """
        check_text(text)
        if not text:
            raise InvalidRequest("text is empty; it has no beginnings", "text")
        given = options.shape(instruction, prompt_name, input_type, dimensions, reducer)
        if every is not None:
            given["every"] = as_every(every)
        if offsets is not None:
            given["offsets"] = as_offsets(offsets)
            if not given["offsets"]:
                return []
        body = await self._body(**given)
        reply = await self._request("POST", "/v1/embeddings/prefixes", body | {"input": text})
        return [(item["offset"], decode(item["embedding"])) for item in reply["data"]]

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
        docs/protocol.md. The rest as in `embed`.

        Raises:
            InvalidRequest: a wrong argument. What the server alone can know to be wrong raises when the stream is used.
        """
        check_text(text)
        given = options.shape(instruction, prompt_name, input_type, dimensions, reducer)
        ledger = Ledger(given | options.stream(overflow, emit, watch) | {"encoding_format": "base64"})
        return AsyncStream(ledger, self._address, self._timeout, self._reconnect, text)

    async def _body(self, **given: Any) -> dict[str, Any]:
        """What is given and not None, with what every request for vectors says."""
        body = {name: value for name, value in given.items() if value is not None}
        return body | {"model": await self._find_model(), "encoding_format": "base64"}

    async def _find_model(self) -> str:
        if self._model is None:
            reply = await self._request("GET", "/v1/models")
            self._model = str(reply["data"][0]["id"])
        return self._model

    async def _embed(self, body: dict[str, Any], texts: list[str]) -> Rows:
        reply = await self._request("POST", "/v1/embeddings", body | {"input": texts})
        return np.stack([decode(item["embedding"]) for item in reply["data"]])

    async def _request(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """An answer within `timeout` seconds; a server that is busy for the moment is asked again within them."""
        self._adopt()
        content = None if body is None else orjson.dumps(body)
        headers = {} if body is None else {"Content-Type": "application/json"}
        url, loop = self._address.url, asyncio.get_running_loop()
        end = loop.time() + self._timeout
        try:
            async with asyncio.timeout_at(end):
                for attempt in itertools.count():
                    response = await self._http.request(method, path, content=content, headers=headers)
                    pause = max(backoff(attempt), retry_after(response.headers))
                    if response.status_code not in (429, 503) or loop.time() + pause >= end:
                        break
                    await asyncio.sleep(pause)
        except (httpx.TimeoutException, TimeoutError):
            raise TimedOut(f"{url} did not answer within {self._timeout} seconds") from None
        except httpx.TransportError as error:
            raise ConnectionLost(f"{url} cannot be reached: {error}") from None
        try:
            value = orjson.loads(response.content)
        except orjson.JSONDecodeError:
            value = {}
        if response.status_code >= 400:
            raise error_of(value, response.status_code)
        if not isinstance(value, dict):
            raise ConnectionLost(f"{url} is no Streambed server")
        return value

    def _adopt(self) -> None:
        """In a child of `fork`: leaves the parent's connections alone and makes others."""
        if not self._at_home:
            left_behind.append(self._http)
            self._http = self._address.open_http(self._timeout)
            self._home = os.getpid()


def _seconds(name: str, value: object, or_none: bool = False) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not (value >= 0 if or_none else value > 0):
        expected = "seconds, 0 or more, are" if or_none else "a positive number of seconds is"
        raise SettingsError(f"{name} is {value!r}; {expected} expected")
    return value
