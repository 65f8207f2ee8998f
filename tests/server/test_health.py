"""Whether the server lives, can work, and what it serves."""

from __future__ import annotations

import threading
from dataclasses import asdict
from typing import Any

import pytest

import streambed
from streambed.engine.core import MAX_FAILURES
from streambed.engine.stats import EngineStats
from streambed.server import health
from streambed.settings import Settings
from streambed.wire import EmbeddingsRequest, TokenizeRequest
from tests.server.conftest import PROMPTS, Live, Serve, until


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/health"])
def test_well(live: Live, path: str) -> None:
    response = live.client.get(path)
    assert response.status_code == 200
    assert response.json() == {"status": "ok"}


def check_not_ready(live: Live) -> None:
    for path in ("/readyz", "/health"):
        response = live.client.get(path)
        assert response.status_code == 503
        assert response.json()["error"]["code"] == "not_ready"
        assert "Retry-After" in response.headers
    for path in ("/livez", "/info", "/v1/models"):
        assert live.client.get(path).status_code == 200


def test_closed_engine(serve: Serve, open_engine: Any) -> None:
    live = serve(engine=open_engine())
    assert live.client.get("/readyz").status_code == 200
    live.engine.close()
    check_not_ready(live)
    refused = live.post("a")
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "not_ready"


