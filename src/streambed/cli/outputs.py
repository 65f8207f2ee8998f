"""Where results go: files that appear when they are complete, standard output, whose reader may leave, and a bar."""

import contextlib
import errno
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import click


def why_unwritable(path: Path) -> str | None:
    """Why no file of this name can be written; None where it can. For a look before hours of work."""
    folder = path.absolute().parent
    reasons = (
        (errno.EISDIR, path.is_dir()),
        (errno.ENOENT, not folder.exists()),
        (errno.ENOTDIR, not folder.is_dir()),
        (errno.EACCES, not os.access(folder, os.W_OK | os.X_OK)),
    )
    return next((os.strerror(reason) for reason, holds in reasons if holds), None)


@contextlib.contextmanager
def open_output(output: str) -> Iterator[IO[bytes]]:
    """The file to write, or standard output for `-`. A file appears under its name when it is complete, so a run that fails
    spoils no older one. Raises ClickException."""
    part = Path(f"{output}.part")
    try:
        if output == "-":
            if sys.stdout is None:
                raise click.ClickException("standard output is closed")
            yield sys.stdout.buffer
            sys.stdout.buffer.flush()
        else:
            with part.open("wb") as file:
                yield file
            part.replace(output)
    except BrokenPipeError:
        raise  # the reader has left, such as `head`
    except OSError as error:
        name = "standard output" if output == "-" else output
        raise click.ClickException(f"{name}: cannot be written: {error.strerror}") from None
    finally:
        if output != "-":
            part.unlink(missing_ok=True)


@contextlib.contextmanager
def show_progress(what: str, total: float | None = None) -> Iterator[Callable[[float], None]]:
    """A bar, where standard error is a terminal. Yields what takes how much of `total` is done."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task(what, total=total)
        yield lambda completed: progress.update(bar, completed=completed)


def drop_unwritable() -> None:
    """Drops what standard output cannot take; otherwise the interpreter would complain a second time when it exits."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
