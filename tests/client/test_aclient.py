"""The client for asyncio, against servers on real sockets and a network that breaks."""

from __future__ import annotations

import asyncio
import functools
import json
import random
import re
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import websockets.sync.client

from streambed import AsyncClient, Engine
from streambed.client import aclient, astream
from streambed.client.astream import AsyncStream
from streambed.client.events import Emitted, Triggered
from streambed.errors import (
    ConnectionLost,
    InvalidRequest,
    NotFound,
    RevisionConflict,
    SettingsError,
    StreambedError,
    TooLarge,
    Unauthorized,
)
from streambed.settings import Settings
from streambed.streams import registry
from streambed.streams.limits import Limits
from streambed.streams.store.sqlite import SQLiteStore
from streambed.vectors.reducers import Card, Reducer
from tests.client.conftest import Proxy, agree
from tests.server.conftest import Live, Serve, Servers, until

SECONDS = 30.0
"""How long anything may take before a test calls it a hang."""
OPTIONS = [{"dimensions": 32}, {"instruction": "find"}, {"input_type": "query"}, {"prompt_name": "code"}]
Whole = Callable[..., np.ndarray]
MakeProxy = Callable[[int], Proxy]


def run(work: Coroutine[Any, Any, Any]) -> Any:
    """Runs a test's coroutine. What is left behind in the loop is an error."""

    async def main() -> Any:
        loop, problems = asyncio.get_running_loop(), []
        loop.set_exception_handler(lambda _, context: problems.append(context))
        async with asyncio.timeout(2 * SECONDS):
            result = await work
        await asyncio.sleep(0)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, "tasks that nobody ends"
        assert problems == []
        return result

    return asyncio.run(main())


