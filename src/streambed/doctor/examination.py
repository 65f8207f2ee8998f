"""All checks, in the order of the report."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

from streambed.doctor import canonical, checkpoint, environment, exactness, files, machine, quantization, speed
from streambed.doctor.report import Answer, Finding, attempt
from streambed.engine.engine import Engine
from streambed.settings import Settings


def examine(
    load: Callable[[Settings], Engine],
    settings: Settings,
    problem: str | None,
    known: set[str],
    texts: Sequence[str],
    write: bool,
) -> Iterator[Finding]:
    """Examines machine, environment, and the model that `load` loads, which is closed again.

    settings, problem, known: as `environment.examine` has them. texts: what a quantised model is compared by. write: whether
    to write the model's canonical vectors.

    Raises:
        CheckpointError, SettingsError: the model cannot be loaded.
    """
    yield from machine.examine()
    yield from environment.examine(settings, problem, known)
    started = time.perf_counter()
    with load(settings) as engine:
        yield from checkpoint.examine(engine, time.perf_counter() - started)
        yield from files.examine(settings, engine)
        exact = True
        for finding in exactness.examine(engine):
            yield finding
            exact = exact and finding.status != "FAIL"
        if write:
            yield attempt("canonical", "written", partial(_write, engine, exact))
        yield attempt("canonical", "vectors", partial(canonical.compare, engine))
        yield attempt("speed", "short query", partial(speed.time_query, engine))
        yield attempt("speed", "full step", partial(speed.time_step, engine))
        info, vectors = engine.info, None
        if info.has_int8:
            vectors = quantization.embed(engine, texts)
    if vectors is not None:  # one after the other: memory need not hold both
        with load(replace(settings, quantize="none", kv_dtype="auto")) as full:
            yield from quantization.compare(vectors, full, texts, info.full_matrices)


def _write(engine: Engine, exact: bool) -> Answer:
    path = engine.checkpoint.directory / canonical.FILE
    if not exact:
        return "FAIL", f"{path} was not written, since the model is not exact here"
    return canonical.write(engine, path)
