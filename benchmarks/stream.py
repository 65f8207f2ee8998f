"""Streams over a real socket: per keystroke, many at once, with and without the journal, sessions per GiB.

    make bench-stream               # the 0.6B shape; ten minutes
    make bench-stream ARGS="--model builtin --contexts 100 1000"

Per keystroke: from sending a word to its `embedding.done`, beside posting the whole text again to the same server's
`/v1/embeddings`, and beside sentence-transformers, in turns. The server runs in a process of its own, the peer in another.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
from websockets.asyncio.client import connect as aconnect
from websockets.sync.client import ClientConnection, connect

from benchmarks.checkpoint import make_0_6b
from benchmarks.oneshot import Peer
from streambed.machine import usable_cores

WORDS = ["river", "stone", "light", "paper", "music", "green", "seven", "cloud", "train", "apple"]
KEYSTROKES = 15
PARTS = ["keystroke", "together", "memory", "journal"]


def words(count: int, salt: int = 0) -> str:
    """A text of `count` tokens, without the end token."""
    return "".join(f" {WORDS[(salt * 7 + n * (salt % 7 + 3) + n // 10) % 10]}" for n in range(count))


class Server:
    """`streambed serve` in a process of its own."""

    def __init__(self, model: str, *arguments: str) -> None:
        command = [sys.executable, "-m", "streambed", "serve", "--model", model, "--port", "0", *arguments]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self._process.stderr is not None
        self.port = 0
        for line in self._process.stderr:
            if found := re.search(r"Address: http://127.0.0.1:(\d+)", line):
                self.port = int(found[1])
            if "startup complete" in line:
                break
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=600, trust_env=False)
        self.info: dict[str, Any] = self.http.get("/info").json()
        self.name = self.info["served_model_names"][0]

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/v1/embeddings"

    def post(self, text: str) -> float:
        """Seconds for the whole text, posted again."""
        body = {"model": self.name, "input": text, "encoding_format": "base64"}
        started = time.perf_counter()
        self.http.post("/v1/embeddings", json=body).raise_for_status()
        return time.perf_counter() - started

    def stats(self) -> dict[str, Any]:
        stats: dict[str, Any] = self.http.get("/info").json()["stats"]
        return stats

    def close(self) -> None:
        self.http.close()
        self._process.terminate()
        self._process.communicate()


@contextlib.contextmanager
def served(model: str, *arguments: str) -> Iterator[Server]:
    server = Server(model, *arguments)
    try:
        yield server
    finally:
        server.close()


class Typist:
    """A client that types, over a raw socket."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self.text = ""
        self.revision = 0
        socket.send(orjson.dumps({"type": "session.create", "encoding_format": "base64"}).decode())
        self.session = self._wait("session.created")["session"]

    def _wait(self, *kinds: str) -> dict[str, Any]:
        while True:
            event: dict[str, Any] = orjson.loads(self._socket.recv())
            if event["type"] == "error":
                raise RuntimeError(event["error"]["message"])
            if event["type"] in kinds:
                return event

    def append(self, text: str, embed: bool = True) -> tuple[float, float, int]:
        """Seconds until the acknowledgement and until the embedding, and the rows that it took."""
        self.text += text
        event = {"type": "input_text.append", "session": self.session, "text": text, "base_revision": self.revision}
        self.revision += 1
        frames = [event, *([{"type": "embedding.create", "session": self.session}] if embed else [])]
        started = time.perf_counter()
        for frame in frames:
            self._socket.send(orjson.dumps(frame).decode())
        acknowledged = embedded = 0.0
        rows = 0
        while not acknowledged or (embed and not embedded):
            answer = self._wait("input_text.ack", "embedding.done")
            if answer["type"] == "input_text.ack":
                acknowledged = time.perf_counter() - started
            else:
                embedded, rows = time.perf_counter() - started, answer["usage"]["computed_tokens"]
        return acknowledged, embedded, rows


