"""`streambed stream`: typed or piped text in, its embedding out."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streambed import Engine
from streambed.settings import Settings
from tests.checkpoints import load_engine
from tests.server.conftest import Live, Servers, until

SECONDS = 60
"""How long anything may take before a test calls it a hang."""
LINES = ["A brook runs to the sea.", "Bread needs flour.", "小川は海へ流れる。"]
COMMAND = [sys.executable, "-m", "streambed", "stream"]
IMPATIENT = [
    sys.executable,
    "-c",
    "from streambed.client.client import Client; Client.__init__.__kwdefaults__.update(reconnect=0.3);"
    "from streambed.cli.main import main; main()",
    "stream",
]
"""The same, but a server that is not there is given up at once."""


@pytest.fixture(scope="module")
def engine(tiny_checkpoint: Path) -> Iterator[Engine]:
    with load_engine(tiny_checkpoint, max_batch_tokens=48) as engine:
        yield engine


@pytest.fixture(scope="module")
def live(engine: Engine) -> Iterator[Live]:
    servers = Servers()
    yield servers.start(engine, Settings(drain=5.0))
    servers.stop()


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    file = tmp_path / "lines.txt"
    file.write_text("\n  ".join(LINES) + "\n\n", encoding="utf-8")
    return file


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("STREAMBED_")]:
        monkeypatch.delenv(name)


def pipe(text: bytes, *arguments: str | Path, command: list[str] = COMMAND) -> subprocess.CompletedProcess[bytes]:
    whole = [*command, *map(str, arguments)]
    return subprocess.run(whole, input=text, capture_output=True, timeout=SECONDS, check=False)


def summary(done: subprocess.CompletedProcess[bytes]) -> dict[str, Any]:
    """The one line of a run that went well."""
    assert done.returncode == 0, done.stderr
    assert done.stderr == b""
    [line] = done.stdout.splitlines()
    found: dict[str, Any] = json.loads(line)
    return found


def agree(found: dict[str, Any], expected: np.ndarray) -> bool:
    got = np.asarray(found["embedding"])
    assert got.shape == expected.shape
    return bool((got * expected).sum() >= 0.99999)


def one_line(done: subprocess.CompletedProcess[bytes]) -> str:
    """The message of a run that failed."""
    assert (done.returncode, done.stdout) == (1, b""), done.stderr
    [line] = done.stderr.decode().splitlines()
    return line.removeprefix("streambed: ").removeprefix("Error: ")


# Piped


def test_piped_text_ends_in_a_json_line(live: Live, engine: Engine) -> None:
    text = "A brook runs\nto the sea 🌊."  # the end of the last line is no text
    found = summary(pipe(f"{text}\n".encode(), "--url", live.url))
    assert agree(found, engine.embed([text])[0])
    assert list(found) == ["offset", "revision", "tokens", "nearest", "embedding"]
    assert found["offset"] == len(text)
    assert found["revision"] >= 1
    assert found["tokens"] == len(engine.tokenizer.encode(text)) + 1, "and the end token"
    assert found["nearest"] == []


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        (["--dimensions", "32"], {"dimensions": 32}),
        (["--instruction", "find"], {"instruction": "find"}),
        (["--input-type", "query"], {"input_type": "query"}),
    ],
)
def test_options(live: Live, engine: Engine, options: list[str], asked: dict[str, Any]) -> None:
    found = summary(pipe(b"a brook", "--url", live.url, *options))
    assert agree(found, engine.embed(["a brook"], **asked)[0])


def test_the_nearest_lines_come_with_their_scores(live: Live, engine: Engine, lines: Path) -> None:
    found = summary(pipe(LINES[1].encode(), "--url", live.url, "--against", lines, "--top", "2"))
    scores = engine.embed(LINES) @ engine.embed([LINES[1]])[0]
    order = (-scores).argsort()[:2]
    assert [near["text"] for near in found["nearest"]] == [LINES[at] for at in order]
    assert found["nearest"][0]["text"] == LINES[1]
    assert np.allclose([near["score"] for near in found["nearest"]], scores[order], atol=1e-5)
    assert len(summary(pipe(b"a", "--url", live.url, "--against", lines))["nearest"]) == 3


@pytest.mark.parametrize("size", [1, 2, 100])
def test_a_byte_order_mark_is_no_part_of_the_text(live: Live, engine: Engine, lines: Path, size: int) -> None:
    """Neither of what is piped, however it is cut, nor of the lines to compare with; a second one is text."""
    lines.write_bytes(b"\xef\xbb\xbf" + lines.read_bytes())
    data = b"\xef\xbb\xbf" + "a \ufeffbrook".encode()
    command = [*COMMAND, "--url", live.url, "--against", str(lines)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        assert running.stdin
        assert running.stdout
        for at in range(0, len(data), size):
            running.stdin.write(data[at : at + size])
            running.stdin.flush()
            time.sleep(0.005)
        running.stdin.close()
        found = json.loads(running.stdout.read())
        assert running.wait(SECONDS) == 0
    assert found["offset"] == len("a \ufeffbrook")
    assert agree(found, engine.embed(["a \ufeffbrook"])[0])
    assert {near["text"] for near in found["nearest"]} == set(LINES)


def test_utf_16_is_refused(live: Live) -> None:
    said = one_line(pipe("a brook".encode("utf-16"), "--url", live.url))
    assert said == "standard input: is UTF-16; UTF-8 is expected"


def test_no_text_has_no_embedding(live: Live, lines: Path) -> None:
    found = summary(pipe(b"", "--url", live.url, "--against", lines))
    assert found == {"offset": 0, "revision": 0, "tokens": 0, "nearest": [], "embedding": None}


def test_text_that_comes_in_pieces_and_is_not_all_utf_8(live: Live, engine: Engine) -> None:
    """A character may be cut between two reads; what is no UTF-8 is replaced."""
    with subprocess.Popen([*COMMAND, "--url", live.url], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        assert running.stdin
        assert running.stdout
        data = "小🌊".encode() + b" \xff end " + "é".encode()[:1]
        for at in range(len(data)):
            running.stdin.write(data[at : at + 1])
            running.stdin.flush()
            time.sleep(0.005)
        running.stdin.close()
        found = json.loads(running.stdout.read())
        assert running.wait(SECONDS) == 0
    assert agree(found, engine.embed(["小🌊 \ufffd end \ufffd"])[0])


def test_a_session_does_not_outlive_the_command(live: Live) -> None:
    summary(pipe(b"a brook", "--url", live.url))
    assert live.client.get("/v1/sessions").json()["data"] == []


def test_a_key(engine: Engine) -> None:
    servers = Servers()
    try:
        live = servers.start(engine, keys=("right",))
        assert summary(pipe(b"a", "--url", live.url, "--api-key", "right"))["offset"] == 1
        done = subprocess.run(
            [*COMMAND, "--url", live.url], input=b"a", capture_output=True, timeout=SECONDS, check=False,
            env=os.environ | {"STREAMBED_API_KEY": "right another"},  # as serve takes several from it
        )  # fmt: skip
        assert summary(done)["offset"] == 1
        assert "key" in one_line(pipe(b"a", "--url", live.url, "--api-key", "wrong"))
        assert "key" in one_line(pipe(b"a", "--url", live.url))
    finally:
        servers.stop()


# Errors


@pytest.fixture
def nowhere() -> Iterator[str]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def test_no_server(nowhere: str, lines: Path) -> None:
    assert "cannot be reached" in one_line(pipe(b"a", "--url", nowhere, "--against", lines))
    said = one_line(pipe(b"a", "--url", nowhere, command=IMPATIENT))
    assert "cannot be reached" in said
    assert nowhere.removeprefix("http://") in said


def test_a_file_with_nothing_to_compare_with(live: Live, tmp_path: Path) -> None:
    file = tmp_path / "lines.txt"
    file.write_text("\n  \n")
    assert one_line(pipe(b"a", "--url", live.url, "--against", file)) == f"{file}: has no lines"
    file.write_bytes("fließt".encode("latin-1"))
    assert one_line(pipe(b"a", "--url", live.url, "--against", file)) == f"{file}:1: not UTF-8"


def test_wrong_usage(live: Live, tmp_path: Path) -> None:
    for options in (
        ["--against", tmp_path / "none.txt"],
        ["--against", tmp_path],
        ["--top", "0"],
        ["--input-type", "x"],
    ):
        done = pipe(b"a", "--url", live.url, *options)
        assert (done.returncode, done.stdout) == (2, b"")
        assert b"Traceback" not in done.stderr


def test_what_the_server_refuses(live: Live) -> None:
    assert "dimensions is 7" in one_line(pipe(b"a", "--url", live.url, "--dimensions", "7"))
    assert "tokens" in one_line(pipe(b"word " * 600, "--url", live.url))
    assert "prompt_name" in one_line(pipe(b"a", "--url", live.url, "--prompt-name", "nobody"))


# On a terminal


class Terminal:
    """The command on a terminal of its own."""

    def __init__(self, *arguments: str, stdout: int | None = None) -> None:
        self.master, self.slave = pty.openpty()
        termios.tcsetwinsize(self.slave, (40, 200))
        self.before = termios.tcgetattr(self.slave)
        self.shown = ""
        self._bytes = b""
        self.process = subprocess.Popen(
            [*COMMAND, *arguments],
            stdin=self.slave,
            stdout=self.slave if stdout is None else stdout,
            stderr=self.slave,
            start_new_session=True,
            preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),  # makes it the controlling terminal
            env=os.environ | {"TERM": "xterm-256color", "COLUMNS": "200", "LINES": "40"},
        )

    def read(self) -> str:
        """All that was shown so far, without colours and movements."""
        while select.select([self.master], [], [], 0)[0]:
            try:
                data = os.read(self.master, 65536)
            except OSError:
                break
            if not data:
                break
            self._bytes += data
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self._bytes.decode(errors="replace"))

    def ready(self) -> Terminal:
        """Waits until keys are handed over as they are typed."""
        until(lambda: self.read() is not None and (self._is_raw() or self.process.poll() is not None), SECONDS)
        assert self.process.poll() is None, self.read()
        return self

    def _is_raw(self) -> bool:
        flags: int = termios.tcgetattr(self.slave)[3]
        return not flags & termios.ICANON and not flags & termios.ECHO

    def type(self, keys: str | bytes) -> None:
        os.write(self.master, keys.encode() if isinstance(keys, str) else keys)

    def shows(self, text: str) -> None:
        """Waits until the text stands there, with the cursor after it."""
        until(lambda: f"{text}▏" in self.read() or self.process.poll() is not None, SECONDS)
        assert f"{text}▏" in self.read()

    def end(self) -> int:
        """Waits for the end; the terminal is as it was."""
        until(lambda: self.read() is not None and self.process.poll() is not None, SECONDS)
        assert termios.tcgetattr(self.slave) == self.before
        return self.process.returncode

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(SECONDS)
        os.close(self.master)
        os.close(self.slave)


OpenTerminal = Callable[..., Terminal]


@pytest.fixture
def terminal(live: Live) -> Iterator[OpenTerminal]:
    terminals: list[Terminal] = []

    def start(*arguments: str, url: str = live.url, stdout: int | None = None) -> Terminal:
        terminals.append(Terminal("--url", url, *arguments, stdout=stdout))
        return terminals[-1]

    yield start
    for each in terminals:
        each.close()


def test_typing(terminal: OpenTerminal, live: Live, lines: Path) -> None:
    here = terminal("--against", str(lines)).ready()
    here.type("A brook")
    here.shows("A brook")
    until(lambda: "tokens " in here.read() and "█" in here.read(), SECONDS)
    here.type("s\x7f\x7fx")
    here.shows("A broox")
    here.type("\x08\x08 two  words  ")
    here.shows("A bro two  words  ")
    here.type("\x17")
    here.shows("A bro two  ")
    here.type("\x17\x17")
    here.shows("A ")
    here.type("\x15new")
    here.shows("new")
    here.type("\x7f" * 10 + "\x17\x15last")
    here.shows("last")
    here.type("\x04")
    assert here.end() == 0
    assert "Traceback" not in here.read()
    assert live.client.get("/v1/sessions").json()["data"] == []


def test_keys_that_are_no_text_are_left_out(terminal: OpenTerminal) -> None:
    here = terminal().ready()
    here.type("a\x1b[A\x1b[1;5C\x1bOP\x1b[200~b\x1b[3~\x01\x02c\x00\td")
    here.type("\x04")
    assert here.end() == 0
    assert "a" in here.read()
    assert "[A" not in here.read()
    assert "~" not in here.read()


def test_what_was_typed_is_what_is_embedded(terminal: OpenTerminal, engine: Engine, tmp_path: Path) -> None:
    """Standard output is a file here, so the JSON line says what the text was."""
    file = tmp_path / "out.json"
    with file.open("wb") as output:
        here = terminal(stdout=output.fileno()).ready()
        here.type("a\x1b[A\x1b[1;5C\x1bOPbx\x7f\x1b[3~\x01\x02c\x00\td é\x7f🌊🌊\x7f!\rnext line\x17")
        for byte in "小é🌊".encode():
            here.type(bytes([byte]))
            time.sleep(0.02)
        here.type(b"\xff?")
        here.type("\x04")
        assert here.end() == 0
    found = json.loads(file.read_bytes())
    text = "abc\td 🌊!\nnext 小é🌊\ufffd?"
    assert found["offset"] == len(text)
    assert agree(found, engine.embed([text])[0])


def test_utf_8_that_is_split_is_shown_whole(terminal: OpenTerminal) -> None:
    here = terminal().ready()
    for byte in "é🌊小".encode():
        here.type(bytes([byte]))
        time.sleep(0.02)
    here.shows("é🌊小")
    assert "\ufffd" not in here.read()
    here.type("\x04")
    assert here.end() == 0


def test_ctrl_d_at_once(terminal: OpenTerminal) -> None:
    here = terminal().ready()
    here.type("\x04")
    assert here.end() == 0
    assert "type something" in here.read()


def test_ctrl_c_restores_the_terminal(terminal: OpenTerminal, live: Live) -> None:
    here = terminal().ready()
    here.type("a brook")
    until(lambda: "tokens " in here.read(), SECONDS)  # the session is open
    here.process.send_signal(signal.SIGINT)
    assert here.end() != 0
    assert "Traceback" not in here.read()
    assert live.client.get("/v1/sessions").json()["data"] == []


def test_an_error_restores_the_terminal_and_is_said(terminal: OpenTerminal) -> None:
    here = terminal("--dimensions", "7")
    until(lambda: here.read() is not None and (here.process.poll() is not None or here._is_raw()), SECONDS)
    with contextlib.suppress(OSError):
        here.type("abc")
    for _ in range(200):
        if here.process.poll() is not None:
            break
        with contextlib.suppress(OSError):
            here.type("x")
        time.sleep(0.02)
    assert here.end() == 1
    assert "dimensions is 7" in here.read()
    assert "Traceback" not in here.read()


def test_text_beyond_the_window_is_told(terminal: OpenTerminal) -> None:
    """Also where the thread that shows embeddings is the first to hear of it."""
    here = terminal().ready()
    here.type("a brook")
    here.shows("a brook")
    here.type("word " * 600)
    time.sleep(0.5)
    here.type("\x04")
    assert here.end() == 1
    assert "tokens; the limit is" in here.read()


@pytest.mark.slow
def test_a_long_text_is_piped_in_segments(live: Live, tmp_path: Path) -> None:
    words = " ".join(f"word{number % 90}." if number % 7 == 0 else f"word{number % 90}" for number in range(900))
    command = [sys.executable, "-m", "streambed", "stream", "--url", live.url, "--overflow", "segment"]
    done = subprocess.run(command, input=words.encode(), capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    *ended, last = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(ended) == last["segment"] >= 2
    for number, line in enumerate([*ended, last]):
        assert line["segment"] == number
        own = live.engine.embed([words[line["start"] : line["offset"]]])[0]
        assert np.dot(own, line["embedding"]) > 0.99999
    assert last["offset"] == len(words)
    refused = subprocess.run(command[:-2], input=words.encode(), capture_output=True, timeout=120)
    assert refused.returncode == 1
    assert b"tokens; the limit is" in refused.stderr
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout
        running.stdout.close()  # whoever read it has had enough
        _, said = running.communicate(words.encode(), timeout=120)
    assert (running.returncode, said) == (1, b"")
