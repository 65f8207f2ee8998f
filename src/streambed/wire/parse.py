"""From JSON to requests and events."""

from __future__ import annotations

from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ValidationError

from streambed.errors import InvalidRequest
from streambed.wire.events import CLIENT_EVENTS, ClientEvent

Body = TypeVar("Body", bound=BaseModel)


def parse_object(body: str | bytes, what: str = "the body") -> dict[str, Any]:
    """A JSON object. Raises InvalidRequest."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"{what} is not valid JSON: {error.msg} at byte {error.pos}") from None
    if not isinstance(value, dict):
        raise InvalidRequest(f"{what} is not a JSON object")
    return value


def parse(model: type[Body], body: bytes) -> Body:
    """Reads a JSON body. Raises InvalidRequest, which names the field and never repeats the value."""
    return validate(model, parse_object(body))


def parse_event(value: dict[str, Any]) -> ClientEvent:
    """A client's event. Raises InvalidRequest as `parse` does."""
    kind = value.get("type")
    if not isinstance(kind, str):
        raise InvalidRequest("type is missing" if kind is None else "type is not a string", "type")
    if kind not in CLIENT_EVENTS:
        raise InvalidRequest(f"unknown event type {kind[:64]!r}", "type")
    return validate(CLIENT_EVENTS[kind], value)


def validate(model: type[Body], value: dict[str, Any]) -> Body:
    """The object as what it should be. Raises InvalidRequest as `parse` does."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_input=False, include_context=False, include_url=False)[0]
        # A client chooses the names of unknown fields, so only so much of one is repeated.
        parts = (f"[{part}]" if isinstance(part, int) else f".{part[:64]}" for part in first["loc"])
        where = "".join(parts).removeprefix(".")
        if first["type"] == "extra_forbidden":
            raise InvalidRequest(f"unknown field {where!r}", where) from None
        if first["type"] == "missing":
            raise InvalidRequest(f"{where} is missing", where) from None
        if first["type"] in ("model_type", "model_attributes_type", "dict_type"):
            raise InvalidRequest(f"{where} is not an object", where) from None
        message = first["msg"]
        raise InvalidRequest(f"{where}: {message[0].lower()}{message[1:]}", where) from None
