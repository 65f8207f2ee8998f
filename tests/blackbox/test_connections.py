"""Connections that say nothing, and more of them than the system has descriptors for."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

from tests.blackbox.conftest import Start, read
from tests.server.test_process import SECONDS, Process

LIVEZ = b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"


def test_silent_connections_keep_nobody_out(start_target: Start) -> None:
    """More than the server keeps: the oldest go, and everybody who speaks is heard."""
    target = start_target("--max-requests", "16", "--max-sockets", "16")
    silent: list[socket.socket] = []
    for _ in range(40):
        silent += [target.connect() for _ in range(10)]
        with target.connect() as stranger:
            stranger.sendall(LIVEZ)
            assert read(stranger).startswith(b"HTTP/1.1 200 ")
    assert target.embed() == target.before, "on a connection that was idle meanwhile"
    for each in silent:
        each.close()
    target.check()


def test_without_descriptors_those_who_speak_are_heard(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Of three hundred: for the journal, too, which is opened while all others are taken."""
    process = Process(
        tiny_checkpoint, "--dtype", "float32", "--threads", "1", "--kv-memory", "64MiB", "--port", "0",
        "--kernels", "torch", "--journal", tmp_path / "journal", descriptors=300,
    )  # fmt: skip
    silent = []
    try:
        process.ready()
        for _ in range(30):
            for _ in range(20):
                with contextlib.suppress(OSError):
                    silent.append(socket.create_connection(("127.0.0.1", process.port), timeout=SECONDS))
            with socket.create_connection(("127.0.0.1", process.port), timeout=SECONDS) as stranger:
                stranger.sendall(LIVEZ)
                assert read(stranger).startswith(b"HTTP/1.1 200 ")
        model = process.client.get("/v1/models").json()["data"][0]["id"]
        assert process.post(model).status_code == 200
        assert process.client.post("/v1/sessions", json={"text": "kept"}).status_code == 201
        assert "Traceback" not in process.output
        assert len(process.lines) < 200, "no flood of log lines"
    finally:
        for each in silent:
            each.close()
        process.close()
