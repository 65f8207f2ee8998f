"""Errors as they travel."""

from __future__ import annotations

import pytest

from streambed.errors import ERROR_TABLE, RequestError
from streambed.wire import error_body


@pytest.mark.parametrize("kind", ERROR_TABLE, ids=lambda kind: kind.__name__)
def test_error_body(kind: type[RequestError]) -> None:
    error = kind("what happened", "field")
    assert error_body(error) == {
        "error": {"message": "what happened", "type": error.type, "param": "field", "code": kind.code}
    }
    assert error_body(kind("what happened"))["error"]["param"] is None  # type: ignore[index]
