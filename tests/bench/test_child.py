"""Processes beside this one."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys

import pytest

from streambed.bench import child
from streambed.bench.child import busy, in_child, resident
from streambed.bench.server import serve
from streambed.bench.texts import tokens_of
from streambed.errors import SettingsError
from tests.server.conftest import until


def test_what_a_child_gives_and_raises() -> None:
    assert in_child(tokens_of, " a b") == 3
    with pytest.raises(AttributeError):
        in_child(tokens_of, 5)  # type: ignore[arg-type]


def test_neighbours_end_with_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "_SETTLE_SECONDS", 0.0)
    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def start(*arguments: object, **more: object) -> subprocess.Popen[bytes]:
        started.append(popen(*arguments, **more))  # type: ignore[call-overload]
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", start)
    with busy(2):
        assert [process.poll() for process in started] == [None, None]
    assert all(process.poll() is not None for process in started)


def test_a_neighbour_whose_parent_was_killed_ends() -> None:
    code = (
        "import os, subprocess, sys\n"
        "command = [sys.executable, '-c', sys.argv[1], str(os.getpid())]\n"
        "print(subprocess.Popen(command, stdout=subprocess.DEVNULL).pid)"
    )
    done = subprocess.run([sys.executable, "-c", code, child._BUSY], stdout=subprocess.PIPE, timeout=60, check=True)
    until(lambda: resident(int(done.stdout)) is None)


def test_memory_that_no_file_backs() -> None:
    before = resident(os.getpid())
    if before is None:
        pytest.skip("this system does not say")
    block = b"x" * (64 << 20)
    after = resident(os.getpid())
    assert after is not None
    assert after - before > 32 << 20
    del block


def test_a_server_that_does_not_start_says_why() -> None:
    async def run() -> None:
        async with serve("builtin", ["--no-such-flag"]):
            raise AssertionError("it is ready")

    with pytest.raises(SettingsError, match=r"the server did not start; it said: .*--no-such-flag"):
        asyncio.run(run())
