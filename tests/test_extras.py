"""What runs without the extras, and what is said where one is needed; tests/packaging has an environment for it."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from streambed.extras import EXTRAS, explain
from tests.client.conftest import engine, live, prompted_checkpoint, serve, session_live
from tests.server.conftest import Live

__all__ = ["engine", "live", "prompted_checkpoint", "serve", "session_live"]

ROOT = Path(__file__).parents[1]

WITHOUT = """
import importlib.abc, sys

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {modules!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
"""


def run(code: str, *arguments: str, extra: str = "server", input: str = "") -> subprocess.CompletedProcess[str]:
    """Python code in a process where no module of the extra can be found."""
    code = WITHOUT.format(modules=EXTRAS[extra]) + code
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], input=input, capture_output=True, text=True, timeout=120, check=False
    )


COMMAND = "sys.argv[0] = 'streambed'; from streambed.cli.main import main; main()"


def project() -> dict[str, list[str]]:
    """Distributions of each extra."""
    found: dict[str, list[str]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    return {extra: [re.split(r"[>=<~!]", line)[0] for line in lines] for extra, lines in found.items()}


@pytest.mark.parametrize("extra", EXTRAS)
def test_the_table_is_what_the_package_declares(extra: str) -> None:
    modules = {"prometheus-client": "prometheus_client", "scikit-learn": "sklearn", "umap-learn": "umap"}
    client = ("h11", "streambed-embeddings[server]")  # there in any case
    declared = [modules.get(name, name) for name in project()[extra] if name not in client]
    assert sorted(EXTRAS[extra]) == sorted(declared)


def test_what_needs_a_server_brings_it() -> None:
    assert {extra for extra, names in project().items() if "streambed-embeddings[server]" in names} == {
        "bench",
        "dev",
        "reduce",
        "training",
    }


def test_every_dependency_has_its_row() -> None:
    page = (ROOT / "docs" / "dependencies.md").read_text()
    rows = {name for row in re.findall(r"^\| ([^|]+) \|", page, re.M) for name in row.split(", ")}
    everywhere = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert {re.split(r"[>=<~!]", line)[0] for line in everywhere} | set(project()["server"]) <= rows


def test_every_help_and_every_public_name_but_the_engines_needs_no_extra() -> None:
    done = run(
        """
import click, streambed
from click.testing import CliRunner
from streambed.cli.main import cli

def walk(command, path):
    result = CliRunner().invoke(cli, [*path, "--help"])
    assert result.exit_code == 0 and result.output.startswith("Usage: "), (path, result.output, result.exception)
    print(*path)
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            walk(command.get_command(context, name), [*path, name])

walk(cli, [])
for name in streambed.__all__:
    if name not in ("Engine", "Session"):
        assert getattr(streambed, name).__name__ == name
assert set(streambed.__all__) - set(dir(streambed)) == {"Engine", "Session"}
import pydoc
assert "class Client" in pydoc.render_doc(streambed, renderer=pydoc.plaintext), "help() does not ask for what is not there"
"""
    )
    assert done.returncode == 0, done.stderr
    assert {"serve", "embed", "stream", "doctor", "reduce fit", "reduce eval", "bench"} <= set(done.stdout.splitlines())


def test_client_and_the_commands_that_use_a_server_need_no_extra(live: Live) -> None:
    done = run(
        """
from streambed import Client
with Client(sys.argv[1]) as client, client.open_stream() as stream:
    stream.append("a b")
    print(client.embed(["one", "two"]).shape[0], stream.embedding().vector.shape == client.embed(["a b"])[0].shape)
""",
        live.url,
    )
    assert (done.returncode, done.stdout) == (0, "2 True\n"), done.stderr
    for command in (["stream", "--url", live.url], ["embed", "--url", live.url]):
        done = run(COMMAND, *command, input="a text\n")
        assert done.returncode == 0, done.stderr
        assert "embedding" in done.stdout


@pytest.mark.parametrize("name", ["Engine", "Session"])
def test_the_engine_names_the_extra(name: str) -> None:
    done = run(f"from streambed import {name}")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"ImportError: streambed.{name}: this needs the extra [server]")
    assert "pip install '.[server]'" in last


@pytest.mark.parametrize(
    ("extra", "arguments"),
    [
        ("server", ["serve", "--port", "0"]),
        ("server", ["serve", "--port", "0", "--metrics-port", "0"]),
        ("server", ["embed", "a text"]),
        ("server", ["doctor"]),
        ("server", ["doctor", "--json"]),
        ("reduce", ["reduce", "fit", "--method", "pca", "--dimensions", "8", "--input", "-", "--output", "never"]),
        ("reduce", ["reduce", "fit", "--method", "umap", "--dimensions", "8", "--input", "-", "--output", "never"]),
        ("reduce", ["reduce", "eval", "never", "--input", "-"]),
        ("bench", ["bench", "--url", "http://127.0.0.1:1", "--output", "never"]),
        ("server", ["bench", "seed"]),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value[:4]),
)
def test_a_command_says_in_one_line_which_extra_it_needs(extra: str, arguments: list[str]) -> None:
    done = run(COMMAND, *arguments, extra=extra, input="a text\n")
    assert done.returncode == 1
    assert done.stdout == ""
    assert re.fullmatch(
        rf"streambed: this needs the extra \[{extra}\], .* pip install '\.\[{extra}\]' \(README.*\)\n", done.stderr
    ), done.stderr


def test_other_missing_modules_are_not_explained_away() -> None:
    assert explain(ModuleNotFoundError("No module named 'nothing'", name="nothing")) is None
    assert explain(ModuleNotFoundError("without a name")) is None
    assert explain(ModuleNotFoundError("No module named 'torch.nn'", name="torch.nn")) is not None
