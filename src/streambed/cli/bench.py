"""`streambed bench`: how fast a server is on this machine, alone or in turns with others."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from streambed.cli.interrupt import cleaning_up
from streambed.cli.options import Command, first_key, option, server_options
from streambed.cli.outputs import why_unwritable
from streambed.cli.serve import serve
from streambed.errors import SettingsError
from streambed.extras import require
from streambed.settings import Settings

if TYPE_CHECKING:
    from streambed.bench.plan import Peer
    from streambed.bench.report import Report

NUMBERS = ("float32", "bfloat16", "float16", "int8", "int4")
REST_SECONDS = 1.5
"""Before each turn where several servers share the machine: threads of some go on spinning for a second after a request."""


@click.command(cls=Command)
@click.argument("arguments", metavar="[SCENARIO]... [-- FLAGS OF serve]", nargs=-1, type=click.UNPROCESSED)
@option(
    "--model",
    shown="random weights in the shape of Qwen3-Embedding-0.6B, made at the first run",
    help="Model to serve: builtin, a directory, or a hub id.",
    group="What is measured",
)
@option("--rounds", type=click.IntRange(1), default=5, help="How often each side has its turn.", group="How")
@option(
    "--rest",
    type=click.FloatRange(0),
    metavar="SECONDS",
    shown=f"{REST_SECONDS} with --compare, else 0",
    help="Pause before each turn.",
    group="How",
)
@option(
    "--seconds",
    type=click.FloatRange(1),
    default=180.0,
    metavar="SECONDS",
    help="How long queries come beside bulk, in the scenario mixed.",
    group="How",
)
@option(
    "--compare",
    multiple=True,
    metavar="NAME[:FORMAT]=URL",
    help="Server to compare with, and the number format of its weights (repeatable).",
    group="What is measured",
)
@server_options(None, "A Streambed that runs already; by default one is started.")
@option(
    "--output", "-o", type=click.Path(path_type=Path), help="Folder for results.json, results.md and PNGs.", group="How"
)
@click.pass_context
def bench(
    context: click.Context,
    /,
    arguments: tuple[str, ...],
    model: str | None,
    url: str | None,
    api_key: str | None,
    compare: tuple[str, ...],
    rounds: int,
    rest: float | None,
    seconds: float,
    output: Path | None,
) -> None:
    """Measure how fast embeddings come on this machine, and print tables.

    \b
    streambed bench
    streambed bench seed latency --model builtin -- --dtype bfloat16
    streambed bench all --compare vllm:bfloat16=http://127.0.0.1:8000 --output results

    \b
    by default:        seed latency instructed stream repost keystroke neighbour start
    when asked for:    throughput sessions mixed, which take minutes each; all

    What each of them does is in benchmarks/README.md. Brackets show the default of a flag and its environment variable.
    """
    from streambed.bench.checkpoint import kept_checkpoint
    from streambed.bench.plan import Plan, choose
    from streambed.bench.report import OURS
    from streambed.bench.run import run

    names = list(arguments)
    flags: list[str] = []
    if (first := next((place for place, each in enumerate(names) if each.startswith("-")), None)) is not None:
        names, flags = names[:first], names[first:]
    if url is not None and flags:
        raise click.UsageError("flags of serve are for a server that is started here; --url names one that runs")
    if url is not None and model is not None:
        raise click.UsageError("--model is for a server that is started here; --url names one that runs")
    scenarios = choose(names, url is not None)
    peers = [peer_of(text) for text in compare]
    if len({OURS, *(peer.name for peer in peers)}) <= len(peers):
        raise SettingsError(f"--compare: each server needs a name of its own, and {OURS} is ours")
    if output is not None:
        require("bench")
        output.mkdir(parents=True, exist_ok=True)
        if (reason := why_unwritable(output / "results.json")) is not None:
            raise SettingsError(f"--output {output}: cannot be written: {reason}")
    settings = Settings()
    if url is None:
        require("server")
        settings = _settings(model or str(kept_checkpoint()), flags)
        if model is None:
            _make_checkpoint()
    plan = Plan(
        scenarios=scenarios,
        settings=settings,
        flags=flags,
        url=url,
        api_key=first_key(api_key),
        peers=peers,
        rounds=rounds,
        rest=rest if rest is not None else REST_SECONDS * bool(peers),
        seconds=seconds,
        seed=int(time.time()),
    )

    def show(report: Report, scenario: str | None) -> None:
        click.echo(f"{report.head() if scenario is None else report.table(scenario)}\n")
        if scenario is not None:
            _say(f"{scenario} took {report.seconds[scenario] / 60:.1f} minutes")
        # Each time, so that a run that is interrupted leaves what it has.
        if output is not None and scenario is not None:
            _write(report, scenario, output)

    with cleaning_up():
        report = asyncio.run(run(plan, _say, show))
    if report.failures:
        raise click.ClickException(f"left out: {'; '.join(report.failures)}")


def peer_of(text: str) -> Peer:
    """`vllm:bfloat16=http://127.0.0.1:8000`. Raises SettingsError."""
    from streambed.bench.plan import Peer

    head, equals, url = text.partition("=")
    name, colon, numbers = head.partition(":")
    if not name or not equals or not url or (colon and numbers not in NUMBERS):
        raise SettingsError(
            f"--compare is {text!r}; NAME=URL or NAME:FORMAT=URL is expected, FORMAT one of {', '.join(NUMBERS)}"
        )
    return Peer(name, numbers or None, url)


def _settings(model: str, flags: list[str]) -> Settings:
    """Those of `streambed serve` with these flags, so that a wrong one is known before anything starts."""
    import dataclasses

    with serve.make_context("streambed serve", [*flags, "--model", model], help_option_names=[]) as context:
        names = {field.name for field in dataclasses.fields(Settings)}
        return Settings(**{name: value for name, value in context.params.items() if name in names})


def _make_checkpoint() -> None:
    from streambed.bench.checkpoint import is_made, kept_checkpoint, make_0_6b
    from streambed.bench.child import in_child

    if not is_made(kept_checkpoint()):
        _say(f"making a random checkpoint of 1.2 GB in {kept_checkpoint()} ...")
        in_child(make_0_6b, kept_checkpoint())


def _say(line: str) -> None:
    click.echo(f"streambed bench: {line}", err=True)


def _write(report: Report, scenario: str, folder: Path) -> None:
    """The results so far, and a picture of this scenario's."""
    from streambed.bench.plot import draw

    (folder / "results.json").write_text(json.dumps(report.as_json(), indent=1))
    (folder / "results.md").write_text(report.markdown())
    if any(row.scenario == scenario for row in report.rows):
        draw(report, scenario, folder / f"{scenario}.png")
