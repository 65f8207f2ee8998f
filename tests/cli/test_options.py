"""Help: every flag of every command under a heading, with its default and its variable, and nothing too wide."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from streambed.cli.main import cli
from streambed.cli.options import MODEL
from streambed.settings import groups


def commands(group: click.Group = cli, *path: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command that does something, with the words that lead to it."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, *path, name)
        else:
            yield (*path, name), command


COMMANDS = dict(commands())


def options(command: click.Command) -> list[click.Option]:
    return [each for each in command.params if isinstance(each, click.Option) and not each.hidden]


def said(*path: str) -> str:
    result = CliRunner().invoke(cli, [*path, "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    return result.output


def flat(text: str) -> str:
    return " ".join(text.split())


def entries(text: str) -> dict[str, str]:
    """What help says of each flag, by its first long name."""
    found = re.split(r"^  (?=-)", text, flags=re.MULTILINE)[1:]
    return {re.search(r"--[-a-z]+", each)[0]: flat(each.partition("\n\n")[0]) for each in found}  # type: ignore[index]


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_flag_has_its_help_default_and_variable(path: tuple[str, ...]) -> None:
    shown = entries(said(*path))
    for option in options(COMMANDS[path]):
        entry = shown[next(name for name in option.opts if name.startswith("--"))]
        assert (option.help or "").endswith("."), option.name
        assert flat(option.help or "") in entry
        if option.envvar:
            assert entry.endswith(f"{option.envvar}]"), entry
        if isinstance(option.default, str | int | float) and option.default != "" and not option.is_flag:
            value = re.search(r"\[default: (.*?)[;\]]", entry)
            assert value, entry
            written = option.default if option.name == "output" else option.type.convert(value[1], option, None)
            assert written == option.default, entry


@pytest.mark.parametrize("path", [(), ("reduce",), *COMMANDS], ids=" ".join)
def test_help_fits_on_a_page(path: tuple[str, ...]) -> None:
    """At most 100 columns however wide the terminal is, and headings that break it up."""
    lines = said(*path).splitlines()
    assert max(map(len, lines)) <= 100
    assert "Options:" not in lines or path in ((), ("reduce",))
    assert max(len(part.splitlines()) for part in "\n".join(lines).split("\n\n")) <= 24


def test_serve_has_the_headings_of_the_settings() -> None:
    lines = said("serve").splitlines()
    headings = [line.removesuffix(":") for line in lines if re.fullmatch(r"[A-Z][a-z ]+:", line)]
    assert [heading for heading in headings if heading in groups()] == list(groups())
    for heading, settings in groups().items():
        for field in settings:
            flag = f"--{field.name.replace('_', '-')}"
            (at,) = (number for number, line in enumerate(lines) if re.match(rf"  {flag}\b(?!-)", line))
            above = [line for line in lines[:at] if re.fullmatch(r"[A-Z][a-z ]+:", line)]
            assert above[-1] == f"{heading}:", flag


def test_a_command_that_loads_a_model_has_the_flags_of_serve() -> None:
    """The same names, variables, defaults and help wherever a model is loaded."""
    serving = {option.name: option for option in options(COMMANDS["serve",])}
    loading = [path for path, command in COMMANDS.items() if any(each.name == "dtype" for each in command.params)]
    assert {("embed",), ("doctor",), ("reduce", "fit"), ("reduce", "eval")} < set(loading)
    for path in loading:
        found = {option.name: option for option in options(COMMANDS[path])}
        for name in MODEL:
            mine, its = found[name], serving[name]
            assert (mine.envvar, mine.default, mine.help) == (its.envvar, its.default, its.help), (path, name)
