"""Other servers' routes: their requests, replies and errors, over the same queue."""

from __future__ import annotations

import json
from typing import Any

import httpx
import numpy as np
import pytest

import streambed
from streambed.settings import Settings
from tests.server.conftest import PROMPTS, Live, Serve, until
from tests.server.test_disconnect import large, request

TEXTS = ["A brook 🌊 runs.", "小川"]
LONG = "word " * 600


def same(vectors: Any, live: Live, texts: list[str], **fields: Any) -> bool:
    reply = live.post(texts, **fields)
    expected = np.array([item["embedding"] for item in reply.json()["data"]])
    return bool(np.allclose(np.array(vectors), expected, atol=1e-5))


def tei(live: Live, inputs: Any, path: str = "/embed", **fields: Any) -> httpx.Response:
    return live.client.post(path, json={"inputs": inputs} | fields)


def ollama(live: Live, input: Any, **fields: Any) -> httpx.Response:
    return live.client.post("/api/embed", json={"model": live.model, "input": input} | fields)


# Text Embeddings Inference


@pytest.mark.parametrize("path", ["/embed", "/"])
def test_tei(live: Live, path: str) -> None:
    """A bare list of vectors, of one text too."""
    one = tei(live, TEXTS[0], path)
    assert (one.status_code, one.headers["content-type"]) == (200, "application/json")
    assert same(one.json(), live, TEXTS[:1])
    assert same(tei(live, TEXTS, path, normalize=True, truncate=None, truncation_direction="right").json(), live, TEXTS)
    assert same(tei(live, TEXTS, path, prompt_name="code").json(), live, TEXTS, prompt_name="code")
    assert same(tei(live, TEXTS, path, dimensions=32).json(), live, TEXTS, dimensions=32)


def test_tei_cuts_only_where_it_is_asked_to(live: Live) -> None:
    refused = tei(live, ["a", LONG])
    assert (refused.status_code, refused.json()["error_type"]) == (413, "Validation")
    assert same(tei(live, ["a", LONG], truncate=True).json(), live, ["a", LONG], long_input="truncate")


@pytest.mark.parametrize(
    ("body", "status", "kind", "says"),
    [
        ({}, 422, "Validation", "inputs is missing"),
        ({"inputs": 5}, 422, "Validation", "neither a string nor a list"),
        ({"inputs": []}, 422, "Validation", "empty list"),
        ({"inputs": [1, 2]}, 422, "Validation", "token ids"),
        ({"inputs": ["a", ""]}, 400, "Empty", "inputs has empty texts, which have no embedding, at 1"),
        ({"inputs": "a", "normalize": False}, 422, "Validation", "unit length"),
        ({"inputs": "a", "truncation_direction": "Left"}, 422, "Validation", "truncation_direction"),
        ({"inputs": "a", "truncation_direction": "up"}, 422, "Validation", "truncation_direction"),
        ({"inputs": "a", "prompt_name": "none"}, 422, "Validation", "unknown prompt_name"),
        ({"inputs": "a", "dimensions": 7}, 422, "Validation", "dimensions"),
        ({"inputs": "a", "truncat": True}, 422, "Validation", "did you mean 'truncate'?"),
        ([], 422, "Validation", "JSON object"),
    ],
)
def test_tei_errors(live: Live, body: Any, status: int, kind: str, says: str) -> None:
    reply = live.client.post("/embed", json=body)
    assert (reply.status_code, reply.json()["error_type"]) == (status, kind)
    assert set(reply.json()) == {"error", "error_type"}
    assert says in reply.json()["error"]


def test_tei_takes_token_ids_where_the_server_does(serve: Serve) -> None:
    live = serve(Settings(accept_token_ids=True))
    ids = [live.engine.tokenizer.encode(text) for text in TEXTS]
    assert same(tei(live, ids).json(), live, TEXTS)
    assert same(tei(live, ids[0]).json(), live, TEXTS[:1])