async def wait_for(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(SECONDS):
        while not condition():
            await asyncio.sleep(0.005)


async def take(stream: AsyncStream) -> Emitted | Triggered:
    async with asyncio.timeout(SECONDS):
        return await anext(stream)


def sessions(live: Live) -> list[dict[str, Any]]:
    reply = live.client.get("/v1/sessions")
    assert reply.status_code == 200
    found: list[dict[str, Any]] = reply.json()["data"]
    return found


async def look(live: Live) -> list[dict[str, Any]]:
    return await asyncio.to_thread(sessions, live)


# One-shot


def test_embed_gives_one_row_a_text(live: Live, engine: Engine) -> None:
    async def main() -> None:
        async with AsyncClient(live.url) as client:
            one = await client.embed("a brook")
            assert one.shape == (1, 64)
            several = await client.embed(["a brook", "小川 🌊", "a brook"])
            assert agree(several, engine.embed(["a brook", "小川 🌊", "a brook"]))
            assert agree(one[0], several[2])
            assert (await client.embed(("a", "b"))).shape == (2, 64)
            assert (await client.embed(text for text in ("a", "b"))).shape == (2, 64)
            assert agree(await client.embed(np.array(["a brook", "小川 🌊"])), several[:2])
            assert several.flags.writeable
            assert np.allclose(np.linalg.norm(several, axis=1), 1, atol=1e-5)

    run(main())


@pytest.mark.parametrize(
    "options", [{"dimensions": 32}, {"instruction": "find"}, {"input_type": "query"}, {"prompt_name": "code"}]
)
def test_embed_has_the_options_of_the_server(live: Live, engine: Engine, options: dict[str, Any]) -> None:
    async def main() -> None:
        async with AsyncClient(live.url + "/v1/") as client:
            vectors = await client.embed(["a brook"], **options)
            assert agree(vectors, engine.embed(["a brook"], **options))

    run(main())


def small_reducer(engine: Engine) -> Reducer:
    """Keeps the first 8 dimensions."""
    size = engine.info.dimensions
    card = Card(format=1, method="pca", metric="cosine", input_dimensions=size, dimensions=8, model="tiny",
                model_fingerprint=engine.info.fingerprint, texts=1)  # fmt: skip
    return Reducer.build(card, ((np.eye(size, dtype=np.float32)[:8], np.zeros(8, dtype=np.float32)),))


def test_no_texts_have_as_many_dimensions_as_any(serve: Serve, engine: Engine) -> None:
    live = serve(reducers={"small": small_reducer(engine)})

    async def main() -> None:
        async with AsyncClient(live.url) as client:
            for options, width in (({}, 64), ({"dimensions": 32}, 32), ({"reducer": "small"}, 8)):
                assert (await client.embed([], **options)).shape == (0, width)  # type: ignore[arg-type]
                none = await client.embed(["", ""], empty="null", **options)  # type: ignore[arg-type]
                assert none.shape == (2, width)
                assert np.isnan(none).all()
            with pytest.raises(InvalidRequest, match="dimensions is 7"):
                await client.embed([], dimensions=7)

    run(main())


def test_empty_texts(live: Live, engine: Engine) -> None:
    texts = ["", "a brook", "", "小川 🌊"]

    async def main() -> None:
        async with AsyncClient(live.url) as client:
            vectors = await client.embed(texts, empty="null")
            assert np.isnan(vectors).all(axis=1).tolist() == [True, False, True, False]
            assert agree(vectors[[1, 3]], engine.embed(["a brook", "小川 🌊"]))
            with pytest.raises(TooLarge, match="text 2") as too_large:
                await client.embed(["", "a", "word " * 600], empty="null", long_input="error")
            assert too_large.value.param == "input[2]"

    run(main())


def test_what_is_wrong_is_told_before_anything_is_sent(nowhere: str) -> None:
    """Of a server that is not there nothing can be heard."""

    async def main() -> None:
        async with AsyncClient(nowhere) as client:
            for texts, options, named in (
                (["a", 3], {}, "texts[1] is int; a string is expected"),
                ({"a": "b"}, {}, "texts is dict; a string or an iterable of strings is expected"),
                (["a", "", ""], {}, "texts[1] and texts[2] are empty"),
                ("a", {"long_input": "cut"}, "long_input is 'cut'; 'merge', 'truncate' or 'error' is expected"),
                ("a", {"priority": "low"}, "priority is 'low'; 'query' or 'bulk' is expected"),
                ("a", {"empty": "nan"}, "empty is 'nan'; 'error' or 'null' is expected"),
                ("a", {"input_type": "q"}, "input_type is 'q'; 'query' or 'document' is expected"),
                ("a", {"dimensions": 1.5}, "dimensions is 1.5; an integer of at least 1 is expected"),
                ("a", {"progress": 3}, "progress is int; a callable is expected"),
                ("a", {"instruction": "\ud800"}, "instruction has a lone surrogate"),
            ):
                with pytest.raises(InvalidRequest, match=re.escape(named)) as caught:
                    await client.embed(texts, **options)  # type: ignore[arg-type]
            assert await client.prefix_embeddings("a", offsets=[]) == []
            for options, named in (
                ({"every": "word"}, "every is 'word'; 'sentence' or a number of tokens"),
                ({"offsets": [1, "2"]}, "offsets[1] is '2'; an integer of at least 1 is expected"),
                ({"text": ""}, "text is empty; it has no beginnings"),
                ({"text": b"a"}, "text is bytes; a string is expected"),
            ):
                with pytest.raises(InvalidRequest, match=re.escape(named)):
                    await client.prefix_embeddings(**{"text": "a"} | options)  # type: ignore[arg-type]
            with pytest.raises(InvalidRequest) as caught:
                await client.embed(["a", "", ""])
            assert caught.value.details == {"indexes": [1, 2]}
            for options, named in (
                ({"text": None}, "text is None"),
                ({"emit": "sometimes"}, "emit is 'sometimes'; 'manual', 'append', "),
                ({"watch": [{"id": "w", "threshold": 0.5}]}, "watch[0]: give text or embedding"),
                ({"overflow": "grow"}, "overflow is 'grow'"),
                ({"instruction": "a", "input_type": "query"}, "exclude each other"),
                ({"dimensions": "32"}, "dimensions is '32'"),
            ):
                with pytest.raises(InvalidRequest, match=re.escape(named)):
                    client.open_stream(**options)  # type: ignore[arg-type]

    run(main())


def test_embed_sends_many_texts_in_several_requests(
    live: Live, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [f"text {number}" for number in range(25)]
    monkeypatch.setattr(aclient, "MAX_INPUTS", 10)

    async def main() -> None:
        async with AsyncClient(live.url) as client:
            assert agree(await client.embed(texts), engine.embed(texts))

    run(main())


def test_a_request_holds_as_many_texts_as_the_server_takes(silent: str) -> None:
    """Answered here, because so many take their time."""
    sizes = []

    def answer(request: httpx.Request) -> httpx.Response:
        texts = json.loads(request.content)["input"]
        sizes.append(len(texts))
        return httpx.Response(200, json={"data": [{"embedding": [float(text)]} for text in texts]})

    async def main() -> None:
        async with AsyncClient(silent, model="m") as client:
            await client._http.aclose()
            client._http = httpx.AsyncClient(base_url=silent, transport=httpx.MockTransport(answer))
            vectors = await client.embed([str(number) for number in range(4097)])
            assert vectors.tolist() == [[float(number)] for number in range(4097)]

    run(main())
    assert sizes == [2048, 2048, 1]


def test_errors_are_those_of_the_server(live: Live) -> None:
    async def main() -> None:
        async with AsyncClient(live.url) as client:
            with pytest.raises(InvalidRequest, match="dimensions is 7") as caught:
                await client.embed("a", dimensions=7)
            assert caught.value.param == "dimensions"
            with pytest.raises(InvalidRequest, match="empty"):
                await client.embed(["a", ""])
            with pytest.raises(TooLarge, match="the limit is 512"):
                await client.embed("a", instruction="word " * 600)
            with pytest.raises(InvalidRequest, match="surrogate"):
                await client.embed(["good", "bad \ud800"])
            assert (await client.embed("still good")).shape == (1, 64)
        async with AsyncClient(live.url, model="nobody") as client:
            with pytest.raises(NotFound, match="no such model"):
                await client.embed("a")

    run(main())


def test_the_key_is_sent(serve: Serve) -> None:
    live = serve(keys=("right",))

    async def main() -> None:
        async with AsyncClient(live.url, api_key="right") as client:
            assert (await client.embed("a")).shape == (1, 64)
            async with client.open_stream("a") as stream:
                assert (await stream.embedding()).revision == 1
        for key in ("wrong", None):
            async with AsyncClient(live.url, api_key=key) as client:
                with pytest.raises(Unauthorized):
                    await client.embed("a")

    run(main())


def test_a_server_that_never_answers(silent: str) -> None:
    async def main() -> None:
        async with AsyncClient(silent, timeout=0.3) as client:
            with pytest.raises(TimeoutError, match=r"0\.3 seconds"):
                await client.embed("a")
            async with client.open_stream("a") as stream:
                with pytest.raises(TimeoutError, match=r"0\.3 seconds"):
                    await stream.embedding()
                with pytest.raises(TimeoutError, match=r"0\.3 seconds"):
                    await stream.flush()

    run(main())


def test_a_server_that_is_not_there(nowhere: str) -> None:
    async def main() -> None:
        async with AsyncClient(nowhere) as client:
            with pytest.raises(ConnectionLost, match="cannot be reached"):
                await client.embed("a")

    run(main())


def test_something_else_that_speaks_http(live: Live) -> None:
    async def main() -> None:
        async with AsyncClient(live.url, model="x") as client:
            client._http.base_url = httpx.URL(live.url + "/docs")
            with pytest.raises(StreambedError):
                await client.embed("a")

    run(main())


@pytest.mark.parametrize("url", ["127.0.0.1:30000", "ftp://127.0.0.1", "", "ws://127.0.0.1:1"])
def test_a_url_that_is_none(url: str) -> None:
    with pytest.raises(SettingsError, match="URL"):
        AsyncClient(url)


# Streams


def test_a_stream_gives_the_vector_of_its_text(live: Live, whole: Whole) -> None:
    async def main() -> None:
        async with AsyncClient(live.url) as client, client.open_stream("A brook") as stream:
            assert stream.text == "A brook"
            emitted = await stream.embedding()
            assert agree(emitted.vector, whole("A brook"))
            assert (emitted.revision, emitted.offset, emitted.drift) == (1, 7, None)
            assert emitted.usage["prompt_tokens"] > 1
            assert emitted.timing_ms["total"] >= 0
            await stream.append(" runs to the see 🌊")
            await stream.replace(15, 18, "sea")
            assert agree((await stream.embedding()).vector, whole(stream.text))
            await stream.replace(0, 7, "小川")
            emitted = await stream.embedding()
            assert agree(emitted.vector, whole(stream.text))
            assert emitted.drift is not None
            await stream.set("Another one")
            emitted = await stream.embedding()
            assert agree(emitted.vector, whole("Another one"))
            assert (stream.text, stream.offset, emitted.offset) == ("Another one", 11, 11)
            await stream.flush()
            assert (stream.revision, emitted.revision, stream.connections) == (5, 5, 1)
            assert stream.fingerprint == live.engine.info.fingerprint
            assert stream.session is not None
            assert [each["session"] for each in await look(live)] == [stream.session]

    run(main())


@pytest.mark.parametrize(
    "options", [{"dimensions": 32}, {"instruction": "find"}, {"input_type": "query"}, {"prompt_name": "code"}]
)
def test_a_stream_has_the_options_of_the_server(live: Live, whole: Whole, options: dict[str, Any]) -> None:
    async def main() -> None:
        async with AsyncClient(live.url) as client, client.open_stream(**options) as stream:
            await stream.append("a brook")
            assert agree((await stream.embedding()).vector, whole("a brook", **options))

    run(main())


def test_a_stream_works_without_a_block_too(live: Live, whole: Whole) -> None:
    async def main() -> None:
        client = AsyncClient(live.url)
        stream = client.open_stream()
        assert (stream.session, stream.fingerprint, stream.connections, stream.revision) == (None, None, 0, 0)
        await stream.append("a brook")
        assert agree((await stream.embedding()).vector, whole("a brook"))
        await stream.aclose()
        await stream.aclose()
        await client.aclose()
        assert await look(live) == []
        unused = client.open_stream("never used")
        await unused.aclose()

    run(main())


def test_a_wrong_range_or_a_lone_surrogate_is_refused_at_once_and_nothing_is_lost(live: Live, whole: Whole) -> None:
    async def main() -> None:
        async with AsyncClient(live.url) as client, client.open_stream("a brook") as stream:
            for start, end in ((-1, 2), (3, 2), (0, 8), (8, 8)):
                with pytest.raises(InvalidRequest, match="range"):
                    await stream.replace(start, end, "x")
            for change in (stream.append, stream.set, lambda text: stream.replace(0, 1, text)):
                with pytest.raises(InvalidRequest, match="surrogate"):
                    await change("bad \udc00")
            for wrong, named in (
                (stream.append(None), "text is None"),  # type: ignore[arg-type]
                (stream.set(b"a"), "text is bytes"),  # type: ignore[arg-type]
                (stream.replace("0", 1, "x"), "start is '0'; an integer is expected"),  # type: ignore[arg-type]
                (stream.replace(0, 1.5, "x"), "end is 1.5; an integer is expected"),  # type: ignore[arg-type]
            ):
                with pytest.raises(InvalidRequest, match=named):
                    await wrong
            assert stream.text == "a brook"
            assert agree((await stream.embedding()).vector, whole("a brook"))
            assert stream.revision == 1
            with pytest.raises(InvalidRequest, match="surrogate"):
                client.open_stream("\ud800")

    run(main())


def test_a_text_that_is_too_long_is_told_at_the_next_call(live: Live, whole: Whole) -> None:
    """The window holds 512 tokens; only the server can count them."""

    async def main() -> None:
        async with AsyncClient(live.url) as client, client.open_stream("a brook") as stream:
            await stream.flush()
            await stream.append(" word" * 600)
            with pytest.raises(TooLarge, match="tokens"):
                await stream.flush()
            assert stream.text == "a brook"
            await stream.append(" runs")
            assert agree((await stream.embedding()).vector, whole("a brook runs"))
            await stream.append(" word" * 600)
            with pytest.raises(TooLarge):
                await stream.embedding()
            assert agree((await stream.embedding()).vector, whole("a brook runs"))
            # What came after it was made to a text that will never be.
            for text in (" to", " word" * 600, " the", " sea"):
                await stream.append(text)
            with pytest.raises(TooLarge):
                await stream.flush()
            await stream.flush()
            assert stream.text == "a brook runs to"
            assert agree((await stream.embedding()).vector, whole(stream.text))
            assert stream.connections == 1

    run(main())


def test_a_first_text_that_is_too_long_is_told_as_such(live: Live) -> None:
    """And not that there is no text."""

    async def main() -> None:
        async with AsyncClient(live.url) as client, client.open_stream() as stream:
            await stream.append(" word" * 600)
            with pytest.raises(TooLarge, match="tokens"):
                await stream.embedding()
            await stream.append("a")
            assert (await stream.embedding()).offset == 1

    run(main())


def test_more_characters_than_a_session_may_have(serve: Serve, whole: Whole) -> None:
    live = serve(Settings(max_session_characters=20))

    async def main() -> None:
        async with AsyncClient(live.url) as client, client.open_stream() as stream:
            await stream.append("a brook")
            await stream.flush()
            with pytest.raises(TooLarge, match="20 characters"):
                await stream.append(" and fourteen more")
            await stream.set("a brook runs to a sea"[:20])
            await stream.flush()
            assert agree((await stream.embedding()).vector, whole("a brook runs to a se"))

    run(main())


def test_the_empty_text_has_no_embedding(live: Live) -> None:
    async def main() -> None:
        async with AsyncClient(live.url) as client, client.open_stream() as stream:
            with pytest.raises(InvalidRequest, match="empty"):
                await stream.embedding()
            await stream.append("a")
            assert (await stream.embedding()).offset == 1

    run(main())


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"dimensions": 7}, "dimensions"),
        ({"prompt_name": "nobody"}, "prompt_name"),
        ({"reducer": "nobody"}, "reducer"),
    ],
)
def test_a_stream_that_the_server_will_not_open(live: Live, options: dict[str, Any], error: str) -> None:
    async def main() -> None:
        async with AsyncClient(live.url) as client, client.open_stream("a", **options) as stream:
            for _ in range(2):
                with pytest.raises(InvalidRequest, match=error):
                    await stream.embedding()
            with pytest.raises(InvalidRequest, match=error):
                await take(stream)
            assert stream.connections == 1

    run(main())


