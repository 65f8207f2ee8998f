"""What a run of the benchmark is to do."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from streambed.bench.case import Case
from streambed.bench.growing import repost, sessions, stream
from streambed.bench.keystroke import AFTER, Keystroke
from streambed.bench.load import mixed, throughput
from streambed.bench.neighbour import neighbour
from streambed.bench.requests import instructed, latency, seed
from streambed.bench.start import Start
from streambed.bench.texts import Texts
from streambed.errors import SettingsError
from streambed.settings import Settings


class Peer(NamedTuple):
    """Another server to compare with."""

    name: str
    numbers: str | None
    """Number format, where somebody said it."""
    url: str


@dataclass(frozen=True)
class Plan:
    """As the command line has it."""

    scenarios: Sequence[str]
    settings: Settings
    """Of the server that is started, and of the engine in process."""
    flags: Sequence[str] = ()
    """The same settings as flags of `serve`."""
    url: str | None = None
    """A server of ours that runs already."""
    api_key: str | None = None
    peers: Sequence[Peer] = ()
    rounds: int = 5
    rest: float = 0.0
    """Seconds before each side's turn."""
    seconds: float = 180.0
    """Of queries beside bulk."""
    seed: int = 0
    """Of the texts. Another in each run, or a server that goes on running would know them from the one before."""


class Scenario(NamedTuple):
    """A table of the report."""

    about: str
    cases: Callable[[Plan, Texts], list[Case]]
    is_long: bool = False
    """Whether it has to be asked for."""


SCENARIOS = {
    "seed": Scenario("one short text; 20", lambda plan, texts: seed(texts)),
    "latency": Scenario("one text of 8 to 2,048 tokens", lambda plan, texts: latency(texts)),
    "instructed": Scenario("64 short queries under one instruction", lambda plan, texts: instructed(texts)),
    "stream": Scenario(
        "a keystroke, and 8 tokens, after 100 to 8,000; other servers get the whole text again",
        lambda plan, texts: stream(texts),
    ),
    "repost": Scenario("a growing text posted again, to every server", lambda plan, texts: repost(texts)),
    "keystroke": Scenario(
        "a keystroke in process, without a server",
        lambda plan, texts: [Keystroke(tokens, texts, plan.settings) for tokens in AFTER],
    ),
    "neighbour": Scenario("a query and an append beside busy processes", lambda plan, texts: neighbour(texts)),
    "start": Scenario(
        "seconds until a server is ready, and its memory",
        lambda plan, texts: [Start(texts, plan.settings.model, plan.flags, plan.api_key)],
    ),
    "throughput": Scenario(
        "1, 8 and 32 clients with short, mixed and long texts", lambda plan, texts: throughput(texts), True
    ),
    "sessions": Scenario("1 to 200 texts typed at once", lambda plan, texts: sessions(texts), True),
    "mixed": Scenario("short queries at random beside bulk", lambda plan, texts: mixed(texts, plan.seconds), True),
}
"""In the order in which they run."""
IN_PROCESS = ("keystroke", "start")
"""Those that load the model themselves; there is none where a server runs already."""


def choose(names: Sequence[str], served: bool) -> list[str]:
    """The scenarios that names mean: without names all that are not long, with `all` each of them.

    served: whether a server is there already.

    Raises:
        SettingsError: no scenario has this name, or it needs a model here.
    """
    for name in names:
        if name not in SCENARIOS and name != "all":
            raise SettingsError(f"{name!r} is no scenario; there are {', '.join(SCENARIOS)} and all")
        if name in IN_PROCESS and served:
            raise SettingsError(f"{name} starts the model itself; leave --url out")
    every = "all" in names
    return [
        name
        for name, scenario in SCENARIOS.items()
        if (name in names or every or not (names or scenario.is_long)) and not (served and name in IN_PROCESS)
    ]
