"""Each slow test is of one group, and does not pass for want of what it needs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.groups import GROUPS, PACKAGES, TESTS, group_of, main, program

ROOT = TESTS.parent


SLOW_FILES = [
    path
    for path in sorted(TESTS.rglob("test_*.py"))
    if path.name != "test_groups.py" and "pytest.mark.slow" in path.read_text()
]


def test_every_slow_test_is_of_one_group() -> None:
    """And each group has slow tests, in each of its places."""
    groups = {path: group_of(path) for path in SLOW_FILES}
    assert set(groups.values()) == GROUPS.keys()
    for group, places in GROUPS.items():
        for place in places:
            inside = [path for path in SLOW_FILES if TESTS / place in (path, *path.parents)]
            assert inside, f"{group}: no slow tests in tests/{place}"
            assert {groups[path] for path in inside} == {group}, f"another group has tests/{place}, too"


def test_no_module_leaves_itself_out() -> None:
    """What is left out while modules are collected cannot fail as a test does."""
    early = re.compile(r"^\S.*importorskip|allow_module_level=", re.M)
    assert [
        path for path in TESTS.rglob("test_*.py") if path != Path(__file__) and early.search(path.read_text())
    ] == []


def test_this_one_is_of_core(request: pytest.FixtureRequest) -> None:
    assert [mark.name for mark in request.node.iter_markers() if mark.name in GROUPS] == ["core"]


SLOW = """
import pytest
from tests.groups import PACKAGES, program

PACKAGES["no-such-program"] = "Debian: apt-get install it"

@pytest.fixture
def tool():
    return program("no-such-program")

@pytest.mark.slow
def test_needs_a_program(): program("no-such-program")

@pytest.mark.slow
def test_needs_it_in_a_fixture(tool): pass

@pytest.mark.slow
def test_needs_a_module(): pytest.importorskip("no_such_module", reason="`make it` installs it")

@pytest.mark.slow
@pytest.mark.skipif(True, reason="not here")
def test_is_marked(): pass

@pytest.mark.slow
@pytest.mark.xfail(strict=True)
def test_is_known_to_fail(): assert False

def test_quick(): pytest.skip("quick ones may")
"""


@pytest.mark.parametrize(
    ("allowed", "counts"), [("", "2 failed, 1 skipped, 1 xfailed, 2 errors"), ("1", "5 skipped, 1 xfailed")]
)
def test_what_is_missing_fails_unless_it_is_allowed(allowed: str, counts: str, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(SLOW)
    (tmp_path / "conftest.py").write_text(
        "import pathlib, tests.groups\ntests.groups.TESTS = pathlib.Path(__file__).parent\n"
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = slow\n")
    command = [sys.executable, "-m", "pytest", "-p", "tests.groups", "-p", "no:cacheprovider", "-rs", "test_it.py"]
    environment = os.environ | {"ALLOW_SKIP": allowed, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    print(done.stdout, done.stderr)
    assert counts in done.stdout


def test_a_program_under_another_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "google-chrome"
    other.touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert program("chromium", "google-chrome") == str(other)
    with pytest.raises(pytest.skip.Exception, match=r"no npm here .*apt-get install npm"):
        program("npm")


def test_what_tests_run_is_told_how_to_get() -> None:
    used = {name for path in TESTS.rglob("*.py") for name in re.findall(r'\bprogram\("([\w-]+)"', path.read_text())}
    assert used - {"no-such-program"} <= PACKAGES.keys()


def test_runs_what_is_asked_for(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """All unless some are named; one that fails does not keep the rest from running."""
    ran: list[list[str]] = []

    def run(command: list[str], check: bool) -> subprocess.CompletedProcess[bytes]:
        ran.append(command[3:])
        return subprocess.CompletedProcess(command, "server" in command)

    monkeypatch.setattr(subprocess, "run", run)
    assert main([]) == 1
    assert [command[:2] for command in ran] == [["-m", group] for group in GROUPS]
    assert [command[1] for command in ran if "--numprocesses" in command] == ["core"]
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()[-len(GROUPS) :]] == [
        [group, "failed" if group == "server" else "passed"] for group in GROUPS
    ]
    ran.clear()
    assert main(["pages", "--", "-x"]) == 0
    assert ran == [["-m", "pages", "-x"]]
    assert main(["page"]) == 2
    assert "no group page; there are core, " in capsys.readouterr().err


def test_make_installs_for_groups_that_are_there() -> None:
    makefile = (ROOT / "Makefile").read_text()
    needing = set(re.findall(r"^needs-(\w+) :=", makefile, re.M))
    (all_of_them,) = re.findall(r"\$\(or \$\(GROUP\),([\w ]+)\)", makefile)
    assert needing == set(all_of_them.split()) <= GROUPS.keys()


def test_contributing_tells_every_group() -> None:
    told = re.findall(r"^\| `(\w+)` \|", (ROOT / "CONTRIBUTING.md").read_text(), re.M)
    assert told == list(GROUPS)
