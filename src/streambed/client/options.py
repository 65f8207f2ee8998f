"""What the clients' calls take beside texts, checked before anything is sent and written as the wire has it."""

from collections.abc import Iterable, Mapping
from typing import Any, get_args

import orjson

from streambed.arguments import as_integer, check_choice, describe
from streambed.errors import InvalidRequest
from streambed.text.strings import check_text, check_ways
from streambed.wire import Emit, SessionOptions, validate

LONG_INPUT = (None, "merge", "truncate", "error")
PRIORITY = (None, "query", "bulk")
EMPTY = ("error", "null")
_OVERFLOW = (None, "error", "segment")
_EMIT = get_args(Emit.model_fields["on"].annotation)


def shape(
    instruction: str | None,
    prompt_name: str | None,
    input_type: str | None,
    dimensions: int | None,
    reducer: str | None,
) -> dict[str, Any]:
    """What every request for vectors may say; None is left out. Raises InvalidRequest."""
    check_ways(instruction, prompt_name, input_type)
    if reducer is not None:
        check_text(reducer, "reducer")
    options = {
        "instruction": instruction,
        "prompt_name": prompt_name,
        "input_type": input_type,
        "dimensions": None if dimensions is None else as_integer("dimensions", dimensions),
        "reducer": reducer,
    }
    return {name: value for name, value in options.items() if value is not None}


def stream(
    overflow: str | None, emit: str | Mapping[str, Any] | None, watch: Iterable[Mapping[str, Any]] | None
) -> dict[str, Any]:
    """What a stream may say beside that. Raises InvalidRequest."""
    check_choice("overflow", overflow, _OVERFLOW)
    options: dict[str, Any] = {} if overflow is None else {"overflow": overflow}
    if isinstance(emit, str):
        check_choice("emit", emit, _EMIT)
        options["emit"] = {"on": emit}
    elif isinstance(emit, Mapping):
        options["emit"] = dict(emit)
    elif emit is not None:
        raise InvalidRequest(f"emit is {describe(emit)}; a word such as 'append' or a dict is expected", "emit")
    if watch is not None:
        options["watch"] = _list(watch)
    try:
        # As it travels, so that NumPy's numbers and arrays are checked as what they become.
        plain: dict[str, Any] = orjson.loads(orjson.dumps(options, option=orjson.OPT_SERIALIZE_NUMPY))
    except TypeError as error:
        names = " or ".join(name for name in ("emit", "watch") if name in options)
        raise InvalidRequest(f"{names} cannot be written as JSON: {error}", names.split()[0]) from None
    for index, each in enumerate(validate(SessionOptions, plain).watch):
        if (each.text is None) == (each.embedding is None):
            raise InvalidRequest(f"watch[{index}]: give text or embedding, one of them", f"watch[{index}]")
    return plain


def _list(watch: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    expected = "a list of dicts with id, threshold, and text or embedding is expected"
    if isinstance(watch, str | bytes | Mapping) or not isinstance(watch, Iterable):
        raise InvalidRequest(f"watch is {describe(watch)}; {expected}", "watch")
    entries = list(watch)
    for index, entry in enumerate(entries):
        if not isinstance(entry, Mapping):
            raise InvalidRequest(f"watch[{index}] is {describe(entry)}; {expected}", f"watch[{index}]")
    return [dict(entry) for entry in entries]
