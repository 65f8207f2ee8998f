"""The answer to a request that ends in an error of the table."""

from __future__ import annotations

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from streambed.errors import RequestError, TooLarge, Unauthorized
from streambed.wire import error_body


def note(scope: Scope, error: RequestError) -> None:
    """Says how a request ends, for whoever counts (`server/access.py`)."""
    scope.setdefault("state", {})["error"] = error


async def refuse(error: RequestError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answers a request with an error."""
    note(scope, error)
    await error_response(error)(scope, receive, send)


def error_response(error: RequestError, status: int | None = None) -> Response:
    """The answer. status: instead of the error's own."""
    headers = {}
    if error.retryable:
        headers["Retry-After"] = "1"
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, TooLarge):
        headers["Connection"] = "close"  # the rest of the body is not read
    body = orjson.dumps(error_body(error))
    return Response(body, status or error.status, headers, media_type="application/json")
