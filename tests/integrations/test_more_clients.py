"""More clients of others against a live server: Haystack, LiteLLM, LanceDB. `make test-all` installs them.

None reaches a network beyond this machine: Haystack's telemetry and LiteLLM's list of prices are turned off before they are
imported. docs/integrations.md shows how each is used; here is what it relies on.
"""

from __future__ import annotations

import asyncio
import os

os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import gc
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

from streambed import AsyncClient, Client, Engine
from tests.server.conftest import Live, Servers

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),  # what others warn of at import is theirs
]

TEXTS = ["A brook runs to the sea.", "小川は海へ流れる。", "🌊 waves\nand more", "word " * 1000]
LIBRARY = [
    "How to repair a flat bicycle tyre",
    "A recipe for apple pie",
    "Train times to the airport",
    "How to reset a forgotten password",
]
QUERY = "my bike has a puncture"
TASK = "Given a question, retrieve passages that answer it"


@pytest.fixture(scope="module", autouse=True)
def leave_nothing_behind() -> Iterator[None]:
    """LiteLLM asks for the main thread's event loop, which Python then makes and nobody closes, and keeps connections open.
    Whatever test runs when they are collected would be blamed for it."""
    import litellm

    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    asyncio.set_event_loop(None)
    loop.close()
    litellm.in_memory_llm_clients_cache.flush_cache()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine.load() as engine:
        yield engine


@pytest.fixture
def live(engine: Engine) -> Iterator[Live]:
    servers = Servers()
    yield servers.start(engine)
    servers.stop()


@pytest.fixture
def expected(engine: Engine) -> np.ndarray:
    return engine.embed(TEXTS)


def agree(vectors: Any, expected: np.ndarray) -> bool:
    got = np.array(vectors, dtype=np.float64)
    assert got.shape == expected.shape
    assert np.abs(np.linalg.norm(got, axis=-1) - 1).max() < 1e-5
    return bool((got * expected).sum(-1).min() >= 0.99999)


def shortened(vectors: np.ndarray, dimensions: int) -> np.ndarray:
    short = vectors[:, :dimensions]
    return short / np.linalg.norm(short, axis=-1, keepdims=True)


# Haystack


def haystack(live: Live, kind: str, **more: Any) -> Any:
    from haystack.components import embedders
    from haystack.utils import Secret

    server = {"model": live.model, "api_base_url": f"{live.url}/v1", "api_key": Secret.from_token("EMPTY")}
    return getattr(embedders, kind)(**server, max_retries=0, **more)


def haystack_documents(texts: list[str]) -> list[Any]:
    from haystack import Document

    return [Document(content=text) for text in texts]


def test_haystack(live: Live, expected: np.ndarray) -> None:
    embedder = haystack(live, "OpenAIDocumentEmbedder", raise_on_failure=True, progress_bar=False, batch_size=3)
    done = embedder.run(haystack_documents(TEXTS))
    assert agree([document.embedding for document in done["documents"]], expected)
    assert done["meta"]["model"] == live.model
    counts = [len(live.engine.tokenizer.encode(text)) + 1 for text in TEXTS]
    assert done["meta"]["usage"]["prompt_tokens"] == sum(counts)
    assert agree([haystack(live, "OpenAITextEmbedder").run(TEXTS[0])["embedding"]], expected[:1])


def test_haystack_with_dimensions(live: Live, expected: np.ndarray) -> None:
    embedder = haystack(live, "OpenAITextEmbedder", dimensions=64)
    assert agree([embedder.run(TEXTS[0])["embedding"]], shortened(expected[:1], 64))


def test_haystacks_prefix_is_an_instruction(live: Live, engine: Engine) -> None:
    embedder = haystack(live, "OpenAITextEmbedder", prefix=f"Instruct: {TASK}\nQuery:")
    done = embedder.run(QUERY)
    assert agree([done["embedding"]], engine.embed([QUERY], instruction=TASK))
    instructed = live.post(QUERY, instruction=TASK).json()["usage"]
    assert done["meta"]["usage"]["prompt_tokens"] == instructed["prompt_tokens"]


def test_haystack_hears_of_a_refusal_only_if_it_wants_to(live: Live) -> None:
    documents = haystack_documents([TEXTS[0], ""])
    with pytest.raises(openai.BadRequestError) as error:
        haystack(live, "OpenAIDocumentEmbedder", raise_on_failure=True, progress_bar=False).run(documents)
    assert "empty string" in str(error.value)
    done = haystack(live, "OpenAIDocumentEmbedder", progress_bar=False).run(documents)
    assert [document.embedding for document in done["documents"]] == [None, None]
    assert len(live.errors) == 2, "Haystack's own log lines"
    live.errors.clear()


# LiteLLM