def per_keystroke(server: Server, peer: Peer | None, contexts: list[int]) -> None:
    """One word more, with so much text before it."""
    print("| tokens before | stream ms | rows | whole text again ms | ratio | sentence-transformers ms | ratio |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    for context in contexts:
        with connect(server.url, proxy=None, compression=None) as socket:
            typist = Typist(socket)
            typist.append(words(context))
            server.post(words(context))  # it may reuse what it computed before
            for word in WORDS[:3]:
                typist.append(f" {word}")
            ours, rows, again = [], [], []
            other: list[float] = []
            for n in range(KEYSTROKES):
                time.sleep(0.05)
                _, seconds, count = typist.append(f" {WORDS[n % 10]}")
                ours.append(seconds)
                rows.append(count)
                again.append(server.post(typist.text))
                if peer is not None and (n < 2 or sum(other) < 10):
                    other.append(peer.embed([typist.text]))
        a, b = statistics.median(ours), statistics.median(again)
        print(f"| {context:,} | {a * 1000:.0f} | {statistics.mean(rows):.1f} | {b * 1000:.0f} | {b / a:.1f} |", end=" ")
        c = statistics.median(other) if other else None
        print("| |" if c is None else f"{c * 1000:.0f} | {c / a:.0f} |", flush=True)


async def _typing(server: Server, count: int, seconds: float, rate: float, context: int) -> list[float]:
    """`count` clients type words at `rate` a second; how long each word waits until an embedding covers it."""
    waits: list[float] = []
    computed = asyncio.Barrier(count)  # nobody types while the texts to begin with are computed

    async def one(number: int) -> None:
        loop = asyncio.get_running_loop()
        async with aconnect(server.url, proxy=None, compression=None) as socket:
            create = {"type": "session.create", "encoding_format": "base64", "emit": {"on": "append"}}
            await socket.send(orjson.dumps(create | {"text": words(context, number)}).decode())
            session = None
            sent: dict[int, float] = {}
            started = asyncio.Event()

            async def listen() -> None:
                nonlocal session
                async for message in socket:
                    event = orjson.loads(message)
                    if event["type"] == "session.created":
                        session = event["session"]
                    elif event["type"] == "embedding.done":
                        started.set()
                        covered = [revision for revision in sent if revision <= event["revision"]]
                        waits.extend(loop.time() - sent.pop(revision) for revision in covered)

            listening = asyncio.create_task(listen())
            await started.wait()
            await computed.wait()
            await asyncio.sleep(number / count / rate)
            for n in range(round(seconds * rate)):
                event = {
                    "type": "input_text.append",
                    "session": session,
                    "text": f" {WORDS[n % 10]}",
                    "base_revision": n,
                }
                sent[n + 1] = loop.time()
                await socket.send(orjson.dumps(event).decode())
                await asyncio.sleep(1 / rate)
            while sent:
                await asyncio.sleep(0.01)
            await socket.send(orjson.dumps({"type": "session.close", "session": session}).decode())
            listening.cancel()

    await asyncio.gather(*(one(number) for number in range(count)))
    return waits


def together(server: Server, counts: list[int], context: int = 100) -> None:
    """Many sessions that type at once."""
    rate = 4.0
    print(f"\n| sessions typing {rate:.0f} words a second each, after {context} tokens | median ms | P95 ms | max ms |")
    print("|---:|---:|---:|---:|")
    for count in counts:
        waits = sorted(asyncio.run(_typing(server, count, 8.0, rate, context)))
        middle, late = waits[len(waits) // 2], waits[int(len(waits) * 0.95)]
        print(f"| {count} | {middle * 1000:.0f} | {late * 1000:.0f} | {waits[-1] * 1000:.0f} |", flush=True)


def per_gib(model: str, contexts: list[int]) -> None:
    """KV memory that idle sessions hold, on a server that holds nothing else."""
    print("\n| tokens of a session | KiB each | warm sessions per GiB |\n|---:|---:|---:|")
    with served(model) as server, contextlib.ExitStack() as stack:
        for context in contexts:
            before, count = server.stats()["kv_bytes"], 4
            for n in range(count):
                socket = stack.enter_context(connect(server.url, proxy=None, compression=None))
                Typist(socket).append(words(context, n))
            each = (server.stats()["kv_bytes"] - before) / count
            print(f"| {context:,} | {each / 1024:,.0f} | {(1 << 30) / each:,.0f} |", flush=True)


def journalled(model: str, context: int = 100) -> None:
    """What the journal costs: the same keystrokes on servers with and without."""
    print("\n| journal | acknowledged ms, median | P95 | embedded ms, median | P95 |\n|---|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        servers: dict[str, Server] = {}
        for name in ("none", "normal", "full"):
            arguments = () if name == "none" else ("--journal", f"{folder}/{name}.db", "--journal-sync", name)
            servers[name] = stack.enter_context(served(model, *arguments))
        typists = {
            name: Typist(stack.enter_context(connect(server.url, proxy=None, compression=None)))
            for name, server in servers.items()
        }
        for typist in typists.values():
            typist.append(words(context))
        acknowledged: dict[str, list[float]] = {name: [] for name in servers}
        embedded: dict[str, list[float]] = {name: [] for name in servers}
        for n in range(100):
            for name, typist in typists.items():
                time.sleep(0.005)
                first, second, _ = typist.append(f" {WORDS[n % 10]}")
                acknowledged[name].append(first)
                embedded[name].append(second)
        for name in servers:
            cells = []
            for times in (acknowledged[name], embedded[name]):
                times.sort()
                cells += [f"{times[len(times) // 2] * 1000:.1f}", f"{times[int(len(times) * 0.95)] * 1000:.1f}"]
            print(f"| {name} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="checkpoint; by default a random one of 0.6B shape, made once")
    parser.add_argument("--cache", type=Path, default=Path("build/benchmarks"), help="where that one is kept")
    parser.add_argument("--contexts", type=int, nargs="+", default=[100, 1000, 5000])
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 10, 50])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure")
    parser.add_argument("--without-peer", action="store_true", help="leave sentence-transformers out")
    options = parser.parse_args()
    model = options.model or str(make_0_6b(options.cache / "qwen3-0.6b-random"))
    threads = usable_cores()
    with served(model) as server:
        print(f"{server.info['model']}, {server.info['dtype']}, {threads} threads\n", flush=True)
        if "keystroke" in options.parts:
            with_peer = Path(model).is_dir() and not options.without_peer
            peer = Peer(Path(model), server.info["dtype"], threads, server.info["device"]) if with_peer else None
            per_keystroke(server, peer, options.contexts)
        if "together" in options.parts:
            together(server, options.sessions)
    if "memory" in options.parts:
        per_gib(model, [10, 100, 1000])
    if "journal" in options.parts:
        journalled("builtin")


if __name__ == "__main__":
    main()
