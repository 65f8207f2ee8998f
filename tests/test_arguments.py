"""What callers give beside texts."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from streambed.arguments import as_every, as_integer, as_offsets, check_choice
from streambed.errors import InvalidRequest


def refused(message: str) -> Any:
    return pytest.raises(InvalidRequest, match=f"^{re.escape(message)}$")


def test_choices() -> None:
    check_choice("empty", "null", ("error", "null"))
    check_choice("priority", None, (None, "query", "bulk"))
    for wrong in ("nul", None, 3, ["null"], np.array(["null"])):
        with pytest.raises(InvalidRequest, match=r"^empty is .*; 'error' or 'null' is expected$") as caught:
            check_choice("empty", wrong, ("error", "null"))
        assert caught.value.param == "empty"
    with refused("how is 'x'; 'a', 'b' or 'c' is expected"):
        check_choice("how", "x", (None, "a", "b", "c"))
    with pytest.raises(InvalidRequest) as caught:
        check_choice("how", "long " * 1000, ("a", "b"))
    assert len(str(caught.value)) < 100


def test_integers() -> None:
    for number in (3, np.int64(3), np.uint8(3)):
        assert type(as_integer("dimensions", number)) is int
    for wrong in (3.0, "3", None, True, np.float32(3), np.bool_(True), [3], 0, -1):
        with pytest.raises(InvalidRequest, match=r"^dimensions is .*; an integer of at least 1 is expected$"):
            as_integer("dimensions", wrong)
    assert as_integer("start", -1, None) == -1
    with refused("start is None; an integer is expected"):
        as_integer("start", None, None)


def test_every() -> None:
    assert (as_every("sentence"), as_every(3), as_every(np.int32(3))) == ("sentence", 3, 3)
    for wrong in ("word", 0, -1, 2.0, None, True, b"sentence"):
        with pytest.raises(InvalidRequest, match=r"^every is .*; 'sentence' or a number of tokens, at least 1, is"):
            as_every(wrong)


def test_offsets() -> None:
    for offsets in ([1, 2], (1, 2), iter([1, 2]), np.array([1, 2])):
        assert as_offsets(offsets) == [1, 2]
    for wrong, named in (
        (3, "offsets is int; a list of integers is expected"),
        ("12", "offsets is str; a list of integers is expected"),
        ([1, 2.5], "offsets[1] is 2.5; an integer of at least 1 is expected"),
        ([0], "offsets[0] is 0; an integer of at least 1 is expected"),
    ):
        with refused(named):
            as_offsets(wrong)  # type: ignore[arg-type]
