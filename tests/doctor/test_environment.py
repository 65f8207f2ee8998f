"""What is said of variables and settings."""

from __future__ import annotations

import os

import pytest

from streambed import machine
from streambed.doctor import environment
from streambed.settings import Settings

KNOWN = {"STREAMBED_KV_MEMORY", "STREAMBED_PORT"}


def examine(settings: Settings | None = None, problem: str | None = None) -> dict[str, tuple[str, str]]:
    found = environment.examine(settings or Settings(), problem, KNOWN)
    return {finding.name: (finding.status, finding.detail) for finding in found}


@pytest.fixture(autouse=True)
def without_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("STREAMBED_") or name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
            monkeypatch.delenv(name)


def test_nothing_set() -> None:
    assert list(examine()) == ["STREAMBED_*", "settings", "threads"]
    assert examine()["STREAMBED_*"] == ("ok", "none set")
    assert examine()["settings"] == ("ok", "agree with one another")
    assert examine(problem="--port is 70000")["settings"] == ("FAIL", "serve would not start: --port is 70000")


def test_misspelt_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMBED_KV_MEMROY", "secret")
    monkeypatch.setenv("STREAMBED_COLOUR", "secret")
    found = examine()
    without_effect = "no command knows this variable, so it has no effect"
    assert found["STREAMBED_KV_MEMROY"] == ("warn", f"{without_effect}; was STREAMBED_KV_MEMORY meant?")
    assert found["STREAMBED_COLOUR"] == ("warn", without_effect)
    assert "secret" not in str(found)


@pytest.mark.parametrize("limit", [None, 0.5, 1.5])
def test_threads_beyond_the_cores(monkeypatch: pytest.MonkeyPatch, limit: float | None) -> None:
    """Those of the machine, or of a container's quota."""
    monkeypatch.setattr(machine, "usable_cores", lambda: 4)
    monkeypatch.setattr(machine, "core_limit", lambda: limit)
    assert examine(Settings(threads=4))["threads"][0] == ("ok" if limit is None else "warn")
    assert examine(Settings(threads=1))["threads"] == ("ok", "1 on 4 usable cores")
    assert examine(Settings(threads=5))["threads"][0] == "warn"


@pytest.mark.parametrize(
    ("value", "threads", "status", "says"),
    [
        ("2", 2, "ok", "as serve will use"),
        ("2,1", 2, "ok", "as serve will use"),
        ("3", 2, "warn", "serve computes with 2 threads"),
        ("64", 2, "warn", "on 4 usable cores"),
        ("lots", 2, "warn", "no number"),
        ("0", 2, "warn", "no number"),
        ("", 2, "warn", "no number"),
    ],
)
def test_threads_of_libraries(
    monkeypatch: pytest.MonkeyPatch, value: str, threads: int, status: str, says: str
) -> None:
    monkeypatch.setattr(machine, "usable_cores", lambda: 4)
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    found = examine(Settings(threads=threads))
    assert found["OMP_NUM_THREADS"][0] == status
    assert says in found["OMP_NUM_THREADS"][1]


def test_threads_of_libraries_that_are_as_many(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, str(machine.usable_cores()))
    found = examine()
    assert found["OMP_NUM_THREADS"][0] == found["MKL_NUM_THREADS"][0] == "ok"
