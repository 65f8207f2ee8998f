"""The figures of docs/reliability.md: `python -m benchmarks.reliability [overload] [neighbours] [recovery] [durable]`.

Each starts servers with the built-in model, loads or kills them, and prints a table. Clients share the machine with the
server, on its last core, as attackers do; so figures are for this machine, and ratios to idle are what to compare.
"""

import asyncio
import collections
import contextlib
import json
import multiprocessing
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.attacks import NEIGHBOURS, attack, call, streaming
from benchmarks.wire import HOSTILE, POLITE, WORDS, Client, Reply

SECONDS = 10.0
CAPACITY_CLIENTS, TIMES_CAPACITY, OVERLOAD_SECONDS = 32, 3.0, 60.0
SESSIONS, CHANGES = 1000, 300


class Server:
    """A `streambed serve` of this checkout."""

    def __init__(self, *flags: str) -> None:
        command = [sys.executable, "-m", "streambed", "serve", "builtin", "--port", "0", *flags]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert self.process.stdout is not None
        self.port = 0
        for line in self.process.stdout:
            if match := re.search(r"Address: https?://\S*:(\d+)", line):
                self.port = int(match[1])
            if "startup complete" in line:
                break
        else:
            raise SystemExit("the server did not start")
        # What it logs from now on must be read, or it stands still.
        self._reader = multiprocessing.get_context("fork").Process(
            target=_drop, args=(self.process.stdout,), daemon=True
        )
        self._reader.start()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.kill()
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()


def _drop(lines: Any) -> None:
    for _ in lines:
        pass


@contextlib.contextmanager
def serving(*flags: str) -> Iterator[Server]:
    """A server, killed at the end."""
    server = Server(*flags)
    try:
        yield server
    finally:
        server.kill()


def quantile(values: Sequence[float], share: float) -> float:
    """One of the values: so many of them are below it."""
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


def percentile(seconds: Sequence[float], share: float) -> str:
    """In milliseconds."""
    return f"{1000 * quantile(seconds, share):,.0f}" if seconds else "-"


# At three times capacity


class Overload(NamedTuple):
    """What came of it, in seconds."""

    rate: float
    """Requests a second that clients get who wait for their answers."""
    statuses: collections.Counter[int]
    idle: list[float]
    accepted: list[float]
    refused: list[float]
    after: list[float]
    """Two seconds later."""


async def overload(port: int) -> Overload:
    """An open loop of short texts, at three times what clients that wait for their answers get."""
    client = await Client(port, POLITE).open()
    idle = [(await client.embed()).seconds for _ in range(50)]
    ended, done = time.perf_counter() + 5, 0

    async def work() -> None:
        nonlocal done
        while time.perf_counter() < ended:
            await client.embed()
            done += 1

    await asyncio.gather(*(work() for _ in range(CAPACITY_CLIENTS)))
    rate = done / 5
    replies: list[Reply] = []
    tasks: set[asyncio.Task[None]] = set()

    async def one() -> None:
        replies.append(await client.embed())

    due = started = time.perf_counter()
    while due < started + OVERLOAD_SECONDS:
        await asyncio.sleep(max(due - time.perf_counter(), 0))
        tasks.add(task := asyncio.create_task(one()))
        task.add_done_callback(tasks.discard)
        due += random.expovariate(TIMES_CAPACITY * rate)
    await asyncio.gather(*tasks)
    await asyncio.sleep(2)
    after = [(await client.embed()).seconds for _ in range(50)]
    await client.aclose()
    return Overload(
        rate,
        collections.Counter(reply.status for reply in replies),
        idle,
        [reply.seconds for reply in replies if reply.status == 200],
        [reply.seconds for reply in replies if reply.status == 429],
        after,
    )


# Bad neighbours


async def be_polite(port: int, seconds: float = SECONDS) -> tuple[list[float], list[float], int]:
    """One short text at a time, and a look at /livez: seconds of each, and how many texts were refused."""
    texts, looks, refused, ended = [], [], 0, time.perf_counter() + seconds
    async with contextlib.aclosing(await Client(port, POLITE).open()) as client:
        while time.perf_counter() < ended:
            reply = await client.embed()
            texts.append(reply.seconds)
            refused += reply.status != 200
            async with contextlib.aclosing(Client(port, "")) as stranger:
                looks.append((await stranger.ask("GET", "/livez")).seconds)
            await asyncio.sleep(0.05)
    return texts, looks, refused


