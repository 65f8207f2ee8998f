"""Clients of others against a live server: openai-node, LangChain, LlamaIndex. `make test-all` installs them.

None reaches a network beyond this machine. LangChain's tiktoken would fetch its vocabulary, so it is given one of 256 bytes
here: all else of the way that text takes through LangChain is LangChain's own.
"""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

from streambed import Engine
from streambed.settings import Settings
from tests.groups import program
from tests.server.conftest import Live, Servers

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),  # what others warn of at import is theirs
]

TEXTS = ["A brook runs to the sea.", "小川は海へ流れる。", "🌊 waves\nand more", "word " * 1000]
NODE = Path(__file__).parent / "node"


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


# openai-node


@pytest.fixture
def node_says(live: Live) -> dict[str, Any]:
    node = program("node")
    if not (NODE / "node_modules" / "openai").is_dir():
        pytest.skip("openai-node is not here; `make .venv/integrations` installs it")
    done = subprocess.run(
        [node, NODE / "embed.mjs", f"{live.url}/v1", live.model, json.dumps(TEXTS)],
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def test_openai_node(node_says: dict[str, Any], live: Live, expected: np.ndarray) -> None:
    for kind in ("default", "float"):
        reply = node_says[kind]
        assert (reply["object"], reply["model"]) == ("list", live.model)
        assert [item["index"] for item in reply["data"]] == list(range(len(TEXTS)))
        assert agree([item["embedding"] for item in reply["data"]], expected), kind
        count = sum(len(live.engine.tokenizer.encode(text)) + 1 for text in TEXTS)
        assert reply["usage"]["prompt_tokens"] == reply["usage"]["total_tokens"] == count
    decoded = [np.frombuffer(base64.b64decode(item["embedding"]), "<f4") for item in node_says["base64"]["data"]]
    assert agree(decoded, expected)
    short = expected[:1, :64] / np.linalg.norm(expected[:1, :64])
    assert agree([item["embedding"] for item in node_says["string"]["data"]], short)
    assert node_says["models"] == [live.model]


def test_openai_node_errors(node_says: dict[str, Any]) -> None:
    assert node_says["empty"] == {
        "name": "BadRequestError",
        "status": 400,
        "code": "invalid_request",
        "param": "input[1]",
        "type": "invalid_request_error",
    }
    assert node_says["unknown"] == {
        "name": "NotFoundError",
        "status": 404,
        "code": "not_found",
        "param": "model",
        "type": "invalid_request_error",
    }


def test_lock_file_names_no_registry() -> None:
    """npm then asks the one that is configured; see .npmrc."""
    text = (NODE / "package-lock.json").read_text()
    assert "http://" not in text
    assert "https://" not in text
    assert '"resolved"' not in text


# LangChain


def langchain(live: Live, **more: Any) -> Any:
    module = pytest.importorskip("langchain_openai", reason="`make .venv/integrations` installs it")
    return module.OpenAIEmbeddings(model=live.model, base_url=f"{live.url}/v1", api_key="EMPTY", max_retries=0, **more)


@pytest.fixture
def bytes_for_tiktoken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiktoken encoding that needs no download, in the place of OpenAI's."""
    tiktoken = pytest.importorskip("tiktoken", reason="comes with langchain-openai")
    encoding = tiktoken.Encoding(
        "bytes", pat_str=r"[\s\S]", mergeable_ranks={bytes([byte]): byte for byte in range(256)}, special_tokens={}
    )
    monkeypatch.setattr(tiktoken, "encoding_for_model", lambda name: encoding)
    monkeypatch.setattr(tiktoken, "get_encoding", lambda name: encoding)


def test_langchain_with_text(live: Live, expected: np.ndarray) -> None:
    """The way that the refusal below names."""
    embeddings = langchain(live, check_embedding_ctx_length=False)
    assert agree(embeddings.embed_documents(TEXTS), expected)
    assert agree([embeddings.embed_query(TEXTS[0])], expected[:1])


def test_langchain_with_dimensions(live: Live, expected: np.ndarray) -> None:
    embeddings = langchain(live, check_embedding_ctx_length=False, dimensions=64)
    short = expected[:, :64] / np.linalg.norm(expected[:, :64], axis=-1, keepdims=True)
    assert agree(embeddings.embed_documents(TEXTS), short)


@pytest.mark.usefixtures("bytes_for_tiktoken")
def test_langchain_by_default_is_told_what_to_do(live: Live) -> None:
    """LangChain sends ids of OpenAI's tokenizer, whose vectors would be wrong without an error."""
    embeddings = langchain(live)
    for call in (lambda: embeddings.embed_documents(TEXTS), lambda: embeddings.embed_query(TEXTS[0])):
        with pytest.raises(openai.BadRequestError) as error:
            call()
        assert "check_embedding_ctx_length=False" in str(error.value)


@pytest.mark.usefixtures("bytes_for_tiktoken")
def test_what_langchain_by_default_would_get(engine: Engine, expected: np.ndarray) -> None:
    """Why the refusal: with ids accepted there is an answer, and it is wrong."""
    servers = Servers()
    live = servers.start(engine, Settings(accept_token_ids=True))
    vectors = np.array(langchain(live).embed_documents(TEXTS[:1]))
    assert (vectors * expected[:1]).sum(-1).max() < 0.99
    servers.stop()


def test_langchain_with_the_models_own_tokenizer(live: Live, expected: np.ndarray, engine: Engine) -> None:
    """Without tiktoken LangChain cuts long texts with a transformers tokenizer and sends text."""
    embeddings = langchain(live, tiktoken_enabled=False, tiktoken_model_name=str(engine.checkpoint.directory))
    assert agree(embeddings.embed_documents(TEXTS), expected)


# LlamaIndex


def llama_index(live: Live, **more: Any) -> Any:
    module = pytest.importorskip(
        "llama_index.embeddings.openai_like", reason="`make .venv/integrations` installs it", exc_type=ImportError
    )
    return module.OpenAILikeEmbedding(
        model_name=live.model, api_base=f"{live.url}/v1", api_key="EMPTY", max_retries=0, **more
    )


def test_llama_index(live: Live, expected: np.ndarray) -> None:
    # LlamaIndex puts spaces in the place of line ends before it sends a text.
    texts = [text.replace("\n", " ") for text in TEXTS]
    expected = live.engine.embed(texts)
    embedding = llama_index(live, embed_batch_size=3)
    assert agree(embedding.get_text_embedding_batch(texts), expected)
    assert agree([embedding.get_text_embedding(texts[0])], expected[:1])
    assert agree([embedding.get_query_embedding(texts[1])], expected[1:2])


def test_llama_index_with_dimensions(live: Live, engine: Engine) -> None:
    embedding = llama_index(live, dimensions=64)
    assert agree([embedding.get_text_embedding(TEXTS[0])], engine.embed(TEXTS[:1], dimensions=64))
