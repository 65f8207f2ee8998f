"""The page's modules: their own tests in node, and a linter that finds names that do not exist or that nobody uses."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.groups import program

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
ESLINT = HERE / "node_modules" / ".bin" / "eslint"
pytestmark = pytest.mark.slow


def run(*command: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True, timeout=300, check=False)


def test_units() -> None:
    done = run(program("node"), "--test", *sorted(HERE.glob("*.test.mjs")))
    assert done.returncode == 0, done.stdout
    assert "# fail 0" in done.stdout
    assert int(done.stdout.partition("# pass ")[2].split()[0]) > 30


@pytest.fixture
def eslint() -> Path:
    program("node")
    if not ESLINT.exists():
        pytest.skip("eslint is not installed: make .venv/e2e")
    return ESLINT


def test_lint(eslint: Path) -> None:
    done = run(eslint, "--config", HERE / "eslint.config.mjs", "--max-warnings", 0, "src/streambed/server", HERE)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_linter_finds_something(eslint: Path, tmp_path: Path) -> None:
    """The rules apply to where the page's files are."""
    page = tmp_path / "src" / "streambed" / "server" / "playground"
    page.mkdir(parents=True)
    (page / "a.js").write_text("const unused = 1;\ndocument.title = undefinedName;\nprocess.exit();\n")
    (tmp_path / "node_modules").symlink_to(HERE / "node_modules")
    shutil.copy(HERE / "eslint.config.mjs", tmp_path)
    done = run(eslint, "src", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    for told in ("'unused' is assigned", "'undefinedName' is not defined", "'process' is not defined"):
        assert told in done.stdout
    assert "document" not in done.stdout
