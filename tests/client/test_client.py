"""The client without asyncio: the same, from any thread."""

from __future__ import annotations

import contextlib
import inspect
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from streambed import AsyncClient, Client, Engine
from streambed.client import batch
from streambed.client.astream import AsyncStream
from streambed.client.client import Stream
from streambed.client.events import Emitted, Triggered
from streambed.errors import ConnectionLost, InvalidRequest, NotFound, TooLarge
from tests.client.conftest import Proxy, agree
from tests.server.conftest import Live, until

Whole = Callable[..., np.ndarray]
SECONDS = 30.0


def sessions(live: Live) -> list[str]:
    return [each["session"] for each in live.client.get("/v1/sessions").json()["data"]]


def test_embed(live: Live, engine: Engine) -> None:
    with Client(live.url) as client:
        texts = ["a brook", "小川 🌊"]
        assert agree(client.embed(texts), engine.embed(texts))
        assert agree(client.embed("a brook", dimensions=32), engine.embed(["a brook"], dimensions=32))
        assert agree(client.embed(texts, instruction="find"), engine.embed(texts, instruction="find"))
        with pytest.raises(InvalidRequest, match="dimensions is 7"):
            client.embed("a", dimensions=7)
    with Client(live.url, model="nobody") as client, pytest.raises(NotFound):
        client.embed("a")


def test_prefix_embeddings(live: Live, engine: Engine) -> None:
    text = "A brook 🌊 runs. It runs to the sea."
    with Client(live.url) as client:
        for options in ({}, {"every": 3}, {"offsets": [4, 9, 20]}, {"instruction": "find", "dimensions": 32}):
            found = client.prefix_embeddings(text, **options)  # type: ignore[arg-type]
            wanted = engine.prefix_embeddings(text, **options)  # type: ignore[arg-type]
            assert [offset for offset, _ in found] == [offset for offset, _ in wanted]
            assert agree(np.array([vector for _, vector in found]), np.array([vector for _, vector in wanted]))
        with pytest.raises(InvalidRequest, match="offsets must rise"):
            client.prefix_embeddings(text, offsets=[3, 1])


def test_a_stream(live: Live, whole: Whole) -> None:
    watch = [{"id": "sea", "text": "to the sea", "threshold": 0.9999}]
    with Client(live.url) as client:
        with client.open_stream("A brook", emit="append", watch=watch) as stream:
            assert agree(stream.embedding().vector, whole("A brook"))
            stream.append(" runs")
            stream.replace(0, 1, "The")
            assert stream.text == "The brook runs"
            emitted = stream.embedding()
            assert agree(emitted.vector, whole("The brook runs"))
            assert (emitted.revision, emitted.offset, stream.offset) == (3, 14, 14)
            stream.set("to the sea")
            stream.flush()
            assert (stream.revision, stream.connections) == (4, 1)
            assert stream.fingerprint == live.engine.info.fingerprint
            assert sessions(live) == [stream.session]
            seen: list[Any] = []
            for event in stream:
                seen.append(event)
                triggered = [event for event in seen if isinstance(event, Triggered)]
                if triggered and isinstance(event, Emitted) and event.revision == 4:
                    break
            assert [event.watch for event in triggered] == ["sea"]
            assert agree(seen[-1].vector, whole("to the sea"))
            with pytest.raises(InvalidRequest, match="range"):
                stream.replace(5, 20, "")
            with pytest.raises(InvalidRequest, match="surrogate"):
                stream.append("\ud800")
            stream.append(" word" * 600)
            with pytest.raises(TooLarge):
                stream.flush()
            assert stream.text == "to the sea"
        assert sessions(live) == []
        with pytest.raises(ConnectionLost, match="closed"):
            stream.append("x")
        assert list(stream) == []


