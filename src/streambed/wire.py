"""What travels: requests and replies of the HTTP API, events of the WebSocket. Knows neither torch nor the web framework.

The contract is OpenAI's (API reference, "Create embeddings"), with the additions of docs/protocol.md, which is made from
this file. What a client sends is strict and unknown fields are refused: a misspelt option must not be silently without
effect. What the server sends may gain fields; a client ignores those that it does not know.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema

from streambed.errors import ERROR_TABLE, Internal, InvalidRequest, RequestError
from streambed.text.units import OffsetUnit
from streambed.vectors.shape import EncodingFormat

Body = TypeVar("Body", bound=BaseModel)

MAX_INPUTS = 2048
"""Inputs of one request, as OpenAI has it."""

_INPUT_SCHEMA = {
    "oneOf": [
        {"type": "string", "minLength": 1},
        {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1, "maxItems": MAX_INPUTS},
        {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1},
        {
            "type": "array",
            "items": {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1},
            "minItems": 1,
            "maxItems": MAX_INPUTS,
        },
    ]
}
Input = Annotated[Any, WithJsonSchema(_INPUT_SCHEMA)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class _Prompted(_Strict):
    instruction: str | None = Field(None, description="Task that the embedding is for, in words; put before the text.")
    input_type: Literal["query", "document"] | None = Field(None, description="What the text is, instead of a task.")
    prompt_name: str | None = Field(None, description="A prompt that the checkpoint names, instead of a task.")


class _Shaped(_Prompted):
    encoding_format: EncodingFormat = Field(
        "float",
        description="`base64` is little-endian float32; `int8` and `ubinary` are numbers that come with a `scale`.",
    )
    dimensions: int | None = Field(None, description="Leading dimensions to keep: 32 to the model's own.")
    reducer: str | None = Field(None, description="A reducer that `/info` lists, instead of `dimensions`.")


class EmbeddingsRequest(_Shaped):
    """Body of `POST /v1/embeddings`."""

    input: Input = Field(description="A text, texts, token ids, or lists of token ids.")
    model: str = Field(description="A name that `/v1/models` lists.")
    user: str | None = Field(None, description="Accepted for compatibility; not used.")
    long_input: Literal["merge", "truncate", "error"] | None = Field(
        None,
        description="What to do with a text beyond the window: `merge` its segments' vectors, `truncate` it, or refuse it "
        "as an `error`; by default what the server was started with.",
    )
    overlap: int = Field(0, ge=0, description="Tokens of a segment's end that the next one begins with, about.")
    segments: bool = Field(False, description="Give each segment's own vector, too, with its place and hash.")
    known_segments: list[str] | None = Field(
        None,
        max_length=65_536,
        description="Hashes of segments whose vectors the client has: they are not computed again, and no text that has "
        "one is merged; implies `segments`.",
    )
    priority: Literal["query", "bulk"] | None = Field(None, description="Lane; by default decided by the size.")
    timeout_ms: int | None = Field(None, gt=0, description="Give up with 504 after this time.")


MAX_PREFIXES = 2048
"""Vectors of one request for prefixes."""


class PrefixesRequest(_Shaped):
    """Body of `POST /v1/embeddings/prefixes`: vectors of beginnings of one text, which is read once."""

    input: str = Field(min_length=1, description="The text.")
    model: str = Field(description="A name that `/v1/models` lists.")
    every: Literal["sentence"] | int = Field(
        "sentence",
        description="At the ends of sentences and lines, or after so many tokens; the whole text comes last.",
    )
    offsets: list[int] | None = Field(
        None, min_length=1, max_length=MAX_PREFIXES, description="At these places instead, which must rise."
    )
    offset_unit: OffsetUnit = Field("codepoint", description="What offsets count, in both directions.")
    priority: Literal["query", "bulk"] | None = Field(None, description="Lane; by default decided by the size.")
    timeout_ms: int | None = Field(None, gt=0, description="Give up with 504 after this time.")


class TokenizeRequest(_Prompted):
    """Body of `POST /tokenize`."""

    input: Input = Field(description="A text, or texts.")
    model: str | None = Field(None, description="A name that `/v1/models` lists.")


class Emit(_Strict):
    """When a session emits its embedding by itself."""

    on: Literal["manual", "append", "pause", "sentence", "drift"] = Field(
        "manual",
        description="`append`: after every change; `pause`: when changes stop; `sentence`: when a sentence ends, and when "
        "changes stop; `drift`: when the vector has moved away from the last one emitted.",
    )
    min_interval_ms: int = Field(0, ge=0, le=3_600_000, description="Least time between two automatic embeddings.")
    pause_ms: int = Field(300, ge=10, le=3_600_000, description="How long without a change counts as a pause.")
    drift: float = Field(
        0.1, gt=0, le=2, allow_inf_nan=False, description="Cosine distance from the last emitted vector."
    )


class Watch(_Strict):
    """Something to look out for: `watch.triggered` when the text comes as near to it as `threshold`."""

    id: str = Field(min_length=1, max_length=64, description="Name of the watch in `watch.triggered`.")
    text: str | None = Field(None, min_length=1, description="What to watch for; embedded as a document.")
    embedding: list[float] | None = Field(
        None, description="Its vector instead, with the session's `dimensions`; under a reducer, with the model's own."
    )
    threshold: float = Field(ge=-1, le=1, allow_inf_nan=False, description="Cosine similarity at which it triggers.")


MAX_WATCHES = 64
"""Watches of one session."""
MAX_EVENT_ID = 64
"""Characters of an `event_id`."""


class SessionOptions(_Shaped):
    """Body of `POST /v1/sessions`, and fields of `session.create`."""

    emit: Emit = Field(default_factory=lambda: Emit.model_validate({}), description="When to emit embeddings unasked.")
    watch: list[Watch] = Field(default_factory=list, max_length=MAX_WATCHES, description="What to look out for.")
    offset_unit: OffsetUnit = Field(
        "codepoint", description="What positions count, in both directions; JavaScript strings count `utf16`."
    )
    overflow: Literal["error", "segment"] = Field(
        "error",
        description="What becomes of a text that outgrows the window: a change that would do it is refused, or a `segment` "
        "ends there with a last vector of its own and the text goes on in a new window.",
    )
    text: str = Field("", description="The text to begin with.")


class AppendRequest(_Strict):
    """Body of `POST /v1/sessions/{id}/append`, and fields of `input_text.append`."""

    text: str = Field(description="Text to add at the end.")
    offset: int | None = Field(None, ge=0, description="Where it starts; makes an append that is sent again harmless.")
    base_revision: int | None = Field(None, ge=0, description="The revision that this change was made to.")


class SetRequest(_Strict):
    """Body of `PUT /v1/sessions/{id}/text`, and fields of `input_text.set`."""

    text: str = Field(description="The whole text; what it begins alike is not computed again.")
    base_revision: int | None = Field(None, ge=0, description="The revision that this change was made to.")


class EmbeddingRequest(_Strict):
    """Body of `POST /v1/sessions/{id}/embedding`."""

    timeout_ms: int | None = Field(None, gt=0, description="Give up with 504 after this time.")


class _ClientEvent(_Strict):
    event_id: str | None = Field(
        None, max_length=MAX_EVENT_ID, description="Chosen by the client; whatever answers this event carries it."
    )


class _SessionEvent(_ClientEvent):
    session: str = Field(description="Id of the session.")


class SessionCreate(SessionOptions, _ClientEvent):
    """Opens a session on this socket. Answered by `session.created`."""

    type: Literal["session.create"] = "session.create"


class SessionUpdate(_SessionEvent):
    """Changes when to emit and what to watch; what is not given stays. Answered by `session.updated`."""

    type: Literal["session.update"] = "session.update"
    emit: Emit | None = Field(None, description="When to emit embeddings unasked.")
    watch: list[Watch] | None = Field(None, max_length=MAX_WATCHES, description="What to look out for, all of it.")


class SessionResume(_SessionEvent):
    """Takes a session over to this socket, wherever it was. Answered by `session.resumed`."""

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
    """Puts text in the place of a range. Answered by `input_text.ack`."""

    type: Literal["input_text.replace"] = "input_text.replace"
    start: int = Field(ge=0, description="Where the range begins.")
    end: int = Field(ge=0, description="Where it ends; this position is not part of it.")
    text: str = Field(description="What takes its place.")
    base_revision: int | None = Field(None, ge=0, description="The revision that this change was made to.")


class InputTextSet(SetRequest, _SessionEvent):
    """Makes this the whole text. Answered by `input_text.ack`."""

    type: Literal["input_text.set"] = "input_text.set"


class EmbeddingCreate(_SessionEvent):
    """Asks for the embedding of the text as it is now. Answered by `embedding.done`, in the order asked."""

    type: Literal["embedding.create"] = "embedding.create"


Change = InputTextAppend | InputTextReplace | InputTextSet
ClientEvent = (
    SessionCreate | SessionUpdate | SessionResume | SessionFork | SessionClose | Change | EmbeddingCreate
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
    session: str | None = _about("Id of the session; absent where an error concerns none.", None)
    event_id: str | None = _about("Of the event that this answers; absent from what comes unasked.", None)


@dataclass(frozen=True)
class SessionReport(ServerEvent):
    """How a session stands."""

    resume_token: str = _about("What `session.resume` asks for. A secret: who has it (and the key) has the session.")
    revision: int = _about("How many changes were applied.")
    offset: int = _about("Length of the text, which is where the next append starts.")
    kv: Literal["warm", "cold"] = _about("Whether the text is computed, or will be when an embedding is next wanted.")
    credit: int = _about("Characters that may be sent before the next acknowledgement.")
    limits: dict[str, int] = _about(
        "`max_characters` of the text, `max_tokens` as `input_text.ack` counts them, `max_pending` embeddings asked for and "
        "not answered, "
        "`max_frame_bytes` of a frame."
    )
    dimensions: int = _about("Dimensions of the session's vectors.")
    overflow: Literal["error", "segment"] = _about("What becomes of a text that outgrows the window.", "error")
    fingerprint: str = _about("Of everything that decides a vector: vectors of another one do not compare.")
    expires_in_s: float = _about("Time to live without a client.")
    segment: int | None = _about(
        "With `overflow: segment`, the number of the segment that grows, from 0; `start` and `segment` stand in "
        "acknowledgements and embeddings of such sessions, too.",
        None,
    )
    start: int | None = _about("Where it begins; what stands before it can no longer be changed.", None)


@dataclass(frozen=True)
class SessionCreated(SessionReport):
    """A session is open, on this socket."""

    type = "session.created"
    forked_from: str | None = _about("The session that it was forked from.", None)


@dataclass(frozen=True)
class SessionResumed(SessionReport):
    """The session is on this socket now. Send what comes after `revision`."""

    type = "session.resumed"


@dataclass(frozen=True)
class SessionUpdated(SessionReport):
    """The new options are in force."""

    type = "session.updated"


@dataclass(frozen=True)
class SessionClosed(ServerEvent):
    """The session is no longer on this socket."""

    type = "session.closed"
    reason: Literal["closed", "expired", "taken_over", "draining", "idle", "lifetime"] = _about(
        "`closed` and `expired`: it has ended and its text is erased; `taken_over`: a newer socket has it; `draining`: the "
        "server ends; `idle` and `lifetime`: this socket was silent, or open, for too long."
    )
    resume: dict[str, Any] | None = _about(
        "Where the session can be resumed: `resume_token`, `revision`, `offset`, `expires_in_s`.", None
    )


@dataclass(frozen=True)
class InputTextAck(ServerEvent):
    """All changes up to `revision` are applied and, where there is a journal, on disk."""

    type = "input_text.ack"
    revision: int = _about("How many changes are acknowledged.")
    offset: int = _about("Length of the text at that revision.")
    tokens: int = _about("Tokens of instruction and text, as of now; the end token is not counted.")
    credit: int = _about("Characters that may be sent before the next acknowledgement.")
    segment: int | None = _about("The segment that grows.", None)
    start: int | None = _about("Where it begins.", None)


@dataclass(frozen=True)
class EmbeddingDone(ServerEvent):
    """The exact embedding of the text at `revision`, or of a segment of it."""

    type = "embedding.done"
    revision: int = _about("The state of the text that it is of.")
    offset: int = _about("Its length.")
    embedding: Any = _about("A list of numbers, or base64 of little-endian float32; of unit length.")
    scale: float | None = _about("What the numbers of `int8` and `ubinary` are to be multiplied by.", None)
    drift: float | None = _about("Cosine distance from the embedding sent before; absent from the first.", None)
    usage: dict[str, int] = _about(
        "`prompt_tokens` of instruction, text and end token; `cached_tokens` were there, `computed_tokens` were not."
    )
    timing_ms: dict[str, float] = _about("`queue`, `compute`, and `total` since it was asked for.")
    segment: int | None = _about("The segment that it is of.", None)
    start: int | None = _about("Where that begins: the vector is of the text from here to `offset`.", None)
    final: bool | None = _about("True in a segment's last embedding, which comes unasked when the segment ends.", None)


@dataclass(frozen=True)
class EmbeddingSkipped(ServerEvent):
    """Automatic embeddings that were due, up to this revision, give way to a newer one."""

    type = "embedding.skipped"
    revision: int = _about("The newest revision that will not be emitted.")
    superseded_by: int = _about("The revision that will.")


@dataclass(frozen=True)
class WatchTriggered(ServerEvent):
    """The text has come as near to a watch as its threshold. Once, until it has gone away again."""

    type = "watch.triggered"
    watch: str = _about("Its id.")
    score: float = _about("Cosine similarity.")
    revision: int = _about("The state of the text.")
    offset: int = _about("Its length.")


@dataclass(frozen=True)
class ErrorEvent(ServerEvent):
    """What was asked is refused, and nothing of it was applied."""

    type = "error"
    error: dict[str, Any] = _about("`type`, `code`, `message`, `param`, as over HTTP.")
    expected_offset: int | None = _about("Where an append must start.", None)
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


def parse_object(body: str | bytes, what: str = "the body") -> dict[str, Any]:
    """A JSON object. Raises InvalidRequest."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"{what} is not valid JSON: {error.msg} at byte {error.pos}") from None
    if not isinstance(value, dict):
        raise InvalidRequest(f"{what} is not a JSON object")
    return value


