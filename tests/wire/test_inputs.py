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
        ([[1], [1.0]], "input[1]"),
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
