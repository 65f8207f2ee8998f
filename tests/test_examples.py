"""The examples run as they stand, against the built-in model."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.server.test_process import Process

EXAMPLES = Path(__file__).parents[1] / "examples"
Example = Callable[..., str]


@pytest.fixture(scope="module")
def server() -> Iterator[Process]:
    process = Process("--port", "0", "--threads", "2")
    try:
        yield process.ready()
    finally:
        process.close()


@pytest.fixture
def example(server: Process) -> Iterator[Example]:
    """Runs an example; returns what it printed. What it opened, it has closed."""

    def run(name: str, *arguments: str) -> str:
        command = [sys.executable, "-W", "error", str(EXAMPLES / name), *arguments, f"http://127.0.0.1:{server.port}"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("STREAMBED_")}
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        return done.stdout

    yield run
    assert server.client.get("/v1/sessions").json()["data"] == []
    assert "ERROR" not in server.output
    assert "Traceback" not in server.output


def test_no_example_is_forgotten() -> None:
    here = Path(__file__).read_text()
    for file in EXAMPLES.glob("*.py"):
        assert f'example("{file.name}"' in here


def test_search_as_you_type(example: Example) -> None:
    lines = example("search_as_you_type.py", "how many hours does my kitten sleep").splitlines()
    assert lines[0].startswith("'h' "), "there is an answer after the first keystroke"
    assert lines[-2].endswith("Adult cats sleep between twelve and sixteen hours a day.")
    match = re.fullmatch(r"last keystroke: (\d+) of (\d+) tokens computed", lines[-1])
    assert match
    computed, whole = map(int, match.groups())
    assert 0 < computed < whole, "what was typed before is not computed again"


def test_transcript(example: Example) -> None:
    output = example("transcript.py")
    triggered = re.findall(r"!! cancel: (\d\.\d\d), at (\d+) characters", output)
    assert len(triggered) == 1, "once, at the end of the talk"
    assert float(triggered[0][0]) >= 0.6
    spoken = "hello I have a problem with my router, the light is red. I want to cancel my contract."
    assert int(triggered[0][1]) <= len(spoken)
    assert f"{spoken}\n  -> " in output
    assert "  -> A contract can be cancelled at the end of any month." in output or "-> The router's light" in output
    match = re.search(r"(\d+) of (\d+) tokens were computed before the last word", output)
    assert match
    assert 0 < int(match[1]) <= int(match[2])


def test_llm_output(example: Example) -> None:
    output = example("llm_output.py")
    offsets = [int(number) for number in re.findall(r"after (\d+) characters: -?\d\.\d\d", output)]
    assert offsets == sorted(set(offsets))
    assert offsets, "an embedding came while the answer was written"
    assert re.search(r"embedded \d+\.\d ms after its last token; to the question: \d\.\d\d\n", output)
    match = re.search(r"posted as a whole it has the same vector: (\d\.\d{6})\n", output)
    assert match
    assert float(match[1]) == pytest.approx(1, abs=2e-6)
