"""A run: servers found or started, what the machine does at most, then each case in turns."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Mapping

import streambed
from streambed.bench.case import Case
from streambed.bench.child import in_child
from streambed.bench.compare import Figures, take_turns
from streambed.bench.floor import Floor, tokens
from streambed.bench.plan import SCENARIOS, Plan
from streambed.bench.rates import measure_rates
from streambed.bench.report import OURS, Report, Row
from streambed.bench.server import serve
from streambed.bench.side import Side, find_side
from streambed.bench.texts import Texts
from streambed.errors import ConnectionLost, SettingsError
from streambed.machine import processor, usable_cores
from streambed.model.checkpoint import find_checkpoint

FORMATS = ("bfloat16", "int8")
"""Whose products are measured, beside that of our weights."""
COUNTED = 32
"""Tokens of a text by which servers are asked how they count."""


async def run(plan: Plan, say: Callable[[str], None], show: Callable[[Report, str | None], None]) -> Report:
    """Measures all that is planned. say: is told what goes on, a line each; show: gets the report as far as it is, with None
    when its head is known, then with the name of each scenario that is complete.

    A case in which a server fails is left out, and the report says so.

    Raises:
        SettingsError: a server is not there, or not ours. ConnectionLost: it does not answer at all.
    """
    async with contextlib.AsyncExitStack() as stack:
        # First of all, so that a server that is not there is known at once.
        found = [await find_side(peer.name, peer.url, peer.numbers) for peer in plan.peers]
        peers = [await stack.enter_async_context(side) for side in found]
        url = plan.url
        if url is None:
            say("starting streambed serve ...")
            url = (await stack.enter_async_context(serve(plan.settings.model, plan.flags))).url
        ours = await stack.enter_async_context(await find_side(OURS, url, api_key=plan.api_key))
        if ours.info is None:
            raise SettingsError(f"{url} is no Streambed server; give it as --compare NAME={url}")
        sides = [ours, *peers]
        texts = Texts(plan.seed)
        for side in sides:
            counted = await side.embed([texts.text(COUNTED)])
            if counted not in (0, COUNTED):
                say(f"{side.name} counts {counted} tokens in a text of {COUNTED}: is its model another?")
        floor = None
        if plan.url is None and str(ours.info["device"]) == "cpu":
            say("measuring how fast this machine multiplies and reads ...")
            floor = await asyncio.to_thread(_floor, plan, ours)
        report = Report(
            _facts(plan, ours), {side.name: side.numbers for side in sides}, None if floor is None else floor.rates
        )
        show(report, None)
        for name in plan.scenarios:
            started = time.monotonic()
            for case in SCENARIOS[name].cases(plan, texts):
                say(f"{name}: {case.name} ...")
                try:
                    figures = await take_turns(case, sides, plan.rounds, plan.rest)
                except ConnectionLost as error:
                    report.failures.append(f"{name}, {case.name}: {error}")
                    say(f"left out: {report.failures[-1]}")
                else:
                    report.rows += rows_of(name, case, figures, floor)
            report.seconds[name] = time.monotonic() - started
            show(report, name)
        return report


def rows_of(scenario: str, case: Case, figures: Figures, floor: Floor | None) -> Iterator[Row]:
    """A row for each metric. The first has a floor if the case says what it takes."""
    for place, metric in enumerate(case.metrics):
        least = None
        if floor is not None and case.work is not None and place == 0:
            seconds = floor.seconds(case.work)
            least = tokens(case.work) / seconds if metric.more_is_better else seconds * 1000
        values = {name: [each[place] for each in rounds] for name, rounds in figures.items()}
        yield Row(scenario, case.name, metric, values, least)


def _floor(plan: Plan, ours: Side) -> Floor:
    settings = plan.settings
    rates = in_child(measure_rates, list(dict.fromkeys([*FORMATS, ours.numbers])), settings.threads or usable_cores())
    checkpoint = find_checkpoint(settings.model, settings.revision, allow_unknown_config=settings.allow_unknown_config)
    return Floor(checkpoint.config, ours.numbers, rates)


def _facts(plan: Plan, ours: Side) -> Mapping[str, str]:
    assert ours.info is not None, "it is ours"
    return {
        "model": ours.model,
        "seed": str(plan.seed),
        "machine": f"{usable_cores()} cores of {processor()}",
        OURS: f"{streambed.__version__}, {ours.info['threads']} threads, kernels {ours.info['kernels']}",
    }
