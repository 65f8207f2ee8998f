"""`POST /v1/embeddings/prefixes`."""

from __future__ import annotations

import base64
from typing import Any

import httpx
import numpy as np
import pytest

from tests.server.conftest import Live

TEXT = "Der Fluß 🌊 rauscht. Das Meer ist weit!\nEnde"


def post(live: Live, **fields: Any) -> httpx.Response:
    return live.client.post("/v1/embeddings/prefixes", json={"model": live.model, "input": TEXT} | fields)


def refused(response: httpx.Response, status: int = 400) -> dict[str, Any]:
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    return error


def test_sentences_by_default(live: Live) -> None:
    body = post(live).json()
    assert [TEXT[: item["offset"]] for item in body["data"]] == [
        "Der Fluß 🌊 rauscht.",
        "Der Fluß 🌊 rauscht. Das Meer ist weit!\n",
        TEXT,
    ]
    assert [item["index"] for item in body["data"]] == [0, 1, 2]
    wanted = live.engine.embed([TEXT[: item["offset"]] for item in body["data"]])
    found = np.array([item["embedding"] for item in body["data"]], np.float32)
    assert (found * wanted).sum(1).min() >= 0.99999
    tokens = len(live.engine.tokenizer.encode(TEXT))
    assert body["data"][-1]["tokens"] == tokens + 1
    assert body["usage"]["prompt_tokens"] == body["usage"]["total_tokens"] == tokens + 3


@pytest.mark.parametrize("unit", ["codepoint", "utf16", "utf8"])
def test_offsets_in_the_clients_unit(live: Live, unit: str) -> None:
    places = [3, 10, 20, len(TEXT)]
    size = {
        "codepoint": len,
        "utf16": lambda text: len(text.encode("utf-16-le")) // 2,
        "utf8": lambda text: len(text.encode()),
    }[unit]
    offsets = [size(TEXT[:place]) for place in places]
    body = post(live, offsets=offsets, offset_unit=unit, encoding_format="base64", dimensions=32).json()
    assert [item["offset"] for item in body["data"]] == offsets
    found = np.array([np.frombuffer(base64.b64decode(item["embedding"]), "<f4") for item in body["data"]])
    wanted = live.engine.embed([TEXT[:place] for place in places], dimensions=32)
    assert (found * wanted).sum(1).min() >= 0.99999


def test_every_so_many_tokens_under_an_instruction(live: Live) -> None:
    response = post(live, every=4, instruction="Find the sea")
    assert "compute" in response.headers["server-timing"]
    data = response.json()["data"]
    wanted = live.engine.embed([TEXT[: item["offset"]] for item in data], instruction="Find the sea")
    found = np.array([item["embedding"] for item in data], np.float32)
    assert (found * wanted).sum(1).min() >= 0.99999


def test_posted_again_it_is_cached(live: Live) -> None:
    text = "A text that nobody has posted before this test. It has two sentences."
    first, again = (post(live, input=text).json()["usage"]["prompt_tokens_details"]["cached_tokens"] for _ in range(2))
    assert first < 4
    assert again > 10


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"offsets": [3, 2]}, "offsets"),
        ({"offsets": [0]}, "offsets"),
        ({"offsets": [10_000]}, "offsets"),
        ({"offsets": []}, "offsets"),
        ({"offsets": [10], "offset_unit": "utf8", "input": "abcdefgh🌊"}, "offsets"),
        ({"offsets": ["3"]}, "offsets[0]"),
        ({"offsets": [3], "every": 4}, "offsets"),
        ({"every": 0}, "every"),
        ({"every": "word"}, "every"),
        ({"input": ""}, "input"),
        ({"input": ["a list"]}, "input"),
        ({"dimensions": 3}, "dimensions"),
        ({"instruction": "x", "input_type": "query"}, "input_type"),
        ({"unknown": 1}, "unknown"),
    ],
)
def test_bad_requests(live: Live, fields: dict[str, Any], param: str) -> None:
    error = refused(post(live, **fields))
    assert error["code"] == "invalid_request"
    assert error["param"].split(".")[0] == param


def test_refusals_of_another_kind(live: Live) -> None:
    assert refused(post(live, model="other"), 404)["param"] == "model"
    assert refused(post(live, input="word " * 600), 413)["code"] == "too_large"
    assert refused(post(live, input="word " * 5_000), 413)["code"] == "too_large"
    lone = live.client.post(
        "/v1/embeddings/prefixes",
        content=b'{"model": "%s", "input": "a\\ud800"}' % live.model.encode(),
        headers={"Content-Type": "application/json"},
    )
    assert refused(lone)["code"] == "invalid_request"


def test_a_late_request_is_told(live: Live) -> None:
    response = post(live, input="x. " * 100, timeout_ms=1)
    assert response.status_code in (200, 504)
