"""What is fitted keeps neighbours of vectors that it has not seen, and is the same each time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from streambed.errors import SettingsError
from streambed.vectors.fit import fit
from streambed.vectors.recall import kept, neighbours, similarity
from streambed.vectors.reducers import Reducer
from streambed.vectors.shape import shorten

SIZE = 48


def clustered(count: int, seed: int) -> np.ndarray:
    """Unit vectors that lie near a subspace of 12 dimensions, turned so that no dimension stands out."""
    draw = np.random.default_rng(1)
    basis, _ = np.linalg.qr(draw.standard_normal((SIZE, SIZE)))
    spread = np.concatenate([np.linspace(2, 1, 12), np.full(SIZE - 12, 0.15)])
    points = np.random.default_rng(seed).standard_normal((count, SIZE)) * spread + 0.3
    return shorten((points @ basis).astype(np.float32))


SEEN, UNSEEN = clustered(600, 2), clustered(300, 3)


def recall(reducer: Reducer) -> float:
    nearest = neighbours(UNSEEN, 10, similarity("cosine"))
    found = neighbours(reducer.reduce(UNSEEN), 10, similarity(reducer.card.metric))
    return kept(nearest, found, [10])[0]


@pytest.mark.parametrize("method", ["pca", "projection"])
def test_beats_the_plain_cut(method: Any) -> None:
    told: list[float] = []
    reducer = fit(SEEN, method, 12, "tiny", "f", told.append)
    card = reducer.card
    assert (card.method, card.metric, card.input_dimensions, card.dimensions) == (method, "cosine", SIZE, 12)
    assert (card.model, card.model_fingerprint, card.texts) == ("tiny", "f", 600)
    nearest = neighbours(UNSEEN, 10, similarity("cosine"))
    cut = kept(nearest, neighbours(shorten(UNSEEN, 12), 10, similarity("cosine")), [10])[0]
    assert recall(reducer) > 0.8 > cut + 0.2
    assert told == sorted(told)
    assert told[-1] == 1
    assert fit(SEEN, method, 12, "tiny", "f").fingerprint == reducer.fingerprint


def test_pca_is_the_principal_components() -> None:
    reducer = fit(SEEN, "pca", 5, "tiny", "f")
    _, axes = np.linalg.eigh(SEEN.T.astype(np.float64) @ SEEN)
    ((weight, bias),) = reducer.layers
    assert not bias.any()
    assert np.allclose(np.abs(weight @ axes[:, ::-1][:, :5]), np.eye(5), atol=1e-3)


@pytest.mark.slow
def test_umap_puts_new_texts_where_it_put_their_like() -> None:
    reducer = fit(SEEN, "umap", 2, "tiny", "f")
    assert (reducer.card.metric, len(reducer.layers)) == ("euclidean", 3)
    chance = 10 / 300
    assert recall(reducer) > 4 * chance
    places = reducer.reduce(UNSEEN)
    assert places.shape == (300, 2)
    assert places.std() > 0.5, "coordinates as UMAP gives them, not of unit length"


@pytest.mark.parametrize("dimensions", [0, SIZE, SIZE + 1])
def test_dimensions_that_make_nothing_smaller(dimensions: int) -> None:
    with pytest.raises(SettingsError, match="1 to 47"):
        fit(SEEN, "pca", dimensions, "tiny", "f")


def test_too_few_texts() -> None:
    with pytest.raises(SettingsError, match="too few"):
        fit(SEEN[:50], "projection", 40, "tiny", "f")
