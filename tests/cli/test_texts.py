"""Texts from files: lines, JSON lines, byte order marks, encodings."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streambed.cli.texts import Item, read, read_lines, read_twice, refuse_empty, without_mark
from streambed.errors import InvalidRequest

MARK = codecs.BOM_UTF8


def texts(*files: Path, field: str = "text") -> list[str]:
    return [item.text for item in read(map(str, files), field)]


@given(st.binary(max_size=12).map(lambda data: data.replace(b"\xff", b"").replace(b"\xfe", b"")), st.data())
@pytest.mark.parametrize("before", [b"", MARK[:1], MARK[:2], MARK, MARK + MARK])
def test_a_mark_goes_once_however_the_bytes_are_cut(before: bytes, rest: bytes, data: st.DataObject) -> None:
    whole = before + rest

    def cut() -> Iterator[bytes]:
        at = 0
        while at < len(whole):
            size = data.draw(st.integers(1, 4))
            yield whole[at : at + size]
            at += size

    expected = whole[3:] if whole.startswith(MARK) else whole
    assert b"".join(without_mark(cut(), "a file")) == expected


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("size", [1, 2, 100])
def test_utf_16_is_told_by_its_name(encoding: str, size: int) -> None:
    data = "\ufeffa text".encode(encoding) if encoding != "utf-16" else "a text".encode(encoding)
    chunks = [data[at : at + size] for at in range(0, len(data), size)]
    with pytest.raises(InvalidRequest, match=r"^here: is UTF-16; UTF-8 is expected$"):
        list(without_mark(chunks, "here"))


def test_nothing_is_held_back_that_cannot_become_a_mark() -> None:
    """What is typed into a pipe is seen at once."""
    seen = without_mark(iter([b"a", b"b"]), "here")
    assert next(seen) == b"a"


def test_each_file_has_a_mark_of_its_own(tmp_path: Path) -> None:
    one, two, empty = (tmp_path / name for name in ("one.txt", "two.jsonl", "empty.txt"))
    one.write_bytes(MARK + "first\n\ufeffsecond \ufeff\n".encode())
    two.write_bytes(MARK + b'{"text": "third"}\n')
    empty.write_bytes(MARK)
    assert texts(one, two, empty, one) == [*(first := ["first", "\ufeffsecond \ufeff"]), "third", *first]


def test_a_line_that_is_only_a_mark_is_blank_at_the_start_alone(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(MARK + b"\n" + MARK + b"\nlast")
    assert list(read_lines(str(file))) == [(f"{file}:2", "\ufeff"), (f"{file}:3", "last")]


def test_a_mark_within_jsonl_is_not_json(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'{"text": "a"}\n' + MARK + b'{"text": "b"}\n')
    with pytest.raises(InvalidRequest, match=r":2: not valid JSON"):
        texts(file)


def test_what_can_be_read_twice(tmp_path: Path) -> None:
    """A pipe gives its lines once, however it is called; a line of a text file is never empty."""
    file, plain = tmp_path / "a.jsonl", tmp_path / "b.txt"
    file.write_text('{"text": ""}\n{"text": "b"}\n')
    plain.write_text("\na\n")
    missing = tmp_path / "nowhere.jsonl"
    found = list(read_twice(map(str, (plain, file, "-", missing)), "text"))
    assert [(item.text, item.where) for item in found] == [("", f"{file}:1"), ("b", f"{file}:2")]
    with pytest.raises(click.ClickException, match="cannot be read"):
        texts(missing)


def test_every_empty_text_is_named() -> None:
    items = [Item("" if number % 2 else "a", None, f"f:{number}") for number in range(6)]
    with pytest.raises(InvalidRequest) as error:
        refuse_empty(items, "; leave it out")
    assert str(error.value).startswith("3 texts are empty: f:1, f:3, f:5; ")
    with pytest.raises(InvalidRequest, match=r"^1 text is empty: f:1; "):
        refuse_empty(items[:2])
    refuse_empty(items[:1])
    with pytest.raises(InvalidRequest, match=r"f:99 and 900 more; "):
        refuse_empty(Item("", None, f"f:{number}") for number in range(1000))


def test_ids_and_fields(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps({"body": "b", "id": [1]}))
    assert list(read([str(file)], "body")) == [Item("b", [1], f"{file}:1")]
