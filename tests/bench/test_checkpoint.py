"""The random checkpoint, in a smaller shape: we load it, and so does sentence-transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from streambed import Engine
from streambed.bench import checkpoint
from streambed.bench.checkpoint import kept_checkpoint, make_0_6b
from streambed.model.checkpoint import find_checkpoint


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in {
        "LAYERS": 2,
        "HIDDEN": 64,
        "INNER": 96,
        "HEADS": 4,
        "KV_HEADS": 2,
        "HEAD": 16,
        "VOCABULARY": 20_800,
    }.items():
        monkeypatch.setattr(checkpoint, name, size)
    shape = {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 20_800,
    }
    monkeypatch.setitem(
        checkpoint._CHANGES, "config.json", checkpoint._CONFIG | shape | {"head_dim": 16, "intermediate_size": 96}
    )
    monkeypatch.setitem(checkpoint._CHANGES, "1_Pooling/config.json", {"word_embedding_dimension": 64})


@pytest.mark.usefixtures("small")
def test_it_loads_here_and_elsewhere(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    directory = tmp_path / "made"
    make_0_6b(directory)
    made = (directory / "model.safetensors").stat().st_mtime_ns
    make_0_6b(directory)
    assert (directory / "model.safetensors").stat().st_mtime_ns == made, "it is made once"
    assert find_checkpoint(str(directory)).window == 32_768
    with Engine.load(directory, dtype="float32", max_batch_tokens=64, kv_memory=1 << 24) as engine:
        ours = engine.embed(["a river of light", "a stone"])
    theirs = SentenceTransformer(str(directory), device="cpu", model_kwargs={"dtype": torch.float32})
    assert (ours * theirs.encode(["a river of light", "a stone"])).sum(1).min() > 0.99999


def test_the_shape_is_that_of_0_6b() -> None:
    config = checkpoint._CONFIG
    assert (config["hidden_size"], config["num_hidden_layers"], config["intermediate_size"]) == (1024, 28, 3072)


def test_where_it_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert kept_checkpoint().parent == tmp_path / "streambed"
