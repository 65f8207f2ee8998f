"""`POST /v1/embeddings`: OpenAI's contract, with openai-python and with bare HTTP."""

from __future__ import annotations

import base64
import re
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from streambed import Engine
from streambed.engine.sequence import Lane
from streambed.settings import Settings
from streambed.text.strings import common_prefix
from tests.checkpoints import load_engine
from tests.server.conftest import PROMPTS, Live, Serve

TEXTS = ["A brook runs to the sea.", "Ein Bach fließt ins Meer.", "小川は海へ流れる。", "🌊 waves 👩‍👩‍👧", "\n\t x"]


@pytest.fixture
def client(live: Live) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="EMPTY", max_retries=0) as client:
        yield client


def vectors(response: httpx.Response) -> np.ndarray:
    assert response.status_code == 200, response.text
    body = response.json()
    assert [item["index"] for item in body["data"]] == list(range(len(body["data"])))
    return np.array([item["embedding"] for item in body["data"]], dtype=np.float32)


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = np.atleast_2d(a).astype(np.float64), np.atleast_2d(b).astype(np.float64)
    return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


def fresh() -> str:
    """A text that no cache has seen."""
    return f"{uuid.uuid4()} is a text of its own"


# openai-python


def test_openai_client_by_default(client: openai.OpenAI, live: Live) -> None:
    """openai-python asks for base64 unless told otherwise, and decodes it."""
    reply = client.embeddings.create(model=live.model, input=TEXTS)
    assert reply.object == "list"
    assert reply.model == live.model
    assert [item.index for item in reply.data] == list(range(len(TEXTS)))
    assert {item.object for item in reply.data} == {"embedding"}
    got = np.array([item.embedding for item in reply.data])
    assert got.shape == (len(TEXTS), live.engine.info.dimensions)
    assert cosines(got, live.engine.embed(TEXTS)).min() >= 0.99999
    assert np.abs(np.linalg.norm(got, axis=-1) - 1).max() < 1e-5
    count = sum(len(live.engine.tokenizer.encode(text)) + 1 for text in TEXTS)
    assert (reply.usage.prompt_tokens, reply.usage.total_tokens) == (count, count)


@pytest.mark.parametrize("encoding_format", ["float", "base64"])
@pytest.mark.parametrize("value", [TEXTS[0], [TEXTS[0]], TEXTS])
def test_openai_client(client: openai.OpenAI, live: Live, value: str | list[str], encoding_format: Any) -> None:
    reply = client.embeddings.create(model=live.model, input=value, encoding_format=encoding_format, user="someone")
    got = [
        np.frombuffer(base64.b64decode(item.embedding), "<f4") if isinstance(item.embedding, str) else item.embedding
        for item in reply.data
    ]
    expected = live.engine.embed([value] if isinstance(value, str) else value)
    assert cosines(np.array(got), expected).min() >= 0.99999


def test_openai_client_raises_its_own_errors(client: openai.OpenAI, live: Live) -> None:
    with pytest.raises(openai.NotFoundError) as not_found:
        client.embeddings.create(model="text-embedding-3-small", input="a")
    assert (not_found.value.code, not_found.value.param) == ("not_found", "model")
    with pytest.raises(openai.BadRequestError) as bad:
        client.embeddings.create(model=live.model, input=["a", ""])
    assert (bad.value.code, bad.value.param, bad.value.type) == ("invalid_request", "input[1]", "invalid_request_error")


def test_openai_client_lists_the_model(client: openai.OpenAI, live: Live) -> None:
    assert [model.id for model in client.models.list()] == [live.model]


def test_extra_fields_through_the_openai_client(client: openai.OpenAI, live: Live) -> None:
    reply = client.embeddings.create(model=live.model, input="a", extra_body={"instruction": "find"})
    assert cosines(np.array(reply.data[0].embedding), live.engine.embed(["a"], instruction="find")).min() >= 0.99999


# The reply on the wire


