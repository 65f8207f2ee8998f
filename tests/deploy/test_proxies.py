"""nginx and Caddy, with the files of deploy/ as they are but for names, ports and paths, before a live server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import websockets
from websockets.asyncio.client import connect

from streambed import Engine
from streambed.settings import Settings
from tests.groups import program
from tests.server.conftest import Live, Servers, until

pytestmark = pytest.mark.slow
DEPLOY = Path(__file__).parents[2] / "deploy"
KEY = "a-key"
NAME = "embeddings.example.org"
Ready = Callable[[int], bool]


@dataclass
class Front:
    """A proxy in front of a server."""

    name: str
    live: Live
    port: int
    trust: ssl.SSLContext
    client: httpx.Client
    """Below /streambed/, with the key, and trusting the proxy's certificate."""

    @property
    def origin(self) -> str:
        return f"https://localhost:{self.port}"

    def metric(self, series: str) -> float:
        """From the server itself."""
        found = re.search(rf"^{re.escape(series)} (.*)$", self.live.client.get("/metrics").text, re.MULTILINE)
        return float(found[1]) if found else 0.0


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = f"{program('openssl')} req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([*command.split(), *names, "-keyout", key, "-out", cert], capture_output=True, check=True)
    return cert, key


@pytest.fixture(scope="module")
def live(shared_tiny_engine: Engine) -> Iterator[Live]:
    servers = Servers()
    yield servers.start(shared_tiny_engine, Settings(drain=5.0, trusted_proxy=("127.0.0.1",)), keys=(KEY,))
    servers.stop()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def change(text: str, *changes: tuple[str, str]) -> str:
    """Each of them must be there to be changed."""
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    return text


