"""A growing text on a server, for asyncio."""

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Self, get_args

import orjson
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from streambed.arguments import as_integer
from streambed.client.address import Address
from streambed.client.events import Answered, Emitted, Happening, Refused, Retry, Triggered
from streambed.client.ledger import Ledger
from streambed.client.retry import backoff, retry_after
from streambed.errors import ConnectionLost, InvalidRequest, RequestError, StreambedError, TimedOut
from streambed.process import ProcessBound
from streambed.wire import InputTextAck, Leaving, SessionClosed, error_of, load

FIRST_SECONDS = 5.0
"""How long a stream tries to reach a server that has never answered."""
MAX_UNACKNOWLEDGED = 512
"""Changes kept before `append` waits; the server compares as many again."""
CLOSE_SECONDS = 5.0
"""Seconds that `aclose` tries to close the session; otherwise it expires on the server."""
MAX_KEPT = 1024
"""Triggers and last embeddings of segments kept for who iterates; older ones go."""


class AsyncStream(ProcessBound):
    """A growing text on a server, over a connection that may break and comes back. Made by `open_stream`.

    Changes return as soon as they are taken; they are sent in order, kept until the server has acknowledged them, and sent
    again after a lost connection; the server applies each once. If the server has lost the session (it was restarted without
    a journal), the stream begins it again with the text that it has. Positions count code points.

    A change that the server refuses (the text would be too long) raises at the next call, or from the `embedding` that waits
    for it; neither it nor what was changed after it is applied, and `text` says what is.

    A stream stays with the process that opened it: in a child of `fork` it raises ConnectionLost.
    """

    _instead = "open a stream in each process that needs one"

    def __init__(self, ledger: Ledger, address: Address, timeout: float, reconnect: float, text: str) -> None:
        super().__init__()
        self._ledger = ledger
        self._address = address
        self._timeout, self._patience = timeout, reconnect
        self._task: asyncio.Task[None] | None = None
        self._connection: ClientConnection | None = None
        self._changed = asyncio.Event()  # set whenever something happens that the writer or a waiting call may wait for
        self._work = asyncio.Event()
        self._answers: dict[str, asyncio.Future[Emitted]] = {}
        self._emitted: Emitted | None = None
        self._kept: deque[Triggered | Emitted] = deque(maxlen=MAX_KEPT)  # events that are never dropped for newer ones
        self._refused: deque[StreambedError] = deque()  # for the next calls to raise
        self._ended: StreambedError | None = None
        self._closed = False
        self._reason = "the connection was closed"  # why there is none
        self._opening: dict[str, Any] | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._retries = 0
        self._attempt = 0
        self._answered = False  # whether the server has ever said anything
        self._lost = 0.0  # when the connection was lost, or first wanted
        self.connections = 0  # so far
        if text:
            ledger.change("input_text.append", 0, 0, text)

    async def __aenter__(self) -> Self:
        self._start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    @property
    def text(self) -> str:
        """The text with all changes, acknowledged or not."""
        return self._ledger.text

    @property
    def offset(self) -> int:
        """Its length in code points."""
        return len(self._ledger.text)

    @property
    def start(self) -> int:
        """Where the segment that grows begins, as the server has acknowledged: 0 unless the text has outgrown the window.
        What stands before it can no longer change."""
        return self._ledger.start

    @property
    def revision(self) -> int:
        """Changes that the server has acknowledged; with a journal, they survive its end."""
        return self._ledger.revision

    @property
    def session(self) -> str | None:
        """Id of the session on the server; None until it is open."""
        return self._ledger.session

    @property
    def fingerprint(self) -> str | None:
        """Of what decides the vectors; None until it is open. Vectors of another fingerprint do not compare."""
        return self._ledger.fingerprint

    async def append(self, text: str) -> None:
        """Adds text at the end. Waits while too much is unacknowledged.

        Raises:
            InvalidRequest: a lone surrogate; nothing is changed. A RequestError: an earlier change was refused.
            ConnectionLost: the stream has ended. TimedOut.
        """
        await self._change("input_text.append", len(self._ledger.text), len(self._ledger.text), text)

    async def replace(self, start: int, end: int, text: str) -> None:
        """Puts text in the place of characters `[start, end)`. Raises as `append`, and InvalidRequest for a wrong range."""
        start, end = as_integer("start", start, None), as_integer("end", end, None)
        await self._change("input_text.replace", start, end, text)

    async def set(self, text: str) -> None:
        """Makes this the whole text; what it begins alike is not computed again. Raises as `append`."""
        await self._change("input_text.set", 0, len(self._ledger.text), text)

    async def flush(self) -> None:
        """Waits until the server has acknowledged all changes. Raises as `append`."""
        await self._until(lambda: not self._ledger.unacknowledged)

    async def embedding(self) -> Emitted:
        """The exact embedding of the text as it is now. Raises as `append`, and what the server answers."""
        self._check()
        self._start()
        event_id = self._ledger.ask()
        answer = self._answers[event_id] = asyncio.get_running_loop().create_future()
        self._work.set()
        try:
            async with asyncio.timeout(self._timeout):
                emitted: Emitted = await answer
        except InvalidRequest:
            self._raise_refused()  # the text is empty, perhaps because it was refused: that is the reason to tell
            raise
        except TimeoutError:
            raise TimedOut(f"no embedding within {self._timeout} seconds{self._why()}") from None
        finally:
            del self._answers[event_id]
            self._ledger.forget(event_id)
        self._raise_refused()
        return emitted

    def __aiter__(self) -> AsyncIterator[Emitted | Triggered]:
        return self

    async def __anext__(self) -> Emitted | Triggered:
        """What comes unasked: triggers and last embeddings of segments in their order, and the newest embedding that nobody
        has seen. Ends with the stream; raises what `append` raises."""
        self._start()
        while True:
            if self._kept:
                return self._kept.popleft()
            if self._emitted is not None:
                emitted, self._emitted = self._emitted, None
                return emitted
            if self._closed:
                raise StopAsyncIteration
            self._check()
            self._changed.clear()
            await self._changed.wait()

    async def aclose(self) -> None:
        """Ends the session, if it can be reached; the server erases its text."""
        if self._closed or not self._at_home:
            return
        self._closed = True
        self._changed.set()
        if self._task is None:
            return
        try:
            with contextlib.suppress(WebSocketException, TimeoutError):
                async with asyncio.timeout(min(self._timeout, CLOSE_SECONDS)):
                    await self._close_session()
        finally:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._end(ConnectionLost("the stream was closed"))

    # Inside

    async def _close_session(self) -> None:
        asked = False
        while self._connection is not None and self._ended is None:
            if self._ledger.live and not asked:
                frame = {"type": "session.close", "event_id": "close", "session": self._ledger.session}
                await self._send(self._connection, frame)
                asked = True
            elif asked and not self._ledger.live:
                return
            # Or the session is still being opened: the answer tells what to close.
            self._changed.clear()
            await self._changed.wait()

    def _start(self) -> None:
        if not self._at_home:
            raise ConnectionLost(
                f"the stream belongs to process {self._home}, which opened it; open one in this process"
            )
        if self._task is None:
            self._lost = asyncio.get_running_loop().time()
            self._task = asyncio.get_running_loop().create_task(self._run())
            self._task.add_done_callback(self._stopped)

    def _stopped_writing(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._end(ConnectionLost(f"the client failed: {error!r}"))

    def _stopped(self, task: asyncio.Task[None]) -> None:
        """An error that ends the task ends the stream."""
        error = None if task.cancelled() else task.exception()
        self._end(ConnectionLost("the stream was closed" if error is None else f"the client failed: {error!r}"))

    def _why(self) -> str:
        reason = self._reason if self._connection is None else self._ledger.reason
        return f": {reason}" if reason else ""

    def _check(self) -> None:
        """Raises what has ended the stream, or why a change was refused."""
        if self._closed:
            raise ConnectionLost("the stream was closed")
        self._raise_refused()
        if self._ended is not None:
            raise self._ended

    def _raise_refused(self) -> None:
        if self._refused:
            raise self._refused.popleft()

    async def _change(self, type: str, start: int, end: int, text: str) -> None:
        self._check()
        self._start()
        ledger = self._ledger
        # What waits here is bounded by what may be in flight, so a slow server slows its writer down.
        await self._until(
            lambda: ledger.unacknowledged_characters < 2 * ledger.credit and ledger.unacknowledged < MAX_UNACKNOWLEDGED
        )
        if type == "input_text.append":
            start = end = len(ledger.text)
        elif type == "input_text.set":
            end = len(ledger.text)
        ledger.change(type, start, end, text)
        self._work.set()

    async def _until(self, condition: Any) -> None:
        self._start()
        try:
            async with asyncio.timeout(self._timeout):
                while True:
                    self._check()
                    if condition():
                        return
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise TimedOut(f"changes were not acknowledged within {self._timeout} seconds{self._why()}") from None

    async def _run(self) -> None:
        """Keeps a connection, until the stream ends."""
        loop = asyncio.get_running_loop()
        while True:
            pause = 0.0
            try:
                async with self._address.connect(self._timeout) as connection:
                    self._connection = connection
                    self.connections += 1
                    await self._serve(connection)
            except InvalidStatus as error:
                status = error.response.status_code
                body = error.response.body or b""
                try:
                    refusal = error_of(orjson.loads(body), status)
                except orjson.JSONDecodeError:
                    refusal = error_of({}, status)
                if status < 500 and not refusal.retryable:  # a proxy's 502 will pass
                    self._end(refusal)
                    return
                self._reason, pause = str(refusal), retry_after(error.response.headers)
            except StreambedError as error:
                self._end(error)
                return
            except ssl.SSLCertVerificationError as error:  # it will be the same the next time
                self._end(ConnectionLost(f"{self._address.stream_url} cannot be reached: {error}"))
                return
            except (OSError, WebSocketException) as error:
                self._reason = str(error) or type(error).__name__
            finally:
                self._connection, self._ledger.live = None, False
                self._changed.set()
            # A server that never answered is a wrong address rather than a lost connection.
            patience = self._patience if self._answered else min(self._patience, FIRST_SECONDS)
            if loop.time() - self._lost > patience:
                self._end(ConnectionLost(f"{self._address.stream_url} cannot be reached: {self._reason}"))
                return
            await asyncio.sleep(max(backoff(self._attempt), pause))
            self._attempt += 1

    async def _serve(self, connection: ClientConnection) -> None:
        """One connection, until it breaks."""
        self._opening = self._ledger.opening()
        self._work.set()
        writing = asyncio.create_task(self._write(connection))
        writing.add_done_callback(self._stopped_writing)
        try:
            async for message in connection:
                value = orjson.loads(message)
                event = load(value)
                if event is None:
                    continue  # of a newer server
                self._attempt, self._answered = 0, True
                if isinstance(event, InputTextAck):
                    self._retries = 0
                for happening in self._ledger.receive(event):
                    self._take(happening)
                if isinstance(event, SessionClosed) and event.reason in get_args(Leaving):
                    return
                self._work.set()
                self._changed.set()
        except ConnectionClosed:
            pass
        finally:
            self._lost = asyncio.get_running_loop().time()
            if self._retry is not None:
                self._retry.cancel()
                self._retry = None
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)

    def _take(self, happening: Happening) -> None:
        match happening:
            case Triggered() | Emitted(final=True):
                self._kept.append(happening)
                if isinstance(happening, Emitted) and self._emitted and self._emitted.segment <= happening.segment:
                    self._emitted = None  # older; that of a later segment waits for no disk and may have come first
            case Emitted():
                self._emitted = happening
            case Answered(event_id, answer):
                self._answer(event_id, answer)
            case Refused(error):
                self._refused.append(error)
            case Retry(seconds) if self._retry is None:
                if seconds:
                    seconds += backoff(self._retries)
                    self._retries += 1
                self._retry = asyncio.get_running_loop().call_later(seconds, self._again)

    def _again(self) -> None:
        """Sends what is pending once more, on the same connection."""
        self._retry = None
        self._ledger.again()
        if not self._ledger.live:
            self._opening = self._ledger.opening()  # the session itself is to be opened again
        self._work.set()

    async def _write(self, connection: ClientConnection) -> None:
        with contextlib.suppress(WebSocketException):  # the reader finds the connection broken, too
            while True:
                await self._work.wait()
                self._work.clear()
                opening, self._opening = self._opening, None
                if opening is not None:
                    await self._send(connection, opening)
                for frame in self._ledger.frames():
                    await self._send(connection, frame)

    async def _send(self, connection: ClientConnection, frame: dict[str, Any]) -> None:
        await connection.send(orjson.dumps(frame, option=orjson.OPT_SERIALIZE_NUMPY).decode())

    def _answer(self, event_id: str, answer: Emitted | RequestError) -> None:
        waiter = self._answers.get(event_id)
        if waiter is None or waiter.done():
            return
        if isinstance(answer, RequestError):
            waiter.set_exception(answer)
        else:
            waiter.set_result(answer)

    def _end(self, error: StreambedError) -> None:
        if self._ended is None:
            self._ended = error
        for waiter in self._answers.values():
            if not waiter.done():
                waiter.set_exception(error)
        self._changed.set()
