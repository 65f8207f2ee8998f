"""Ctrl-C and SIGTERM, at chosen moments: one line, exit code 130, and nothing left behind."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

SECONDS = 120
"""How long an end may take before a test calls it a hang."""

START = """
import os, signal, sys, time
from streambed.cli import interrupt, main
def stop(*_, **__):
    for _ in range(TIMES):
        os.kill(os.getpid(), SIGNAL)
    time.sleep(SLEEP)
"""
MOMENTS = {
    # Half of torch is there, and an exception would have to pass through what imports the other half.
    "import": """
class Finder:
    def find_spec(self, name, *_):
        if name == "torch.nn":
            stop()
sys.meta_path.insert(0, Finder())
""",
    "weights": "import streambed.model.stock.device as device; device.load_network = stop",
    "calibrate": "import streambed.engine.core as core; core.StepBudget.measure = stop",
    "work": "import streambed.engine.engine as engine; engine.Engine.embed_documents = stop",
}
END = "sys.argv[0] = 'streambed'; main.main()"


def run(moment: str, *arguments: str | Path, times: int = 1, sent: int = signal.SIGINT, sleep: float = 60.0) -> str:
    """Runs a command that is sent a signal at that moment, and does nothing more there; returns what it said."""
    values = (("TIMES", times), ("SIGNAL", int(sent)), ("SLEEP", sleep))
    code = START + MOMENTS[moment] + "\n" + END
    for name, value in values:
        code = code.replace(name, str(value))
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        input=b"a\nb\n",
        capture_output=True,
        timeout=SECONDS,
        check=False,
    )
    said = done.stderr.decode()
    assert done.returncode == (130 if sent == signal.SIGINT else 0), said
    assert "Traceback" not in said
    assert "Exception ignored" not in said
    return said


def lines(said: str) -> list[str]:
    """What is not a log line."""
    return [line for line in said.splitlines() if not line.startswith("INFO ")]


@pytest.mark.parametrize(
    ("moment", "times", "command"),
    [
        ("import", 2, ["serve", "--port", "0"]),
        pytest.param("import", 1, ["embed", "a"], marks=pytest.mark.slow),
        pytest.param(
            "import",
            2,
            ["reduce", "fit", "--method", "pca", "--dimensions", "4", "--input", "-", "--output", "OUT"],
            marks=pytest.mark.slow,
        ),
        pytest.param("import", 1, ["doctor", "--json"], marks=pytest.mark.slow),
        ("weights", 2, ["embed", "a", "--output", "OUT.npy"]),
        ("calibrate", 1, ["serve", "--port", "0"]),
    ],
    ids=lambda each: each[0] if isinstance(each, list) else str(each),
)
def test_ctrl_c_while_loading(
    tiny_checkpoint: Path, tmp_path: Path, moment: str, times: int, command: list[str]
) -> None:
    arguments = [each.replace("OUT", str(tmp_path / "out")) for each in command]
    said = run(moment, *arguments, "--model", tiny_checkpoint, times=times)
    assert lines(said) == ["streambed: interrupted"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("script", ["/usr/bin/streambed", "/lib/streambed/__main__.py"])
def test_ctrl_c_while_the_command_itself_is_imported(script: str) -> None:
    """Which is before main() is called."""
    code = f"""
import os, signal, sys
class Finder:
    def find_spec(self, name, *_):
        if name == "click":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
sys.argv[0] = {script!r}
from streambed.cli.main import main
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=SECONDS, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"streambed: interrupted\n")


@pytest.mark.parametrize("moment", ["import", "weights"])
def test_sigterm_while_loading_is_an_orderly_end_of_serve(tiny_checkpoint: Path, moment: str) -> None:
    assert lines(run(moment, "serve", "--port", "0", "--model", tiny_checkpoint, sent=signal.SIGTERM)) == []


@pytest.mark.parametrize("times", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_ctrl_c_at_work_leaves_no_half_file(tiny_checkpoint: Path, tmp_path: Path, times: int) -> None:
    old = tmp_path / "vectors.npy"
    old.write_bytes(b"older")
    said = run("work", "embed", "--output", old, "--model", tiny_checkpoint, times=times)
    assert lines(said) == ["streambed: interrupted"]
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == {"vectors.npy": b"older"}
