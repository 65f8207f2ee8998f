from __future__ import annotations

import numpy as np
import pytest

from streambed.vectors.recall import as_int8, as_ubinary, kept, neighbours, similarity
from streambed.vectors.shape import encode, shorten


def unit(count: int, size: int, seed: int = 0) -> np.ndarray:
    return shorten(np.random.default_rng(seed).standard_normal((count, size)).astype(np.float32))


def test_neighbours_by_hand() -> None:
    angles = np.radians([0, 10, 25, 45, 180])
    vectors = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    found = neighbours(vectors, 2, similarity("cosine"))
    assert found.tolist() == [[1, 2], [0, 2], [1, 3], [2, 1], [3, 2]]
    assert neighbours(vectors, 2, similarity("euclidean")).tolist() == found.tolist()


@pytest.mark.parametrize("count", [3, 256, 300, 513])
def test_neighbours_of_many_are_those_of_a_plain_loop(count: int) -> None:
    vectors = unit(count, 8)
    found = neighbours(vectors, 2, similarity("cosine"))
    for row in range(count):
        scores = vectors @ vectors[row]
        scores[row] = -9
        assert found[row].tolist() == np.argsort(-scores, kind="stable")[:2].tolist()


def test_distance_counts_for_coordinates() -> None:
    vectors = np.array([[0, 1], [0, 9], [1, 1]], dtype=np.float32)
    assert neighbours(vectors, 1, similarity("euclidean")).tolist() == [[2], [0], [0]]
    assert neighbours(vectors, 1, similarity("cosine"))[0].tolist() == [1]


def test_kept() -> None:
    nearest, found = np.array([[1, 2, 3], [0, 2, 3]]), np.array([[1, 3, 4], [2, 0, 4]])
    assert kept(nearest, found, [1, 2, 3]) == pytest.approx([1 / 2, (1 + 2) / 4, (2 + 2) / 6])
    assert kept(nearest, nearest, [1, 3]) == [1, 1]


def test_ubinary_ranks_as_hamming_distance_does() -> None:
    vectors = unit(40, 64)
    packed = [np.unpackbits(encode(vector, "ubinary")["embedding"]).astype(int) for vector in vectors]
    signs = as_ubinary(vectors)
    for a in range(3):
        for b in range(40):
            assert (packed[a] != packed[b]).sum() == (64 - signs[a] @ signs[b]) / 2


def test_int8_keeps_nearly_all() -> None:
    vectors = unit(400, 64)
    nearest, score = neighbours(vectors, 10, similarity("cosine")), similarity("cosine")
    assert kept(nearest, neighbours(as_int8(vectors), 10, score), [10])[0] > 0.97
