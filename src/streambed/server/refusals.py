"""The answer to a request that ends in an error of the table: ours, or that of the server whose route it is."""

from __future__ import annotations

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from streambed.errors import RequestError, TooLarge, Unauthorized
from streambed.server.dropin import dialect_of
from streambed.server.proxy import route_path
from streambed.wire import error_body


def note(scope: Scope, error: RequestError) -> None:
    """Says how a request ends, for whoever counts (`server/access.py`)."""
    scope.setdefault("state", {})["error"] = error


async def refuse(error: RequestError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answers a request with an error."""
    note(scope, error)
    await error_response(error, path=route_path(scope))(scope, receive, send)


def error_response(error: RequestError, status: int | None = None, path: str = "") -> Response:
    """The answer. status: instead of the error's own. path: of the route, without any prefix."""
    headers = {}
    if error.retryable:
        headers["Retry-After"] = "1"
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, TooLarge):
        headers["Connection"] = "close"  # the rest of the body is not read
    dialect = dialect_of(path)
    theirs, body = dialect(error) if dialect else (error.status, error_body(error))
    return Response(orjson.dumps(body), status or theirs, headers, media_type="application/json")
