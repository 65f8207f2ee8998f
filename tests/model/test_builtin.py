"""The checkpoint that ships: small, complete, and good enough for what the page, the notebook and the examples show.

Its full scores are `make eval-model`'s; these are the ones that need nothing but the repository.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streambed import Engine
from streambed.model.checkpoint import find_checkpoint
from tests.checkpoints import BUILTIN, VOCABULARY, load_engine

SETS = Path(__file__).parents[2] / "training" / "evaluation"


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with load_engine("builtin") as engine:
        yield engine


def written(name: str) -> Any:
    return json.loads((SETS / f"{name}.json").read_text(encoding="utf-8"))


def test_it_is_small_and_whole() -> None:
    assert (BUILTIN / "model.safetensors").stat().st_size <= 25_000_000
    checkpoint = find_checkpoint("builtin")
    assert (checkpoint.window, checkpoint.config.hidden_size) == (8192, 384)
    assert checkpoint.config.vocab_size == VOCABULARY
    card = (BUILTIN / "README.md").read_text(encoding="utf-8")
    assert "WordNet 3.0 Copyright 2006 by Princeton" in card
    assert (BUILTIN / "prefixes.png").exists()


def test_its_vectors_are_those_that_it_was_shipped_with(engine: Engine) -> None:
    """`streambed doctor` compares them on the machine of whoever uses it."""
    known = json.loads((BUILTIN / "canonical.json").read_text(encoding="utf-8"))["texts"]
    assert len(known) >= 10
    for each in known:
        own = engine.embed([each["text"]], instruction=each["instruction"])[0]
        assert own @ np.array(each["vector"]) >= 0.9999


@pytest.mark.parametrize("group", written("everyday")["sets"], ids=lambda group: group["name"])
def test_everyday_questions_find_their_answers(engine: Engine, group: dict[str, Any]) -> None:
    """Question and answer share no content word."""
    questions, answers = (engine.embed(texts) for texts in zip(*group["pairs"], strict=True))
    right = ((questions @ answers.T).argmax(1) == np.arange(20)).sum()
    assert right >= 13


def test_words_are_nearer_to_synonyms_than_to_look_alikes(engine: Engine) -> None:
    words, synonyms, alike = (engine.embed(list(column)) for column in zip(*written("words")["trials"], strict=True))
    assert ((words * synonyms).sum(1) > (words * alike).sum(1)).sum() >= 45


def test_capitals_change_little(engine: Engine) -> None:
    texts = [answer for group in written("everyday")["sets"] for _, answer in group["pairs"]]
    lower, upper = engine.embed([text.lower() for text in texts]), engine.embed([text.upper() for text in texts])
    assert (lower * upper).sum(1).mean() >= 0.67


def test_a_beginning_comes_nearer_to_the_whole_with_each_part(engine: Engine) -> None:
    texts = [answer for group in written("everyday")["sets"] for _, answer in group["pairs"]]
    whole = engine.embed(texts)
    means = [
        float((engine.embed([text[: len(text) * tenths // 10] for text in texts]) * whole).sum(1).mean())
        for tenths in (2, 4, 6, 8, 10)
    ]
    assert means == sorted(means)
    assert means[-2] > 0.75


@pytest.mark.parametrize("language", ["de", "fr", "es"])
def test_other_languages_are_not_noise(engine: Engine, language: str) -> None:
    rows = written("multilingual")["sentences"]
    english, other = (engine.embed([row[name] for row in rows]) for name in ("en", language))
    right = ((other @ english.T).argmax(1) == np.arange(len(rows))).mean()
    assert right >= 0.53


def test_an_instruction_changes_little(engine: Engine) -> None:
    texts = [question for question, _ in written("everyday")["sets"][0]["pairs"]]
    plain, asked = engine.embed(texts), engine.embed(texts, input_type="query")
    assert (plain * asked).sum(1).mean() >= 0.85