def test_float_on_the_wire_unless_asked_otherwise(live: Live) -> None:
    omitted = live.post("a").json()["data"][0]["embedding"]
    assert isinstance(omitted, list)
    assert all(isinstance(number, float) for number in omitted)
    encoded = live.post("a", encoding_format="base64").json()["data"][0]["embedding"]
    assert len(base64.b64decode(encoded, validate=True)) == 4 * live.engine.info.dimensions


def test_base64_is_float_to_the_bit(live: Live) -> None:
    texts = ["to the bit", "bit by bit"]
    live.engine.evict()
    floats = vectors(live.post(texts))
    live.engine.evict()  # so that both requests compute the very same rows
    encoded = [item["embedding"] for item in live.post(texts, encoding_format="base64").json()["data"]]
    decoded = np.array([np.frombuffer(base64.b64decode(item), "<f4") for item in encoded])
    assert floats.tobytes() == decoded.tobytes()


def test_reply_has_openais_shape(live: Live) -> None:
    body = live.post(["a", "b"]).json()
    assert list(body) == ["object", "data", "model", "usage"]
    assert [list(item) for item in body["data"]] == [["object", "index", "embedding"]] * 2
    assert list(body["usage"]) == ["prompt_tokens", "total_tokens", "prompt_tokens_details"]


def test_usage_counts_instruction_text_and_end_token(live: Live) -> None:
    encode = live.engine.tokenizer.encode
    usage = live.post(["one text", "another text"], instruction="find it").json()["usage"]
    expected = sum(len(encode(f"Instruct: find it\nQuery:{text}")) + 1 for text in ("one text", "another text"))
    assert usage["prompt_tokens"] == usage["total_tokens"] == expected


def test_single_and_batch_agree(live: Live) -> None:
    texts = [*TEXTS, "word " * 300, "a"]
    singles = np.concatenate([vectors(live.post(text)) for text in texts])
    live.engine.evict()
    batch = vectors(live.post(texts))
    backwards = vectors(live.post(texts[::-1]))[::-1]
    twice = vectors(live.post([texts[0], texts[0], *texts]))
    assert cosines(singles, batch).min() >= 0.99999
    assert cosines(singles, backwards).min() >= 0.99999
    assert cosines(singles[[0, 0]], twice[:2]).min() >= 0.99999


def test_two_thousand_inputs_in_order(live: Live) -> None:
    texts = [f"text number {n}" for n in range(2048)]
    reply = live.post(texts)
    got = vectors(reply)
    assert got.shape == (2048, live.engine.info.dimensions)
    assert np.abs(np.linalg.norm(got, axis=-1) - 1).max() < 1e-5
    some = [0, 1, 1023, 2046, 2047]
    assert cosines(got[some], live.engine.embed([texts[n] for n in some])).min() >= 0.99999
    count = sum(len(ids) + 1 for ids in live.engine.tokenizer.encode_batch(texts))
    assert reply.json()["usage"]["prompt_tokens"] == count


@pytest.mark.parametrize("dimensions", [32, 33, 64, None])
def test_dimensions(live: Live, dimensions: int | None) -> None:
    whole = live.engine.embed(TEXTS)
    got = vectors(live.post(TEXTS, dimensions=dimensions))
    expected = whole[:, :dimensions]
    assert got.shape == expected.shape
    assert cosines(got, expected).min() >= 0.99999
    assert np.abs(np.linalg.norm(got, axis=-1) - 1).max() < 1e-5


@pytest.mark.parametrize(
    ("fields", "prompt"),
    [
        ({}, ""),
        ({"instruction": "find"}, "Instruct: find\nQuery:"),
        ({"instruction": ""}, "Instruct: \nQuery:"),
        ({"input_type": "query"}, PROMPTS["query"]),
        ({"input_type": "document"}, ""),
        ({"prompt_name": "code"}, PROMPTS["code"]),
        ({"instruction": None, "input_type": None, "prompt_name": None}, ""),
    ],
)
def test_prompts(live: Live, fields: dict[str, Any], prompt: str) -> None:
    text = "def brook(): ..."
    assert cosines(vectors(live.post(text, **fields)), live.engine.embed([prompt + text])).min() >= 0.99999


