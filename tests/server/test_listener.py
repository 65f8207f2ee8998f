"""How a server ends: sockets hear where to resume, new ones are refused, and nobody can hold it up."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import websockets.exceptions

from streambed import Engine
from streambed.settings import Settings
from tests.server.conftest import Servers, read_all, until
from tests.server.test_socket import SECONDS, Peer, check_vector, open_peer, sockets_of


@pytest.fixture
def servers() -> Iterator[Servers]:
    servers = Servers()
    yield servers
    servers.stop()


def end(servers: Servers) -> None:
    """Tells the servers to end, without waiting."""
    for _, server, _, _ in servers._running:
        server.should_exit = True


def ended(servers: Servers) -> bool:
    return not any(thread.is_alive() for _, _, thread, _ in servers._running)


def check_farewell(peer: Peer, resume: bool, sessions: set[str]) -> None:
    """`session.closed` for each of the sessions, then close 1012, and nothing else."""
    closed = peer.closed()
    assert closed.rcvd is not None
    assert closed.rcvd.code == 1012
    said = [event for event in peer.seen if event["type"] == "session.closed"]
    assert {event["session"] for event in said} == sessions
    assert len(said) == len(sessions)
    assert {event["reason"] for event in said} <= {"draining"}
    assert peer.seen[len(peer.seen) - len(said) :] == said
    assert all(("resume" in event) == resume for event in said)


def test_drain(servers: Servers, engine: Engine) -> None:
    """Without a journal nothing outlives the process, and nobody is told to resume."""
    live = servers.start(engine, Settings(drain=5.0))
    with open_peer(live) as peer, open_peer(live) as other, open_peer(live) as silent:
        sessions = {peer.create(text="a brook")["session"] for _ in range(3)}
        closed = peer.create()["session"]
        peer.ask("session.close", session=closed)
        peer.seen.clear()
        others = {other.create(text="a river")["session"]}
        end(servers)
        check_farewell(peer, False, sessions)
        check_farewell(other, False, others)
        check_farewell(silent, False, set())
        until(lambda: ended(servers))


def test_drain_with_a_journal_tells_where_to_resume(servers: Servers, engine: Engine, tmp_path: Path) -> None:
    settings = Settings(drain=5.0, journal=str(tmp_path / "journal"))
    live = servers.start(engine, settings)
    with open_peer(live) as peer:
        created = peer.create(text="a brook", instruction="find")
        session = created["session"]
        for piece in (" runs", " far"):
            peer.ask("input_text.append", session=session, text=piece)
        end(servers)
        check_farewell(peer, True, {session})
        resume = peer.seen[-1]["resume"]
        assert resume["resume_token"] == created["resume_token"]
        assert (resume["revision"], resume["offset"]) == (2, 16)
        assert resume["expires_in_s"] == settings.session_ttl
    servers.stop()
    live = servers.start(engine, settings)
    with open_peer(live) as peer:
        resumed = peer.ask("session.resume", session=session, resume_token=resume["resume_token"])
        assert (resumed["type"], resumed["revision"], resumed["offset"]) == ("session.resumed", 2, 16)
        again = peer.ask("input_text.append", session=session, text=" far", base_revision=1)
        assert (again["type"], again["revision"]) == ("input_text.ack", 2)
        check_vector(live, peer.ask("embedding.create", session=session), "a brook runs far", instruction="find")


def test_drain_sends_what_was_to_be_sent(servers: Servers, engine: Engine) -> None:
    live = servers.start(engine, Settings(drain=5.0))
    with open_peer(live) as peer:
        session = peer.create(text="a")["session"]
        for _ in range(100):
            peer.send("embedding.create", session=session)
            peer.next()
        end(servers)
        check_farewell(peer, False, {session})


def test_new_sockets_are_refused_meanwhile(servers: Servers, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    live = servers.start(engine, Settings(drain=5.0))
    sockets, go, there = sockets_of(live), threading.Event(), threading.Event()
    drain = type(sockets).drain

    async def held(self: Any) -> None:
        await drain(self)
        there.set()
        while not go.is_set():
            await asyncio.sleep(0.01)

    monkeypatch.setattr(type(sockets), "drain", held)
    end(servers)
    try:
        assert there.wait(SECONDS)
        with pytest.raises(websockets.exceptions.InvalidStatus) as refused, open_peer(live):
            pass
    finally:
        go.set()
    response = refused.value.response
    assert response.status_code == 503
    assert response.headers["Retry-After"]
    assert json.loads(response.body or b"")["error"]["code"] == "not_ready"


def test_idle_connections_are_kept_as_long_as_said(servers: Servers, engine: Engine) -> None:
    """Longer than proxies keep theirs: else they send a request into a connection that has just been closed."""
    assert Settings().keep_alive == 75
    live = servers.start(engine, Settings(drain=5.0, keep_alive=1))
    with live.connect() as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = connection.recv(65536) + read_all(connection)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"}"), "it was closed a second after the answer, not with it or never"
