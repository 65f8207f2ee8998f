"""Results, as tables and as JSON."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from streambed.bench.case import Metric
from streambed.bench.floor import Rates
from streambed.bench.spread import Spread, spread

OURS = "Streambed"


@dataclass(frozen=True)
class Row:
    """A case's figures in one metric."""

    scenario: str
    case: str
    metric: Metric
    values: Mapping[str, Sequence[float]]
    """By the names of the sides, of each round. A side that was not asked is missing."""
    floor: float | None = None
    """What ours cannot get past, in the metric's unit."""

    @property
    def title(self) -> str:
        """Names the row."""
        what = "" if self.metric.name in ("time", "speed") else f": {self.metric.name}"
        return f"{self.case}{what}, {self.metric.unit}"

    def share(self) -> float | None:
        """Of what is possible at most, how much our median reaches: 1 is the floor itself."""
        if self.floor is None:
            return None
        median = spread(self.values[OURS]).median
        return median / self.floor if self.metric.more_is_better else self.floor / median

    def ratio(self, peer: str) -> Spread | None:
        """How many times better ours is than a peer's, round by round: above 1 we win. None where it was not asked."""
        if peer not in self.values:
            return None
        pairs = zip(self.values[OURS], self.values[peer], strict=True)
        return spread([self.metric.ratio(ours, theirs) for ours, theirs in pairs])


@dataclass
class Report:
    """A run, as far as it has come."""

    facts: Mapping[str, str]
    """Of machine, model and software."""
    sides: Mapping[str, str]
    """Number format by name; ours is first."""
    rates: Rates | None
    """None where they were not measured: the model is not here, or does not run on the CPU."""
    rows: list[Row] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    """How long each scenario took."""
    failures: list[str] = field(default_factory=list)
    """Cases that were left out, and why."""

    def as_json(self) -> dict[str, Any]:
        """Everything, every round's figure included."""
        rows = [
            asdict(row)
            | {"metric": row.metric._asdict(), "share_of_floor": row.share()}
            | {"ratios": {peer: ratio._asdict() for peer in self.peers if (ratio := row.ratio(peer))}}
            for row in self.rows
        ]
        return {
            "facts": self.facts,
            "sides": self.sides,
            "rates": None if self.rates is None else asdict(self.rates),
            "rows": rows,
            "seconds": self.seconds,
            "failures": self.failures,
        }

    @property
    def peers(self) -> Sequence[str]:
        return [name for name in self.sides if name != OURS]

    def head(self) -> str:
        """What was measured on what, and what the machine does at most."""
        return "\n".join(["; ".join(f"{name}: {value}" for name, value in self.facts.items()), *self._rates()])

    def table(self, scenario: str) -> str:
        """One scenario's, in Markdown."""
        titles = {name: f"{name} ({numbers})" for name, numbers in self.sides.items()}
        rows = [row for row in self.rows if row.scenario == scenario]
        floors = any(row.floor is not None for row in rows)
        peers = [peer for peer in self.peers if any(peer in row.values for row in rows)]
        columns = [scenario, titles[OURS], *(["of its floor"] if floors else [])]
        for peer in peers:
            columns += [titles[peer], "ratio", "quartiles"]
        lines = [_line(columns), f"|---|{'---:|' * (len(columns) - 1)}"]
        for row in rows:
            cells = [row.title, figure(spread(row.values[OURS]).median)]
            if floors:
                cells.append("" if (share := row.share()) is None else f"{share:.0%}")
            for peer in peers:
                ratio = row.ratio(peer)
                cells += ["", "", ""] if ratio is None else [figure(spread(row.values[peer]).median), *_ratio(ratio)]
            lines.append(_line(cells))
        return "\n".join(lines)

    def markdown(self) -> str:
        """All of it."""
        scenarios = dict.fromkeys(row.scenario for row in self.rows)
        tables = [self.table(scenario) for scenario in scenarios]
        failures = [f"Left out: {failure}" for failure in self.failures]
        return "\n\n".join([self.head(), *tables, *failures, *self._legend()]) + "\n"

    def _rates(self) -> Iterator[str]:
        if self.rates is None:
            return
        sizes = sorted({rows for products in self.rates.products.values() for rows in products})
        yield ""
        yield _line(
            [f"10⁹ multiply-adds a second, {self.rates.threads} threads", *(f"{rows:,} rows" for rows in sizes)]
        )
        yield f"|---|{'---:|' * len(sizes)}"
        for numbers, products in self.rates.products.items():
            yield _line([numbers, *(f"{products[rows] / 1e9:,.0f}" for rows in sizes)])
        yield f"\nReads: {self.rates.reads / 1e9:.1f} GB a second."

    def _legend(self) -> Iterator[str]:
        text = "Figures are medians over rounds."
        if self.rates is not None:
            text += (
                " *Of its floor*: what reading the weights once (and the keys and values that are there), or the "
                "multiply-adds of the tokens and their attention, takes at these rates, whichever is longer, over what it "
                "took."
            )
        if self.peers:
            text += (
                " *Ratio*: how many times better Streambed is, the median over rounds in turns; below 1 it is worse."
            )
        yield text


def figure(value: float) -> str:
    """Two places below 1, one below 10, and whole numbers from there on."""
    places = 2 if value < 0.995 else 1 if value < 9.95 else 0
    return f"{value:,.{places}f}"


def _ratio(ratio: Spread) -> tuple[str, str]:
    return f"{ratio.median:.2f}", f"{ratio.low:.2f} to {ratio.high:.2f}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
