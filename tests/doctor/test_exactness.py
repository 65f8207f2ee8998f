"""Ways to one vector, and ways that lead elsewhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from streambed.doctor import exactness
from streambed.engine.engine import Engine

NAMES = ["streamed", "edited", "batched", "prefixes", "integrity"]


@pytest.mark.parametrize(("way", "name"), [("embed", "batched"), ("prefix_embeddings", "prefixes")])
def test_way_that_gives_another_vector(
    tiny_engine: Engine, monkeypatch: pytest.MonkeyPatch, way: str, name: str
) -> None:
    """Many at once come in the wrong order: the checks compare vectors with those of their own texts."""
    honest = getattr(Engine, way)

    def swap(engine: Engine, texts: Any, **options: Any) -> Any:
        found = honest(engine, texts, **options)
        if way == "embed":
            return found[::-1]
        offsets, vectors = zip(*found, strict=True)
        return list(zip(offsets, vectors[::-1], strict=True))

    monkeypatch.setattr(exactness, "TEXTS", exactness.TEXTS[:2])
    monkeypatch.setattr(Engine, way, swap)
    found = {finding.name: finding.status for finding in exactness.examine(tiny_engine)}
    assert found == dict.fromkeys(NAMES, "ok") | {name: "FAIL"}


def test_vector_that_is_not_a_number(tiny_engine: Engine) -> None:
    pairs = iter([("a", np.full(64, np.nan, np.float32)), ("b", np.full(64, np.nan, np.float32))])
    assert exactness._compare(tiny_engine, pairs, {})[0] == "FAIL"
