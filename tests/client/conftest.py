"""Fixtures for the clients: real servers, and a network that can be made to fail."""

from __future__ import annotations

import contextlib
import random
import shutil
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import uvicorn

from streambed import Engine
from streambed.server.listener import listen
from tests.server.conftest import Live, engine, live, prompted_checkpoint, serve, session_live, until

__all__ = ["engine", "live", "prompted_checkpoint", "serve", "session_live"]


def agree(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether vectors are the same up to rounding."""
    assert one.shape == other.shape
    assert one.dtype == other.dtype == np.float32
    return bool((one * other).sum(-1).min() >= 0.99999)


def sever(connection: socket.socket) -> None:
    """Cuts a connection without a word. It is still to be closed, once no thread can be about to read from its number."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def reset(connection: socket.socket) -> None:
    """Cuts a connection that no thread reads from."""
    sever(connection)
    connection.close()


class Proxy:
    """Stands between client and server. `budget` says how many bytes each connection may carry before it is cut."""

    def __init__(self, port: int) -> None:
        self.target = port
        self.refusing = False
        self.budget: Callable[[], int | None] = lambda: None
        self.delay = 0.0
        self.accepted = 0
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.05)
        self._ended = False
        self._start(self._accept)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def cut(self) -> None:
        """Ends all connections that there are."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                sever(end)

    def close(self) -> None:
        self._ended = True
        self._threads[0].join(20)  # nothing is accepted any more
        self.cut()
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive()
        self._listener.close()

    def _start(self, work: Callable[..., None], *values: object) -> None:
        thread = threading.Thread(target=work, args=values, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._ended:
            try:
                near, _ = self._listener.accept()
            except TimeoutError:
                continue
            self.accepted += 1
            if self.refusing:
                reset(near)
                continue
            try:
                far = socket.create_connection(("127.0.0.1", self.target), timeout=20)
            except OSError:
                reset(near)
                continue
            near.settimeout(60)
            far.settimeout(60)
            pair, left = (near, far), [self.budget()]
            carrying = threading.Semaphore(1)  # which the second of the two to end finds taken
            with self._lock:
                self._pairs.append(pair)
            self._start(self._carry, near, far, left, carrying)
            self._start(self._carry, far, near, left, carrying)

    def _carry(
        self, source: socket.socket, sink: socket.socket, left: list[int | None], carrying: threading.Semaphore
    ) -> None:
        try:
            while data := source.recv(65536):
                if self.delay:
                    time.sleep(random.uniform(0, self.delay))
                if left[0] is not None:
                    data, left[0] = data[: left[0]], left[0] - len(data)
                sink.sendall(data)
                if left[0] is not None and left[0] <= 0:
                    break
        except OSError:
            pass
        last = not carrying.acquire(blocking=False)
        for end in (source, sink):
            sever(end)
            if last:
                end.close()


@pytest.fixture
def proxy() -> Iterator[Callable[[int], Proxy]]:
    """Puts a proxy before a port."""
    proxies: list[Proxy] = []

    def start(port: int) -> Proxy:
        proxies.append(Proxy(port))
        return proxies[-1]

    yield start
    for each in proxies:
        each.close()


@pytest.fixture
def nowhere() -> Iterator[str]:
    """The URL of a port where nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture
def silent() -> Iterator[str]:
    """The URL of a server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture(scope="session")
def whole(engine: Engine) -> Callable[..., np.ndarray]:
    """The vector that a text has as a whole, to compare with."""

    def embed(text: str, **options: object) -> np.ndarray:
        return engine.embed([text], **options)[0]  # type: ignore[arg-type]

    return embed


@dataclass(frozen=True)
class Certificates:
    """Files of a certificate that signs itself, for a server on the loopback and for a client alike."""

    cert: Path
    key: Path
    locked_key: Path
    """The same key, under the password `secret`."""


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here to make a certificate with")
    folder = tmp_path_factory.mktemp("certificates")
    files = Certificates(folder / "cert.pem", folder / "key.pem", folder / "locked.pem")
    make = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost "
        "-addext subjectAltName=IP:127.0.0.1,DNS:localhost"
    )
    lock = "openssl rsa -aes128 -passout pass:secret"
    for command in (
        [*make.split(), "-keyout", files.key, "-out", files.cert],
        [*lock.split(), "-in", files.key, "-out", files.locked_key],
    ):
        subprocess.run(command, capture_output=True, check=True)
    return files


ServeTLS = Callable[..., str]


@pytest.fixture
def serve_tls(live: Live, certificates: Certificates) -> Iterator[ServeTLS]:
    """The same application behind TLS; gives its URL. `ask=True` takes only clients with a certificate of their own."""
    running: list[tuple[uvicorn.Server, threading.Thread]] = []

    def start(ask: bool = False) -> str:
        listener = listen("127.0.0.1", 0)
        config = uvicorn.Config(
            live.app,
            lifespan="off",
            log_config=None,
            ssl_certfile=certificates.cert,
            ssl_keyfile=certificates.key,
            ssl_ca_certs=str(certificates.cert),
            ssl_cert_reqs=ssl.CERT_REQUIRED if ask else ssl.CERT_NONE,
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        running.append((server, thread))
        until(lambda: server.started)
        return f"https://127.0.0.1:{listener.getsockname()[1]}"

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()
