"""What belongs to a process: nothing of it is shared with a child of `fork`, or sent to another."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable

import pytest

from streambed import AsyncClient, Client, Engine
from tests.server.conftest import Live, engine, live, prompted_checkpoint, session_live

__all__ = ["engine", "live", "prompted_checkpoint", "session_live"]

# A process of its own, since the one that runs the tests has threads that no child should copy.
CLIENTS = """
import asyncio, multiprocessing, os, sys, threading
import numpy as np
from streambed import AsyncClient, Client, ConnectionLost

url = sys.argv[1]


def ended(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def refused(call):
    try:
        call()
    except ConnectionLost as error:
        assert f"belongs to process {parent}" in str(error), error
    else:
        raise AssertionError("no error")


client, parent = Client(url, timeout=60), os.getpid()
wanted = client.embed("a brook")
stream = client.open_stream("A brook", emit="append")
stream.embedding()
seen = []
listening = threading.Thread(target=lambda: seen.extend(stream), daemon=True)
listening.start()
with client._lock:  # as any thread might at this moment
    pid = os.fork()
if pid == 0:
    assert np.allclose(client.embed("a brook"), wanted, atol=1e-5)
    for call in (lambda: stream.append("x"), stream.flush, stream.embedding, lambda: next(stream), stream.__enter__):
        refused(call)
    stream.close()
    with client.open_stream("b") as own:
        assert own.embedding().offset == 1
    if (grandchild := os.fork()) == 0:
        assert np.allclose(client.embed("a brook"), wanted, atol=1e-5)
        sys.exit(7)
    assert ended(grandchild) == 7
    client.close()
    sys.exit(5)
assert ended(pid) == 5
if (pid := os.fork()) == 0:
    client.close()  # without having used it
    sys.exit(6)
assert ended(pid) == 6
assert np.allclose(client.embed("a brook"), wanted, atol=1e-5)
stream.append(" runs")
assert (stream.embedding().revision, stream.connections) == (2, 1)
stream.close()
listening.join(60)
assert seen
client.close()


async def main():
    async with AsyncClient(url, timeout=60) as client, client.open_stream("a") as stream:
        wanted = await client.embed("a brook")
        await stream.embedding()

        def work():
            async def use():
                assert np.allclose(await client.embed("a brook"), wanted, atol=1e-5)
                for change in (stream.append("x"), stream.embedding(), stream.flush(), anext(stream)):
                    try:
                        await change
                    except ConnectionLost as error:
                        assert f"belongs to process {parent}" in str(error), error
                    else:
                        raise AssertionError("no error")
                await stream.aclose()
                await client.aclose()

            asyncio.run(use())

        child = multiprocessing.get_context("fork").Process(target=work)
        child.start()
        await asyncio.to_thread(child.join)
        assert child.exitcode == 0
        assert np.allclose(await client.embed("a brook"), wanted, atol=1e-5)
        await stream.append("b")
        assert ((await stream.embedding()).revision, stream.connections) == (2, 1)


asyncio.run(main())
print("done")
"""

ENGINE = """
import os, sys
from streambed import Engine, NotReady

engine, parent = Engine.load(sys.argv[1], dtype="float32", max_batch_tokens=48), os.getpid()
session = engine.open_session("a brook")
with engine.compute._lock, session._lock:  # as any thread might at this moment
    pid = os.fork()
if pid == 0:
    for call in (
        lambda: engine.embed(["a", "b"]),
        lambda: engine.embed([]),
        lambda: engine.prefix_embeddings("a"),
        engine.open_session,
        engine.evict,
        engine.check_integrity,
        lambda: session.append("x"),
        lambda: session.set("x"),
        lambda: session.replace(0, 1, "x"),
        session.embedding,
        session.fork,
        session.evict,
    ):
        try:
            call()
        except NotReady as error:
            assert f"belongs to process {parent}" in str(error), error
        else:
            raise AssertionError("no error")
    assert not engine.ready
    assert session.text == "a brook"
    assert engine.stats().sessions == 1
    session.close()
    engine.close()
    sys.exit(5)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5
assert engine.embed(["a", "b"]).shape == (2, 64)
session.append(" runs")
assert session.embedding() @ engine.embed("a brook runs")[0] >= 0.99999
session.close()
engine.close()
print("done")
"""


def run(code: str, argument: object) -> None:
    command = [sys.executable, "-W", "always::ResourceWarning", "-c", code, str(argument)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_clients_work_in_a_child_and_leave_the_parent_alone(live: Live) -> None:
    run(CLIENTS, live.url)
    assert live.client.get("/v1/sessions").json()["data"] == []


def test_an_engine_says_in_a_child_that_it_is_not_there(tiny_checkpoint: object) -> None:
    run(ENGINE, tiny_checkpoint)


@pytest.mark.parametrize("way", [pickle.dumps, copy.copy, copy.deepcopy])
def test_nothing_of_it_is_pickled_or_copied(live: Live, engine: Engine, way: Callable[[object], object]) -> None:
    client = AsyncClient(live.url)
    with Client(live.url) as other, other.open_stream() as stream, engine.open_session() as session:
        for thing in (client, client.open_stream(), other, stream, engine, session):
            name = type(thing).__name__
            with pytest.raises(
                TypeError, match=f"^{name} cannot be pickled or copied, since it .*; (load|open|make) a"
            ):
                way(thing)
