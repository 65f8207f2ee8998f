"""Keys with names: what each may take, and how they are replaced while the server runs."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets.exceptions

from tests.blackbox.conftest import HOSTILE, POLITE, Start, Target, ask
from tests.server.conftest import until
from tests.server.test_process import Process, refused

GREEDY, SHORT, TALKER = "greedy-key-012345", "short-key-0123456", "talker-key-012345"
NEW, OLD = "new-key-0123456789", "old-key-0123456789"
FILE = f"""
[greedy]
key = "{GREEDY}"
requests_per_second = 0.001
[short]
key = "{SHORT}"
sockets = 1
sessions = 1
body_bytes = 2000
[talker]
key = "{TALKER}"
tokens_per_second = 25
[mover]
key = ["{NEW}", "{OLD}"]
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    (path := tmp_path_factory.mktemp("keys") / "keys.toml").write_text(FILE)
    return path


@pytest.fixture(scope="module")
def named(start_target: Start, file: Path) -> Target:
    return start_target("--api-keys", file)


@pytest.fixture
def target(named: Target) -> Iterator[Target]:
    yield named
    named.check()


def client(target: Target, key: str) -> httpx.Client:
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.Client(base_url=target.polite.base_url, headers=headers, timeout=60, trust_env=False)


def post(target: Target, key: str, text: str = "a text") -> httpx.Response:
    with client(target, key) as asked:
        return asked.post("/v1/embeddings", json={"model": target.model, "input": text})


def code_of(reply: httpx.Response) -> tuple[int, str]:
    return reply.status_code, reply.json()["error"]["code"]


def series(target: Target, name: str) -> dict[str, float]:
    """The series of a metric, by their labels."""
    lines = target.polite.get("/metrics").text.splitlines()
    return {
        line.partition("{")[2].partition("}")[0]: float(line.rpartition(" ")[2])
        for line in lines
        if line.startswith(f"{name}{{")
    }


def test_requests_beyond_the_rate_hear_when_to_come_again(target: Target) -> None:
    before = series(target, "streambed_key_requests_total")
    assert post(target, GREEDY).status_code == 200
    for _ in range(3):
        reply = post(target, GREEDY)
        assert code_of(reply) == (429, "quota_exceeded")
        assert reply.headers["Retry-After"] == "600", "ten minutes at most"
    with pytest.raises(websockets.exceptions.InvalidStatus) as caught:
        target.socket(GREEDY)
    assert caught.value.response.status_code == 429
    after = series(target, "streambed_key_requests_total")
    grown = {labels: count - before[labels] for labels, count in after.items() if count != before[labels]}
    assert grown == {'key="greedy",outcome="ok"': 1, 'key="greedy",outcome="refused"': 3}
    lines = [line for line in target.process.output.splitlines() if "key=greedy" in line]
    assert len(lines) == 5
    assert not any(key in target.process.output for key in (GREEDY, SHORT, TALKER, NEW, OLD, HOSTILE, POLITE))


def test_a_body_beyond_the_rate_is_not_read(target: Target) -> None:
    post(target, GREEDY)  # so that nothing is left
    head = f"POST /v1/embeddings\nContent-Type: application/json\nContent-Length: {16 << 20}"
    with target.send(head, b"[", key=GREEDY) as connection:  # the rest never comes
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 429")


def test_sockets_sessions_and_bytes(target: Target) -> None:
    with target.socket(SHORT) as wire:
        with pytest.raises(websockets.exceptions.InvalidStatus) as caught:
            target.socket(SHORT)
        assert caught.value.response.status_code == 429
        assert b"this key may have 1" in caught.value.response.body
        assert ask(wire, "session.create")["type"] == "session.created"
        assert ask(wire, "session.create")["error"]["code"] == "overloaded"
        assert series(target, "streambed_key_sockets")['key="short"'] == 1
        assert series(target, "streambed_key_sessions")['key="short"'] == 1
    assert code_of(post(target, SHORT, "a " * 2000)) == (429, "quota_exceeded")
    assert post(target, SHORT).status_code == 200


def test_who_had_more_tokens_than_allowed_waits_and_loses_nothing(target: Target) -> None:
    """Over HTTP by 429; a stream, by being read later."""
    with target.socket(TALKER) as wire:
        session = ask(wire, "session.create")["session"]
        before = series(target, "streambed_key_tokens_total")['key="talker"']
        words = ["one two three four five six seven eight "] * 12
        for number, text in enumerate(words):
            wire.send(json.dumps({"type": "input_text.append", "session": session, "text": text}))
            wire.send(json.dumps({"type": "embedding.create", "session": session, "event_id": str(number)}))
        refused = 0
        done: list[dict[str, Any]] = []
        while len(done) < len(words):
            event = json.loads(wire.recv(60))
            assert event["type"] in ("input_text.ack", "embedding.done", "embedding.skipped"), event
            if event["type"] == "embedding.done":
                done.append(event)
                reply = post(target, TALKER)
                refused += reply.status_code == 429
        assert refused, "it owed tokens at some time"
        assert done[-1]["offset"] == sum(map(len, words))
        assert series(target, "streambed_key_tokens_total")['key="talker"'] >= before + 12 * 8
    until(lambda: post(target, TALKER).status_code == 200, 60)


def test_keys_are_replaced_while_the_server_runs(target: Target, file: Path) -> None:
    with target.socket(OLD) as old, target.socket(NEW) as new, target.socket() as unnamed:
        made = ask(old, "session.create")
        other, third = ask(new, "session.create")["session"], ask(unnamed, "session.create")["session"]
        with client(target, OLD) as browser:
            assert browser.post("/playground/key", json={"api_key": OLD}).status_code == 204
            del browser.headers["Authorization"]
            assert browser.get("/info").status_code == 200, "by its cookie"
            file.write_text(FILE.replace(f', "{OLD}"', "").replace("[greedy]", "[renamed]"))
            target.process.process.send_signal(signal.SIGHUP)
            event = json.loads(old.recv(60))
            assert (event["type"], event["reason"]) == ("session.closed", "unauthorized")
            with pytest.raises(websockets.exceptions.ConnectionClosed) as caught:
                old.recv(60)
            assert caught.value.rcvd is not None
            assert caught.value.rcvd.code == 4401
            assert browser.get("/info").status_code == 401
        assert post(target, OLD).status_code == 401
        # The session belongs to the name, so its new key has it.
        token = event["resume"]["resume_token"]
        resumed = ask(new, "session.resume", session=made["session"], resume_token=token)
        assert resumed["type"] == "session.resumed"
        for wire, session in ((new, other), (unnamed, third)):
            assert ask(wire, "input_text.append", session=session, text="on")["type"] == "input_text.ack"
            assert ask(wire, "embedding.create", session=session)["type"] == "embedding.done", (
                "others hear nothing of it"
            )
    names = set(series(target, "streambed_key_tokens_total"))
    assert names == {'key="renamed"', 'key="short"', 'key="talker"', 'key="mover"'}
    file.write_text("[mover]\nkey = 5")
    target.process.process.send_signal(signal.SIGHUP)
    until(lambda: "the keys stay as they were" in target.process.output)
    assert post(target, NEW).status_code == 200


def test_a_server_whose_file_makes_no_sense_does_not_start(tiny_checkpoint: Path, tmp_path: Path) -> None:
    (path := tmp_path / "keys.toml").write_text("[a]\nkey = ''\n")
    with contextlib.closing(Process(tiny_checkpoint, "--api-keys", path)) as process:
        assert "[a] key is empty" in refused(process)
