"""What is counted before JSON is parsed, in whatever pieces it comes."""

from __future__ import annotations

import itertools
import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streambed.errors import InvalidRequest
from streambed.limits import MAX_DEPTH, MAX_ITEMS, MAX_KEYS
from streambed.wire.structure import PIECE, Structure, check_structure

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet='a"\\,:[]{}é\n'),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.text(alphabet='a"\\:,{'), inside, max_size=4),
    max_leaves=20,
)


def keys(value: Any) -> int:
    if isinstance(value, dict):
        return len(value) + sum(map(keys, value.values()))
    return sum(map(keys, value)) if isinstance(value, list) else 0


def items(value: Any) -> int:
    if isinstance(value, dict):
        return sum(map(items, value.values()))
    return len(value) + sum(map(items, value)) if isinstance(value, list) else 0


def feed(body: bytes, cuts: list[int]) -> Structure:
    found, places = Structure(), sorted({0, len(body), *(cut % (len(body) + 1) for cut in cuts)})
    for start, end in itertools.pairwise(places):
        found.feed(body[start:end])
    return found


@given(VALUES, st.lists(st.integers(0, 1 << 20), max_size=5), st.sampled_from([None, 1]))
def test_pieces_make_no_difference(value: Any, cuts: list[int], indent: int | None) -> None:
    """Keys are exact; of items none is left out."""
    body = json.dumps(value, indent=indent, ensure_ascii=False).encode()
    found, whole = feed(body, cuts), feed(body, [])
    assert found._keys == whole._keys == keys(value)
    assert found._depth == 0, "all is closed at the end"
    assert not found._in_string
    assert found._items >= items(value)


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b"{" + b",".join(b'"k%d":0' % n for n in range(MAX_KEYS + 1)) + b"}", "keys"),
        (b'{"a":[' + b"1," * (MAX_ITEMS + 1) + b"1]}", "items"),
        (b'{"a":[' + b'"",' * MAX_ITEMS + b'""]}', "items"),
        (b'{"a":' + b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1) + b"}", "levels"),
        (b'{"a":' + b"[" * 1_000_000, "levels"),
        (b"[[]," * 40 + b"1" + b"]" * 40, "levels"),
        (b'"' * 3_000_000, "items"),
        (b'{"a":{' * 1000, "levels"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_too_much_of_it_is_refused_before_it_is_parsed(body: bytes, what: str) -> None:
    with pytest.raises(InvalidRequest, match=what):
        Structure().feed(body)


@pytest.mark.parametrize(
    "value",
    [
        {"input": ["x"] * 2048},
        {"input": [[1] * 512] * 2048},
        {"input": "a,b:c[d]{e}" * 500_000},
        {"input": '"\\' * 100_000},
        {"known_segments": ["0123456789abcdef"] * 65_536},
        {"watch": [{"id": "w", "vector": [0.5] * 4096}] * 64},
    ],
    ids=["texts", "token ids", "a text like JSON", "a text of escapes", "hashes", "watches"],
)
def test_the_largest_requests_pass(value: dict[str, Any]) -> None:
    Structure().feed(orjson.dumps(value))


def test_it_stops_where_it_is_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes after is not looked at."""
    looked = []
    count = Structure._count
    monkeypatch.setattr(Structure, "_count", lambda self, piece: (looked.append(len(piece)), count(self, piece)))
    with pytest.raises(InvalidRequest):
        Structure().feed(b'{"k":0,' * 2_000_000)
    assert sum(looked) <= 2 * PIECE


def test_frames_are_counted_as_bodies_are() -> None:
    check_structure('{"type": "input_text.append", "text": "\ud800"}', "the frame")
    with pytest.raises(InvalidRequest, match="the frame has more than"):
        check_structure(json.dumps({f"k{n}": 0 for n in range(MAX_KEYS + 1)}), "the frame")
