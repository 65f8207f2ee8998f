"""A random checkpoint of Qwen3-Embedding-0.6B's shape: same sizes, same tokenizer, no meaning."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import torch
from safetensors.torch import save_file

_TOKENIZER = Path(__file__).parents[1] / "tests" / "data" / "qwen3-tokenizer.json.xz"
_CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_act": "silu",
    "attention_bias": False,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151_669,
    "max_position_embeddings": 32_768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1_000_000,
    "tie_word_embeddings": True,
    "eos_token_id": 151_643,
    "dtype": "bfloat16",
}


def make_0_6b(directory: Path) -> Path:
    """Writes the checkpoint (1.2 GB, bfloat16) unless it is there already. Returns the directory."""
    if (directory / "model.safetensors").exists():
        return directory
    directory.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(0)

    def matrix(rows: int, columns: int) -> torch.Tensor:
        return (torch.randn(rows, columns, generator=generator) * 0.02).bfloat16()

    def ones(size: int) -> torch.Tensor:
        return torch.ones(size, dtype=torch.bfloat16)

    tensors = {"embed_tokens.weight": matrix(151_669, 1024), "norm.weight": ones(1024)}
    for index in range(28):
        at = f"layers.{index}."
        tensors |= {
            f"{at}input_layernorm.weight": ones(1024),
            f"{at}self_attn.q_proj.weight": matrix(2048, 1024),
            f"{at}self_attn.k_proj.weight": matrix(1024, 1024),
            f"{at}self_attn.v_proj.weight": matrix(1024, 1024),
            f"{at}self_attn.o_proj.weight": matrix(1024, 2048),
            f"{at}self_attn.q_norm.weight": ones(128),
            f"{at}self_attn.k_norm.weight": ones(128),
            f"{at}post_attention_layernorm.weight": ones(1024),
            f"{at}mlp.gate_proj.weight": matrix(3072, 1024),
            f"{at}mlp.up_proj.weight": matrix(3072, 1024),
            f"{at}mlp.down_proj.weight": matrix(1024, 3072),
        }
    (directory / "config.json").write_text(json.dumps(_CONFIG))
    (directory / "tokenizer.json").write_bytes(lzma.decompress(_TOKENIZER.read_bytes()))
    (directory / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<|endoftext|>", "padding_side": "left"})
    )
    (directory / "1_Pooling").mkdir(exist_ok=True)
    pooling = {"word_embedding_dimension": 1024, "pooling_mode_lasttoken": True, "pooling_mode_mean_tokens": False}
    (directory / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (path, kind) in enumerate(kinds.items())
    ]
    (directory / "modules.json").write_text(json.dumps(modules))
    # Last, so that a run that was cut off leaves nothing that looks whole.
    save_file(tensors, directory / "model.safetensors.part", metadata={"format": "pt"})
    (directory / "model.safetensors.part").rename(directory / "model.safetensors")
    return directory
