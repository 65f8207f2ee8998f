"""`streambed doctor`: the machine, the environment and the model that a server would use, looked at before it is needed."""

from __future__ import annotations

import dataclasses
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from streambed.cli.options import Command, load_engine, model_options, option, setting_option
from streambed.cli.serve import serve
from streambed.cli.texts import read_lines
from streambed.doctor.environment import PREFIX
from streambed.doctor.report import Finding, Printer, in_words
from streambed.errors import CheckpointError, SettingsError, StreambedError
from streambed.model.checkpoint import Checkpoint, find_checkpoint
from streambed.settings import Settings

if TYPE_CHECKING:
    from streambed.engine.engine import Engine


@click.command(cls=Command)
@model_options
@setting_option("kv_memory", "What is examined")
@option(
    "--texts",
    type=click.Path(exists=True, dir_okay=False),
    help="Texts, one on each line, by which int8 is compared with full precision; by default some of our own.",
    group="What is examined",
)
@option("--json", "as_json", is_flag=True, help="Print one JSON object instead of lines.", group="Output")
@option("--write-canonical", is_flag=True, hidden=True, help="Write canonical.json beside the weights.")
@click.pass_context
def doctor(context: click.Context, /, texts: str | None, as_json: bool, write_canonical: bool, **given: Any) -> None:
    """Check the machine, the environment variables and the model that a server would use, and say what is wrong.

    \b
    streambed doctor
    streambed doctor --model Qwen/Qwen3-Embedding-0.6B --json
    streambed doctor --quantize int8 --texts texts.txt

    It loads the model and checks that streamed, edited and batched texts get the same vectors; with --quantize int8 or
    --kv-dtype int8 it also says what that costs. The exit code is 1 if any line says FAIL. Brackets show the default of
    a flag and its environment variable.
    """
    report = Printer(as_json)
    try:
        # First of all, so that a wrong name is said in one line.
        allow = given["allow_unknown_config"]
        checkpoint = find_checkpoint(given["model"], given["revision"], allow_unknown_config=allow)
        from streambed.doctor.examination import examine
        from streambed.doctor.texts import SENTENCES

        settings, problem = _settings(given)
        known = _known_variables(context)
        compared = SENTENCES if texts is None else [line for _, line in read_lines(texts)]
        if settings.quantize == "none" and settings.kv_dtype == "auto" and texts is not None:
            raise click.UsageError("--texts are for what --quantize int8 or --kv-dtype int8 is compared by")
        if not compared:
            raise click.UsageError(f"{texts}: there is no text in it")
        load = partial(_load, checkpoint)
        for finding in examine(load, settings, problem, known, compared, write_canonical):
            report.add(finding)
    except StreambedError as error:
        if as_json:
            report.add(Finding("model", "load", "FAIL", str(error)))
            report.end()
        raise
    if not report.end():
        sys.exit(1)


def _load(checkpoint: Checkpoint, settings: Settings) -> Engine:
    try:
        return load_engine(settings, checkpoint)
    except (RuntimeError, MemoryError, OSError) as error:  # the device's: no memory, no driver
        raise CheckpointError(f"{checkpoint.directory}: cannot be loaded: {in_words(error)}") from error


def _settings(given: dict[str, Any]) -> tuple[Settings, str | None]:
    """What `serve` would run with here, these flags included; and why it would not start, or None."""
    try:
        # Without --help: click keeps its names on the command from the first context on, and without a parent they lack -h.
        values = serve.make_context("serve", [], help_option_names=[]).params
        names = {field.name for field in dataclasses.fields(Settings)}
        return Settings(**{name: value for name, value in values.items() if name in names} | given), None
    except click.ClickException as error:
        return Settings(**given), error.format_message()
    except SettingsError as error:
        return Settings(**given), str(error)


def _known_variables(context: click.Context) -> set[str]:
    """The variables of all settings and of all options of all commands."""
    known = {f"{PREFIX}{field.name.upper()}" for field in dataclasses.fields(Settings)}
    commands = [context.find_root().command]
    while commands:
        command = commands.pop()
        if isinstance(command, click.Group):
            found = (command.get_command(context, name) for name in command.list_commands(context))
            commands += filter(None, found)
        for names in (parameter.envvar or () for parameter in command.params):
            known.update([names] if isinstance(names, str) else names)
    return known