def test_query_has_qwens_task_where_the_checkpoint_names_none(serve: Serve, tiny_engine: Engine) -> None:
    live = serve(engine=tiny_engine)
    task = "Given a web search query, retrieve relevant passages that answer the query"
    usage = live.post("a", input_type="query").json()["usage"]
    assert usage["prompt_tokens"] == len(live.engine.tokenizer.encode(f"Instruct: {task}\nQuery:a")) + 1


def test_special_tokens_in_text_are_text(live: Live) -> None:
    reply = live.post("a<|endoftext|>")
    assert reply.json()["usage"]["prompt_tokens"] > 3
    assert cosines(vectors(reply), vectors(live.post("a"))).max() < 0.999


# Long texts


@pytest.mark.parametrize(("batch", "param", "name"), [(False, "input", "the text"), (True, "input[1]", "text 1")])
def test_long_input_is_an_error_that_names_tokens_and_limit(live: Live, batch: bool, param: str, name: str) -> None:
    text = "word " * 700
    count = len(live.engine.tokenizer.encode(text)) + 1
    reply = live.post(["short", text] if batch else text, long_input="error")
    assert reply.status_code == 413
    error = reply.json()["error"]
    assert (error["code"], error["param"]) == ("too_large", param)
    assert error["message"].startswith(name)
    assert str(count) in error["message"]
    assert str(live.engine.info.max_tokens) in error["message"]


def test_long_input_truncated_keeps_the_end_token(live: Live) -> None:
    text = "word " * 700
    reply = live.post([text, "short"], long_input="truncate")
    assert cosines(vectors(reply), live.engine.embed([text, "short"], long_input="truncate")).min() >= 0.99999
    short = len(live.engine.tokenizer.encode("short")) + 1
    assert reply.json()["usage"]["prompt_tokens"] == live.engine.info.max_tokens + short


def test_the_longest_text_that_fits(live: Live) -> None:
    limit = live.engine.info.max_tokens
    text = "word" + " word" * (limit - 2)
    assert len(live.engine.tokenizer.encode(text)) == limit - 1
    assert live.post(text, long_input="error").json()["usage"]["prompt_tokens"] == limit
    assert live.post(text + " word", long_input="error").status_code == 413


# What a request may ask of the engine


@pytest.mark.parametrize(("priority", "lane"), [("query", Lane.QUERY), ("bulk", Lane.BULK), (None, None)])
def test_priority(live: Live, monkeypatch: pytest.MonkeyPatch, priority: str | None, lane: Lane | None) -> None:
    asked, submit_batch = [], live.engine.submit_batch

    def spy(texts: Any, **more: Any) -> Any:
        asked.append(more["lane"])
        return submit_batch(texts, **more)

    monkeypatch.setattr(live.engine, "submit_batch", spy)
    assert live.post("a", priority=priority).status_code == 200
    assert asked == [lane]


def test_timeout(live: Live) -> None:
    reply = live.post(["word " * 90] * 1000, timeout_ms=1)
    assert reply.status_code == 504
    assert reply.json()["error"]["code"] == "deadline"
    assert live.post("a", timeout_ms=60_000).status_code == 200


def test_timeout_of_the_server(serve: Serve) -> None:
    live = serve(Settings(timeout=0.001))
    assert live.post(["word " * 90] * 1000).status_code == 504
    assert live.post("a", timeout_ms=60_000).status_code == 200


def test_server_timing(live: Live) -> None:
    header = live.post("a").headers["Server-Timing"]
    assert re.fullmatch(
        ", ".join(rf"{name};dur=\d+\.\d\d" for name in ("tokenize", "queue", "compute", "serialize", "total")), header
    )


# Text that comes back longer


