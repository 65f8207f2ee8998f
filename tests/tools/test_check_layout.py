"""What `make lint` says of long files and of modules that import each other."""

from __future__ import annotations

from pathlib import Path

import pytest
from tools.check_layout import circles, imports, long_files


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package in which `a` is imported by all, in every form that there is."""
    root = tmp_path / "house"
    files = {
        "__init__.py": "",
        "a.py": "import json\n",
        "plain.py": "import house.a\n",
        "named.py": "from house.a import json\n",
        "module.py": "from house import a\n",
        "relative.py": "from . import a\n",
        "typing.py": "if TYPE_CHECKING:\n    from house.a import json\n",
        "late.py": "def f():\n    import house.a as b\n",
        "room/__init__.py": "from .inner import json\n",
        "room/inner.py": "from ..a import json\n",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(exist_ok=True, parents=True)
        (root / name).write_text(text)
    return root


def test_every_form_of_an_import_is_seen(package: Path) -> None:
    graph = imports(package)
    forms = ("plain", "named", "module", "relative", "typing", "late", "room.inner")
    assert graph == {"house": set(), "house.a": set(), "house.room": {"house.room.inner"}} | {
        f"house.{name}": {"house.a"} for name in forms
    }
    assert circles(graph, set()) == []


def test_a_circle_is_told_and_an_exception_has_to_be_needed(package: Path) -> None:
    (package / "a.py").write_text("def f():\n    from house.room import json\n")
    graph = imports(package)
    (told,) = circles(graph, set())
    for who, whom in (("a", "room"), ("room", "room.inner"), ("room.inner", "a")):
        assert f"house.{who} -> house.{whom}" in told
    needed, needless = ("house.a", "house.room"), ("house.late", "house.a")
    assert circles(graph, {needed}) == []
    (told,) = circles(graph, {needed, needless})
    assert told.startswith("CIRCLES names house.late -> house.a, which closes no circle")


def test_a_long_file_is_told_and_an_exception_has_to_be_needed(package: Path) -> None:
    (package / "a.py").write_text("\n" * 400)
    assert long_files(package, {}) == []
    (package / "a.py").write_text("\n" * 401)
    assert long_files(package, {}) == ["a.py has 401 lines; divide it, a file has at most 400"]
    assert long_files(package, {"a.py": 401}) == []
    (package / "a.py").write_text("\n" * 402)
    assert long_files(package, {"a.py": 401}) == ["a.py has 402 lines; divide it, a file has at most 401"]
    (package / "a.py").write_text("\n")
    gone = [f"LONG names {file}, which is not longer than 400 lines: take it out" for file in ("a.py", "b.py")]
    assert long_files(package, {"a.py": 401, "b.py": 401}) == gone