def litellm_embedding(live: Live, texts: list[Any], **more: Any) -> Any:
    import litellm

    litellm.suppress_debug_info = True
    server = {"model": f"openai/{live.model}", "api_base": f"{live.url}/v1", "api_key": "EMPTY", "max_retries": 0}
    return litellm.embedding(input=texts, **server | more)


def litellm_vectors(live: Live, texts: list[Any], **more: Any) -> list[Any]:
    return [item["embedding"] for item in litellm_embedding(live, texts, **more).data]


def test_litellm(live: Live, expected: np.ndarray) -> None:
    reply = litellm_embedding(live, TEXTS)
    assert agree([item["embedding"] for item in reply.data], expected)
    assert [item["index"] for item in reply.data] == list(range(len(TEXTS)))
    assert reply.usage.prompt_tokens == sum(len(live.engine.tokenizer.encode(text)) + 1 for text in TEXTS)
    assert agree(litellm_vectors(live, TEXTS, encoding_format="float"), expected)


def test_litellm_with_dimensions(live: Live, expected: np.ndarray) -> None:
    import litellm

    with pytest.raises(litellm.UnsupportedParamsError):
        litellm_embedding(live, TEXTS, dimensions=64)
    for more in ({"extra_body": {"dimensions": 64}}, {"dimensions": 64, "allowed_openai_params": ["dimensions"]}):
        assert agree(litellm_vectors(live, TEXTS, **more), shortened(expected, 64))
    # The trap that the docs tell of.
    assert agree(litellm_vectors(live, TEXTS, dimensions=64, drop_params=True), expected)


def test_litellm_with_an_instruction(live: Live) -> None:
    reply = litellm_embedding(live, [QUERY], extra_body={"instruction": TASK})
    instructed = live.post(QUERY, instruction=TASK).json()
    assert reply.usage.prompt_tokens == instructed["usage"]["prompt_tokens"]
    assert agree([reply.data[0]["embedding"]], np.array([instructed["data"][0]["embedding"]]))


def test_litellm_errors(live: Live) -> None:
    import litellm

    with pytest.raises(litellm.BadRequestError, match="empty string"):
        litellm_embedding(live, [TEXTS[0], ""])
    with pytest.raises(litellm.BadRequestError, match="token ids"):
        litellm_embedding(live, [[1, 2, 3]])
    with pytest.raises(litellm.NotFoundError, match="no such model"):
        litellm_embedding(live, TEXTS[:1], model="openai/text-embedding-3-small")


# LanceDB


def rows(texts: list[str], vectors: np.ndarray) -> list[dict[str, Any]]:
    return [{"text": text, "vector": vector} for text, vector in zip(texts, vectors, strict=True)]


def test_lancedb_finds_what_a_product_finds(live: Live, tmp_path: Path) -> None:
    import lancedb

    with Client(live.url) as client:
        documents = client.embed(TEXTS + LIBRARY, input_type="document")
        table = lancedb.connect(str(tmp_path)).create_table("texts", rows(TEXTS + LIBRARY, documents))
        query = client.embed(QUERY, input_type="query")[0]
    found = table.search(query).distance_type("dot").limit(3).to_list()
    order = np.argsort(-(documents @ query))[:3]
    assert [row["text"] for row in found] == [(TEXTS + LIBRARY)[at] for at in order]
    assert np.abs([1 - row["_distance"] for row in found] - (documents @ query)[order]).max() < 1e-5


def test_lancedb_live_search(live: Live, tmp_path: Path) -> None:
    """A stream types; LanceDB is asked at each embedding that comes; what it finds last is found for the whole text."""
    import lancedb

    async def search() -> list[tuple[int, str]]:
        found: list[tuple[int, str]] = []
        async with AsyncClient(live.url) as client:
            vectors = await client.embed(LIBRARY, input_type="document")
            database = await lancedb.connect_async(str(tmp_path))
            table = await database.create_table("texts", rows(LIBRARY, vectors))
            async with client.open_stream(input_type="query", emit="append") as stream:

                async def listen() -> None:
                    async for event in stream:
                        nearest = await table.vector_search(event.vector).distance_type("dot").limit(1).to_list()
                        found.append((event.offset, nearest[0]["text"]))
                        if event.offset == len(QUERY):
                            return

                listening = asyncio.create_task(listen())
                for character in QUERY:
                    await stream.append(character)
                    await asyncio.sleep(0.005)
                await asyncio.wait_for(listening, 60)
        return found

    found = asyncio.run(search())
    offsets = [offset for offset, _ in found]
    assert offsets == sorted(set(offsets)), "each state of the text once, in order"
    assert found[-1] == (len(QUERY), LIBRARY[0])
    assert live.client.get("/v1/sessions").json()["data"] == []
