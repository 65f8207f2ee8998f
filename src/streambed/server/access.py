"""Around everything: request ids, one log line and one count for each request."""

import logging
import re
import secrets
import time
from dataclasses import dataclass

from starlette.requests import HTTPConnection
from starlette.types import Message, Receive, Scope, Send

from streambed.errors import Internal, InvalidRequest
from streambed.server.keyring import Key
from streambed.server.layer import Layer
from streambed.server.metrics import NO_LANE, OTHER, Metrics
from streambed.server.proxy import route_path
from streambed.server.routes import WEBSOCKET, Routes, Row
from streambed.server.usage import Usage

logger = logging.getLogger("streambed.access")

HEADER = b"x-request-id"
_ID = re.compile(rb"[A-Za-z0-9._:+/=-]{1,128}")
_METHODS = frozenset({WEBSOCKET, "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})


@dataclass(eq=False)
class Access(Layer):
    """Takes `X-Request-Id` from the client or makes one, and sends it back; it is in the log, and nothing else of the
    request is but its route, how it ended and how long it took.

    Finds the route. Sets in the scope's state `path`, without any prefix, and `row`, for all that stands inside.
    """

    routes: Routes
    metrics: Metrics
    usage: Usage

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = _request_id(scope)
        state = scope.setdefault("state", {})
        state["request_id"] = request_id.decode()
        state["path"] = route_path(scope)
        state["row"] = self.routes.find(scope.get("method", WEBSOCKET), state["path"])
        status: int | None = None

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] in ("http.response.start", "websocket.http.response.start", "websocket.accept"):
                status = message.get("status", 101)
                message = {**message, "headers": [*message.get("headers", []), (HEADER, request_id)]}
            await send(message)

        started = time.monotonic()
        is_http = scope["type"] == "http"
        if is_http:
            self.metrics.in_progress.inc()
        try:
            await self.app(scope, receive, answer)
        finally:
            if is_http:
                self.metrics.in_progress.dec()
            self._tell(scope, status, time.monotonic() - started)

    def _tell(self, scope: Scope, status: int | None, seconds: float) -> None:
        state = scope["state"]
        row, error = _row(scope), state.get("error")
        route, lane = (OTHER, NO_LANE) if row is None else (row.template, row.lanes[0])
        outcome = "ok" if error is None else error.outcome
        if error is None and (status or 0) >= 400:  # of the page's files
            outcome = InvalidRequest.code if (status or 0) < 500 else Internal.code
        method = state.get("method") or scope.get("method", WEBSOCKET)
        if status in (None, 499):  # the client had left
            outcome = "cancelled"
        lane = "stream" if scope["type"] == "websocket" else state.get("lane") or lane
        key: Key | None = state.get("key")
        if scope["type"] == "http":
            self.metrics.request(route, lane, outcome)
            if key is not None:
                self.usage.end(key, "ok" if outcome == "ok" else "refused" if status == 429 else "failed")
        if row is not None and row.quiet and outcome == "ok":
            return
        logger.info(
            "%s %s",
            method if method in _METHODS else OTHER,  # clients may choose what they like
            route,
            extra={
                "status": status,
                "outcome": outcome,
                "lane": None if lane == NO_LANE else lane,
                "ms": round(1000 * seconds, 2),
                "key": None if key is None or not key.name else key.name,
                "request_id": state["request_id"],
            },
        )


def _row(scope: Scope) -> Row | None:
    """The row that answered, or would have; one for other methods, if the request came as far as to hear so."""
    row: Row | None = scope["state"]["row"]
    takes = row is not None and (row.takes(scope.get("method", WEBSOCKET)) or "route" in scope)
    return row if takes else None


def _request_id(scope: Scope) -> bytes:
    given = HTTPConnection(scope).headers.get(HEADER.decode(), "").encode("latin-1")
    return given if _ID.fullmatch(given) else secrets.token_hex(8).encode()
