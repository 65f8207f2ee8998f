"""Many texts as several requests."""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streambed import AsyncClient, Client, ConnectionLost, Overloaded, StreambedError, TimedOut
from streambed.client import batch
from streambed.client.batch import CHUNK_BYTES, IN_FLIGHT, Batch, divide, renumber, run
from streambed.errors import InvalidRequest, TooLarge


def size(text: str, prompt: str = "") -> int:
    return len(text.encode()) + len(prompt.encode()) + 4


@given(
    st.lists(st.tuples(st.sampled_from("aé中🌊"), st.integers(1, 20_000)), max_size=40),
    st.integers(1, 10),
    st.text("ab"),
)
def test_requests_are_small_and_have_every_text_once(pieces: list[tuple[str, int]], most: int, prompt: str) -> None:
    texts = [character * count for character, count in pieces]
    places = [place for place in range(len(texts)) if place % 3 != 1]  # what is left out has no text to send
    chunks = divide(texts, places, prompt, most)
    assert [place for chunk in chunks for place in chunk] == places
    for chunk in chunks:
        assert 1 <= len(chunk) <= most
        assert len(chunk) == 1 or sum(size(texts[place], prompt) for place in chunk) <= CHUNK_BYTES
    for one, other in itertools.pairwise(chunks):  # and none is smaller than it has to be
        full = sum(size(texts[place], prompt) for place in [*one, other[0]]) > CHUNK_BYTES
        assert full or len(one) == most


def test_a_few_run_at_once_and_each_once() -> None:
    running, most, seen = 0, 0, []

    async def ask(chunk: list[int]) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        seen.append(chunk)
        running -= 1

    chunks = [[number] for number in range(3 * IN_FLIGHT)]
    asyncio.run(run(chunks, ask))
    assert most == IN_FLIGHT
    assert seen == chunks


def test_the_first_error_ends_the_others() -> None:
    asked, cancelled = [], []

    async def ask(chunk: list[int]) -> None:
        asked.append(chunk[0])
        if chunk == [2]:
            raise TooLarge("no")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(chunk[0])
            raise

    with pytest.raises(TooLarge):
        asyncio.run(run([[number] for number in range(20)], ask))
    assert asked == [0, 1, 2, 3]
    assert cancelled == [0, 1, 3]


def test_vectors_while_they_come() -> None:
    told: list[tuple[int, int]] = []
    some = Batch(5, 1, lambda done, count: told.append((done, count)))
    assert some.vectors is None
    some.put([1, 3], np.ones((2, 3), dtype=np.float32))
    some.put([4], np.zeros((1, 3), dtype=np.float32))
    assert some.vectors is not None
    assert np.isnan(some.vectors).all(axis=1).tolist() == [True, False, True, False, False]
    assert told == [(3, 5), (4, 5)]


def test_errors_name_the_callers_texts() -> None:
    error = InvalidRequest("input[1] is bad, as is text 0, and input[7] is none of them", "input[1]")
    error.details = {"indexes": [0, 1], "more": 1}
    renamed = renumber(error, [2050, 2051], 3000)
    assert str(renamed) == renamed.message == "input[2051] is bad, as is text 2050, and input[7] is none of them"
    assert renamed.param == "input[2051]"
    assert renamed.details == {"indexes": [2050, 2051], "more": 1}
    alone = renumber(TooLarge("the text has 601 tokens", "input"), [17], 3000)
    assert (str(alone), alone.param) == ("text 17: the text has 601 tokens", "input[17]")
    other = renumber(InvalidRequest("dimensions is 7", "dimensions"), [17], 3000)
    assert (str(other), other.param, other.details) == ("dimensions is 7", "dimensions", None)
    whole = renumber(TooLarge("the text has 601 tokens", "input"), [0], 1)
    assert (str(whole), whole.param) == ("the text has 601 tokens", "input")


def test_a_chunk_is_answered_in_time_by_a_slow_processor() -> None:
    """The bound that the constant's comment gives: tokens are at most bytes, and about a quarter of them in prose."""
    assert IN_FLIGHT * CHUNK_BYTES / 4 / 600 < 30
    assert batch.CHUNK_BYTES * 6 < 16 << 20, "the largest body, all of it escaped, is one that a server takes"


# The client: its server is a function, since so many texts take their time

Answer = Callable[[dict[str, Any]], Any]


@asynccontextmanager
async def client_of(answer: Answer, **settings: Any) -> AsyncIterator[AsyncClient]:
    """answer: gets each body, and gives a reply or the vectors' first numbers; it may be a coroutine."""

    async def handle(request: httpx.Request) -> httpx.Response:
        reply = answer(json.loads(request.content))
        if asyncio.iscoroutine(reply):
            reply = await reply
        if isinstance(reply, httpx.Response):
            return reply
        return httpx.Response(200, json={"data": [{"embedding": [number, 0.0]} for number in reply]})

    async with AsyncClient(model="m", **settings) as client:
        await client._http.aclose()
        client._http = httpx.AsyncClient(base_url="http://127.0.0.1", transport=httpx.MockTransport(handle))
        yield client


def numbers(body: dict[str, Any]) -> list[float]:
    return [float(text.split()[0]) for text in body["input"]]


def refusal(status: int, message: str, headers: dict[str, str] | None = None, **more: Any) -> httpx.Response:
    return httpx.Response(status, json={"error": {"message": message, **more}}, headers=headers)


