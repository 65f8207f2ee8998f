"""The machine fails: a step, the disk, the clock. Whoever waits hears it, nothing that was said is lost, and it goes on."""

from __future__ import annotations

import json
import os
import resource
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.blackbox.conftest import POLITE, Start, ask
from tests.blackbox.faulty import FAULTS
from tests.server.conftest import until


class Machine:
    """A server with a journal, and what ails its machine."""

    def __init__(self, start: Start, folder: Path, *flags: str) -> None:
        self.fault, self.journal = folder / "fault", folder / "journal"
        self.target = start(
            "--journal", self.journal, "--session-ttl", "600", *flags, module="tests.blackbox.faulty",
            **{FAULTS: str(self.fault)},
        )  # fmt: skip

    def say(self, word: str) -> None:
        new = self.fault.with_suffix(".new")
        new.write_text(word)
        new.replace(self.fault)  # so that nobody reads half of it

    def post(self, text: str, **more: Any) -> httpx.Response:
        body = {"model": self.target.model, "input": text, "encoding_format": "base64"} | more
        return self.target.polite.post("/v1/embeddings", json=body)

    def check(self) -> None:
        """As `Target.check`; what the log has to say of a step is no fault of its own."""
        assert self.target.embed() == self.target.before
        assert self.target.polite.get("/readyz").status_code == 200


@pytest.fixture(scope="module")
def shared(start_target: Start, tmp_path_factory: pytest.TempPathFactory) -> Machine:
    return Machine(start_target, tmp_path_factory.mktemp("faults"))


@pytest.fixture
def machine(shared: Machine) -> Iterator[Machine]:
    yield shared
    shared.say("")
    shared.check()


@pytest.mark.parametrize("word", ["raise", "memory", "nan"])
def test_a_failing_step_fails_who_waits_for_it_and_nobody_else(machine: Machine, word: str) -> None:
    with machine.target.socket(POLITE) as wire:
        session = ask(wire, "session.create", encoding_format="base64")["session"]
        assert ask(wire, "input_text.append", session=session, text="kept through it all")["type"] == "input_text.ack"
        before = ask(wire, "embedding.create", session=session)
        machine.say(word)
        reply = machine.post(f"a text that {word} fails")
        assert reply.status_code == 500
        assert reply.json()["error"]["code"] == "internal"
        machine.say("")
        assert machine.post("a polite text").status_code == 200
        machine.say(word)
        assert ask(wire, "input_text.append", session=session, text=", and on")["type"] == "input_text.ack"
        failed = ask(wire, "embedding.create", session=session)
        assert failed["error"]["code"] == "internal", "the text is there; its vector could not be computed"
        machine.say("")
        after = ask(wire, "embedding.create", session=session)
        assert after["offset"] == len("kept through it all, and on")
        one_shot = machine.post("kept through it all, and on").json()["data"][0]["embedding"]
        assert after["embedding"] == one_shot != before["embedding"]


def test_a_step_that_hangs_keeps_nobody_beyond_his_time(machine: Machine) -> None:
    machine.say("hang")
    replies: list[httpx.Response] = []
    asking = threading.Thread(target=lambda: replies.append(machine.post("waits for it")))
    asking.start()
    until(lambda: "streambed_requests_in_progress 2" in machine.target.polite.get("/metrics").text)
    assert machine.target.polite.get("/livez").status_code == 200
    late = machine.post("gives up", timeout_ms=100)
    assert (late.status_code, late.json()["error"]["code"]) == (504, "deadline")
    with machine.target.socket(POLITE) as wire:
        session = ask(wire, "session.create")["session"]
        acked = ask(wire, "input_text.append", session=session, text="is taken meanwhile")
        assert acked["type"] == "input_text.ack"
        wire.send(json.dumps({"type": "embedding.create", "session": session}))
        machine.say("")
        done = json.loads(wire.recv(60))
        assert (done["type"], done["offset"]) == ("embedding.done", len("is taken meanwhile"))
    asking.join(60)
    assert [reply.status_code for reply in replies] == [200]


def test_a_server_that_hangs_ends_when_it_is_told_to(start_target: Start, tmp_path: Path) -> None:
    hung = Machine(start_target, tmp_path, "--drain", "1", "--timeout", "600")
    hung.say("hang")
    said: list[Any] = []

    def post() -> None:
        try:
            said.append(hung.post("waits for ever").status_code)
        except httpx.HTTPError as error:
            said.append(error)

    asking = threading.Thread(target=post)
    asking.start()
    until(lambda: "streambed_requests_in_progress 2" in hung.target.polite.get("/metrics").text)
    hung.target.process.process.send_signal(signal.SIGTERM)
    hung.target.process.process.wait(60)
    asking.join(60)
    assert said == [503], "whoever waits hears that it ends"


@pytest.mark.parametrize("jump", ["86400", "-86400"])
def test_a_clock_that_jumps_ends_nothing(machine: Machine, jump: str) -> None:
    with machine.target.socket(POLITE) as wire:
        session = ask(wire, "session.create")["session"]
        ask(wire, "input_text.append", session=session, text="a day")
        machine.say(jump)
        assert machine.post("in another day", timeout_ms=60_000).status_code == 200
        assert machine.target.polite.get("/readyz").status_code == 200
        assert ask(wire, "input_text.append", session=session, text=" later")["type"] == "input_text.ack"
        done = ask(wire, "embedding.create", session=session)
        assert (done["type"], done["offset"]) == ("embedding.done", len("a day later"))


def test_a_full_disk_refuses_changes_and_loses_none(machine: Machine) -> None:
    """Files that cannot grow are what a process sees of a full disk."""
    process, log = machine.target.process.process, Path(f"{machine.journal}-wal")
    with machine.target.socket(POLITE) as wire:
        id = ask(wire, "session.create")["session"]
        acked = ask(wire, "input_text.append", session=id, text="before ")
        largest = max(os.stat(machine.journal).st_size, log.stat().st_size if log.exists() else 0)
        free = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (largest + 4096, free[1]))
        try:
            refused = None
            for number in range(200):
                said = ask(wire, "input_text.append", session=id, text=f"{number:5d} " * 20, offset=acked["offset"])
                if said["type"] == "error":
                    refused = said
                    break
                acked = said
            assert refused is not None, "the disk was full at some time"
            assert refused["error"]["code"] == "storage_full"
            assert ask(wire, "embedding.create", session=id)["offset"] == acked["offset"]
            assert machine.post("needs no disk").status_code == 200
        finally:
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, free)
        more = ask(wire, "input_text.append", session=id, text="after", offset=acked["offset"])
        assert more["type"] == "input_text.ack", more
        state = machine.target.polite.get(f"/v1/sessions/{id}").json()
        assert (state["offset"], state["revision"]) == (more["offset"], more["revision"])
