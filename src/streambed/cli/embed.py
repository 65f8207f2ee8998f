"""`streambed embed`: vectors of texts from arguments, files or standard input."""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Literal

import click

from streambed.cli.texts import Item, batches, read
from streambed.errors import RequestError


@click.command()
@click.argument("texts", nargs=-1)
@click.option(
    "--input",
    "-i",
    "inputs",
    multiple=True,
    help="File of texts, one a line (blank ones are left out), or .jsonl; - is standard input.",
)
@click.option("--field", default="text", show_default=True, help="Field of a JSONL line that holds the text.")
@click.option("--output", "-o", default="-", help="File to write: .jsonl or .npy; JSON lines on standard output.")
@click.option("--model", default="builtin", show_default=True, envvar="STREAMBED_MODEL", help="As for serve.")
@click.option("--revision", help="Branch, tag or commit of a hub model.")
@click.option("--dtype", default="auto", show_default=True, help="auto, float32 or bfloat16.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
@click.option("--instruction", help="Task that the embeddings are for, put before each text.")
@click.option("--prompt-name", help="A prompt that the checkpoint names, instead of an instruction.")
@click.option("--input-type", type=click.Choice(["query", "document"]), help="What the texts are, instead of a task.")
@click.option("--dimensions", type=int, help="Leading dimensions to keep.")
@click.option(
    "--long-input",
    type=click.Choice(["merge", "truncate", "error"]),
    default="merge",
    show_default=True,
    help="What to do with a text beyond the window: merge its segments' vectors, truncate it, or stop.",
)
def embed(
    texts: tuple[str, ...],
    inputs: tuple[str, ...],
    field: str,
    output: str,
    model: str,
    revision: str | None,
    dtype: str,
    device: str,
    instruction: str | None,
    prompt_name: str | None,
    input_type: str | None,
    dimensions: int | None,
    long_input: Literal["merge", "truncate", "error"],
) -> None:
    """Print or save the vectors of texts.

    \b
    streambed embed "a text" "another"
    cat texts.txt | streambed embed > vectors.jsonl
    streambed embed --input corpus.jsonl --output vectors.npy
    """
    if output != "-" and Path(output).suffix not in (".jsonl", ".npy"):
        raise click.UsageError(f"--output is {output!r}; a name ending in .jsonl or .npy is expected")
    if files := [text for text in texts if _is_file(text)]:
        click.echo(f"{files[0]} is a file; its name is embedded. Did you mean --input {files[0]}?", err=True)
    if not texts and not inputs:
        if sys.stdin.isatty():
            raise click.UsageError("give texts, --input, or something on standard input")
        inputs = ("-",)

    import numpy as np
    import orjson
    from rich.console import Console
    from rich.progress import Progress

    from streambed.engine.engine import Engine

    console = Console(stderr=True)
    items = itertools.chain((Item(text, None, f"text {n}") for n, text in enumerate(texts)), read(inputs, field))
    collected = []
    with (
        Engine.load(model, revision=revision, dtype=dtype, device=device) as engine,
        _open(output) as out,
        Progress(console=console, transient=True, disable=not console.is_terminal) as progress,
    ):
        bar = progress.add_task("Embedding", total=None)
        index = long = 0
        for batch in batches(items):
            try:
                prompt = engine.prompt(instruction, prompt_name, input_type)
                documents = engine.divide([item.text for item in batch], prompt, long_input)
                vectors = engine.embed_documents(documents, dimensions)
            except RequestError as error:
                counted = f" (counted from {batch[0].where})" if (error.param or "").startswith("input") else ""
                raise click.ClickException(f"{error}{counted}") from None
            long += sum(len(document.segments) > 1 or document.truncated for document in documents)
            if output.endswith(".npy"):
                collected.append(vectors)
            for item, vector in zip(batch, vectors, strict=True):
                if not output.endswith(".npy"):
                    line = {"index": index} | ({"id": item.id} if item.id is not None else {}) | {"embedding": vector}
                    out.write(orjson.dumps(line, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE))
                index += 1
            progress.update(bar, completed=index)
        if output.endswith(".npy"):
            shape = (0, dimensions or engine.info.dimensions)
            np.save(out, np.concatenate(collected) if collected else np.empty(shape, dtype=np.float32))
    if not index:
        click.echo("there were no texts", err=True)
    if long:
        done = "merged from their segments" if long_input == "merge" else "truncated"
        click.echo(f"{long:,} of {index:,} texts were longer than the model's window, and {done}", err=True)


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # too long for a name, or a NUL
        return False


@contextlib.contextmanager
def _open(output: str) -> Iterator[IO[bytes]]:
    """The output to write. A file appears under its name when it is complete, so a run that fails spoils no older one."""
    if output == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    part = Path(f"{output}.part")
    try:
        with part.open("wb") as file:
            yield file
        part.replace(output)
    except OSError as error:
        raise click.ClickException(f"{output}: cannot be written: {error.strerror}") from None
    finally:
        part.unlink(missing_ok=True)