def test_growing_text_is_computed_once(live: Live, serve: Serve, prompted_checkpoint: Any) -> None:
    text, known, cached = fresh(), [], []
    live.engine.evict()
    with load_engine(prompted_checkpoint, max_batch_tokens=48) as other:
        for piece in ("", " and it grows", ", word by wo", "rd, line\n", "\nby line.", " 🌊" * 40, ""):
            text += piece
            ids = live.engine.tokenizer.encode(text)
            reply = live.post(text)
            usage = reply.json()["usage"]
            assert usage["prompt_tokens_details"]["cached_tokens"] == common_prefix(known, ids)
            assert usage["prompt_tokens"] == len(ids) + 1
            other.evict()
            assert cosines(vectors(reply), other.embed([text])).min() >= 0.99999
            cached.append(usage["prompt_tokens_details"]["cached_tokens"])
            known = ids
    assert cached == sorted(cached)
    assert cached[-1] == len(known), "all but the end token"


def test_kv_is_never_shared_between_keys(serve: Serve) -> None:
    live = serve(keys=("alpha", "beta"))
    text = fresh() + " word" * 100

    def cached(key: str) -> int:
        reply = live.post(text, headers={"Authorization": f"Bearer {key}"})
        return int(reply.json()["usage"]["prompt_tokens_details"]["cached_tokens"])

    count = len(live.engine.tokenizer.encode(text))
    assert [cached(key) for key in ("alpha", "alpha", "beta", "beta", "alpha")] == [0, count, 0, count, count]


# Token ids


@pytest.mark.parametrize("value", [[1, 2, 3], [[1, 2, 3]], [[1], [2, 3]], [-1], [10**9]])
def test_token_ids_are_refused_with_the_reason(live: Live, value: list[Any]) -> None:
    reply = live.post(value)
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert (error["code"], error["param"]) == ("invalid_request", "input")
    assert "check_embedding_ctx_length=False" in error["message"]
    assert "--accept-token-ids" in error["message"]


def test_token_ids_of_this_model_where_they_are_accepted(serve: Serve) -> None:
    live = serve(Settings(accept_token_ids=True))
    ids = live.engine.tokenizer.encode_batch(TEXTS)
    expected = live.engine.embed(TEXTS)
    assert cosines(vectors(live.post(ids[0])), expected[0]).min() >= 0.99999
    assert cosines(vectors(live.post([ids[0]])), expected[0]).min() >= 0.99999
    reply = live.post(ids)
    assert cosines(vectors(reply), expected).min() >= 0.99999
    assert reply.json()["usage"]["prompt_tokens"] == sum(map(len, ids)) + len(ids)
    assert cosines(vectors(live.post(TEXTS)), expected).min() >= 0.99999, "texts are accepted all the same"
    prompted = live.engine.tokenizer.encode(PROMPTS["code"]) + ids[0]
    assert cosines(vectors(live.post(ids[0], prompt_name="code")), vectors(live.post(prompted))).min() >= 0.99999


def test_token_ids_are_checked_one_by_one(serve: Serve) -> None:
    live = serve(Settings(accept_token_ids=True))
    vocabulary = live.engine.tokenizer.size
    assert live.post([0, vocabulary - 1]).status_code == 200
    table: list[tuple[list[Any], str]] = [
        ([-1], "input[0]"),
        ([vocabulary], "input[0]"),
        ([[1], [1, vocabulary]], "input[1]"),
        ([2**31], "input[0]"),
        ([2**63], "input[0]"),
        ([[1], []], "input[1]"),
        ([[1], [True]], "input[1]"),
        ([1, True], "input[0]"),
        ([1, 1.5], "input[0]"),
        ([1, "a"], "input[0]"),
        ([[1], "a"], "input[1]"),
        ([[[1]]], "input[0]"),
    ]
    for value, param in table:
        reply = live.post(value)
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, param), value
    too_long = live.post([[1], [1] * live.engine.info.max_tokens])
    assert (too_long.status_code, too_long.json()["error"]["param"]) == (413, "input[1]")
    assert vectors(live.post([1] * (live.engine.info.max_tokens - 1))).shape == (1, live.engine.info.dimensions)


# Empty texts


