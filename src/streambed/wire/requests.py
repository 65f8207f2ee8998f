"""Bodies of requests, and what events share with them. Strict, and unknown fields are refused: a misspelt option must not
be ignored silently."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from streambed.limits import MAX_INPUTS, MAX_PREFIXES, MAX_WATCHES
from streambed.text.strings import Empty
from streambed.text.units import OffsetUnit
from streambed.vectors.shape import EncodingFormat

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
"""Cohere's and Voyage's words are taken, too; the code behind it sees only ours."""


class _Prompted(Strict):
    instruction: str | None = Field(
        None, description="The task that the embedding is for, in words; it goes before the text."
    )
    input_type: InputType | None = Field(
        None,
        description="What the text is, in place of a task. `search_query` means `query`; `search_document` and `passage` "
        "mean `document`.",
    )
    prompt_name: str | None = Field(
        None, description="The name of one of the checkpoint's prompts, in place of a task."
    )


class _Shaped(_Prompted):
    encoding_format: EncodingFormat = Field(
        "float",
        description="`base64` is little-endian float32; `int8` and `ubinary` are numbers that come with a `scale`.",
    )
    dimensions: Integer | None = Field(
        None, description="How many leading dimensions to keep: from 32 to all of the model's."
    )
    reducer: str | None = Field(None, description="A reducer that `/info` lists, in place of `dimensions`.")


class EmbeddingsRequest(_Shaped):
    """Body of `POST /v1/embeddings`."""

    input: Input = Field(description="A text, texts, token ids, or lists of token ids.")
    model: str = Field(description="A name that `/v1/models` lists.")
    user: str | None = Field(None, description="Accepted for compatibility; not used.")
    long_input: Literal["merge", "truncate", "error"] | None = Field(
        None,
        description="What to do with a text that is longer than the window: `merge` the vectors of its segments, `truncate` "
        "it, or refuse it with an `error`; the default is the server's `--long-input`.",
    )
    truncate_prompt_tokens: Annotated[Literal[-1], BeforeValidator(whole)] | Positive | None = Field(
        None,
        description="How many tokens to keep from the beginning, counting prompt and end token; -1 is the window. vLLM's "
        "field, in place of `long_input`.",
    )
    empty: Empty = Field(
        "error", description="What to do with an empty text: refuse the request, or return `null` in its place."
    )
    overlap: Natural = Field(0, description="About how many tokens from the end of a segment the next one repeats.")
    segments: bool = Field(False, description="Also return a vector for each segment, with its place and hash.")
    known_segments: list[str] | None = Field(
        None,
        max_length=65_536,
        fail_fast=True,
        description="Hashes of segments whose vectors the client already has. They are not computed again, and a text that "
        "contains one is not merged. Implies `segments`.",
    )
    priority: Literal["query", "bulk"] | None = Field(
        None, description="The lane; by default the size of the request decides."
    )
    timeout_ms: Positive | None = Field(None, description="After this time the request fails with 504.")


class PrefixesRequest(_Shaped):
    """Body of `POST /v1/embeddings/prefixes`: vectors of beginnings of one text, which is read once."""

    input: str = Field(min_length=1, description="The text.")
    model: str = Field(description="A name that `/v1/models` lists.")
    every: Literal["sentence"] | Positive = Field(
        "sentence",
        description="Where the beginnings end: at the ends of sentences and lines, or after every so many tokens. The whole "
        "text comes last.",
    )
    offsets: list[Integer] | None = Field(
        None,
        min_length=1,
        max_length=MAX_PREFIXES,
        fail_fast=True,
        description="Where the beginnings end, in rising order, in place of `every`.",
    )
    offset_unit: OffsetUnit = Field(
        "codepoint", description="The unit of all offsets, in the request and in the reply."
    )
    priority: Literal["query", "bulk"] | None = Field(
        None, description="The lane; by default the size of the request decides."
    )
    timeout_ms: Positive | None = Field(None, description="After this time the request fails with 504.")


class TokenizeRequest(_Prompted):
    """Body of `POST /tokenize`."""

    input: Input = Field(description="A text, or texts.")
    model: str | None = Field(None, description="A name that `/v1/models` lists.")


class Emit(Strict):
    """When a session sends embeddings unasked."""

    on: Literal["manual", "append", "pause", "sentence", "drift"] = Field(
        "manual",
        description="`append`: after every change; `pause`: when changes stop; `sentence`: when a sentence ends, and when "
        "changes stop; `drift`: when the vector has moved away from the last one emitted.",
    )
    min_interval_ms: Annotated[int, Field(ge=0, le=3_600_000), BeforeValidator(whole)] = Field(
        0, description="Least time between two automatic embeddings."
    )
    pause_ms: Annotated[int, Field(ge=10, le=3_600_000), BeforeValidator(whole)] = Field(
        300, description="How long nothing must change for a pause."
    )
    drift: float = Field(
        0.1, gt=0, le=2, allow_inf_nan=False, description="Cosine distance from the last emitted vector."
    )


class Watch(Strict):
    """Something to watch for: `watch.triggered` comes when the text's similarity to it reaches `threshold`."""

    id: str = Field(min_length=1, max_length=64, description="Name of the watch in `watch.triggered`.")
    text: str | None = Field(None, min_length=1, description="What to watch for; embedded as a document.")
    embedding: list[float] | None = Field(
        None,
        fail_fast=True,
        description="A vector to watch for, in place of a text; it has the session's `dimensions` or, under a reducer, the "
        "model's.",
    )
    threshold: float = Field(ge=-1, le=1, allow_inf_nan=False, description="Cosine similarity at which it triggers.")


class SessionOptions(_Shaped):
    """Body of `POST /v1/sessions`, and fields of `session.create`."""

    emit: Emit = Field(default_factory=lambda: Emit.model_validate({}), description="When to emit embeddings unasked.")
    watch: list[Watch] = Field(default_factory=list, max_length=MAX_WATCHES, description="What to watch for.")
    offset_unit: OffsetUnit = Field(
        "codepoint", description="The unit of all positions, in both directions; `utf16` is that of JavaScript strings."
    )
    overflow: Literal["error", "segment"] = Field(
        "error",
        description="What happens to a change that does not fit in the window: it is refused (`error`), or the text so far "
        "becomes a finished segment with a last vector of its own, and the text goes on in a new window (`segment`).",
    )
    text: str = Field("", description="The text to begin with.")

    def to_json(self) -> str:
        """As a store keeps them: without the text."""
        return self.model_dump_json(exclude={"text"})


class AppendRequest(Strict):
    """Body of `POST /v1/sessions/{id}/append`, and fields of `input_text.append`."""

    text: str = Field(description="Text to add at the end.")
    offset: Natural | None = Field(
        None, description="Where the text starts; with it, an append may be sent twice without harm."
    )
    base_revision: Natural | None = Field(None, description="The revision on which this change is based.")


class SetRequest(Strict):
    """Body of `PUT /v1/sessions/{id}/text`, and fields of `input_text.set`."""

    text: str = Field(description="The whole text; the beginning that has not changed is not computed again.")
    base_revision: Natural | None = Field(None, description="The revision on which this change is based.")


class EmbeddingRequest(Strict):
    """Body of `POST /v1/sessions/{id}/embedding`."""

    timeout_ms: Positive | None = Field(None, description="After this time the request fails with 504.")
