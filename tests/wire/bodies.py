"""Bodies for every model that a client can send, made from the models themselves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from streambed.errors import InvalidRequest
from streambed.server import app  # noqa: F401 - so that every route has made its model
from streambed.server.playground import KeyRequest
from streambed.wire import CLIENT_EVENTS, EmbeddingsRequest, Strict, parse


def _below(model: type[Strict]) -> Iterator[type[Strict]]:
    for each in model.__subclasses__():
        yield each
        yield from _below(each)


MODELS = sorted({model for model in _below(Strict) if model.__name__[0] != "_"}, key=lambda model: model.__name__)
assert {*CLIENT_EVENTS.values(), KeyRequest} < set(MODELS)

Place = tuple[str | int, ...]


class Schemas:
    """A model's schema, and a body in which every field is given."""

    def __init__(self, model: type[Strict]) -> None:
        self._root = model.model_json_schema()
        self.body = self._value(self._root)
        self.places = list(self._places(self._root, ()))
        """Of every value in the body, with its schema and whether it must be given."""

    def _plain(self, schema: dict[str, Any]) -> dict[str, Any]:
        if "$ref" in schema:
            return self._root["$defs"][schema["$ref"].split("/")[-1]]  # type: ignore[no-any-return]
        branches = [each for each in schema.get("anyOf", ()) if each.get("type") != "null"]
        return self._plain(branches[-1]) if branches else schema

    def _value(self, schema: dict[str, Any]) -> Any:
        schema = self._plain(schema)
        if "enum" in schema or "const" in schema:
            return schema.get("const") or schema["enum"][0]
        match schema.get("type"):
            case "object":
                return {name: self._value(each) for name, each in schema["properties"].items()}
            case "array":
                return [self._value(schema["items"])] * 2
            case "integer":
                return schema.get("minimum", 0) + 2
            case "number":
                return schema.get("maximum", 2) / 2
            case "boolean":
                return True
        return "canary"

    def _places(self, schema: dict[str, Any], at: Place) -> Iterator[tuple[Place, dict[str, Any], bool]]:
        schema = self._plain(schema)
        for name, each in schema.get("properties", {}).items():
            yield (*at, name), self._plain(each), name in schema.get("required", ())
            yield from self._places(each, (*at, name))
        if schema.get("type") == "array":
            yield (*at, 1), self._plain(schema["items"]), True
            yield from self._places(schema["items"], (*at, 1))

    def objects(self) -> list[Place]:
        """Places of the objects in the body."""
        return [(), *(at for at, schema, _ in self.places if schema.get("type") == "object")]


SCHEMAS = {model: Schemas(model) for model in MODELS}


def name_of(at: Place) -> str:
    """As errors have it: `watch[1].id`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in at).removeprefix(".")


def value_at(body: Any, at: Place) -> Any:
    for part in at:
        body = body[part]
    return body


def changed(body: Any, at: Place, value: Any) -> Any:
    """A copy with another value at a place."""
    copy = json.loads(json.dumps(body))
    value_at(copy, at[:-1])[at[-1]] = value
    return copy


def without(body: Any, at: Place) -> Any:
    """A copy in which nothing is given at a place."""
    copy = json.loads(json.dumps(body))
    del value_at(copy, at[:-1])[at[-1]]
    return copy


GOOD = {"model": "m", "input": "a"}


def refused(body: bytes | dict[str, Any], model: Any = EmbeddingsRequest) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as error:
        parse(model, body if isinstance(body, bytes) else json.dumps(body).encode())
    assert error.value.__cause__ is None
    return error.value