@pytest.mark.parametrize("value", ["", [""], ["a", "", "b", ""], ["", ""]])
def test_empty_texts_are_refused_before_any_work(live: Live, value: str | list[str]) -> None:
    live.engine.check_integrity()  # after which steps have been counted
    steps = live.engine.stats().steps
    reply = live.post(value)
    indexes = [index for index, text in enumerate([value] if isinstance(value, str) else value) if not text]
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["param"]) == (400, "invalid_request", f"input[{indexes[0]}]")
    assert error["details"] == {"indexes": indexes}
    assert error["message"].startswith(", ".join(f"input[{index}]" for index in indexes))
    assert live.engine.stats().steps == steps


@pytest.mark.parametrize("encoding_format", ["float", "base64", "int8", "ubinary"])
def test_empty_texts_can_be_null(live: Live, encoding_format: str) -> None:
    filled = live.post(TEXTS, encoding_format=encoding_format).json()
    value = ["", TEXTS[0], "", "", *TEXTS[1:], ""]
    reply = live.post(value, encoding_format=encoding_format, empty="null")
    assert reply.status_code == 200, reply.text
    data = reply.json()["data"]
    assert [item["index"] for item in data] == list(range(len(value)))
    for item, text in zip(data, value, strict=True):
        if not text:
            assert item == {"object": "embedding", "index": item["index"], "embedding": None}
    there = [item for item, text in zip(data, value, strict=True) if text]
    for item, other in zip(there, filled["data"], strict=True):
        assert item.keys() == other.keys()
        if encoding_format == "float":
            assert cosines(item["embedding"], other["embedding"]).min() >= 0.99999
    assert reply.json()["usage"]["prompt_tokens"] == filled["usage"]["prompt_tokens"]
    assert live.post(TEXTS[:2], empty="null").status_code == 200, "where nothing is empty, nothing changes"


def test_of_empty_texts_alone_nothing_is_computed(live: Live) -> None:
    live.engine.check_integrity()
    steps = live.engine.stats().steps
    for value, count in (("", 1), ([""], 1), (["", ""], 2)):
        for fields in ({}, {"instruction": "find"}, {"truncate_prompt_tokens": 1}, {"long_input": "error"}):
            body = live.post(value, empty="null", **fields).json()
            assert [item["embedding"] for item in body["data"]] == [None] * count
            assert (body["usage"]["prompt_tokens"], body["usage"]["total_tokens"]) == (0, 0)
            assert "long_inputs" not in body
    assert live.engine.stats().steps == steps


def test_an_empty_text_has_no_segments(live: Live) -> None:
    data = live.post(["", "a brook"], segments=True, empty="null").json()["data"]
    assert data[0] == {"object": "embedding", "index": 0, "embedding": None, "segments": []}
    assert len(data[1]["segments"]) == 1
    known = [data[1]["segments"][0]["hash"]]
    data = live.post(["", "a brook", ""], known_segments=known, empty="null").json()["data"]
    assert [item["embedding"] for item in data] == [None] * 3
    assert [len(item["segments"]) for item in data] == [0, 1, 0]


def test_errors_beside_empty_texts_name_the_right_item(live: Live) -> None:
    reply = live.post(["", "word " * 700, ""], empty="null", long_input="error")
    assert (reply.status_code, reply.json()["error"]["param"]) == (413, "input[1]")
    reply = live.post(["", "a"], empty="null", instruction="a", input_type="query")
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "input_type")


def test_empty_lists_of_token_ids(serve: Serve) -> None:
    live = serve(Settings(accept_token_ids=True))
    error = live.post([[], [1], []]).json()["error"]
    assert (error["param"], error["details"]) == ("input[0]", {"indexes": [0, 2]})
    data = live.post([[], [1.0], []], empty="null").json()["data"]
    assert [item["embedding"] is None for item in data] == [True, False, True]
    assert cosines(data[1]["embedding"], vectors(live.post([1]))).min() >= 0.99999
    assert live.post([[]], empty="null").json()["data"][0]["embedding"] is None
    assert live.post([[]], empty="null", segments=True).status_code == 400, "token ids have no segments"


# vLLM's truncate_prompt_tokens


