"""Replies: JSON, and the answer to what ends in an error of the table, ours or that of the server whose route it is."""

import asyncio
import http
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import orjson
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from streambed.errors import RequestError, Unauthorized
from streambed.limits import MAX_LINGERING
from streambed.wire import error_body

Dialect = Callable[[RequestError], tuple[int, dict[str, Any]]]
"""How another server says errors: status and body."""
LINGER_SECONDS = 10.0
MOST_SECONDS = 600
"""That `Retry-After` says."""
DROP_SECONDS = 0.02
"""Between two pieces of it: to read what is refused must not keep the loop from what is not."""
IDLE_SECONDS = 0.5
"""Seconds in all, and seconds without a byte, for which the rest of a body that is too large is read and dropped."""


class Json(Response):
    """A value as JSON, arrays of NumPy included; bytes are JSON already."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return content if isinstance(content, bytes) else orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)


def note(scope: Scope, error: RequestError) -> None:
    """Says how a request ends, for whoever counts (`server/access.py`)."""
    scope.setdefault("state", {})["error"] = error


async def refuse(
    error: RequestError, scope: Scope, receive: Receive, send: Send, lingering: Counter[str] | None = None
) -> None:
    """Answers a request, whose body may still be on its way, or a handshake with an error. lingering: of each owner, for how
    many requests the rest of the body is being read."""
    note(scope, error)
    if scope["type"] == "websocket":
        await WebSocket(scope, receive, send).send_denial_response(error_response(error))
        return

    lingering = Counter() if lingering is None else lingering
    owner = scope["state"].get("owner", "")

    async def linger(message: Message) -> None:
        if message["type"] == "http.response.body":
            await send({**message, "more_body": True})
            lingering[owner] += 1
            try:
                await _drop_body(receive)
            finally:
                lingering[owner] -= 1
            message = {"type": "http.response.body"}
        await send(message)

    respond = error_response(error, dialect=dialect_of(scope))
    await respond(scope, receive, linger if error.closes and lingering[owner] < MAX_LINGERING else send)


async def _drop_body(receive: Receive) -> None:
    """Reads on for a while. To close with bytes unread resets the connection, and the answer is lost with it to proxies and
    to clients that send all before they read."""
    try:
        async with asyncio.timeout(LINGER_SECONDS):
            more = True
            while more:
                message = await asyncio.wait_for(receive(), IDLE_SECONDS)
                more = message["type"] == "http.request" and message.get("more_body", False)
                await asyncio.sleep(DROP_SECONDS)
    except TimeoutError:
        return


def write_error(error: RequestError) -> bytes:
    """The answer as it goes over the wire, for requests that nothing else can answer. The connection ends with it."""
    response = error_response(error)
    names = dict(response.raw_headers) | {b"connection": b"close"}
    head = b"".join(b"%b: %b\r\n" % header for header in names.items())
    phrase = http.HTTPStatus(error.status).phrase.encode()
    return b"HTTP/1.1 %d %b\r\n%b\r\n%b" % (error.status, phrase, head, bytes(response.body))


def dialect_of(scope: Scope) -> Dialect | None:
    """How the route of a request says errors, where it is another server's."""
    row = scope["state"]["row"]
    return None if row is None else row.dialect


def error_response(error: RequestError, status: int | None = None, dialect: Dialect | None = None) -> Response:
    """The answer. status: instead of the error's own."""
    headers = {}
    if error.retryable:
        headers["Retry-After"] = str(min(max(math.ceil(error.retry_after or 1), 1), MOST_SECONDS))
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    if error.closes:
        headers["Connection"] = "close"
    theirs, body = dialect(error) if dialect else (error.status, error_body(error))
    return Json(body, status or theirs, headers)
