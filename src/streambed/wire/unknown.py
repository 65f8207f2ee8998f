"""Fields that are not known: which one was probably meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection

_ELSEWHERE = {
    "input": ("inputs", "input_text", "text", "texts", "prompt", "content", "contents", "sentences", "documents"),
    "text": ("input", "input_text", "content", "delta"),
    "model": ("model_id", "model_name", "engine"),
    "dimensions": ("dim", "dims", "output_dimension", "output_dimensionality", "truncate_dim", "embedding_dim"),
    "encoding_format": ("encoding", "embedding_type", "embedding_types", "output_dtype", "precision"),
    "long_input": ("truncate", "truncation", "auto_truncate"),
    "instruction": ("task", "instruct", "task_description"),
    "input_type": ("task_type",),
    "timeout_ms": ("timeout",),
}
"""What other servers and libraries call our fields."""


def suggest(name: str, known: Collection[str]) -> str | None:
    """The field among those known that one with this name was probably meant to be."""
    plain = re.sub(r"(?<=[a-z])(?=[A-Z])|-", "_", name).lower()
    for field, words in _ELSEWHERE.items():
        if field in known and plain in words:
            return field
    return next(iter(difflib.get_close_matches(plain, known, 1, 0.7)), None)