def parse(model: type[Body], body: bytes) -> Body:
    """Reads a JSON body. Raises InvalidRequest, which names the field and never repeats the value."""
    return validate(model, parse_object(body))


def parse_event(value: dict[str, Any]) -> ClientEvent:
    """A client's event. Raises InvalidRequest as `parse` does."""
    kind = value.get("type")
    if not isinstance(kind, str):
        raise InvalidRequest("type is missing" if kind is None else "type is not a string", "type")
    if kind not in CLIENT_EVENTS:
        raise InvalidRequest(f"unknown event type {kind[:64]!r}", "type")
    return validate(CLIENT_EVENTS[kind], value)


def validate(model: type[Body], value: dict[str, Any]) -> Body:
    """The object as what it should be. Raises InvalidRequest as `parse` does."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_input=False, include_context=False, include_url=False)[0]
        # A client chooses the names of unknown fields, so only so much of one is repeated.
        parts = (f"[{part}]" if isinstance(part, int) else f".{part[:64]}" for part in first["loc"])
        where = "".join(parts).removeprefix(".")
        if first["type"] == "extra_forbidden":
            raise InvalidRequest(f"unknown field {where!r}", where) from None
        if first["type"] == "missing":
            raise InvalidRequest(f"{where} is missing", where) from None
        if first["type"] in ("model_type", "model_attributes_type", "dict_type"):
            raise InvalidRequest(f"{where} is not an object", where) from None
        message = first["msg"]
        raise InvalidRequest(f"{where}: {message[0].lower()}{message[1:]}", where) from None


def parse_input(value: object, accept_token_ids: bool, vocabulary: int) -> list[str] | list[list[int]]:
    """The input as a list of texts or a list of lists of ids. Raises InvalidRequest with the index of the bad item."""
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list):
        raise InvalidRequest("input is neither a string nor a list", "input")
    if not value:
        raise InvalidRequest("input is an empty list", "input")
    if isinstance(value[0], int) and not isinstance(value[0], bool):
        value = [value]
    if len(value) > MAX_INPUTS:
        raise InvalidRequest(f"input has {len(value)} items; at most {MAX_INPUTS} are allowed", "input")
    if isinstance(value[0], str):
        for index, text in enumerate(value):
            if not isinstance(text, str):
                raise InvalidRequest(f"input[{index}] is not a string, as the items before it are", f"input[{index}]")
            if not text:
                raise InvalidRequest(f"input[{index}] is an empty string", f"input[{index}]")
        return value
    for index, ids in enumerate(value):
        if not isinstance(ids, list) or not all(type(token) is int for token in ids):
            raise InvalidRequest(f"input[{index}] is neither a string nor a list of token ids", f"input[{index}]")
        if not ids:
            raise InvalidRequest(f"input[{index}] is an empty list", f"input[{index}]")
        if not accept_token_ids:
            raise InvalidRequest(
                "input holds token ids, and this server takes text: ids of another tokenizer (LangChain sends tiktoken's) "
                "would give wrong vectors without an error. In LangChain set check_embedding_ctx_length=False; for ids of "
                "this very model start the server with --accept-token-ids",
                "input",
            )
        if min(ids) < 0 or max(ids) >= vocabulary:
            raise InvalidRequest(f"input[{index}] has a token id outside 0..{vocabulary - 1}", f"input[{index}]")
    return value


def error_body(error: RequestError) -> dict[str, object]:
    """OpenAI's error body; beside it, where a session stands that refused a change."""
    described = {"message": error.message, "type": error.type, "param": error.param, "code": error.code}
    body: dict[str, object] = {"error": described if error.details is None else described | {"details": error.details}}
    if error.expected_offset is not None:
        body["expected_offset"] = error.expected_offset
    if error.revision is not None:
        body["revision"] = error.revision
    return body


def error_of(body: Any, status: int | None = None) -> RequestError:
    """The exception that an error's body, or an `error` event, stands for; whatever the body is."""
    described = body.get("error") if isinstance(body, dict) else None
    if not isinstance(described, dict):
        body, described = {}, {}
    by_code = {error.code: error for error in ERROR_TABLE}
    kind = by_code.get(str(described.get("code")))
    if kind is None:
        kind = next((error for error in ERROR_TABLE if error.status == status), Internal)
    error = kind(str(described.get("message", f"the server answered {status}")), described.get("param"))
    error.expected_offset, error.revision = body.get("expected_offset"), body.get("revision")
    error.details = described.get("details")
    return error


def error_event(error: RequestError, session: str | None, event_id: str | None) -> ErrorEvent:
    """The same as an event."""
    return ErrorEvent(session=session, event_id=event_id, **error_body(error))  # type: ignore[arg-type]
