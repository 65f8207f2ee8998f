"""Speed: how long a short query takes, and how many rows a second a full step computes."""

import time
from itertools import cycle, islice

from streambed.doctor.report import Answer
from streambed.doctor.texts import TEXTS
from streambed.engine.engine import Engine


def time_query(engine: Engine) -> Answer:
    """Of ten rows, end token included, with nothing cached."""
    ids = list(islice(cycle(engine.tokenizer.encode(TEXTS[0])), min(10, engine.info.max_tokens) - 1))
    seconds = [_time(engine, [ids]) for _ in range(5)]
    return "ok", f"{min(seconds) * 1000:.1f} ms for {len(ids) + 1} tokens, the best of {len(seconds)}"


def time_step(engine: Engine) -> Answer:
    """Of as many rows as a step has while somebody types, in texts of up to 128 tokens."""
    rows = engine.info.max_batch_tokens
    each = min(128, rows, engine.info.max_tokens)
    ids = list(islice(cycle(engine.tokenizer.encode(" ".join(TEXTS))), each - 1))
    seconds = []
    for _ in range(3):
        before = engine.stats()
        seconds.append(_time(engine, [ids] * (rows // each)))
        after = engine.stats()
    computed, steps = after.rows - before.rows, after.steps - before.steps
    what = "a step" if steps == 1 else f"{steps} steps"
    return "ok", f"{computed / min(seconds):,.0f} rows a second in {what} of {computed:,}, texts of {each} tokens"


def _time(engine: Engine, texts: list[list[int]]) -> float:
    """Seconds for all of them together, with nothing cached."""
    engine.evict()
    started = time.perf_counter()
    for future in engine.submit_batch(texts):
        future.result()
    return time.perf_counter() - started
