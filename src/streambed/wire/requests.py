"""Bodies of requests, and what events share with them. Strict, and unknown fields are refused: a misspelt option must not
be silently without effect."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from streambed.text.strings import Empty
from streambed.text.units import OffsetUnit
from streambed.vectors.shape import EncodingFormat

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


class Strict(BaseModel):
    """What a client sends. A field that is null counts as not given, in whatever is nested too."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, value: Any) -> Any:
        if isinstance(value, dict) and any(each is None for each in value.values()):
            return {name: each for name, each in value.items() if each is not None or name not in cls.model_fields}
        return value


def whole(value: Any) -> Any:
    """A float that is an integer, as JavaScript's and Lua's are, as one; anything else as it is. Beyond 2**53 floats have
    gaps, so nobody knows which integer was meant."""
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) <= 2**53 else value


# The bounds stand inside: around the validator the schema would not show them.
Integer = Annotated[int, BeforeValidator(whole)]
Natural = Annotated[int, Field(ge=0), BeforeValidator(whole)]
Positive = Annotated[int, Field(ge=1), BeforeValidator(whole)]

_INPUT_TYPES = {"query": "query", "search_query": "query"} | dict.fromkeys(
    ("document", "search_document", "passage"), "document"
)
InputType = Annotated[
    Literal["query", "document"],
    BeforeValidator(lambda value: _INPUT_TYPES.get(value, value) if isinstance(value, str) else value),
    WithJsonSchema({"type": "string", "enum": list(_INPUT_TYPES)}),
]
"""Cohere's and Voyage's words are taken, too; what stands behind sees ours alone."""


class _Prompted(Strict):
    instruction: str | None = Field(None, description="Task that the embedding is for, in words; put before the text.")
    input_type: InputType | None = Field(
        None,
        description="What the text is, instead of a task; `search_query` is `query`, `search_document` and `passage` are "
        "`document`.",
    )
    prompt_name: str | None = Field(None, description="A prompt that the checkpoint names, instead of a task.")


class _Shaped(_Prompted):
    encoding_format: EncodingFormat = Field(
        "float",
        description="`base64` is little-endian float32; `int8` and `ubinary` are numbers that come with a `scale`.",
    )
    dimensions: Integer | None = Field(None, description="Leading dimensions to keep: 32 to the model's own.")
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
    truncate_prompt_tokens: Annotated[Literal[-1], BeforeValidator(whole)] | Positive | None = Field(
        None,
        description="Keep so many tokens, the first ones, prompt and end token among them; -1 is the window. vLLM's, "
        "instead of `long_input`.",
    )
    empty: Empty = Field(
        "error", description="What to do with an empty text: refuse the request, or give `null` in its place."
    )
    overlap: Natural = Field(0, description="Tokens of a segment's end that the next one begins with, about.")
    segments: bool = Field(False, description="Give each segment's own vector, too, with its place and hash.")
    known_segments: list[str] | None = Field(
        None,
        max_length=65_536,
        fail_fast=True,
        description="Hashes of segments whose vectors the client has: they are not computed again, and no text that has "
        "one is merged; implies `segments`.",
    )
    priority: Literal["query", "bulk"] | None = Field(None, description="Lane; by default decided by the size.")
    timeout_ms: Positive | None = Field(None, description="Give up with 504 after this time.")


MAX_PREFIXES = 2048
"""Vectors of one request for prefixes."""


class PrefixesRequest(_Shaped):
    """Body of `POST /v1/embeddings/prefixes`: vectors of beginnings of one text, which is read once."""

    input: str = Field(min_length=1, description="The text.")
    model: str = Field(description="A name that `/v1/models` lists.")
    every: Literal["sentence"] | Positive = Field(
        "sentence",
        description="At the ends of sentences and lines, or after so many tokens; the whole text comes last.",
    )
    offsets: list[Integer] | None = Field(
        None,
        min_length=1,
        max_length=MAX_PREFIXES,
        fail_fast=True,
        description="At these places instead, which must rise.",
    )
    offset_unit: OffsetUnit = Field("codepoint", description="What offsets count, in both directions.")
    priority: Literal["query", "bulk"] | None = Field(None, description="Lane; by default decided by the size.")
    timeout_ms: Positive | None = Field(None, description="Give up with 504 after this time.")


class TokenizeRequest(_Prompted):
    """Body of `POST /tokenize`."""

    input: Input = Field(description="A text, or texts.")
    model: str | None = Field(None, description="A name that `/v1/models` lists.")


class Emit(Strict):
    """When a session emits its embedding by itself."""

    on: Literal["manual", "append", "pause", "sentence", "drift"] = Field(
        "manual",
        description="`append`: after every change; `pause`: when changes stop; `sentence`: when a sentence ends, and when "
        "changes stop; `drift`: when the vector has moved away from the last one emitted.",
    )
    min_interval_ms: Annotated[int, Field(ge=0, le=3_600_000), BeforeValidator(whole)] = Field(
        0, description="Least time between two automatic embeddings."
    )
    pause_ms: Annotated[int, Field(ge=10, le=3_600_000), BeforeValidator(whole)] = Field(
        300, description="How long without a change counts as a pause."
    )
    drift: float = Field(
        0.1, gt=0, le=2, allow_inf_nan=False, description="Cosine distance from the last emitted vector."
    )


class Watch(Strict):
    """Something to look out for: `watch.triggered` when the text comes as near to it as `threshold`."""

    id: str = Field(min_length=1, max_length=64, description="Name of the watch in `watch.triggered`.")
    text: str | None = Field(None, min_length=1, description="What to watch for; embedded as a document.")
    embedding: list[float] | None = Field(
        None,
        fail_fast=True,
        description="Its vector instead, with the session's `dimensions`; under a reducer, with the model's own.",
    )
    threshold: float = Field(ge=-1, le=1, allow_inf_nan=False, description="Cosine similarity at which it triggers.")


MAX_WATCHES = 64
"""Watches of one session."""


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


class AppendRequest(Strict):
    """Body of `POST /v1/sessions/{id}/append`, and fields of `input_text.append`."""

    text: str = Field(description="Text to add at the end.")
    offset: Natural | None = Field(None, description="Where it starts; makes an append that is sent again harmless.")
    base_revision: Natural | None = Field(None, description="The revision that this change was made to.")


class SetRequest(Strict):
    """Body of `PUT /v1/sessions/{id}/text`, and fields of `input_text.set`."""

    text: str = Field(description="The whole text; what it begins alike is not computed again.")
    base_revision: Natural | None = Field(None, description="The revision that this change was made to.")


class EmbeddingRequest(Strict):
    """Body of `POST /v1/sessions/{id}/embedding`."""

    timeout_ms: Positive | None = Field(None, description="Give up with 504 after this time.")
