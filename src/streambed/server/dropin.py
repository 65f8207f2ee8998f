"""Routes of other servers, so that their clients need a new address and nothing else: `/embed` of Hugging Face's Text
Embeddings Inference (TEI), `/api/embed` and `/api/embeddings` of Ollama, and what Ollama's clients ask before.

Each is a translation of `POST /v1/embeddings`: their request into ours, our vectors and errors into their form. What no
setting here can do, such as vectors that are not of unit length, is refused; what has no effect on a vector is accepted.
"""

import time
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, WithJsonSchema, create_model
from starlette.requests import Request
from starlette.responses import Response

import streambed
from streambed.engine.engine import Engine
from streambed.engine.sequence import Embedding
from streambed.errors import Internal, InvalidRequest, NotReady, Overloaded, RequestError
from streambed.limits import MAX_INPUTS
from streambed.server.embeddings import Embeddings
from streambed.server.ignored import parse_body
from streambed.server.inputs import Inputs
from streambed.server.replies import Json
from streambed.settings import Settings
from streambed.vectors.reducers import Form
from streambed.wire import EmbeddingsRequest, Strict
from streambed.wire.requests import Input, Integer, Positive


class TeiRequest(Strict):
    """Body of `POST /embed`."""

    inputs: Input = Field(description="A text, texts, token ids, or lists of token ids.")
    normalize: bool = Field(True, description="All vectors are of unit length: only `true` is accepted.")
    truncate: bool = Field(False, description="Cut what is longer than the window; else it is refused with 413.")
    truncation_direction: Literal["Right", "right", "Left", "left"] = Field(
        "Right", description="Where to cut; only the right side, the end of the text, is."
    )
    prompt_name: str | None = Field(None, description="A prompt that the checkpoint names.")
    dimensions: Integer | None = Field(None, description="Leading dimensions to keep.")


_NO_EFFECT: dict[Any, str] = {
    Integer: "num_keep num_predict num_batch num_gpu main_gpu num_thread seed top_k repeat_last_n mirostat",
    bool: "numa low_vram f16_kv use_mmap use_mlock logits_all vocab_only embedding_only penalize_newline",
    float: "top_p min_p tfs_z typical_p temperature repeat_penalty presence_penalty frequency_penalty"
    " mirostat_tau mirostat_eta",
    list[str]: "stop",
}
_ignored: dict[str, Any] = {name: (kind | None, None) for kind, names in _NO_EFFECT.items() for name in names.split()}


class OllamaOptions(create_model("_Ignored", __base__=Strict, **_ignored)):  # type: ignore[misc]
    """Ollama's options. All but `num_ctx` are of generation, or of how a model is loaded: none changes a vector."""

    num_ctx: Positive | None = Field(None, description="Cut what is longer than so many tokens.")


class _OllamaRequest(Strict):
    model: str = Field(description="A name that `/v1/models` lists, `:latest` behind it or not.")
    options: OllamaOptions | None = Field(None, description="See above.")
    keep_alive: Annotated[Any, WithJsonSchema({"oneOf": [{"type": "number"}, {"type": "string"}]})] = Field(
        None, description="Accepted; a model stays loaded here."
    )


class OllamaEmbedRequest(_OllamaRequest):
    """Body of `POST /api/embed`."""

    input: Input = Field(description="A text, or texts.")
    truncate: bool = Field(True, description="Cut what is longer than the window; else it is refused.")
    dimensions: Integer | None = Field(None, description="Leading dimensions to keep.")


class OllamaEmbeddingsRequest(_OllamaRequest):
    """Body of `POST /api/embeddings`."""

    prompt: str = Field(description="A text.")


class OllamaShowRequest(Strict):
    """Body of `POST /api/show`."""

    model: str | None = Field(None, description="A name that `/v1/models` lists, `:latest` behind it or not.")
    name: str | None = Field(None, description="The same, as older clients say it.")
    verbose: bool = Field(False, description="Accepted.")


