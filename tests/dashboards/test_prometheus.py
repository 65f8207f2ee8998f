"""The dashboard and the alerts in a real Prometheus, which scrapes a real server under load."""

from __future__ import annotations

import contextlib
import itertools
import math
import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from streambed import Client, Engine
from streambed.settings import Settings
from tests.dashboards.test_dashboards import DASHBOARDS, expressions
from tests.groups import program
from tests.server.conftest import Live, Servers, until
from tests.server.test_process import Process

pytestmark = pytest.mark.slow

SECONDS = 60.0
"""How long something may take to show in Prometheus before a test calls it missing."""
WINDOW = "15s"
WITHOUT_A_GPU = {"GPU"}
"""Panels that are empty on a machine without one."""
SENTENCE = "The brook runs down to the sea, and it does not stop. "


@pytest.mark.parametrize(
    "command", ["check rules alerts.yml", "check config prometheus.yml", "test rules alerts_test.yml"]
)
def test_promtool(command: str) -> None:
    done = subprocess.run([program("promtool"), *command.split()], cwd=DASHBOARDS, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


class Prometheus:
    """Scrapes one server each second, with our rules made impatient."""

    def __init__(self, directory: Path, target: str) -> None:
        rules = yaml.safe_load((DASHBOARDS / "alerts.yml").read_text())
        for rule in rules["groups"][0]["rules"]:
            rule["for"] = "3s"
            rule["expr"] = re.sub(r"\[\d+m\]", "[10s]", rule["expr"]).replace(
                "stalled_seconds > 30", "stalled_seconds > 3"
            )
        (directory / "alerts.yml").write_text(yaml.safe_dump(rules))
        config = yaml.safe_load((DASHBOARDS / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        config["scrape_configs"][0]["static_configs"][0]["targets"] = [target]
        (directory / "prometheus.yml").write_text(yaml.safe_dump(config))
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self._log = (directory / "log").open("w")
        self._process = subprocess.Popen(
            [
                program("prometheus"),
                f"--config.file={directory / 'prometheus.yml'}",
                f"--storage.tsdb.path={directory / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
                "--log.level=warn",
            ],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10, trust_env=False)
        until(self._ready, SECONDS)

    def _ready(self) -> bool:
        assert self._process.poll() is None
        with contextlib.suppress(httpx.TransportError):
            return self._client.get("/-/ready").status_code == 200
        return False

    def query(self, expression: str) -> list[float]:
        """The values of all series that an expression gives now."""
        reply = self._client.post("/api/v1/query", data={"query": expression}).json()
        assert reply["status"] == "success", f"{expression}: {reply['error']}"
        assert reply["data"]["resultType"] == "vector"
        return [float(series["value"][1]) for series in reply["data"]["result"]]

    def firing(self, name: str) -> bool:
        alerts: list[dict[str, Any]] = self._client.get("/api/v1/alerts").json()["data"]["alerts"]
        return any(alert["labels"]["alertname"] == name and alert["state"] == "firing" for alert in alerts)

    def close(self) -> None:
        self._client.close()
        self._process.terminate()
        self._process.wait(SECONDS)
        self._log.close()


class Load:
    """Work of all kinds, over and over, until it is told to stop."""

    def __init__(self, server: Process) -> None:
        self._url = str(server.client.base_url)
        self._over = threading.Event()
        self._failed: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._repeat, args=(work,)) for work in (self._stream, self._requests, self._bad)
        ]
        for thread in self._threads:
            thread.start()

    def _repeat(self, work: Callable[[], Iterator[None]]) -> None:
        try:
            for _ in work():
                if self._over.wait(0.05):
                    return
        except BaseException as error:
            self._failed.append(error)

    def _stream(self) -> Iterator[None]:
        with Client(self._url) as client:
            for _ in itertools.count():
                with client.open_stream(emit="append") as stream:
                    for word in (SENTENCE * 3).split():
                        stream.append(f"{word} ")
                        yield
                    stream.embedding()

    def _requests(self) -> Iterator[None]:
        with httpx.Client(base_url=self._url, timeout=SECONDS, trust_env=False) as client:
            for n in itertools.count():
                for priority in ("query", "bulk"):  # two texts of unlike length, so that a step has padding
                    texts = [f"{n} {SENTENCE}", f"{n} {SENTENCE * 3}"]
                    client.post("/v1/embeddings", json={"model": "builtin", "input": texts, "priority": priority})
                    yield
                client.post("/v1/embeddings/prefixes", json={"model": "builtin", "input": SENTENCE * 3})
                client.post("/v1/embeddings", json={"model": "builtin", "input": SENTENCE * (1 + n % 50)})
                session = client.post("/v1/sessions", json={}).json()["session"]
                client.post(f"/v1/sessions/{session}/append", json={"text": "a"})
                client.post(f"/v1/sessions/{session}/embedding", json={})
                client.delete(f"/v1/sessions/{session}")
                yield

    def _bad(self) -> Iterator[None]:
        """What clients do wrong, in requests and in events."""
        with httpx.Client(base_url=self._url, timeout=SECONDS, trust_env=False) as client:
            session = client.post("/v1/sessions", json={}).json()["session"]
            while True:
                assert client.post("/v1/embeddings", json={"model": "another", "input": "a"}).status_code == 404
                refused = client.post(f"/v1/sessions/{session}/append", json={"text": "a", "offset": 9})
                assert refused.status_code == 409
                yield

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(SECONDS)
            assert not thread.is_alive()
        assert self._failed == []


def serve(directory: Path, metrics_port: int | str = 0) -> Process:
    process = Process(
        *("--port", "0", "--metrics-port", str(metrics_port), "--kv-memory", "64MiB"),
        *("--journal", directory / "journal", "--journal-sync", "normal"),
    )
    try:
        return process.ready()
    except BaseException:
        process.close()
        raise


def metrics_port(server: Process) -> str:
    match = re.search(r"Metrics: http://127\.0\.0\.1:(\d+)/metrics", server.output)
    assert match, server.output
    return match[1]


def plain(expression: str) -> str:
    """An expression of the dashboard without its variables."""
    return expression.replace("$__rate_interval", WINDOW).replace("$job", ".*").replace("$instance", ".*")


def test_dashboard_and_alerts(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        server = serve(tmp_path)
        stack.callback(server.close)
        port = metrics_port(server)
        prometheus = Prometheus(tmp_path, f"127.0.0.1:{port}")
        stack.callback(prometheus.close)

        load = Load(server)
        try:
            assert {where for where, _ in expressions()} >= WITHOUT_A_GPU
            wanted = [(where, plain(expression)) for where, expression in expressions() if where not in WITHOUT_A_GPU]
            end = time.monotonic() + SECONDS
            while wanted and time.monotonic() < end:
                time.sleep(1.0)
                wanted = [
                    (where, expression)
                    for where, expression in wanted
                    if not any(map(math.isfinite, prometheus.query(expression)))
                ]
            assert wanted == []
            for where, expression in expressions():
                values = [value for value in prometheus.query(plain(expression)) if math.isfinite(value)]
                assert all(value >= 0 for value in values), where
                assert bool(values) != (where in WITHOUT_A_GPU), where
            quiet = ("Down", "NotReady", "NoProgress", "ErrorRate", "QueueAge", "JournalRefusing")
            assert [name for name in quiet if prometheus.firing(f"Streambed{name}")] == []
        finally:
            load.stop()

        # Requests that cannot be answered in time are our fault, and soon forgotten.
        def late() -> bool:
            body = {"model": "builtin", "input": SENTENCE * 200, "timeout_ms": 1}
            assert server.client.post("/v1/embeddings", json=body).status_code == 504
            time.sleep(0.05)
            return prometheus.firing("StreambedErrorRate")

        until(late, SECONDS)
        until(lambda: not prometheus.firing("StreambedErrorRate"), SECONDS)

        server.process.kill()
        until(lambda: prometheus.firing("StreambedDown"), SECONDS)
        again = serve(tmp_path, port)
        stack.callback(again.close)
        until(lambda: not prometheus.firing("StreambedDown"), SECONDS)
        until(lambda: prometheus.query("sum(streambed_ready)") == [1.0], SECONDS)


# Causes that are made inside the process


@contextlib.contextmanager
def watched(directory: Path, settings: Settings | None = None, **more: Any) -> Iterator[tuple[Live, Prometheus]]:
    """A server in this process, and a Prometheus that scrapes it."""
    with contextlib.ExitStack() as stack:
        engine = stack.enter_context(Engine.load("builtin", **more))
        servers = Servers()
        stack.callback(servers.stop)
        live = servers.start(engine, settings or Settings(drain=5.0))
        prometheus = Prometheus(directory, f"127.0.0.1:{live.port}")
        stack.callback(prometheus.close)
        until(lambda: prometheus.query("streambed_ready") == [1.0], SECONDS)
        yield live, prometheus


def test_a_frozen_engine(tmp_path: Path) -> None:
    with watched(tmp_path) as (live, prometheus):
        free = threading.Event()
        holder = threading.Thread(target=lambda: live.engine.compute._call(lambda: bool(free.wait(SECONDS)) and None))
        holder.start()
        asker = threading.Thread(target=lambda: live.post("a text that waits"))
        asker.start()
        try:
            until(lambda: prometheus.firing("StreambedNoProgress"), SECONDS)
        finally:
            free.set()
            asker.join()
            holder.join()
        until(lambda: not prometheus.firing("StreambedNoProgress"), SECONDS)


def test_overload(tmp_path: Path) -> None:
    with watched(tmp_path, Settings(drain=5.0, max_requests=1)) as (live, prometheus):
        head = b"POST /v1/embeddings HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"

        def refused() -> bool:
            with live.connect() as connection:  # its body does not end, so it stays in progress
                connection.sendall(head + b"Content-Length: 9\r\n\r\n{")
                time.sleep(0.3)  # until it has the one place that there is
                for _ in range(20):
                    assert live.post("a").status_code == 429
            return prometheus.firing("StreambedErrorRate")

        until(refused, SECONDS)
        until(lambda: not prometheus.firing("StreambedErrorRate"), SECONDS)
        assert live.post("a").status_code == 200


def test_a_full_budget(tmp_path: Path) -> None:
    with watched(tmp_path, kv_memory=2 << 20) as (live, prometheus), contextlib.ExitStack() as stack:
        # A page of KV each, so that the budget is filled to the last one of them.
        sessions = [stack.enter_context(live.engine.open_session(f"session {number}")) for number in range(60)]

        def crowded() -> bool:
            for session in sessions:
                session.replace(0, 1, "s")
                session.embedding()
            return prometheus.firing("StreambedMemoryNearBudget")

        until(crowded, SECONDS)
        until(lambda: not prometheus.firing("StreambedMemoryNearBudget"), SECONDS)
