"""Weights to a checkpoint folder in the hub's layout: transformers, sentence-transformers and Streambed load it as it
stands.
"""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from training.student import Shape
from training.tokenizer import END

LIMIT = 25_000_000  # bytes of model.safetensors


def export(work: Path, folder: Path) -> None:
    """Write `student.pt` and tokenizer.json of `work` as a bfloat16 checkpoint into `folder`; its README stays."""
    weights = torch.load(work / "student.pt", weights_only=True)
    shape = Shape(vocab_size=len(weights["embed_tokens.weight"]))
    end = shape.vocab_size - 1
    (folder / "1_Pooling").mkdir(parents=True, exist_ok=True)
    (folder / "2_Normalize").mkdir(exist_ok=True)
    save_file(
        {name: weight.to(torch.bfloat16).contiguous() for name, weight in weights.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    (folder / "model.safetensors").chmod(0o644)
    size = (folder / "model.safetensors").stat().st_size
    if size > LIMIT:
        raise ValueError(f"model.safetensors has {size:,} bytes, more than {LIMIT:,}")
    shutil.copy(work / "tokenizer.json", folder / "tokenizer.json")
    config = {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        **shape.config(),
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": end,
        "eos_token_id": end,
        "pad_token_id": end,
        "dtype": "bfloat16",
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "tie_word_embeddings": True,
        "use_cache": True,
        "use_sliding_window": False,
    }
    pooling = {
        "word_embedding_dimension": shape.hidden_size,
        "pooling_mode_cls_token": False,
        "pooling_mode_mean_tokens": False,
        "pooling_mode_max_tokens": False,
        "pooling_mode_mean_sqrt_len_tokens": False,
        "pooling_mode_weightedmean_tokens": False,
        "pooling_mode_lasttoken": True,
        "include_prompt": True,
    }
    parts = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (path, kind) in enumerate(parts)
    ]
    tokenizer = {
        "clean_up_tokenization_spaces": False,
        "eos_token": END,
        "model_max_length": shape.max_position_embeddings,
        "pad_token": END,
        "padding_side": "left",
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    prompts = {"prompts": {"query": "", "document": ""}, "default_prompt_name": None, "similarity_fn_name": "cosine"}
    files: dict[str, object] = {
        "config.json": config,
        "1_Pooling/config.json": pooling,
        "modules.json": modules,
        "tokenizer_config.json": tokenizer,
        "config_sentence_transformers.json": prompts,
        "sentence_bert_config.json": {"max_seq_length": shape.max_position_embeddings, "do_lower_case": False},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
