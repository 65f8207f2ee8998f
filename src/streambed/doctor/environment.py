"""The environment: variables that no command knows, settings that exclude each other, threads that wait for cores."""

import difflib
import os
from collections.abc import Iterator
from functools import partial

from streambed import machine
from streambed.doctor.report import Answer, Finding
from streambed.settings import Settings

PREFIX = "STREAMBED_"

_found = partial(Finding, "environment")


def examine(settings: Settings, problem: str | None, known: set[str]) -> Iterator[Finding]:
    """settings: what `serve` would use. problem: why it would not start. known: variables that some command has."""
    yield from _variables(known)
    if problem is None:
        yield _found("settings", "ok", "agree with one another")
    else:
        yield _found("settings", "FAIL", f"serve would not start: {problem}")
    cores = machine.usable_cores()
    threads = settings.threads or cores
    yield _found("threads", *_threads(threads, cores))
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        if name in os.environ:
            yield _found(name, *_library_threads(os.environ[name], threads, cores))


def _variables(known: set[str]) -> Iterator[Finding]:
    names = sorted(name for name in os.environ if name.startswith(PREFIX))
    unknown = [name for name in names if name not in known]
    for name in unknown:
        near = difflib.get_close_matches(name.removeprefix(PREFIX), [each.removeprefix(PREFIX) for each in known], 1)
        hint = f"; was {PREFIX}{near[0]} meant?" if near else ""
        yield _found(name, "warn", f"no command knows this variable, so it has no effect{hint}")
    if not unknown:
        yield _found(f"{PREFIX}*", "ok", ", ".join(names) or "none set")


def _threads(threads: int, cores: int) -> Answer:
    limit = machine.core_limit()
    if threads > cores:
        return "warn", f"{threads} threads on {cores} usable cores wait for one another; lower --threads"
    if limit is not None and threads > max(1.0, limit):
        advice = f"set --threads {max(1, int(limit))}"
        return "warn", f"{threads} threads, but the container may use {limit:g} cores; {advice}"
    return "ok", f"{threads} on {cores} usable cores"


def _library_threads(value: str, threads: int, cores: int) -> Answer:
    """The commands override these variables; programs that load an Engine do not."""
    first = value.split(",")[0].strip()
    if not first.isdigit() or not int(first):
        return "warn", f"{value!r} is no number of threads"
    if int(first) > cores:
        waiting = f"{first} threads on {cores} usable cores would wait for one another"
        return "warn", f"{waiting}; serve uses {threads} all the same"
    if int(first) != threads:
        return "warn", f"{first}, but serve computes with {threads} threads whatever it says; use --threads"
    return "ok", f"{first}, as serve will use"
