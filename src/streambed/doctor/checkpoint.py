"""The model: what was read from its files, and whether it fits the machine."""

from collections.abc import Iterator

import torch

from streambed import machine
from streambed.doctor.report import Answer, Finding, gib
from streambed.engine.engine import Engine
from streambed.model.choice import multiplies_bfloat16


def examine(engine: Engine, seconds: float) -> Iterator[Finding]:
    """seconds: how long the engine took to load."""
    info, checkpoint = engine.info, engine.checkpoint
    size = sum(file.stat().st_size for file in checkpoint.weight_files)
    files = "1 file" if len(checkpoint.weight_files) == 1 else f"{len(checkpoint.weight_files)} files"
    prompts = [f"{name} {prompt!r}" for name, prompt in sorted(checkpoint.prompts.items())]
    shorter = f"{info.default_dimensions:,}, which is the checkpoint's truncate_dim"
    default_prompt = f"{info.default_prompt_name} {engine.prompt()!r}, where a request names none"
    unknown = f"{', '.join(checkpoint.unknown_keys)}; whether they change vectors is not known here"
    rows: list[tuple[str, Answer]] = [
        ("name", ("ok", info.model)),
        ("directory", ("ok", str(checkpoint.directory))),
        ("weights", ("ok", f"{files}, {gib(size)}; loaded and measured in {seconds:.1f} s")),
        ("fingerprint", ("ok", info.fingerprint)),
        ("vectors", ("ok", f"{info.dimensions:,} dimensions, from {checkpoint.config.num_layers} layers")),
        ("number format", _number_format(engine)),
        ("window", _window(engine)),
        ("KV", _budget(engine)),
        ("step", ("ok", f"{info.max_batch_tokens:,} rows")),
        ("attention, pooling", ("ok", "causal, last token; vectors of unit length")),
        ("default dimensions", ("ok", shorter if info.default_dimensions != info.dimensions else "")),
        ("prompts", ("ok", ", ".join(prompts) or "none named")),
        ("default prompt", ("ok", default_prompt if info.default_prompt_name is not None else "none")),
        ("instruction", ("ok", repr(info.instruction_template))),
        ("text", ("ok", "made lower-case first, as the checkpoint says" if checkpoint.pipeline.lower_case else "")),
        ("only for training", ("ok", ", ".join(checkpoint.training_keys))),
        ("unknown keys", ("warn", unknown if checkpoint.unknown_keys else "")),
        ("special tokens", ("ok", {"text": "plain text", "parse": "parsed"}[info.special_tokens])),
    ]
    yield from (Finding("model", name, status, detail) for name, (status, detail) in rows if detail)


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
    info, memory = engine.info, engine.compute.memory()
    free = machine.free_memory() if memory is None else memory.free
    held = info.kv_memory // info.kv_bytes_per_token
    detail = f"{gib(info.kv_memory)} for {held:,} tokens of {info.kv_bytes_per_token / 1024:,.1f} KiB"
    if free is not None and info.kv_memory > free:
        return "warn", f"{detail}, but {gib(free)} are free; lower --kv-memory"
    return "ok", detail
