"""Bodies that take too long."""

from __future__ import annotations

import pytest

from streambed.server import bodies, connection
from streambed.server.guard import Admission
from streambed.settings import Settings
from tests.server.conftest import Serve, guard_of, until
from tests.server.test_guard import HEAD


@pytest.mark.parametrize("sent", [b"", b'{"model":'])
def test_slow_body_is_given_up(serve: Serve, monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    monkeypatch.setattr(bodies, "BODY_SECONDS", 0.05)
    live = serve(Settings(max_requests=1))
    answer = live.raw(HEAD + b"Connection: close\r\n\r\n" + sent)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"did not arrive" in answer
    until(lambda: guard_of(live, Admission).places["http"].taken == 0)
    assert live.post("a").status_code == 200


def test_connection_ends_after_a_slow_body(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Having its answer, a client may not drip on for ever."""
    monkeypatch.setattr(bodies, "BODY_SECONDS", 0.05)
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.1)
    live = serve()
    with live.connect() as dripping:
        dripping.sendall(HEAD.replace(b"100", b"100000") + b"\r\n")
        assert dripping.recv(65536).startswith(b"HTTP/1.1 400 ")

        def closed() -> bool:
            try:
                dripping.sendall(b" ")
            except ConnectionError:
                return True
            return False

        until(closed)


def test_dripping_body_is_given_up_all_the_same(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time is for the whole body: each byte does not buy more of it."""
    monkeypatch.setattr(bodies, "BODY_SECONDS", 0.1)
    live = serve()
    with live.connect() as dripping:
        dripping.sendall(HEAD.replace(b"100", b"100000") + b"\r\n")
        dripping.settimeout(0.02)
        answer = b""
        for _ in range(1000):
            dripping.sendall(b" ")
            try:
                answer = dripping.recv(65536)
                break
            except TimeoutError:
                continue
    assert answer.startswith(b"HTTP/1.1 400 ")
