"""Those who come from another server keep their client and change its address, model and key. docs/migration.md shows it.

The bodies of RAGFlow and Dify were read in their source, which stands beside each; they are sent here as they are there.
"""

from __future__ import annotations

import base64
import os

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import numpy as np
import openai
import pytest

from streambed import Client, Engine
from streambed.settings import Settings
from tests.integrations.test_more_clients import leave_nothing_behind  # noqa: F401  (LiteLLM's connections)
from tests.server.conftest import Live, Servers

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),  # what others warn of at import is theirs
]

TEXTS = ["A brook runs to the sea.", "小川は海へ流れる。", "🌊 waves\nand more", "word " * 1000]
KEY = "key-of-this-test"


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine.load() as engine:
        yield engine


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    servers = Servers()
    yield servers
    servers.stop()


@pytest.fixture(scope="module")
def live(engine: Engine, servers: Servers) -> Live:
    """With a key, as a server that others reach."""
    return servers.start(engine, keys=(KEY,))


@pytest.fixture(scope="module")
def expected(engine: Engine) -> np.ndarray:
    return engine.embed(TEXTS)


def agree(vectors: Any, expected: np.ndarray) -> bool:
    got = np.array(vectors, dtype=np.float64)
    assert got.shape == expected.shape
    assert np.abs(np.linalg.norm(got, axis=-1) - 1).max() < 1e-4
    return bool((got * expected).sum(-1).min() >= 0.9999)


# vLLM and SGLang: the OpenAI client


def test_vllm(live: Live, expected: np.ndarray) -> None:
    client = openai.OpenAI(api_key=KEY, base_url=f"{live.url}/v1", max_retries=0)
    model = client.models.list().data[0].id
    assert agree([item.embedding for item in client.embeddings.create(input=TEXTS, model=model).data], expected)
    reply = client.embeddings.create(input=["Follow the white rabbit."], model=model, dimensions=32)
    assert len(reply.data[0].embedding) == 32


def test_vllm_truncates_in_its_words(live: Live, engine: Engine) -> None:
    client = openai.OpenAI(api_key=KEY, base_url=f"{live.url}/v1", max_retries=0)
    reply = client.embeddings.create(input=TEXTS[3], model=live.model, extra_body={"truncate_prompt_tokens": 101})
    assert reply.usage.prompt_tokens == 101
    assert agree([reply.data[0].embedding], engine.embed(["word" + " word" * 99]))


def test_vllm_number_formats_are_refused_and_not_ignored(live: Live) -> None:
    """Ignored, they would be decoded as what they are not."""
    client = openai.OpenAI(api_key=KEY, base_url=f"{live.url}/v1", max_retries=0)
    for more in ({"embed_dtype": "float16"}, {"endianness": "big"}):
        with pytest.raises(openai.BadRequestError, match=next(iter(more))):
            client.embeddings.create(input=TEXTS, model=live.model, extra_body=more)


# text-embeddings-inference


