"""`streambed serve` as a process beside this one."""

import asyncio
import contextlib
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import NamedTuple

import httpx

from streambed.bench.child import resident
from streambed.errors import SettingsError

READY_SECONDS = 600.0
_LOOK_SECONDS = 0.02


class Server(NamedTuple):
    """One that answers `/readyz`."""

    url: str
    pid: int
    ready_seconds: float
    """From its start on."""
    at_ready: int
    """Bytes of memory that no file backs (RssAnon); 0 where the system does not say."""
    at_most: int
    """The most of that until then, looked at every 20 ms."""


@contextlib.asynccontextmanager
async def serve(model: str, flags: Sequence[str]) -> AsyncIterator[Server]:
    """Starts it on a free port of the loopback; ends it at the end of the block. flags: more of `serve`'s.

    Raises:
        SettingsError: it ended, or is not ready after ten minutes; the message is its last line.
    """
    command = [
        sys.executable,
        "-m",
        "streambed",
        "serve",
        *flags,
        "--model",
        model,
        "--host",
        "127.0.0.1",
        "--port",
        "0",
    ]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("wb") as file:  # a file, since nobody reads a pipe while requests are measured
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file)  # noqa: S603 - our own command
        try:
            yield await _until_ready(process, log)
        finally:
            process.terminate()
            await asyncio.to_thread(process.wait)


async def _until_ready(process: "subprocess.Popen[bytes]", log: Path) -> Server:
    started, most = time.perf_counter(), 0
    async with httpx.AsyncClient(timeout=5.0, trust_env=False) as http:
        while (taken := time.perf_counter() - started) < READY_SECONDS and process.poll() is None:
            now = resident(process.pid) or 0
            most = max(most, now)
            if found := re.search(r"Address: (http://127\.0\.0\.1:\d+)", log.read_text(errors="replace")):
                with contextlib.suppress(httpx.HTTPError):
                    if (await http.get(f"{found[1]}/readyz")).status_code == 200:
                        return Server(found[1], process.pid, taken, now, most)
            await asyncio.sleep(_LOOK_SECONDS)
    lines = log.read_text(errors="replace").split("\n")
    said = next((line for line in reversed(lines) if line.strip()), "nothing")
    raise SettingsError(f"the server did not start; it said: {said[:300]}")


async def most_resident(pid: int, until: "asyncio.Future[int]") -> int:
    """Bytes of memory that no file backs: the most that a process has until something is done, looked at every 20 ms."""
    most = 0
    while not until.done():
        most = max(most, resident(pid) or 0)
        await asyncio.sleep(_LOOK_SECONDS)
    return most
