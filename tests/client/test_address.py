"""How a server is reached: certificates, keys, and the environment's proxies."""

from __future__ import annotations

import re
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from streambed import Client, ConnectionLost, SettingsError
from streambed.client.address import Address, is_loopback
from tests.client.conftest import Certificates, ServeTLS
from tests.server.conftest import Live

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "ws_proxy", "wss_proxy", "socks_proxy")


def use(client: Client) -> None:
    assert client.embed("a").shape == (1, 64)
    with client.open_stream("a") as stream:
        assert stream.embedding().offset == 1


@pytest.mark.parametrize("verify", ["file", "path", "folder", "context", False])
def test_a_servers_certificate(serve_tls: ServeTLS, certificates: Certificates, tmp_path: Path, verify: Any) -> None:
    url = serve_tls()
    command = ["openssl", "x509", "-noout", "-hash", "-in", certificates.cert]
    name = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    (tmp_path / f"{name}.0").write_bytes(certificates.cert.read_bytes())  # where OpenSSL looks in a folder
    ways = {
        "file": str(certificates.cert),
        "path": certificates.cert,
        "folder": tmp_path,
        "context": ssl.create_default_context(cafile=certificates.cert),
    }
    with Client(url, verify=ways.get(verify, verify)) as client:
        use(client)


def test_a_certificate_that_nobody_trusts(serve_tls: ServeTLS) -> None:
    with Client(serve_tls(), reconnect=600) as client:
        with pytest.raises(ConnectionLost, match="certificate verify failed"):
            client.embed("a")
        stream = client.open_stream("a")
        with pytest.raises(ConnectionLost, match="certificate verify failed"):  # at once: it stays so
            stream.embedding()
        assert stream.connections == 0


def test_a_clients_own_certificate(serve_tls: ServeTLS, certificates: Certificates, tmp_path: Path) -> None:
    url, trusted = serve_tls(ask=True), certificates.cert
    both = tmp_path / "both.pem"
    both.write_bytes(certificates.cert.read_bytes() + certificates.key.read_bytes())
    for cert in (both, (certificates.cert, certificates.key), (certificates.cert, certificates.locked_key, "secret")):
        with Client(url, verify=trusted, cert=cert) as client:
            use(client)
    with Client(url, verify=trusted, reconnect=0) as client:
        with pytest.raises(ConnectionLost):
            client.embed("a")
        with client.open_stream("a") as stream, pytest.raises(ConnectionLost):
            stream.embedding()


def test_wrong_options(certificates: Certificates, tmp_path: Path) -> None:
    nothing = tmp_path / "nothing.pem"
    nothing.write_text("no certificate")
    for options, named in (
        ({"verify": "nowhere.pem"}, "verify is 'nowhere.pem'; "),
        ({"verify": nothing}, "verify is "),
        ({"verify": None}, "verify is None; "),
        ({"cert": "nowhere.pem"}, "cert cannot be used; "),
        ({"cert": (certificates.cert, certificates.locked_key)}, "cert cannot be used; "),  # and asks at no terminal
        ({"cert": (certificates.cert, certificates.locked_key, "wrong")}, "cert cannot be used; "),
        ({"cert": ()}, "cert cannot be used; "),
        ({"cert": 3}, "cert cannot be used; "),
        ({"api_key": "ключ"}, "api_key is no string"),
        ({"api_key": "a\nb"}, "api_key is no string"),
        ({"api_key": 3}, "api_key is no string"),
        ({"model": 3}, "model is int"),
        ({"timeout": 0}, "timeout is 0; a positive number of seconds"),
        ({"timeout": "30"}, "timeout is '30'"),
        ({"timeout": None}, "timeout is None"),
        ({"reconnect": -1}, "reconnect is -1; seconds, 0 or more"),
    ):
        for url in ("https://127.0.0.1:1", "http://127.0.0.1:1"):
            with pytest.raises(SettingsError, match=f"^{re.escape(named)}") as caught:
                Client(url, **options)  # type: ignore[arg-type]
            assert "\n" not in str(caught.value)


# Proxies


@pytest.mark.parametrize(
    ("host", "here"),
    [
        ("127.0.0.1", True), ("127.8.9.10", True), ("::1", True), ("::ffff:127.0.0.1", True), ("localhost", True),
        ("LOCALHOST.", True), ("a.localhost", True), ("0.0.0.0", True), ("::", True),
        ("128.0.0.1", False), ("10.0.0.1", False), ("example.org", False), ("localhost.example.org", False),
        ("127.0.0.1.example.org", False), ("::2", False),
    ],
)  # fmt: skip
def test_what_is_this_machine(host: str, here: bool) -> None:
    assert is_loopback(host) is here


@pytest.fixture
def environment_proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[bytes]]]:
    """A proxy that the environment names for everything. Gives the first lines of what it was asked."""
    asked: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))
    ended = threading.Event()

    def answer() -> None:
        while not ended.is_set():
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(10)
                if line := connection.recv(65536).split(b"\r\n")[0]:
                    asked.append(line)
                    connection.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    for name in PROXIES:
        monkeypatch.setenv(name, url)
        monkeypatch.setenv(name.upper(), url)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    yield lambda: asked
    ended.set()
    socket.create_connection(listener.getsockname()).close()
    thread.join(20)
    listener.close()


def test_no_proxy_stands_before_this_machine(live: Live, environment_proxy: Callable[[], list[bytes]]) -> None:
    for host in ("127.0.0.1", "localhost"):
        with Client(f"http://{host}:{live.port}") as client:
            use(client)
    assert environment_proxy() == []


def test_for_others_the_environments_proxies_are_used(environment_proxy: Callable[[], list[bytes]]) -> None:
    with Client("http://a.invalid", reconnect=0) as client:
        with pytest.raises(Exception, match="502"):
            client.embed("a")
        with client.open_stream("a") as stream, pytest.raises(ConnectionLost):
            stream.embedding()
    assert environment_proxy()[0] == b"GET http://a.invalid/v1/models HTTP/1.1"
    assert environment_proxy()[1].startswith(b"CONNECT a.invalid:80 ")


def test_a_proxy_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.setenv(name, "gopher://127.0.0.1:1")
    with pytest.raises(SettingsError, match="the environment's proxy"):
        Address("http://a.invalid").open_http(1.0)
    with Client("http://127.0.0.1:1"):  # has none
        pass