class DropIn:
    """The handlers."""

    def __init__(self, engine: Engine, embeddings: Embeddings) -> None:
        self._engine = engine
        self._embeddings = embeddings
        self._since = datetime.now(UTC).isoformat()

    async def tei_embed(self, request: Request) -> Response:
        """Text Embeddings Inference's route: a bare list of vectors."""

        def read(body: bytes) -> EmbeddingsRequest:
            asked = parse_body(TeiRequest, request, body)
            if not asked.normalize:
                raise InvalidRequest("normalize is false, and all vectors here are of unit length", "normalize")
            if asked.truncation_direction.lower() == "left":
                raise InvalidRequest(
                    "truncation_direction is left, and texts are cut at their end alone", "truncation_direction"
                )
            return EmbeddingsRequest.model_validate(
                {
                    "input": asked.inputs,
                    "model": self._embeddings.names[0],
                    "long_input": "truncate" if asked.truncate else "error",
                    "prompt_name": asked.prompt_name,
                    "dimensions": asked.dimensions,
                }
            )

        return await self._embeddings.embed(request, read, _vectors)

    async def ollama_embed(self, request: Request) -> Response:
        """Ollama's route, with vectors of unit length as there."""
        started, model = time.perf_counter_ns(), ""

        def read(body: bytes) -> EmbeddingsRequest:
            nonlocal model
            asked = parse_body(OllamaEmbedRequest, request, body)
            model = asked.model
            return self._asking(asked, asked.truncate, input=asked.input, dimensions=asked.dimensions)

        def write(asked: EmbeddingsRequest, form: Form, inputs: Inputs, embeddings: list[Embedding]) -> Any:
            return {
                "model": model,
                "embeddings": _vectors(asked, form, inputs, embeddings),
                "total_duration": time.perf_counter_ns() - started,
                "load_duration": 0,
                "prompt_eval_count": sum(len(segment.ids) + 1 for segment in inputs.wanted),
            }

        return await self._embeddings.embed(request, read, write)

    async def ollama_embeddings(self, request: Request) -> Response:
        """Ollama's older route, for one text."""

        def read(body: bytes) -> EmbeddingsRequest:
            asked = parse_body(OllamaEmbeddingsRequest, request, body)
            return self._asking(asked, True, input=asked.prompt)

        return await self._embeddings.embed(request, read, lambda *found: {"embedding": _vectors(*found)[0]})

    async def ollama_tags(self, request: Request) -> Response:
        """The models, as Ollama lists them."""
        facts = {
            "modified_at": self._since,
            "size": sum(file.stat().st_size for file in self._engine.checkpoint.weight_files),
            "digest": self._engine.info.fingerprint,
            "details": self._details(),
        }
        return Json({"models": [{"name": name, "model": name, **facts} for name in self._embeddings.names]})

    async def ollama_version(self, request: Request) -> Response:
        """Streambed's own version."""
        return Json({"version": streambed.__version__})

    async def ollama_show(self, request: Request) -> Response:
        """What a model is, as far as embeddings go."""
        asked = parse_body(OllamaShowRequest, request, await request.body())
        self._embeddings.check_model(self._name(asked.model or asked.name or ""))
        info = self._engine.info
        return Json(
            {
                "modified_at": self._since,
                "details": self._details(),
                "model_info": {
                    "general.architecture": "qwen3",
                    "qwen3.context_length": info.max_tokens,
                    "qwen3.embedding_length": info.dimensions,
                },
                "capabilities": ["embedding"],
            }
        )

    def _details(self) -> dict[str, Any]:
        info = self._engine.info
        return {
            "format": "safetensors",
            "family": "qwen3",
            "families": ["qwen3"],
            "quantization_level": info.dtype if info.quantize == "none" else info.quantize,
        }

    def _name(self, model: str) -> str:
        """Ollama's clients put a tag behind a name that has none."""
        return model if model in self._embeddings.names else model.removesuffix(":latest")

    def _asking(self, asked: _OllamaRequest, truncate: bool, **more: Any) -> EmbeddingsRequest:
        """The same in our words. truncate: whether what is longer than the window is cut."""
        kept = asked.options.num_ctx if asked.options is not None else None
        if kept is None or kept >= self._engine.info.max_tokens:
            more["long_input"] = "truncate" if truncate else "error"
        elif truncate:
            more["truncate_prompt_tokens"] = kept
        else:
            raise InvalidRequest(
                "num_ctx is less than the window and truncate is false, and only texts beyond the window are refused here",
                "options.num_ctx",
            )
        return EmbeddingsRequest(model=self._name(asked.model), **more)


def tei_facts(engine: Engine, settings: Settings) -> dict[str, Any]:
    """What TEI's `/info` has, beside our own."""
    return {
        "model_id": engine.info.model,
        "model_sha": settings.revision,
        "model_dtype": engine.info.dtype,
        "model_type": {"embedding": {"pooling": "last_token"}},
        "max_concurrent_requests": settings.max_requests,
        "max_input_length": engine.info.max_tokens,
        "max_batch_tokens": engine.info.max_batch_tokens,
        "max_batch_requests": None,
        "max_client_batch_size": MAX_INPUTS,
        "auto_truncate": False,  # of /embed
        "tokenization_workers": Embeddings.WORKERS,
        "version": streambed.__version__,
        "sha": None,
        "docker_label": None,
    }


_TEI_KINDS: dict[type[RequestError], tuple[str, int]] = {
    InvalidRequest: ("Validation", 422),
    Overloaded: ("Overloaded", Overloaded.status),
    NotReady: ("Unhealthy", NotReady.status),
    Internal: ("Backend", 424),
}


def as_tei(error: RequestError) -> tuple[int, dict[str, Any]]:
    """Status and body of an error as TEI has them."""
    kind, status = _TEI_KINDS.get(type(error), ("Backend" if error.status >= 500 else "Validation", error.status))
    if error.details and "indexes" in error.details:
        kind, status = "Empty", error.status
    return status, {"error": _words(error, "inputs"), "error_type": kind}


def as_ollama(error: RequestError) -> tuple[int, dict[str, Any]]:
    """The same as Ollama has them."""
    return error.status, {"error": _words(error, "input")}


def _words(error: RequestError, field: str) -> str:
    """The message, without what only our own fields can do about it."""
    if error.details and "indexes" in error.details:
        return (
            f"{field} has empty texts, which have no embedding, at {', '.join(map(str, error.details['indexes'][:10]))}"
        )
    return error.message


def _vectors(asked: EmbeddingsRequest, form: Form, inputs: Inputs, embeddings: list[Embedding]) -> Any:
    """float32 [texts, dimensions]: one row a text, since none was divided."""
    return np.ascontiguousarray(form.vectors(np.stack([embedding.vectors[0] for embedding in embeddings])))