def test_tei_facts(live: Live) -> None:
    """Beside ours, of which none is changed."""
    info, engine = live.client.get("/info").json(), live.engine.info
    expected = {
        "model_id": live.model,
        "model_sha": None,
        "model_dtype": "float32",
        "model_type": {"embedding": {"pooling": "last_token"}},
        "max_concurrent_requests": live.settings.max_requests,
        "max_input_length": engine.max_tokens,
        "max_batch_tokens": engine.max_batch_tokens,
        "max_batch_requests": None,
        "max_client_batch_size": 2048,
        "auto_truncate": False,
        "tokenization_workers": 2,
        "version": streambed.__version__,
        "sha": None,
        "docker_label": None,
    }
    assert {name: info[name] for name in expected} == expected
    assert (info["pooling"], info["prompts"]) == ("last token", PROMPTS)


# Ollama


def test_ollama(live: Live) -> None:
    for model in (live.model, f"{live.model}:latest"):
        body = ollama(live, TEXTS, model=model).json()
        assert set(body) == {"model", "embeddings", "total_duration", "load_duration", "prompt_eval_count"}
        assert body["model"] == model
        assert same(body["embeddings"], live, TEXTS)
        assert body["prompt_eval_count"] == live.post(TEXTS).json()["usage"]["prompt_tokens"]
        assert isinstance(body["total_duration"], int)
        assert body["total_duration"] > 1000, "nanoseconds"
    assert same(ollama(live, TEXTS[0]).json()["embeddings"], live, TEXTS[:1])
    assert same(ollama(live, TEXTS, dimensions=32, keep_alive="5m").json()["embeddings"], live, TEXTS, dimensions=32)
    older = live.client.post("/api/embeddings", json={"model": live.model, "prompt": TEXTS[0], "keep_alive": -1})
    assert set(older.json()) == {"embedding"}
    assert same([older.json()["embedding"]], live, TEXTS[:1])


def test_ollama_cuts_unless_it_is_told_not_to(live: Live) -> None:
    assert same(ollama(live, LONG).json()["embeddings"], live, [LONG], long_input="truncate")
    refused = ollama(live, LONG, truncate=False)
    assert (refused.status_code, list(refused.json())) == (413, ["error"])
    cut = ollama(live, LONG, options={"num_ctx": 100, "temperature": 0, "num_gpu": 1}).json()
    assert same(cut["embeddings"], live, [LONG], truncate_prompt_tokens=100)
    assert cut["prompt_eval_count"] == 100
    whole = ollama(live, LONG, options={"num_ctx": 1 << 20}).json()["embeddings"]
    assert same(whole, live, [LONG], long_input="truncate")
    older = live.client.post("/api/embeddings", json={"model": live.model, "prompt": LONG, "options": {"num_ctx": 100}})
    assert same([older.json()["embedding"]], live, [LONG], truncate_prompt_tokens=100)


@pytest.mark.parametrize(
    ("path", "fields", "status", "says"),
    [
        ("/api/embed", {}, 400, "input is missing"),
        ("/api/embed", {"input": ["a", "", ""]}, 400, "empty texts, which have no embedding, at 1, 2"),
        ("/api/embed", {"input": "a", "model": "other:latest"}, 404, "no such model"),
        ("/api/embed", {"input": "a", "model": None}, 400, "model is missing"),
        ("/api/embed", {"input": "a", "inputt": "a"}, 400, "did you mean 'input'?"),
        ("/api/embed", {"input": "a", "options": {"num_ctz": 5}}, 400, "did you mean 'num_ctx'?"),
        ("/api/embed", {"input": "a", "options": {"num_ctx": 5}, "truncate": False}, 400, "num_ctx"),
        ("/api/embeddings", {"input": "a"}, 400, "input"),
        ("/api/embeddings", {"prompt": ""}, 400, "empty"),
        ("/api/show", {"model": "other"}, 404, "no such model"),
    ],
)
def test_ollama_errors(live: Live, path: str, fields: dict[str, Any], status: int, says: str) -> None:
    reply = live.client.post(path, json={"model": live.model} | fields)
    assert reply.status_code == status, reply.text
    assert list(reply.json()) == ["error"]
    assert says in reply.json()["error"]


