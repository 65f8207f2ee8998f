"""Texts from files and standard input, for the commands that take many."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import click

from streambed.errors import InvalidRequest

BATCH = 256
"""Texts taken at a time: enough for full steps, little to hold in memory."""


class Item(NamedTuple):
    """A text, the id that came with it, and where it stood."""

    text: str
    id: Any
    where: str


def read(inputs: Iterable[str], field: str) -> Iterator[Item]:
    """One text a line, or the `field` of JSON lines in files named so; `-` is standard input. Raises InvalidRequest,
    ClickException."""
    import orjson

    for name in inputs:
        try:
            with click.open_file(name, "rb") as file:
                for number, raw in enumerate(file, 1):
                    where = f"{name}:{number}"
                    line = raw.rstrip(b"\r\n")
                    if not line:
                        continue
                    try:
                        text = line.decode()
                    except UnicodeDecodeError:
                        raise InvalidRequest(f"{where}: not UTF-8") from None
                    if name.endswith(".jsonl"):
                        try:
                            value = orjson.loads(line)
                        except orjson.JSONDecodeError as error:
                            raise InvalidRequest(f"{where}: not valid JSON: {error.msg}") from None
                        if not isinstance(value, dict) or not isinstance(value.get(field), str):
                            raise InvalidRequest(f"{where}: no string in field {field!r}")
                        yield Item(value[field], value.get("id"), where)
                    else:
                        yield Item(text, None, where)
        except OSError as error:
            raise click.ClickException(f"{name}: cannot be read: {error.strerror}") from None


def batches(items: Iterator[Any]) -> Iterator[list[Any]]:
    """As many at a time as make full steps."""
    while batch := list(itertools.islice(items, BATCH)):
        yield batch
