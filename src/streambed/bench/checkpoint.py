"""A checkpoint of random weights in the shape of Qwen3-Embedding-0.6B: as fast as that one, without meaning or download."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from streambed.model.checkpoint import BUILTIN, find_checkpoint

if TYPE_CHECKING:
    import torch

LAYERS, HIDDEN, INNER, HEADS, KV_HEADS, HEAD = 28, 1024, 3072, 16, 8, 128
VOCABULARY, WINDOW = 151_669, 32_768
_CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": HEAD,
    "intermediate_size": INNER,
    "max_position_embeddings": WINDOW,
}
_CHANGES = {
    "config.json": _CONFIG,
    "tokenizer.json": {},
    "tokenizer_config.json": {"model_max_length": WINDOW},
    "modules.json": {},
    "sentence_bert_config.json": {"max_seq_length": WINDOW},
    "1_Pooling/config.json": {"word_embedding_dimension": HIDDEN},
}
"""The files, which are those of the built-in model, and what is different in them. That model has Qwen's tokenizer over a
smaller vocabulary of its own, so most rows of the vocabulary's matrix are never read; that changes no time, since of any
vocabulary only the rows of the text's tokens are."""


def kept_checkpoint() -> Path:
    """Where the checkpoint is kept: below `$XDG_CACHE_HOME`, else `~/.cache`."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    return cache / "streambed" / "qwen3-embedding-0.6b-random"


def is_made(directory: Path) -> bool:
    """Whether it is there, and whole."""
    return (directory / "model.safetensors").exists()


def make_0_6b(directory: Path) -> None:
    """Writes it (1.2 GB in bfloat16, half a minute) unless it is there already; other servers can load it too."""
    from safetensors.torch import save_file

    if is_made(directory):
        return
    shipped = find_checkpoint(BUILTIN).directory
    for name, changes in _CHANGES.items():
        value = json.loads((shipped / name).read_text())
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(json.dumps(value | changes if changes else value, ensure_ascii=False))
    # Last, so that a run that was cut off leaves nothing that looks whole.
    save_file(_weights(), directory / "weights.part", metadata={"format": "pt"})
    (directory / "weights.part").rename(directory / "model.safetensors")


def _weights() -> "dict[str, torch.Tensor]":
    import torch

    generator = torch.Generator().manual_seed(0)

    def matrix(outputs: int, inputs: int) -> torch.Tensor:
        return (torch.randn(outputs, inputs, generator=generator) * 0.02).bfloat16()

    def ones(size: int) -> torch.Tensor:
        return torch.ones(size, dtype=torch.bfloat16)

    tensors = {"embed_tokens.weight": matrix(VOCABULARY, HIDDEN), "norm.weight": ones(HIDDEN)}
    for index in range(LAYERS):
        at = f"layers.{index}."
        tensors |= {
            f"{at}input_layernorm.weight": ones(HIDDEN),
            f"{at}self_attn.q_proj.weight": matrix(HEADS * HEAD, HIDDEN),
            f"{at}self_attn.k_proj.weight": matrix(KV_HEADS * HEAD, HIDDEN),
            f"{at}self_attn.v_proj.weight": matrix(KV_HEADS * HEAD, HIDDEN),
            f"{at}self_attn.o_proj.weight": matrix(HIDDEN, HEADS * HEAD),
            f"{at}self_attn.q_norm.weight": ones(HEAD),
            f"{at}self_attn.k_norm.weight": ones(HEAD),
            f"{at}post_attention_layernorm.weight": ones(HIDDEN),
            f"{at}mlp.gate_proj.weight": matrix(INNER, HIDDEN),
            f"{at}mlp.up_proj.weight": matrix(INNER, HIDDEN),
            f"{at}mlp.down_proj.weight": matrix(HIDDEN, INNER),
        }
    return tensors
