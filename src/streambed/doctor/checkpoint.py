"""The model: what was read from its files, and whether it fits the machine."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from streambed.doctor.machine import free_memory
from streambed.doctor.report import Answer, Finding, gib
from streambed.engine.engine import Engine
from streambed.model.choice import multiplies_bfloat16

_found = partial(Finding, "model")


def examine_checkpoint(engine: Engine, seconds: float) -> Iterator[Finding]:
    """seconds: how long the engine took to load."""
    info, checkpoint = engine.info, engine.checkpoint
    size = sum(file.stat().st_size for file in checkpoint.weight_files)
    files = "1 file" if len(checkpoint.weight_files) == 1 else f"{len(checkpoint.weight_files)} files"
    yield _found("name", "ok", info.model)
    yield _found("directory", "ok", str(checkpoint.directory))
    yield _found("weights", "ok", f"{files}, {gib(size)}; loaded and measured in {seconds:.1f} s")
    yield _found("fingerprint", "ok", info.fingerprint)
    yield _found("vectors", "ok", f"{info.dimensions:,} dimensions, from {checkpoint.config.num_layers} layers")
    yield _found("number format", *_number_format(engine))
    yield _found("window", *_window(engine))
    yield _found("KV", *_budget(engine))
    yield _found("step", "ok", f"{info.max_batch_tokens:,} rows")
    yield from _facts(engine)
    yield _found("special tokens", "ok", {"text": "plain text", "parse": "parsed"}[info.special_tokens])


def _facts(engine: Engine) -> Iterator[Finding]:
    """What was read from the checkpoint's files, beside shapes and weights."""
    info, checkpoint = engine.info, engine.checkpoint
    yield _found("attention, pooling", "ok", "causal, last token; vectors of unit length")
    if info.default_dimensions != info.dimensions:
        detail = f"{info.default_dimensions:,}, which is the checkpoint's truncate_dim"
        yield _found("default dimensions", "ok", detail)
    prompts = [f"{name} {prompt!r}" for name, prompt in sorted(checkpoint.prompts.items())]
    yield _found("prompts", "ok", ", ".join(prompts) or "none named")
    name = info.default_prompt_name
    default = "none" if name is None else f"{name} {engine.prompt()!r}, where a request names none"
    yield _found("default prompt", "ok", default)
    yield _found("instruction", "ok", repr(info.instruction_template))
    if checkpoint.pipeline.lower_case:
        yield _found("text", "ok", "made lower-case first, as the checkpoint says")
    if checkpoint.training_keys:
        yield _found("only for training", "ok", ", ".join(checkpoint.training_keys))
    if checkpoint.unknown_keys:
        detail = f"{', '.join(checkpoint.unknown_keys)}; whether they change vectors is not known here"
        yield _found("unknown keys", "warn", detail)


def _number_format(engine: Engine) -> Answer:
    info = engine.info
    detail = f"{info.dtype} on {info.device}, {info.threads} {'thread' if info.threads == 1 else 'threads'}"
    if info.dtype == "bfloat16" and not multiplies_bfloat16(torch.device(info.device)):
        advice = "this processor does not multiply bfloat16 natively: --dtype float32 is faster and exact"
        return "warn", f"{detail}; {advice}"
    return "ok", detail


def _window(engine: Engine) -> Answer:
    window, most = engine.info.window, engine.info.max_tokens
    if most == window:
        return "ok", f"{window:,} tokens, all of which can be used"
    return "warn", f"{window:,} tokens, but --kv-memory holds {most:,}; longer texts are refused or divided"


def _budget(engine: Engine) -> Answer:
    info, free = engine.info, free_memory(engine.info.device)
    held = info.kv_memory // info.kv_bytes_per_token
    detail = f"{gib(info.kv_memory)} for {held:,} tokens of {info.kv_bytes_per_token / 1024:,.1f} KiB"
    if free is not None and info.kv_memory > free:
        return "warn", f"{detail}, but {gib(free)} are free; lower --kv-memory"
    return "ok", detail
