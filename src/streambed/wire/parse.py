"""From JSON to requests and events.

Errors name the field and say what it takes. None repeats a value, which may be a secret.
"""

from __future__ import annotations

from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from streambed.errors import InvalidRequest
from streambed.wire.events import CLIENT_EVENTS, ClientEvent
from streambed.wire.expected import describe, find
from streambed.wire.unknown import suggest

Body = TypeVar("Body", bound=BaseModel)

MAX_NAME = 64
"""Characters of a name that a client chose, of which so much is repeated."""


def parse_object(body: str | bytes, what: str = "the body") -> dict[str, Any]:
    """A JSON object. Raises InvalidRequest."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"{what} is not valid JSON: {error.msg} at byte {error.pos}") from None
    if not isinstance(value, dict):
        raise InvalidRequest(f"{what} is not a JSON object")
    return value


def parse(model: type[Body], body: bytes, ignored: list[str] | None = None) -> Body:
    """Reads a JSON body.

    ignored: where names of fields that are not known go; without it they are refused.

    Raises:
        InvalidRequest: names the field.
    """
    return validate(model, parse_object(body), ignored)


def parse_event(value: dict[str, Any], ignored: list[str] | None = None) -> ClientEvent:
    """A client's event. Arguments and errors as of `parse`."""
    kind = value.get("type")
    if not isinstance(kind, str):
        raise InvalidRequest("type is missing" if kind is None else "type is not a string", "type")
    if kind not in CLIENT_EVENTS:
        raise InvalidRequest(f"unknown event type {kind[:MAX_NAME]!r}", "type")
    return validate(CLIENT_EVENTS[kind], value, ignored)


def validate(model: type[Body], value: dict[str, Any], ignored: list[str] | None = None) -> Body:
    """The object as what it should be. Arguments and errors as of `parse`; what is ignored is taken out of `value`."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        errors = error.errors(include_input=False, include_context=False, include_url=False)
    unknown = [each["loc"] for each in errors if each["type"] == "extra_forbidden"]
    if not unknown:
        raise _wrong(model, errors[0])
    if ignored is None:
        raise _unknown(model, unknown[0])
    for loc in unknown:
        ignored.append(_name(model, loc))
        parent: Any = value
        for part in loc[:-1]:
            parent = parent[part]
        del parent[loc[-1]]
    return validate(model, value)


def _wrong(model: type[BaseModel], error: ErrorDetails) -> InvalidRequest:
    where, schema = find(model, error["loc"])
    if error["type"] == "missing":
        return InvalidRequest(f"{where} is missing", where)
    return InvalidRequest(f"{where}: {describe(schema)} is expected", where)


def _unknown(model: type[BaseModel], loc: tuple[str | int, ...]) -> InvalidRequest:
    name, meant = _name(model, loc), suggest(str(loc[-1])[:MAX_NAME], find(model, loc[:-1])[1]["properties"])
    return InvalidRequest(f"unknown field {name!r}" + (f"; did you mean {meant!r}?" if meant else ""), name)


def _name(model: type[BaseModel], loc: tuple[str | int, ...]) -> str:
    return f"{find(model, loc[:-1])[0]}.{str(loc[-1])[:MAX_NAME]}".removeprefix(".")
