"""The page's files: small, whole, and without anything that a strict Content-Security-Policy forbids."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from streambed.server.playground import FILES

MAX_BYTES = 100 * 1024
NAMESPACE = 'xmlns="http://www.w3.org/2000/svg"'
"""A name, not an address; nothing is fetched from it."""

PATHS = sorted(path for path in FILES.rglob("*") if path.is_file())
MODULES = [path for path in PATHS if path.suffix == ".js"]


def test_small() -> None:
    """It opens over a slow link."""
    assert sum(path.stat().st_size for path in PATHS) < MAX_BYTES


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
def test_own_assets_alone(path: Path) -> None:
    text = path.read_text("utf-8").replace(NAMESPACE, "")
    assert not re.search(r"https?://|(?<!:)//[a-z]+\.[a-z]", text)
    if path.suffix in (".html", ".svg"):
        assert not re.search(r"\sstyle\s*=|\son[a-z]+\s*=|<style|javascript:", text)
        assert not re.search(r"<script(?![^>]*\ssrc=)", text)
    if path.suffix == ".js":
        assert not re.search(r"\beval\(|new Function|style=|setAttribute\(\s*[\"']style", text)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_modules_exist(path: Path) -> None:
    text = path.read_text("utf-8")
    names = re.findall(r"""(?:from|import\()\s*["']([^"']+)["']""", text)
    for name in [*names, *re.findall(r'new URL\("([a-z]+\.[a-z]+)", import\.meta\.url\)', text)]:
        assert (path.parent / name).is_file(), name


def test_page_names_what_there_is() -> None:
    """Each module is fetched at once, not when the one before it was read."""
    html = (FILES / "index.html").read_text("utf-8")
    named = set(re.findall(r'(?:href|src)="([a-z0-9]+\.[a-z]+)"', html))
    assert named == {path.name for path in PATHS} - {"index.html", "samples.json"}
    ids = re.findall(r'\sid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'part\("([^"]+)"\)', (FILES / "app.js").read_text("utf-8"))) <= set(ids)


def test_samples() -> None:
    texts = json.loads((FILES / "samples.json").read_text("utf-8"))
    assert len(texts) == len(set(texts)) >= 120
    assert all(isinstance(text, str) and text == text.strip() != "" for text in texts)
