"""Frames that carry nothing: a socket that floods is closed, one that works is not, and nobody waits for either."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Callable

import pytest
import websockets.exceptions

from tests.blackbox.conftest import Target

MASK = bytes(4)


def frame(opcode: int, payload: bytes = b"", fin: bool = True) -> bytes:
    """As a client sends it, masked by zeros."""
    assert len(payload) < 126
    return bytes([fin << 7 | opcode, 0x80 | len(payload)]) + MASK + payload


FLOODS: dict[str, Callable[[], bytes]] = {
    "pings": lambda: frame(9) * 10_000,
    "pings with a payload": lambda: frame(9, b"x" * 125) * 5_000,
    "pongs": lambda: frame(10) * 10_000,
    "empty pieces": lambda: frame(1, fin=False) + frame(0, fin=False) * 10_000,
    "pieces of a character": lambda: frame(1, b"{", fin=False) + frame(0, b" ", fin=False) * 10_000,
    "empty texts": lambda: frame(1) * 10_000,
    "empty binary": lambda: frame(2) * 10_000,
}


def flood(target: Target, payload: bytes) -> tuple[int | None, int]:
    """Sends it over and over; the code with which the server ends that, and the bytes that were sent."""
    with target.socket() as socket:
        sent = 0
        with contextlib.suppress(OSError):
            for _ in range(50):
                socket.socket.sendall(payload)
                sent += len(payload)
        with contextlib.suppress(websockets.exceptions.ConnectionClosed):
            while True:
                socket.recv(timeout=20)
        return socket.close_code, sent


@pytest.mark.parametrize("payload", FLOODS.values(), ids=FLOODS)
def test_a_flood_of_frames_ends_the_socket(target: Target, payload: Callable[[], bytes]) -> None:
    code, _ = flood(target, payload())
    assert code in (1008, 1006), code  # 1006: the reason was lost behind what was unread


def test_the_polite_do_not_wait_behind_floods(target: Target) -> None:
    """Four sockets that are opened anew whenever they are closed."""
    stop = threading.Event()

    def attack(payload: bytes) -> None:
        while not stop.is_set():
            with contextlib.suppress(Exception):
                flood(target, payload)

    threads = [threading.Thread(target=attack, args=(make(),)) for make in list(FLOODS.values())[:4]]
    for thread in threads:
        thread.start()
    try:
        for _ in range(20):
            assert target.embed() == target.before
            assert target.polite.get("/livez").status_code == 200
        assert all(thread.is_alive() for thread in threads), "the attack goes on"
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("text", ['{"k%d": 0}', "[", '"', "{}"])
def test_a_large_frame_of_structure_is_an_error_and_no_more(target: Target, text: str) -> None:
    large = json.dumps({f"k{number}": 0 for number in range(70_000)}) if "%" in text else text * 500_000
    with target.socket() as socket:
        for _ in range(3):
            socket.send(large)
            error = json.loads(socket.recv())["error"]
            assert error["code"] == "invalid_request"
        socket.send(json.dumps({"type": "session.create"}))
        assert json.loads(socket.recv())["type"] == "session.created"


def test_a_client_that_works_fast_is_no_flood(target: Target) -> None:
    """Three thousand changes at once, with pings in between and large texts in pieces."""
    with target.socket() as socket:
        socket.send(json.dumps({"type": "session.create", "overflow": "segment"}))
        session = json.loads(socket.recv())["session"]
        event = {"type": "input_text.append", "session": session, "text": "ab c"}
        for number in range(3000):
            socket.send(json.dumps(event))
            if number % 50 == 0:
                socket.ping(os.urandom(4))
        socket.send([json.dumps(event)[at : at + 7] for at in range(0, len(json.dumps(event)), 7)])
        offset = 0
        while offset < 4 * 3001:
            event = json.loads(socket.recv(timeout=20))
            assert event["type"] != "error", event
            offset = event["offset"]
