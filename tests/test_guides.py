"""The guides are true: what they show runs, against a `streambed serve` with the built-in model.

The blocks of a page run in their order, in one empty folder that the page has to itself: each ```python block in a process
of its own, each ```js block with node, each ```sh block with `sh -e`. In them port 30000 becomes the server's and 30001 a
free one, and `streambed stream` is told where the server is. Where `It prints:` and a block without a language come next,
the output must be that block.

What is not run, and nothing else:

- lines of a ```sh block whose first word is in NOT_RUN (they install, serve, build or change the shell), or that begin with
  `streambed serve`;
- a block right after the comment `<!-- not run: why -->`;
- ```js where openai-node is not installed (`make .venv/integrations` does it).

A failing HTTP status fails a `curl`. Texts that a page expects to be there stand in GIVEN.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.groups import program
from tests.server.test_process import Process

ROOT = Path(__file__).parents[1]
NODE = ROOT / "tests" / "integrations" / "node"
PAGES = ("quickstart", "streaming", "integrations", "migration", "faq", "vectors")
NOT_RUN = (".", "cd", "docker", "export", "git", "make", "npm", "pip", "python3")
SECONDS = 300
"""How long a block may take before a test calls it a hang."""

BLOCK = re.compile(
    r"(?P<but><!-- not run: [^>]+ -->\n+)?"
    r"^(?P<indent> *)```(?P<language>\w+)\n(?P<code>.*?)^(?P=indent)```$"
    r"(?P<prints>\n+(?P=indent)It prints:\n+(?P=indent)```\n(?P<output>.*?)^(?P=indent)```$)?",
    re.S | re.M,
)


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    language: str
    code: str
    output: str | None
    """What it must print, if the page says so."""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(page: str) -> list[Block]:
    """The blocks to run, in order."""
    name = f"docs/{page}.md"
    text = (ROOT / name).read_text()
    found = []
    for match in BLOCK.finditer(text):
        if match["but"] is None:
            line = text.count("\n", 0, match.start("code"))
            output = None if match["output"] is None else textwrap.dedent(match["output"])
            found.append(Block(name, line, match["language"], textwrap.dedent(match["code"]), output))
    return found


def to_run(script: str) -> str:
    """The lines of a shell script that are run."""
    lines = re.sub(r" *\\\n *", " ", script).splitlines()
    kept = [line for line in lines if line.split() and line.split()[0] not in NOT_RUN]
    return "\n".join(line for line in kept if not line.startswith("streambed serve"))


def sentences() -> Iterator[str]:
    whos = ("The cat", "My neighbour", "A student", "The old ship", "Our teacher", "A child", "The baker")
    whats = ("sleeps in the sun", "reads a letter", "waits for the rain", "forgot the key", "sings at night")
    wheres = ("at home", "in town", "near the river", "by the sea", "under a bridge", "on the hill", "in the garden")
    for who, what, where in itertools.product(whos, whats, wheres):
        yield f"{who} {what} {where}."


GIVEN = {"vectors": {"texts.jsonl": "".join(json.dumps({"text": text}) + "\n" for text in sentences())}}


@pytest.fixture(scope="module")
def server() -> Iterator[Process]:
    process = Process("--port", "0", "--threads", "2")
    try:
        yield process.ready()
    finally:
        process.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


def environment(folder: Path) -> dict[str, str]:
    """What a reader would have, but for whatever would reach beyond this machine."""
    (folder / ".curlrc").write_text("silent\nshow-error\nfail-with-body\n")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STREAMBED_")}
    return kept | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "CURL_HOME": str(folder),
        "HF_HUB_OFFLINE": "1",
        "NO_PROXY": "127.0.0.1",
        "HAYSTACK_TELEMETRY_ENABLED": "False",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }


def command(block: Block, code: str, folder: Path) -> list[str] | None:
    """How it is run; None where nothing of it is."""
    match block.language:
        case "python":
            return [sys.executable, "-c", code]
        case "sh":
            return ["sh", "-ec", code] if (code := to_run(code)) else None
        case "js":
            node = program("node")
            if not (NODE / "node_modules" / "openai").is_dir():
                pytest.skip("openai-node is not here; `make .venv/integrations` installs it")
            modules = folder / "node_modules"
            if not modules.exists():
                modules.symlink_to(NODE / "node_modules", target_is_directory=True)
            (folder / "block.mjs").write_text(code)
            return [node, "block.mjs"]
    return None


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_the_guide_runs(page: str, server: Process, tmp_path: Path) -> None:
    for name, text in GIVEN.get(page, {}).items():
        (tmp_path / name).write_text(text)
    variables = environment(tmp_path)
    ran = 0
    for block in blocks_of(page):
        code = block.code.replace(":30000", f":{server.port}").replace("30001", str(free_port()))
        code = code.replace("streambed stream", f"streambed stream --url http://127.0.0.1:{server.port}")
        online = {"HF_HUB_OFFLINE": "0"} if "InferenceClient" in code else {}  # else it refuses this machine, too
        if (arguments := command(block, code, tmp_path)) is None:
            continue
        done = subprocess.run(
            arguments,
            cwd=tmp_path,
            env=variables | online,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
        assert done.stdout.strip(), f"{block} prints nothing"
        if block.output is not None:
            assert done.stdout == block.output, str(block)
        ran += 1
    assert ran
    assert server.client.get("/v1/sessions").json()["data"] == [], "what a guide opens, it closes"
    assert "ERROR" not in server.output
    assert "Traceback" not in server.output


def test_no_guide_is_forgotten() -> None:
    """A page with code for a reader to run is in PAGES."""
    pages = [page.stem for page in ROOT.glob("docs/*.md")]
    assert {page for page in pages for block in blocks_of(page) if block.language in ("python", "js")} <= set(PAGES)


def test_what_is_run_of_a_shell_script() -> None:
    script = "pip install this\ncurl one \\\n  two\n. .venv/bin/activate\nstreambed serve\nstreambed embed x\n\n"
    assert to_run(script) == "curl one two\nstreambed embed x"


def figures_of(text: str) -> list[list[str]]:
    """The digits in each cell of its tables but the first of a row, which is words."""
    rows = re.findall(r"^\|.*\|$", text, re.M)
    return [[re.sub(r"[^\d.,]", "", cell) for cell in row.split("|")[2:]] for row in rows]


def test_the_chinese_readme_is_the_same() -> None:
    english, chinese = ((ROOT / name).read_text() for name in ("README.md", "README.zh.md"))
    blocks = re.compile(r"^```.*?^```$", re.S | re.M)
    assert blocks.findall(chinese) == blocks.findall(english) != []
    outside = [blocks.sub("", text) for text in (english, chinese)]
    assert len({tuple(re.findall(r"^#+ ", text, re.M)) for text in outside}) == 1, "the same sections"
    assert figures_of(chinese) == figures_of(english), "the same figures"


def anchors_of(page: Path) -> set[str]:
    """The names that GitHub gives to its headings."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.S | re.M), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]), ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", page.read_text()):
        if "://" not in target:
            other = page.parent / target if target else page
            assert other.exists(), target
            assert not anchor or anchor in anchors_of(other), f"{target}#{anchor}"
