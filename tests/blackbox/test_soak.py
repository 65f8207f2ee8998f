"""Hours of ordinary work leave nothing behind: SOAK is how many minutes (3 by default). What counts are slopes: memory,
descriptors and latency at the end against those after half of the time. (Until then oneDNN makes a kernel for each number of
rows, and keeps a thousand.)"""

from __future__ import annotations

import json
import os
import statistics
import time
from pathlib import Path

import pytest

from tests.blackbox.conftest import POLITE, Start, Target

MINUTES = float(os.environ.get("SOAK", "3"))


def work(target: Target, number: int) -> float:
    """What a client does: a stream that grows, is edited, ends; requests, bad ones too. Returns the seconds of a request."""
    with target.socket(POLITE) as wire:
        wire.send(json.dumps({"type": "session.create", "emit": {"on": "append"}}))
        session = json.loads(wire.recv(60))["session"]
        for word in range(20):
            wire.send(json.dumps({"type": "input_text.append", "session": session, "text": f"{number} {word} "}))
        wire.send(
            json.dumps(
                {"type": "input_text.replace", "session": session, "from": 0, "to": 3, "text": "x", "base_revision": 20}
            )
        )
        wire.send("no event")
        wire.send(
            json.dumps(
                {"type": "session.close" if number % 2 else "session.fork", "session": session, "event_id": "end"}
            )
        )
        while json.loads(wire.recv(60)).get("event_id") != "end":
            pass
    target.ask("POST /v1/embeddings\nContent-Type: application/json", b"{", key=POLITE)
    listed = target.polite.get("/v1/sessions").json()["data"]
    for each in listed:
        target.polite.delete(f"/v1/sessions/{each['session']}")
    target.embed(f"a text of turn {number} " * (1 + number % 40))
    started = time.monotonic()
    target.embed(f"a short one, {number}")
    return time.monotonic() - started


@pytest.mark.slow
def test_nothing_grows(start_target: Start, tmp_path: Path) -> None:
    target = start_target("--journal", tmp_path / "journal", "--kv-memory", "8MiB")
    end = time.monotonic() + 60 * MINUTES
    seen: list[tuple[int, int, float]] = []
    while time.monotonic() < end:
        seconds = work(target, len(seen))
        seen.append((target.memory(), target.count_descriptors(), seconds))
    tenth = len(seen) // 10
    assert tenth > 10
    first, last = seen[5 * tenth : 6 * tenth], seen[-tenth:]
    memory, descriptors, latency = (
        (statistics.median(each[n] for each in first), statistics.median(each[n] for each in last)) for n in range(3)
    )
    assert memory[1] <= 1.05 * memory[0] + (4 << 20), memory
    assert descriptors[1] <= descriptors[0] + 2, descriptors
    assert latency[1] <= 2 * latency[0], latency
    assert os.stat(tmp_path / "journal").st_size < 4 << 20
    target.check()
