"""The `streambed` command and its sub-commands. Errors are one line on standard error, and an exit code of 1."""

import signal
import sys
from importlib import import_module

import click

import streambed
from streambed.cli import interrupt
from streambed.cli.outputs import drop_unwritable
from streambed.errors import StreambedError
from streambed.extras import explain

_COMMANDS = ("serve", "embed", "stream", "reduce", "doctor", "bench")


class Commands(click.Group):
    """Each command is in the module of its name, which is imported when it is wanted."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*_COMMANDS, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return super().get_command(ctx, cmd_name)
        command: click.Command = getattr(import_module(f"streambed.cli.{cmd_name}"), cmd_name)
        return command

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            interrupt.say()
            ctx.exit(interrupt.CODE)


# Sub-commands inherit both.
@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
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


def main() -> None:
    """Entry point."""
    signal.signal(signal.SIGINT, interrupt.stop_at_once)  # until a command has something to close
    try:
        cli()
    except (StreambedError, OSError) as error:  # not our bugs; a full disk under standard output is one of them
        drop_unwritable()
        click.echo(f"streambed: {error}", err=True)
        sys.exit(1)
    except ModuleNotFoundError as error:
        if (message := explain(error)) is None:
            raise
        click.echo(f"streambed: {message}", err=True)
        sys.exit(1)