def nginx(folder: Path, port: int, upstream: int, cert: Path, key: Path) -> list[str]:
    config = change(
        (DEPLOY / "nginx.conf").read_text(),
        ("127.0.0.1:30000", f"127.0.0.1:{upstream}"),
        ("listen 443 ssl;", f"listen 127.0.0.1:{port} ssl;"),
        (NAME, "localhost"),
        ("/etc/ssl/certs/streambed.pem", str(cert)),
        ("/etc/ssl/private/streambed.key", str(key)),
    )
    (folder / "streambed.conf").write_text(config)
    temporary = "".join(
        f"{each}_temp_path {folder}/{each};" for each in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    # What a distribution's own nginx.conf is to files of conf.d.
    user = "user root;" if os.geteuid() == 0 else ""  # pytest's folders are its user's alone
    around = f"""
        {user} daemon off; pid {folder}/pid; error_log stderr; worker_processes 1; events {{}}
        http {{ access_log off; {temporary} include {folder}/streambed.conf; }}
    """
    (folder / "nginx.conf").write_text(around)
    return [program("nginx", "/usr/sbin/nginx"), "-p", str(folder), "-c", str(folder / "nginx.conf")]


def caddy(folder: Path, port: int, upstream: int, cert: Path, key: Path) -> list[str]:
    config = change(
        (DEPLOY / "Caddyfile").read_text(),
        ("127.0.0.1:30000", f"127.0.0.1:{upstream}"),
        (f"\n{NAME} {{", f"\nhttps://localhost:{port} {{\n\tbind 127.0.0.1\n\ttls {cert} {key}"),
    )
    (folder / "Caddyfile").write_text("{\n\tadmin off\n\tauto_https disable_redirects\n}\n" + config)
    return [program("caddy"), "run", "--adapter", "caddyfile", "--config", str(folder / "Caddyfile")]


@pytest.fixture(scope="module", params=[nginx, caddy], ids=["nginx", "caddy"])
def front(
    request: pytest.FixtureRequest,
    live: Live,
    certificate: tuple[Path, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Front]:
    folder, port = tmp_path_factory.mktemp("proxy"), free_port()
    command = request.param(folder, port, live.port, *certificate)
    environment = os.environ | {"XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "HOME": str(folder)}
    with (folder / "log").open("wb") as log:
        running = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
    trust = ssl.create_default_context(cafile=certificate[0])
    client = httpx.Client(
        base_url=f"https://localhost:{port}/streambed",
        headers={"Authorization": f"Bearer {KEY}"},
        verify=trust,
        timeout=60,
        trust_env=False,
    )

    def is_ready() -> bool:
        assert running.poll() is None, (folder / "log").read_text()
        with contextlib.suppress(httpx.TransportError):
            return client.get("/readyz").status_code == 200
        return False

    try:
        until(is_ready)
        yield Front(request.param.__name__, live, port, trust, client)
    finally:
        client.close()
        running.terminate()
        running.wait(20)


def embed(front: Front, input: Any, key: str = KEY, **fields: Any) -> httpx.Response:
    body = {"model": front.live.model, "input": input} | fields
    return front.client.post("/v1/embeddings", json=body, headers={"Authorization": f"Bearer {key}"})


def test_one_shot(front: Front) -> None:
    reply = embed(front, "a brook")
    assert reply.status_code == 200
    assert reply.json() == front.live.post("a brook").json() | {"usage": reply.json()["usage"]}
    assert embed(front, "a brook", key="wrong").status_code == 401
    assert front.client.get("/v1/models/none").json()["error"]["code"] == "not_found", "the server's own errors pass"


def test_a_stream(front: Front) -> None:
    async def type_() -> dict[str, Any]:
        url = f"wss://localhost:{front.port}/streambed/v1/embeddings"
        headers = {"Authorization": f"Bearer {KEY}"}
        async with connect(url, ssl=front.trust, additional_headers=headers, proxy=None) as socket:
            await socket.send(json.dumps({"type": "session.create"}))
            session = json.loads(await socket.recv())["session"]
            offset = 0
            for text in ("a br", "ook runs", " on"):
                change = {"type": "input_text.append", "session": session, "offset": offset, "text": text}
                await socket.send(json.dumps(change))
                offset += len(text)
            await socket.send(json.dumps({"type": "embedding.create", "session": session}))
            while (event := json.loads(await socket.recv()))["type"] != "embedding.done":
                assert event["type"] != "error", event
            return dict(event)

    event = asyncio.run(type_())
    expected = front.live.engine.embed(["a brook runs on"])[0]
    assert np.dot(event["embedding"], expected) > 0.99999


def test_a_stream_without_a_key(front: Front) -> None:
    async def status() -> int:
        try:
            await connect(f"wss://localhost:{front.port}/streambed/v1/embeddings", ssl=front.trust, proxy=None)
        except websockets.exceptions.InvalidStatus as error:
            return error.response.status_code
        return 101

    assert asyncio.run(status()) == 401


def test_the_page_and_the_reference_below_the_path(front: Front) -> None:
    """Whatever they ask for is below it too, and the page's cookie is for TLS and for this path alone."""
    with httpx.Client(verify=front.trust, trust_env=False, timeout=60) as browser:
        for start in ("/streambed", "/streambed/", "/streambed/playground"):
            reply = browser.get(front.origin + start, headers={"Accept": "text/html"}, follow_redirects=True)
            assert (reply.status_code, str(reply.url)) == (200, f"{front.origin}/streambed/playground/")
        page = reply.text
        entered = browser.post(
            f"{front.origin}/streambed/playground/key", json={"api_key": KEY}, headers={"Origin": front.origin}
        )
        assert entered.status_code < 300, entered.text
        cookie = entered.headers["set-cookie"].lower()
        assert "secure" in cookie
        linked = re.findall(r"""(?:src|href)="([^"#]+)\"""", page)
        assert linked
        for link in linked:
            url = httpx.URL(f"{front.origin}/streambed/playground/").join(link)
            if url.host == "localhost":
                assert browser.get(url).status_code == 200, link
        reference = browser.get(f"{front.origin}/streambed/docs", follow_redirects=True)
        assert reference.status_code == 200
        for link in re.findall(r"""(?:src|href|url)[=:] ?["']([^"']+)["']""", reference.text):
            url = reference.url.join(link)
            assert url.path.startswith("/streambed/"), link
            assert browser.get(url).status_code == 200, link


def test_what_a_client_says_of_itself_is_not_believed(front: Front) -> None:
    """The server trusts the proxy; so the proxy must not pass on what others put into these headers."""
    forged = {"X-Forwarded-Prefix": "/elsewhere", "X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "http"}
    reply = front.client.get("/", headers=forged | {"Accept": "text/html"})
    assert reply.is_redirect
    target = httpx.URL(front.origin).join(reply.headers["location"])
    assert (target.host, target.path) == ("localhost", "/streambed/playground/")


def test_large_bodies(front: Front) -> None:
    reply = embed(front, "word " * (2 << 20), long_input="truncate")
    assert (reply.status_code, reply.json()["usage"]["prompt_tokens"]) == (200, front.live.engine.info.max_tokens)
    refused = {"nginx": [413], "caddy": [413, 502]}[front.name]
    for size in ((16 << 20) + 1, 40 << 20):
        try:
            assert embed(front, "a" * size).status_code in refused
        except httpx.TransportError:  # the proxy may hang up while the rest is still sent
            continue
    assert embed(front, "a brook").status_code == 200


def test_a_client_that_leaves(front: Front) -> None:
    """The server hears of it, and computes no further."""
    series = 'streambed_requests_total{lane="bulk",outcome="cancelled",route="/v1/embeddings"}'
    before = front.metric(series)
    texts = [f"{number} " + "word " * 400 for number in range(1000)]
    body = json.dumps({"model": front.live.model, "input": texts, "priority": "bulk"}).encode()
    with (
        socket.create_connection(("localhost", front.port)) as plain,
        front.trust.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        head = (
            f"POST /streambed/v1/embeddings HTTP/1.1\r\nHost: localhost:{front.port}\r\nAuthorization: Bearer {KEY}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        connection.sendall(head.encode() + body)
        until(lambda: front.live.client.get("/info").json()["stats"]["waiting"] > 0)
    until(lambda: front.metric(series) > before)
    until(lambda: front.live.client.get("/info").json()["stats"]["waiting"] == 0)
