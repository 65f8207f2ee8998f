"""What counting costs: requests a second with metrics, and with the same calls doing nothing.

    make bench-metrics

One client, one text a request, the built-in model: the case where a request is cheapest and counting weighs most. In turns,
on one server in this process; prints the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import time
from typing import Any
from unittest import mock

import httpx

from streambed import Engine
from streambed.server.app import create_app
from streambed.server.metrics import Metrics
from streambed.settings import Settings

CALLS = ("request", "stage", "tokens", "_step")


def nothing(*values: Any) -> None:
    """Instead of a call that counts."""


async def rate(client: httpx.AsyncClient, requests: int) -> float:
    """Requests a second."""
    started = time.perf_counter()
    for number in range(requests):
        reply = await client.post("/v1/embeddings", json={"model": "builtin", "input": f"text number {number}"})
        assert reply.status_code == 200
    return requests / (time.perf_counter() - started)


async def run(rounds: int, requests: int) -> None:
    """Prints the table."""
    with Engine.load("builtin") as engine:
        app = create_app(engine, Settings())
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            await rate(client, requests)
            ratios, rates = [], []
            for number in range(rounds):
                order = [True, False] if number % 2 else [False, True]
                found = {}
                for counting in order:
                    if counting:
                        found[True] = await rate(client, requests)
                    else:
                        with contextlib.ExitStack() as stack:
                            for name in CALLS:
                                stack.enter_context(mock.patch.object(Metrics, name, nothing))
                            found[False] = await rate(client, requests)
                rates.append(found[True])
                ratios.append(found[True] / found[False])
    print("| requests/s | with metrics / without | quartiles |\n|---:|---:|---:|")
    low, middle, high = statistics.quantiles(ratios, n=4)
    print(f"| {statistics.median(rates):.0f} | {middle:.3f} | {low:.3f} to {high:.3f} |")


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--requests", type=int, default=200)
    options = parser.parse_args()
    asyncio.run(run(options.rounds, options.requests))


if __name__ == "__main__":
    main()
