"""What is said of files that serve would open."""

from __future__ import annotations

from pathlib import Path

import pytest

from streambed.doctor.files import examine
from streambed.engine.engine import Engine
from streambed.settings import Settings


def test_none(tiny_engine: Engine) -> None:
    assert list(examine(Settings(), tiny_engine)) == []


@pytest.mark.parametrize(("name", "status"), [("x.db", "ok"), ("none/x.db", "FAIL"), ("", "FAIL")])
def test_journal(tiny_engine: Engine, tmp_path: Path, name: str, status: str) -> None:
    """It is not made."""
    (finding,) = examine(Settings(journal=str(tmp_path / name)), tiny_engine)
    assert (finding.group, finding.name, finding.status) == ("files", "journal", status)
    assert finding.detail == str(tmp_path / name) if status == "ok" else "serve would not start" in finding.detail
    assert list(tmp_path.iterdir()) == []


def test_reducer(tiny_engine: Engine, tmp_path: Path) -> None:
    (finding,) = examine(Settings(reducer=(f"small={tmp_path}",)), tiny_engine)
    assert (finding.name, finding.status) == ("reducer small", "FAIL")
    assert str(tmp_path) in finding.detail
