"""Events of a session: those that clients send, and those that the server sends."""

from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal

import orjson
from pydantic import Field

from streambed.limits import MAX_EVENT_ID, MAX_WATCHES
from streambed.wire.requests import AppendRequest, Emit, Natural, SessionOptions, SetRequest, Strict, Watch


class _ClientEvent(Strict):
    event_id: str | None = Field(
        None, max_length=MAX_EVENT_ID, description="Chosen by the client; whatever answers this event carries it."
    )


class _SessionEvent(_ClientEvent):
    session: str = Field(description="Id of the session.")


class SessionCreate(SessionOptions, _ClientEvent):
    """Opens a session on this socket. Answered by `session.created`."""

    type: Literal["session.create"] = "session.create"


class SessionUpdate(_SessionEvent):
    """Changes when to emit and what to watch; options that are not given stay. Answered by `session.updated`."""

    type: Literal["session.update"] = "session.update"
    emit: Emit | None = Field(None, description="When to emit embeddings unasked.")
    watch: list[Watch] | None = Field(
        None, max_length=MAX_WATCHES, description="What to watch for; replaces all earlier watches."
    )


class SessionResume(_SessionEvent):
    """Moves a session to this socket, wherever it was. Answered by `session.resumed`."""

    type: Literal["session.resume"] = "session.resume"
    resume_token: str = Field(max_length=128, description="From `session.created`.")


class SessionFork(_SessionEvent):
    """Opens a new session with the same text and options. Answered by `session.created`."""

    type: Literal["session.fork"] = "session.fork"


class SessionClose(_SessionEvent):
    """Ends the session; its text is erased. Answered by `session.closed`."""

    type: Literal["session.close"] = "session.close"


class InputTextAppend(AppendRequest, _SessionEvent):
    """Adds text at the end. Answered by `input_text.ack`."""

    type: Literal["input_text.append"] = "input_text.append"


class InputTextReplace(_SessionEvent):
    """Replaces a range with text. Answered by `input_text.ack`."""

    type: Literal["input_text.replace"] = "input_text.replace"
    start: Natural = Field(description="Where the range begins.")
    end: Natural = Field(description="Where it ends; this position is not part of it.")
    text: str = Field(description="The text that replaces it.")
    base_revision: Natural | None = Field(None, description="The revision on which this change is based.")


class InputTextSet(SetRequest, _SessionEvent):
    """Makes this the whole text. Answered by `input_text.ack`."""

    type: Literal["input_text.set"] = "input_text.set"


class EmbeddingCreate(_SessionEvent):
    """Asks for the embedding of the text as it is now. Answered by `embedding.done`, in the order asked."""

    type: Literal["embedding.create"] = "embedding.create"


InputText = InputTextAppend | InputTextReplace | InputTextSet
ClientEvent = (
    SessionCreate | SessionUpdate | SessionResume | SessionFork | SessionClose | InputText | EmbeddingCreate
)  # fmt: skip
CLIENT_EVENTS: dict[str, type[ClientEvent]] = {
    event.model_fields["type"].default: event
    for event in (
        SessionCreate, SessionUpdate, SessionResume, SessionFork, SessionClose,
        InputTextAppend, InputTextReplace, InputTextSet, EmbeddingCreate,
    )
}  # fmt: skip


def _about(description: str, default: Any = ...) -> Any:
    more: dict[str, Any] = {} if default is ... else {"default": default}
    return field(metadata={"description": description}, kw_only=True, **more)


@dataclass(frozen=True)
class ServerEvent:
    """An event that the server sends. Fields that are None do not travel."""

    type: ClassVar[str]
    session: str | None = _about("Id of the session; absent from an error that concerns no session.", None)
    event_id: str | None = _about("Id of the event that this one answers; absent from events that come unasked.", None)


@dataclass(frozen=True)
class SessionReport(ServerEvent):
    """The state of a session: revision, length, what is in flight."""

    resume_token: str = _about(
        "Required by `session.resume`. A secret: whoever has it and the key can take the session over."
    )
    revision: int = _about("How many changes have been applied.")
    offset: int = _about("Length of the text; the next append starts here.")
    kv: Literal["warm", "cold"] = _about(
        "`warm`: the text is computed; `cold`: it will be when an embedding is next requested."
    )
    credit: int = _about("Characters that may be sent before the next acknowledgement.")
    limits: dict[str, int] = _about(
        "`max_characters` of the text, `max_tokens` as `input_text.ack` counts them, `max_pending` embeddings that may be "
        "unanswered at once, `max_unacknowledged` changes (the server reads no more until some are acknowledged), "
        "`max_frame_bytes` of a frame."
    )
    dimensions: int = _about("Dimensions of the session's vectors.")
    overflow: Literal["error", "segment"] = _about("What happens to a change that does not fit in the window.", "error")
    fingerprint: str = _about(
        "Hash of everything that decides a vector; vectors with different ones cannot be compared."
    )
    expires_in_s: float = _about("Time to live without a client.")
    segment: int | None = _about(
        "With `overflow: segment`, the number of the current segment, from 0. Acknowledgements and embeddings of such "
        "sessions have `segment` and `start`, too.",
        None,
    )
    start: int | None = _about("Where the current segment begins; text before it can no longer be changed.", None)


