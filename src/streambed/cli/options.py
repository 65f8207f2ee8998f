"""Flags: how help shows them, and those that several commands share."""

from __future__ import annotations

import typing
from collections.abc import Callable
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

import click

from streambed.errors import SettingsError
from streambed.machine import usable_cores
from streambed.settings import Settings, parse_size, shown_default

if TYPE_CHECKING:
    from streambed.engine.engine import Engine
    from streambed.model.checkpoint import Checkpoint

Callback = TypeVar("Callback", bound=Callable[..., Any])
_FIELDS = {field.name: field for field in fields(Settings)}
_HINTS = typing.get_type_hints(Settings)


class Size(click.ParamType[int]):
    """Bytes, written as `512MiB` or `4GiB`."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> int:
        try:
            return value if isinstance(value, int) else parse_size(value)
        except ValueError as error:
            self.fail(str(error), param, context)


class Option(click.Option):
    """A flag under a heading, whose default and variable stand in brackets behind its help."""

    def __init__(self, *names: Any, group: str = "", shown: str | None = None, **more: Any) -> None:
        """shown: the default as help has it; by default as it is."""
        super().__init__(*names, **more)
        self.group = group
        if shown is None:
            default = more.get("default")
            shown = "" if default is None or default is False or default == () else str(default)
        self._shown = shown

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        record = super().get_help_record(ctx)
        if record is None:
            return None
        variables = [self.envvar] if isinstance(self.envvar, str) else list(self.envvar or ())
        default, required = [f"default: {self._shown}"] * bool(self._shown), ["required"] * self.required
        facts = [*default, *variables, *required]
        return record[0], f"{self.help}  [{'; '.join(facts)}]" if facts else self.help or ""


class Command(click.Command):
    """A command whose help has its flags under headings, in the order in which they come."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
            if record is not None:
                groups.setdefault(getattr(parameter, "group", "") or "Other", []).append(record)
        for heading, records in groups.items():
            with formatter.section(heading):
                formatter.write_dl(records)


def option(*names: str, **more: Any) -> Callable[[Callback], Callback]:
    """`click.option` with a `group`."""
    return click.option(*names, cls=Option, **more)


def setting_option(name: str, group: str, *aliases: str) -> Callable[[Callback], Callback]:
    """The flag of a field of Settings, with its variable, default and help."""
    field = _FIELDS[name]
    hint = _HINTS[name]
    kinds = typing.get_args(hint) or (hint,)
    options: dict[str, Any] = {"multiple": typing.get_origin(hint) is tuple}
    if hint is bool:
        options = {"is_flag": True}
    elif typing.get_origin(hint) is typing.Literal:
        options["type"] = click.Choice(kinds)
    elif field.metadata.get("size"):
        options["type"] = Size()
    elif int in kinds:
        options |= {"type": int, "metavar": "N"}
    elif float in kinds:
        options |= {"type": float, "metavar": field.metadata.get("unit", "SECONDS")}
    else:
        options["type"] = str
    return option(
        f"--{name.replace('_', '-')}",
        *aliases,
        name,
        default=field.default,
        shown=shown_default(field),
        envvar=f"STREAMBED_{name.upper()}",
        help=field.metadata["help"],
        group=group,
        **options,
    )


def text_options(required: bool) -> Callable[[Callback], Callback]:
    """The flags that say which files texts come from."""

    def add(command: Callback) -> Callback:
        field = option("--field", default="text", help="Field of a JSONL line that holds the text.", group="Texts")
        inputs = option(
            "--input",
            "-i",
            "inputs",
            multiple=True,
            required=required,
            help="File with one text a line (blank lines are left out), or .jsonl; - is standard input (repeatable).",
            group="Texts",
        )
        return inputs(field(command))

    return add


def vector_options(command: Callback) -> Callback:
    """The flags that say what vectors are for, and how long they are."""
    for decorate in (
        option(
            "--dimensions",
            type=int,
            metavar="N",
            help="How many leading dimensions to keep; by default as many as the model gives.",
            group="Vectors",
        ),
        option(
            "--input-type",
            type=click.Choice(["query", "document"]),
            help="What the text is, in place of an instruction.",
            group="Vectors",
        ),
        option(
            "--prompt-name",
            help="Name of one of the checkpoint's prompts, in place of an instruction.",
            group="Vectors",
        ),
        option("--instruction", help="Task that the embedding is for; it goes before the text.", group="Vectors"),
    ):
        command = decorate(command)
    return command


MODEL = (
    "model",
    "revision",
    "allow_unknown_config",
    "instruction_template",
    "dtype",
    "device",
    "quantize",
    "kv_dtype",
    "threads",
)
"""The settings of every command that loads a model."""


def load_engine(settings: Settings, checkpoint: Checkpoint | None = None) -> Engine:
    """The engine that the settings describe, computing with their threads: by default one for each usable core.

    checkpoint: that of the settings, where it has been found already.

    Raises:
        CheckpointError, SettingsError: it cannot be loaded; the message names flags.
    """
    import torch

    from streambed.engine.engine import Engine
    from streambed.engine.options import EngineOptions
    from streambed.model.checkpoint import find_checkpoint

    torch.set_num_threads(settings.threads or usable_cores())
    allow = settings.allow_unknown_config
    try:
        checkpoint = checkpoint or find_checkpoint(settings.model, settings.revision, allow_unknown_config=allow)
        return Engine(checkpoint, EngineOptions.of(settings))
    except SettingsError as error:
        raise SettingsError(error.by_flag) from None


def model_options(command: Callback) -> Callback:
    """The flags of every command that loads a model; they and their variables are those of `serve`."""
    for name in reversed(MODEL):
        command = setting_option(name, "Model and compute")(command)
    return command


def server_options(default: str | None, help: str) -> Callable[[Callback], Callback]:
    """The flags that say which server to use."""

    def add(command: Callback) -> Callback:
        key = option("--api-key", envvar="STREAMBED_API_KEY", help="Key that the server requires.", group="Server")
        return option("--url", default=default, help=help, group="Server")(key(command))

    return add


def first_key(api_key: str | None) -> str | None:
    """The key to send; the variable may hold several, as `serve` takes them."""
    return None if api_key is None else next(iter(api_key.split()), None)