def test_iteration_in_a_thread_ends_with_the_stream(live: Live) -> None:
    seen: list[Any] = []
    with Client(live.url) as client, client.open_stream("a", emit="append") as stream:
        listening = threading.Thread(target=lambda: seen.extend(stream))
        listening.start()
        stream.embedding()
        assert listening.is_alive()
        stream.close()
        listening.join(SECONDS)
        assert not listening.is_alive()


def test_streams_in_many_threads(live: Live, whole: Whole, proxy: Callable[[int], Proxy]) -> None:
    before = proxy(live.port)
    with Client(before.url) as client:

        def work(number: int) -> tuple[str, np.ndarray]:
            with client.open_stream(f"{number}:") as stream:
                for word in ("the", "brook", "runs", "to", "the", "sea"):
                    stream.append(f" {word}{number}")
                    if word == "runs" and number == 3:
                        before.cut()
                with contextlib.suppress(ConnectionLost):  # one-shot requests are not sent again, and one may be cut
                    client.embed(f"{number}")
                return stream.text, stream.embedding().vector

        with ThreadPoolExecutor(6) as pool:
            for number, (text, vector) in enumerate(pool.map(work, range(6))):
                assert text == f"{number}: the{number} brook{number} runs{number} to{number} the{number} sea{number}"
                assert agree(vector, whole(text))
    for session in sessions(live):
        live.client.delete(f"/v1/sessions/{session}")


def test_one_stream_in_many_threads(live: Live, whole: Whole) -> None:
    """Each change is whole and there once, in whatever order."""
    with Client(live.url) as client, client.open_stream() as stream, ThreadPoolExecutor(4) as pool:

        def work(number: int) -> None:
            for _ in range(10):
                stream.append(f"<{number}>")
                if number == 0:
                    stream.embedding()

        list(pool.map(work, range(4)))
        emitted = stream.embedding()
        assert stream.text.count("<") == 40
        assert [stream.text.count(f"<{number}>") for number in range(4)] == [10] * 4
        assert emitted.revision == 40
        assert agree(emitted.vector, whole(stream.text))


def test_a_closed_client(live: Live) -> None:
    client = Client(live.url)
    stream = client.open_stream("a")
    stream.flush()
    stream.close()
    client.close()
    client.close()
    for call in (lambda: client.embed("a"), lambda: client.open_stream(), stream.embedding):
        with pytest.raises(ConnectionLost, match="closed"):
            call()
    assert not client._thread.is_alive()


def test_a_server_that_is_not_there(nowhere: str) -> None:
    with Client(nowhere, reconnect=0.3) as client:
        with pytest.raises(ConnectionLost, match="cannot be reached"):
            client.embed("a")
        with client.open_stream("a") as stream:
            with pytest.raises(ConnectionLost, match="cannot be reached"):
                stream.embedding()
            with pytest.raises(ConnectionLost, match="cannot be reached"):
                next(stream)  # type: ignore[call-overload]


@pytest.mark.parametrize("call", ["embed", "progress", "embedding", "next"])
def test_after_control_c_everything_can_be_closed(live: Live, silent: str, call: str) -> None:
    """Ctrl-C comes while the main thread waits for an answer."""
    assert threading.current_thread() is threading.main_thread()
    client = Client(silent, timeout=SECONDS)
    stream = client.open_stream("a")
    calls: dict[str, Callable[[], Any]] = {
        "embed": lambda: client.embed("a"),
        "progress": lambda: client.embed("a", progress=print),
        "embedding": stream.embedding,
        "next": lambda: next(stream),  # type: ignore[call-overload]
    }
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        calls[call]()
    timer.join()
    until(lambda: not stream._stream._answers)
    stream.close()
    client.close()
    assert not client._thread.is_alive()


