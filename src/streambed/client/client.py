"""The client for programs without asyncio: the same, on an event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import CancelledError
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from streambed.client.aclient import DEFAULT_URL, AsyncClient, AsyncStream
from streambed.client.reconnect import Emitted, Triggered
from streambed.errors import ConnectionLost

Result = TypeVar("Result")


class Client:
    """A client of one server. Use it in a `with` block, or close it. Safe to use from any thread."""

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        *,
        api_key: str | None = None,
        model: str | None = None,
        timeout: float = 30.0,
        reconnect: float = 60.0,
    ) -> None:
        """See `AsyncClient`."""
        self._client = AsyncClient(base_url, api_key=api_key, model=model, timeout=timeout, reconnect=reconnect)
        self._lock = threading.Lock()
        self._closed = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="streambed-client", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections. Close streams before; whoever waits in another thread hears that it was closed."""
        with self._lock:
            if self._closed:
                return
            self._closed = True  # nothing is given to the loop from here on

        async def end() -> None:
            await self._client.aclose()
            rest = asyncio.all_tasks() - {asyncio.current_task()}
            for task in rest:
                task.cancel()
            await asyncio.gather(*rest, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def embed(
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
        """See `AsyncClient.embed`."""
        return self._call(
            self._client.embed(
                texts,
                instruction=instruction,
                prompt_name=prompt_name,
                input_type=input_type,
                dimensions=dimensions,
                reducer=reducer,
                long_input=long_input,
            )
        )

    def prefix_embeddings(
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
        """See `AsyncClient.prefix_embeddings`."""
        return self._call(
            self._client.prefix_embeddings(
                text,
                every=every,
                offsets=offsets,
                instruction=instruction,
                prompt_name=prompt_name,
                input_type=input_type,
                dimensions=dimensions,
                reducer=reducer,
            )
        )

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
    ) -> Stream:
        """Opens a growing text; use it in a `with` block. See `AsyncClient.open_stream`."""

        async def make() -> AsyncStream:
            return self._client.open_stream(
                text,
                instruction=instruction,
                prompt_name=prompt_name,
                input_type=input_type,
                dimensions=dimensions,
                reducer=reducer,
                overflow=overflow,
                emit=emit,
                watch=watch,
            )

        return Stream(self, self._call(make()))

    def _call(self, work: Coroutine[Any, Any, Result]) -> Result:
        with self._lock:
            if self._closed:
                work.close()
                raise ConnectionLost("the client was closed")
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except CancelledError:
            raise ConnectionLost("the client was closed") from None
        except BaseException:
            future.cancel()  # Ctrl-C in the caller
            raise


class Stream:
    """See `AsyncStream`; made by `Client.open_stream`."""

    def __init__(self, client: Client, stream: AsyncStream) -> None:
        self._call = client._call
        self._stream = stream

    def __enter__(self) -> Self:
        self._call(self._stream.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def text(self) -> str:
        """The text with all changes, acknowledged or not."""
        return self._stream.text

    @property
    def offset(self) -> int:
        """Its length in code points."""
        return self._stream.offset

    @property
    def start(self) -> int:
        """See `AsyncStream.start`."""
        return self._stream.start

    @property
    def revision(self) -> int:
        """Changes that the server has acknowledged; with a journal, they survive its end."""
        return self._stream.revision

    @property
    def session(self) -> str | None:
        """Id of the session on the server; None until it is open."""
        return self._stream.session

    @property
    def fingerprint(self) -> str | None:
        """Of what decides the vectors; None until it is open."""
        return self._stream.fingerprint

    @property
    def connections(self) -> int:
        """How often it has connected."""
        return self._stream.connections

    def append(self, text: str) -> None:
        """See `AsyncStream.append`."""
        self._call(self._stream.append(text))

    def replace(self, start: int, end: int, text: str) -> None:
        """See `AsyncStream.replace`."""
        self._call(self._stream.replace(start, end, text))

    def set(self, text: str) -> None:
        """See `AsyncStream.set`."""
        self._call(self._stream.set(text))

    def flush(self) -> None:
        """See `AsyncStream.flush`."""
        self._call(self._stream.flush())

    def embedding(self) -> Emitted:
        """See `AsyncStream.embedding`."""
        return self._call(self._stream.embedding())

    def __iter__(self) -> Iterator[Emitted | Triggered]:
        return self

    def __next__(self) -> Emitted | Triggered:
        """See `AsyncStream.__anext__`."""

        async def take() -> Emitted | Triggered | None:
            try:
                return await self._stream.__anext__()
            except StopAsyncIteration:
                return None

        item = self._call(take())
        if item is None:
            raise StopIteration
        return item

    def close(self) -> None:
        """See `AsyncStream.aclose`."""
        self._call(self._stream.aclose())
