"""What every request passes before it is read: layers that ask for the host and for a place among those in progress.

They decide by the raw path, the one that routing uses too. More layers are in `origins`, `keys` and `bodies`.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from streambed.errors import (
    ForbiddenOrigin,
    HeadTooLarge,
    InvalidRequest,
    NotFound,
    NotReady,
    Overloaded,
    RequestError,
    TargetTooLong,
)
from streambed.limits import HEAD_BYTES, TARGET_BYTES
from streambed.server.allowance import Allowance
from streambed.server.keyring import Key, Keyring
from streambed.server.layer import Layer
from streambed.server.replies import refuse
from streambed.server.routes import WEBSOCKET, Routes, Row
from streambed.server.usage import Usage
from streambed.settings import Settings, is_loopback

CROWDED = "crowded"
"""In a request's state where there are too many connections, all of them at work."""
PATIENCE = 0.3
"""Seconds that a request may have to wait until it is read. It waits three times: to be read, tokenised and written."""
_DECISIVE = frozenset({b"host", b"authorization", b"content-type", b"content-length", b"origin"})
_READ = _DECISIVE | {b"content-encoding", b"cookie", b"sec-fetch-site", b"transfer-encoding"}


class Refusals(Layer):
    """Answers what the layers inside refuse. Sets `headers` in the scope's state: those that they read, by lower name."""

    def __init__(self, app: ASGIApp) -> None:
        super().__init__(app)
        self._lingering: Counter[str] = Counter()

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
            await refuse(error, scope, receive, send, self._lingering)
        except asyncio.CancelledError:
            # uvicorn gives up what is still running when the time to drain is over. Who waits shall hear why.
            if answered or scope["type"] != "http":
                raise
            await refuse(NotReady("the server is shutting down"), scope, receive, send)


def _headers(scope: Scope) -> dict[bytes, bytes]:
    """Raises InvalidRequest where one that decides something is there twice, HeadTooLarge, TargetTooLong."""
    result: dict[bytes, bytes] = {}
    target = len(scope["raw_path"]) + len(scope["query_string"])
    if target > TARGET_BYTES:
        raise TargetTooLong(f"path and query have {target:,} bytes; the limit is {TARGET_BYTES:,}")
    size = target + sum(len(name) + len(value) + 4 for name, value in scope["headers"])
    if size > HEAD_BYTES:
        raise HeadTooLarge(f"the head of the request has {size:,} bytes; the limit is {HEAD_BYTES:,}")
    for raw, value in scope["headers"]:
        name = raw.lower()
        if name in result and name in _DECISIVE:
            raise InvalidRequest(f"header {name.decode('latin-1')} is there more than once")
        if name in _READ:
            result[name] = value
    if b"content-length" in result and b"transfer-encoding" in result:
        error = InvalidRequest("Content-Length and Transfer-Encoding say different things about where the body ends")
        error.closes = True  # a proxy in front may believe the other one (RFC 9112, 6.1)
        raise error
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


@dataclass(eq=False)
class Quotas(Layer):
    """A key makes as many requests as it may, before any body is read."""

    usage: Usage

    def check(self, scope: Scope) -> None:
        key: Key | None = scope["state"].get("key")
        if key is not None:
            self.usage.admit(key)


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
    """So many requests that bring a body are in progress at once, from when it is there, and so many WebSockets are open."""

    def __init__(self, app: ASGIApp, settings: Settings, keyring: Keyring, wait: Callable[[str], float]) -> None:
        """wait: seconds until work of this owner would begin."""
        super().__init__(app)
        self._wait = wait
        many = keyring.many
        self.places = {
            "http": Allowance(settings.max_requests, "requests are in progress", many),
            "websocket": Allowance(
                settings.max_sockets, "WebSockets are open", many, lambda owner: keyring.quota(owner).sockets
            ),
        }

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if scope["state"].get(CROWDED) and not (kind == "http" and is_open(scope)):
            error = Overloaded("there are too many connections; try again later")
            error.closes = True
            raise error
        if kind == "http" and (not brings_body(scope) or is_open(scope)):
            await self.app(scope, receive, send)
            return
        owner = scope["state"].get("owner") or ""
        if kind == "http" and (wait := self._wait(owner)) > PATIENCE:
            error = Overloaded(f"requests for {wait:.1f} seconds are waiting already; try again later")
            error.retry_after = wait
            raise error
        with self.places[kind].open(owner) as place:
            place.take(1)
            await self.app(scope, receive, send)


def brings_body(scope: Scope) -> bool:
    return scope.get("method") in ("POST", "PUT")


def is_open(scope: Scope) -> bool:
    """Whether a request needs no key."""
    row: Row | None = scope["state"]["row"]
    return row is not None and row.is_open(scope["method"])
