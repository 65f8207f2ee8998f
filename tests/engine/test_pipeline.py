"""sentence-transformers' settings in a checkpoint's folder have the effect here that they have there."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streambed import CheckpointError, Engine
from tests.checkpoints import make_checkpoint, write_qwen_tokenizer

TEXTS = ["A Brook runs to the SEA.", "ÄÖÜ Straße ΣΑΣ İstanbul", "def Flow(x): return X", "小川は海へ"]
OpenEngine = Callable[..., Engine]


def settle(directory: Path, **files: dict[str, Any]) -> Path:
    for name, values in files.items():
        file = directory / f"{name}.json"
        held = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps(held | values))
    return directory


def sentence_transformers(directory: Path, call: str, given: dict[str, str]) -> np.ndarray:
    """Their vectors of TEXTS. Imported late: who runs other tests need not wait for it."""
    from sentence_transformers import SentenceTransformer

    reference = getattr(SentenceTransformer(str(directory), device="cpu"), call)
    vectors: np.ndarray = reference(TEXTS, **({} if "input_type" in given else given))
    return vectors


@pytest.mark.parametrize(
    ("files", "given", "call"),
    [
        ({"config_sentence_transformers": {"default_prompt_name": "code"}}, {}, "encode"),
        ({"config_sentence_transformers": {"default_prompt_name": "code"}}, {"prompt_name": "query"}, "encode"),
        ({"config_sentence_transformers": {"default_prompt_name": "code"}}, {"input_type": "query"}, "encode_query"),
        ({"config_sentence_transformers": {"default_prompt_name": "code"}}, {"input_type": "document"}, "encode_document"),
        ({"config_sentence_transformers": {"prompts": {"corpus": "C: "}}}, {"input_type": "document"}, "encode_document"),
        ({"config_sentence_transformers": {"prompts": {"corpus": "C: "}}}, {"input_type": "query"}, "encode_query"),
        ({"config_sentence_transformers": {"truncate_dim": 40}}, {}, "encode"),
        ({"sentence_bert_config": {"do_lower_case": True}}, {}, "encode"),
    ],
)  # fmt: skip
def test_vectors_are_those_of_sentence_transformers(
    tmp_path: Path, open_engine: OpenEngine, files: dict[str, Any], given: dict[str, str], call: str
) -> None:
    prompts = {"query": "Query: ", "document": " ", "code": "Find code: "}
    directory = settle(make_checkpoint(tmp_path / "case", prompts=prompts), **files)
    theirs = sentence_transformers(directory, call, given)
    theirs = theirs / np.linalg.norm(theirs, axis=1, keepdims=True)
    engine = open_engine(directory, max_batch_tokens=64)
    ours = engine.embed(TEXTS, **given)  # type: ignore[arg-type]
    assert ours.shape == theirs.shape
    assert (ours * theirs).sum(axis=1).min() > 0.99999
    with engine.open_session(**given) as session:  # type: ignore[arg-type]
        for character in TEXTS[1]:
            session.append(character)
        assert session.embedding() @ theirs[1] > 0.99999


FAMILIES = {
    "Qwen3-Embedding": (
        {"query": "Instruct: Find it\nQuery:", "document": ""},
        {"input_type": "query"},
        "encode_query",
    ),
    "Octen": ({"query": "Instruct: Find it\nQuery:", "document": " "}, {"input_type": "document"}, "encode_document"),
    "harrier": ({"web_search_query": "Instruct: Find it\nQuery: "}, {"prompt_name": "web_search_query"}, "encode"),
    "two words": ({"query": "Query: ", "document": "Document: "}, {"input_type": "document"}, "encode_document"),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_families_that_word_prompts_otherwise(tmp_path: Path, open_engine: OpenEngine, family: str) -> None:
    """Files as docs/models.md says of them; with the real vocabulary for the first."""
    prompts, given, call = FAMILIES[family]
    directory = tmp_path / "case"
    if family == "Qwen3-Embedding":
        make_checkpoint(directory, prompts=prompts, vocab_size=151_669, hidden_size=32, unsloth_fixed=True)
        write_qwen_tokenizer(directory)
        published = {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>", "add_bos_token": False}
        settle(
            directory, tokenizer_config=published | {"additional_special_tokens": ["<|im_start|>", "<|vision_pad|>"]}
        )
    else:
        make_checkpoint(directory, prompts=prompts)
    (directory / "2_Normalize").mkdir()
    settle(directory / "2_Normalize", config={"normalize_embeddings": True})
    theirs = sentence_transformers(directory, call, given)
    ours = open_engine(directory, max_batch_tokens=64).embed(TEXTS, **given)  # type: ignore[arg-type]
    assert (ours * theirs).sum(axis=1).min() > 0.99999


def test_what_changes_vectors_changes_the_fingerprint(tmp_path: Path, open_engine: OpenEngine) -> None:
    base = make_checkpoint(tmp_path / "base", prompts={"query": "Query: "})
    found = [open_engine(base, max_batch_tokens=8).info.fingerprint]
    for number, files in enumerate(
        (
            {"config_sentence_transformers": {"default_prompt_name": "query"}},
            {"sentence_bert_config": {"do_lower_case": True}},
        )
    ):
        other = settle(make_checkpoint(tmp_path / str(number), prompts={"query": "Query: "}), **files)
        found.append(open_engine(other, max_batch_tokens=8).info.fingerprint)
    found.append(open_engine(base, max_batch_tokens=8, instruction_template="{instruction}: ").info.fingerprint)
    assert len(set(found)) == len(found)
    assert open_engine(base, max_batch_tokens=8, allow_unknown_config=True).info.fingerprint == found[0]


def test_an_instruction_takes_the_form_of_checkpoint_or_setting(tmp_path: Path, open_engine: OpenEngine) -> None:
    directory = make_checkpoint(tmp_path / "case", prompts={"query": "Instruct: Find it\nQuery: "})
    engine = open_engine(directory, max_batch_tokens=64)
    assert engine.prompt(instruction="Look") == "Instruct: Look\nQuery: "
    assert engine.info.instruction_template == "Instruct: {instruction}\nQuery: "
    own = open_engine(directory, max_batch_tokens=64, instruction_template=r"{instruction}\n")
    assert own.prompt(instruction="Look") == "Look\n"
    assert own.prompt(input_type="query") == "Instruct: Find it\nQuery: ", "the checkpoint's own prompts stay"


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("tokenizer_config", {"additional_special_tokens": ["brook"]}),
        ("tokenizer_config", {"extra_special_tokens": {"place": "brook"}}),
        ("tokenizer_config", {"bos_token": "brook"}),
        ("tokenizer_config", {"image_token": "brook"}),
        ("tokenizer_config", {"unk_token": {"content": "brook", "lstrip": False}}),
        ("tokenizer_config", {"added_tokens_decoder": {"30000": {"content": "brook", "special": False}}}),
        ("tokenizer_config", {"eos_token": {"content": "<|endoftext|>", "lstrip": True}}),
        ("special_tokens_map", {"additional_special_tokens": ["brook"]}),
        ("special_tokens_map", {"bos_token": {"content": "brook"}}),
        ("added_tokens", {"brook": 30000}),
    ],
    ids=str,
)
def test_tokens_that_the_tokenizer_has_not_are_refused(
    tmp_path: Path, open_engine: OpenEngine, file: str, change: dict[str, Any]
) -> None:
    """transformers adds them, and a text with one of them becomes other tokens."""
    directory = settle(make_checkpoint(tmp_path / "case"), **{file: change})
    with pytest.raises(CheckpointError, match=re.escape("tokenizer.json: the token '")):
        open_engine(directory)


def test_tokens_that_the_tokenizer_has_may_be_named(tmp_path: Path, open_engine: OpenEngine) -> None:
    directory = settle(
        make_checkpoint(tmp_path / "case"),
        special_tokens_map={"eos_token": "<|endoftext|>", "pad_token": {"content": "<|endoftext|>", "lstrip": False}},
        added_tokens={"<|endoftext|>": 20799},
    )
    open_engine(directory, max_batch_tokens=8)
