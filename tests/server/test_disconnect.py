"""Clients that leave: their work goes with them, and nobody else notices."""

from __future__ import annotations

import gc
import http.client
import json
import logging
import random
import socket
import struct
import threading
import time
from typing import Any

import numpy as np
import pytest

from streambed.server import connection as connection_module
from tests.server.conftest import Live, Serve, read_all, until

INPUTS, WORDS = 200, 400
"""A request of 80,000 rows: 10,000 steps of the engine below."""


@pytest.fixture
def slow(serve: Serve, open_engine: Any) -> Live:
    """A server whose engine goes in steps of 8 rows, so that a large request takes very many."""
    return serve(engine=open_engine(dtype="float32", max_batch_tokens=8))


def request(live: Live, path: str = "/v1/embeddings", **fields: Any) -> bytes:
    body = json.dumps({"model": live.model} | fields).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return f"{head}\r\n\r\n".encode() + body


def large(live: Live, **fields: Any) -> bytes:
    return request(live, input=[f"{n} " + "word " * (WORDS - 10) for n in range(INPUTS)], **fields)


def reset(connection: socket.socket) -> None:
    """Ends a connection with RST rather than FIN."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def test_nothing_is_logged(slow: Live, caplog: pytest.LogCaptureFixture) -> None:
    with slow.connect() as connection:
        connection.sendall(large(slow))
        until(lambda: slow.engine.stats().steps > 10)
    until(lambda: slow.engine.stats().waiting == 0)
    slow.post("a")
    gc.collect()
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


@pytest.mark.parametrize("rst", [False, True])
def test_work_of_a_client_that_left_is_dropped(slow: Live, rst: bool) -> None:
    connection = slow.connect()
    connection.sendall(large(slow))
    until(lambda: slow.engine.stats().steps > 10)
    assert slow.engine.stats().waiting > INPUTS // 2
    if rst:
        reset(connection)
    else:
        connection.close()
    until(lambda: slow.engine.stats().waiting == 0)
    assert slow.engine.stats().rows < INPUTS * WORDS / 2, "long before it would have been finished"
    slow.engine.check_integrity()
    steps = slow.engine.stats().steps
    assert slow.post("a").status_code == 200
    assert slow.engine.stats().steps <= steps + 2, "nothing of it is left"


def test_one_long_text_of_a_client_that_left(slow: Live) -> None:
    with slow.connect() as connection:
        connection.sendall(request(slow, input="word " * 500))
        until(lambda: slow.engine.stats().steps > 2)
    until(lambda: slow.engine.stats().waiting == 0)
    slow.engine.check_integrity()
    assert slow.post("word " * 500).status_code == 200


def test_others_keep_their_answers(slow: Live) -> None:
    texts = ["stays until the end " * 20, "and so does this"]
    expected = slow.engine.embed(texts)
    replies: list[Any] = []
    stayer = threading.Thread(target=lambda: replies.append(slow.post(texts)))
    leavers = [slow.connect() for _ in range(5)]
    for leaver in leavers:
        leaver.sendall(large(slow, priority="query"))
    stayer.start()
    until(lambda: slow.engine.stats().waiting > 2)
    for leaver in leavers:
        leaver.close()
    stayer.join(60)
    got = np.array([item["embedding"] for item in replies[0].json()["data"]])
    assert (got * expected).sum(-1).min() >= 0.99999
    until(lambda: slow.engine.stats().waiting == 0)


def test_timeout_drops_the_rest(slow: Live) -> None:
    fields = json.loads(large(slow).partition(b"\r\n\r\n")[2])
    reply = slow.client.post("/v1/embeddings", json=fields | {"timeout_ms": 300})
    assert reply.status_code == 504
    until(lambda: slow.engine.stats().waiting == 0)
    assert slow.engine.stats().rows < INPUTS * WORDS / 2
    assert slow.post("a").status_code == 200


def test_clients_that_leave_at_any_point(slow: Live) -> None:
    dice = random.Random(7)
    # One text that is cached, several at once, long ones in chunks, mistakes, and other routes.
    kinds = [
        request(slow, input="grows " * 100),
        request(slow, input=[f"word {n} " * 20 for n in range(50)]),
        request(slow, input=["word " * 300] * 20, priority="query"),
        large(slow),
        request(slow, input=["word " * 5000]),
        request(slow, input=[""]),
        request(slow, "/tokenize", input=["word " * 300] * 20),
        b"GET /info HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    ]
    for _ in range(40):
        data = dice.choice(kinds)
        connection = slow.connect()
        connection.sendall(data[: dice.choice([len(data), len(data), dice.randrange(len(data)), dice.randrange(300)])])
        time.sleep(dice.choice([0, 0.001, 0.01]))
        dice.choice([reset, socket.socket.close])(connection)
    until(lambda: slow.engine.stats().waiting == 0)
    slow.engine.check_integrity()
    # What had come whole may still wait for a thread, and then it is right to refuse more.
    replies = [slow.post(["grows " * 100, "a"])]
    until(lambda: replies[-1].status_code != 429 or replies.append(slow.post(["grows " * 100, "a"])))
    reply = replies[-1]
    assert reply.status_code == 200
    slow.engine.evict()
    expected = slow.engine.embed(["grows " * 100, "a"])
    got = np.array([item["embedding"] for item in reply.json()["data"]])
    assert (got * expected).sum(-1).min() >= 0.99999
    assert slow.client.get("/readyz").status_code == 200

    def is_empty() -> bool:
        slow.engine.evict()
        return not slow.engine.compute._kv._paid

    until(
        is_empty
    )  # no memory was lost on the way; a large text may just have been divided whose client closed quietly


def test_a_text_of_many_windows_whose_client_left(slow: Live) -> None:
    """It is divided no further, and holds up no other large one."""
    text = " ".join(f"word{number % 977}" for number in range(200_000))
    with slow.connect() as connection:
        connection.sendall(request(slow, input=text, timeout_ms=600_000))
        time.sleep(0.5)
    started = time.monotonic()
    reply = slow.post("a " * 70_000, timeout_ms=20_000, long_input="truncate")
    assert reply.status_code in (200, 504)
    assert time.monotonic() - started < 60, "a limit for hangs: the first one would take minutes"


def test_waiting_behind_a_large_text_has_a_deadline(slow: Live) -> None:
    text = " ".join(f"word{number % 977}" for number in range(200_000))
    with slow.connect() as connection:
        connection.sendall(request(slow, input=text, timeout_ms=600_000))
        time.sleep(0.5)
        reply = slow.post("a " * 70_000, timeout_ms=300)
        assert (reply.status_code, reply.json()["error"]["code"]) == (504, "deadline")


def test_who_sends_nothing_more_gets_its_answer(slow: Live) -> None:
    """Its side of the connection has ended, as with `nc -N`; it still listens."""
    short = request(slow, input="a brook")
    with slow.connect() as connection:
        connection.sendall(short * 3)  # and all that it had sent before
        connection.shutdown(socket.SHUT_WR)
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.count(b'"object":"list"') == 3
    info = b"GET /info HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    with slow.connect() as connection:
        connection.sendall(info)
        connection.shutdown(socket.SHUT_WR)
        assert b"fingerprint" in read_all(connection)


def test_it_may_take_a_while(slow: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked whether it listens, by answers that are no answers yet: any client skips them."""
    monkeypatch.setattr(connection_module, "ASK_SECONDS", 0.02)
    connection = http.client.HTTPConnection("127.0.0.1", slow.port, timeout=60)
    body = json.dumps({"model": slow.model, "input": [f"{n} " + "word " * 390 for n in range(8)]})
    connection.request("POST", "/v1/embeddings", body, {"Content-Type": "application/json"})
    connection.sock.shutdown(socket.SHUT_WR)
    until(lambda: slow.engine.stats().steps > 40)
    reply = connection.getresponse()
    assert reply.status == 200
    assert len(json.loads(reply.read())["data"]) == 8
    connection.close()


@pytest.mark.parametrize("sent", [b"", b"GET /info HTTP/1.1\r\nHost: h\r\n", b"POST"])
def test_who_ends_before_its_request_does_is_let_go(slow: Live, sent: bytes) -> None:
    whole = request(slow, input="a brook")
    for part in (sent, whole[:-3], whole[:60]):
        with slow.connect() as connection:
            connection.sendall(part)
            connection.shutdown(socket.SHUT_WR)
            assert b"200" not in read_all(connection).split(b"\r\n")[0]


def test_an_old_client_that_ends_has_gone(slow: Live) -> None:
    """HTTP/1.0 has no interim answers; proxies that speak it close when their client has."""
    with slow.connect() as connection:
        connection.sendall(large(slow).replace(b"HTTP/1.1", b"HTTP/1.0", 1))
        until(lambda: slow.engine.stats().steps > 10)
    until(lambda: slow.engine.stats().waiting == 0)
    assert slow.engine.stats().rows < INPUTS * WORDS / 2
