"""Texts from files and standard input: the one place where commands read them."""

import codecs
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import click

from streambed.errors import InvalidRequest

BATCH = 256
"""Texts taken at a time: enough for full steps, little to hold in memory."""
MAX_NAMED = 100
"""Most empty texts that a message names one by one."""
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)

Each = TypeVar("Each")


class Item(NamedTuple):
    """A text, the id that came with it, and where it stood."""

    text: str
    id: Any
    where: str


def without_mark(chunks: Iterable[bytes], name: str) -> Iterator[bytes]:
    """The bytes of a file, however they are cut, without the byte order mark that UTF-8 may begin with.

    Only the first mark is one; any other U+FEFF is text. Raises InvalidRequest: the mark is that of UTF-16.
    """
    head = b""
    rest = iter(chunks)
    for chunk in rest:
        head += chunk
        if head.startswith(_UTF16):
            raise InvalidRequest(f"{name}: is UTF-16; UTF-8 is expected")
        if any(mark.startswith(head) and mark != head for mark in (codecs.BOM_UTF8, *_UTF16)):
            continue  # it may still be the start of a mark
        break
    if head := head.removeprefix(codecs.BOM_UTF8):
        yield head
    yield from rest


def read_lines(name: str) -> Iterator[tuple[str, str]]:
    """The lines of a text file that are not blank, each after where it stands; `-` is standard input.

    Raises:
        InvalidRequest: the file is not UTF-8. ClickException: it cannot be read.
    """
    try:
        with click.open_file(name, "rb") as file:
            for number, raw in enumerate(without_mark(file, name), 1):
                if line := raw.rstrip(b"\r\n"):
                    where = f"{name}:{number}"
                    try:
                        yield where, line.decode()
                    except UnicodeDecodeError:
                        raise InvalidRequest(f"{where}: not UTF-8") from None
    except OSError as error:
        raise click.ClickException(f"{name}: cannot be read: {error.strerror}") from None


def read(inputs: Iterable[str], field: str) -> Iterator[Item]:
    """One text a line, or the `field` of JSON lines in files named so. Raises as `read_lines`, and InvalidRequest for a line
    that is not such JSON."""
    import orjson

    for name in inputs:
        for where, line in read_lines(name):
            if not name.endswith(".jsonl"):
                yield Item(line, None, where)
                continue
            try:
                value = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                raise InvalidRequest(f"{where}: not valid JSON: {error.msg}") from None
            if not isinstance(value, dict) or not isinstance(value.get(field), str):
                raise InvalidRequest(f"{where}: no string in field {field!r}")
            yield Item(value[field], value.get("id"), where)


def read_twice(inputs: Iterable[str], field: str) -> Iterator[Item]:
    """The texts that can be checked before the work: those of JSONL files, which can be read a second time.

    A blank line of a text file is no text, so only a field can be empty. Raises as `read`.
    """
    return read((name for name in inputs if name.endswith(".jsonl") and Path(name).is_file()), field)


def refuse_empty(items: Iterable[Item], hint: str = "") -> None:
    """Raises InvalidRequest that names every text which is empty."""
    empty = [item.where for item in items if not item.text]
    if not empty:
        return
    named = ", ".join(empty[:MAX_NAMED]) + (f" and {len(empty) - MAX_NAMED:,} more" if len(empty) > MAX_NAMED else "")
    what = "1 text is empty" if len(empty) == 1 else f"{len(empty):,} texts are empty"
    raise InvalidRequest(f"{what}: {named}; a text of at least one character is expected{hint}")


def batches(items: Iterator[Each], size: int = BATCH) -> Iterator[list[Each]]:
    """So many at a time; the last ones may be fewer."""
    while batch := list(itertools.islice(items, size)):
        yield batch
