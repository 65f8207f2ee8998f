"""`streambed stream`: type or pipe text, and see its embedding follow."""

from __future__ import annotations

import codecs
import contextlib
import os
import queue
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Literal

import click

from streambed.cli.interrupt import cleaning_up
from streambed.cli.options import Command, first_key, option, server_options, vector_options
from streambed.cli.texts import read_lines, without_mark
from streambed.client.aclient import DEFAULT_URL
from streambed.client.events import Emitted
from streambed.errors import StreambedError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from rich.console import RenderableType

    from streambed.client.client import Stream

_ESCAPE = re.compile(r"\x1b(\[[0-9;?]*[ -/]*[@-~]|O.|.)?")
_LAST_WORD = re.compile(r"\S*\s*\Z")
_ENDED_SECONDS = 30.0
"""How long a last embedding may take after the text has ended."""
_SHOWN = 500
"""Characters of the text that are shown."""


@click.command(cls=Command)
@server_options(DEFAULT_URL, "Address of the server.")
@vector_options
@option(
    "--overflow",
    type=click.Choice(["error", "segment"]),
    default="error",
    help="What to do when the text outgrows the window: stop, or go on in segments.",
    group="Vectors",
)
@option(
    "--against",
    type=click.Path(exists=True, dir_okay=False),
    help="File of texts to compare with, one a line.",
    group="Nearest texts",
)
@option(
    "--top",
    type=click.IntRange(1, 20),
    metavar="N",
    default=3,
    help="How many of the nearest to show, 1 to 20.",
    group="Nearest texts",
)
def stream(
    url: str,
    api_key: str | None,
    instruction: str | None,
    prompt_name: str | None,
    input_type: str | None,
    dimensions: int | None,
    overflow: Literal["error", "segment"],
    against: str | None,
    top: int,
) -> None:
    """Type, or pipe text in, and see its embedding follow.

    \b
    streambed stream --against sentences.txt
    some-model "a question" | streambed stream --against topics.txt

    Backspace, Ctrl-W (a word) and Ctrl-U (all) delete; Ctrl-D ends. Where standard output is not a terminal, only the final
    embedding is printed, as a line of JSON. Brackets show the default of a flag and its environment variable.
    """
    from streambed.client.client import Client

    lines = _compared(against) if against else []
    with cleaning_up(), Client(url, api_key=first_key(api_key)) as client:
        vectors = client.embed(lines, input_type="document", dimensions=dimensions) if lines else None
        with client.open_stream(
            emit="append",
            instruction=instruction,
            prompt_name=prompt_name,
            input_type=input_type,
            dimensions=dimensions,
            overflow=overflow,
        ) as open_stream:
            view = View(open_stream, lines, vectors, top)
            if sys.stdout.isatty():
                _follow(open_stream, view)
            else:
                printing = _print_segments(open_stream)
                _feed(open_stream, view)
                if open_stream.text.endswith("\n"):  # the end of a file's last line is no text
                    open_stream.replace(open_stream.offset - 1, open_stream.offset, "")
                view.finish()
                printing(view.segment)
                click.echo(view.summary())


class View:
    """What is seen of a stream."""

    def __init__(self, stream: Stream, lines: list[str], vectors: NDArray[np.float32] | None, top: int) -> None:
        self._stream = stream
        self._lines, self._vectors, self._top = lines, vectors, top
        self._emitted: Emitted | None = None
        self._milliseconds: float | None = None
        self.typed = time.perf_counter()
        """When the text last changed."""

    def show(self, emitted: Emitted) -> None:
        """A newer embedding."""
        self._emitted = emitted
        if emitted.offset == self._stream.offset:
            self._milliseconds = (time.perf_counter() - self.typed) * 1000

    def nearest(self) -> list[tuple[float, str]]:
        """The lines that come nearest, with their cosine similarity."""
        if self._vectors is None or self._emitted is None:
            return []
        scores = self._vectors @ self._emitted.vector
        return [(float(scores[at]), self._lines[at]) for at in (-scores).argsort()[: self._top]]

    @property
    def is_behind(self) -> bool:
        """Whether the text as it is has not been seen."""
        return self._emitted is None or self._emitted.offset != self._stream.offset

    @property
    def segment(self) -> int:
        """Number of the segment that the text ends in."""
        return self._emitted.segment if self._emitted else 0

    def finish(self) -> None:
        """Gets the embedding of the whole text."""
        if self._stream.offset > self._stream.start:
            self.typed = time.perf_counter()
            self.show(self._stream.embedding())

    def summary(self) -> str:
        """How the stream ended, for programs."""
        import orjson

        emitted = self._emitted
        summary = {
            **({"segment": self.segment, "start": emitted.start} if emitted and self.segment else {}),
            "offset": self._stream.offset,
            "revision": emitted.revision if emitted else 0,
            "tokens": emitted.usage["prompt_tokens"] if emitted else 0,
            "nearest": [{"score": round(score, 6), "text": text} for score, text in self.nearest()],
            "embedding": emitted.vector if emitted else None,
        }
        return orjson.dumps(summary, option=orjson.OPT_SERIALIZE_NUMPY).decode()

    def __rich__(self) -> RenderableType:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        text, emitted = self._stream.text, self._emitted
        shown = Text(("…" if len(text) > _SHOWN else "") + text[-_SHOWN:])
        shown.append("▏", "bold green")
        if not text:
            return Group(shown, Text("type something", "dim"))
        if emitted is None:
            return Group(shown, Text("computing ..." if self._stream.session else "connecting ...", "dim"))
        usage = emitted.usage
        facts = [
            f"{usage['prompt_tokens']:,} tokens",
            f"{usage['cached_tokens']:,} cached",
            f"{usage['computed_tokens']:,} computed",
            *([] if emitted.drift is None else [f"drift {emitted.drift:.3f}"]),
            f"{emitted.timing_ms['total']:.0f} ms on the server",
            *([] if self._milliseconds is None else [f"{self._milliseconds:.0f} ms in all"]),
        ]
        line = Text(" · ".join(facts), "cyan", no_wrap=True, overflow="ellipsis")
        table = Table.grid(padding=(0, 2))
        for score, nearest in self.nearest():
            table.add_row(f"{score:.3f}", Text("█" * max(round(score * 20), 0), "green"), nearest[:100])
        return Group(shown, line, table)


