"""Fixtures for the server: the application behind a real socket."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
import uvicorn
from starlette.types import ASGIApp

from streambed import Engine
from streambed.server.app import create_app
from streambed.server.keyring import Keyring
from streambed.server.listener import Listener, listen
from streambed.settings import Settings
from streambed.streams.store.sqlite import SQLiteStore
from streambed.vectors.reducers import Reducer
from tests.checkpoints import load_engine, make_checkpoint

KEYS = ("first-key", "second-key")
PROMPTS = {"query": "Question: ", "code": "Code: "}


def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Waits for a condition; the limit is there to end a hanging test, not to measure."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.002)


def read_all(connection: socket.socket) -> bytes:
    """Reads until the server closes."""
    parts = []
    with contextlib.suppress(ConnectionResetError):  # closed with bytes unread; what it had answered has come
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


class _Errors(logging.Handler):
    """Keeps what is logged as an error: a server that answers well but logs a traceback has a bug, too."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@dataclass
class Live:
    """A running server and a client for it."""

    app: ASGIApp
    engine: Engine
    settings: Settings
    port: int
    client: httpx.Client
    errors: list[logging.LogRecord]
    """Errors logged so far; a test that causes some on purpose clears this, or the fixture fails."""
    names: tuple[str, ...] = field(default=())

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def model(self) -> str:
        return self.names[0]

    def post(self, input: Any, /, headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
        """`POST /v1/embeddings` of well-formed JSON."""
        return self.client.post(
            "/v1/embeddings", json={"model": self.model, "input": input} | fields, headers=headers or {}
        )

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def raw(self, request: bytes) -> bytes:
        """Sends bytes as they are and reads until the server closes."""
        with self.connect() as connection:
            connection.sendall(request)
            return read_all(connection)


Kind = TypeVar("Kind")


def guard_of(live: Live, layer: type[Kind]) -> Kind:
    """A layer of the guard, or the application inside, through whatever stands around it."""
    app: Any = live.app
    while not isinstance(app, layer):
        app = getattr(app, "_app", None) or app.app
    return app


def left_of(server: uvicorn.Server) -> list[str]:
    """What a server that should end still has: tasks, and connections with what they do."""
    state = server.server_state
    cycles = [(each, getattr(each, "cycle", None)) for each in state.connections]
    return [repr(task) for task in state.tasks] + [
        f"{type(each).__name__} closing={each.transport.is_closing()} {cycle and vars(cycle)}" for each, cycle in cycles
    ]


class Servers:
    """Starts servers and ends them."""

    def __init__(self) -> None:
        self._running: list[tuple[Live, uvicorn.Server, threading.Thread, _Errors]] = []

    def start(
        self,
        engine: Engine,
        settings: Settings | None = None,
        keys: tuple[str, ...] = (),
        reducers: Mapping[str, Reducer] | None = None,
    ) -> Live:
        settings = settings or Settings(drain=5.0)
        listener = listen("127.0.0.1", 0)
        port = listener.getsockname()[1]
        journal = SQLiteStore(settings.journal, settings.journal_sync) if settings.journal else None
        app = create_app(engine, settings, Keyring(settings, keys), journal, reducers)
        server = Listener(app, settings)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        until(lambda: server.started or not thread.is_alive())
        headers = {"Authorization": f"Bearer {keys[0]}"} if keys else {}
        client = httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=60, trust_env=False)
        errors = _Errors()
        logging.getLogger().addHandler(errors)
        names = settings.served_model_name or (engine.info.model,)
        live = Live(app, engine, settings, port, client, errors.records, names)
        self._running.append((live, server, thread, errors))
        return live

    def stop(self) -> None:
        while self._running:
            live, server, thread, errors = self._running.pop()
            live.client.close()
            server.should_exit = True
            thread.join(20)
            logging.getLogger().removeHandler(errors)
            assert not thread.is_alive(), f"the server ends when it is told to; it waits for {left_of(server)}"
            if live.engine.ready:
                live.engine.check_integrity()
            assert [record.getMessage() for record in errors.records] == []


@pytest.fixture(scope="session")
def prompted_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint with prompts of its own."""
    return make_checkpoint(tmp_path_factory.mktemp("server") / "tiny", prompts=PROMPTS)


@pytest.fixture(scope="session")
def engine(prompted_checkpoint: Path) -> Iterator[Engine]:
    """A float32 engine for all servers of the session; a step of 48 rows makes chunks of longer texts."""
    with load_engine(prompted_checkpoint, max_batch_tokens=48) as engine:
        yield engine


Serve = Callable[..., Live]


@pytest.fixture
def serve(engine: Engine) -> Iterator[Serve]:
    """Starts servers on free ports of the loopback: `serve(Settings(...), keys=(...), engine=..., reducers={...})`."""
    servers = Servers()

    def start(
        settings: Settings | None = None,
        *,
        keys: tuple[str, ...] = (),
        engine: Engine = engine,
        reducers: Mapping[str, Reducer] | None = None,
    ) -> Live:
        return servers.start(engine, settings, keys, reducers)

    yield start
    servers.stop()


@pytest.fixture(scope="session")
def session_live(engine: Engine) -> Iterator[Live]:
    servers = Servers()
    live = servers.start(engine, Settings(max_body=1 << 20))
    yield live
    live.errors.clear()  # logs are the process's: other tests cause errors in other servers on purpose
    servers.stop()


@pytest.fixture
def live(session_live: Live) -> Iterator[Live]:
    """A server with default settings (and bodies of up to 1 MiB), shared by many tests."""
    session_live.errors.clear()
    yield session_live
    session_live.engine.check_integrity()
    assert [record.getMessage() for record in session_live.errors] == []


@pytest.fixture(scope="module")
def keyed(engine: Engine) -> Iterator[Live]:
    """A server that asks for one of KEYS; the client of the fixture sends the first."""
    servers = Servers()
    yield servers.start(engine, keys=KEYS)
    servers.stop()
