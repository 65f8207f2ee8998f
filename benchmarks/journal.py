"""What the journal costs: the same keystrokes on servers with and without one, in turns.

    make bench-journal

The built-in model, whose embeddings are quick, so that the disk shows. Prints a Markdown table.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time

from streambed import AsyncClient
from streambed.bench.server import serve
from streambed.bench.spread import percentile
from streambed.bench.texts import Texts

CONTEXT, KEYSTROKES = 100, 100
SYNCS = ("none", "normal", "full")


async def measure() -> None:
    """Prints the table."""
    texts = Texts(0)
    acknowledged: dict[str, list[float]] = {sync: [] for sync in SYNCS}
    embedded: dict[str, list[float]] = {sync: [] for sync in SYNCS}
    with tempfile.TemporaryDirectory() as folder:
        async with contextlib.AsyncExitStack() as stack:
            streams = {}
            for sync in SYNCS:
                flags = [] if sync == "none" else ["--journal", f"{folder}/{sync}.db", "--journal-sync", sync]
                server = await stack.enter_async_context(serve("builtin", flags))
                client = await stack.enter_async_context(AsyncClient(server.url))
                streams[sync] = await stack.enter_async_context(client.open_stream(texts.words(CONTEXT)))
                await streams[sync].embedding()
            for _ in range(KEYSTROKES):
                for sync, stream in streams.items():
                    for wait, found in ((stream.flush, acknowledged), (stream.embedding, embedded)):
                        await asyncio.sleep(0.005)
                        started = time.perf_counter()
                        await stream.append(texts.words(1))
                        await wait()
                        found[sync].append((time.perf_counter() - started) * 1000)
    print("| journal | acknowledged ms, median | P95 | embedded ms, median | P95 |\n|---|---:|---:|---:|---:|")
    for sync in SYNCS:
        cells = [f"{percentile(found[sync], share):.1f}" for found in (acknowledged, embedded) for share in (50, 95)]
        print(f"| {sync} | {' | '.join(cells)} |")


if __name__ == "__main__":
    asyncio.run(measure())
