"""The docs are true: what they show runs, and what is made from code is as the code has it."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tools.docs_tables import pages

ROOT = Path(__file__).parents[1]


def test_what_is_made_from_code_is_made_anew() -> None:
    for path, text in pages().items():
        assert path.read_text() == text, f"{path.name}: run `make docs`"


@pytest.mark.parametrize(
    "page", sorted(path.relative_to(ROOT) for path in [ROOT / "README.md", *ROOT.glob("docs/*.md")])
)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text()):
        if "://" not in target:
            assert ((ROOT / page).parent / target).exists(), target


def test_the_house_is_as_drawn() -> None:
    drawn = (ROOT / "docs" / "design.md").read_text()
    for file in (ROOT / "src" / "streambed").rglob("*.py"):
        if file.name != "__init__.py":
            assert file.name in drawn, f"docs/design.md does not show {file}"


def test_the_readme_runs() -> None:
    """Each Python block in a process of its own, the OpenAI one against `streambed serve`."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert len(blocks) == 2
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "streambed", "serve", "--port", str(port)], stderr=subprocess.PIPE, text=True
    )
    try:
        assert server.stderr is not None
        assert any("Application startup complete" in line for line in server.stderr)
        for block in blocks:
            code = block.replace(":30000", f":{port}")
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
            assert done.returncode == 0, done.stderr
            assert done.stdout.strip()
            if "open_stream" in block:
                shown = re.search(r"It prints:\n\n```\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
                assert shown
                assert done.stdout == shown[1]
    finally:
        server.terminate()
        server.communicate(timeout=60)
    assert server.returncode == 0
