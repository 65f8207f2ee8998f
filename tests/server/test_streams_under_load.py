"""Clients that do harm, and many at once: memory stays bounded, the others do not notice, and every vector is right."""

from __future__ import annotations

import contextlib
import itertools
import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from websockets.frames import Frame, Opcode

from streambed import Engine
from streambed.limits import MAX_UNSENT, MAX_WAITING
from streambed.server import socket as sockets_module
from streambed.server.listener import listen
from streambed.server.socket import Socket
from streambed.settings import Settings
from tests.server import conftest
from tests.server.conftest import Live, Servers, until
from tests.server.test_socket import SECONDS, Peer, check_vector, cosine, open_peer, posted, sockets_of, vector

MAX_PENDING = 64
"""Embeddings of a session that may be asked for and not answered: they may come although the socket is not read."""


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Servers]:
    """Starts servers whose connections hold little, so that a client that does not read is felt at once."""

    def tight(host: str, port: int) -> socket.socket:
        listener = listen(host, port)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            listener.setsockopt(socket.SOL_SOCKET, option, 4096)
        return listener

    monkeypatch.setattr(conftest, "listen", tight)
    servers = Servers()
    yield servers
    servers.stop()


def uvicorn_of(servers: Servers) -> uvicorn.Server:
    return servers._running[-1][1]


def websockets_of(servers: Servers) -> list[Any]:
    """uvicorn's ends of the WebSockets."""
    connections = uvicorn_of(servers).server_state.connections
    return [connection for connection in connections if hasattr(connection, "writable")]


