from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from streambed.doctor.quantization import _rank_correlation, compare, embed
from streambed.doctor.texts import SENTENCES
from streambed.engine.engine import Engine


def found(full: Engine, vectors: np.ndarray, texts: list[str]) -> dict[str, tuple[str, str]]:
    return {each.name: (each.status, each.detail) for each in compare(vectors, full, texts, 3)}


def test_what_is_said_of_the_built_in_model(open_engine: Callable[..., Engine]) -> None:
    quantized, full = open_engine("builtin", quantize="int8"), open_engine("builtin")
    assert quantized.info.full_matrices == 3
    assert full.info.full_matrices == 0
    said = found(full, embed(quantized, SENTENCES), list(SENTENCES))
    assert list(said) == ["full matrices", "likeness", "neighbours kept", "rank correlation"]
    assert said["full matrices"][1] == "3 that integers would distort stay float32"
    status, likeness = said["likeness"]
    assert (status, likeness.endswith("of 64 texts")) == ("ok", True)
    worst, median = map(float, re.findall(r"\d\.\d+", likeness))
    assert 0.999 <= worst < median <= 1
    nearest, nearest_ten = map(float, re.findall(r"([\d.]+)%", said["neighbours kept"][1]))
    assert nearest >= 95
    assert nearest_ten >= 95
    assert float(said["rank correlation"][1].split(",")[0]) > 0.999


def test_other_vectors_are_a_warning(tiny_engine: Engine) -> None:
    vectors = embed(tiny_engine, SENTENCES)
    assert found(tiny_engine, vectors, list(SENTENCES))["neighbours kept"][1].startswith(
        "100.0% of the nearest 1, 100.0%"
    )
    assert found(tiny_engine, np.roll(vectors, 1, axis=1), list(SENTENCES))["likeness"][0] == "warn"


def test_few_texts_have_no_neighbours_to_speak_of(tiny_engine: Engine) -> None:
    texts = list(SENTENCES[:3])
    assert list(found(tiny_engine, embed(tiny_engine, texts), texts)) == ["full matrices", "likeness"]


def test_rank_correlation() -> None:
    vectors = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    assert _rank_correlation(vectors, vectors) == 1
    other = np.random.default_rng(1).normal(size=(9, 4)).astype(np.float32)
    assert abs(_rank_correlation(vectors, other)) < 0.6
