"""uvicorn as we run it: bounded heads, bounded frames, and a drain that tells streams where to resume."""

import socket
import threading

import uvicorn
from starlette.types import ASGIApp

from streambed.limits import HEAD_BYTES, MAX_FRAME_BYTES, PING_SECONDS
from streambed.server.connection import Connection, WebSocketConnection
from streambed.server.socket import Sockets
from streambed.settings import Settings


class Listener(uvicorn.Server):
    """A server whose sockets hear `session.closed` before they close."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=Connection,  # h11, the one parser that bounds the size of a request's head
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
                limit_concurrency=4 * settings.max_requests + settings.max_sockets,
                ssl_certfile=settings.tls_cert,
                ssl_keyfile=settings.tls_key,
            )
        )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, which would cut sockets off without a word."""
        streams = self.lifespan.state.get("sockets")
        if isinstance(streams, Sockets):
            await streams.drain()
        await super().shutdown(sockets)


class MetricsListener(uvicorn.Server):
    """A small server for metrics alone, on a thread of its own: it answers however busy the other one is."""

    def __init__(self, app: ASGIApp) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=Connection,
                ws="none",
                lifespan="off",
                access_log=False,
                log_config=None,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=75,  # Prometheus keeps its connection between two looks
                limit_concurrency=64,
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
        listener.listen(2048)
    except OSError:
        listener.close()
        raise
    return listener
