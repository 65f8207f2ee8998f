"""From JSON to requests and events.

Errors name the field and say what it takes. No error repeats a value, which may be a secret.
"""

import codecs
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ValidationError

from streambed.errors import InvalidRequest
from streambed.wire.events import CLIENT_EVENTS, ClientEvent
from streambed.wire.expected import describe, find, schema_of
from streambed.wire.unknown import MAX_NAME, find_unknown

Body = TypeVar("Body", bound=BaseModel)


def parse_object(body: str | bytes, what: str = "the body") -> dict[str, Any]:
    """A JSON object, whether or not a byte order mark stands before it. Raises InvalidRequest."""
    plain = body.removeprefix("\ufeff") if isinstance(body, str) else body.removeprefix(codecs.BOM_UTF8)
    try:
        value = orjson.loads(plain)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"{what} is not valid JSON: {error.msg} at byte {error.pos}") from None
    if not isinstance(value, dict):
        raise InvalidRequest(f"{what} is not a JSON object")
    return value


def parse(model: type[Body], body: bytes, ignored: list[str] | None = None) -> Body:
    """Reads a JSON body.

    ignored: unknown fields are dropped and their names added to this list; without it they are refused.

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
    """The object as an instance of `model`. Arguments and errors as of `parse`; what is ignored is taken out of
    `value`."""
    unknown = find_unknown(schema_of(model), value)
    if ignored is None:
        for field in unknown:
            meant = f"; did you mean {field.meant!r}?" if field.meant else ""
            raise InvalidRequest(f"unknown field {field.where!r}{meant}", field.where)
    else:
        for field in list(unknown):
            ignored.append(field.where)
            del field.parent[field.name]
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_input=False, include_context=False, include_url=False)[0]
    where, schema = find(model, first["loc"])
    problem = " is missing" if first["type"] == "missing" else f": {describe(schema)} is expected"
    raise InvalidRequest(where + problem, where)
