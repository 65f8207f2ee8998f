"""Ctrl-C: one line and exit code 130, whenever it comes and however often."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

CODE = 130
"""What shells say of a command that SIGINT ended."""

_said = threading.Event()


def say() -> None:
    """Prints the line, once."""
    if not _said.is_set():
        _said.set()
        with contextlib.suppress(OSError):
            os.write(2, b"streambed: interrupted\n")


def stop_at_once(*_: object) -> None:
    """The handler while nothing is open that has to be closed, such as while a model is loaded.

    An exception would not do: within the import of an extension module it may become another one, or be printed and lost.
    """
    say()
    os._exit(CODE)


@contextlib.contextmanager
def cleaning_up() -> Iterator[None]:
    """Within, Ctrl-C raises KeyboardInterrupt, so that files, terminal and connections are left in order; while that goes
    on, another one ends the process at once."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread gets signals
        yield
        return

    def interrupt(*_: object) -> None:
        signal.signal(signal.SIGINT, stop_at_once)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
