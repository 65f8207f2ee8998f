"""The docs are true: what they show runs, and what is made from code is as the code has it."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from streambed.settings import Settings

ROOT = Path(__file__).parents[1]


def settings_page() -> str:
    """docs/settings.md, made from the settings class."""
    lines = [
        "# Settings of `streambed serve`",
        "",
        "Made from `src/streambed/settings.py`; after a change there, run `make docs`. A flag wins over its variable.",
        "A repeatable variable holds its values separated by spaces.",
        "",
        "| flag | variable | default | meaning |",
        "|---|---|---|---|",
    ]
    for field in fields(Settings):
        flag, default = field.name.replace("_", "-"), field.default
        shown = "" if default in (None, (), False) else f"`{default}`"
        lines.append(f"| `--{flag}` | `STREAMBED_{field.name.upper()}` | {shown} | {field.metadata['help']} |")
    return "\n".join([*lines, "", "`--model-path` is `--model`; `--is-embedding` is accepted and does nothing.", ""])


def test_settings_page() -> None:
    page = ROOT / "docs" / "settings.md"
    if os.environ.get("UPDATE_DOCS"):
        page.write_text(settings_page())
    assert page.read_text() == settings_page(), "run `make docs`"


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
    finally:
        server.terminate()
        server.communicate(timeout=60)
    assert server.returncode == 0