def test_what_ollama_clients_ask_before(live: Live) -> None:
    (model,) = live.client.get("/api/tags").json()["models"]
    assert model["name"] == model["model"] == live.model
    assert model["size"] == sum(file.stat().st_size for file in live.engine.checkpoint.weight_files)
    assert model["digest"] == live.engine.info.fingerprint
    assert live.client.get("/api/version").json() == {"version": streambed.__version__}
    for asked in ({"model": live.model}, {"name": f"{live.model}:latest", "verbose": True}):
        shown = live.client.post("/api/show", json=asked).json()
        assert shown["capabilities"] == ["embedding"]
        assert shown["model_info"]["qwen3.embedding_length"] == live.engine.info.dimensions


# The same for all


@pytest.mark.parametrize(
    ("path", "body", "error"),
    [("/embed", {"inputs": "a"}, {"error", "error_type"}), ("/api/embed", {"input": "a"}, {"error"})],
)
def test_refusals_of_the_guard_are_theirs(serve: Serve, path: str, body: dict[str, str], error: set[str]) -> None:
    live = serve(Settings(max_body=1024), keys=("key",))
    for headers, content, status in (
        ({"Authorization": "Bearer wrong"}, json.dumps(body), 401),
        ({}, "x" * 2000, 413),
        ({"Content-Type": "text/plain"}, json.dumps(body), 415),
        ({"Origin": "https://evil.example"}, json.dumps(body), 403),
    ):
        reply = live.client.post(path, content=content, headers={"Content-Type": "application/json"} | headers)
        assert (reply.status_code, set(reply.json())) == (status, error)
    assert set(live.client.get(path).json()) == error


def test_failures_are_theirs(serve: Serve, open_engine: Any) -> None:
    live = serve(engine=open_engine())
    live.engine.close()
    reply = tei(live, "a")
    assert (reply.status_code, reply.json()["error_type"]) == (503, "Unhealthy")
    assert "Retry-After" in reply.headers
    assert (ollama(live, "a").status_code, list(ollama(live, "a").json())) == (503, ["error"])


def test_an_engine_that_fails_is_theirs(serve: Serve, open_engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    live = serve(engine=open_engine())

    def fail(*_: object) -> Any:
        raise RuntimeError("a kernel failed")

    monkeypatch.setattr(live.engine.compute._device, "run", fail)
    reply = tei(live, "a")
    assert (reply.status_code, reply.json()["error_type"]) == (424, "Backend")
    live.errors.clear()


def test_too_busy_is_theirs(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    live = serve()
    monkeypatch.setattr("streambed.engine.core.MAX_QUEUED_TOKENS", 10)
    monkeypatch.setattr(live.engine.compute, "_queued_tokens", 10)
    reply = tei(live, "a")
    assert (reply.status_code, reply.json()["error_type"]) == (429, "Overloaded")
    assert ollama(live, "a").status_code == 429
    monkeypatch.undo()


def test_lanes_times_and_counts_are_those_of_any_request(serve: Serve, open_engine: Any) -> None:
    live = serve(Settings(drain=5.0), engine=open_engine(max_batch_tokens=8))
    for reply in (tei(live, "a"), ollama(live, "a"), tei(live, "a", "/")):
        assert {"tokenize", "queue", "compute", "total"} <= {
            part.split(";")[0].strip() for part in reply.headers["server-timing"].split(",")
        }
    tei(live, ["some more words " * 20] * 30)
    series = live.client.get("/metrics").text
    for route, lane in (("/embed", "query"), ("/embed", "bulk"), ("/api/embed", "query"), ("/", "query")):
        assert f'streambed_requests_total{{lane="{lane}",outcome="ok",route="{route}"}} 1.0' in series, (route, lane)
    with live.connect() as connection:  # who leaves takes the work along
        body = json.loads(large(live).partition(b"\r\n\r\n")[2])
        sent = request(live, "/api/embed", input=body["input"])
        connection.sendall(sent)
        until(lambda: live.engine.stats().waiting > 10)
    until(lambda: live.engine.stats().waiting == 0)
    live.engine.check_integrity()
