"""Which pages may call the server."""

from __future__ import annotations

import pytest

from streambed.errors import ForbiddenOrigin
from streambed.server.origins import check_origin, is_allowed


@pytest.mark.parametrize(
    ("origin", "allowed", "expected"),
    [
        ("https://a.example", ("https://a.example",), True),
        ("https://A.example:443", ("https://a.example",), True),
        ("https://a.example", (), False),
        ("http://a.example", ("https://a.example",), False),
        ("null", ("https://a.example",), False),
        ("null", ("*",), True),
        ("", ("https://a.example",), False),
        ("https://a.example, https://b.example", ("https://a.example",), False),
    ],
)
def test_is_allowed(origin: str, allowed: tuple[str, ...], expected: bool) -> None:
    assert is_allowed(origin, allowed) == expected


def test_check_origin() -> None:
    check_origin({}, ())
    check_origin({b"origin": b"https://h:1", b"host": b"H:1"}, ())
    check_origin({b"origin": b"https://a.example", b"host": b"h"}, ("https://a.example",))
    with pytest.raises(ForbiddenOrigin):
        check_origin({b"origin": b"https://a.example", b"host": b"h"}, ())
    with pytest.raises(ForbiddenOrigin):
        check_origin({b"origin": b"https://a.example"}, ())
