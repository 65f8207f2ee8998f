"""Errors as they travel."""

from typing import Any

from streambed.errors import ERROR_TABLE, Internal, RequestError
from streambed.wire.events import ErrorEvent


def error_body(error: RequestError) -> dict[str, object]:
    """OpenAI's error body; where a session refused a change, its offset and revision too."""
    described = {"message": error.message, "type": error.type, "param": error.param, "code": error.code}
    body: dict[str, object] = {"error": described if error.details is None else described | {"details": error.details}}
    if error.expected_offset is not None:
        body["expected_offset"] = error.expected_offset
    if error.revision is not None:
        body["revision"] = error.revision
    return body


def error_of(body: Any, status: int | None = None) -> RequestError:
    """The exception for an error's body or an `error` event. Any body will do, a proxy's too."""
    described = body.get("error") if isinstance(body, dict) else None
    if not isinstance(described, dict):
        body, described = {}, {}
    kind = {error.code: error for error in ERROR_TABLE}.get(str(described.get("code")))
    if kind is None:
        kind = next((error for error in ERROR_TABLE if error.status == status), Internal)
    error = kind(str(described.get("message", f"the server answered {status}")), described.get("param"))
    error.expected_offset, error.revision = body.get("expected_offset"), body.get("revision")
    error.details = described.get("details")
    return error


def error_event(error: RequestError, session: str | None, event_id: str | None) -> ErrorEvent:
    """The same as an event."""
    return ErrorEvent(session=session, event_id=event_id, **error_body(error))  # type: ignore[arg-type]
