"""Processes beside this one: those that compute for it, and those that only keep a core busy."""

import contextlib
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

Given = ParamSpec("Given")
Found = TypeVar("Found")
_SETTLE_SECONDS = 0.3
_BUSY = "import os, sys\nwhile os.getppid() == int(sys.argv[1]): sum(range(100_000))"
"""Ends with its parent, however that ends."""


def in_child(work: Callable[Given, Found], *given: Given.args, **more: Given.kwargs) -> Found:
    """What a function of a module gives in a new process, whose threads and memory go with it. Raises what it raises."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor:
        return executor.submit(work, *given, **more).result()


@contextlib.contextmanager
def busy(number: int) -> Iterator[None]:
    """So many other processes that each want a core for themselves."""
    command = [sys.executable, "-c", _BUSY, str(os.getpid())]
    processes = [subprocess.Popen(command) for _ in range(number)]  # noqa: S603 - our own command
    try:
        time.sleep(_SETTLE_SECONDS * bool(number))
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def resident(pid: int) -> int | None:
    """Bytes of memory that a process holds and no file backs; None where the system does not say, or it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon:")), None)
