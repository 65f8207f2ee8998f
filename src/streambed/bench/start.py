"""How long a server takes until it is ready, and how much memory it holds then and under load."""

import asyncio
from collections.abc import Sequence

from streambed.bench.case import Case, Metric
from streambed.bench.server import most_resident, serve
from streambed.bench.side import Side, find_side
from streambed.bench.texts import Texts

LOAD_TEXTS, LOAD_TOKENS = 8, 512


class Start(Case):
    """Ours alone: of another server nobody here knows the command."""

    only_ours = True
    warms_up = False
    most_rounds = 3

    def __init__(self, texts: Texts, model: str, flags: Sequence[str], api_key: str | None) -> None:
        super().__init__(
            f"start, then {LOAD_TEXTS} texts of {LOAD_TOKENS} tokens",
            [Metric("until ready", "s"), Metric("RssAnon when ready", "MiB"), Metric("RssAnon at most", "MiB")],
        )
        self._texts, self._model, self._flags, self._api_key = texts, model, flags, api_key

    async def measure(self, side: Side) -> Sequence[float]:
        async with (
            serve(self._model, self._flags) as server,
            await find_side(side.name, server.url, api_key=self._api_key) as own,
            asyncio.TaskGroup() as group,
        ):
            answer = group.create_task(own.embed([self._texts.text(LOAD_TOKENS) for _ in range(LOAD_TEXTS)]))
            loaded = await most_resident(server.pid, answer)
        most = max(server.at_most, loaded)
        return [server.ready_seconds, server.at_ready / (1 << 20), most / (1 << 20)]