def test_more_embeddings_may_be_asked_for_than_the_server_keeps_waiting(
    serve: Serve, whole: Whole, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "Limits", functools.partial(Limits, max_pending=4))
    live = serve()

    async def main() -> None:
        async with AsyncClient(live.url) as client, client.open_stream("a brook") as stream:
            answers = await asyncio.gather(*(stream.embedding() for _ in range(15)))
            assert all(agree(answer.vector, whole("a brook")) for answer in answers)

    run(main())


def test_an_embedding_is_answered_while_somebody_goes_on_writing(live: Live) -> None:
    async def main() -> None:
        async with AsyncClient(live.url) as client, client.open_stream("a brook") as stream:
            await stream.flush()
            enough = False

            async def write() -> None:
                while not enough and stream.offset < 900:
                    await stream.set("a brook" if stream.offset > 300 else stream.text + " x")
                    await asyncio.sleep(0)

            writing = asyncio.create_task(write())
            try:
                for _ in range(4):
                    asked = stream.revision
                    async with asyncio.timeout(5):
                        emitted = await stream.embedding()
                    assert emitted.revision >= asked
            finally:
                enough = True
                await writing

    run(main())


def test_long_texts_and_many_changes_go_through(serve: Serve) -> None:
    """More than may be in flight at once."""
    live = serve(Settings())
    text = "".join(random.Random(1).choices("ab é小🌊", k=100))

    async def main() -> None:
        async with AsyncClient(live.url) as client, client.open_stream() as stream:
            for _ in range(12):
                for character in text:
                    await stream.append(character)
                await stream.set("")
            await stream.append(text)
            await stream.flush()
            assert (stream.text, stream.revision) == (text, 12 * 101 + 1)
            reply = await asyncio.to_thread(live.client.get, f"/v1/sessions/{stream.session}")
            assert (reply.json()["revision"], reply.json()["offset"]) == (12 * 101 + 1, 100)

    run(main())


