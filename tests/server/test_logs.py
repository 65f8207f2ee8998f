"""Log lines: for people or machines, one each, without anything of a client's but its request id."""

from __future__ import annotations

import json
import logging
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from streambed.server.logs import Console, Json
from streambed.settings import Settings
from tests.server.conftest import Live, Serve, until
from tests.server.test_process import Process
from tests.server.test_socket import open_peer

SECRET = "a-secret-word"


def record(message: str, *values: Any, error: bool = False, **extra: Any) -> logging.LogRecord:
    exc_info = None
    if error:
        try:
            raise ValueError("it failed")
        except ValueError:
            exc_info = sys.exc_info()
    made = logging.LogRecord("streambed.test", logging.WARNING, __file__, 1, message, values, exc_info)
    made.__dict__.update(extra)
    return made


def test_console() -> None:
    assert Console().format(record("a %s", "line", ms=1.5, lane=None)) == "WARNING  a line  ms=1.5"
    assert Console().format(record("plain")) == "WARNING  plain"
    assert "ValueError: it failed" in Console().format(record("plain", error=True))


def test_json() -> None:
    line = json.loads(Json().format(record('a "%s"\n', "line", ms=1.5, lane=None, where=Path("x"))))
    time = line.pop("time")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", time)
    assert line == {"level": "warning", "logger": "streambed.test", "message": 'a "line"\n', "ms": 1.5, "where": "x"}
    assert "ValueError: it failed" in json.loads(Json().format(record("plain", error=True)))["exception"]
    assert "\n" not in Json().format(record("a\nb", error=True))


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Any:
    caplog.set_level(logging.INFO, "streambed.access")
    return lambda: [each for each in caplog.records if each.name == "streambed.access"]


def test_one_line_for_each_request(live: Live, lines: Any) -> None:
    reply = live.post("a brook")
    until(lines)  # written when the reply has gone
    (line,) = lines()
    assert line.getMessage() == "POST /v1/embeddings"
    assert (line.status, line.outcome, line.lane) == (200, "ok", "query")
    assert line.ms > 0
    assert line.request_id == reply.headers["x-request-id"]
    live.client.get("/livez")
    live.client.get("/info")
    until(lambda: len(lines()) > 1)
    assert [each.getMessage() for each in lines()[1:]] == ["GET /info"], "probes that succeed are not worth a line"


@pytest.mark.parametrize("given", ["abc-123", "A" * 128, "0:1/2+3=4.5_6"])
def test_the_clients_request_id_is_kept(live: Live, lines: Any, given: str) -> None:
    assert live.post("a", headers={"X-Request-Id": given}).headers["x-request-id"] == given
    until(lines)
    assert lines()[-1].request_id == given
    assert live.client.get("/nowhere", headers={"X-Request-Id": given}).headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "A" * 129, "with space", 'quote"', "semi;colon"])
def test_another_one_is_not(live: Live, given: str) -> None:
    made = live.post("a", headers={"X-Request-Id": given}).headers["x-request-id"]
    assert re.fullmatch(r"[0-9a-f]{16}", made)


def test_ids_of_refusals_and_sockets(serve: Serve, lines: Any) -> None:
    live = serve(Settings(drain=5.0), keys=("key",))
    reply = live.client.get("/info", headers={"Authorization": "Bearer no", "X-Request-Id": "mine"})
    assert (reply.status_code, reply.headers["x-request-id"]) == (401, "mine")
    until(lines)
    assert (lines()[-1].status, lines()[-1].outcome) == (401, "unauthorized")
    with open_peer(live, additional_headers={"Authorization": "Bearer key", "X-Request-Id": "socket"}) as peer:
        assert peer.ws.response is not None
        assert peer.ws.response.headers["X-Request-Id"] == "socket"
        peer.create()


def test_nothing_of_a_client_is_logged(tiny_checkpoint: Path) -> None:
    process = Process(
        "--model", tiny_checkpoint, "--port", "0", "--threads", "1", "--dtype", "float32",
        "--log-format", "json", "--api-key", SECRET,
    ).ready()  # fmt: skip
    try:
        headers = {"Authorization": f"Bearer {SECRET}"}
        name = process.client.get("/v1/models", headers=headers).json()["data"][0]["id"]
        for path in (f"/{SECRET}", f"/v1/sessions/{SECRET}", f"/livez?{SECRET}"):
            process.client.get(path, headers=headers)
        for body in ({"model": name, "input": SECRET}, {"model": SECRET, "input": "a"}, {SECRET: 1}, [SECRET]):
            process.client.post("/v1/embeddings", json=body, headers=headers)
        process.client.post("/v1/sessions", json={"text": SECRET}, headers=headers)
        process.client.request("DELETE", "/v1/sessions/x", headers={"Authorization": f"Basic {SECRET}"})
    finally:
        process.close()
    assert SECRET not in process.output
    parsed = [json.loads(line) for line in process.lines]
    assert sum(line["logger"] == "streambed.access" for line in parsed) >= 8
    assert all({"time", "level", "logger", "message"} <= set(line) for line in parsed)
