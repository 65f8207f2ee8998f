"""A growing text on a server, for programs without asyncio."""

from collections.abc import Callable, Iterator
from typing import Any, Self

from streambed.client.astream import AsyncStream
from streambed.client.events import Emitted, Triggered
from streambed.process import Closeable


class Stream(Closeable):
    """A growing text on a server, over a connection that may break and comes back. Made by `Client.open_stream`.

    Changes return as soon as they are taken; they are sent in order, kept until the server has acknowledged them, and sent
    again after a lost connection; the server applies each once. If the server has lost the session (it was restarted without
    a journal), the stream begins it again with the text that it has. Positions count code points. Safe to use from any
    thread.

    A change that the server refuses (the text would be too long) raises at the next call, or from the `embedding` that waits
    for it; neither it nor what was changed after it is applied, and `text` says what is.

    A stream stays with the process that opened it: in a child of `fork` it raises ConnectionLost.
    """

    _instead = "open a stream in each process that needs one"

    def __init__(self, call: Callable[..., Any], stream: AsyncStream) -> None:
        """call: has the client's loop run a coroutine, and waits for its result."""
        super().__init__()
        self._call = call
        self._stream = stream

    def __enter__(self) -> Self:
        self._call(self._stream.__aenter__())
        return self

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
        """Where the segment that grows begins, as the server has acknowledged: 0 unless the text has outgrown the window.
        What stands before it can no longer change."""
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
        """Of what decides the vectors; None until it is open. Vectors of another fingerprint do not compare."""
        return self._stream.fingerprint

    @property
    def connections(self) -> int:
        """How often it has connected."""
        return self._stream.connections

    def append(self, text: str) -> None:
        """Adds text at the end. Waits while too much is unacknowledged.

        Raises:
            InvalidRequest: no text, or a lone surrogate; nothing is changed. A RequestError: an earlier change was refused.
            ConnectionLost: the stream has ended. TimedOut.
        """
        self._call(self._stream.append(text))

    def replace(self, start: int, end: int, text: str) -> None:
        """Puts text in the place of characters `[start, end)`. Raises as `append`, and InvalidRequest for a wrong range."""
        self._call(self._stream.replace(start, end, text))

    def set(self, text: str) -> None:
        """Makes this the whole text; what it begins alike is not computed again. Raises as `append`."""
        self._call(self._stream.set(text))

    def flush(self) -> None:
        """Waits until the server has acknowledged all changes. Raises as `append`."""
        self._call(self._stream.flush())

    def embedding(self) -> Emitted:
        """The exact embedding of the text as it is now. Raises as `append`, and what the server answers."""
        emitted: Emitted = self._call(self._stream.embedding())
        return emitted

    def __iter__(self) -> Iterator[Emitted | Triggered]:
        return self

    def __next__(self) -> Emitted | Triggered:
        """What comes unasked: triggers and last embeddings of segments in their order, and the newest embedding that nobody
        has seen. Ends with the stream; raises what `append` raises."""

        async def take() -> Emitted | Triggered | None:
            try:
                return await self._stream.__anext__()
            except StopAsyncIteration:
                return None

        item: Emitted | Triggered | None = self._call(take())
        if item is None:
            raise StopIteration
        return item

    def close(self) -> None:
        """Ends the session, if it can be reached; the server erases its text."""
        self._call(self._stream.aclose())
