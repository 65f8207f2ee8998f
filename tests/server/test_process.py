"""`streambed serve` as a process: what it prints, when it refuses, how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import re
import resource
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from streambed.server.listener import listen
from tests.groups import program
from tests.server.conftest import until

SECONDS = 60
"""How long a start or an end may take before a test calls it a hang."""


class Process:
    """A running command; its output is collected line by line."""

    def __init__(
        self, *arguments: str | Path, descriptors: int | None = None, module: str = "streambed", **environment: str
    ) -> None:
        """descriptors: how many the process may have. module: whose command line it is."""

        def bound() -> None:
            if descriptors is not None:
                resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))

        inherited = {name: value for name, value in os.environ.items() if not name.startswith("STREAMBED_")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, "serve", *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=inherited | environment,
            preexec_fn=bound,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._client: httpx.Client | None = None

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    def ready(self) -> Process:
        """Waits until it serves."""
        until(lambda: "Application startup complete" in self.output or self.process.poll() is not None, SECONDS)
        assert self.process.poll() is None, self.output
        return self

    @property
    def port(self) -> int:
        match = re.search(r"Address: https?://\S*:(\d+)", self.output)
        assert match, self.output
        return int(match[1])

    @property
    def client(self) -> httpx.Client:
        if self._client is None:
            self._client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=SECONDS, trust_env=False)
        return self._client

    def post(self, model: str, input: Any = "a", **more: Any) -> httpx.Response:
        return self.client.post("/v1/embeddings", json={"model": model, "input": input}, **more)

    def end(self, how: signal.Signals | None = None) -> int:
        """Waits for the end, after a signal if one is given. Returns the exit code."""
        if how is not None:
            self.process.send_signal(how)
        code = self.process.wait(SECONDS)
        self._reader.join(SECONDS)
        return code

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(SECONDS)
        self._reader.join(SECONDS)
        assert self.process.stdout is not None
        self.process.stdout.close()


Run = Callable[..., Process]


@pytest.fixture
def run() -> Iterator[Run]:
    processes: list[Process] = []

    def start(*arguments: str | Path, **environment: str) -> Process:
        processes.append(Process(*arguments, **environment))
        return processes[-1]

    yield start
    for process in processes:
        process.close()


def refused(process: Process) -> str:
    """The one line of a start that failed; log lines that came before it are no part of it."""
    assert process.end() == 1, process.output
    assert "Traceback" not in process.output
    said = [line for line in process.lines if not line.startswith("INFO ")]
    assert len(said) == 1, process.output
    assert said[0].startswith("streambed: ")
    return said[0].removeprefix("streambed: ")


# A life


def test_from_start_to_end(run: Run, tiny_checkpoint: Path) -> None:
    """The flags of `sglang serve` start it, it says what it serves, and SIGTERM lets a request in progress end well."""
    process = run(
        *("--model-path", tiny_checkpoint, "--is-embedding", "--served-model-name", "a", "--served-model-name", "b"),
        *("--dtype", "float32", "--max-batch-tokens", "1", "--kv-memory", "64MiB", "--threads", "1"),
        STREAMBED_PORT="0",
    ).ready()
    for said in ("Loading", "Model: tiny, served as a, b", "float32 on cpu", "steps of 1 rows", "64 dimensions"):
        assert said in process.output
    assert "0.06 GiB" in process.output
    assert re.search(r"fingerprint [0-9a-f]{32}\b", process.output)
    assert f"Address: http://127.0.0.1:{process.port} (no key needed)" in process.output
    assert process.port != 30000, "STREAMBED_PORT is honoured"

    assert [model["id"] for model in process.client.get("/v1/models").json()["data"]] == ["a", "b"]
    assert [process.post(name).status_code for name in ("a", "b", "tiny")] == [200, 200, 404]

    replies: list[httpx.Response] = []
    texts = ["a request in progress " * 10] * 100
    request = threading.Thread(target=lambda: replies.append(process.post("a", texts)))
    with httpx.Client(base_url=process.client.base_url, trust_env=False) as other:
        request.start()
        until(lambda: other.get("/info").json()["stats"]["waiting"] > 0)
    assert process.end(signal.SIGTERM) == 0
    request.join()
    assert replies[0].status_code == 200
    assert len(replies[0].json()["data"]) == 100
    assert "Traceback" not in process.output
    assert "request in progress" not in process.output, "text is never logged"


@pytest.mark.slow
def test_kill_leaves_nothing_behind(run: Run, tiny_checkpoint: Path) -> None:
    """After kill -9 the same command starts on the same port at once; SIGINT ends it as SIGTERM does."""
    files = {path: path.stat().st_mtime_ns for path in tiny_checkpoint.rglob("*")}
    first = run("--model", tiny_checkpoint, "--port", "0").ready()
    assert first.post("tiny").status_code == 200
    assert first.end(signal.SIGKILL) == -signal.SIGKILL
    second = run(
        *("--model", tiny_checkpoint, "--port", str(first.port)), STREAMBED_API_KEY="secret-one secret-two"
    ).ready()
    assert second.port == first.port
    for key, status in (("secret-one", 200), ("secret-two", 200), ("other", 401)):
        assert second.post("tiny", headers={"Authorization": f"Bearer {key}"}).status_code == status
    assert second.end(signal.SIGINT) == 0
    assert "Traceback" not in second.output
    assert "secret" not in second.output, "keys are never logged, but for one that was made"
    assert {path: path.stat().st_mtime_ns for path in tiny_checkpoint.rglob("*")} == files, "only read"


def test_open_address_has_a_key(run: Run, tiny_checkpoint: Path) -> None:
    process = run("--model", tiny_checkpoint, "--host", "0.0.0.0", "--port", "0").ready()
    match = re.search(r"must carry this key: (\S+)", process.output)
    assert match
    assert "(no key needed)" not in process.output
    assert "0.0.0.0" not in re.sub(r"socket \(.*", "", process.output), "an address that can be opened is printed"
    assert f"Address: http://127.0.0.1:{process.port}" in process.output
    assert re.search(rf"every address of this machine; others reach it at http://\S+:{process.port}\b", process.output)
    for path in ("/info", "/v1/models", "/openapi.json"):
        assert process.client.get(path).status_code == 401
    assert process.post("tiny").status_code == 401
    assert process.client.get("/livez").status_code == 200
    headers = {"Authorization": f"Bearer {match[1]}"}
    assert process.post("tiny", headers=headers).status_code == 200
    assert len(match[1]) >= 32
    # A second process has a key of its own; and a signal while it still loads is an orderly end, too.
    other = run("--model", tiny_checkpoint, "--host", "0.0.0.0", "--port", "0")
    until(lambda: "must carry this key" in other.output, SECONDS)
    assert match[1] not in other.output
    assert other.end(signal.SIGTERM) == 0
    assert "Traceback" not in other.output


@pytest.mark.slow
def test_a_key_that_was_made_outlives_the_process(run: Run, tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Or the sessions of the journal, which belong to it, would be there for nobody."""
    journal = tmp_path / "journal"
    arguments = (tiny_checkpoint, "--host", "0.0.0.0", "--port", "0", "--journal", journal, "--threads", "1")
    first = run(*arguments).ready()
    match = re.search(r"must carry this key: (\S+) \(kept in (\S+),", first.output)
    assert match
    assert Path(match[2]) == tmp_path / "journal.key"
    assert (tmp_path / "journal.key").stat().st_mode & 0o777 == 0o600
    headers = {"Authorization": f"Bearer {match[1]}"}
    created = first.client.post("/v1/sessions", json={"text": "a brook"}, headers=headers).json()
    assert first.end(signal.SIGKILL) == -signal.SIGKILL
    second = run(*arguments).ready()
    assert match[1] in second.output, "it is told again"
    again = second.client.get(f"/v1/sessions/{created['session']}", headers=headers)
    assert (again.status_code, again.json()["offset"]) == (200, 7)
    assert second.end(signal.SIGTERM) == 0
    (tmp_path / "journal.key").chmod(0o644)
    assert "journal.key: others may read" in refused(run(*arguments))