# What comes unasked


def test_embeddings_come_unasked_and_only_the_newest_is_kept(live: Live, whole: Whole) -> None:
    async def main() -> None:
        async with AsyncClient(live.url) as client, client.open_stream(emit="append") as stream:
            await stream.append("a brook")
            emitted = await take(stream)
            assert isinstance(emitted, Emitted)
            assert agree(emitted.vector, whole("a brook"))
            for word in (" runs", " to", " the", " sea"):
                await stream.append(word)
            await stream.flush()
            await stream.embedding()
            await asyncio.sleep(0.3)
            while True:  # nobody looked; an older one may still have been under way
                emitted = await take(stream)
                assert isinstance(emitted, Emitted)
                if emitted.revision == 5:
                    break
            assert agree(emitted.vector, whole("a brook runs to the sea"))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await anext(stream)

    run(main())


@pytest.mark.parametrize("emit", ["append", "pause", "sentence", "drift", {"on": "pause", "pause_ms": 20}])
def test_every_way_to_emit_ends_with_the_newest_text(live: Live, whole: Whole, emit: Any) -> None:
    async def main() -> None:
        async with AsyncClient(live.url) as client, client.open_stream(emit=emit) as stream:
            await stream.append("The brook runs down. ")
            await stream.append("Water is cold.")
            emitted = await take(stream)
            while isinstance(emitted, Emitted) and emitted.revision < 2 and emit != "drift":
                emitted = await take(stream)
            assert isinstance(emitted, Emitted)
            assert agree(emitted.vector, whole(stream.text[: emitted.offset]))

    run(main())


