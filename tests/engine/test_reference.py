"""Vectors equal sentence-transformers' on the same checkpoint, in float32."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from streambed import Engine
from streambed.errors import TooLarge
from streambed.text.instructions import Prompts
from tests.checkpoints import BUILTIN, make_checkpoint, write_qwen_tokenizer

TEXTS = [
    "a",
    "The quick brown fox jumps over the lazy dog.",
    "中文文本嵌入，实时编码。",
    "これは日本語の文章です。",
    "한국어 문장입니다.",
    "ภาษาไทยเขียนติดกัน",
    "हिन्दी में एक वाक्य",
    "هذه جملة باللغة العربية",
    "Предложение на русском языке",
    "Ελληνική πρόταση, עברית",
    "👩\u200d👩\u200d👧 emoji 🙂",
    "import numpy as np  # importance of life\n\n" * 5,
    " leading and trailing space ",
    "word " * 150,
]
SHAPES: dict[str, dict[str, Any]] = {
    "grouped heads": {},
    "one KV head": {"num_key_value_heads": 1},
    "as many KV heads": {"num_key_value_heads": 4},
    "head_dim unlike hidden / heads": {"head_dim": 24},
    "untied, with lm_head": {"tie_word_embeddings": False, "lm_head": True, "prefix": "model."},
    "sharded": {"shards": 3, "prefix": "model.", "architectures": ["Qwen3ForCausalLM"]},
    "another theta, nested": {"rope_theta": 10_000.0, "nested_rope": True},
    "with biases": {"attention_bias": True},
    "three layers": {"num_hidden_layers": 3, "rms_norm_eps": 1e-5},
}


def reference(directory: Path, window: int) -> Callable[[list[str]], NDArray[np.float32]]:
    import torch
    from sentence_transformers import SentenceTransformer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = SentenceTransformer(str(directory), device="cpu", model_kwargs={"dtype": torch.float32})
    model.max_seq_length = window

    def encode(texts: list[str]) -> NDArray[np.float32]:
        # One at a time: padding on the left moves positions, which rotary embedding forgives but rounding does not.
        return np.concatenate(
            [model.encode([text], normalize_embeddings=True, show_progress_bar=False) for text in texts]
        )

    return encode


def cosines(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    assert a.shape == b.shape
    return np.asarray((a.astype(np.float64) * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1))


@pytest.mark.parametrize("shape", SHAPES)
def test_random_checkpoints(shape: str, tmp_path: Path, open_engine: Callable[..., Engine]) -> None:
    directory = make_checkpoint(tmp_path / "model", **SHAPES[shape])
    expected = reference(directory, 512)(TEXTS)
    engine = open_engine(directory, dtype="float32", max_batch_tokens=64)
    assert cosines(engine.embed(TEXTS), expected).min() >= 0.99999
    for text, vector in zip(TEXTS, expected, strict=True):
        assert cosines(engine.embed([text]), vector[None])[0] >= 0.99999


def test_the_builtin_model(open_engine: Callable[..., Engine]) -> None:
    encode = reference(BUILTIN, 8192)
    engine = open_engine("builtin")
    assert engine.info.dtype == "float32"
    texts = [*TEXTS, "A long document about rivers. " * 120]
    assert cosines(engine.embed(texts), encode(texts)).min() >= 0.99999
    task = "Given a web search query, retrieve relevant passages that answer the query"
    asked = [Prompts().choose(instruction=task) + text for text in TEXTS]
    assert cosines(engine.embed(TEXTS, instruction=task), encode(asked)).min() >= 0.99999
    expected = encode(TEXTS)[:, :128]
    shorter = engine.embed(TEXTS, dimensions=128)
    assert cosines(shorter, expected).min() >= 0.99999
    assert np.allclose(np.linalg.norm(shorter, axis=-1), 1.0, atol=1e-6)


def test_the_qwen_vocabulary(tmp_path: Path, open_engine: Callable[..., Engine]) -> None:
    directory = make_checkpoint(
        tmp_path / "model", vocab_size=151_669, hidden_size=32, eos_token_id=151_643, pad_token_id=151_643
    )
    write_qwen_tokenizer(directory)
    engine = open_engine(directory)
    assert engine.tokenizer.end_id == 151_643
    assert cosines(engine.embed(TEXTS), reference(directory, 512)(TEXTS)).min() >= 0.99999


def test_the_edges_of_the_window(tmp_path: Path, open_engine: Callable[..., Engine]) -> None:
    window = 40
    directory = make_checkpoint(tmp_path / "model", window=window)
    encode = reference(directory, window)
    engine = open_engine(directory)
    word = engine.tokenizer.encode(" the")
    assert len(word) == 1
    fitting = [" the" * count for count in (1, window - 2, window - 1)]
    assert cosines(engine.embed(fitting), encode(fitting)).min() >= 0.99999
    for count in (window, window + 1, 3 * window):
        with pytest.raises(TooLarge, match=f"{count + 1} tokens with its end token; the limit is {window}"):
            engine.embed([" the" * count])
        cut = engine.embed([" the" * count], long_input="truncate")
        assert cosines(cut, encode([" the" * count]))[0] >= 0.99999
        assert cosines(cut, encode([" the" * (window - 1)]))[0] >= 0.99999


@pytest.mark.parametrize("budget", [1, 2, 15, 16, 17, 63, 64, 65])
def test_every_edge_of_the_budget(budget: int, tiny_checkpoint: Path, open_engine: Callable[..., Engine]) -> None:
    """A text may be shorter than a step, as long, or longer by one; each alone and all together."""
    engine = open_engine(tiny_checkpoint, max_batch_tokens=budget)
    texts = [" the" * count for count in sorted({1, 2, budget - 1, budget, budget + 1, 2 * budget} - {0})]
    whole = open_engine(tiny_checkpoint, max_batch_tokens=4096).embed(texts)
    assert cosines(engine.embed(texts), whole).min() >= 0.99999
    for text, vector in zip(texts, whole, strict=True):
        assert cosines(engine.embed([text]), vector[None])[0] >= 0.99999


def test_bfloat16_is_near(tiny_checkpoint: Path, open_engine: Callable[..., Engine]) -> None:
    exact = open_engine("builtin", dtype="float32").embed(TEXTS)
    engine = open_engine("builtin", dtype="bfloat16", max_batch_tokens=64)
    batch, single = engine.embed(TEXTS), np.concatenate([engine.embed([text]) for text in TEXTS])
    assert cosines(batch, exact).min() >= 0.999
    assert cosines(batch, single).min() >= 0.999
    with engine.open_session() as session:
        for character in TEXTS[1]:
            session.append(character)
        assert cosines(session.embedding()[None], exact[1:2])[0] >= 0.999


@pytest.mark.slow
def test_the_shape_of_0_6b(tmp_path: Path, open_engine: Callable[..., Engine]) -> None:
    from streambed.bench.checkpoint import make_0_6b

    directory = tmp_path / "0.6b"
    make_0_6b(directory)
    texts = [*TEXTS[:11], "A long document about rivers. " * 80]
    expected = reference(directory, 512)(texts)
    engine = open_engine(directory, dtype="float32")
    assert cosines(engine.embed(texts), expected).min() >= 0.99999
    with engine.open_session() as session:
        for piece in texts[-1].split("."):
            session.append(piece + ".")
        session.replace(session.offset - 2, session.offset, " ")
        assert session.text == texts[-1]
        assert cosines(session.embedding()[None], expected[-1:])[0] >= 0.99999


@pytest.mark.parametrize("instruction", [None, "Find music"])
def test_three_windows_are_the_mean_of_their_segments(
    instruction: str | None, tmp_path: Path, open_engine: Callable[..., Engine]
) -> None:
    """Merged by us, and by hand from the reference's vectors of the same characters."""
    directory = make_checkpoint(tmp_path / "model")
    words = ["stone", "river", "light", "garden", "winter", "music", "paper", "ocean", "小溪", "流向大海。"]
    draw = np.random.default_rng(0)
    text = " ".join(" ".join(draw.choice(words, draw.integers(4, 12))) + "." for _ in range(150))
    engine = open_engine(directory, dtype="float32", max_batch_tokens=64)
    prompt = engine.prompt(instruction)
    (document,) = engine.documents.divide([text], prompt, "merge")
    assert len(engine.tokenizer.encode(text)) >= 3 * 512 > 512 >= max(len(s.ids) for s in document.segments)
    assert len(document.segments) >= 3
    own = reference(directory, 512)([prompt + text[segment.start : segment.end] for segment in document.segments])
    mean = np.average(own.astype(np.float64), axis=0, weights=document.weights)
    merged = engine.embed([text], instruction=instruction, long_input="merge")
    assert cosines(merged, mean[None].astype(np.float32))[0] >= 0.99999
    cut = engine.embed([text], instruction=instruction, long_input="truncate")
    (truncated,) = engine.documents.divide([text], prompt, "truncate")
    kept = text[: truncated.segments[0].end]
    assert cosines(cut, reference(directory, 512)([prompt + kept]))[0] >= 0.9999
    with pytest.raises(TooLarge):
        engine.embed([text], instruction=instruction)
