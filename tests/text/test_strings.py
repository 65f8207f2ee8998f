"""Texts as callers give them."""

from __future__ import annotations

import enum
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streambed.errors import InvalidRequest
from streambed.text.strings import check_text, check_ways, common_prefix, find_texts, list_texts


class Colour(str, enum.Enum):  # noqa: UP042 - str() of it is not its value
    RED = "red"


class Table:
    """As pandas has it: whoever iterates gets the names of the columns."""

    ndim = 2

    def __iter__(self) -> Any:
        return iter(["a column"])


@given(st.text(st.characters(codec=None, exclude_categories=[])))
def test_a_lone_surrogate_is_no_text(text: str) -> None:
    lone = any(0xD800 <= ord(character) <= 0xDFFF for character in text)
    if not lone:
        check_text(text)
        assert list_texts([text]) == [text]
        return
    with pytest.raises(InvalidRequest, match="surrogate"):
        check_text(text)
    with pytest.raises(InvalidRequest, match=r"^texts\[1\] has a lone surrogate at character \d+$"):
        list_texts(["good", text])


@pytest.mark.parametrize(
    "texts",
    [
        ["a", "б"], ("a", "б"), iter(["a", "б"]), (text for text in ("a", "б")), {"a": 1, "б": 2}.keys(),
        np.array(["a", "б"]), np.array(["a", "б"], dtype=object), map(str, ["a", "б"]),
    ],
    ids=lambda texts: type(texts).__name__,
)  # fmt: skip
def test_any_iterable_is_a_list_of_texts(texts: Any) -> None:
    found = list_texts(texts)
    assert found == ["a", "б"]
    assert [type(text) for text in found] == [str, str]


def test_one_string_is_one_text_and_kinds_of_strings_are_strings() -> None:
    assert list_texts("ab") == ["ab"]
    assert list_texts("") == [""]
    assert list_texts(np.str_("ab")) == ["ab"]
    assert list_texts([Colour.RED]) == ["red"]
    assert sorted(list_texts({"a", "b"})) == ["a", "b"]
    assert list_texts([]) == list_texts(np.array([])) == []


@pytest.mark.parametrize(
    "texts",
    [b"ab", bytearray(b"ab"), memoryview(b"ab"), {"a": "b"}, None, 3, 1.5, str, np.array("a"), np.array([["a"]]), Table()],
)  # fmt: skip
def test_what_is_no_iterable_of_texts(texts: Any) -> None:
    kind = "None" if texts is None else type(texts).__name__
    with pytest.raises(InvalidRequest, match=f"^texts is {kind}; a string or an iterable of strings is expected$"):
        list_texts(texts)


@pytest.mark.parametrize(
    ("item", "kind"),
    [(3, "int"), (None, "None"), (b"a", "bytes"), (["a"], "list"), (float("nan"), "float"), (np.float32(1), "float32")],
)
def test_a_wrong_item_is_named_by_its_index(item: Any, kind: str) -> None:
    texts = ["a", "b", "c", item, 5]
    for each in (texts, tuple(texts), iter(texts), np.array(texts, dtype=object)):
        with pytest.raises(InvalidRequest, match=rf"^texts\[3\] is {kind}; a string is expected$") as caught:
            list_texts(each)
        assert caught.value.param == "input[3]"


def test_empty_texts_are_all_named() -> None:
    assert find_texts(["a", " ", "\0"]) == [0, 1, 2]
    for texts, named in (
        ([""], r"texts[0] is empty; leave it out"),
        (["a", "", ""], r"texts[1] and texts[2] are empty; leave them out"),
        ([""] * 9, r"texts[0], texts[1], texts[2], texts[3], texts[4] and 4 more are empty"),
    ):
        with pytest.raises(InvalidRequest, match=re.escape(named)) as caught:
            find_texts(texts)
        indexes = [index for index, text in enumerate(texts) if not text]
        assert caught.value.details == {"indexes": indexes}
        assert caught.value.param == f"input[{indexes[0]}]"
        assert find_texts(texts, "null") == [index for index, text in enumerate(texts) if text]


def test_ways_to_say_what_a_text_is_for() -> None:
    check_ways(None, None, None)
    check_ways("find", None, None)
    check_ways(None, None, "query")
    for ways, named in (
        (("find", "code", None), "instruction and prompt_name exclude each other"),
        ((None, None, "quary"), "input_type is 'quary'; 'query' or 'document' is expected"),
        ((None, 3, None), "prompt_name is int; a string is expected"),
        (("\ud800", None, None), "instruction has a lone surrogate"),
    ):
        with pytest.raises(InvalidRequest, match=named):
            check_ways(*ways)  # type: ignore[arg-type]


@given(st.text("ab"), st.text("ab"))
def test_common_prefix(one: str, other: str) -> None:
    same = common_prefix(one, other)
    assert one[:same] == other[:same]
    assert one[same : same + 1] != other[same : same + 1] or same == len(one) == len(other)