def test_nothing_comes_unasked_where_nothing_was_wished(live: Live) -> None:
    async def main() -> None:
        async with AsyncClient(live.url) as client, client.open_stream("a brook") as stream:
            await stream.embedding()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await anext(stream)

    run(main())


def test_watches_trigger_each_time(live: Live) -> None:
    """All triggers are kept, in their order, also where nobody looks."""
    watch = [{"id": "brook", "text": "a brook", "threshold": 0.9999}, {"id": "never", "text": "xyz", "threshold": 1.0}]

    async def main() -> None:
        async with AsyncClient(live.url) as client, client.open_stream(watch=watch, emit="append") as stream:
            for _ in range(3):
                await stream.set("something else entirely")
                await stream.embedding()
                await stream.set("a brook")
                await stream.embedding()
            await wait_for(lambda: len(stream._kept) == 3)
            got = [await take(stream) for _ in range(3)]
            assert all(isinstance(event, Triggered) for event in got)
            for event in got:
                assert isinstance(event, Triggered)
                assert (event.watch, event.offset) == ("brook", 7)
                assert event.score >= 0.9999
            revisions = [event.revision for event in got]
            assert revisions == sorted(set(revisions))
            assert all(revision % 2 == 0 for revision in revisions)

    run(main())


def test_a_watch_that_cannot_be_embedded_is_told(live: Live) -> None:
    async def main() -> None:
        watch = [{"id": "long", "text": "word " * 600, "threshold": 0.5}]
        async with AsyncClient(live.url) as client, client.open_stream("a", watch=watch) as stream:
            with pytest.raises(StreambedError, match="long"):
                await take(stream)
            assert (await stream.embedding()).offset == 1

    run(main())


# The end of a stream


def test_close_ends_the_session_and_the_iteration(live: Live) -> None:
    async def main() -> None:
        async with AsyncClient(live.url) as client:
            stream = client.open_stream("a brook", emit="append")
            seen = []

            async def listen() -> None:
                async for event in stream:
                    seen.append(event)  # noqa: PERF401 - one by one, for who looks meanwhile

            listening = asyncio.create_task(listen())
            await stream.embedding()
            await wait_for(lambda: seen)
            assert len(await look(live)) == 1
            await stream.aclose()
            await asyncio.wait_for(listening, SECONDS)
            assert await look(live) == []
            with pytest.raises(StopAsyncIteration):
                await anext(stream)
            calls: list[Callable[[], Awaitable[Any]]] = [
                lambda: stream.append("x"), lambda: stream.set("x"), lambda: stream.replace(0, 1, "x"),
                stream.embedding, stream.flush,
            ]  # fmt: skip
            for call in calls:
                with pytest.raises(ConnectionLost, match="closed"):
                    await call()
            await stream.aclose()

    run(main())


def test_who_waits_when_a_stream_is_closed_hears_of_it(silent: str) -> None:
    async def main() -> None:
        async with AsyncClient(silent) as client:
            stream = client.open_stream("a")
            waiting = [asyncio.create_task(stream.embedding()), asyncio.create_task(stream.flush())]
            await asyncio.sleep(0.05)
            await stream.aclose()
            for result in await asyncio.gather(*waiting, return_exceptions=True):
                assert isinstance(result, ConnectionLost)

    run(main())


def test_an_error_in_the_block_closes_the_stream(live: Live) -> None:
    async def main() -> None:
        async def fail() -> None:
            async with AsyncClient(live.url) as client, client.open_stream("a") as stream:
                await stream.flush()
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await fail()
        assert await look(live) == []

    run(main())


def test_who_is_cancelled_can_still_close(live: Live, silent: str) -> None:
    async def main() -> None:
        async def work() -> None:
            async with AsyncClient(live.url) as client, client.open_stream("a") as stream:
                await stream.flush()
                started.set()
                async for _ in stream:
                    pass

        started = asyncio.Event()
        task = asyncio.create_task(work())
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await look(live) == []

        async with AsyncClient(silent) as client:
            stream = client.open_stream("a")
            waiting = asyncio.create_task(stream.embedding())
            await asyncio.sleep(0.05)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            await stream.aclose()

    run(main())


def test_an_embedding_that_was_given_up_does_not_disturb_the_next(live: Live, whole: Whole) -> None:
    async def main() -> None:
        async with AsyncClient(live.url) as client, client.open_stream("a brook") as stream:
            for _ in range(5):
                waiting = asyncio.create_task(stream.embedding())
                await asyncio.sleep(0)
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)
            await stream.append(" runs")
            assert agree((await stream.embedding()).vector, whole("a brook runs"))

    run(main())


