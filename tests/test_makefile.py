"""`make` on a fresh machine: what it installs, in which order, and what it says where something is missing."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone whose Python and pip only write down what they are asked to do."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name in ("python", "pip"):
        program = programs / name
        program.write_text(f'#!/bin/sh\necho {name} "$@" >> {tmp_path}/done\n')
        program.chmod(0o755)
    return tmp_path


def make(clone: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", *arguments], cwd=clone, capture_output=True, text=True, timeout=120, check=False)


def test_torch_comes_first_and_nothing_later_replaces_it(clone: Path) -> None:
    (clone / ".venv/pip").touch()
    result = make(clone, ".venv/dev", "TORCH_INDEX=http://127.0.0.1:1/a b", "GPU=0")
    assert result.returncode == 0, result.stderr
    torch, *later = (clone / "done").read_text().splitlines()
    assert torch == "python tools/install_torch.py torch==2.13.0 --index http://127.0.0.1:1/a b --gpu 0"
    common = "pip install --disable-pip-version-check --constraint constraints.txt --editable"
    assert later == [f"{common} .[server]", f"{common} .[dev,reduce]"]
    assert len(re.findall(r"^Streambed: set up in \d+ seconds; \.venv has \d+ MB$", result.stdout, re.M)) == 2
    (clone / "done").unlink()
    assert make(clone, ".venv/dev", "GPU=0").returncode == 0
    assert not (clone / "done").exists(), "what is set up is not set up again"
    make(clone, ".venv/serve", "GPU=1")
    assert (clone / "done").read_text().startswith("python tools/install_torch.py torch==2.13.0 --index  --gpu 1\n")


def test_every_extra_keeps_the_build_of_torch() -> None:
    makefile = (ROOT / "Makefile").read_text()
    extras = [line for line in makefile.splitlines() if "'.[" in line]
    assert extras
    assert all(line.startswith("\t$(INSTALL) '.[") for line in extras), extras
    assert len(re.findall(r"\bpip install", makefile)) == 1, "the one in INSTALL"


def test_pre_commit_does_what_lint_does() -> None:
    """With the tools of .venv: nothing is downloaded."""
    (recipe,) = re.findall(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.M)
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local"
    assert [hook["entry"] for hook in repository["hooks"]] == re.findall(
        r"^\t(.*)$", recipe.replace("$(BIN)", ".venv/bin"), re.M
    )
    for hook in repository["hooks"]:
        assert (hook["language"], hook["pass_filenames"], hook["always_run"]) == ("system", False, True)


@pytest.mark.parametrize(
    ("patch", "told"),
    [
        (None, "Streambed needs Python 3.11 or newer, and ./old does not run: make PYTHON="),
        ("sys.version_info = (3, 10, 12)", "Streambed needs Python 3.11 or newer, and ./old is 3.10: make PYTHON="),
        ("sys.version_info = (2, 7, 18)", "Streambed needs Python 3.11 or newer, and ./old is 2.7: make PYTHON="),
        ("sys.modules['ensurepip'] = None", "Streambed needs venv and ensurepip, which ./old has not; on Debian"),
        ("sys.modules['venv'] = None", "Streambed needs venv and ensurepip, which ./old has not; on Debian"),
    ],
    ids=["none", "3.10", "2.7", "no ensurepip", "no venv"],
)
def test_what_is_missing_is_said(patch: str | None, told: str, clone: Path) -> None:
    if patch is not None:
        (clone / "old").write_text(f"#!{sys.executable}\nimport sys\n{patch}\nexec(sys.argv[2])\n")
        (clone / "old").chmod(0o755)
    result = make(clone, ".venv/serve", "PYTHON=./old")
    assert result.returncode == 2
    assert result.stderr.splitlines()[0].startswith(told), result.stderr
    assert not (clone / "done").exists()
