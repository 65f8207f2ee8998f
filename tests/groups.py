"""The groups of `make test-all`, each a process of its own: `make test-all GROUP=images` runs one.

A quick test is of the group `core`, a slow one of the group of its folder. A slow one that would be skipped, since what it
needs is missing, fails; with ALLOW_SKIP=1 it is skipped. This file is a plugin of pytest, which does that, and the command
that runs the groups: `python -m tests.groups [GROUP...] [-- ARGUMENTS OF PYTEST]`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
GROUPS = {
    "core": (),
    "server": ("server",),
    "attacks": ("blackbox",),
    "clients": ("integrations", "test_guides.py"),
    "pages": ("e2e", "notebooks", "playground"),
    "operations": ("dashboards", "deploy/test_proxies.py", "deploy/test_service.py"),
    "training": ("training",),
    "packaging": ("packaging", "tools"),
    "images": ("deploy/test_images.py", "deploy/test_manifests.py"),
}
"""Where their slow tests are: folders and files of tests/. `core` has the rest."""
PACKAGES = {
    "apt-get": "of Debian and what is made of it",
    "buildah": "Debian: apt-get install buildah",
    "caddy": "Debian: apt-get install caddy",
    "chromium": "Debian: apt-get install chromium",
    "nginx": "Debian: apt-get install nginx-light",
    "node": "Debian: apt-get install nodejs",
    "npm": "Debian: apt-get install npm",
    "podman": "Debian: apt-get install podman",
    "runc": "Debian: apt-get install runc",
    "openssl": "Debian: apt-get install openssl",
    "prometheus": "Debian: apt-get install prometheus",
    "promtool": "Debian: apt-get install prometheus",
    "systemd-analyze": "Debian: apt-get install systemd",
}
"""What brings the programs that slow tests run."""


def group_of(path: Path) -> str:
    """The group of the slow tests in this file."""
    file = path.relative_to(TESTS)
    around = {each.as_posix() for each in (file, *file.parents)}
    return next((group for group, places in GROUPS.items() if not around.isdisjoint(places)), "core")


def program(name: str, *names: str) -> str:
    """The path of a program, under the first of these names that is there; without any the test is skipped, or fails."""
    for each in (name, *names):
        if path := shutil.which(each):
            return path
    pytest.skip(f"no {name} here ({PACKAGES[name]})")


def pytest_configure(config: pytest.Config) -> None:
    for group in GROUPS:
        config.addinivalue_line("markers", f"{group}: given by tests/groups.py")


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(group_of(item.path) if item.get_closest_marker("slow") else "core")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    missing = report.skipped and not hasattr(report, "wasxfail") and item.get_closest_marker("slow")
    if missing and os.environ.get("ALLOW_SKIP") != "1":
        reason = report.longrepr[-1] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{reason}\nA slow test that cannot run fails; ALLOW_SKIP=1 lets it be skipped."
    return report


def main(arguments: list[str]) -> int:
    """Runs these groups, or all. 1 if one of them fails."""
    at = arguments.index("--") if "--" in arguments else len(arguments)
    chosen, more = arguments[:at] or list(GROUPS), arguments[at + 1 :]
    if unknown := set(chosen) - GROUPS.keys():
        print(f"no group {', '.join(sorted(unknown))}; there are {', '.join(GROUPS)}", file=sys.stderr)
        return 2
    ended: list[str] = []
    failed = False
    for group in chosen:
        print(f"\n== {group}", flush=True)
        start = time.monotonic()
        # The quick tests of `core` are many and short; slow ones have all cores to themselves.
        parallel = ["--numprocesses", "2", "--dist", "loadfile"] if group == "core" else []
        code = subprocess.run([sys.executable, "-m", "pytest", "-m", group, *parallel, *more], check=False).returncode
        failed |= code != 0
        ended.append(f"{group:12} {'failed' if code else 'passed'} {time.monotonic() - start:7.0f} s")
    print("", *ended, sep="\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
