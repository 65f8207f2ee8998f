"""A connection that must say something: uvicorn waits for ever for the head of a request, and we do not."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 10.0
"""A request's head that takes longer to arrive, from the connection or from its first byte, ends the connection."""


class Connection(H11Protocol):
    """uvicorn's HTTP/1.1 protocol with a deadline for heads. Bodies have theirs in the guard, idle ones in uvicorn."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._set_deadline()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._set_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel()
        super().connection_lost(exc)

    def _set_deadline(self) -> None:
        in_head = self.cycle is None or self.cycle.response_complete
        if not in_head:
            self._cancel()
        elif self._deadline is None:
            self._deadline = asyncio.get_running_loop().call_later(HEAD_SECONDS, self.transport.close)

    def _cancel(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
