"""What `dashboards/` asks for is there: series with these labels, runbooks with these names."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from streambed import Engine
from streambed.model.device import Memory
from streambed.server.metrics import OUTCOMES, _memory
from streambed.settings import Settings
from tests.server.conftest import Servers

ROOT = Path(__file__).parents[2]
DASHBOARDS = ROOT / "dashboards"
SERVER_FAULTS = {"internal", "out_of_memory", "deadline", "not_ready", "overloaded", "storage_full"}
CLIENT_FAULTS = {
    "cancelled", "invalid_request", "unauthorized", "forbidden_origin", "not_found", "offset_conflict", "offset_gap",
    "revision_conflict", "revision_gap", "too_large", "unsupported_media", "uri_too_long", "headers_too_large",
    "quota_exceeded",
}  # fmt: skip
TARGET = {"job", "instance"}
"""Labels that Prometheus gives to all series of a target."""
NAME = re.compile(r"\b(?:streambed_|process_)\w+|\bup\b")
SELECTOR = re.compile(r"(\w+)\{([^}]*)\}")
MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
GROUPING = re.compile(r"\b(?:by|on|group_left) \(([^)]*)\)")


def dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((DASHBOARDS / "streambed.json").read_text())
    return loaded


def panels() -> list[dict[str, Any]]:
    """All but the rows."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((DASHBOARDS / "alerts.yml").read_text())["groups"]
    return list(group["rules"])


def expressions() -> list[tuple[str, str]]:
    """Of all panels: title and expression."""
    return [(panel["title"], target["expr"]) for panel in panels() for target in panel["targets"]]


EXPRESSIONS = [*expressions(), *((rule["alert"], rule["expr"]) for rule in rules())]
Series = dict[str, dict[str, set[str]]]
"""Labels of each series' name, and the values of each label."""


def collect(families: Iterable[Metric]) -> Series:
    found: Series = {}
    for family in families:
        for sample in family.samples:
            labels = found.setdefault(sample.name, {})
            for label, value in sample.labels.items():
                labels.setdefault(label, set()).add(value)
    return found


@pytest.fixture(scope="module")
def exposed(shared_tiny_engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Series]:
    """What a server exposes before its first request, and what it adds where it computes on a GPU."""
    servers = Servers()
    live = servers.start(shared_tiny_engine, Settings(journal=str(tmp_path_factory.mktemp("metrics") / "journal")))
    memory = Memory(free=1 << 30, total=2 << 30, reserved=1 << 29)
    gpu: Any = SimpleNamespace(compute=SimpleNamespace(memory=lambda: memory))
    series = collect(_memory(gpu))
    series |= collect(text_string_to_metric_families(live.client.get("/metrics").text)) | {"up": {}}
    yield series
    servers.stop()


@pytest.mark.parametrize(("where", "expression"), EXPRESSIONS)
def test_series_are_exposed(exposed: Series, where: str, expression: str) -> None:
    names, known = set(NAME.findall(expression)), set(TARGET)
    known |= set(re.findall(r'label_replace\(.*?"(\w+)", "\w+", "", ""\)', expression, re.S))
    assert names, where
    for name in names:
        assert name in exposed, where
        known |= exposed[name].keys()
    for name, matchers in SELECTOR.findall(expression):
        rest = MATCHER.sub("", matchers)
        assert not rest.strip(" ,\n"), rest
        for label, operator, value in MATCHER.findall(matchers):
            if label in TARGET:
                continue
            assert label in exposed[name], f"{where}: {name} has no label {label}"
            values = exposed[name][label]
            if operator in ("=", "!="):
                assert value in values, f"{where}: {label} is never {value}"
                continue
            for part in value.split("|"):
                assert any(re.fullmatch(part, each) for each in values), f"{where}: {label} is never {part}"
    for labels in GROUPING.findall(expression):
        assert set(re.split(r",\s*", labels)) <= known, f"{where}: {labels}"
    assert ("_bucket" in expression) == ("histogram_quantile" in expression), where
    for counter in re.findall(r"(\w+_total)\b", expression):
        assert re.search(rf"(?:rate|increase)\({counter}\b", expression), f"{where}: {counter} is a counter"


def test_no_series_is_forgotten(exposed: Series) -> None:
    """All of our own are drawn."""
    drawn = {name for _, expression in expressions() for name in NAME.findall(expression)}
    suffix = re.compile(r"_(bucket|sum|count)$")
    own = {suffix.sub("", name) for name in exposed if name.startswith("streambed_")}
    assert own == {suffix.sub("", name) for name in drawn if name.startswith("streambed_")}


def test_operations_page_tells_every_series(exposed: Series) -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    for name in exposed:
        told = re.search(rf"^\| `{re.sub(r'_(bucket|sum|count)$', '', name)}[`{{]", page, re.M)
        assert told or name == "up", name


def test_outcomes_are_all_judged() -> None:
    """A new error is the server's fault or the client's, and each expression that picks one of the two takes all."""
    assert set(OUTCOMES) == {"ok"} | SERVER_FAULTS | CLIENT_FAULTS
    assert not SERVER_FAULTS & CLIENT_FAULTS
    picked = [set(m[1].split("|")) for _, e in EXPRESSIONS for m in re.finditer(r'outcome=~"([^"]*)"', e)]
    left_out = [set(m[1].split("|")) for _, e in EXPRESSIONS for m in re.finditer(r'outcome!~"([^"]*)"', e)]
    assert len(picked) >= 6
    assert all(each == SERVER_FAULTS for each in picked)
    assert all(each == SERVER_FAULTS | {"ok"} for each in left_out)


def test_dashboard() -> None:
    board = dashboard()
    assert board["schemaVersion"] >= 39
    assert board["id"] is None, "the importing Grafana gives one"
    rows = [panel["title"] for panel in board["panels"] if panel["type"] == "row"]
    assert rows == ["Overview", "Streams", "Engine", "Memory", "Host"]
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    variables = {each["name"]: each for each in board["templating"]["list"]}
    assert variables.keys() == {"datasource", "job", "instance"}
    assert variables["datasource"]["query"] == "prometheus"
    for name in ("job", "instance"):
        assert variables[name]["definition"].startswith("label_values(streambed_ready")
        assert variables[name]["includeAll"]
        assert variables[name]["multi"]
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, f"{panel['title']} lies over another"
        assert at["x"] + at["w"] <= 24
        taken |= cells


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_panel(panel: dict[str, Any]) -> None:
    assert re.fullmatch(r"[^.]+(\.[^. ]|[^.])*\.", panel["description"]), "one sentence"
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    defaults = panel["fieldConfig"]["defaults"]
    assert defaults["unit"]
    steps = [step["value"] for step in defaults["thresholds"]["steps"]]
    assert steps[0] is None
    assert steps[1:] == sorted(steps[1:])
    for target in panel["targets"]:
        assert target["datasource"] == panel["datasource"]
        for name, matchers in SELECTOR.findall(target["expr"]):
            assert 'job=~"$job", instance=~"$instance"' in matchers, name
        assert len(SELECTOR.findall(target["expr"])) == len(NAME.findall(target["expr"])), "each has its selector"
        assert set(re.findall(r"\[(.*?)\]", target["expr"])) <= {"$__rate_interval"}


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_alert(rule: dict[str, Any]) -> None:
    page, _, anchor = rule["annotations"]["runbook"].partition("#")
    headings = re.findall(r"^#+ (.*)$", (ROOT / page).read_text(), re.M)
    assert anchor in map(slug, headings)
    assert anchor == rule["alert"].lower()
    assert rule["annotations"].keys() == {"summary", "description", "runbook"}
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert re.fullmatch(r"\d+[sm]", rule["for"])
    tested = [
        case
        for test in yaml.safe_load((DASHBOARDS / "alerts_test.yml").read_text())["tests"]
        for case in test["alert_rule_test"]
        if case["alertname"] == rule["alert"]
    ]
    assert any(case["exp_alerts"] for case in tested), "once it is raised"
    assert any(not case["exp_alerts"] for case in tested), "once it is not"


@pytest.mark.parametrize("path", sorted(DASHBOARDS.rglob("*.yml")), ids=lambda path: path.name)
def test_yaml_is_well_formed(path: Path) -> None:
    assert all(yaml.safe_load_all(path.read_text()))