def test_a_session_that_is_deleted_ends_the_stream(live: Live) -> None:
    """By another request with the same key; its text is gone and nobody is to be kept waiting."""

    async def main() -> None:
        async with AsyncClient(live.url, timeout=5) as client, client.open_stream("a brook") as stream:
            await stream.flush()
            reply = await asyncio.to_thread(live.client.delete, f"/v1/sessions/{stream.session}")
            assert reply.status_code == 200
            with pytest.raises(NotFound):
                await asyncio.wait_for(anext(stream), 5)
            with pytest.raises(StreambedError):
                await stream.append(" runs")

    run(main())


def test_a_session_that_somebody_else_takes_over_ends_the_stream(live: Live) -> None:
    async def main() -> None:
        async with AsyncClient(live.url) as client, client.open_stream("a brook") as stream:
            await stream.flush()
            resume = {"type": "session.resume", "session": stream.session, "resume_token": stream._ledger.resume_token}

            def take_over() -> None:
                with websockets.sync.client.connect(f"ws{live.url[4:]}/v1/embeddings", proxy=None) as other:
                    other.send(json.dumps(resume))
                    assert json.loads(other.recv())["type"] == "session.resumed"

            await asyncio.to_thread(take_over)
            with pytest.raises(ConnectionLost, match="taken"):
                await take(stream)
            with pytest.raises(ConnectionLost, match="taken"):
                await stream.append("x")
            assert stream.connections == 1

    run(main())
    for each in sessions(live):
        live.client.delete(f"/v1/sessions/{each['session']}")


def test_another_clients_changes_are_noticed(live: Live) -> None:
    async def main() -> None:
        async with AsyncClient(live.url) as client, client.open_stream("a brook") as stream:
            await stream.flush()
            path = f"/v1/sessions/{stream.session}/append"
            await asyncio.to_thread(lambda: live.client.post(path, json={"text": " of another"}))

            async def go_on() -> None:
                for _ in range(3):
                    await stream.append("x")
                    await stream.flush()

            with pytest.raises(RevisionConflict, match="another"):
                await go_on()

    run(main())
    for each in sessions(live):
        live.client.delete(f"/v1/sessions/{each['session']}")


