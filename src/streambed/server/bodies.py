"""Bodies: JSON, of bounded size, in bounded time. Bytes are counted while they arrive."""

import asyncio
from dataclasses import dataclass

from starlette.types import Message, Receive, Scope, Send

from streambed.errors import InvalidRequest, TooLarge, UnsupportedMedia
from streambed.limits import BODY_SECONDS
from streambed.server.guard import brings_body
from streambed.server.layer import Layer
from streambed.server.routes import Row


@dataclass(eq=False)
class Bodies(Layer):
    """Reads the body, and hands it on whole."""

    limit: int

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if brings_body(scope):
            headers, row = scope["state"]["headers"], scope["state"]["row"]
            _check_media(headers)
            body = await _read(headers, receive, self._limit_of(row))
            if body is None:
                return  # the client has left
            receive = _replay(body, receive)
        await self.app(scope, receive, send)

    def _limit_of(self, row: Row | None) -> int:
        return min(self.limit, row.limit) if row is not None and row.limit is not None else self.limit


def _check_media(headers: dict[bytes, bytes]) -> None:
    if headers.get(b"content-encoding", b"identity").strip().lower() != b"identity":
        raise UnsupportedMedia("compressed bodies are not accepted")
    if headers.get(b"content-length", b"0") == b"0" and b"transfer-encoding" not in headers:
        return  # there is no body
    if headers.get(b"content-type", b"").partition(b";")[0].strip().lower() != b"application/json":
        raise UnsupportedMedia("Content-Type must be application/json")


async def _read(headers: dict[bytes, bytes], receive: Receive, limit: int) -> bytes | None:
    """The body; None where the client left while it arrived."""
    declared = headers.get(b"content-length", b"0")
    if declared.isdigit() and int(declared[:20]) > limit:
        raise TooLarge(f"the body has {int(declared[:20]):,} bytes; the limit is {limit:,}")
    body, more = bytearray(), True
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                body += message.get("body", b"")
                if len(body) > limit:
                    raise TooLarge(f"the body has more than {limit:,} bytes, which is the limit")
                more = message.get("more_body", False)
    except TimeoutError:
        raise InvalidRequest(f"the body did not arrive within {BODY_SECONDS:.0f} seconds") from None
    return bytes(body)


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
