"""The wheel, and what `pip install` of it without extras gives: the client, in an environment of its own.

pip takes what the client depends on from where it is set up to: the only tests that reach beyond this machine.
"""

from __future__ import annotations

import email
import json
import os
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from streambed.extras import EXTRAS
from tests.server.test_process import Process

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
WHEEL_BYTES = 25_000_000
"""The built-in model is most of it."""
CLIENT_BYTES = 140_000_000
"""What the client adds to an empty environment."""


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


@dataclass(frozen=True)
class Environment:
    folder: Path
    empty: int
    """Bytes before anything was installed."""

    def run(self, program: str, *arguments: str | Path, input: str = "") -> subprocess.CompletedProcess[str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "STREAMBED"))}
        return subprocess.run(
            [self.folder / "bin" / program, *arguments],
            cwd=self.folder,
            env=kept,
            input=input,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", folder, ROOT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def client(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    folder = tmp_path_factory.mktemp("client") / "venv"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    made = Environment(folder, size_of(folder))
    done = made.run("python", "-m", "pip", "install", wheel)
    assert done.returncode == 0, done.stderr
    return made


@pytest.fixture(scope="module")
def server() -> Iterator[Process]:
    process = Process("--port", "0", "--threads", "1")
    try:
        yield process.ready()
    finally:
        process.close()


def test_what_is_in_the_wheel(wheel: Path) -> None:
    assert wheel.stat().st_size < WHEEL_BYTES
    with zipfile.ZipFile(wheel) as file:
        names = file.namelist()
        (described,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(file.read(described))
    assert {name.split("/")[0] for name in names} == {"streambed", described.split("/")[0]}
    assert len(names) == len(set(names))
    assert [name for name in names if name.endswith(".safetensors")] == ["streambed/model/builtin/model.safetensors"]
    assert not [name for name in names if "test" in name or name.endswith((".pyc", ".part"))]
    shipped = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src" / "streambed").rglob("*.*")}
    assert {name for name in shipped if "__pycache__" not in name} <= set(names)
    licences = {name.partition(".dist-info/licenses/")[2] for name in names} - {""}
    vendored = {path.relative_to(ROOT).as_posix() for path in (ROOT / "src").rglob("*LICENSE*")}
    assert licences == {"LICENSE"} | vendored | {
        path.relative_to(ROOT).as_posix() for path in (ROOT / "src").rglob("NOTICE")
    }
    plain = {line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line}
    assert plain == set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"])


def test_it_is_small_and_has_nothing_of_the_server(client: Environment, wheel: Path) -> None:
    added = size_of(client.folder) - client.empty
    print(f"wheel {wheel.stat().st_size / 1e6:.0f} MB, client {added / 1e6:.0f} MB, empty {client.empty / 1e6:.0f} MB")
    assert added < CLIENT_BYTES
    code = "import importlib.util, sys; print([name for name in sys.argv[1:] if importlib.util.find_spec(name)])"
    assert client.run("python", "-c", code, *EXTRAS["server"], *EXTRAS["reduce"]).stdout == "[]\n"
    checked = client.run("python", "-m", "pip", "check")
    assert checked.returncode == 0, checked.stdout


USE = """
import asyncio, sys
from streambed import AsyncClient, Client, StreambedError

with Client(sys.argv[1]) as client, client.open_stream() as stream:
    stream.append("my kitten")
    stream.append(" sleeps")
    print(round(float(stream.embedding().vector @ client.embed(["my kitten sleeps"])[0]), 3))

async def use():
    async with AsyncClient(sys.argv[1]) as client:
        print((await client.embed(["one", "two"])).shape)

asyncio.run(use())
"""


def test_clients_and_the_commands_that_use_a_server_work(client: Environment, server: Process) -> None:
    url = f"http://127.0.0.1:{server.port}"
    done = client.run("python", "-c", USE, url)
    assert (done.returncode, done.stdout) == (0, "1.0\n(2, 384)\n"), done.stderr
    for command in ("stream", "embed"):
        done = client.run("streambed", command, "--url", url, input="a brook\n")
        assert done.returncode == 0, done.stderr
        assert len(json.loads(done.stdout)["embedding"]) == 384


@pytest.mark.parametrize("command", [[], ["serve"], ["embed"], ["stream"], ["doctor"], ["reduce"], ["reduce", "fit"]])
def test_help(command: list[str], client: Environment) -> None:
    done = client.run("streambed", *command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: streambed")


@pytest.mark.parametrize(
    ("extra", "command"),
    [
        ("server", ["serve"]),
        ("server", ["embed", "a text"]),
        ("server", ["doctor"]),
        ("reduce", ["reduce", "fit", "--method", "pca", "--dimensions", "8", "--input", "-", "--output", "never"]),
        ("reduce", ["reduce", "eval", "never", "--input", "-"]),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else value,
)
def test_what_is_missing_is_named_in_one_line(extra: str, command: list[str], client: Environment) -> None:
    done = client.run("streambed", *command, input="a text\n")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"streambed: this needs the extra [{extra}]")
    assert f"pip install '.[{extra}]'" in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_engine_names_the_extra(client: Environment) -> None:
    done = client.run("python", "-c", "from streambed import Engine")
    assert done.stderr.splitlines()[-1].startswith("ImportError: streambed.Engine: this needs the extra [server]")