def _follow(stream: Stream, view: View) -> None:
    """Live, on a terminal."""
    from rich.console import Console
    from rich.live import Live

    with Live(view, console=Console(), refresh_per_second=20, transient=False) as live:
        ended: list[Exception] = []

        def show(emitted: Emitted) -> None:
            view.show(emitted)
            live.refresh()

        def refresh() -> None:
            if ended:
                raise ended[0]
            live.refresh()

        _watch(stream, show, ended.append)
        _feed(stream, view, refresh)
        refresh()
        if view.is_behind:
            view.finish()
            live.refresh()


def _watch(stream: Stream, each: Callable[[Emitted], object], failed: Callable[[Exception], object]) -> None:
    """Takes the stream's embeddings, in a thread, until the stream or `each` fails."""

    def watch() -> None:
        try:
            for event in stream:
                if isinstance(event, Emitted):
                    each(event)
        except (StreambedError, OSError) as error:
            failed(error)

    threading.Thread(target=watch, daemon=True).start()


def _print_segments(stream: Stream) -> Callable[[int], None]:
    """Prints the last embedding of each segment that ends, a JSON line each; returns a function that waits until so
    many are printed."""
    import orjson

    printed: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()
    """None for each printed line; an error where nothing more will be printed, for example since the reader has
    left."""

    def show(emitted: Emitted) -> None:
        if emitted.final:
            line = {
                "segment": emitted.segment,
                "start": emitted.start,
                "offset": emitted.offset,
                "revision": emitted.revision,
                "tokens": emitted.usage["prompt_tokens"],
                "embedding": emitted.vector,
            }
            click.echo(orjson.dumps(line, option=orjson.OPT_SERIALIZE_NUMPY).decode())
            printed.put(None)

    def wait(count: int) -> None:
        with contextlib.suppress(queue.Empty):
            for _ in range(count):
                if (error := printed.get(timeout=_ENDED_SECONDS)) is not None:
                    raise error

    _watch(stream, show, printed.put)
    return wait


def _feed(stream: Stream, view: View, refresh: Callable[[], object] = lambda: None) -> None:
    """Everything that is typed or piped, as it comes."""
    typing = sys.stdin.isatty()
    with _keys(typing):
        for text in _chunks():
            view.typed = time.perf_counter()
            if typing:
                if not _type(stream, text):
                    return
            else:
                stream.append(text)
            refresh()


def _type(stream: Stream, keys: str) -> bool:
    """Does what keys say; False at the end."""
    plain = ""
    for key in _ESCAPE.sub("", keys):
        if key in "\x04\x08\x15\x17\x7f" and plain:
            stream.append(plain)
            plain = ""
        first, size = stream.start, stream.offset  # the text before `first` belongs to segments that have ended
        match key:
            case "\x04":
                return False
            case "\x08" | "\x7f" if size > first:
                stream.replace(size - 1, size, "")
            case "\x15":
                stream.set(stream.text[:first])
            case "\x17" if (word := _LAST_WORD.search(stream.text.rstrip())) is not None:
                stream.replace(max(word.start(), first), size, "")
            case "\r":
                plain += "\n"
            case _ if key.isprintable() or key in "\n\t":
                plain += key
    if plain:
        stream.append(plain)
    return True


def _chunks() -> Iterator[str]:
    """Standard input, as much as there is each time."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    came = iter(lambda: os.read(sys.stdin.fileno(), 1 << 14), b"")
    for data in came if sys.stdin.isatty() else without_mark(came, "standard input"):
        if text := decoder.decode(data):
            yield text
    if text := decoder.decode(b"", final=True):
        yield text


@contextlib.contextmanager
def _keys(typing: bool) -> Iterator[None]:
    """The terminal hands over each key as it is typed, and does not show it itself."""
    try:
        import termios
        import tty
    except ImportError:  # no POSIX: lines will have to do
        typing = False
    if not typing:
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _compared(file: str) -> list[str]:
    if not (lines := [stripped for _, line in read_lines(file) if (stripped := line.strip())]):
        raise click.ClickException(f"{file}: has no lines")
    return lines
