"""Texts as callers give them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streambed.errors import InvalidRequest
from streambed.text.strings import check_text


@given(st.text(st.characters(codec=None, exclude_categories=[])))
def test_a_lone_surrogate_is_no_text(text: str) -> None:
    lone = any(0xD800 <= ord(character) <= 0xDFFF for character in text)
    if not lone:
        check_text(text)
        return
    with pytest.raises(InvalidRequest, match="surrogate"):
        check_text(text)
