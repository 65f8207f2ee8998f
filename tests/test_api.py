from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import streambed


def test_all_is_sorted_and_every_name_is_there() -> None:
    assert streambed.__all__ == sorted(set(streambed.__all__))
    for name in streambed.__all__:
        assert getattr(streambed, name).__name__ == name


def test_dir_lists_the_public_names_and_imports_none_of_them() -> None:
    code = "import sys, streambed; print(*dir(streambed)); assert not {'torch', 'httpx'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == sorted([*streambed.__all__, "__version__"])


def test_names_are_the_ones_of_their_modules() -> None:
    from streambed.engine.engine import Engine
    from streambed.errors import CheckpointError

    assert streambed.Engine is Engine
    assert streambed.CheckpointError is CheckpointError


def test_other_names_are_not_there() -> None:
    with pytest.raises(AttributeError, match="Enginee"):
        _ = streambed.Enginee


def test_version_is_the_packages() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert streambed.__version__ == project["version"]
