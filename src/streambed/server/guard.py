"""What every request passes before it is read: layers that ask for the host and for a place among those in progress.

They decide by the raw path, the one that routing uses too. More layers are in `origins`, `keys` and `bodies`.
"""

import asyncio
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from streambed.errors import ForbiddenOrigin, InvalidRequest, NotFound, NotReady, Overloaded, RequestError
from streambed.server.layer import Layer
from streambed.server.replies import refuse
from streambed.server.routes import WEBSOCKET, Routes, Row
from streambed.settings import Settings, is_loopback

_DECISIVE = frozenset({b"host", b"authorization", b"content-type", b"content-length", b"origin"})
_READ = _DECISIVE | {b"content-encoding", b"cookie", b"sec-fetch-site", b"transfer-encoding"}


class Refusals(Layer):
    """Answers what the layers inside refuse. Sets `headers` in the scope's state: those that they read, by lower name."""

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        answered = False

        async def answer(message: Message) -> None:
            nonlocal answered
            answered = True
            await send(message)

        try:
            scope["state"]["headers"] = _headers(scope)
            await self.app(scope, receive, answer)
        except RequestError as error:
            await refuse(error, scope, receive, send)
        except asyncio.CancelledError:
            # uvicorn gives up what is still running when the time to drain is over. Who waits shall hear why.
            if answered or scope["type"] != "http":
                raise
            await refuse(NotReady("the server is shutting down"), scope, receive, send)


def _headers(scope: Scope) -> dict[bytes, bytes]:
    """Raises InvalidRequest where one that decides something is there twice."""
    result: dict[bytes, bytes] = {}
    for raw, value in scope["headers"]:
        name = raw.lower()
        if name in result and name in _DECISIVE:
            raise InvalidRequest(f"header {name.decode('latin-1')} is there more than once")
        if name in _READ:
            result[name] = value
    return result


@dataclass(eq=False)
class Hosts(Layer):
    """Without a key, only names of this machine will do: a web page could point its own name here (DNS rebinding)."""

    settings: Settings
    keyed: bool

    def check(self, scope: Scope) -> None:
        host = scope["state"]["headers"].get(b"host", b"").decode("latin-1")
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        any_will_do = self.keyed or not self.settings.is_loopback or self.settings.no_auth
        if not any_will_do and not is_loopback(name):
            raise ForbiddenOrigin("the Host header is no name of this machine; use a key to serve under other names")


class SocketPaths(Layer):
    """A handshake elsewhere is refused as HTTP, which Starlette would not do."""

    def __init__(self, app: ASGIApp, routes: Routes) -> None:
        super().__init__(app)
        self._paths = ", ".join(row.path for row in routes.rows if row.method == WEBSOCKET)

    def check(self, scope: Scope) -> None:
        row: Row | None = scope["state"]["row"]
        if scope["type"] == "websocket" and (row is None or row.method != WEBSOCKET):
            raise NotFound(f"there is no WebSocket at this path; streams are at {self._paths}")


class Admission(Layer):
    """So many requests that bring a body are in progress at once, and so many WebSockets are open."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        super().__init__(app)
        self._limits = {
            "http": (settings.max_requests, "requests are in progress"),
            "websocket": (settings.max_sockets, "WebSockets are open"),
        }
        self.running = dict.fromkeys(self._limits, 0)

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "http" and (not brings_body(scope) or is_open(scope)):
            await self.app(scope, receive, send)
            return
        limit, what = self._limits[kind]
        if self.running[kind] >= limit:
            raise Overloaded(f"{self.running[kind]} {what}; try again later")
        self.running[kind] += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self.running[kind] -= 1


def brings_body(scope: Scope) -> bool:
    return scope.get("method") in ("POST", "PUT")


def is_open(scope: Scope) -> bool:
    """Whether a request needs no key."""
    row: Row | None = scope["state"]["row"]
    return row is not None and row.is_open(scope["method"])
