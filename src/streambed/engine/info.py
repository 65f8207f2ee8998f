"""What was loaded."""

import hashlib
import json
from dataclasses import dataclass

from streambed.engine.compute import Compute, ComputeInfo
from streambed.engine.documents import Documents
from streambed.model.checkpoint import Checkpoint
from streambed.text.instructions import QWEN_TEMPLATE


@dataclass(frozen=True)
class EngineInfo(ComputeInfo):
    """For logs, `/info` and clients that keep vectors."""

    model: str
    fingerprint: str
    """Equal for two engines exactly when they give the same vectors for the same text, up to rounding."""
    dimensions: int
    """Of the model's own vectors."""
    default_dimensions: int
    """Dimensions of vectors where a request does not say: the checkpoint's `truncate_dim`, or all."""
    default_prompt_name: str | None
    """Name of the prompt for requests that name none."""
    instruction_template: str
    """The form of an instruction."""
    window: int
    """The checkpoint's own limit."""
    special_tokens: str

    @classmethod
    def of(cls, checkpoint: Checkpoint, documents: Documents, compute: Compute) -> "EngineInfo":
        return cls(
            **vars(compute.info),
            model=checkpoint.name,
            fingerprint=_fingerprint(checkpoint.pipeline.pooling, documents, compute),
            dimensions=checkpoint.config.hidden_size,
            default_dimensions=documents.default_dimensions,
            default_prompt_name=documents.prompts.default_name,
            instruction_template=documents.prompts.template,
            window=checkpoint.window,
            special_tokens=documents.tokenizer.special_tokens,
        )


def _fingerprint(pooling: str, documents: Documents, compute: Compute) -> str:
    """Hash of everything that decides a vector."""
    tokenizer, prompts = documents.tokenizer, documents.prompts
    text = [tokenizer.digest, tokenizer.end_id, tokenizer.special_tokens]
    parts = [compute.weights, *text, pooling, "unit", compute.info.dtype]
    # Settings that most checkpoints do not have come last, so that the fingerprints of the others do not change.
    if unnamed := prompts.choose():
        parts.append(["default prompt", unnamed])
    if prompts.template != QWEN_TEMPLATE:
        parts.append(["template", prompts.template])
    if compute.info.quantize != "none":
        parts.append(["quantize", compute.info.quantize])
    if compute.info.kv_dtype != compute.info.dtype:
        parts.append(["kv", compute.info.kv_dtype])
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
