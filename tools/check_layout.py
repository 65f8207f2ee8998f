"""Check what `make lint` demands of the files of the package: none is long, and no two import each other.

    python tools/check_layout.py

Imports count wherever they stand, in functions and under TYPE_CHECKING too. The exceptions below may only become fewer:
one that is no longer needed fails as well. Nothing is imported; the source is only read.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "src" / "streambed"
MOST_LINES = 400
LONG: dict[str, int] = {}
"""Files that are longer, and the lines that they may have until they are divided."""
CIRCLES: set[tuple[str, str]] = set()
"""Imports (who, whom) that close a circle."""


def long_files(package: Path, allowed: Mapping[str, int]) -> list[str]:
    """What is wrong with the length of the package's files, in words."""
    lines = {path.relative_to(package).as_posix(): len(path.read_text().splitlines()) for path in package.rglob("*.py")}
    wrong = [
        f"{file} has {count} lines; divide it, a file has at most {allowed.get(file, MOST_LINES)}"
        for file, count in lines.items()
        if count > allowed.get(file, MOST_LINES)
    ]
    return sorted(wrong) + [
        f"LONG names {file}, which is not longer than {MOST_LINES} lines: take it out"
        for file in allowed
        if lines.get(file, 0) <= MOST_LINES
    ]


def imports(package: Path) -> dict[str, set[str]]:
    """Of each module of the package, the modules of the package that it imports."""
    paths = {_name(package, path): path for path in package.rglob("*.py")}
    return {name: set(_imported(name, path, paths)) - {name} for name, path in paths.items()}


def circles(graph: Mapping[str, set[str]], allowed: set[tuple[str, str]]) -> list[str]:
    """What is wrong with these imports, in words; of several circles only one is told."""

    def circle(without: set[tuple[str, str]]) -> list[str]:
        kept = {who: {whom for whom in known if (who, whom) not in without} for who, known in graph.items()}
        try:
            TopologicalSorter(kept).prepare()
        except CycleError as error:
            return list(reversed(error.args[1]))
        return []

    if found := circle(allowed):
        return [f"a circle of imports: {' -> '.join(found)}"]
    return [
        f"CIRCLES names {who} -> {whom}, which closes no circle: take it out"
        for who, whom in sorted(allowed)
        if not circle(allowed - {(who, whom)})
    ]


def _name(package: Path, path: Path) -> str:
    return ".".join(path.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__")


def _imported(name: str, path: Path, paths: Mapping[str, Path]) -> Iterator[str]:
    around = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in paths)
        elif isinstance(node, ast.ImportFrom):
            start = around[: len(around) - node.level + 1] if node.level else []
            module = ".".join([*start, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{module}.{alias.name}"
                if inner in paths or module in paths:
                    yield inner if inner in paths else module


def main() -> int:
    """1 if something is wrong, which is printed."""
    wrong = long_files(PACKAGE, LONG) + circles(imports(PACKAGE), CIRCLES)
    print("\n".join(wrong) if wrong else "Layout: no long file, no circle of imports.")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
