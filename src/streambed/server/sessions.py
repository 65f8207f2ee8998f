"""`/v1/sessions`: the same streams for clients without a WebSocket, one request for one event."""

import asyncio
import time
from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from streambed.errors import DeadlineExceeded
from streambed.server.embeddings import GRACE_SECONDS
from streambed.server.ignored import Body, parse_body
from streambed.server.replies import Json
from streambed.settings import Settings
from streambed.streams.registry import Registry
from streambed.wire import (
    AppendRequest,
    EmbeddingCreate,
    EmbeddingRequest,
    ErrorEvent,
    InputTextAppend,
    InputTextSet,
    ServerEvent,
    SessionCreated,
    SessionOptions,
    SetRequest,
    dump,
    error_of,
)


class Asker:
    """One request: the `Peer` that hears one answer."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[ServerEvent] = asyncio.get_running_loop().create_future()

    def send(self, event: ServerEvent, slot: str | None = None) -> None:
        if not self.answer.done():
            self.answer.set_result(event)


class Sessions:
    """The handlers."""

    def __init__(self, registry: Registry, settings: Settings) -> None:
        self._registry = registry
        self._settings = settings

    async def create(self, request: Request) -> Response:
        """Opens a session. It lives while a socket holds it, or for the time to live after each change or embedding."""
        stream = await self._registry.create(request.state.owner, await _parse(SessionOptions, request))
        return _reply(stream.report(SessionCreated), 201)

    async def list(self, request: Request) -> Response:
        """Lists the sessions of this key."""
        return Json({"object": "list", "data": [stream.state() for stream in self._registry.of(request.state.owner)]})

    async def get(self, request: Request) -> Response:
        """Reports the state of a session: where an append must start, and its revision. Does not prolong its life."""
        return Json(self._registry.find(request.state.owner, request.path_params["session"]).state())

    async def delete(self, request: Request) -> Response:
        """Ends a session. Its text is erased before the answer, or as soon as the journal can be written."""
        stream = self._registry.find(request.state.owner, request.path_params["session"])
        asker = Asker()
        await self._registry.close(stream, asker)
        return _reply(await asker.answer)

    async def append(self, request: Request) -> Response:
        """Adds text at the end."""
        return await self._change(request, InputTextAppend, AppendRequest)

    async def set(self, request: Request) -> Response:
        """Makes this the whole text."""
        return await self._change(request, InputTextSet, SetRequest)

    async def embed(self, request: Request) -> Response:
        """Returns the embedding of the present text."""
        asked = await _parse(EmbeddingRequest, request)
        session = request.path_params["session"]
        timeout = asked.timeout_ms / 1000 if asked.timeout_ms else self._settings.timeout
        return await self._ask(request, EmbeddingCreate.model_construct(session=session), timeout)

    async def _change(self, request: Request, kind: Any, body: type[AppendRequest | SetRequest]) -> Response:
        asked = await _parse(body, request)
        event = kind.model_construct(session=request.path_params["session"], **asked.model_dump())
        return await self._ask(request, event, self._settings.timeout)

    async def _ask(self, request: Request, event: Any, timeout: float) -> Response:
        stream = self._registry.find(request.state.owner, event.session)
        asker = Asker()
        stream.receive(event, asker, timeout)
        try:
            async with asyncio.timeout(timeout + GRACE_SECONDS):
                answer = await asker.answer
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed before the session could answer") from None
        finally:
            stream.touched = time.monotonic()
        return _reply(answer)


async def _parse(model: type[Body], request: Request) -> Body:
    return parse_body(model, request, await request.body() or b"{}")


def _reply(event: ServerEvent, status: int = 200) -> Response:
    """An event as a reply; an error as what it would be anywhere else."""
    if isinstance(event, ErrorEvent):
        raise error_of(asdict(event))
    return Json(dump(event), status)
