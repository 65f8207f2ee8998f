"""Vectors that a checkpoint gave when it was made."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from streambed import Engine
from streambed.doctor import canonical
from streambed.doctor.report import attempt
from streambed.errors import SettingsError
from tests.checkpoints import load_engine


@pytest.fixture(scope="module")
def canonical_engine(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    own = shutil.copytree(tiny_checkpoint, tmp_path_factory.mktemp("canonical") / "own")
    with load_engine(own, max_batch_tokens=48) as engine:
        yield engine


def entry(**changes: Any) -> dict[str, Any]:
    return {"text": "a", "instruction": None, "vector": [0.125] * 64} | changes


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"{", "not valid JSON"),
        (b"\xff", "not valid JSON"),
        (b"", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        ([], "not an object of format 1"),
        ({"texts": [entry()]}, "not an object of format 1"),
        ({"format": 2, "texts": [entry()]}, "not an object of format 1"),
        ({"format": 1}, "texts is not a list of at least one"),
        ({"format": 1, "texts": []}, "texts is not a list of at least one"),
        ({"format": 1, "texts": {"a": 1}}, "texts is not a list of at least one"),
        ({"format": 1, "texts": [entry(), 5]}, "texts[1]: has no text"),
        ({"format": 1, "texts": [entry(text=None)]}, "texts[0]: has no text"),
        ({"format": 1, "texts": [entry(instruction=5)]}, "instruction is neither a string nor null"),
        ({"format": 1, "texts": [entry(vector=None)]}, "vector is not a list of numbers"),
        ({"format": 1, "texts": [entry(vector=["1"] * 64)]}, "vector is not a list of numbers"),
        ({"format": 1, "texts": [entry(vector=[True] * 64)]}, "vector is not a list of numbers"),
        ({"format": 1, "texts": [entry(vector=[0.1] * 63)]}, "vector has 63 dimensions; the model's have 64"),
        ({"format": 1, "texts": [entry(vector=[0] * 64)]}, "not one of unit length"),
        ({"format": 1, "texts": [entry(vector=[float("nan")] * 64)]}, "not one of unit length"),
        ({"format": 1, "texts": [entry(vector=[10**400] * 64)]}, "not one of unit length"),
        ({"format": 1, "texts": [entry(text="\ud800")]}, "lone surrogate"),
        ({"format": 1, "texts": [entry(text="word " * 600)]}, "602 tokens"),
        ({"format": 1, "texts": [entry()]}, "not the vectors that this checkpoint gave"),
    ],
)
def test_canonical_file_that_is_wrong(canonical_engine: Engine, content: Any, says: str) -> None:
    file = canonical_engine.checkpoint.directory / "canonical.json"
    file.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    finding = attempt("canonical", "vectors", lambda: canonical.compare(canonical_engine))
    assert finding.status == "FAIL"
    assert says in finding.detail
    assert "\n" not in finding.detail


def test_canonical_file_that_cannot_be_written(canonical_engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be written: No such file or directory"):
        canonical.write(canonical_engine, tmp_path / "nowhere" / "canonical.json")
