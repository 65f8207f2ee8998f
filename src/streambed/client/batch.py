"""Many texts as several requests: how they are divided, how many run at once, and what is kept when one fails."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from streambed.errors import RequestError

IN_FLIGHT = 4
"""Requests of one call that run at once."""
CHUNK_BYTES = 16 << 10
"""UTF-8 of one request. About 4,000 tokens of prose in most scripts, and never more tokens than bytes: a processor that
computes 600 tokens a second answers four of these within the 30 seconds that an answer may take."""
_TEXT_BYTES = 4
"""What each text counts in addition to its bytes, for its end token."""
_PLACE = re.compile(r"(\binput\[|\btext )(\d+)")
"""How a server names one of a request's texts."""

Rows = NDArray[np.float32]
Progress = Callable[[int, int], object]
"""Is told how many texts are done, of how many."""


def divide(texts: Sequence[str], places: Sequence[int], prompt: str, most: int) -> list[list[int]]:
    """The places of each request's texts: at most `most`, and CHUNK_BYTES unless one text alone has more.

    prompt: what is sent once and stands before each text. The body stays far below what a server takes.
    """
    chunks: list[list[int]] = []
    room = 0
    before = len(prompt.encode()) + _TEXT_BYTES
    for place in places:
        text = texts[place]
        size = before + (len(text) if text.isascii() else len(text.encode()))
        if not chunks or size > room or len(chunks[-1]) == most:
            chunks.append([])
            room = CHUNK_BYTES
        chunks[-1].append(place)
        room -= size
    return chunks


class Batch:
    """The vectors of one call while they come."""

    def __init__(self, count: int, empty: int, progress: Progress | None) -> None:
        """count: all texts of the call; empty: those of them that are not sent."""
        self.vectors: Rows | None = None
        """float32 [count, dimensions]; NaN where none has come. None before the first."""
        self._count, self._done, self._progress = count, empty, progress

    def put(self, places: Sequence[int], rows: Rows) -> None:
        """Takes an answer."""
        if self.vectors is None:
            self.vectors = np.full((self._count, rows.shape[1]), np.nan, dtype=np.float32)
        self.vectors[places] = rows
        self._done += len(places)
        if self._progress is not None:
            self._progress(self._done, self._count)


async def run(chunks: Sequence[list[int]], ask: Callable[[list[int]], Awaitable[None]]) -> None:
    """Asks for all chunks, IN_FLIGHT at a time. The first error ends the others."""
    if len(chunks) <= 1:
        for chunk in chunks:
            await ask(chunk)
        return
    waiting = iter(chunks)

    async def work() -> None:
        for chunk in waiting:
            await ask(chunk)

    workers = [asyncio.create_task(work()) for _ in chunks[:IN_FLIGHT]]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


def renumber(error: RequestError, places: Sequence[int], count: int) -> RequestError:
    """A server's error about a request's texts as one about the caller's: message, `param` and `details.indexes`.

    places: where each text of the request stands among the caller's `count`.
    """

    def rename(match: re.Match[str]) -> str:
        index = int(match[2])
        return f"{match[1]}{places[index]}" if index < len(places) else match[0]

    message, param = _PLACE.sub(rename, error.message), error.param
    if param == "input" and len(places) == 1 and count > 1:  # of one text alone a server says no number
        message, param = f"text {places[0]}: {message}", f"input[{places[0]}]"
    elif param is not None:
        param = _PLACE.sub(rename, param)
    error.message, error.args, error.param = message, (message,), param
    indexes = (error.details or {}).get("indexes")
    if isinstance(indexes, list) and all(isinstance(index, int) and 0 <= index < len(places) for index in indexes):
        error.details = {**(error.details or {}), "indexes": [places[index] for index in indexes]}
    return error
