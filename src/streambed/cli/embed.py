"""`streambed embed`: vectors of texts from arguments, files or standard input."""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from streambed.cli.interrupt import cleaning_up
from streambed.cli.options import (
    MODEL,
    Command,
    first_key,
    load_engine,
    model_options,
    option,
    server_options,
    text_options,
    vector_options,
)
from streambed.cli.outputs import open_output, show_progress, why_unwritable
from streambed.cli.texts import BATCH, Item, batches, read, read_twice, refuse_empty
from streambed.errors import RequestError
from streambed.settings import Settings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Embed = Callable[[list[str]], "tuple[NDArray[np.float32], int]"]
"""Texts to float32 [n, dimensions], NaN where one is empty, and how many were too long for the window."""

SERVER_BATCH = 2048
"""Texts taken at a time for a server: the client sends them as several requests at once."""
SERVER_SECONDS = 600.0
"""How long a server may take for one request: as long as it takes by default."""


@click.command(cls=Command)
@click.argument("texts", nargs=-1)
@text_options(required=False)
@option(
    "--empty",
    type=click.Choice(["error", "null"]),
    default="error",
    help="An empty text is an error, or gets null (in .npy a row of NaN).",
    group="Texts",
)
@option(
    "--output",
    "-o",
    default="-",
    shown="standard output, as JSON lines",
    help="File to write, named .jsonl or .npy.",
    group="Vectors",
)
@vector_options
@option(
    "--long-input",
    type=click.Choice(["merge", "truncate", "error"]),
    default="merge",
    help="What to do with a text beyond the window: merge its segments' vectors, truncate it, or stop.",
    group="Vectors",
)
@server_options(None, "Use the server there instead of loading a model; --model may then be a name that it serves.")
@model_options
@click.pass_context
def embed(
    context: click.Context,
    /,
    texts: tuple[str, ...],
    inputs: tuple[str, ...],
    field: str,
    empty: Literal["error", "null"],
    output: str,
    url: str | None,
    api_key: str | None,
    **given: Any,
) -> None:
    """Print or save the vectors of texts.

    \b
    streambed embed "a text" "another"
    cat texts.txt | streambed embed > vectors.jsonl
    streambed embed --input corpus.jsonl --output vectors.npy
    streambed embed --url http://127.0.0.1:30000 --input texts.txt

    Brackets show the default of a flag and its environment variable.
    """
    _check(context, url, output)
    if files := [text for text in texts if _is_file(text)]:
        click.echo(f"{files[0]} is a file; its name is embedded. Did you mean --input {files[0]}?", err=True)
    if not texts and not inputs:
        if sys.stdin is None or sys.stdin.isatty():
            raise click.UsageError("give texts, --input, or something on standard input")
        inputs = ("-",)
    arguments = [Item(text, None, f"text {n}") for n, text in enumerate(texts)]
    hint = "; leave it out, or give --empty null"
    if empty == "error":  # before any work
        refuse_empty(itertools.chain(arguments, read_twice(inputs, field)), hint)

    import numpy as np
    import orjson

    items = itertools.chain(arguments, read(inputs, field))
    asked = {name: given[name] for name in ("instruction", "prompt_name", "input_type", "dimensions", "long_input")}
    named = given["model"] if _is_given(context, "model") else None
    load = _loaded(given, asked) if url is None else _served(url, api_key, named, asked)
    collected = []
    with (
        load as embed_texts,
        cleaning_up(),
        open_output(output) as out,
        show_progress("Embedding") as show,
    ):
        index = long = 0
        for batch in batches(items, BATCH if url is None else SERVER_BATCH):
            if empty == "error":  # what came through a pipe is known only now
                refuse_empty(batch, hint)
            try:
                vectors, beyond = embed_texts([item.text for item in batch])
            except RequestError as error:
                counted = f" (counted from {batch[0].where})" if (error.param or "").startswith("input") else ""
                raise click.ClickException(f"{error}{counted}") from None
            long += beyond
            if output.endswith(".npy"):
                collected.append(vectors)
            else:
                for number, (item, vector) in enumerate(zip(batch, vectors, strict=True), index):
                    line = {"index": number} | ({"id": item.id} if item.id is not None else {})
                    line |= {"embedding": vector if item.text else None}
                    out.write(orjson.dumps(line, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE))
            index += len(batch)
            show(index)
        if output.endswith(".npy"):
            np.save(out, np.concatenate(collected) if collected else embed_texts([])[0])
    if not index:
        click.echo("there were no texts", err=True)
    if long:
        done = "merged from their segments" if given["long_input"] == "merge" else "truncated"
        click.echo(f"{long:,} of {index:,} texts were longer than the model's window, and {done}", err=True)


def _check(context: click.Context, url: str | None, output: str) -> None:
    """What can be said of the flags before anything is read or loaded."""
    if output != "-":
        if Path(output).suffix not in (".jsonl", ".npy"):
            raise click.UsageError(f"--output is {output!r}; a name ending in .jsonl or .npy is expected")
        if (reason := why_unwritable(Path(output))) is not None:
            raise click.ClickException(f"{output}: cannot be written: {reason}")
    if url is None and _is_given(context, "api_key"):
        raise click.UsageError("--api-key is for the server of --url, and there is none")
    if url is not None:
        for name in MODEL[1:]:
            if _is_given(context, name):
                flag = f"--{name.replace('_', '-')}"
                raise click.UsageError(f"{flag} is for a model that is loaded here; --url uses the server's")


def _is_given(context: click.Context, name: str) -> bool:
    """Whether a flag stands on the command line; a variable may be there for other commands."""
    return context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE


@contextlib.contextmanager
def _loaded(given: dict[str, Any], asked: dict[str, Any]) -> Iterator[Embed]:
    """By a model that is loaded here."""
    from streambed.vectors.shape import spread

    with load_engine(Settings(**{name: given[name] for name in MODEL})) as engine:

        def embed_texts(texts: list[str]) -> tuple[NDArray[np.float32], int]:
            prompt = engine.prompt(asked["instruction"], asked["prompt_name"], asked["input_type"])
            documents = engine.documents.divide(texts, prompt, asked["long_input"])
            long = sum(len(document.segments) > 1 or document.truncated for document in documents)
            places = [place for place, text in enumerate(texts) if text]
            vectors = engine.embed_documents([documents[place] for place in places], asked["dimensions"])
            return spread(vectors, places, len(texts)), long

        yield embed_texts


@contextlib.contextmanager
def _served(url: str, api_key: str | None, model: str | None, asked: dict[str, Any]) -> Iterator[Embed]:
    """By a server, which does not tell how many texts were too long."""
    from streambed.client.client import Client

    with Client(url, api_key=first_key(api_key), model=model, timeout=SERVER_SECONDS) as client:
        yield lambda texts: (client.embed(texts, empty="null", **asked), 0)


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # too long for a name, or a NUL
        return False
