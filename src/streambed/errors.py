"""The exception tree and the one table of errors.

StreambedError
├── CheckpointError      a checkpoint cannot be served; raised while loading, never on the wire
├── SettingsError        a setting is wrong; raised at start, never on the wire
├── ConnectionLost       a server cannot be reached; raised by clients, never on the wire
├── TimedOut             a server did not answer in time; raised by clients, never on the wire
└── RequestError         a request failed; each subclass is one row of the table below
    ├── InvalidRequest   ├── Unauthorized     ├── ForbiddenOrigin  ├── NotFound
    ├── OffsetConflict   ├── OffsetGap        ├── RevisionConflict ├── RevisionGap
    ├── TooLarge         ├── UnsupportedMedia ├── TargetTooLong    ├── HeadTooLarge
    ├── Overloaded       ├── QuotaExceeded    ├── Internal         ├── NotReady
    ├── DeadlineExceeded └── StorageFull

Whatever speaks about errors (HTTP bodies, OpenAPI, close codes, docs) reads the class attributes; nothing retypes them.
"""

from typing import Any, ClassVar


class StreambedError(Exception):
    """Everything that Streambed raises on purpose."""

    partial: Any = None
    """What a client's `embed` had before one of its requests failed: float32 [texts, dimensions], with NaN in the rows that
    are missing; None if there was nothing."""


class CheckpointError(StreambedError):
    """A checkpoint is missing, damaged or not one that Streambed can serve. One line: file and cause."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.splitlines()))  # paths, names in files and libraries' words may have several


class SettingsError(StreambedError):
    """A setting is out of range or contradicts another. One line: setting and cause.

    argument: name of the library's argument that is wrong; the message then goes on after it. A command line names its flag.
    """

    def __init__(self, message: str, argument: str | None = None) -> None:
        super().__init__(message if argument is None else f"{argument} {message}")
        self.by_flag = message if argument is None else f"--{argument.replace('_', '-')} {message}"
        """The message for the command line, which names the flag."""


class ConnectionLost(StreambedError):
    """The server cannot be reached, or no longer. What was not acknowledged may or may not have been applied."""


class TimedOut(StreambedError, TimeoutError):
    """The server did not answer within the client's `timeout`. A TimeoutError, too; but not a plain one, which asyncio makes
    anew on its way to another thread, without `partial`."""


class RequestError(StreambedError):
    """A request that ends in an error. `param` names the offending field, as OpenAI's error bodies do."""

    code: ClassVar[str]
    status: ClassVar[int]
    close_code: ClassVar[int | None] = None
    retryable: ClassVar[bool] = False
    closes: bool = False
    """Whether the connection ends with it: where the rest of the request lies, or whether it is another one, is unknown."""

    expected_offset: int | None = None
    """Length of the session's text, in its unit, where the change assumed another."""
    revision: int | None = None
    """The session's revision, if a change was refused."""
    details: dict[str, Any] | None = None
    """What a program can act on beyond the code, such as `{"indexes": [0, 4]}` of the items that are wrong."""
    retry_after: float | None = None
    """Seconds after which it may go better, where that can be told."""
    out_of_memory: bool = False
    """Whether an `internal` error was a lack of memory; metrics count those apart."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param

    @property
    def type(self) -> str:
        """OpenAI's coarse `error.type`."""
        return "invalid_request_error" if self.status < 500 and not self.retryable else "server_error"

    @property
    def outcome(self) -> str:
        """The outcome under which metrics count what ended in this error."""
        return "out_of_memory" if self.out_of_memory else self.code


class InvalidRequest(RequestError):
    code, status = "invalid_request", 400


class Unauthorized(RequestError):
    code, status, close_code = "unauthorized", 401, 4401


class ForbiddenOrigin(RequestError):
    code, status = "forbidden_origin", 403


class NotFound(RequestError):
    code, status, close_code = "not_found", 404, 4404


class OffsetConflict(RequestError):
    code, status = "offset_conflict", 409


class OffsetGap(RequestError):
    code, status = "offset_gap", 409


class RevisionConflict(RequestError):
    code, status = "revision_conflict", 409


class RevisionGap(RequestError):
    code, status = "revision_gap", 409


class TooLarge(RequestError):
    code, status, close_code = "too_large", 413, 1009
    closes = True


class UnsupportedMedia(RequestError):
    code, status = "unsupported_media", 415


class TargetTooLong(RequestError):
    code, status = "uri_too_long", 414
    closes = True


class HeadTooLarge(RequestError):
    code, status = "headers_too_large", 431
    closes = True


class Overloaded(RequestError):
    code, status, close_code, retryable = "overloaded", 429, 1013, True


class QuotaExceeded(RequestError):
    code, status, close_code, retryable = "quota_exceeded", 429, 1013, True


class Internal(RequestError):
    code, status, close_code = "internal", 500, 1011


class NotReady(RequestError):
    code, status, close_code, retryable = "not_ready", 503, 1012, True


class DeadlineExceeded(RequestError):
    code, status = "deadline", 504


class StorageFull(RequestError):
    code, status, retryable = "storage_full", 507, True


ERROR_TABLE: tuple[type[RequestError], ...] = tuple(
    sorted(RequestError.__subclasses__(), key=lambda e: (e.status, e.code))
)