# Connections that break


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connects again without much waiting."""
    monkeypatch.setattr(astream, "backoff", lambda attempt: 0.01)


def test_a_wrong_key_is_told_and_not_tried_again(serve: Serve, proxy: MakeProxy) -> None:
    live = serve(keys=("right",))
    before = proxy(live.port)

    async def main() -> None:
        async with AsyncClient(before.url, api_key="wrong") as client, client.open_stream("a") as stream:
            with pytest.raises(Unauthorized):
                await stream.embedding()
            with pytest.raises(Unauthorized):
                await stream.append("b")
            assert stream.connections == 0
            await asyncio.sleep(0.3)
        assert before.accepted == 1

    run(main())


def test_a_server_that_is_never_there_is_given_up(nowhere: str) -> None:
    async def main() -> None:
        async with AsyncClient(nowhere, reconnect=0.3) as client, client.open_stream("a") as stream:
            with pytest.raises(ConnectionLost, match="cannot be reached"):
                await stream.embedding()
            with pytest.raises(ConnectionLost, match="cannot be reached"):
                await stream.append("b")
            with pytest.raises(ConnectionLost, match="cannot be reached"):
                await take(stream)
            assert (stream.connections, stream.text) == (0, "a")

    run(main())


def test_a_server_that_goes_is_given_up(live: Live, proxy: MakeProxy) -> None:
    before = proxy(live.port)

    async def main() -> None:
        async with AsyncClient(before.url, reconnect=0.3) as client, client.open_stream("a") as stream:
            await stream.flush()
            before.refusing = True
            before.cut()
            with pytest.raises(ConnectionLost, match="cannot be reached"):
                await take(stream)

    run(main())
    for each in sessions(live):
        live.client.delete(f"/v1/sessions/{each['session']}")


def test_a_server_that_comes_late_is_waited_for(live: Live, proxy: MakeProxy, whole: Whole) -> None:
    before = proxy(live.port)
    before.refusing = True

    async def main() -> None:
        async with AsyncClient(before.url) as client, client.open_stream("a brook") as stream:
            await stream.append(" runs")
            await wait_for(lambda: before.accepted >= 2)
            assert stream.session is None
            before.refusing = False
            assert agree((await stream.embedding()).vector, whole("a brook runs"))

    run(main())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.usefixtures("at_once")
def test_connections_that_are_cut_anywhere_lose_and_double_nothing(
    live: Live, proxy: MakeProxy, whole: Whole, seed: int
) -> None:
    chance = random.Random(seed)
    before = proxy(live.port)
    before.budget = lambda: chance.randint(200, 6000)
    before.delay = 0.002

    async def main() -> None:
        async with AsyncClient(before.url) as client, client.open_stream(emit="append") as stream:
            text, changes = "", 0
            async with asyncio.timeout(2 * SECONDS):
                while changes < 100 or stream.connections < 4:
                    what, new = chance.random(), chance.choice("ab é小🌊") * chance.randint(1, 4)
                    if what < 0.7 or not text:
                        await stream.append(new)
                        text += new
                    elif what < 0.9:
                        start, end = sorted(chance.choices(range(len(text) + 1), k=2))
                        await stream.replace(start, end, new)
                        text = text[:start] + new + text[end:]
                    else:
                        await stream.set(text[: len(text) // 2] + new)
                        text = text[: len(text) // 2] + new
                    changes += 1
                    assert stream.text == text
                    if changes % 20 == 0 and text:
                        emitted = await stream.embedding()
                        assert emitted.offset == len(text)
                        assert agree(emitted.vector, whole(text))
                    if chance.random() < 0.05:
                        before.cut()
                    if chance.random() < 0.2:
                        await asyncio.sleep(0.005)
                before.budget = lambda: None
                await stream.flush()
            assert stream.connections > 1
            assert stream.revision == changes, "each change raises the revision once"
            emitted = await stream.embedding()
            assert (emitted.revision, emitted.offset) == (changes, len(text))
            assert agree(emitted.vector, whole(text))
            held = {each["session"]: each for each in await look(live)}
            assert (held[stream.session]["revision"], held[stream.session]["offset"]) == (changes, len(text))

    run(main())
    for each in sessions(live):  # those whose `session.created` never came
        live.client.delete(f"/v1/sessions/{each['session']}")


@pytest.mark.usefixtures("at_once")
def test_refused_connections_are_tried_again(live: Live, proxy: MakeProxy, whole: Whole) -> None:
    before = proxy(live.port)

    async def main() -> None:
        async with AsyncClient(before.url) as client, client.open_stream() as stream:
            for number in range(3):
                await stream.append(f"word {number} ")
                await stream.flush()
                tries = before.accepted
                before.refusing = True
                before.cut()
                await stream.append("away ")
                await wait_for(lambda tries=tries: before.accepted >= tries + 2)
                before.refusing = False
                asking = asyncio.create_task(stream.embedding())
                assert agree((await asking).vector, whole(stream.text))
            assert stream.text == "word 0 away word 1 away word 2 away "
            assert (stream.connections, stream.revision) == (4, 6)
            assert len(await look(live)) == 1

    run(main())


def test_what_comes_unasked_goes_on_after_a_cut(live: Live, proxy: MakeProxy, whole: Whole) -> None:
    before = proxy(live.port)

    async def main() -> None:
        async with AsyncClient(before.url) as client, client.open_stream(emit="append") as stream:
            await stream.append("a brook")
            await take(stream)
            before.cut()
            await stream.append(" runs")
            while True:
                emitted = await take(stream)
                assert isinstance(emitted, Emitted)
                if emitted.revision == 2:
                    break
            assert agree(emitted.vector, whole("a brook runs"))
            assert stream.connections == 2

    run(main())


def test_a_server_without_a_journal_gets_the_text_again(engine: Engine, proxy: MakeProxy, whole: Whole) -> None:
    servers = Servers()
    before = proxy(servers.start(engine).port)

    async def main() -> None:
        async with AsyncClient(before.url) as client, client.open_stream("a brook") as stream:
            await stream.append(" runs")
            await stream.flush()
            first = stream.session
            await asyncio.to_thread(servers.stop)
            await stream.append(" to")
            live = servers.start(engine)
            before.target = live.port
            await stream.append(" the sea")
            assert agree((await stream.embedding()).vector, whole("a brook runs to the sea"))
            assert stream.session not in (None, first)
            assert stream.connections == 2
            [held] = await look(live)
            assert (held["session"], held["offset"]) == (stream.session, 23)

    try:
        run(main())
    finally:
        servers.stop()


def test_a_server_with_a_journal_goes_on_with_the_session(
    engine: Engine, proxy: MakeProxy, whole: Whole, tmp_path: Path
) -> None:
    servers, settings = Servers(), Settings(journal=str(tmp_path / "journal"), journal_sync="normal", drain=5)
    before = proxy(servers.start(engine, settings).port)

    async def main() -> None:
        async with AsyncClient(before.url) as client, client.open_stream("a brook") as stream:
            await stream.append(" runs")
            await stream.flush()
            first = stream.session
            for words in (" to", " the"):
                await asyncio.to_thread(servers.stop)
                await stream.append(words)
                live = servers.start(engine, settings)
                before.target = live.port
                await stream.flush()
            await stream.append(" sea")
            assert agree((await stream.embedding()).vector, whole("a brook runs to the sea"))
            await stream.flush()  # an embedding may come before the disk has the change
            assert (stream.session, stream.revision, stream.connections) == (first, 5, 3)
            assert [each["session"] for each in await look(live)] == [first]

    try:
        run(main())
    finally:
        servers.stop()


def test_a_session_that_expired_meanwhile_begins_again(serve: Serve, proxy: MakeProxy, whole: Whole) -> None:
    live = serve(Settings(session_ttl=0.2))
    before = proxy(live.port)

    async def main() -> None:
        async with AsyncClient(before.url) as client, client.open_stream("a brook") as stream:
            await stream.flush()
            first = stream.session
            before.refusing = True
            before.cut()
            await asyncio.to_thread(until, lambda: not sessions(live))
            before.refusing = False
            await stream.append(" runs")
            assert agree((await stream.embedding()).vector, whole("a brook runs"))
            assert stream.session != first

    run(main())


def test_a_socket_that_is_closed_for_its_age_is_replaced(serve: Serve, whole: Whole) -> None:
    live = serve(Settings(socket_life=0.3))

    async def main() -> None:
        async with AsyncClient(live.url) as client, client.open_stream("a") as stream:
            await stream.flush()
            first = stream.session
            await wait_for(lambda: stream.connections >= 2)
            await stream.append(" brook")
            assert agree((await stream.embedding()).vector, whole("a brook"))
            assert stream.session == first

    run(main())


def test_twenty_streams_of_one_client(live: Live, proxy: MakeProxy, whole: Whole) -> None:
    before = proxy(live.port)
    words = ["the", "brook", "runs", "down", "to", "the", "sea"]

    async def main() -> None:
        async with AsyncClient(before.url) as client:

            async def follow(number: int) -> None:
                async with client.open_stream(f"{number}:") as stream:
                    for word in words:
                        await stream.append(f" {word}{number}")
                        await asyncio.sleep(0)
                        if number % 5 == 0:
                            await stream.embedding()
                    emitted = await stream.embedding()
                    text = f"{number}:" + "".join(f" {word}{number}" for word in words)
                    assert stream.text == text
                    assert agree(emitted.vector, whole(text))

            following = [asyncio.create_task(follow(number)) for number in range(20)]
            await wait_for(lambda: before.accepted >= 20)
            before.cut()
            await asyncio.gather(*following)

    run(main())
    for each in sessions(live):
        live.client.delete(f"/v1/sessions/{each['session']}")


# What it is made of


def test_the_client_needs_no_torch() -> None:
    code = (
        "import sys; import streambed.client.client, streambed; streambed.AsyncClient, streambed.Client;"
        "bad = {'torch', 'fastapi', 'starlette', 'uvicorn', 'tokenizers'} & set(sys.modules); assert not bad, bad"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


# Texts beyond the window, and reducers


def test_a_late_last_embedding_hides_none_that_is_newer(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last of a segment waits for the disk, and the next segment's first does not."""
    commit = SQLiteStore._commit

    def slow(journal: SQLiteStore, batch: list[Any]) -> None:
        time.sleep(0.3)
        commit(journal, batch)

    live = serve(Settings(drain=5.0, journal=str(tmp_path / "journal")))
    text = " ".join(f"The brook number {number} runs to the sea." for number in range(60))

    async def main() -> None:
        async with AsyncClient(live.url) as client, client.open_stream(overflow="segment", emit="append") as stream:
            await stream.append("x ")
            await stream.flush()
            monkeypatch.setattr(SQLiteStore, "_commit", slow)
            await stream.append(text[:1200])
            await asyncio.sleep(1)
            await stream.append(text[1200:])
            await stream.flush()
            await asyncio.sleep(1)
            found: list[tuple[int, int, bool]] = []
            while not found or found[-1][1] < stream.offset:
                event = await anext(stream)
                assert isinstance(event, Emitted)
                found.append((event.segment, event.offset, event.final))
            assert any(final for *_, final in found)

    run(main())


