"""What a field takes, in words, from its JSON schema: the half of an error that helps."""

import functools
from typing import Any

from pydantic import BaseModel

Schema = dict[str, Any]

_ONE = {"string": "a string", "integer": "a whole number", "number": "a number", "boolean": "true or false"}
_MANY = {"string": "strings", "integer": "whole numbers", "number": "numbers", "object": "objects"}


@functools.cache
def schema_of(model: type[BaseModel]) -> Schema:
    """A model's JSON schema, without references and without `null`, which counts as not given."""
    root = model.model_json_schema()

    def plain(schema: Schema) -> Schema:
        if "$ref" in schema:
            return plain(root["$defs"][schema["$ref"].rpartition("/")[2]])
        branches = [plain(each) for each in schema.get("anyOf", ()) if each.get("type") != "null"]
        if branches:
            return branches[0] if len(branches) == 1 else {"anyOf": branches}
        parts = {"properties": {name: plain(each) for name, each in schema.get("properties", {}).items()}}
        return schema | parts | ({"items": plain(schema["items"])} if "items" in schema else {})

    return plain(root)


def find(model: type[BaseModel], loc: tuple[str | int, ...]) -> tuple[str, Schema]:
    """The field at pydantic's place in a model, such as `watch[0].id`, and its schema.

    In a union pydantic's place goes on with a branch, whose name is pydantic's own; then the union is the field.
    """
    where, schema = "", schema_of(model)
    for part in loc:
        if isinstance(part, int):
            where, schema = f"{where}[{part}]", schema["items"]
        elif part in schema.get("properties", ()):
            where, schema = f"{where}.{part}".removeprefix("."), schema["properties"][part]
        else:
            break
    return where, schema


def describe(schema: Schema) -> str:
    """Such as `a whole number of at least 1`."""
    if "anyOf" in schema:
        return _either([describe(each) for each in schema["anyOf"]])
    if "enum" in schema or "const" in schema:
        return _either([repr(each) for each in schema.get("enum") or [schema["const"]]])
    kind = schema.get("type", "object")
    match kind:
        case "array":
            bounds = _bounds(schema, "minItems", "maxItems")
            return f"a list of {bounds + ' ' if bounds else ''}{_MANY[schema['items'].get('type', 'object')]}"
        case "string" if bounds := _bounds(schema, "minLength", "maxLength"):
            return f"a string of {bounds} character{'' if bounds == 'at least 1' else 's'}"
        case "integer" | "number" if bounds := _bounds(schema, "minimum", "maximum"):
            return f"{_ONE[kind]} of {bounds}"
    return _ONE.get(kind, "an object")


def _bounds(schema: Schema, least: str, most: str) -> str:
    words = {least: "at least", "exclusiveMinimum": "more than", most: "at most"}
    return " and ".join(f"{words[name]} {schema[name]:,}" for name in words if name in schema)


def _either(choices: list[str]) -> str:
    *others, last = choices
    return f"{', '.join(others)} or {last}" if others else last