def neighbours() -> None:
    """What another key costs one that is polite."""
    with serving("--api-key", HOSTILE, "--api-key", POLITE) as server:
        idle, looks, _ = asyncio.run(be_polite(server.port))
        print(
            "| beside | P50, ms | P99, ms | times idle P99 | /livez, at most, ms | refused |\n|---|---:|---:|---:|---:|---:|"
        )
        base = quantile(idle, 0.99)
        print(f"| nobody | {percentile(idle, 0.5)} | {percentile(idle, 0.99)} | 1.0 | {percentile(looks, 1)} | 0 |")
        for name in NEIGHBOURS:
            hostile = multiprocessing.get_context("fork").Process(target=attack, args=(name, server.port))
            hostile.start()
            time.sleep(1.5)
            seconds, looks, refused = asyncio.run(be_polite(server.port))
            hostile.kill()
            hostile.join()
            factor = quantile(seconds, 0.99) / base
            told = f"{percentile(seconds, 0.5)} | {percentile(seconds, 0.99)} | {factor:.1f}"
            print(f"| {name} | {told} | {percentile(looks, 1)} | {refused} |", flush=True)
            time.sleep(1)


# Kills, and the disk


async def answered(port: int, sessions: Sequence[str]) -> None:
    """Until each session has given an embedding."""
    client, left = Client(port, ""), iter(sessions)

    async def work() -> None:
        for session in left:
            reply = await client.ask("POST", f"/v1/sessions/{session}/embedding", {})
            assert reply.status == 200, reply

    await asyncio.gather(*(work() for _ in range(16)))


def recovery() -> None:
    """From `kill -9` until a thousand sessions have answered again."""

    async def create(port: int) -> list[str]:
        client = Client(port, "")
        bodies = ({"text": " ".join(random.choices(WORDS, k=40))} for _ in range(SESSIONS))
        return [json.loads((await client.ask("POST", "/v1/sessions", body)).body)["session"] for body in bodies]

    with tempfile.TemporaryDirectory() as folder:
        journal = str(Path(folder) / "journal")
        server = Server("--journal", journal)
        sessions = asyncio.run(create(server.port))
        killed = time.perf_counter()
        server.kill()
        with serving("--journal", journal) as server:
            ready = time.perf_counter() - killed
            asyncio.run(answered(server.port, sessions))
            print(
                f"ready after {ready:.1f} s; all {SESSIONS:,} sessions answered after {time.perf_counter() - killed:.1f} s"
            )


async def changes(port: int, count: int) -> list[float]:
    """Seconds from each change to its acknowledgement, of so many sessions at once."""

    async def one() -> list[float]:
        async with streaming(port) as socket:
            session = (await call(socket, type="session.create", overflow="segment"))["session"]
            seconds = []
            for _ in range(CHANGES // count + 10):
                started = time.perf_counter()
                await socket.send(json.dumps({"type": "input_text.append", "session": session, "text": " word"}))
                while json.loads(await socket.recv())["type"] != "input_text.ack":
                    pass
                seconds.append(time.perf_counter() - started)
            return seconds

    return [each for found in await asyncio.gather(*(one() for _ in range(count))) for each in found]


def durable() -> None:
    """How long an acknowledgement takes, which says that a change is on disk."""
    print("| journal | sessions | P50, ms | P99, ms |\n|---|---:|---:|---:|")
    for sync in (None, "normal", "full"):
        with tempfile.TemporaryDirectory() as folder:
            flags = [] if sync is None else ["--journal", str(Path(folder) / "journal"), "--journal-sync", sync]
            with serving(*flags) as server:
                for count in (1, 32):
                    seconds = asyncio.run(changes(server.port, count))
                    name = "none" if sync is None else sync
                    median = 1000 * sorted(seconds)[len(seconds) // 2]
                    print(f"| {name} | {count} | {median:.1f} | {percentile(seconds, 0.99)} |")


def overloaded() -> None:
    with serving("--api-key", POLITE) as server:
        found = asyncio.run(overload(server.port))
    what = f"{TIMES_CAPACITY:g} times that for {OVERLOAD_SECONDS:g} s: {dict(found.statuses)}"
    print(f"capacity {found.rate:.0f} requests a second; {what}")
    print("| ms | P50 | P99 |\n|---|---:|---:|")
    named = (("idle", found.idle), ("accepted", found.accepted), ("refused", found.refused), ("2 s later", found.after))
    for name, seconds in named:
        print(f"| {name} | {percentile(seconds, 0.5)} | {percentile(seconds, 0.99)} |")


FIGURES = {"overload": overloaded, "neighbours": neighbours, "recovery": recovery, "durable": durable}


if __name__ == "__main__":
    for figure in sys.argv[1:] or FIGURES:
        print(f"\n{figure}\n")
        FIGURES[figure]()