def test_a_program_that_closes_nothing_can_end(live: Live) -> None:
    """The thread of the loop does not keep it from ending; nothing is said."""
    code = (
        "from streambed import Client; client = Client({url!r}); stream = client.open_stream('a');"
        "print(stream.embedding().offset)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code.format(url=live.url)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
    assert "Traceback" not in done.stderr
    for session in sessions(live):
        live.client.delete(f"/v1/sessions/{session}")


# The same as the one for asyncio


def public(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


PAIRS = [(Client, AsyncClient), (Stream, AsyncStream)]


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_both_clients_have_the_same_names_and_parameters(one: type, other: type) -> None:
    names = public(other) | ({"connections"} if other is AsyncStream else set())
    assert public(one) - {"close"} == names - {"aclose"}
    for name in sorted(public(one) - {"close"}):
        mine, theirs = getattr(one, name), getattr(other, name, None)
        if not callable(mine):
            continue
        assert callable(theirs)
        parameters = [list(inspect.signature(method).parameters.values()) for method in (mine, theirs)]
        for a, b in zip(*parameters, strict=True):
            assert (a.name, a.kind, a.default, a.annotation) == (b.name, b.kind, b.default, b.annotation), name
    if one is Client:
        assert inspect.signature(Client) == inspect.signature(AsyncClient)


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_every_public_method_says_itself_what_it_does(one: type, other: type) -> None:
    """And each parameter that has more to it than its name."""
    for kind, theirs in ((one, other), (other, one)):
        for name in sorted(public(kind)):
            said = getattr(kind, name).__doc__ if hasattr(kind, name) else None
            assert said, f"{kind.__name__}.{name}"
            assert theirs.__name__ not in said
            assert "See `" not in said
        assert kind.__doc__
        assert theirs.__name__ not in kind.__doc__


def test_both_clients_document_their_parameters() -> None:
    for kind in (Client, AsyncClient):
        for method in (kind.__init__, kind.embed, kind.open_stream):
            plain = {"self", "api_key", "instruction", "prompt_name", "input_type", "dimensions", "reducer", "text"}
            said = method.__doc__ or ""
            for name in set(inspect.signature(method).parameters) - plain:
                assert f"{name}: " in said, f"{kind.__name__}.{method.__name__}: {name}"


def test_texts_may_come_of_a_generator_that_uses_the_client(live: Live, engine: Engine) -> None:
    with Client(live.url) as client:

        def texts() -> Any:
            for text in ("a brook", "the sea"):
                assert client.embed(text).shape == (1, 64)
                yield text

        assert agree(client.embed(texts()), engine.embed(["a brook", "the sea"]))


def test_progress_is_told_in_the_callers_thread_and_may_use_the_client(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "CHUNK_BYTES", 20)
    told: list[tuple[int, int]] = []
    with Client(live.url) as client:

        def tell(done: int, count: int) -> None:
            assert threading.current_thread() is threading.main_thread()
            assert client.embed("a").shape == (1, 64)
            told.append((done, count))

        assert client.embed(["a brook", "", "a b", "c d", "e f"], empty="null", progress=tell).shape == (5, 64)
        assert told[-1] == (5, 5)
        assert len(told) > 1

        def stop(done: int, count: int) -> None:
            raise KeyError("stop")

        with pytest.raises(KeyError, match="stop"):
            client.embed(["a brook", "a b"], progress=stop)
        with pytest.raises(InvalidRequest, match="progress is int"):
            client.embed("a", progress=3)  # type: ignore[arg-type]


def test_whoever_waits_hears_that_the_client_was_closed(live: Live) -> None:
    for _ in range(5):
        client = Client(live.url)
        stream = client.open_stream("a")
        stream.__enter__()
        heard: list[BaseException] = []

        def listen(stream: Any = stream, heard: list[BaseException] = heard) -> None:
            with pytest.raises(ConnectionLost) as raised:
                list(stream)
            heard.append(raised.value)

        listener = threading.Thread(target=listen)
        listener.start()
        client.close()
        listener.join(20)
        assert not listener.is_alive()
        assert [str(error) for error in heard] == ["the client was closed"]
        with pytest.raises(ConnectionLost):
            stream.append("b")
        client.close()
