"""What every request passes first: host, key, admission, and a body of bounded size in bounded time.

Pure ASGI, so that it counts bytes while they arrive and decides by the raw path, the one that routing uses too.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from streambed.errors import (
    ForbiddenOrigin,
    InvalidRequest,
    NotFound,
    NotReady,
    Overloaded,
    RequestError,
    TooLarge,
    Unauthorized,
    UnsupportedMedia,
)
from streambed.origins import same_host
from streambed.server.origins import check_origin
from streambed.server.playground import Visits
from streambed.server.proxy import route_path
from streambed.server.refusals import error_response, note, refuse
from streambed.server.subprotocol import take_key
from streambed.settings import Settings, is_loopback

OPEN_PATHS = frozenset({"/", "/livez", "/readyz"})
PAGES = ("/playground", "/docs")
"""Whose files are open, too."""
KEY_PATH = "/playground/key"
"""Where the page brings a key; so none is asked for."""
KEY_BODY = 16 << 10
SOCKET_PATHS = frozenset({"/v1/embeddings"})
_DECISIVE = frozenset({b"host", b"authorization", b"content-type", b"content-length", b"origin"})
BODY_SECONDS = 30.0
"""A body that takes longer to arrive is given up."""


class Guard:
    """Middleware. Sets `scope["state"]["owner"]`, under which KV is shared: a digest of the key, never the key."""

    def __init__(self, app: ASGIApp, settings: Settings, keys: tuple[str, ...], visits: Visits) -> None:
        self._app = app
        self._visits = visits
        self._settings = settings
        self._keys = tuple(key.encode() for key in keys)
        self._running = 0
        self._sockets = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._handshake(scope, receive, send)
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope.setdefault("state", {})["path"] = route_path(scope)
        answered = False

        async def answer(message: Message) -> None:
            nonlocal answered
            answered = True
            await send(message)

        try:
            headers = _headers(scope)
            self._check_host(headers)
            if is_open(path) and scope["method"] == "GET":
                await self._app(scope, receive, answer)
                return
            if scope["method"] not in ("GET", "OPTIONS"):
                check_origin(headers, self._settings.allow_origin)
            brings_key = path == KEY_PATH
            if scope["method"] != "OPTIONS" and not brings_key:  # a preflight carries no key and reads nothing
                scope["state"]["owner"] = self._check_key(headers)
            if scope["method"] not in ("POST", "PUT"):
                await self._app(scope, receive, answer)
                return
            if brings_key:  # from anybody: it takes no place from those who have one
                self._check_media(headers)
                body = await self._read_body(headers, receive, KEY_BODY)
                await self._app(scope, _replay(body, receive), answer)
                return
            if self._running >= self._settings.max_requests:
                raise Overloaded(f"{self._running} requests are in progress; try again later")
            self._check_media(headers)
            self._running += 1
            try:
                body = await self._read_body(headers, receive, self._settings.max_body)
                await self._app(scope, _replay(body, receive), answer)
            finally:
                self._running -= 1
        except RequestError as error:
            await refuse(error, scope, receive, send)
        except _ClientGone:
            return
        except asyncio.CancelledError:
            # uvicorn gives up what is still running when the time to drain is over. Who waits shall hear why.
            if answered:
                raise
            await refuse(NotReady("the server is shutting down"), scope, receive, send)

    async def _handshake(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Host, origin and key of a WebSocket, before it is one: a refusal is an HTTP reply."""
        try:
            headers = _headers(scope)
            self._check_host(headers)
            check_origin(headers, self._settings.allow_origin)
            scope.setdefault("state", {})["owner"] = self._check_key(headers, take_key(scope))
            if route_path(scope) not in SOCKET_PATHS:
                raise NotFound(f"there is no WebSocket at this path; streams are at {', '.join(SOCKET_PATHS)}")
            if self._sockets >= self._settings.max_sockets:
                raise Overloaded(f"{self._sockets} WebSockets are open; try again later")
        except RequestError as error:
            note(scope, error)
            await WebSocket(scope, receive, send).send_denial_response(error_response(error))
            return
        self._sockets += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._sockets -= 1

    def _check_host(self, headers: dict[bytes, bytes]) -> None:
        """Without a key, only names of this machine will do: a web page could point its own name here (DNS rebinding)."""
        if self._keys or not self._settings.is_loopback or self._settings.no_auth:
            return
        host = headers.get(b"host", b"").decode("latin-1")
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        if not is_loopback(name):
            raise ForbiddenOrigin("the Host header is no name of this machine; use a key to serve under other names")

    def _check_key(self, headers: dict[bytes, bytes], offered: bytes | None = None) -> str:
        """The owner. offered: a key that came otherwise; `Authorization` wins, and both win over a cookie."""
        if not self._keys:
            return ""
        if b"authorization" not in headers:
            owner = self._visitor(headers) if offered is None else self.owner_of(offered)
            if owner is not None:
                return owner
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        owner = self.owner_of(given.strip())
        if scheme.lower() != b"bearer" or owner is None:
            raise Unauthorized("a valid API key is needed: Authorization: Bearer <key>")
        return owner

    def owner_of(self, given: bytes) -> str | None:
        """The owner whose key this is; where none is asked for, everybody is the same one."""
        if not self._keys:
            return ""
        matches = [hmac.compare_digest(given, key) for key in self._keys]  # all of them, whichever matches
        return hashlib.sha256(given).hexdigest() if any(matches) else None

    def _visitor(self, headers: dict[bytes, bytes]) -> str | None:
        """Whose cookie it is. Browsers send it for pages of this site alone; where they say for which, it must be ours."""
        site = headers.get(b"sec-fetch-site", b"same-origin")
        origin, host = (headers.get(name, b"").decode("latin-1") for name in (b"origin", b"host"))
        if site != b"same-origin" or (b"origin" in headers and not same_host(origin, host)):
            return None
        return self._visits.owner(headers.get(b"cookie", b"").decode("latin-1"))

    def _check_media(self, headers: dict[bytes, bytes]) -> None:
        if headers.get(b"content-encoding", b"identity").strip().lower() != b"identity":
            raise UnsupportedMedia("compressed bodies are not accepted")
        if headers.get(b"content-length", b"0") == b"0" and b"transfer-encoding" not in headers:
            return  # there is no body
        kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if kind != b"application/json":
            raise UnsupportedMedia("Content-Type must be application/json")

    async def _read_body(self, headers: dict[bytes, bytes], receive: Receive, limit: int) -> bytes:
        declared = headers.get(b"content-length", b"0")
        if declared.isdigit() and int(declared[:20]) > limit:
            raise TooLarge(f"the body has {int(declared[:20]):,} bytes; the limit is {limit:,}")
        parts, size = [], 0
        try:
            async with asyncio.timeout(BODY_SECONDS):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _ClientGone
                    size += len(message.get("body", b""))
                    if size > limit:
                        raise TooLarge(f"the body has more than {limit:,} bytes, which is the limit")
                    parts.append(message.get("body", b""))
                    more = message.get("more_body", False)
        except TimeoutError:
            raise InvalidRequest(f"the body did not arrive within {BODY_SECONDS:.0f} seconds") from None
        return b"".join(parts)


class _ClientGone(Exception):
    """The client left while its body arrived; nobody waits for an answer."""


def is_open(path: str) -> bool:
    """Whether a path can be read without a key."""
    return path in OPEN_PATHS or any(path == page or path.startswith(f"{page}/") for page in PAGES)


def _headers(scope: Scope) -> dict[bytes, bytes]:
    """Headers by lower-case name. Raises InvalidRequest where one that decides something is there twice."""
    result: dict[bytes, bytes] = {}
    for raw, value in scope["headers"]:
        name = raw.lower()
        if name in result and name in _DECISIVE:
            raise InvalidRequest(f"header {name.decode('latin-1')} is there more than once")
        result[name] = value
    return result


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that hands out the body that was read, then what comes after it (a disconnect)."""
    sent = False

    async def replayed() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed
