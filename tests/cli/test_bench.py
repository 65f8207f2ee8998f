"""`streambed bench`: every scenario against a server of ours and one of somebody else's, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from streambed.bench import growing, load, neighbour, requests
from streambed.bench.plan import SCENARIOS, Peer, choose
from streambed.cli.bench import peer_of
from streambed.cli.main import cli
from streambed.errors import SettingsError, StreambedError
from tests.bench.conftest import Other, engine, live, nowhere, other, prompted_checkpoint, serve, session_live
from tests.server.conftest import Live

__all__ = ["engine", "live", "nowhere", "other", "prompted_checkpoint", "serve", "session_live"]

Bench = Callable[..., Result]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Runs it with little to do."""
    monkeypatch.setattr(requests, "LATENCY_TOKENS", (8,))
    monkeypatch.setattr(growing, "STREAM_TOKENS", (20,))
    monkeypatch.setattr(growing, "REPOST_TOKENS", (30,))
    monkeypatch.setattr(growing, "TYPISTS", (2,))
    monkeypatch.setattr(growing, "TYPING_SECONDS", 0.5)
    monkeypatch.setattr(neighbour, "AFTER", 20)
    monkeypatch.setattr(neighbour, "BUSY", (0, 1))
    monkeypatch.setattr(load, "CLIENTS", (2,))
    monkeypatch.setattr(load, "SIZES", {"short": (8, 16)})
    monkeypatch.setattr(load, "REQUESTS", {"short": 4})
    monkeypatch.setattr(load, "BULK_CLIENTS", 2)
    monkeypatch.setattr(load, "BULK_TOKENS", 8)

    def run(*arguments: str) -> Result:
        result = CliRunner().invoke(cli, ["bench", *arguments])
        assert "Traceback" not in result.output
        assert isinstance(result.exception, SystemExit | StreambedError | None), result.exception
        return result

    return run


def test_every_scenario_against_both(bench: Bench, live: Live, other: Other, tmp_path: Path) -> None:
    compare = f"theirs:bfloat16={other.url}"
    output = tmp_path / "made" / "here"
    arguments = ["--url", live.url, "--compare", compare, "--rounds", "1", "--rest", "0", "--seconds", "1"]
    result = bench("all", *arguments, "--output", str(output))
    assert result.exit_code == 0, result.output
    value = json.loads((output / "results.json").read_text())
    assert value["sides"] == {"Streambed": "float32", "theirs": "bfloat16"}
    scenarios = [name for name in SCENARIOS if name not in ("keystroke", "start")]
    assert list(dict.fromkeys(row["scenario"] for row in value["rows"])) == scenarios
    for row in value["rows"]:
        assert set(row["values"]) == {"Streambed", "theirs"}
        assert all(figure > 0 for figures in row["values"].values() for figure in figures), row
        assert row["ratios"]["theirs"]["low"] <= row["ratios"]["theirs"]["high"]
    assert list(value["seconds"]) == scenarios
    page = (output / "results.md").read_text()
    for name in scenarios:
        assert f"| {name} | Streambed (float32) | theirs (bfloat16) | ratio | quartiles |" in page
        assert f"| {name} | Streambed (float32) | theirs (bfloat16) | ratio | quartiles |" in result.stdout
        assert (output / f"{name}.png").exists()
    inputs = [text for body in other.posted for text in body["input"]]
    grown = [text for text in inputs if len(text.split()) > 18]
    assert any(longer != text and longer.startswith(text) for text in grown for longer in grown), "whole texts again"


def test_a_case_that_fails_is_left_out(bench: Bench, live: Live, other: Other, tmp_path: Path) -> None:
    """What was measured before is kept."""
    other.fails_from = 5  # of 20 texts in one request
    arguments = ["--url", live.url, "--compare", f"theirs={other.url}", "--rounds", "1", "--rest", "0"]
    result = bench("seed", *arguments, "--output", str(tmp_path))
    assert result.exit_code == 1
    assert "left out: seed, 20 x 10 tokens: theirs answered 413" in result.stderr
    value = json.loads((tmp_path / "results.json").read_text())
    assert [row["case"] for row in value["rows"]] == ["1 x 10 tokens"]
    assert "Left out: seed, 20 x 10 tokens: theirs answered 413" in (tmp_path / "results.md").read_text()


def test_a_peer_and_its_format() -> None:
    assert peer_of("vllm:bfloat16=http://127.0.0.1:1") == Peer("vllm", "bfloat16", "http://127.0.0.1:1")
    assert peer_of("other=http://a/b?c=d") == Peer("other", None, "http://a/b?c=d")
    for wrong in ("vllm", "=http://127.0.0.1:1", "vllm:bf16=http://127.0.0.1:1", "vllm:=http://a", "vllm="):
        with pytest.raises(SettingsError, match="NAME=URL or NAME:FORMAT=URL is expected"):
            peer_of(wrong)


def test_help_names_every_scenario() -> None:
    text = CliRunner().invoke(cli, ["bench", "--help"]).stdout
    short, long = (next(line for line in text.splitlines() if each in line) for each in ("by default:", "asked for:"))
    for name, scenario in SCENARIOS.items():
        assert name in (long if scenario.is_long else short).replace(",", " ").split()


def test_which_scenarios_run() -> None:
    assert choose(["mixed", "seed"], served=False) == ["seed", "mixed"], "in the order of the table"
    assert choose([], served=False) == [name for name in SCENARIOS if not SCENARIOS[name].is_long]
    assert choose(["all"], served=False) == list(SCENARIOS)
    assert choose(["all"], served=True) == [name for name in SCENARIOS if name not in ("keystroke", "start")]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["sed"], "'sed' is no scenario"),
        (["start", "--url", "http://127.0.0.1:1"], "start starts the model itself; leave --url out"),
        (["seed", "--url", "http://127.0.0.1:1", "--", "--dtype", "float32"], "--url names one that runs"),
        (["seed", "--model", "builtin", "--", "--port", "x"], "'x' is not a valid integer"),
        (["seed", "--model", "builtin", "--", "--no-such-flag"], "No such option"),
        (["seed", "--model", "builtin", "--url", "http://127.0.0.1:1"], "--model is for a server that is started"),
        (["seed", "--compare", "here"], "NAME=URL"),
        (["seed", "--compare", "a=http://a", "--compare", "a=http://b"], "a name of its own"),
        (["seed", "--compare", "Streambed=http://a"], "Streambed is ours"),
        (["seed", "--rounds", "0"], "--rounds"),
        (["seed", "--url", "ftp://127.0.0.1"], "URL"),
    ],
)
def test_what_is_refused_before_anything_is_measured(bench: Bench, arguments: list[str], says: str) -> None:
    result = bench(*arguments)
    assert result.exit_code != 0
    assert says in result.output + str(result.exception)


def test_servers_that_are_not_there_or_not_ours(bench: Bench, live: Live, other: Other, nowhere: str) -> None:
    for arguments, says in (
        (["--url", nowhere], "Streambed: "),
        (["--url", live.url, "--compare", f"them={nowhere}"], "them: "),
        (["--url", other.url], "is no Streambed server; give it as --compare"),
    ):
        result = bench("seed", *arguments)
        assert isinstance(result.exception, SettingsError)
        assert says in str(result.exception)


@pytest.mark.slow
def test_a_server_of_its_own(bench: Bench) -> None:
    """Rates, floors, and what loads the model itself."""
    result = bench("seed", "keystroke", "start", "--model", "builtin", "--rounds", "1", "--", "--dtype", "bfloat16")
    assert result.exit_code == 0, result.output
    assert "Reads: " in result.stdout
    for name in ("seed", "keystroke"):
        assert f"| {name} | Streambed (bfloat16) | of its floor |" in result.stdout
    assert "until ready, s |" in result.stdout
