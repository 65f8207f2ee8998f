"""Tiny random checkpoints in the Hugging Face layout, made for tests."""

from __future__ import annotations

import json
import lzma
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

import streambed.model
from streambed import Engine

BUILTIN = Path(streambed.model.__file__).parent / "builtin"
VOCABULARY = 20_800
QWEN_TOKENIZER = Path(__file__).parent / "data" / "qwen3-tokenizer.json.xz"


def write_qwen_tokenizer(directory: Path) -> Path:
    """Unpacks the real Qwen3 vocabulary (with Qwen3-Embedding's end-token post-processor)."""
    file = directory / "tokenizer.json"
    file.write_bytes(lzma.decompress(QWEN_TOKENIZER.read_bytes()))
    return file


def load_engine(model: str | Path, **options: Any) -> Engine:
    """An engine in float32 that does not measure at start how many rows a step may have."""
    return Engine.load(str(model), **{"dtype": "float32", "max_batch_tokens": 4096} | options)


def make_checkpoint(
    directory: Path,
    *,
    seed: int = 0,
    prefix: str = "",
    shards: int = 1,
    lm_head: bool = False,
    dtype: torch.dtype = torch.float32,
    window: int = 512,
    nested_rope: bool = False,
    prompts: dict[str, str] | None = None,
    **changes: Any,
) -> Path:
    """Writes a loadable checkpoint of random weights; `changes` are keys of config.json.

    The tokenizer is the built-in model's (`VOCABULARY` ids, the last one the end token), so that tests stay small.
    """
    directory.mkdir(parents=True, exist_ok=True)
    config: dict[str, Any] = {
        "architectures": ["Qwen3Model"],
        "model_type": "qwen3",
        "hidden_act": "silu",
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": window,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "tie_word_embeddings": True,
        "attention_bias": False,
        "eos_token_id": VOCABULARY - 1,
        "pad_token_id": VOCABULARY - 1,
    } | changes
    if nested_rope:
        config["rope_parameters"] = {"rope_type": "default", "rope_theta": config.pop("rope_theta")}
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "modules.json").write_text(
        json.dumps(
            [
                {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
                {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
                {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
            ]
        )
    )
    (directory / "1_Pooling").mkdir(exist_ok=True)
    (directory / "1_Pooling" / "config.json").write_text(
        json.dumps(
            {
                "word_embedding_dimension": config["hidden_size"],
                "pooling_mode_cls_token": False,
                "pooling_mode_mean_tokens": False,
                "pooling_mode_lasttoken": True,
                "include_prompt": True,
            }
        )
    )
    if prompts is not None:
        (directory / "config_sentence_transformers.json").write_text(json.dumps({"prompts": prompts}))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(BUILTIN / name, directory / name)

    tensors = {f"{prefix}{name}": tensor.to(dtype) for name, tensor in random_tensors(config, seed).items()}
    if lm_head:
        tensors["lm_head.weight"] = torch.zeros(config["vocab_size"], config["hidden_size"], dtype=dtype)
    if shards == 1:
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
        return directory
    weight_map = {}
    names = sorted(tensors)
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = {name: tensors[name] for name in names[shard::shards]}
        save_file(part, directory / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return directory


def random_tensors(config: dict[str, Any], seed: int = 0) -> dict[str, torch.Tensor]:
    """Weights by name, without prefix: large enough that attention is far from uniform."""
    generator = torch.Generator().manual_seed(seed)

    def matrix(rows: int, columns: int) -> torch.Tensor:
        return torch.randn(rows, columns, generator=generator) * 1.5 * columns**-0.5

    def vector(size: int, around: float = 1.0) -> torch.Tensor:
        return around + 0.2 * torch.randn(size, generator=generator)

    hidden, inner, dim = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    q, kv = config["num_attention_heads"] * dim, config["num_key_value_heads"] * dim
    tensors = {"embed_tokens.weight": torch.randn(config["vocab_size"], hidden, generator=generator)}
    for index in range(config["num_hidden_layers"]):
        at = f"layers.{index}."
        tensors |= {
            f"{at}input_layernorm.weight": vector(hidden),
            f"{at}self_attn.q_proj.weight": matrix(q, hidden),
            f"{at}self_attn.k_proj.weight": matrix(kv, hidden),
            f"{at}self_attn.v_proj.weight": matrix(kv, hidden),
            f"{at}self_attn.o_proj.weight": matrix(hidden, q),
            f"{at}self_attn.q_norm.weight": vector(dim),
            f"{at}self_attn.k_norm.weight": vector(dim),
            f"{at}post_attention_layernorm.weight": vector(hidden),
            f"{at}mlp.gate_proj.weight": matrix(inner, hidden),
            f"{at}mlp.up_proj.weight": matrix(inner, hidden),
            f"{at}mlp.down_proj.weight": matrix(hidden, inner),
        }
        if config["attention_bias"]:
            for name, size in zip("qkvo", (q, kv, kv, hidden), strict=True):
                tensors[f"{at}self_attn.{name}_proj.bias"] = vector(size, 0.0)
    return tensors | {"norm.weight": vector(hidden)}
