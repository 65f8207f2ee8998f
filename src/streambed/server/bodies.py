"""Bodies: JSON, of bounded size and structure, in bounded time and within a budget of bytes for all. All of it is counted
while they arrive, before anything is parsed."""

import asyncio
from dataclasses import dataclass

from starlette.types import Message, Receive, Scope, Send

from streambed.errors import InvalidRequest, RequestError, TooLarge, UnsupportedMedia
from streambed.limits import BODY_SECONDS
from streambed.server.allowance import Allowance, Share
from streambed.server.guard import brings_body
from streambed.server.layer import Layer
from streambed.server.pace import Pace
from streambed.server.routes import Row
from streambed.wire.structure import Structure

REQUEST_SECONDS, BYTES_PER_SECOND = 0.0005, 200e6
"""What a request, and its bytes, take of the event loop, by and large: most of that is done before anybody sees them."""


@dataclass(eq=False)
class Bodies(Layer):
    """Reads the body, and hands it on whole."""

    limit: int
    memory: Allowance
    """Of all bodies that are arriving or being worked on."""
    pace: Pace

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not brings_body(scope):
            await self.app(scope, receive, send)
            return
        headers, row = scope["state"]["headers"], scope["state"]["row"]
        _check_media(headers)
        with self.memory.open(scope["state"].get("owner")) as share:
            body = await self._read(headers, receive, self._limit_of(row), share)
            if body is not None:  # else the client has left
                await self.app(scope, _replay(body, receive), send)

    async def _read(self, headers: dict[bytes, bytes], receive: Receive, limit: int, share: Share) -> bytes | None:
        """The body; None where the client left while it arrived."""
        structure = Structure()
        declared = headers.get(b"content-length", b"0")
        if declared.isdigit() and int(declared[:20]) > limit:
            raise TooLarge(f"the body has {int(declared[:20]):,} bytes; the limit is {limit:,}")
        parts: list[bytes] = []  # to grow one piece would copy it again and again
        size, more = 0, True
        try:
            async with asyncio.timeout(BODY_SECONDS):
                self.pace.spend(share.owner, REQUEST_SECONDS)
                while more:
                    if wait := self.pace.wait(share.owner):
                        await asyncio.sleep(wait)
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    part = message.get("body", b"")
                    size += len(part)
                    if size > limit:
                        raise TooLarge(f"the body has more than {limit:,} bytes, which is the limit")
                    share.take(len(part))
                    self.pace.spend(share.owner, len(part) / BYTES_PER_SECOND)
                    structure.feed(part)
                    parts.append(part)
                    more = message.get("more_body", False)
        except TimeoutError:
            parts.clear()
            raise InvalidRequest(f"the body did not arrive within {BODY_SECONDS:.0f} seconds") from None
        except RequestError as error:
            parts.clear()  # the error would keep them alive while the rest is dropped
            error.closes = True
            raise
        return b"".join(parts)

    def _limit_of(self, row: Row | None) -> int:
        return min(self.limit, row.limit) if row is not None and row.limit is not None else self.limit


def _check_media(headers: dict[bytes, bytes]) -> None:
    if headers.get(b"content-encoding", b"identity").strip().lower() != b"identity":
        raise UnsupportedMedia("compressed bodies are not accepted")
    if headers.get(b"content-length", b"0") == b"0" and b"transfer-encoding" not in headers:
        return  # there is no body
    if headers.get(b"content-type", b"").partition(b";")[0].strip().lower() != b"application/json":
        raise UnsupportedMedia("Content-Type must be application/json")


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
