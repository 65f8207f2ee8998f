"""The versions that were tested: each dependency has one, which pyproject.toml allows."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
LINES = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
VERSIONS = {name: Version(version) for name, version in (line.split("==") for line in LINES)}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = {"": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}


@pytest.mark.parametrize("extra", EXTRAS)
def test_every_dependency_has_a_version_that_is_allowed(extra: str) -> None:
    required = [Requirement(text) for text in EXTRAS[extra]]
    for each in required:
        if each.name != PROJECT["name"]:
            assert VERSIONS[canonicalize_name(each.name)] in each.specifier, each


def test_names_and_versions() -> None:
    assert list(VERSIONS) == [canonicalize_name(name) for name in VERSIONS], "names as pip compares them"
    assert list(VERSIONS) == sorted(VERSIONS)
    assert len(VERSIONS) == len(LINES)
    assert not [line for line in LINES if "+" in line], "the build of torch is chosen when it is installed"


def test_torch_has_the_version_that_readers_are_told() -> None:
    for page in ("README.md", "README.zh.md"):
        told = set(re.findall(r"torch==([\d.]+)", (ROOT / page).read_text()))
        assert told == {str(VERSIONS["torch"])}, page
