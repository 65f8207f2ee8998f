"""All checks, in the order of the report."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial

from streambed.doctor.canonical import FILE, compare_canonical, write_canonical
from streambed.doctor.checkpoint import examine_checkpoint
from streambed.doctor.environment import examine_environment
from streambed.doctor.exactness import examine_exactness
from streambed.doctor.files import examine_files
from streambed.doctor.machine import examine_machine
from streambed.doctor.report import Answer, Finding, attempt
from streambed.doctor.speed import time_query, time_step
from streambed.engine.engine import Engine
from streambed.settings import Settings


def examine(
    load: Callable[[], Engine], settings: Settings, problem: str | None, known: set[str], write: bool
) -> Iterator[Finding]:
    """Examines machine, environment, and the model that `load` loads, which is closed again.

    settings, problem, known: as `examine_environment` has them. write: whether to write the model's canonical vectors.

    Raises:
        CheckpointError, SettingsError: the model cannot be loaded.
    """
    yield from examine_machine()
    yield from examine_environment(settings, problem, known)
    started = time.perf_counter()
    with load() as engine:
        yield from examine_checkpoint(engine, time.perf_counter() - started)
        yield from examine_files(settings, engine)
        exact = True
        for finding in examine_exactness(engine):
            yield finding
            exact = exact and finding.status != "FAIL"
        if write:
            yield attempt("canonical", "written", partial(_write, engine, exact))
        yield attempt("canonical", "vectors", partial(compare_canonical, engine))
        yield attempt("speed", "short query", partial(time_query, engine))
        yield attempt("speed", "full step", partial(time_step, engine))


def _write(engine: Engine, exact: bool) -> Answer:
    path = engine.checkpoint.directory / FILE
    if not exact:
        return "FAIL", f"{path} was not written, since the model is not exact here"
    return write_canonical(engine, path)
