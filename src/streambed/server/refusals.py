"""The answer to a request that ends in an error of the table: ours, or that of the server whose route it is."""

from __future__ import annotations

import asyncio

import orjson
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from streambed.errors import RequestError, TooLarge, Unauthorized
from streambed.server.dropin import dialect_of
from streambed.server.proxy import route_path
from streambed.wire import error_body

LINGER_SECONDS = 10.0
IDLE_SECONDS = 0.5
"""How long, and how long without a byte, a client may go on to send what is too large."""


def note(scope: Scope, error: RequestError) -> None:
    """Says how a request ends, for whoever counts (`server/access.py`)."""
    scope.setdefault("state", {})["error"] = error


async def refuse(error: RequestError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answers a request with an error, whose body may still be on its way."""
    note(scope, error)

    async def linger(message: Message) -> None:
        if message["type"] == "http.response.body":
            await send({**message, "more_body": True})
            await _drop_body(receive)
            message = {"type": "http.response.body"}
        await send(message)

    respond = error_response(error, path=route_path(scope))
    await respond(scope, receive, linger if isinstance(error, TooLarge) else send)


async def _drop_body(receive: Receive) -> None:
    """Reads on for a while. To close with bytes unread resets the connection, and the answer is lost with it to proxies and
    to clients that send all before they read."""
    try:
        async with asyncio.timeout(LINGER_SECONDS):
            more = True
            while more:
                message = await asyncio.wait_for(receive(), IDLE_SECONDS)
                more = message["type"] == "http.request" and message.get("more_body", False)
    except TimeoutError:
        return


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
