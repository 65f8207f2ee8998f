"""Keystrokes in the process that types: the library's `Engine`, without a server between."""

import asyncio
import statistics
import time
from collections.abc import Sequence

from streambed.bench.case import Case, Metric
from streambed.bench.child import in_child
from streambed.bench.floor import Part
from streambed.bench.side import Side
from streambed.bench.texts import END, Texts
from streambed.machine import usable_cores
from streambed.settings import Settings

AFTER = (100, 2000, 5500)
KEYSTROKES = 20


class Keystroke(Case):
    """A word of one token after so many: from the append to its vector, the median of several."""

    only_ours = True
    warms_up = False

    def __init__(self, tokens: int, texts: Texts, settings: Settings) -> None:
        metric = Metric("time", "ms")
        super().__init__(f"a keystroke after {tokens:,}, in process", [metric], work=[Part(1 + END, tokens)])
        self._tokens, self._texts, self._settings = tokens, texts, settings

    async def measure(self, side: Side) -> Sequence[float]:
        text, typed = self._texts.words(self._tokens), self._texts.words(KEYSTROKES).split()
        found = await asyncio.to_thread(in_child, time_keystrokes, self._settings, text, typed)
        return [statistics.median(found) * 1000]


def time_keystrokes(settings: Settings, text: str, typed: Sequence[str]) -> list[float]:
    """Seconds from each word to its vector, after the text. Loads the model that the settings name, into this process."""
    import torch

    from streambed.engine.engine import Engine
    from streambed.engine.options import EngineOptions
    from streambed.model.checkpoint import find_checkpoint

    torch.set_num_threads(settings.threads or usable_cores())
    checkpoint = find_checkpoint(settings.model, settings.revision, allow_unknown_config=settings.allow_unknown_config)
    found = []
    with Engine(checkpoint, EngineOptions.of(settings)) as engine, engine.open_session(text) as session:
        session.embedding()
        for word in typed:
            started = time.perf_counter()
            session.append(f" {word}")
            session.embedding()
            found.append(time.perf_counter() - started)
    return found[len(found) // 4 :]  # the first ones wake threads and memory