@dataclass(frozen=True)
class SessionCreated(SessionReport):
    """A session has been opened on this socket."""

    type = "session.created"
    forked_from: str | None = _about("The session from which it was forked.", None)


@dataclass(frozen=True)
class SessionResumed(SessionReport):
    """The session is on this socket now. Send the changes that come after `revision`."""

    type = "session.resumed"


@dataclass(frozen=True)
class SessionUpdated(SessionReport):
    """The new options are in force."""

    type = "session.updated"


Leaving = Literal["draining", "idle", "lifetime", "unauthorized"]
"""Why a socket is closed, whose sessions live on."""


@dataclass(frozen=True)
class SessionClosed(ServerEvent):
    """The session is no longer on this socket."""

    type = "session.closed"
    reason: Literal["closed", "expired", "taken_over", Leaving] = _about(
        "`closed` and `expired`: the session has ended and its text is erased; `taken_over`: a newer socket has it; "
        "`draining`: the server is shutting down; `idle` and `lifetime`: this socket was silent, or open, for too long; "
        "`unauthorized`: its key is no longer valid."
    )
    resume: dict[str, Any] | None = _about(
        "How the session can be resumed: `resume_token`, `revision`, `offset`, `expires_in_s`.", None
    )


@dataclass(frozen=True)
class InputTextAck(ServerEvent):
    """All changes up to `revision` are applied and, where there is a journal, on disk."""

    type = "input_text.ack"
    revision: int = _about("How many changes have been acknowledged.")
    offset: int = _about("Length of the text at that revision.")
    tokens: int = _about("Tokens of instruction and text at present; the end token is not counted.")
    credit: int = _about("Characters that may be sent before the next acknowledgement.")
    segment: int | None = _about("The current segment.", None)
    start: int | None = _about("Where the current segment begins.", None)


@dataclass(frozen=True)
class EmbeddingDone(ServerEvent):
    """The exact embedding of the text at `revision`, or of a segment of it."""

    type = "embedding.done"
    revision: int = _about("The revision of the text that was embedded.")
    offset: int = _about("Length of the text at that revision.")
    embedding: Any = _about("A list of numbers, or base64 of little-endian float32; of unit length.")
    scale: float | None = _about("The factor to multiply the numbers of `int8` and `ubinary` by.", None)
    drift: float | None = _about("Cosine distance from the previous embedding; absent from the first.", None)
    usage: dict[str, int] = _about(
        "`prompt_tokens` counts instruction, text and end token: `cached_tokens` were already computed, `computed_tokens` "
        "were not."
    )
    timing_ms: dict[str, float] = _about("`queue`, `compute`, and `total` since the request.")
    segment: int | None = _about("The segment that was embedded.", None)
    start: int | None = _about("Where the segment begins: the vector is that of the text from here to `offset`.", None)
    final: bool | None = _about("True in a segment's last embedding, which comes unasked when the segment ends.", None)


@dataclass(frozen=True)
class EmbeddingSkipped(ServerEvent):
    """Automatic embeddings that were due up to this revision are skipped for a newer one."""

    type = "embedding.skipped"
    revision: int = _about("The newest revision that will not be emitted.")
    superseded_by: int = _about("The revision that will be emitted.")


@dataclass(frozen=True)
class WatchTriggered(ServerEvent):
    """The similarity to a watch has reached its threshold. Sent once, until the similarity has fallen again."""

    type = "watch.triggered"
    watch: str = _about("Id of the watch.")
    score: float = _about("Cosine similarity.")
    revision: int = _about("Revision of the text.")
    offset: int = _about("Length of the text at that revision.")


@dataclass(frozen=True)
class ErrorEvent(ServerEvent):
    """The request is refused, and no part of it was applied."""

    type = "error"
    error: dict[str, Any] = _about("`type`, `code`, `message`, `param`, as over HTTP.")
    expected_offset: int | None = _about("Where the next append must start.", None)
    revision: int | None = _about("The session's revision.", None)


SERVER_EVENTS: dict[str, type[ServerEvent]] = {
    event.type: event
    for event in (
        SessionCreated, SessionResumed, SessionUpdated, SessionClosed,
        InputTextAck, EmbeddingDone, EmbeddingSkipped, WatchTriggered, ErrorEvent,
    )
}  # fmt: skip


def dump(event: ServerEvent) -> bytes:
    """The event as JSON."""
    values = ((each.name, getattr(event, each.name)) for each in fields(event))
    value = {"type": event.type} | {name: value for name, value in values if value is not None}
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def load(value: dict[str, Any]) -> ServerEvent | None:
    """The server's event of a JSON object; None for a type that this version does not know."""
    kind = SERVER_EVENTS.get(value.get("type", ""))
    if kind is None:
        return None
    return kind(**{each.name: value[each.name] for each in fields(kind) if each.name in value})