def test_inference_client(live: Live, expected: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import InferenceClient, constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # else it refuses this machine, too
    client = InferenceClient(api_key=KEY)
    for path in ("/embed", ""):
        for text, vectors in ((TEXTS, expected), (TEXTS[0], expected[:1])):
            assert agree(client.feature_extraction(text, model=f"{live.url}{path}"), vectors)
    assert agree(client.feature_extraction(TEXTS, model=f"{live.url}/embed", normalize=True, truncate=True), expected)


def test_dify_cannot_use_text_embeddings_inference(live: Live) -> None:
    """As docs/migration.md says: it asks for TEI's tokens first."""
    assert next(iter(live.client.get("/info").json()["model_type"])) == "embedding"
    assert live.client.post("/tokenize", json={"inputs": TEXTS}).status_code == 400


# Ollama


def test_ollama(live: Live, expected: np.ndarray) -> None:
    ollama = pytest.importorskip("ollama", reason="`make .venv/integrations` installs it")
    client = ollama.Client(host=live.url, headers={"Authorization": f"Bearer {KEY}"})
    reply = client.embed(model=live.model, input=TEXTS)
    assert agree(reply["embeddings"], expected)
    assert reply["prompt_eval_count"] == sum(len(live.engine.tokenizer.encode(text)) + 1 for text in TEXTS)
    assert agree(client.embed(model=live.model, input=TEXTS[0], truncate=True)["embeddings"], expected[:1])
    assert len(client.embed(model=live.model, input=TEXTS[0], dimensions=64)["embeddings"][0]) == 64
    assert agree([client.embeddings(model=live.model, prompt=TEXTS[0])["embedding"]], expected[:1])
    with pytest.raises(ollama.ResponseError, match="no such model"):
        client.embed(model="nomic-embed-text", input=TEXTS)


def test_langchain_for_ollama(live: Live, expected: np.ndarray) -> None:
    """It sends every option that it knows as null."""
    module = pytest.importorskip("langchain_ollama", reason="`make .venv/integrations` installs it")
    headers = {"headers": {"Authorization": f"Bearer {KEY}"}}
    embeddings = module.OllamaEmbeddings(model=live.model, base_url=live.url, client_kwargs=headers)
    assert agree(embeddings.embed_documents(TEXTS), expected)
    assert agree([embeddings.embed_query(TEXTS[0])], expected[:1])


# LiteLLM


@pytest.mark.parametrize("provider", ["openai", "hosted_vllm", "ollama"])
def test_litellm(provider: str, live: Live, expected: np.ndarray) -> None:
    litellm = pytest.importorskip("litellm", reason="`make .venv/integrations` installs it")
    base = live.url if provider == "ollama" else f"{live.url}/v1"
    reply = litellm.embedding(model=f"{provider}/{live.model}", input=TEXTS, api_base=base, api_key=KEY)
    assert agree([item["embedding"] for item in reply.data], expected)


# sentence-transformers


def test_sentence_transformers(live: Live, engine: Engine) -> None:
    """In process and through a server, with the prompts that its two methods take from the folder."""
    from sentence_transformers import SentenceTransformer

    folder = str(files("streambed") / "model" / "builtin")
    theirs = SentenceTransformer(folder, device="cpu", model_kwargs={"dtype": "float32"})
    with Client(live.url, api_key=KEY) as client:
        for ours in (engine, client):
            assert agree(ours.embed(TEXTS), theirs.encode(TEXTS))
            assert agree(ours.embed(TEXTS, input_type="query"), theirs.encode_query(TEXTS))
            assert agree(ours.embed(TEXTS, input_type="document"), theirs.encode_document(TEXTS))
            short = theirs.encode(TEXTS, truncate_dim=128, normalize_embeddings=True)
            assert agree(ours.embed(TEXTS, dimensions=128), short)


# RAGFlow and Dify


@dataclass(frozen=True)
class Sent:
    """A request of a program, without the name of the model, and where its answer has the vectors."""

    who: str
    source: str
    path: str
    body: dict[str, Any]
    needs: dict[str, Any] = field(default_factory=dict)
    """Settings without which it is refused."""
    has_key: bool = True
    has_model: bool = True


RAGFLOW = "infiniflow/ragflow rag/llm/embedding_model.py"
DIFY = "langgenius/dify-official-plugins models"
SENT = [
    Sent(
        "RAGFlow, OpenAI-API-Compatible and vLLM",
        f"{RAGFLOW} OpenAIEmbed",
        "/v1/embeddings",
        {"input": TEXTS, "encoding_format": "float", "drop_params": True},
        needs={"ignore_unknown_fields": True},
    ),
    Sent(
        "RAGFlow, LocalAI and Xinference",
        f"{RAGFLOW} LocalAIEmbed",
        "/v1/embeddings",
        {"input": TEXTS, "encoding_format": "base64"},
    ),
    Sent(
        "RAGFlow, HuggingFace",
        f"{RAGFLOW} HuggingFaceEmbed",
        "/embed",
        {"inputs": TEXTS},
        has_key=False,
        has_model=False,
    ),
    Sent(
        "RAGFlow, Ollama",
        f"{RAGFLOW} OllamaEmbed.encode",
        "/api/embed",
        {"input": TEXTS, "options": {"use_mmap": True}, "keep_alive": -1},
    ),
    Sent(
        "RAGFlow, a query to Ollama",
        f"{RAGFLOW} OllamaEmbed.encode_queries",
        "/api/embeddings",
        {"prompt": TEXTS[0], "options": {"use_mmap": True}, "keep_alive": -1},
    ),
    Sent(
        "Dify, OpenAI-API-compatible",
        f"{DIFY}/openai_api_compatible/models/text_embedding/text_embedding.py _embed_in_batches",
        "/v1/embeddings",
        {"input": TEXTS},
    ),
    Sent(
        "Dify, OpenAI-API-compatible, with an encoding and a user",
        "langgenius/dify api/core/model_runtime/model_providers/openai_api_compatible/text_embedding _invoke",
        "/v1/embeddings",
        {"input": TEXTS, "user": "somebody", "encoding_format": "float"},
    ),
    Sent(
        "Dify, when it saves a provider",
        "the same, validate_credentials",
        "/v1/embeddings",
        {"input": "ping"},
    ),
    Sent(
        "Dify, Ollama",
        f"{DIFY}/ollama/models/text_embedding/text_embedding.py _invoke",
        "/api/embed",
        {"input": TEXTS, "options": {"use_mmap": True}},
    ),
]


def vectors_of(reply: Any) -> list[Any]:
    """Of an answer in OpenAI's, Ollama's or text-embeddings-inference's form."""
    if isinstance(reply, list):
        return reply
    if "embedding" in reply:
        return [reply["embedding"]]
    if "embeddings" in reply:
        return list(reply["embeddings"])
    coded = [item["embedding"] for item in reply["data"]]
    return [np.frombuffer(base64.b64decode(each), "<f4") if isinstance(each, str) else each for each in coded]


@pytest.mark.parametrize("sent", SENT, ids=lambda sent: sent.who)
def test_what_ragflow_and_dify_send(sent: Sent, engine: Engine, servers: Servers) -> None:
    keys = (KEY,) if sent.has_key else ()
    body = sent.body | ({"model": engine.info.model} if sent.has_model else {})
    if sent.needs:
        refused = servers.start(engine, keys=keys).client.post(sent.path, json=body)
        assert refused.status_code == 400, "a row of docs/migration.md names what it needs"
        assert "drop_params" in refused.json()["error"]["message"]
    reply = servers.start(engine, Settings(drain=5.0, **sent.needs), keys=keys).client.post(sent.path, json=body)
    assert reply.status_code == 200, reply.text
    texts = next(sent.body[name] for name in ("input", "inputs", "prompt") if name in sent.body)
    assert agree(vectors_of(reply.json()), engine.embed([texts] if isinstance(texts, str) else texts))
