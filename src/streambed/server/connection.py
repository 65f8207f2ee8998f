"""Deadlines that uvicorn lacks: it waits for ever for the head of a request, and for a client to read."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from typing import TYPE_CHECKING, Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.protocol import State as SocketState

if TYPE_CHECKING:
    from websockets.frames import Frame
    from websockets.http11 import Request

    from streambed.errors import RequestError

from streambed.errors import HeadTooLarge, InvalidRequest, TargetTooLong
from streambed.limits import HEAD_BYTES, HEAD_SECONDS, READ_SECONDS, TARGET_BYTES
from streambed.server.connections import ANSWERED, Connections, State
from streambed.server.frames import PIECE, FrameBudget
from streambed.server.guard import CROWDED
from streambed.server.marks import Marks
from streambed.server.replies import IDLE_SECONDS, LINGER_SECONDS, write_error

LEAVING_SECONDS = 1.0
"""As READ_SECONDS, once the server shuts down."""
ASK_SECONDS = 1.0
"""How often a client that sends nothing more, and waits, is asked whether it still listens."""
_STILL_AT_WORK = b"HTTP/1.1 100 Continue\r\n\r\n"
"""An interim answer, of which any number may come before the final one (RFC 9110, 15.2). The one that every client skips."""


class Connection(H11Protocol):
    """uvicorn's HTTP/1.1 protocol with a deadline for heads, and for clients to read. Bodies have theirs in the guard, idle
    connections in uvicorn.

    A client that ends its side of a connection after its request (`shutdown(SHUT_WR)`) gets its answer. One that closed all
    of it looks the same until something is sent to it: so it is asked now and then, by interim answers, and its work is
    dropped when its system says that nobody listens. Not with TLS, where asyncio closes both sides at once, nor with
    HTTP/1.0, which has no interim answers: there, who sends nothing more has gone.
    """

    _deadline: asyncio.TimerHandle | None = None
    _reading: asyncio.TimerHandle | None = None
    _unread = 0
    _patience = READ_SECONDS
    _upgraded = False
    _half_closed = False
    _asking: asyncio.TimerHandle | None = None

    def __init__(self, *values: Any, connections: Connections, **more: Any) -> None:
        super().__init__(*values, **more)
        self._all = connections

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if not self._all.admit(len(self.connections)):
            if len(self.connections) > self._all.most + ANSWERED:
                transport.abort()
                return
            self.app_state = {**self.app_state, CROWDED: True}
        self._set_deadline()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._set_deadline()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        super().handle_websocket_upgrade(event)
        self._upgraded = True
        self._all.note(self.transport, None)
        self._cancel()

    def send_400_response(self, msg: str) -> None:
        """What comes is no HTTP, or more of a head than is read. A request whose body it is hears nothing of the answer."""
        error: RequestError = InvalidRequest("this is not a request of HTTP/1.1")
        if isinstance(cause := sys.exc_info()[1], h11.RemoteProtocolError) and cause.error_status_hint == 431:
            error = HeadTooLarge(f"the head of the request has more than {HEAD_BYTES:,} bytes, which is the limit")
            if b"\n" not in self.conn.trailing_data[0]:
                error = TargetTooLong(f"path and query have more than {TARGET_BYTES:,} bytes, which is the limit")
        cycle = self.cycle
        if cycle is None or cycle.response_complete or not cycle.response_started:
            self.transport.write(write_error(error))
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()
        self.transport.close()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Whether to keep our side open: while a request that came whole is being answered."""
        if self._upgraded or self.transport.get_extra_info("sslcontext") is not None:
            return False
        cycle = self.cycle
        if cycle is None or cycle.response_complete or cycle.more_body or self.scope["http_version"] == "1.0":
            return False
        self._half_closed = True
        self._ask_later()
        return True

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._note()
        if self._half_closed and self.cycle.response_complete:  # no other request had come on it
            self.transport.close()

    def _ask_later(self) -> None:
        self._asking = asyncio.get_running_loop().call_later(ASK_SECONDS, self._ask)

    def _ask(self) -> None:
        """Whether the client is still there. If not, its system has answered the last interim response with a reset."""
        if self.transport.is_closing() or self.cycle.response_complete:
            return
        if self.transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.transport.abort()
            return
        if not self.cycle.response_started:
            self.transport.write(_STILL_AT_WORK)
        self._ask_later()

    def connection_lost(self, exc: Exception | None) -> None:
        self._all.note(self.transport, None)
        self._cancel()
        if self._asking is not None:
            self._asking.cancel()
        self._stop_watching()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        self._stop_watching()
        super().resume_writing()

    def shutdown(self) -> None:
        self._patience = LEAVING_SECONDS
        if self._reading is not None:
            self._watch()
        super().shutdown()

    def _watch(self) -> None:
        """Looks again later whether anything has been read."""
        self._stop_watching()
        self._unread = self.transport.get_write_buffer_size()
        self._reading = asyncio.get_running_loop().call_later(self._patience, self._look)

    def _look(self) -> None:
        if self.transport.get_write_buffer_size() >= self._unread:
            self.transport.abort()
        else:
            self._watch()

    def _stop_watching(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def _set_deadline(self) -> None:
        if self._upgraded:  # this connection has another protocol now
            return
        self._note()
        in_head = self.cycle is None or self.cycle.response_complete
        if not in_head:
            self._cancel()
        elif self._deadline is None:
            self._deadline = asyncio.get_running_loop().call_later(HEAD_SECONDS, self.transport.close)

    def _note(self) -> None:
        cycle: RequestResponseCycle | None = self.cycle
        if self.transport.is_closing():
            state: State | None = None
        elif cycle is None:
            state = "silent"
        elif cycle.response_complete:
            state = "idle"
        else:
            state = "sending" if cycle.more_body else None
        self._all.note(self.transport, state)

    def _cancel(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class WebSocketConnection(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket, whose clients can be dropped while there is something that they do not read, and are where they
    send more frames or bytes than anybody needs to.

    Puts `abort` and `marks` in the scope's state; a message that is sent with a `mark` is marked. Says nothing of each
    connection: their paths may hold a key. After a frame that ends it (too large, not UTF-8) it reads on for a while, as
    `replies` does: to close with bytes unread would reset the connection, and the client would lose the reason.
    """

    def __init__(self, *values: Any, **more: Any) -> None:
        super().__init__(*values, **more)
        self.logger = self.conn.logger = logging.getLogger("streambed.websocket")
        self.logger.setLevel(logging.WARNING)
        self.logger.addFilter(_is_ours)
        self._ended = False
        self._budget = FrameBudget(self.loop.time())
        self._marks = Marks()
        self._messages = 0

    def data_received(self, data: bytes) -> None:
        for at in range(0, len(data), PIECE):  # thousands of small frames may have come at once
            self._data_received(data[at : at + PIECE])

    def _data_received(self, data: bytes) -> None:
        if self._ended or self.conn.parser_exc is not None:
            self._read_on()
            return
        if self.close_sent and not self.handshake_initiated:
            return
        super().data_received(data)
        if self.handshake_complete and not self._budget.pay(len(data), self.loop.time()) and not self.close_sent:
            self.conn.send_close(1008, "too many frames or bytes in a second")
            self.handle_parser_exception()
            return
        # A head comes whole. One that websockets cannot read makes it fail without an event, and uvicorn waits on.
        if not self.handshake_initiated:
            self.handshake_complete = self.close_sent = True
            refusal = InvalidRequest("this is no handshake of a WebSocket: no body, and at most 128 headers of 8 KiB")
            self.transport.write(write_error(refusal))
            self.transport.close()

    def handle_text(self, event: Frame) -> None:
        self._budget.count(whole=event.fin and bool(event.data))
        super().handle_text(event)

    def handle_bytes(self, event: Frame) -> None:
        self._budget.count(whole=event.fin and bool(event.data))
        super().handle_bytes(event)

    def handle_cont(self, event: Frame) -> None:
        self._budget.count()
        super().handle_cont(event)

    def handle_ping(self) -> None:
        self._budget.count()
        super().handle_ping()

    def handle_pong(self, event: Frame) -> None:
        if not self._marks.pong(bytes(event.data), self._messages):
            self._budget.count()
            super().handle_pong(event)

    def send_receive_event_to_app(self) -> None:
        self._messages += 1
        super().send_receive_event_to_app()

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if hasattr(self, "scope"):  # it is a handshake
            self.scope["state"].update(abort=self.transport.abort, marks=self._marks)

    async def send(self, message: Any) -> None:
        if self._ended:
            raise ClientDisconnected
        if "mark" in message:
            await self.writable.wait()
            if self.conn.state is SocketState.OPEN:
                self.conn.send_ping(self._marks.set(message["mark"]))
        await super().send(message)
        if message["type"] == "websocket.http.response.body":
            self.handshake_complete = True  # a refusal is an answer, too

    def handle_parser_exception(self) -> None:
        closed = self.conn.close_sent
        assert closed is not None
        self._ended = True
        self.queue.put_nowait({"type": "websocket.disconnect", "code": closed.code, "reason": closed.reason})
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self.loop.call_later(LINGER_SECONDS, self.transport.close)
        self._read_on()

    def _read_on(self) -> None:
        if self.close_timer is not None:
            self.close_timer.cancel()
        self.close_timer = self.loop.call_later(IDLE_SECONDS, self.transport.close)

    def shutdown(self) -> None:
        """As uvicorn's, which raises where a socket is closing already, and so ends in no order."""
        if self.handshake_complete and self.conn.state is not SocketState.OPEN:
            self.stop_keepalive()
            self.transport.close()
        else:
            super().shutdown()

    def keepalive_timeout(self) -> None:
        """Its answer to a ping has not come, or was not read: while a message waits, nothing is."""
        if self.read_paused and not self.transport.is_closing():
            self.pong_timer = self.pending_ping_payload = None
            self.schedule_ping()
            return
        super().keepalive_timeout()
        self.transport.abort()


def _is_ours(record: logging.LogRecord) -> bool:
    """uvicorn takes a frame that is not UTF-8 for an error of the server's."""
    return not record.getMessage().startswith("Invalid UTF-8")
