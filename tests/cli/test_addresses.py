"""What is printed can be opened."""

from __future__ import annotations

import socket

import pytest

from streambed.cli import addresses
from streambed.cli.addresses import urls


@pytest.mark.parametrize(
    ("host", "here"),
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("192.0.2.7", "http://192.0.2.7:80"),
        ("::1", "http://[::1]:80"),
        ("fe80::1%eth0", "http://[fe80::1%eth0]:80"),
    ],
)
def test_one_address(host: str, here: str) -> None:
    assert urls("http", host, 80) == (here, None)


@pytest.mark.parametrize(("host", "here"), [("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("0:0:0:0:0:0:0:0", "[::1]")])
def test_every_address(host: str, here: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first, other = urls("https", host, 443)
    assert first == f"https://{here}:443"
    assert other is not None
    assert not any(each in other for each in ("0.0.0.0", "[::]"))

    def unreachable(*_: object) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr(addresses.socket, "socket", unreachable)
    assert urls("http", host, 80)[1] == f"http://{socket.gethostname()}:80"
