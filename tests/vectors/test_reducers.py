"""Reducers on disk and in use: refused when damaged or another model's, and equal to what was fitted."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from streambed.errors import CheckpointError, Internal, InvalidRequest
from streambed.vectors.reducers import CARD, WEIGHTS, Card, Form, Reducer, Reducers
from streambed.vectors.shape import shorten

SIZE, SMALL = 16, 8
FINGERPRINT = "f" * 32


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def make(*sizes: int, metric: Any = "cosine", method: Any = "projection") -> Reducer:
    sizes = (SIZE, *(sizes or (SMALL,)))
    card = Card(format=1, method=method, metric=metric, input_dimensions=SIZE, dimensions=sizes[-1], model="tiny",
                model_fingerprint=FINGERPRINT, texts=100)  # fmt: skip
    layers = tuple((numbers(b, a, seed=a + b), numbers(b, seed=b)) for a, b in itertools.pairwise(sizes))
    return Reducer.build(card, layers)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_layers_with_a_rectifier_between(metric: Any) -> None:
    reducer, vectors = make(12, SMALL, metric=metric), shorten(numbers(5, SIZE))
    (first, a), (second, b) = reducer.layers
    wanted = np.maximum(vectors.astype(np.float64) @ first.T + a, 0) @ second.T + b
    if metric == "cosine":
        wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    got = reducer.reduce(vectors)
    assert got.dtype == np.float32
    assert np.allclose(got, wanted, atol=1e-5)
    assert np.allclose(reducer.reduce(vectors[:1]), got[:1], atol=1e-6)


def test_saved_and_loaded(tmp_path: Path) -> None:
    reducer = make(12, SMALL)
    reducer.save(tmp_path / "deep" / "small")
    loaded = Reducer.load(tmp_path / "deep" / "small", FINGERPRINT)
    assert (loaded.card, loaded.fingerprint) == (reducer.card, reducer.fingerprint)
    vectors = shorten(numbers(3, SIZE))
    assert np.array_equal(loaded.reduce(vectors), reducer.reduce(vectors))
    make(4).save(tmp_path / "deep" / "small")  # over it
    assert Reducer.load(tmp_path / "deep" / "small", FINGERPRINT).card.dimensions == 4


def test_fingerprints_tell_apart_what_gives_other_vectors() -> None:
    reducers = [make(), make(4), make(12, SMALL), make(metric="euclidean"), make(method="pca")]
    assert len({reducer.fingerprint for reducer in reducers}) == len(reducers)
    assert make().fingerprint == make().fingerprint
    other = make().card.model_copy(update={"model_fingerprint": "e" * 32})
    assert Reducer.build(other, make().layers).fingerprint != make().fingerprint


def card(**changes: Any) -> str:
    value = make().card.model_dump() | changes
    return json.dumps({name: each for name, each in value.items() if each is not ...})


def weights(**changes: Any) -> bytes:
    ((weight, bias),) = make().layers
    tensors = {"layers.0.weight": weight, "layers.0.bias": bias} | changes
    return save({name: np.ascontiguousarray(each) for name, each in tensors.items() if each is not ...})


BAD: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "no card": (CARD, lambda path: path.unlink(), "cannot be read"),
    "no weights": (WEIGHTS, lambda path: path.unlink(), "cannot be read"),
    "a folder for a card": (CARD, lambda path: (path.unlink(), path.mkdir()), "cannot be read"),
    "card is no JSON": (CARD, lambda path: path.write_text("{"), "no reducer's card"),
    "card is another thing": (CARD, lambda path: path.write_text('{"a": 1}'), "no reducer's card"),
    "card of the future": (CARD, lambda path: path.write_text(card(format=2)), "format"),
    "unknown method": (CARD, lambda path: path.write_text(card(method="magic")), "method"),
    "unknown field": (CARD, lambda path: path.write_text(card(more=1)), "more"),
    "a size of zero": (CARD, lambda path: path.write_text(card(dimensions=0)), "dimensions"),
    "card too large": (CARD, lambda path: path.write_text(" " * (65 << 10)), "more than"),
    "another size": (CARD, lambda path: path.write_text(card(dimensions=9)), "gives 8 numbers"),
    "another input": (CARD, lambda path: path.write_text(card(input_dimensions=15)), "takes 15 numbers"),
    "another model's": (CARD, lambda path: path.write_text(card(model_fingerprint="e")), "fitted to vectors of tiny"),
    "weights cut": (WEIGHTS, lambda path: path.write_bytes(path.read_bytes()[:-3]), WEIGHTS),
    "weights empty": (WEIGHTS, lambda path: path.write_bytes(b""), WEIGHTS),
    "weights are a pickle": (WEIGHTS, lambda path: path.write_bytes(b"\x80\x04N."), WEIGHTS),
    "no layers": (WEIGHTS, lambda path: path.write_bytes(save({})), "0 layers"),
    "a tensor more": (WEIGHTS, lambda path: path.write_bytes(weights(more=numbers(1))), "its tensors are"),
    "a tensor less": (WEIGHTS, lambda path: path.write_bytes(weights(**{"layers.0.bias": ...})), "its tensors are"),
    "not finite": (
        WEIGHTS, lambda path: path.write_bytes(weights(**{"layers.0.bias": numbers(SMALL) * np.nan})), "not finite"
    ),
    "float64": (
        WEIGHTS, lambda path: path.write_bytes(weights(**{"layers.0.bias": numbers(SMALL).astype(float)})), "float32"
    ),
    "a bias too short": (WEIGHTS, lambda path: path.write_bytes(weights(**{"layers.0.bias": numbers(3)})), "shapes"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_used_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    file, damage, reason = BAD[name]
    make().save(tmp_path)
    damage(tmp_path / file)
    with pytest.raises(CheckpointError) as caught:
        Reducer.load(tmp_path, FINGERPRINT)
    message = str(caught.value)
    assert str(tmp_path) in message
    assert reason in message
    assert "\n" not in message


def test_coordinates_that_are_not_finite_are_never_sent() -> None:
    reducer = make(metric="euclidean")
    with pytest.raises(Internal):
        reducer.reduce(np.full((1, SIZE), np.inf, dtype=np.float32))


def test_forms() -> None:
    small, places = make(), make(2, metric="euclidean", method="umap")
    reducers = Reducers(64, {"small": small, "places": places})
    assert reducers.form(None, "float") == Form(64)
    assert reducers.form(32, "base64") == Form(32, 32, "base64")
    assert reducers.form(None, "ubinary", "small").dimensions == SMALL
    assert reducers.form(SMALL, "int8", "small").unit_dimensions == 64
    for dimensions, encoding, name, param in [
        (16, "float", None, "dimensions"),
        (32, "float", "small", "dimensions"),
        (None, "float", "other", "reducer"),
        (36, "ubinary", None, "encoding_format"),
        (None, "ubinary", "places", "encoding_format"),
    ]:
        with pytest.raises(InvalidRequest) as caught:
            reducers.form(dimensions, encoding, name)  # type: ignore[arg-type]
        assert caught.value.param == param
    with pytest.raises(InvalidRequest, match="has none"):
        Reducers(64, {}).form(None, "float", "small")
    with pytest.raises(InvalidRequest, match="has small, places"):
        reducers.form(None, "float", "x")


def test_a_form_shapes_what_the_model_gives() -> None:
    hidden = numbers(3, SIZE) * 40
    assert np.allclose(Form(SIZE).vectors(hidden), shorten(hidden))
    assert np.allclose(Form(8, 8).vectors(hidden), shorten(hidden, 8))
    reducer = make()
    form = Form(SIZE, None, "int8", reducer)
    assert np.allclose(form.vectors(hidden), reducer.reduce(shorten(hidden)))
    assert set(form.encode(form.vectors(hidden)[0])) == {"embedding", "scale"}
