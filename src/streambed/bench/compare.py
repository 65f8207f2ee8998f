"""A case, in turns: ours, then each other server with the same texts, round by round, with a rest before each."""

import asyncio
import time
from collections.abc import Mapping, Sequence

from streambed.bench.case import Case
from streambed.bench.side import Side
from streambed.errors import ConnectionLost, StreambedError

CASE_SECONDS = 120.0
"""A case that has taken so long ends after its round, if it has had enough of them."""
LEAST_ROUNDS = 3

Figures = Mapping[str, Sequence[Sequence[float]]]
"""By the names of the sides: of each round a figure for each metric of the case."""


async def take_turns(case: Case, sides: Sequence[Side], rounds: int, rest: float) -> Figures:
    """Figures of at most so many rounds. Raises ConnectionLost where a server does not answer as it should."""
    sides = sides[:1] if case.only_ours else sides
    rounds = rounds if case.most_rounds is None else min(rounds, case.most_rounds)
    found: dict[str, list[Sequence[float]]] = {side.name: [] for side in sides}
    started = time.monotonic()
    lost: StreambedError | None = None
    try:
        await case.open(sides)
        for number in range(-case.warms_up, rounds):
            case.draw()
            for side in sides:
                await asyncio.sleep(rest)
                figures = await case.measure(side)
                if number >= 0:
                    found[side.name].append(figures)
            if number + 1 >= LEAST_ROUNDS and time.monotonic() - started > CASE_SECONDS:
                break
    except* StreambedError as errors:  # alone, or from among the tasks of a case
        lost = _first(errors)
    finally:
        await case.close()
    if lost is not None:
        raise ConnectionLost(str(lost)) from lost
    return found


def _first(errors: BaseExceptionGroup[StreambedError]) -> StreambedError:
    first = errors.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
