"""The proxies' files against the server's defaults: they wait longer, let as much through, and hang up first."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from streambed.settings import Settings, parse_size

DEPLOY = Path(__file__).parents[2] / "deploy"


def values(file: str, name: str, unit: str) -> list[str]:
    """What a directive says, wherever it is; comments are none."""
    lines = [line.partition("#")[0] for line in (DEPLOY / file).read_text().splitlines()]
    return [found[1] for line in lines if (found := re.search(rf"^\s*{name} (\S+?){unit};?\s*$", line))]


@pytest.mark.parametrize(
    ("file", "waiting", "idle", "body"),
    [
        ("nginx.conf", ["proxy_read_timeout", "proxy_send_timeout"], "keepalive_timeout", "client_max_body_size"),
        ("Caddyfile", ["response_header_timeout"], "keepalive", "max_size"),
    ],
)
def test_limits(file: str, waiting: list[str], idle: str, body: str) -> None:
    settings = Settings()
    for name in waiting:
        (seconds,) = values(file, name, "s")
        assert float(seconds) > settings.timeout
    (seconds,) = values(file, idle, "s")
    assert float(seconds) < settings.keep_alive, "or a request goes into a connection that the server is closing"
    (size,) = values(file, body, "")
    assert parse_size(re.sub(r"m$", "MiB", size)) == settings.max_body