def test_twenty_thousand_texts() -> None:
    bodies: list[dict[str, Any]] = []
    told: list[tuple[int, int]] = []
    running = most = 0

    async def answer(body: dict[str, Any]) -> list[float]:
        nonlocal running, most
        bodies.append(body)
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return numbers(body)

    async def main() -> None:
        async with client_of(answer) as client:
            texts = (f"{number} " + "word " * (number % 50) for number in range(20_000))
            vectors = await client.embed(texts, progress=lambda *counts: told.append(counts))
            assert (vectors.shape, vectors.dtype) == ((20_000, 2), np.float32)
            assert vectors[:, 0].tolist() == list(range(20_000))
            single = await client.embed("7", progress=lambda *counts: told.append(counts))
            assert single.tolist() == [[7.0, 0.0]]
            await client.embed(["7"] * 9, priority="query")

    asyncio.run(main())
    assert most == IN_FLIGHT
    assert [done for done, _ in told[:-1]] == sorted(done for done, _ in told[:-1])
    assert told[-2:] == [(20_000, 20_000), (1, 1)]
    assert {body.get("priority") for body in bodies[:-2]} == {"bulk"}, "what takes several requests is bulk"
    assert [body.get("priority") for body in bodies[-2:]] == [None, "query"]


def test_what_was_answered_before_an_error_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "CHUNK_BYTES", 60)
    texts = [f"{number} a text" for number in range(20)]  # four a request
    texts[2] = ""

    def failing(failure: Exception | None) -> Answer:
        def answer(body: dict[str, Any]) -> Any:
            if "9 a text" not in body["input"]:
                return numbers(body)
            if failure is not None:
                raise failure
            place = f"input[{body['input'].index('9 a text')}]"
            return refusal(400, f"{place} is bad", param=place, code="invalid_request")

        return answer

    failures: list[tuple[Exception | None, type[Exception], str]] = [
        (None, InvalidRequest, r"^input\[9\] is bad$"),
        (httpx.ConnectError("gone"), ConnectionLost, "gone"),
        (httpx.ReadTimeout("late"), TimedOut, "did not answer"),
    ]

    async def main() -> None:
        for failure, kind, message in failures:
            async with client_of(failing(failure)) as client:
                with pytest.raises(kind, match=message) as caught:
                    await client.embed(texts, empty="null")
                assert isinstance(caught.value, StreambedError)
                partial = caught.value.partial
                missing = np.isnan(partial).all(axis=1)
                assert partial.shape == (20, 2)
                assert missing[[2, 9]].all()
                assert not missing[[0, 1, 3]].any()
                assert partial[~missing, 0].tolist() == [n for n in range(20) if not missing[n]]

    monkeypatch.setattr(batch, "IN_FLIGHT", 1)
    asyncio.run(main())


def test_what_was_answered_before_a_timeout_comes_to_the_thread_that_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """asyncio makes a new error of a plain TimeoutError between threads, without what was added to it."""
    monkeypatch.setattr(batch, "CHUNK_BYTES", 1)
    monkeypatch.setattr(batch, "IN_FLIGHT", 1)

    def handle(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        if body["input"] == ["1 late"]:
            raise httpx.ReadTimeout("late")
        return httpx.Response(200, json={"data": [{"embedding": [0.0, 1.0]}]})

    with Client(model="m") as client:
        client._call(client._client._http.aclose())
        client._client._http = httpx.AsyncClient(base_url="http://127.0.0.1", transport=httpx.MockTransport(handle))
        with pytest.raises(TimeoutError, match="did not answer") as caught:
            client.embed(["0 in time", "1 late"])
    assert isinstance(caught.value, StreambedError)
    assert np.isnan(caught.value.partial).all(axis=1).tolist() == [False, True]


def test_nothing_is_kept_where_nothing_came() -> None:
    async def main() -> None:
        async with client_of(lambda body: refusal(400, "no", code="invalid_request")) as client:
            with pytest.raises(InvalidRequest) as caught:
                await client.embed(["a", "b"])
            assert caught.value.partial is None

    asyncio.run(main())


def test_each_request_has_its_own_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "CHUNK_BYTES", 1)
    monkeypatch.setattr(batch, "IN_FLIGHT", 1)

    async def answer(body: dict[str, Any]) -> list[float]:
        await asyncio.sleep(0.4)
        return numbers(body)

    async def main() -> None:
        async with client_of(answer, timeout=1.5) as client:
            assert len(await client.embed([str(number) for number in range(5)])) == 5

    asyncio.run(main())


def test_an_error_of_progress_is_the_callers() -> None:
    def stop(done: int, count: int) -> None:
        raise KeyError("stop")

    async def main() -> None:
        async with client_of(numbers) as client:
            with pytest.raises(KeyError, match="stop"):
                await client.embed(["1"] * 5000, progress=stop)
            assert not asyncio.all_tasks() - {asyncio.current_task()}

    asyncio.run(main())


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_says_when_to_come_again(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    slept: list[float] = []
    sleep = asyncio.sleep
    replies = [refusal(status, "busy", {"Retry-After": "7"}), refusal(status, "busy")]

    async def note(seconds: float) -> None:
        if threading.current_thread() is not threading.main_thread():
            return await sleep(seconds)  # a server of other tests
        slept.append(seconds)
        await sleep(0)

    async def main() -> None:
        async with client_of(lambda body: replies.pop(0) if replies else numbers(body)) as client:
            monkeypatch.setattr(asyncio, "sleep", note)
            assert (await client.embed("3")).tolist() == [[3.0, 0.0]]
            assert slept[0] == 7.0
            assert 0 < slept[1] < 1
            replies[:] = [refusal(status, "busy until tomorrow", {"Retry-After": "86400"}, code="overloaded")]
            with pytest.raises(Overloaded, match="busy until tomorrow"):  # rather than wait in vain
                await client.embed("3")
            assert len(slept) == 2

    asyncio.run(main())
