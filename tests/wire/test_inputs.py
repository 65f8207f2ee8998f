"""The several forms of `input`."""

from __future__ import annotations

from typing import Any

import pytest

from streambed.errors import InvalidRequest
from streambed.wire import MAX_INPUTS, parse_input


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a", ["a"]),
        (" ", [" "]),
        (["a"], ["a"]),
        (["a", "b", "a"], ["a", "b", "a"]),
        (["a"] * MAX_INPUTS, ["a"] * MAX_INPUTS),
    ],
)
@pytest.mark.parametrize("accept", [False, True])
def test_texts(value: Any, expected: list[str], accept: bool) -> None:
    assert parse_input(value, accept, 100) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([1], [[1]]),
        ([0, 99], [[0, 99]]),
        ([[1]], [[1]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
        ([1.0, 2], [[1, 2]]),
        ([[1], [2.0, -0.0]], [[1], [2, 0]]),
        ([5] * 10_000, [[5] * 10_000]),
        ([[5]] * MAX_INPUTS, [[5]] * MAX_INPUTS),
    ],
)
def test_token_ids(value: Any, expected: list[list[int]]) -> None:
    assert parse_input(value, True, 100) == expected
    with pytest.raises(InvalidRequest) as error:
        parse_input(value, False, 100)
    assert error.value.param == "input"
    assert "check_embedding_ctx_length=False" in error.value.message
    assert "--accept-token-ids" in error.value.message


@pytest.mark.parametrize(
    ("value", "param"),
    [
        (None, "input"),
        (True, "input"),
        (5, "input"),
        (1.5, "input"),
        ({}, "input"),
        ({"text": "a"}, "input"),
        (b"a", "input"),
        ([], "input"),
        (["a"] * (MAX_INPUTS + 1), "input"),
        ([[1]] * (MAX_INPUTS + 1), "input"),
        ("", "input[0]"),
        ([""], "input[0]"),
        (["a", ""], "input[1]"),
        (["a", None], "input[1]"),
        (["a", 1], "input[1]"),
        (["a", "b", ["c"]], "input[2]"),
        ([None], "input[0]"),
        ([True], "input[0]"),
        ([1.5], "input[0]"),
        ([{}], "input[0]"),
        ([["a"]], "input[0]"),
        ([[]], "input[0]"),
        ([[1], []], "input[1]"),
        ([[1], [1.5]], "input[1]"),
        ([[1], [1e30]], "input[1]"),
        ([[1], [False]], "input[1]"),
        ([[1], None], "input[1]"),
        ([[1], "a"], "input[1]"),
        ([1, "a"], "input[0]"),
        ([1, True], "input[0]"),
        ([1, [2]], "input[0]"),
        ([[[1]]], "input[0]"),
        ([-1], "input[0]"),
        ([100], "input[0]"),
        ([[1], [2, 100]], "input[1]"),
        ([2**70], "input[0]"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_bad_inputs_name_the_item(value: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        parse_input(value, True, 100)
    assert error.value.param == param


def test_empty_items_are_all_named_before_anything_else_is_done() -> None:
    for value, indexes in (("", [0]), (["", "a", ""], [0, 2]), ([[], [1], []], [0, 2]), ([[1], []], [1])):
        with pytest.raises(InvalidRequest) as error:
            parse_input(value, True, 100, "error")
        names = ", ".join(f"input[{index}]" for index in indexes)
        what = "string" if "" in value or value == "" else "list"
        assert error.value.message.startswith(
            f"{names} {f'is an empty {what};' if len(indexes) == 1 else f'are empty {what}s;'}"
        )
        assert 'empty: "null"' in error.value.message
        assert error.value.details == {"indexes": indexes}
        assert error.value.param == f"input[{indexes[0]}]"


def test_of_many_empty_items_the_message_names_ten_and_the_details_all() -> None:
    with pytest.raises(InvalidRequest) as error:
        parse_input([""] * MAX_INPUTS, False, 0)  # where there is no choice, as in /tokenize
    assert error.value.message.endswith("input[9] and 2,038 more are empty strings")
    assert error.value.details == {"indexes": list(range(MAX_INPUTS))}


@pytest.mark.parametrize("value", [[""], ["a", ""], [[]], [[1], []]])
def test_empty_items_are_kept_for_who_wants_null(value: Any) -> None:
    assert parse_input(value, True, 100, "null") == value


def test_a_list_without_items_is_an_error_whatever_is_wanted() -> None:
    with pytest.raises(InvalidRequest) as error:
        parse_input([], True, 100, "null")
    assert error.value.message == "input is an empty list"
