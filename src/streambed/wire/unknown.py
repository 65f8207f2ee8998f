"""Fields that are not known: where they stand, and which one was probably meant."""

import difflib
import re
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

from streambed.wire.expected import Schema

_ELSEWHERE = {
    "input": ("inputs", "input_text", "text", "texts", "prompt", "content", "contents", "sentences", "documents"),
    "text": ("input", "input_text", "content", "delta"),
    "prompt": ("input", "inputs", "text"),
    "model": ("model_id", "model_name", "engine"),
    "dimensions": ("dim", "dims", "output_dimension", "output_dimensionality", "truncate_dim", "embedding_dim"),
    "encoding_format": ("encoding", "embedding_type", "embedding_types", "output_dtype", "precision"),
    "long_input": ("truncate", "truncation", "auto_truncate"),
    "instruction": ("task", "instruct", "task_description"),
    "input_type": ("task_type",),
    "timeout_ms": ("timeout",),
    "api_key": ("key", "token"),
}
"""What other servers and libraries call our fields."""
MAX_NAME = 64
"""How many characters of a client's field name an error repeats."""


class Unknown(NamedTuple):
    """A field of a JSON object, in whatever it is nested, that its schema does not have."""

    name: str
    parent: dict[str, Any]
    schema: Schema
    """The parent's schema."""
    inside: str
    """The parent's place, such as `watch[0].`"""

    @property
    def where(self) -> str:
        return self.inside + self.name[:MAX_NAME]

    @property
    def meant(self) -> str | None:
        """The field that was probably meant."""
        return _suggest(self.name[:MAX_NAME], self.schema["properties"])


def find_unknown(schema: Schema, value: Any, inside: str = "") -> Iterator[Unknown]:
    """Lazily, so that a caller who needs only the first does not pay for all."""
    if not isinstance(value, dict):
        return
    known, is_closed = schema["properties"], schema.get("additionalProperties") is False
    for name in value:
        if name not in known:
            if is_closed:
                yield Unknown(name, value, schema, inside)
        elif known[name].get("properties"):
            yield from find_unknown(known[name], value[name], f"{inside}{name}.")
        elif isinstance(value[name], list) and known[name].get("items", {}).get("properties"):
            for index, item in enumerate(value[name]):
                yield from find_unknown(known[name]["items"], item, f"{inside}{name}[{index}].")


def _suggest(name: str, known: Collection[str]) -> str | None:
    plain = re.sub(r"(?<=[a-z])(?=[A-Z])|-", "_", name).lower()
    for field, words in _ELSEWHERE.items():
        if field in known and plain in words:
            return field
    return next(iter(difflib.get_close_matches(plain, known, 1, 0.7)), None)
