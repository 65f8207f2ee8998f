"""Connections that must do something: uvicorn waits for ever for the head of a request and for a client to read."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

if TYPE_CHECKING:
    from websockets.http11 import Request

HEAD_SECONDS = 10.0
"""A request's head that takes longer to arrive, from the connection or from its first byte, ends the connection."""


class Connection(H11Protocol):
    """uvicorn's HTTP/1.1 protocol with a deadline for heads. Bodies have theirs in the guard, idle ones in uvicorn."""

    _deadline: asyncio.TimerHandle | None = None
    _upgraded = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._set_deadline()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._set_deadline()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        super().handle_websocket_upgrade(event)
        self._upgraded = True
        self._cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel()
        super().connection_lost(exc)

    def _set_deadline(self) -> None:
        if self._upgraded:  # this connection has another protocol now
            return
        in_head = self.cycle is None or self.cycle.response_complete
        if not in_head:
            self._cancel()
        elif self._deadline is None:
            self._deadline = asyncio.get_running_loop().call_later(HEAD_SECONDS, self.transport.close)

    def _cancel(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class WebSocketConnection(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket, whose clients can be dropped while there is something that they do not read.

    Puts `abort` in the scope's state. Says nothing of each connection: their paths may hold a key.
    """

    def __init__(self, *values: Any, **more: Any) -> None:
        super().__init__(*values, **more)
        self.logger = self.conn.logger = logging.getLogger("streambed.websocket")
        self.logger.setLevel(logging.WARNING)

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if hasattr(self, "scope"):  # it is a handshake
            self.scope["state"]["abort"] = self.transport.abort

    async def send(self, message: Any) -> None:
        await super().send(message)
        if message["type"] == "websocket.http.response.body":
            self.handshake_complete = True  # a refusal is an answer, too

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        self.transport.abort()
