"""Texts of exactly so many tokens, never the same twice; times of arrival."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from streambed.bench.texts import WORDS, Texts, tokens_of
from streambed.text.tokenizer import Tokenizer
from tests.checkpoints import BUILTIN


@pytest.mark.parametrize("vocabulary", ["builtin", "qwen"])
def test_each_word_is_one_token(vocabulary: str, qwen_tokenizer_file: Path) -> None:
    file = BUILTIN / "tokenizer.json" if vocabulary == "builtin" else qwen_tokenizer_file
    tokenizer = Tokenizer(file, "text")
    assert len(set(WORDS)) == len(WORDS) >= 60
    assert all(len(tokenizer.encode(f" {word}")) == 1 for word in WORDS)
    texts = Texts(1)
    for tokens in (2, 8, 100):
        text = texts.text(tokens)
        assert len(tokenizer.encode(text)) + 1 == tokens == tokens_of(text)


def test_no_text_begins_like_another() -> None:
    texts = Texts(2)
    beginnings = [tuple(texts.text(8).split()[:4]) for _ in range(1000)]
    assert len(set(beginnings)) == 1000
    assert Texts(2).text(50) == Texts(2).text(50), "a run can be repeated"
    assert Texts(2).text(50) != Texts(3).text(50)


def test_sizes_are_within_their_bounds() -> None:
    sizes = [tokens_of(text) for text in Texts(4).texts(500, 8, 512)]
    assert 8 <= min(sizes) <= 10
    assert 400 <= max(sizes) <= 512
    assert 50 < np.median(sizes) < 80, "as many below the geometric mean as above"
    assert {tokens_of(text) for text in Texts(4).texts(9, 1024, 1024)} == {1024}


def test_arrivals_are_a_poisson_process() -> None:
    found = Texts(5).arrivals(3.0, 2000.0)
    assert found == sorted(found)
    assert found[0] > 0
    assert found[-1] < 2000
    gaps = np.diff(found)
    assert len(found) == pytest.approx(6000, rel=0.05)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05), "exponential gaps"
    assert (gaps < 1 / 3).mean() == pytest.approx(1 - np.exp(-1), abs=0.03)
