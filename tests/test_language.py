"""What people read is written as a native speaker writes it. Nobody can test that; what was once found wrong is kept out."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from streambed.cli.main import cli

ROOT = Path(__file__).parents[1]
PLAYGROUND = ROOT / "src" / "streambed" / "server" / "playground"
ENGLISH = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "*/README.md", "examples/*.py", "notebooks/*.ipynb")
    for path in ROOT.glob(pattern)
    if path.name not in ("CHANGELOG.md", "README.zh.md")
) + sorted([PLAYGROUND / "index.html", *PLAYGROUND.glob("*.js")])
READ_TWICE = {
    r"\b(has|have) not(?= got| an? |[.,;:)|]|$)": "does not have",
    r"\bhears? (of|so|that)\b": "learns, is told, gets an error",
    r"\b(tells|says)(?=[.;)|]|$)": "tells whom what? reports, shows, lists",
    r"\bof the (smaller|larger|shorter|longer) \w+\.$": "a sentence without a verb",
    r"\bwithout a word\b": "silently",
    r"\bfor want of\b": "because there is no",
    r"\bwhat (it|they|you) (is|are|has|have) not\b": "what is missing",
    r"\bwhat bites\b": "what to watch out for, differences",
    r"\b(made|done) to (it|them)\b(?= (are|is|was))": "changes made on top of it",
    r"\blooks? out for\b": "watches for",
    r"\bin the place of\b": "replaces, instead of",
}
"""Forms that look like English and have to be read twice, and what to write instead."""
CHINESE = {
    "笔记本": "Notebook",
    "计算几行": "多算几个词元",
    "提供另一个模型": "部署其他模型",
    "打印": "输出",
    "留意": "监视",
    "制作方法": "训练方法",
}


def prose(path: Path) -> str:
    """What a reader sees, with line ends as spaces within a paragraph; code is left out."""
    text = path.read_text()
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    text = re.sub(r"^ *```.*?^ *```$", "", text, flags=re.S | re.M)
    return "\n".join(re.sub(r"\s+", " ", paragraph) for paragraph in re.split(r"\n\s*\n|\n(?=[|#-])", text))


def read_twice(text: str) -> list[str]:
    return [
        f"{match[0]!r} in {text[max(0, match.start() - 40) : match.end() + 20]!r}: {better}"
        for pattern, better in READ_TWICE.items()
        for match in re.finditer(pattern, text, re.M | re.I)
    ]


@pytest.mark.parametrize("path", ENGLISH, ids=lambda path: str(path.relative_to(ROOT)))
def test_english_is_read_once(path: Path) -> None:
    assert read_twice(prose(path)) == []


def commands(command: click.Command) -> Iterator[click.Command]:
    yield command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            if (each := command.get_command(context, name)) is not None:
                yield from commands(each)


def test_help_is_read_once() -> None:
    found = list(commands(cli))
    assert len(found) > 6
    for command in found:
        for text in [command.help or "", *(getattr(option, "help", None) or "" for option in command.params)]:
            assert read_twice(re.sub(r"\s+", " ", text)) == [], command.name
            assert not re.match(r"(Of|As) ", text), f"{command.name}: {text!r} is no sentence of its own"


def test_the_first_claim_has_its_condition() -> None:
    """The KV cache of a text is the start of that of longer texts only if they begin with it."""
    for path in ENGLISH:
        for match in re.finditer(r"\bevery longer (text|sequence)\b(.{0,30})", prose(path)):
            assert re.match(r" (that|which) begins with|, if it begins", match[2]), f"{path}: {match[0]!r}"


def test_weights_that_were_measured_are_called_random() -> None:
    """Nobody may take figures of random weights in the shape of a model for figures of that model."""
    for path in ENGLISH:
        text = prose(path)
        for match in re.finditer(r"shape of (Qwen3-Embedding-)?0\.6B|0\.6B('s)? shape", text):
            assert "random" in text[max(0, match.start() - 60) : match.end() + 60], f"{path}: {match[0]!r}"


def test_chinese_is_not_translated() -> None:
    text = (ROOT / "README.zh.md").read_text()
    assert {wrong: better for wrong, better in CHINESE.items() if wrong in text} == {}
    assert "随机权重" in text
