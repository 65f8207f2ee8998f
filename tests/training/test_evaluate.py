"""The measures, on vectors whose scores are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from training.evaluate import TARGETS, correlation, cut, plot_prefixes, retrieval


def test_cut_is_of_unit_length() -> None:
    short = cut(np.array([[3, 4, 12], [0, 2, 5]], np.float32), 2)
    np.testing.assert_allclose(short, [[0.6, 0.8], [0, 1]])


def test_retrieval_counts_ties_against() -> None:
    documents = np.eye(4, dtype=np.float32)
    queries = documents[[0, 1, 2]]
    assert retrieval(queries, documents, np.array([0, 1, 2])) == 1
    assert retrieval(queries, documents, np.array([1, 1, 2])) == pytest.approx(2 / 3)
    assert retrieval(queries, documents, np.array([1, 1, 2]), within=4) == 1
    same = np.ones((4, 2), np.float32)
    assert retrieval(same[:1], same, np.array([0]), within=3) == 0


def test_correlation_is_of_ranks() -> None:
    ours = np.array([[1, 0], [1, 0], [1, 0]], np.float32)
    others = np.array([[0.1, 0], [0.2, 0], [0.9, 0]], np.float32)
    assert correlation(ours, [1.0, 2.0, 50.0], others) == pytest.approx(1)
    assert correlation(ours, [3.0, 2.0, 1.0], others) == pytest.approx(-1)


def test_every_target_has_a_number() -> None:
    assert all(value > 0 for value in TARGETS.values())


def test_the_curve_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot_prefixes({"one": [0.1 * n for n in range(1, 11)]}, tmp_path / "prefixes.png")
    assert (tmp_path / "prefixes.png").read_bytes().startswith(b"\x89PNG")