class Deaf:
    """A client that sends and never reads; it resumes a session that was made over HTTP."""

    def __init__(self, live: Live, connection: socket.socket, created: dict[str, Any]) -> None:
        self.connection = connection
        self.session: str = created["session"]
        self.token: str = created["resume_token"]
        self._live = live
        connection.sendall(
            b"GET /v1/embeddings HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        head = b""
        while not head.endswith(b"\r\n\r\n"):  # no frame may be sent before the handshake is answered
            head += connection.recv(1)
        assert head.startswith(b"HTTP/1.1 101 ")
        self.send("session.resume", session=self.session, resume_token=self.token)
        until(self.is_attached)

    def is_attached(self) -> bool:
        reply = self._live.client.get(f"/v1/sessions/{self.session}")
        return reply.status_code == 200 and bool(reply.json()["attached"])

    @property
    def socket(self) -> Socket:
        return sockets_of(self._live)._registry._streams[self.session]._protocol.emission.listener  # type: ignore[union-attr,return-value]

    def send(self, type: str, **fields: Any) -> None:
        frame = Frame(Opcode.TEXT, json.dumps({"type": type} | fields).encode())
        self.connection.sendall(frame.serialize(mask=True))

    def flood(self) -> int:
        """Sends until the server takes no more; returns how many events that took."""
        self.connection.settimeout(1.0)
        for number in range(100_000):
            try:
                self.send("input_text.set", session=self.session, text=f"a brook {number}")
                self.send("embedding.create", session=self.session)
                self.send("nonsense", event_id="x" * 64)
            except OSError:  # it takes no more, or no longer
                return 3 * number
        raise AssertionError("the server takes everything")


@contextlib.contextmanager
def deaf(live: Live, **options: Any) -> Iterator[Deaf]:
    created = live.client.post("/v1/sessions", json=options).json()
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(SECONDS)
        connection.connect(("127.0.0.1", live.port))
        yield Deaf(live, connection, created)


def check_works(live: Live, peer: Peer) -> None:
    session = peer.create()["session"]
    text = ""
    for number in range(20):
        text += f" word{number}"
        peer.send("input_text.append", session=session, text=f" word{number}")
        done = peer.ask("embedding.create", session=session)
        assert done["revision"] == number + 1
    check_vector(live, done, text)
    peer.ask("session.close", session=session)


# Clients that do not read


def test_client_that_never_reads(servers: Servers, engine: Engine) -> None:
    """It is read no more itself; what waits for it is bounded; others do not notice."""
    live = servers.start(engine)
    with open_peer(live) as peer, deaf(live, emit={"on": "append"}) as client:
        client.flood()
        check_works(live, peer)
        held, stream = client.socket, sockets_of(live)._registry._streams[client.session]
        assert MAX_UNSENT <= len(held._outbox._events) <= MAX_UNSENT + MAX_PENDING + 8
        until(lambda: live.engine.stats().waiting == 0)
        assert len(held._outbox._events) <= MAX_UNSENT + MAX_PENDING + 8
        assert len(stream._mailbox) <= MAX_WAITING
        assert len(stream._tasks) == 0
        assert all(connection.queue.qsize() < 10_000 for connection in websockets_of(servers))
        assert live.post("a").status_code == 200
        revision = live.client.get(f"/v1/sessions/{client.session}").json()["revision"]
        client.connection.close()
        until(lambda: not client.is_attached())
        resumed = peer.ask("session.resume", session=client.session, resume_token=client.token)
        assert resumed["revision"] >= revision
        text = "the same again"
        peer.ask("input_text.set", session=client.session, text=text)
        check_vector(live, peer.ask("embedding.create", session=client.session), text)


def test_what_comes_unasked_is_bounded_too(servers: Servers, engine: Engine) -> None:
    """Changes over HTTP make a session's watches trigger again and again, and its socket is not read."""
    live = servers.start(engine)
    near, far = "a brook runs to the sea", "def f(x): return 5"
    watch = [{"id": f"watch {n}", "text": near, "threshold": 0.99} for n in range(64)]
    with deaf(live, watch=watch, text=far, emit={"on": "append"}) as client:
        path = f"/v1/sessions/{client.session}"
        for _ in range(25):
            for text in (near, far):
                assert live.client.put(f"{path}/text", json={"text": text}).status_code == 200
                assert live.client.post(f"{path}/embedding", json={}).status_code == 200
        assert len(client.socket._outbox._events) <= MAX_UNSENT + 64 + 8


def test_slow_reader_loses_superseded_embeddings_alone(servers: Servers, engine: Engine) -> None:
    """A client that reads nothing for a while: each of its own requests is answered, acknowledgements are cumulative,
    and of the automatic embeddings the last one comes, the ones before at most as skipped."""
    live = servers.start(engine)
    with open_peer(live, max_queue=1) as peer:
        session = peer.create(text="a", emit={"on": "append"})["session"]
        path, asked = f"/v1/sessions/{session}", [f"e{number}" for number in range(40)]
        for event_id in asked:
            peer.send("embedding.create", session=session, event_id=event_id)
        for number in range(400):
            assert live.client.post(f"{path}/append", json={"text": "a "}).json()["revision"] == number + 1
        until(lambda: live.engine.stats().waiting == 0)
        last = peer.until("embedding.done", revision=400)
        check_vector(live, last, "a" + "a " * 400)
    answered = [event["event_id"] for event in peer.seen if "event_id" in event and event["type"] == "embedding.done"]
    assert answered == asked
    acks = [event["revision"] for event in peer.seen if event["type"] == "input_text.ack"]
    assert acks == sorted(set(acks))
    automatic = [e["revision"] for e in peer.seen if e["type"] == "embedding.done" and "event_id" not in e]
    assert automatic == sorted(set(automatic))
    skipped = [event for event in peer.seen if event["type"] == "embedding.skipped"]
    for before, after in itertools.pairwise(automatic):
        told = [event for event in skipped if before < event["revision"] < after]
        assert bool(told) == (after - before > 1), "a gap is told, and only a gap"


def test_drift_is_from_what_was_sent(servers: Servers, engine: Engine) -> None:
    """Not from an embedding that waited to be sent and gave way to a newer one."""
    live = servers.start(engine)
    with socket.socket() as small:
        small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        small.connect(("127.0.0.1", live.port))
        with open_peer(live, sock=small, max_queue=1) as peer:
            session = peer.create(text="a brook", emit={"on": "append"})["session"]
            protocol, revision, left = websockets_of(servers)[0], 0, 8
            while left:
                revision += 1
                text = f"{revision} brook, " * (1 + revision % 7)
                live.client.put(f"/v1/sessions/{session}/text", json={"text": text})
                until(lambda: live.engine.stats().waiting == 0)
                left -= not protocol.writable.is_set()
                assert revision < 2000, "it holds more than it should"
            last = peer.until("embedding.done", revision=revision)
            check_vector(live, last, text)
    sent = [event for event in peer.seen if event["type"] == "embedding.done"]
    assert "drift" not in sent[0]
    for before, after in itertools.pairwise(sent):
        assert after["drift"] == pytest.approx(1 - cosine(vector(before), vector(after)), abs=1e-4)


def test_stalled_client_is_given_up(servers: Servers, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its sessions are free, and its connection is, although it still holds its own end."""
    monkeypatch.setattr(sockets_module, "STALL_SECONDS", 0.3)
    live = servers.start(engine)
    with deaf(live) as client:
        client.flood()
        until(lambda: len(sockets_of(live)) == 0)
        assert not client.is_attached()
        until(lambda: not websockets_of(servers), 5)


def test_idle_client_that_does_not_read_is_given_up(
    servers: Servers, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its farewell cannot be sent; that must not keep its place for ever."""
    monkeypatch.setattr(sockets_module, "STALL_SECONDS", 0.5)
    monkeypatch.setattr(sockets_module, "_FAREWELL_SECONDS", 0.2)
    live = servers.start(engine, Settings(socket_idle=1.0))
    with deaf(live, text="a", emit={"on": "append"}) as client:
        path, protocol = f"/v1/sessions/{client.session}", websockets_of(servers)[0]
        for number in range(1000):
            client.send("input_text.set", session=client.session, text=f"a brook {number}")
            live.client.post(f"{path}/embedding", json={})
            if not protocol.writable.is_set():
                break
        assert not protocol.writable.is_set()
        until(lambda: len(sockets_of(live)) == 0, 12)
        until(lambda: not websockets_of(servers), 5)


def test_client_that_does_not_read_holds_no_drain_up(
    servers: Servers, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets_module, "_FAREWELL_SECONDS", 0.2)
    live = servers.start(engine, Settings(drain=1.0))
    with deaf(live) as client, open_peer(live) as peer:
        session = peer.create(text="a")["session"]
        client.flood()
        _, server, thread, _ = servers._running[-1]
        server.should_exit = True
        closed = peer.closed()
        assert closed.rcvd is not None
        assert closed.rcvd.code == 1012
        assert [event["session"] for event in peer.seen if event["type"] == "session.closed"] == [session]
        until(lambda: not thread.is_alive())


CLIENT = """
import json, sys
from websockets.sync.client import connect
with connect(sys.argv[1], proxy=None, ping_interval=None, max_queue=1) as ws:
    ws.send(json.dumps({"type": "session.create", "text": "a", "emit": {"on": "append"}}))
    while True:
        event = json.loads(ws.recv())
        print(json.dumps(event), flush=True)
        if event["type"] == "embedding.done" and event["revision"] == int(sys.argv[2]):
            break
"""


def test_client_that_is_stopped_and_goes_on(servers: Servers, engine: Engine) -> None:
    """SIGSTOP, hundreds of changes, SIGCONT: it hears of the last state; others are answered meanwhile."""
    live = servers.start(engine)
    changes = 300
    url = f"ws://127.0.0.1:{live.port}/v1/embeddings"
    process = subprocess.Popen([sys.executable, "-c", CLIENT, url, str(changes)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        created = json.loads(process.stdout.readline())
        assert json.loads(process.stdout.readline())["type"] == "embedding.done"
        process.send_signal(signal.SIGSTOP)
        with open_peer(live) as peer:
            for number in range(changes):
                reply = live.client.post(f"/v1/sessions/{created['session']}/append", json={"text": "a "})
                assert reply.json()["revision"] == number + 1
            check_works(live, peer)
        process.send_signal(signal.SIGCONT)
        events = [json.loads(line) for line in process.stdout]
        assert process.wait(SECONDS) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()  # type: ignore[union-attr]
    assert {event["type"] for event in events} <= {"input_text.ack", "embedding.done", "embedding.skipped"}
    check_vector(live, events[-1], "a" + "a " * changes)
    acks = [event["revision"] for event in events if event["type"] == "input_text.ack"]
    assert acks == sorted(set(acks))
    assert acks[-1] == changes
    revisions = [event["revision"] for event in events if event["type"] == "embedding.done"]
    assert revisions == sorted(set(revisions))


# Two for one session


def test_two_sockets_fight_over_a_session(servers: Servers, engine: Engine) -> None:
    """Each resumes whenever it was ousted and sends again what it does not know to be applied: every change is applied
    at most once, and what is told of it is true."""
    live = servers.start(engine)
    with open_peer(live) as peer:
        created = peer.create()
        session, token = created["session"], created["resume_token"]
    applied: dict[int, str] = {}
    failures: list[BaseException] = []

    def fight(name: str) -> None:
        try:
            with open_peer(live) as peer:
                revision = resume(peer)
                for number in range(30):
                    piece, base = f"{name}{number} ", revision
                    while True:
                        answer = peer.ask("input_text.append", session=session, text=piece, base_revision=base)
                        if answer["type"] == "input_text.ack":
                            assert applied.setdefault(base + 1, piece) == piece
                            revision = answer["revision"]
                            break
                        if answer["error"]["code"] == "revision_conflict":
                            revision = answer["revision"]
                            break
                        assert answer["error"]["code"] == "not_found", answer
                        assert resume(peer) >= base
        except BaseException as error:
            failures.append(error)

    def resume(peer: Peer) -> int:
        answer = peer.ask("session.resume", session=session, resume_token=token)
        assert answer["type"] == "session.resumed"
        revision: int = answer["revision"]
        return revision

    threads = [threading.Thread(target=fight, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert not any(thread.is_alive() for thread in threads)
    assert sorted(applied) == list(range(1, len(applied) + 1))
    text = "".join(applied[revision] for revision in sorted(applied))
    assert {"a", "b"} == {piece[0] for piece in applied.values()}
    with open_peer(live) as peer:
        resumed = peer.ask("session.resume", session=session, resume_token=token)
        assert (resumed["revision"], resumed["offset"]) == (len(applied), len(text))
        check_vector(live, peer.ask("embedding.create", session=session), text)


# Many


@pytest.mark.parametrize("budget", [pytest.param(256 << 20, marks=pytest.mark.slow), 1 << 20], ids=["roomy", "tight"])
def test_two_hundred_sessions(
    servers: Servers,
    engine: Engine,
    prompted_checkpoint: Path,
    open_engine: Callable[..., Engine],
    budget: int,
) -> None:
    """Typed into at the same time, within the memory for KV; where it is short, what is idle is evicted to text."""
    small = open_engine(prompted_checkpoint, kv_memory=budget, max_batch_tokens=256)
    live = servers.start(small)
    words = ["brook", " sea", "小溪", " 🌊", " return x", "流向大海", ".\n", " river"]
    texts: dict[str, str] = {}
    largest = 0
    with open_peer(live) as one, open_peer(live) as other:
        peers = [one] * 100 + [other] * 100
        sessions = [
            peer.create(emit={"on": "append" if n % 4 == 0 else "manual"})["session"] for n, peer in enumerate(peers)
        ]
        final: dict[str, dict[str, Any]] = {}
        for turn in range(4):
            for number, (peer, session) in enumerate(zip(peers, sessions, strict=True)):
                piece = f"{number} {turn}" + "".join(words[(number + turn + n) % len(words)] for n in range(8))
                texts[session] = texts.get(session, "") + piece
                peer.send("input_text.append", session=session, text=piece)
                largest = max(largest, small.stats().kv_bytes)
            if turn < 3:
                for peer in (one, other):
                    peer.sync()
        for peer, session in zip(peers, sessions, strict=True):
            peer.send("embedding.create", session=session, event_id="final")
        for peer in (one, other):
            while sum(event.get("event_id") == "final" for event in peer.seen) < 100:
                peer.next(60)
                largest = max(largest, small.stats().kv_bytes)
            final |= {event["session"]: event for event in peer.seen if event.get("event_id") == "final"}
            assert not any(event["type"] == "error" and event["session"] != "none" for event in peer.seen)
    assert set(final) == set(sessions)
    expected = engine.embed([texts[session] for session in sessions])
    for session, right in zip(sessions, expected, strict=True):
        assert final[session]["revision"] == 4
        assert cosine(vector(final[session]), right) >= 0.99999
    assert 0 < largest <= budget
    assert small.stats().kv_bytes <= budget
    assert (small.stats().evictions > 0) == (budget == 1 << 20)
    small.check_integrity()


def test_memory_of_sessions_comes_back(servers: Servers, open_engine: Callable[..., Engine]) -> None:
    """A hundred sessions after another, with embeddings under way when they end, leave nothing behind."""
    engine = open_engine(max_batch_tokens=64)
    live = servers.start(engine)
    with open_peer(live) as peer:
        for number in range(100):
            session = peer.create(text=f"{number} a brook", emit={"on": "append"}, watch=[WATCH])["session"]
            peer.send("input_text.append", session=session, text=" runs")
            peer.send("embedding.create", session=session)
            if number % 2:
                peer.send("session.close", session=session)
            else:
                live.client.delete(f"/v1/sessions/{session}")
        peer.sync()
    until(lambda: engine.stats().sessions == 0)
    until(lambda: engine.stats().waiting == 0)
    assert len(sockets_of(live)._registry) == 0
    assert sockets_of(live)._registry._count == {}
    assert posted(live, "a") is not None


WATCH = {"id": "w", "text": "a brook runs", "threshold": 0.5}
