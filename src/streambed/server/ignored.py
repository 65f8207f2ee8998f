"""`--ignore-unknown-fields`: bodies are read without the fields that nobody here knows, and replies name them."""

import re
from typing import TypeVar

from pydantic import BaseModel
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from streambed.server.layer import Layer
from streambed.wire import parse

Body = TypeVar("Body", bound=BaseModel)

HEADER = "X-Ignored-Fields"
_MOST = 8
_CHARACTERS = 64


class IgnoredFields(Layer):
    """Names in `X-Ignored-Fields` what `parse_body` has left out of a request. Clients choose the names, so a
    few are given, shortened and in plain characters, and the rest is counted."""

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        names: list[str] = []
        scope["state"]["ignored"] = names

        async def answer(message: Message) -> None:
            if names and message["type"] == "http.response.start":
                message = {
                    **message,
                    "headers": [*message.get("headers", []), (HEADER.lower().encode(), _value(names))],
                }
            await send(message)

        await self.app(scope, receive, answer)


def parse_body(model: type[Body], request: Request, body: bytes) -> Body:
    """A request's JSON body. Raises InvalidRequest as `parse` does."""
    return parse(model, body, getattr(request.state, "ignored", None))


def _value(names: list[str]) -> bytes:
    shown = [re.sub(r"[^ -+\--~]", "?", name[:_CHARACTERS]) for name in names[:_MOST]]
    more = [f"and {len(names) - _MOST} more"] if len(names) > _MOST else []
    return ", ".join(shown + more).encode()
