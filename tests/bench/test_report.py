"""Tables, ratios and JSON of figures that are made up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from streambed.bench.case import MILLISECONDS, SPEED, Metric
from streambed.bench.floor import Rates
from streambed.bench.plot import draw
from streambed.bench.report import OURS, Report, Row, figure

RATES = Rates(2, 30.1e9, {"bfloat16": {8: 72e9, 512: 539e9}, "int8": {8: 148e9, 512: 1212e9}})
FACTS = {"model": "random", "machine": "2 cores"}


@pytest.fixture
def report() -> Report:
    report = Report(FACTS, {OURS: "int8", "vllm": "bfloat16"}, RATES)
    report.rows += [
        Row("seed", "1 text", MILLISECONDS, {OURS: [50.0, 100.0, 80.0], "vllm": [100.0, 50.0, 160.0]}, 40.0),
        Row("seed", "many", SPEED, {OURS: [1500.0], "vllm": [3000.0]}, 6000.0),
        Row("start", "start", Metric("until ready", "s"), {OURS: [6.04]}),
    ]
    return report


def test_tables_say_formats_floors_and_spread(report: Report) -> None:
    assert report.table("seed") == (
        "| seed | Streambed (int8) | of its floor | vllm (bfloat16) | ratio | quartiles |\n"
        "|---|---:|---:|---:|---:|---:|\n"
        "| 1 text, ms | 80 | 50% | 100 | 2.00 | 1.25 to 2.00 |\n"
        "| many, tokens/s | 1,500 | 25% | 3,000 | 0.50 | 0.50 to 0.50 |"
    )
    assert report.table("start") == ("| start | Streambed (int8) |\n|---|---:|\n| start: until ready, s | 6.0 |")


def test_the_whole_says_what_the_machine_does(report: Report) -> None:
    text = report.markdown()
    assert text.startswith("model: random; machine: 2 cores\n")
    assert "| bfloat16 | 72 | 539 |\n| int8 | 148 | 1,212 |\n\nReads: 30.1 GB a second.\n" in text
    assert report.table("seed") in text
    assert "*Ratio*" in text
    alone = Report(FACTS, {OURS: "bfloat16"}, None, [Row("seed", "1 text", MILLISECONDS, {OURS: [1.0]})])
    assert "floor" not in alone.markdown().lower()
    assert "*Ratio*" not in alone.markdown()


def test_json_has_every_round(report: Report) -> None:
    value = json.loads(json.dumps(report.as_json()))
    first, _, last = value["rows"]
    assert first["values"] == {OURS: [50, 100, 80], "vllm": [100, 50, 160]}
    assert first["metric"] == {"name": "time", "unit": "ms", "more_is_better": False}
    assert (first["share_of_floor"], first["ratios"]["vllm"]["median"]) == (0.5, 2)
    assert (last["share_of_floor"], last["ratios"]) == (None, {})
    assert value["rates"]["reads"] == 30.1e9


def test_pictures(report: Report, tmp_path: Path) -> None:
    for scenario in ("seed", "start"):
        draw(report, scenario, tmp_path / f"{scenario}.png")
        assert (tmp_path / f"{scenario}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.123, "0.12"), (0.996, "1.0"), (1.04, "1.0"), (9.94, "9.9"), (9.96, "10"), (12345.6, "12,346")],
)
def test_figures(value: float, shown: str) -> None:
    assert figure(value) == shown
