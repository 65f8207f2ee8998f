"""Smaller vectors on the wire: fewer bits, and reducers by name."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest

from streambed import Engine
from streambed.vectors.fit import fit
from streambed.vectors.reducers import Card, Reducer
from tests.server.conftest import Live, Serve
from tests.server.test_long_input import long_text
from tests.server.test_socket import open_peer

TEXTS = ["a brook", "the sea", "小川は海へ流れる。"]


def values(item: dict[str, Any], encoding_format: str) -> np.ndarray:
    """A vector as a client reads it."""
    got = item["embedding"]
    match encoding_format:
        case "base64":
            return np.frombuffer(base64.b64decode(got), "<f4")
        case "int8":
            assert all(isinstance(number, int) and -127 <= number <= 127 for number in got)
            return np.array(got) * item["scale"]
        case "ubinary":
            assert all(isinstance(number, int) and 0 <= number <= 255 for number in got)
            return (np.unpackbits(np.array(got, np.uint8)) * 2.0 - 1) * item["scale"]
    return np.array(got)


def near(got: np.ndarray, wanted: np.ndarray, encoding_format: str) -> bool:
    assert got.shape == wanted.shape
    if encoding_format == "ubinary":
        return np.array_equal(got > 0, wanted > 0) and abs(np.abs(got).mean() - np.abs(wanted).mean()) < 1e-6
    return bool(
        np.abs(got - wanted).max() <= (0.51 * np.abs(wanted).max() / 127 if encoding_format == "int8" else 1e-4)
    )


@pytest.fixture(scope="module")
def reducer(engine: Engine) -> Reducer:
    draw = np.random.default_rng(0)
    vectors = engine.embed([" ".join(draw.choice(["a", "brook", "sea", "the", "of"], 5)) for _ in range(100)])
    return fit(vectors, "pca", 16, engine.info.model, engine.info.fingerprint)


@pytest.fixture
def reducing(serve: Serve, reducer: Reducer) -> Live:
    card = Card(**reducer.card.model_dump() | {"method": "umap", "metric": "euclidean", "dimensions": 3})
    (weight, bias), *_ = reducer.layers
    places = Reducer.build(card, ((np.ascontiguousarray(weight[:3]), bias[:3] + 5),))
    return serve(reducers={"small": reducer, "places": places})


@pytest.mark.parametrize("encoding_format", ["float", "base64", "int8", "ubinary"])
@pytest.mark.parametrize("shape", [{}, {"dimensions": 32}, {"reducer": "small"}])
def test_every_way_in(reducing: Live, reducer: Reducer, shape: dict[str, Any], encoding_format: str) -> None:
    live, asked = reducing, shape | {"encoding_format": encoding_format}

    def wanted(text: str) -> np.ndarray:
        if "reducer" in shape:
            return reducer.reduce(live.engine.embed([text], long_input="merge"))[0]
        return live.engine.embed([text], long_input="merge", **shape)[0]

    body = live.post(TEXTS, **asked).json()
    for text, item in zip(TEXTS, body["data"], strict=True):
        assert ("scale" in item) == (encoding_format in ("int8", "ubinary"))
        assert near(values(item, encoding_format), wanted(text), encoding_format)
    long = long_text()
    item = live.post(long, segments=True, **asked).json()["data"][0]
    assert near(values(item, encoding_format), wanted(long), encoding_format)
    for one in item["segments"]:
        assert near(values(one, encoding_format), wanted(long[one["start"] : one["end"]]), encoding_format)
    body = live.client.post(
        "/v1/embeddings/prefixes", json={"model": live.model, "input": "a brook runs", "offsets": [3, 7, 12]} | asked
    ).json()
    for item in body["data"]:
        assert near(values(item, encoding_format), wanted("a brook runs"[: item["offset"]]), encoding_format)
    with open_peer(live) as peer:
        created = peer.create(text="a brook runs", **asked)
        done = peer.ask("embedding.create", session=created["session"])
        assert near(values(done, encoding_format), wanted("a brook runs"), encoding_format)
        assert created["dimensions"] == len(wanted("a"))
        same = created["fingerprint"] == live.engine.info.fingerprint
        assert same == ("reducer" not in shape)
        if not same:
            assert created["fingerprint"] == reducer.fingerprint


def test_coordinates_keep_their_length(reducing: Live) -> None:
    places = np.array([item["embedding"] for item in reducing.post(TEXTS, reducer="places").json()["data"]])
    assert places.shape == (3, 3)
    assert np.linalg.norm(places, axis=1).min() > 5


def test_info_lists_them(reducing: Live, reducer: Reducer) -> None:
    listed = reducing.client.get("/info").json()["reducers"]
    assert listed["small"] == {
        "method": "pca", "metric": "cosine", "dimensions": 16, "fingerprint": reducer.fingerprint
    }  # fmt: skip
    assert listed["places"]["metric"] == "euclidean"


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"reducer": "other"}, "reducer", "this server has small, places"),
        ({"reducer": "small", "dimensions": 32}, "dimensions", "gives 16"),
        ({"reducer": "places", "encoding_format": "ubinary"}, "encoding_format", "3 is not a multiple"),
        ({"dimensions": 33, "encoding_format": "ubinary"}, "encoding_format", "33 is not a multiple"),
        ({"reducer": 3}, "reducer", "string"),
    ],
)
def test_what_does_not_go_together(reducing: Live, fields: dict[str, Any], param: str, message: str) -> None:
    for path, body in (
        ("/v1/embeddings", {"model": reducing.model, "input": "a"}),
        ("/v1/embeddings/prefixes", {"model": reducing.model, "input": "a"}),
        ("/v1/sessions", {}),
    ):
        reply = reducing.client.post(path, json=body | fields)
        assert reply.status_code == 400, reply.text
        error = reply.json()["error"]
        assert error["param"] == param
        assert message in error["message"]
    assert reducing.client.get("/v1/sessions").json()["data"] == []


def test_none_are_here(live: Live) -> None:
    assert "this server has none" in live.post("a", reducer="small").json()["error"]["message"]
    assert live.client.get("/info").json()["reducers"] == {}
