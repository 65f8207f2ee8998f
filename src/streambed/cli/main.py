"""The `streambed` command and its sub-commands. Errors are one line on standard error, and an exit code of 1."""

from __future__ import annotations

import sys

import click

import streambed
from streambed.cli.doctor import doctor
from streambed.cli.embed import embed
from streambed.cli.options import CONTEXT
from streambed.cli.reduce import reduce
from streambed.cli.serve import serve
from streambed.cli.stream import stream
from streambed.errors import StreambedError
from streambed.extras import explain


@click.group(context_settings=CONTEXT)
@click.version_option(streambed.__version__, package_name="streambed-embeddings")
def cli() -> None:
    """Real-time text embeddings.

    \b
    streambed serve                       serve the built-in model on http://127.0.0.1:30000
    streambed embed "a text" "another"    print their vectors, a JSON line each
    streambed embed --input texts.txt --output vectors.npy
    streambed stream --against texts.txt  type, and see the embedding follow
    streambed reduce fit --method pca --dimensions 128 --input texts.txt --output reducer
    streambed doctor                      check machine, settings and model, and say what is wrong
    """


cli.add_command(serve)
cli.add_command(embed)
cli.add_command(stream)
cli.add_command(reduce)
cli.add_command(doctor)


def main() -> None:
    """Entry point."""
    try:
        cli()
    except (StreambedError, TimeoutError) as error:
        click.echo(f"streambed: {error}", err=True)
        sys.exit(1)
    except ModuleNotFoundError as error:
        if (message := explain(error)) is None:
            raise
        click.echo(f"streambed: {message}", err=True)
        sys.exit(1)
