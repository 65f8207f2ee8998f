"""uvicorn as we run it: bounded heads, bounded frames, and a drain that tells streams where to resume."""

import asyncio
import functools
import logging
import signal
import socket
import threading
from collections.abc import Callable
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from streambed.limits import HEAD_BYTES, MAX_FRAME_BYTES, PING_SECONDS
from streambed.server.connection import Connection, WebSocketConnection
from streambed.server.connections import ACCEPTED_AT_ONCE, Connections, bound
from streambed.server.health import DRAINING
from streambed.server.logs import LoopErrors
from streambed.server.socket import Sockets
from streambed.settings import Settings

WAITING = 2048
"""Connections that the system keeps until they are accepted."""


class Listener(uvicorn.Server):
    """A server whose sockets hear `session.closed` before they close."""

    def __init__(self, app: ASGIApp, settings: Settings, reload: Callable[[], None] | None = None) -> None:
        """reload: what SIGHUP does, if it does something."""
        self._reload = reload
        most = bound(4 * settings.max_requests + settings.max_sockets)
        super().__init__(
            uvicorn.Config(
                app,
                # h11, the one parser that bounds the size of a request's head.
                http=functools.partial(Connection, connections=Connections(most)),  # type: ignore[arg-type]
                backlog=ACCEPTED_AT_ONCE,
                h11_max_incomplete_event_size=HEAD_BYTES,
                # Pings, and stops reading while a message waits. No deflate: vectors do not compress, and its buffers
                # cost 64 KiB a connection.
                ws=WebSocketConnection,
                ws_max_size=MAX_FRAME_BYTES,
                ws_ping_interval=PING_SECONDS,
                ws_ping_timeout=PING_SECONDS,
                ws_per_message_deflate=False,
                access_log=False,
                log_config=None,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=settings.keep_alive,
                timeout_graceful_shutdown=max(1, round(settings.drain)),
                ssl_certfile=settings.tls_cert,
                ssl_keyfile=settings.tls_key,
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, which lets no more connections wait than it accepts at once."""
        await super().startup(sockets)
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(LoopErrors())
        if self._reload is not None:
            loop.add_signal_handler(signal.SIGHUP, self._reload)
        for each in sockets or []:
            each.listen(WAITING)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal of whatever kind begins to drain, a second one ends it, and with it whatever is at work."""
        if self.should_exit:
            self.force_exit = True
            logging.getLogger("uvicorn.error").disabled = True  # it would take what is cut off for errors
        self.should_exit = True
        if hasattr(self, "lifespan"):
            self.lifespan.state[DRAINING] = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, which would cut sockets off without a word."""
        self.lifespan.state[DRAINING] = True
        streams = self.lifespan.state.get("sockets")
        if isinstance(streams, Sockets):
            drained = asyncio.ensure_future(streams.drain())
            while not drained.done() and not self.force_exit:
                await asyncio.wait({drained}, timeout=0.05)
            drained.cancel()
        await super().shutdown(sockets)


class MetricsListener(uvicorn.Server):
    """A small server for metrics alone, on a thread of its own: it answers however busy the other one is."""

    def __init__(self, app: ASGIApp) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=functools.partial(Connection, connections=Connections(64)),  # type: ignore[arg-type]
                ws="none",
                lifespan="off",
                access_log=False,
                log_config=None,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=75,  # Prometheus keeps its connection between two looks
            )
        )

    def start(self, listener: socket.socket) -> None:
        """Serves until the process ends."""
        threading.Thread(target=self.run, args=([listener],), name="streambed-metrics", daemon=True).start()


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, asyncio sets TCP_NODELAY; without, each small reply waits 40 ms for the client's ACK.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host.strip("[]"), port))
        listener.listen(WAITING)
    except OSError:
        listener.close()
        raise
    return listener
