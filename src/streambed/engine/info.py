"""What was loaded."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from streambed.engine.compute import ComputeInfo
from streambed.engine.documents import Documents
from streambed.model.checkpoint import Checkpoint
from streambed.text.instructions import QWEN_TEMPLATE


@dataclass(frozen=True)
class EngineInfo:
    """For logs, `/info` and clients that keep vectors."""

    model: str
    fingerprint: str
    """Equal for two engines exactly when they give the same vectors for the same text, up to rounding."""
    dtype: str
    device: str
    dimensions: int
    """Of the model's own vectors."""
    default_dimensions: int
    """Of those that come where nobody says how many: the checkpoint's `truncate_dim`, or all."""
    default_prompt_name: str | None
    """Of the prompt that stands before texts where nobody names one."""
    instruction_template: str
    """The form of an instruction."""
    window: int
    """The checkpoint's own limit."""
    max_tokens: int
    """Most tokens of one text, instruction and end token included: the window, or less where memory for KV is short."""
    max_batch_tokens: int
    """Rows of a step, as measured at the start."""
    kv_memory: int
    kv_bytes_per_token: int
    special_tokens: str
    threads: int
    single_thread_rows: int
    """Steps that cost up to so many rows run on one thread; 0 where none does."""

    @classmethod
    def of(cls, checkpoint: Checkpoint, documents: Documents, compute: ComputeInfo) -> EngineInfo:
        return cls(
            model=checkpoint.name,
            fingerprint=_fingerprint(checkpoint.pipeline.pooling, documents, compute),
            dtype=compute.dtype,
            device=compute.device,
            dimensions=checkpoint.config.hidden_size,
            default_dimensions=documents.default_dimensions,
            default_prompt_name=documents.prompts.default_name,
            instruction_template=documents.prompts.template,
            window=checkpoint.window,
            max_tokens=compute.max_tokens,
            max_batch_tokens=compute.max_batch_tokens,
            kv_memory=compute.kv_memory,
            kv_bytes_per_token=compute.kv_bytes_per_token,
            special_tokens=documents.tokenizer.special_tokens,
            threads=compute.threads,
            single_thread_rows=compute.single_thread_rows,
        )


def _fingerprint(pooling: str, documents: Documents, compute: ComputeInfo) -> str:
    """Hash of everything that decides a vector."""
    tokenizer, prompts = documents.tokenizer, documents.prompts
    text = [tokenizer.digest, tokenizer.end_id, tokenizer.special_tokens]
    parts = [compute.weights, *text, pooling, "unit", compute.dtype]
    # What is not as in most checkpoints comes last, so that the others' fingerprints stay as they were.
    if unnamed := prompts.choose():
        parts.append(["default prompt", unnamed])
    if prompts.template != QWEN_TEMPLATE:
        parts.append(["template", prompts.template])
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
