"""The table of limits is what the code keeps."""

from __future__ import annotations

import ast
from pathlib import Path

import streambed
from streambed import limits

PACKAGE = Path(streambed.__file__).parent


def test_each_limit_is_kept() -> None:
    """A row whose value nobody imports would be a promise of the docs alone."""
    table = ast.parse((PACKAGE / "limits.py").read_text())
    named = {node.target.id: node for node in ast.walk(table) if isinstance(node, ast.NamedExpr)}
    assert [getattr(limits, name) for name in named] == [limit.value for limit in limits.LIMITS]
    imported = {
        alias.name
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module == "streambed.limits"
        for alias in node.names
    }
    assert imported == set(named)


def test_rows_are_told_apart() -> None:
    names = [limit.name for limit in limits.LIMITS]
    assert len(names) == len(set(names))
    assert all(limit.meaning.endswith(".") for limit in limits.LIMITS)
