"""Defaults that a checkpoint sets hold on every way in: one-shot, prefixes, sessions, watches, counts."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streambed import Engine
from tests.checkpoints import load_engine, make_checkpoint
from tests.server.conftest import Live, Serve

PROMPT, DOCUMENT = "Find code: ", "Document: "
TEXT = "A brook runs to the sea."


@pytest.fixture(scope="module")
def settled_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    prompts = {"query": "Query: ", "document": DOCUMENT, "code": PROMPT}
    directory: Path = make_checkpoint(tmp_path_factory.mktemp("settled") / "tiny", prompts=prompts)
    file = directory / "config_sentence_transformers.json"
    file.write_text(json.dumps({"prompts": prompts, "default_prompt_name": "code", "truncate_dim": 40}))
    with load_engine(directory, max_batch_tokens=48) as engine:
        yield engine


@pytest.fixture
def live(serve: Serve, settled_engine: Engine) -> Live:
    return serve(engine=settled_engine)


def expected(engine: Engine, text: str, dimensions: int = 40) -> Any:
    """What stands before the text is written out here, under an empty prompt of the checkpoint's own making."""
    hidden = engine.submit_batch([engine.tokenizer.encode(text)])[0].result(60).vectors[0][:dimensions]
    return hidden / np.linalg.norm(hidden)


def test_a_request_that_names_nothing_gets_the_defaults(live: Live) -> None:
    item = live.post(TEXT).json()
    vector = np.array(item["data"][0]["embedding"])
    assert vector.shape == (40,)
    assert vector @ expected(live.engine, PROMPT + TEXT) > 0.99999
    assert item["usage"]["prompt_tokens"] == len(live.engine.tokenizer.encode(PROMPT + TEXT)) + 1
    whole = np.array(live.post(TEXT, prompt_name="document", dimensions=64).json()["data"][0]["embedding"])
    assert whole @ expected(live.engine, DOCUMENT + TEXT, 64) > 0.99999
    info, (model,) = live.client.get("/info").json(), live.client.get("/v1/models").json()["data"]
    assert (info["default_prompt_name"], info["default_dimensions"], info["dimensions"]) == ("code", 40, 64)
    assert model["dimensions"] == 40
    counted = live.client.post("/tokenize", json={"input": TEXT}).json()
    assert counted["prompt"] == PROMPT


def test_so_do_prefixes_and_sessions(live: Live) -> None:
    body = {"model": live.model, "input": TEXT, "offsets": [7, len(TEXT)]}
    prefixes = live.client.post("/v1/embeddings/prefixes", json=body).json()["data"]
    for item in prefixes:
        assert np.array(item["embedding"]) @ expected(live.engine, PROMPT + TEXT[: item["offset"]]) > 0.99999
    created = live.client.post("/v1/sessions", json={"text": TEXT, "encoding_format": "base64"}).json()
    assert created["dimensions"] == 40
    done = live.client.post(f"/v1/sessions/{created['session']}/embedding", json={}).json()
    vector = np.frombuffer(base64.b64decode(done["embedding"]), "<f4")
    assert vector @ expected(live.engine, PROMPT + TEXT) > 0.99999


def test_a_watch_is_embedded_as_a_document(live: Live) -> None:
    """So a session under the document's prompt meets its own text."""
    from streambed import Client, Triggered

    watch = [{"id": "same", "text": TEXT, "threshold": 0.9999}]
    with Client(live.url) as client, client.open_stream(input_type="document", emit="append", watch=watch) as stream:
        stream.append(TEXT)
        for event in stream:
            if isinstance(event, Triggered):
                assert event.score > 0.9999
                break
