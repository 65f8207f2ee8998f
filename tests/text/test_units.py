"""Positions in a client's units."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streambed import InvalidRequest
from streambed.text.units import OffsetUnit, codepoints, count

characters = st.text(st.sampled_from("aé中🙂\n"), max_size=20)


@given(text=characters, unit=st.sampled_from(["codepoint", "utf16", "utf8"]))
def test_there_and_back(text: str, unit: OffsetUnit) -> None:
    places = list(range(len(text) + 1))
    assert codepoints(text, [count(text[:place], unit) for place in places], unit, "offset") == places


@pytest.mark.parametrize(("unit", "position"), [("utf16", 1), ("utf8", 1), ("utf8", 3)])
def test_no_place_inside_a_character(unit: OffsetUnit, position: int) -> None:
    with pytest.raises(InvalidRequest, match="inside a character") as caught:
        codepoints("a🙂", [1, 1 + position], unit, "start")
    assert caught.value.param == "start"


def test_counts() -> None:
    assert [count("aé中🙂", unit) for unit in ("codepoint", "utf16", "utf8")] == [4, 5, 10]
