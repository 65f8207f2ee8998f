"""What sessions hold that nobody types in: KV of a warm one, by the tokens of its text.

    make bench-memory                          # the 0.6B shape
    make bench-memory ARGS="--model builtin"

Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib

import httpx

from streambed import AsyncClient
from streambed.bench.checkpoint import kept_checkpoint, make_0_6b
from streambed.bench.server import serve
from streambed.bench.texts import Texts

TOKENS, SESSIONS = (10, 100, 1000), 4


async def measure(model: str) -> None:
    """Prints the table."""
    texts = Texts(0)
    print("| tokens of a session | KiB each | warm sessions per GiB |\n|---:|---:|---:|")
    async with (
        serve(model, []) as server,
        AsyncClient(server.url) as client,
        httpx.AsyncClient(base_url=server.url, trust_env=False) as http,
        contextlib.AsyncExitStack() as stack,
    ):

        async def kv() -> int:
            return int((await http.get("/info")).json()["stats"]["kv_bytes"])

        for tokens in TOKENS:
            before = await kv()
            for _ in range(SESSIONS):
                await (await stack.enter_async_context(client.open_stream(texts.words(tokens)))).embedding()
            each = (await kv() - before) / SESSIONS
            print(f"| {tokens:,} | {each / 1024:,.0f} | {(1 << 30) / each:,.0f} |", flush=True)


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="checkpoint; by default a random one of 0.6B shape, made once")
    options = parser.parse_args()
    if options.model is None:
        make_0_6b(kept_checkpoint())
    asyncio.run(measure(options.model or str(kept_checkpoint())))


if __name__ == "__main__":
    main()
