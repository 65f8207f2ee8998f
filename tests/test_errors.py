from __future__ import annotations

import re

import pytest

from streambed import errors
from streambed.errors import ERROR_TABLE, CheckpointError, RequestError, SettingsError, StreambedError

TABLE: dict[str, tuple[int, int | None, bool]] = {
    # code: status, close code, retryable
    "invalid_request": (400, None, False),
    "unauthorized": (401, 4401, False),
    "forbidden_origin": (403, None, False),
    "not_found": (404, 4404, False),
    "offset_conflict": (409, None, False),
    "offset_gap": (409, None, False),
    "revision_conflict": (409, None, False),
    "revision_gap": (409, None, False),
    "too_large": (413, 1009, False),
    "unsupported_media": (415, None, False),
    "uri_too_long": (414, None, False),
    "headers_too_large": (431, None, False),
    "overloaded": (429, 1013, True),
    "quota_exceeded": (429, 1013, True),
    "internal": (500, 1011, False),
    "not_ready": (503, 1012, True),
    "deadline": (504, None, False),
    "storage_full": (507, None, True),
}


def test_table_is_the_agreed_one() -> None:
    assert {error.code: (error.status, error.close_code, error.retryable) for error in ERROR_TABLE} == TABLE


def test_table_is_complete_and_in_order() -> None:
    """Every subclass that the module defines is a row; codes name one row each."""
    defined = {
        thing
        for thing in vars(errors).values()
        if isinstance(thing, type) and issubclass(thing, RequestError) and thing is not RequestError
    }
    assert set(ERROR_TABLE) == defined
    assert len({error.code for error in ERROR_TABLE}) == len(ERROR_TABLE)
    assert [error.code for error in ERROR_TABLE] == sorted(TABLE, key=lambda code: (TABLE[code][0], code))


@pytest.mark.parametrize("error", ERROR_TABLE, ids=lambda error: error.code)
def test_rows(error: type[RequestError]) -> None:
    assert re.fullmatch("[a-z]+(_[a-z]+)*", error.code)
    assert 400 <= error.status < 600
    assert error.close_code is None or 1000 <= error.close_code < 5000
    assert issubclass(error, StreambedError)
    raised = error("what went wrong", "input")
    assert (str(raised), raised.message, raised.param) == ("what went wrong", "what went wrong", "input")
    assert error("what went wrong").param is None
    expected = "server_error" if error.status >= 500 or error.retryable else "invalid_request_error"
    assert raised.type == expected


@pytest.mark.parametrize("error", [CheckpointError, SettingsError])
def test_errors_of_the_start_are_never_on_the_wire(error: type[StreambedError]) -> None:
    assert issubclass(error, StreambedError)
    assert not issubclass(error, RequestError)
    assert not hasattr(error, "status")


def test_tree_in_the_documentation_names_every_class() -> None:
    assert errors.__doc__ is not None
    for error in (*ERROR_TABLE, CheckpointError, SettingsError, RequestError, StreambedError):
        assert error.__name__ in errors.__doc__
