"""What travels: requests and replies of the HTTP API. Knows neither torch nor the web framework.

The contract is OpenAI's (API reference, "Create embeddings"), with the additions of docs/design.md, section 8. Types are
strict and unknown fields are refused: a misspelt option must not be silently without effect.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema

from streambed.errors import InvalidRequest, RequestError

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


class EmbeddingsRequest(_Prompted):
    """Body of `POST /v1/embeddings`."""

    input: Input = Field(description="A text, texts, token ids, or lists of token ids.")
    model: str = Field(description="A name that `/v1/models` lists.")
    encoding_format: Literal["float", "base64"] = Field("float", description="`base64` is little-endian float32.")
    dimensions: int | None = Field(None, description="Leading dimensions to keep: 32 to the model's own.")
    user: str | None = Field(None, description="Accepted for compatibility; not used.")
    long_input: Literal["truncate", "error"] = Field("error", description="What to do with a text beyond the window.")
    priority: Literal["query", "bulk"] | None = Field(None, description="Lane; by default decided by the size.")
    timeout_ms: int | None = Field(None, gt=0, description="Give up with 504 after this time.")


class TokenizeRequest(_Prompted):
    """Body of `POST /tokenize`."""

    input: Input = Field(description="A text, or texts.")
    model: str | None = Field(None, description="A name that `/v1/models` lists.")


def parse(model: type[Body], body: bytes) -> Body:
    """Reads a JSON body. Raises InvalidRequest, which names the field and never repeats the value."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"the body is not valid JSON: {error.msg} at byte {error.pos}") from None
    if not isinstance(value, dict):
        raise InvalidRequest("the body is not a JSON object")
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_input=False, include_context=False, include_url=False)[0]
        # A client chooses the names of unknown fields, so only so much of one is repeated.
        where = ".".join(str(part)[:64] for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise InvalidRequest(f"unknown field {where!r}", where) from None
        if first["type"] == "missing":
            raise InvalidRequest(f"{where} is missing", where) from None
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
    """OpenAI's error body."""
    return {"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}}