def test_segments_come_to_who_iterates(live: Live, whole: Whole) -> None:
    text = " ".join(f"word{number % 90}." if number % 7 == 0 else f"word{number % 90}" for number in range(900))

    async def main() -> None:
        async with AsyncClient(live.url) as client, client.open_stream(overflow="segment", emit="append") as stream:
            for at in range(0, len(text), 500):
                await stream.append(text[at : at + 500])
            last = await stream.embedding()
            assert last.segment >= 2
            finals: list[Emitted] = []
            while len(finals) < last.segment:
                event = await anext(stream)
                assert isinstance(event, Emitted)
                if event.final:
                    finals.append(event)
            assert [event.segment for event in finals] == list(range(last.segment))
            for event in [*finals, last]:
                assert agree(event.vector, whole(text[event.start : event.offset]))
            assert last.offset == len(text)
            assert stream.text == text

    run(main())


def test_a_change_to_what_has_ended_is_refused(live: Live) -> None:
    text = "word " * 900

    async def main() -> None:
        async with AsyncClient(live.url) as client, client.open_stream(text, overflow="segment") as stream:
            await stream.flush()
            await stream.replace(0, 4, "another")
            with pytest.raises(InvalidRequest, match="have ended"):
                await stream.embedding()
            assert stream.text == text
            assert (await stream.embedding()).offset == len(text)

    run(main())


def test_reducers_and_long_input(serve: Serve, engine: Engine) -> None:
    size, reducer = engine.info.dimensions, small_reducer(engine)
    live = serve(reducers={"small": reducer})

    async def main() -> None:
        async with AsyncClient(live.url) as client:
            small = await client.embed(["a brook", "the sea"], reducer="small")
            assert np.allclose(small, reducer.reduce(live.engine.embed(["a brook", "the sea"])), atol=1e-5)
            ((offset, prefix),) = await client.prefix_embeddings("a brook", offsets=[7], reducer="small")
            assert offset == 7
            assert agree(prefix, small[0])
            async with client.open_stream("a brook", reducer="small") as stream:
                emitted = await stream.embedding()
                assert agree(emitted.vector, small[0])
                assert stream.fingerprint == reducer.fingerprint
            with pytest.raises(TooLarge):
                await client.embed("word " * 900, long_input="error")
            assert (await client.embed("word " * 900)).shape == (1, size)

    run(main())
