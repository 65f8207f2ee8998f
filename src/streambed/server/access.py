"""Around everything: request ids, one log line and one count for each request."""

from __future__ import annotations

import logging
import re
import secrets
import time

from starlette.requests import HTTPConnection
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from streambed.errors import Internal, InvalidRequest
from streambed.server.directions import template_of
from streambed.server.metrics import NO_LANE, OTHER, Metrics, lanes_of

logger = logging.getLogger("streambed.access")

HEADER = b"x-request-id"
_ID = re.compile(rb"[A-Za-z0-9._:+/=-]{1,128}")
_METHODS = frozenset({"WEBSOCKET", "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})
_QUIET = frozenset({"/livez", "/readyz", "/health", "/metrics"})
"""Asked every few seconds by machines; counted, and logged only where they fail."""


class Access:
    """Middleware. Takes `X-Request-Id` from the client or makes one, and sends it back; it is in the log, and nothing else
    of the request is but its route, how it ended and how long it took."""

    def __init__(self, app: ASGIApp, routes: list[BaseRoute], metrics: Metrics) -> None:
        self._app = app
        self._routes = routes
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        state = scope.setdefault("state", {})
        state["request_id"] = request_id.decode()
        status: int | None = None

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] in ("http.response.start", "websocket.http.response.start", "websocket.accept"):
                status = message.get("status", 101)
                message = {**message, "headers": [*message.get("headers", []), (HEADER, request_id)]}
            await send(message)

        started, asked = time.monotonic(), dict(scope)  # a mount changes the path while it answers
        is_http = scope["type"] == "http"
        if is_http:
            self._metrics.in_progress.inc()
        try:
            await self._app(scope, receive, answer)
        finally:
            if is_http:
                self._metrics.in_progress.dec()
            self._tell(scope, self._route(scope, asked), status, time.monotonic() - started)

    def _tell(self, scope: Scope, route: str, status: int | None, seconds: float) -> None:
        state = scope["state"]
        error = state.get("error")
        outcome = "ok" if error is None else error.outcome
        if error is None and (status or 0) >= 400:  # of the page's files
            outcome = InvalidRequest.code if (status or 0) < 500 else Internal.code
        method = state.get("method") or scope.get("method", "WEBSOCKET")
        if status in (None, 499):  # nobody was there to hear it
            outcome = "cancelled"
        lane = "stream" if scope["type"] == "websocket" else state.get("lane") or lanes_of(route)[0]
        if scope["type"] == "http":
            self._metrics.request(route, lane, outcome)
        if route in _QUIET and outcome == "ok":
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
                "request_id": state["request_id"],
            },
        )

    def _route(self, scope: Scope, asked: Scope) -> str:
        """The template that routing found, or would have; never the path, which clients choose."""
        found = scope.get("route") or next(
            (each for each in self._routes if each.matches(asked)[0] is Match.FULL), None
        )
        return OTHER if found is None else template_of(found)


def _request_id(scope: Scope) -> bytes:
    given = HTTPConnection(scope).headers.get(HEADER.decode(), "").encode("latin-1")
    return given if _ID.fullmatch(given) else secrets.token_hex(8).encode()