def test_engine_that_died(serve: Serve, open_engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    live = serve(engine=open_engine(max_batch_tokens=48))

    def fail(*_: object) -> Any:
        raise RuntimeError("out of memory in /some/path")

    monkeypatch.setattr(live.engine.compute._device, "run", fail)
    for _ in range(MAX_FAILURES):
        response = live.post("a")
        assert response.status_code == 500
        assert response.json()["error"]["code"] == "internal"
        assert "/some/path" not in response.text
    until(lambda: not live.engine.ready)
    check_not_ready(live)
    assert live.post("a").status_code == 503
    live.errors.clear()


def test_one_failed_step_is_forgiven(serve: Serve, open_engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    live = serve(engine=open_engine(max_batch_tokens=48))
    run, failures = live.engine.compute._device.run, iter([True, True, False, True, True, False])

    def sometimes(*step: Any) -> Any:
        if next(failures, False):
            raise RuntimeError("a kernel failed")
        return run(*step)

    monkeypatch.setattr(live.engine.compute._device, "run", sometimes)
    assert [live.post("a").status_code for _ in range(7)] == [500, 500, 200, 500, 500, 200, 200]
    assert live.client.get("/readyz").status_code == 200
    live.errors.clear()


def test_engine_that_hangs(serve: Serve, open_engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "WATCHDOG_SECONDS", 0.05)
    live = serve(engine=open_engine(max_batch_tokens=48))
    run, go_on = live.engine.compute._device.run, threading.Event()

    def hang(*step: Any) -> Any:
        assert go_on.wait(20)
        return run(*step)

    monkeypatch.setattr(live.engine.compute._device, "run", hang)
    codes: list[int] = []
    waiter = threading.Thread(target=lambda: codes.append(live.post("a").status_code))
    waiter.start()
    try:
        until(lambda: live.client.get("/readyz").status_code == 503)
        check_not_ready(live)
    finally:
        go_on.set()
        waiter.join()
    assert codes == [200]
    assert live.client.get("/readyz").status_code == 200


def test_idle_is_well_however_long(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "WATCHDOG_SECONDS", 1e-9)
    until(lambda: live.engine.stats().waiting == 0)
    assert live.client.get("/readyz").status_code == 200


def test_models(serve: Serve) -> None:
    live = serve(Settings(served_model_name=("a", "b/c")))
    body = live.client.get("/v1/models").json()
    assert body["object"] == "list"
    assert [model["id"] for model in body["data"]] == ["a", "b/c"]
    for model in body["data"]:
        assert model["object"] == "model"
        assert isinstance(model["created"], int)
        assert model["owned_by"] == "streambed"
        assert model["max_model_len"] == live.engine.info.max_tokens
        assert model["dimensions"] == live.engine.info.dimensions
    for name in ("a", "b/c"):
        reply = live.client.post("/v1/embeddings", json={"model": name, "input": "x"})
        assert (reply.status_code, reply.json()["model"]) == (200, name)
    refused = live.client.post("/v1/embeddings", json={"model": "tiny", "input": "x"})
    assert refused.status_code == 404
    assert "a, b/c" in refused.json()["error"]["message"]


def test_one_model(serve: Serve) -> None:
    live = serve(Settings(served_model_name=("a", "b/c", "Größe")))
    listed = {model["id"]: model for model in live.client.get("/v1/models").json()["data"]}
    for path, name in {"a": "a", "b/c": "b/c", "b%2Fc": "b/c", "Gr%C3%B6%C3%9Fe": "Größe"}.items():
        reply = live.client.get(f"/v1/models/{path}")
        assert (reply.status_code, reply.json()) == (200, listed[name])
    for path in ("b", "c", "b/c/", "tiny", "a%00", "x" * 500):
        reply = live.client.get(f"/v1/models/{path}")
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "not_found")
        assert reply.json()["error"]["message"].endswith("this server has a, b/c, Größe")


def test_info(live: Live) -> None:
    live.post("a text for the counters")
    live.engine.check_integrity()  # after which the step has been counted
    body = live.client.get("/info").json()
    assert body["version"] == streambed.__version__
    assert body["served_model_names"] == ["tiny"]
    assert {key: body[key] for key in asdict(live.engine.info)} == asdict(live.engine.info)
    assert body["fingerprint"]
    assert body["dimensions"] == 64
    assert body["end_token"] == live.engine.tokenizer.end_id
    assert body["prompts"] == PROMPTS
    assert set(body["stats"]) == set(EngineStats.__dataclass_fields__)
    assert body["stats"]["steps"] > 0
    assert body["stats"]["rows"] > body["stats"]["steps"]
    assert body["stats"]["waiting"] == 0
    assert str(live.engine.checkpoint.directory) not in live.client.get("/info").text


def test_info_never_holds_a_key(serve: Serve) -> None:
    live = serve(Settings(api_key=("secret-key",)), keys=("secret-key",))
    for path in ("/info", "/v1/models", "/openapi.json", "/docs", "/nope"):
        assert "secret-key" not in live.client.get(path).text


# /tokenize


@pytest.mark.parametrize(
    ("fields", "prompt"),
    [
        ({}, ""),
        ({"instruction": "find"}, "Instruct: find\nQuery:"),
        ({"input_type": "query"}, PROMPTS["query"]),
        ({"input_type": "document"}, ""),
        ({"prompt_name": "code"}, PROMPTS["code"]),
    ],
)
@pytest.mark.parametrize("value", ["A brook 🌊 runs.", ["A brook", "小川<|endoftext|>"]])
def test_tokenize(live: Live, value: str | list[str], fields: dict[str, str], prompt: str) -> None:
    response = live.client.post("/tokenize", json={"input": value} | fields)
    assert response.status_code == 200
    body = response.json()
    tokenizer = live.engine.tokenizer
    texts = [value] if isinstance(value, str) else value
    assert body["object"] == "list"
    assert body["prompt"] == prompt
    assert body["max_tokens"] == live.engine.info.max_tokens
    assert [item["index"] for item in body["data"]] == list(range(len(texts)))
    for item, text in zip(body["data"], texts, strict=True):
        expected = [*tokenizer.encode(prompt + text), tokenizer.end_id]
        assert item["tokens"] == expected
        assert item["count"] == len(expected) == len(item["pieces"])
        assert item["pieces"][-1] == "<|endoftext|>"
        if text.isascii():
            assert "".join(item["pieces"][:-1]) == prompt + text
    usage = live.post(value, **fields).json()["usage"]
    assert usage["prompt_tokens"] == sum(item["count"] for item in body["data"])


def test_tokenize_with_and_without_model(live: Live) -> None:
    assert live.client.post("/tokenize", json={"input": "a", "model": "tiny"}).status_code == 200
    assert live.client.post("/tokenize", json={"input": "a", "model": None}).status_code == 200
    assert live.client.post("/tokenize", json={"input": "a", "model": "other"}).status_code == 404


def test_tokenize_tells_the_length_of_a_text_beyond_the_window(live: Live) -> None:
    text = "word " * 700
    body = live.client.post("/tokenize", json={"input": text}).json()
    assert body["data"][0]["count"] == len(live.engine.tokenizer.encode(text)) + 1 > body["max_tokens"]


# Documentation


def test_docs_load(live: Live) -> None:
    docs = live.client.get("/docs")
    assert docs.status_code == 200
    assert docs.headers["content-type"].startswith("text/html")
    assert "/openapi.json" in docs.text


def test_openapi(live: Live) -> None:
    schema = live.client.get("/openapi.json").json()
    assert schema["info"]["version"] == streambed.__version__
    for path, model in (("/v1/embeddings", EmbeddingsRequest), ("/tokenize", TokenizeRequest)):
        operation = schema["paths"][path]["post"]
        body = operation["requestBody"]["content"]["application/json"]["schema"]
        assert set(body["properties"]) == set(model.model_fields)
        assert body["additionalProperties"] is False
        assert set(body["required"]) == {name for name, field in model.model_fields.items() if field.is_required()}
        for name, field in body["properties"].items():
            assert field.get("description"), f"{name} is explained"
        assert {"200", "400", "401", "404", "413", "415", "429", "500", "503", "504"} <= set(operation["responses"])
        assert "not_found" in operation["responses"]["404"]["description"]
    assert {"/v1/models", "/info", "/livez", "/readyz", "/health"} <= set(schema["paths"])