# Starts that fail


def test_taken_port(run: Run) -> None:
    """Known before the model is loaded."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refused(process := run("--port", str(port)))
    assert said.startswith(f"cannot listen on 127.0.0.1:{port}: Address already in use")
    assert "Loading" not in process.output


@pytest.mark.parametrize(
    ("arguments", "environment", "names"),
    [
        (["--port", "65536"], {}, "--port"),
        (["--api-key", "a", "--no-auth"], {}, "--no-auth and --api-key"),
        (["--no-auth"], {"STREAMBED_API_KEY": "a"}, "--no-auth and --api-key"),
        (["--api-key", ""], {}, "--api-key"),
        (["--tls-cert", "cert.pem"], {}, "--tls-cert and --tls-key"),
        (["--timeout", "nan"], {}, "--timeout"),
        ([], {"STREAMBED_DRAIN": "inf"}, "--drain"),
        ([], {"STREAMBED_MAX_REQUESTS": "0"}, "--max-requests"),
        (["--host", "192.0.2.1"], {}, "cannot listen on 192.0.2.1"),
    ],
)
def test_bad_settings(run: Run, arguments: list[str], environment: dict[str, str], names: str) -> None:
    process = run(*arguments, **environment)
    assert names in refused(process)
    assert "Loading" not in process.output


@pytest.mark.parametrize(
    ("arguments", "environment", "named"),
    [
        (["--port", "many"], {}, "--port"),
        (["--kv-memory", "4 elephants"], {}, "--kv-memory"),
        (["--special-tokens", "maybe"], {}, "--special-tokens"),
        (["--gpu-memory-utilization", "0.9"], {}, "--gpu-memory-utilization"),
        (["./a", "./b"], {}, "./b"),
        (["./a", "--model", "./b"], {}, "MODEL is ./a and --model is ./b"),
        ([], {"STREAMBED_MAX_BODY": "big"}, "STREAMBED_MAX_BODY|--max-body"),
        ([], {"STREAMBED_NO_AUTH": "perhaps"}, "STREAMBED_NO_AUTH|--no-auth"),
    ],
)
def test_bad_flags(run: Run, arguments: list[str], environment: dict[str, str], named: str) -> None:
    process = run(*arguments, **environment)
    assert process.end() == 2, "click's own code for a wrong command line"
    assert "Traceback" not in process.output
    assert re.search(named, process.lines[-1]), process.output


def test_bad_model_directory(run: Run, tiny_checkpoint: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(tiny_checkpoint, tmp_path / "broken")
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    said = refused(run("--model", broken, "--port", "0"))
    assert str(weights) in said


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--model", "./nowhere"], "./nowhere"),
        (["--model", "nobody/nothing"], "nobody/nothing"),
        (["model-as-an-argument"], "model-as-an-argument"),
        (["--revision", "main"], "--revision"),
        (["--kv-memory", "1"], "--kv-memory"),
        (["--dtype", "float16"], "--dtype"),
        (["--device", "tpu"], "--device"),
    ],
)
@pytest.mark.slow
def test_what_only_loading_finds(run: Run, arguments: list[str], named: str) -> None:
    assert named in refused(run("--port", "0", *arguments, HF_HUB_OFFLINE="1"))


# What only a process has


def test_replies_are_not_held_back() -> None:
    """uvicorn writes head and body apart; with Nagle's algorithm the body waits 40 ms for the client's delayed ACK."""

    async def accepted() -> bool:
        seen: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        class Protocol(asyncio.Protocol):
            def connection_made(self, transport: Any) -> None:
                option = transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                seen.set_result(bool(option))
                transport.close()

        with listen("127.0.0.1", 0) as listener:
            address = listener.getsockname()
            server = await asyncio.get_running_loop().create_server(Protocol, sock=listener)
            async with server:
                _, writer = await asyncio.open_connection(*address)
                writer.close()
                return await asyncio.wait_for(seen, SECONDS)

    assert asyncio.run(accepted())


def test_missing_certificate(run: Run, tiny_checkpoint: Path) -> None:
    process = run("--model", tiny_checkpoint, "--port", "0", "--tls-cert", "no.pem", "--tls-key", "no.pem")
    assert "no.pem" in refused(process)


@pytest.mark.slow
def test_tls(run: Run, tiny_checkpoint: Path, tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
    subprocess.run(
        [program("openssl"), *command.split(), "-keyout", key, "-out", cert], capture_output=True, check=True
    )
    process = run("--model", tiny_checkpoint, "--port", "0", "--tls-cert", cert, "--tls-key", key).ready()
    assert f"Address: https://127.0.0.1:{process.port}" in process.output
    trust = ssl.create_default_context(cafile=cert)
    with httpx.Client(base_url=f"https://127.0.0.1:{process.port}", verify=trust, trust_env=False) as client:
        reply = client.post("/v1/embeddings", json={"model": "tiny", "input": "a"})
    assert reply.status_code == 200
    assert process.end(signal.SIGTERM) == 0


LARGE = [f"{n} " + "word " * 400 for n in range(1000)]
"""Takes minutes in steps of one row."""


@pytest.mark.slow
def test_second_signal_ends_it_at_once(run: Run, tiny_checkpoint: Path) -> None:
    process = run("--model", tiny_checkpoint, "--port", "0", "--max-batch-tokens", "1", "--threads", "1").ready()
    body = json.dumps({"model": "tiny", "input": LARGE}).encode()
    head = "POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", process.port)) as connection:
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        until(lambda: process.client.get("/info").json()["stats"]["waiting"] > 0)
        process.process.send_signal(signal.SIGINT)
        until(lambda: "Waiting for connections to close" in process.output)
        assert process.process.poll() is None, "it waits for the request"
        assert process.end(signal.SIGINT) == 0


def drained(run: Run, checkpoint: Path) -> httpx.Response:
    """What a request is answered that does not end within --drain."""
    process = run(
        *("--model", checkpoint, "--port", "0", "--max-batch-tokens", "1", "--threads", "1", "--drain", "1")
    ).ready()
    replies: list[httpx.Response] = []
    thread = threading.Thread(target=lambda: replies.append(process.post("tiny", LARGE)))
    with httpx.Client(base_url=process.client.base_url, trust_env=False) as other:
        thread.start()
        until(lambda: other.get("/info").json()["stats"]["waiting"] > 0)
    assert process.end(signal.SIGTERM) == 0
    thread.join()
    return replies[0]


@pytest.mark.slow
def test_drain_has_an_end(run: Run, tiny_checkpoint: Path) -> None:
    assert drained(run, tiny_checkpoint).status_code >= 500, "nobody says that half of it was all"


@pytest.mark.slow
def test_end_of_drain_is_a_typed_error(run: Run, tiny_checkpoint: Path) -> None:
    reply = drained(run, tiny_checkpoint)
    assert reply.status_code == 503
    assert reply.json()["error"]["code"] == "not_ready"