@pytest.mark.parametrize("fields", [{}, {"instruction": "find"}])
def test_the_first_tokens_are_kept(live: Live, fields: dict[str, str]) -> None:
    """As vLLM's pooling runner does (truncation from the right, by the tokenizer, which puts the end token after)."""
    text, tokenizer = "A brook runs to the sea, and the sea to the sky. 🌊" * 3, live.engine.tokenizer
    prompt = "Instruct: find\nQuery:" if fields else ""
    ids = tokenizer.encode(prompt + text)
    for kept in (2, len(ids) // 2, len(ids), len(ids) + 1, live.engine.info.max_tokens, -1):
        reply = live.post(text, truncate_prompt_tokens=kept, **fields)
        expected = live.engine.submit_batch([ids if kept == -1 else ids[: kept - 1]])[0].result(60).vectors[0]
        assert cosines(vectors(reply), expected).min() >= 0.99999
        count = len(ids) + 1 if kept == -1 else min(kept, len(ids) + 1)
        assert reply.json()["usage"]["prompt_tokens"] == count
        told = [item["truncated"] for item in reply.json().get("long_inputs", [])]
        assert told == [True] * (count < len(ids) + 1)


def test_the_first_tokens_of_every_text_are_kept(live: Live) -> None:
    reply = live.post(["word " * 700, "a", ""], truncate_prompt_tokens=8, empty="null")
    assert reply.json()["usage"]["prompt_tokens"] == 8 + 2
    assert [item["index"] for item in reply.json()["long_inputs"]] == [0]
    whole = live.post("word " * 700, truncate_prompt_tokens=-1, segments=True)
    assert whole.json()["usage"]["prompt_tokens"] == live.engine.info.max_tokens
    assert cosines(vectors(whole), vectors(live.post("word " * 700, long_input="truncate"))).min() >= 0.99999
    segment = live.post("A brook runs to the sea", truncate_prompt_tokens=4, segments=True).json()["data"][0][
        "segments"
    ]
    pieces = live.client.post("/tokenize", json={"input": "A brook runs to the sea"}).json()["data"][0]["pieces"]
    assert [(each["start"], each["end"], each["hash"]) for each in segment] == [(0, len("".join(pieces[:3])), None)]


def test_first_tokens_of_token_ids(serve: Serve) -> None:
    live = serve(Settings(accept_token_ids=True, long_input="error"))
    ids = live.engine.tokenizer.encode(TEXTS[0])
    got = vectors(live.post(ids * 200, truncate_prompt_tokens=4))
    assert cosines(got, vectors(live.post(ids[:3]))).min() >= 0.99999


def test_truncate_prompt_tokens_within_reason(live: Live) -> None:
    window = live.engine.info.max_tokens
    for fields in (
        {"truncate_prompt_tokens": window + 1},
        {"truncate_prompt_tokens": 0},
        {"truncate_prompt_tokens": -2},
        {"truncate_prompt_tokens": 5, "long_input": "truncate"},
    ):
        reply = live.post("a", **fields)
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, "truncate_prompt_tokens")


# Words of other servers


@pytest.mark.parametrize(
    ("word", "meaning"), [("search_query", "query"), ("search_document", "document"), ("passage", "document")]
)
def test_input_types_of_other_servers(live: Live, word: str, meaning: str) -> None:
    got, expected = live.post(TEXTS[0], input_type=word), live.post(TEXTS[0], input_type=meaning)
    assert cosines(vectors(got), vectors(expected)).min() >= 0.99999
    assert got.json()["usage"]["prompt_tokens"] == expected.json()["usage"]["prompt_tokens"]
    body = {"input": "a", "input_type": word}
    assert live.client.post("/tokenize", json=body).json()["prompt"] == (PROMPTS["query"] if meaning == "query" else "")


def test_bf16_engine_answers_too(serve: Serve, open_engine: Any) -> None:
    live = serve(engine=open_engine(dtype="bfloat16", max_batch_tokens=48))
    single, batch = vectors(live.post(TEXTS[0])), vectors(live.post(TEXTS))
    assert cosines(single, batch[:1]).min() >= 0.999
    assert np.abs(np.linalg.norm(batch, axis=-1) - 1).max() < 1e-5
