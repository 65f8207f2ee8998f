"""The client for programs without asyncio: the same, on an event loop in a thread of its own."""

import asyncio
import queue
import threading
from collections.abc import Coroutine, Iterable, Sequence
from concurrent.futures import CancelledError, Future
from typing import Any, Literal, TypeVar

from streambed.client.aclient import DEFAULT_URL, AsyncClient, AsyncStream
from streambed.client.address import Certificate, Verify
from streambed.client.batch import Progress, Rows
from streambed.client.stream import Stream
from streambed.errors import ConnectionLost
from streambed.process import Closeable, left_behind
from streambed.text.strings import Empty, list_texts

__all__ = ["Client", "Stream"]

Result = TypeVar("Result")


class Client(Closeable):
    """A client of one server. Use it in a `with` block, or close it. Safe to use from any thread.

    In a child of `fork` it works on connections of its own; streams stay with the process that opened them.
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
        self._client = AsyncClient(
            base_url, api_key=api_key, model=model, timeout=timeout, reconnect=reconnect, verify=verify, cert=cert
        )
        self._closed = False
        self._lock = threading.Lock()
        self._start()
        super().__init__()

    def close(self) -> None:
        """Closes the connections. Close streams before; whoever waits in another thread hears that it was closed."""
        with self._lock:
            if self._closed:
                return
            self._closed = True  # nothing is given to the loop from here on
        if self._thread is None:
            return  # a child that never used it

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
        requests is bulk. progress: called after each answer, in the caller's thread, with the number of texts that are done,
        and of all.

        Raises:
            InvalidRequest: a wrong argument, an item that is no text, or empty texts, which `details` lists as
            `{"indexes": [...]}`; before anything is sent. RequestError: as the server answers. ConnectionLost: it cannot be
            reached. TimedOut: it did not answer within `timeout` seconds. If some requests were answered before one failed,
            the error's `partial` has their vectors: float32 [number of texts, dimensions], NaN in the rows that are missing.
        """
        texts = list_texts(texts)  # here, since a generator may use this client
        told: queue.SimpleQueue[tuple[int, int] | None] = queue.SimpleQueue()

        def tell(done: int, count: int) -> None:
            told.put((done, count))

        future = self._submit(
            self._client.embed(
                texts,
                instruction=instruction,
                prompt_name=prompt_name,
                input_type=input_type,
                dimensions=dimensions,
                reducer=reducer,
                long_input=long_input,
                empty=empty,
                priority=priority,
                progress=tell if callable(progress) else progress,
            )
        )
        if callable(progress):
            future.add_done_callback(lambda _: told.put(None))
            try:
                while (counts := told.get()) is not None:
                    progress(*counts)
            except BaseException:
                future.cancel()
                raise
        return self._wait(future)

    def prefix_embeddings(
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
        """Opens a growing text; use it in a `with` block. Connects when it is first used.

        overflow: whether a change that outgrows the window is refused (the default), or a `segment` ends there: its last
        embedding comes when one iterates, and the text goes on in a new window.

        emit: when to embed unasked: `append`, `pause`, `sentence` or `drift`, or a dict such as
        `{"on": "append", "min_interval_ms": 100}`. watch: `[{"id": ..., "text": ..., "threshold": ...}]`. Both as in
        docs/protocol.md. The rest as in `embed`.

        Raises:
            InvalidRequest: a wrong argument. What the server alone can know to be wrong raises when the stream is used.
        """

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

        return Stream(self._call, self._call(make()))

    def _start(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread: threading.Thread | None = threading.Thread(
            target=self._loop.run_forever, name="streambed-client", daemon=True
        )
        self._thread.start()

    def _after_fork(self) -> None:
        self._lock = threading.Lock()
        left_behind.append(self._loop)
        self._thread = None

    def _submit(self, work: Coroutine[Any, Any, Result]) -> Future[Result]:
        with self._lock:
            if self._closed:
                work.close()
                raise ConnectionLost("the client was closed")
            if self._thread is None:
                self._start()
            return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _wait(self, future: Future[Result]) -> Result:
        try:
            return future.result()
        except CancelledError:
            raise ConnectionLost("the client was closed") from None
        except BaseException:
            future.cancel()  # Ctrl-C in the caller
            raise

    def _call(self, work: Coroutine[Any, Any, Result]) -> Result:
        return self._wait(self._submit(work))
