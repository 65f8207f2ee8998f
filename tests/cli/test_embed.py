"""`streambed embed`: texts in, vectors out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from streambed.cli import embed as embed_module
from streambed.cli.main import cli
from streambed.errors import CheckpointError, InvalidRequest
from streambed.machine import usable_cores
from streambed.settings import Settings
from tests.checkpoints import load_engine
from tests.server.conftest import Live, Servers

TEXTS = ["A brook runs to the sea.", "小川は海へ流れる。", "🌊 waves"]
Embed = Callable[..., Result]


@pytest.fixture(scope="module")
def vectors(tiny_checkpoint: Path) -> Iterator[Callable[..., np.ndarray]]:
    """What the engine gives, to compare with."""
    with load_engine(tiny_checkpoint, max_batch_tokens=48) as engine:
        yield engine.embed


@pytest.fixture
def embed(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Embed:
    for name in os.environ:
        if name.startswith("STREAMBED_"):
            monkeypatch.delenv(name)

    def run(*arguments: str | Path, input: bytes | None = None) -> Result:
        options = ["embed", "--model", str(tiny_checkpoint), "--dtype", "float32"]
        return CliRunner().invoke(cli, [*options, *map(str, arguments)], input=input)

    return run


def rows(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, (result.output, result.exception)
    return [json.loads(line) for line in result.stdout.splitlines()]


def agree(lines: list[dict[str, Any]], expected: np.ndarray) -> bool:
    got = np.array([line["embedding"] for line in lines])
    assert got.shape == expected.shape
    assert [line["index"] for line in lines] == list(range(len(lines)))
    return bool((got * expected).sum(-1).min() >= 0.99999)


# Where texts come from


def test_arguments(embed: Embed, vectors: Any) -> None:
    lines = rows(embed(*TEXTS))
    assert agree(lines, vectors(TEXTS))
    assert [list(line) for line in lines] == [["index", "embedding"]] * 3


def test_standard_input(embed: Embed, vectors: Any) -> None:
    """Lines, whatever ends them; empty ones are no texts."""
    lines = rows(embed(input="\n".join(TEXTS).replace("\n", "\r\n", 1).encode() + b"\n\n"))
    assert agree(lines, vectors(TEXTS))


def test_standard_input_by_its_name(embed: Embed, vectors: Any) -> None:
    lines = rows(embed("first", "--input", "-", input=b"second"))
    assert agree(lines, vectors(["first", "second"]))


def test_text_files(embed: Embed, vectors: Any, tmp_path: Path) -> None:
    one, two = tmp_path / "one.txt", tmp_path / "two.txt"
    one.write_text("\n".join(TEXTS), encoding="utf-8")
    two.write_text("  spaces stay \n", encoding="utf-8")
    lines = rows(embed("argument", "--input", one, "-i", two))
    assert agree(lines, vectors(["argument", *TEXTS, "  spaces stay "]))


def test_jsonl_with_ids(embed: Embed, vectors: Any, tmp_path: Path) -> None:
    file = tmp_path / "texts.jsonl"
    items = [
        {"id": 7, "text": TEXTS[0]},
        {"id": "b", "text": TEXTS[1], "more": [1]},
        {"text": TEXTS[2]},
        {"id": None, "text": "x\ny"},
    ]
    file.write_text("\n".join(map(json.dumps, items)), encoding="utf-8")
    lines = rows(embed("--input", file))
    assert agree(lines, vectors([*TEXTS, "x\ny"]))
    assert [line.get("id") for line in lines] == [7, "b", None, None]
    assert "id" not in lines[2]


def test_jsonl_field(embed: Embed, vectors: Any, tmp_path: Path) -> None:
    file = tmp_path / "texts.jsonl"
    file.write_text('{"text": 5, "body": "the body"}\n', encoding="utf-8")
    assert agree(rows(embed("--input", file, "--field", "body")), vectors(["the body"]))


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "-"])
def test_a_byte_order_mark_is_no_part_of_the_first_text(embed: Embed, vectors: Any, tmp_path: Path, name: str) -> None:
    data = json.dumps({"text": "first"}).encode() if name.endswith("l") else b"first"
    (tmp_path / "a").with_suffix(Path(name).suffix).write_bytes(b"\xef\xbb\xbf" + data)
    source = name if name == "-" else tmp_path / name
    assert agree(rows(embed("--input", source, input=b"\xef\xbb\xbf" + data)), vectors(["first"]))


def test_utf_16_is_refused(embed: Embed, tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("a text", encoding="utf-16")
    assert one_line(embed("--input", file)) == f"{file}: is UTF-16; UTF-8 is expected"
    assert one_line(embed(input=file.read_bytes())) == "-: is UTF-16; UTF-8 is expected"


# Empty texts


def test_empty_texts_are_an_error_before_any_work(
    embed: Embed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them are named, wherever they are, and no model is loaded for it."""
    monkeypatch.setattr("streambed.model.checkpoint.find_checkpoint", None)
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": ""}\n\n{"text": "b"}\n' * 300)
    message = one_line(embed("a", "", "--input", file, ""))
    assert message.startswith(f"302 texts are empty: text 1, text 2, {file}:1, {file}:4, ")
    assert "--empty null" in message
    assert one_line(embed("")).startswith("1 text is empty: text 0; ")


def test_empty_texts_of_a_pipe_are_an_error_when_they_come(embed: Embed, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.jsonl"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_text('{"text": "a"}\n{"text": ""}\n'))
    writer.start()
    assert one_line(embed("--input", pipe)).startswith(f"1 text is empty: {pipe}:2; ")
    writer.join()


def test_empty_texts_are_null(embed: Embed, vectors: Any, tmp_path: Path) -> None:
    """The others are as without them, in batches that hold none, some and nothing else."""
    texts = ["" if number in (1, 300) or number >= 512 else f"text {number}" for number in range(700)]
    file, output = tmp_path / "a.jsonl", tmp_path / "a.npy"
    file.write_text("".join(json.dumps({"text": text, "id": number}) + "\n" for number, text in enumerate(texts)))
    lines = rows(embed("--input", file, "--empty", "null"))
    assert [(line["index"], line["id"]) for line in lines] == [(number, number) for number in range(700)]
    assert [line["embedding"] is None for line in lines] == [not text for text in texts]
    assert embed("--input", file, "--empty", "null", "--output", output).exit_code == 0
    saved = np.load(output)
    assert (saved.shape, saved.dtype) == ((700, 64), np.float32)
    assert [bool(np.isnan(row).all()) for row in saved] == [not text for text in texts]
    present = [number for number, text in enumerate(texts) if text]
    assert not np.isnan(saved[present]).any()
    expected = vectors([texts[number] for number in present])
    assert (saved[present] * expected).sum(-1).min() >= 0.99999
    assert np.allclose([lines[number]["embedding"] for number in present], saved[present])


def test_nothing_but_empty_texts(embed: Embed, tmp_path: Path) -> None:
    assert [line["embedding"] for line in rows(embed("", "", "--empty", "null"))] == [None, None]
    assert embed("", "--empty", "null", "--dimensions", "32", "--output", tmp_path / "a.npy").exit_code == 0
    assert np.isnan(np.load(tmp_path / "a.npy")).sum() == 32


def test_a_message_says_which_texts_it_counts(embed: Embed) -> None:
    message = one_line(embed("", "word " * 600, "--empty", "null", "--long-input", "error"))
    assert message.startswith("text 1 has 602 tokens")
    assert message.endswith("(counted from text 0)")


# A server instead of a model


@pytest.fixture(scope="module")
def live(tiny_checkpoint: Path) -> Iterator[Live]:
    servers = Servers()
    with load_engine(tiny_checkpoint, max_batch_tokens=48) as engine:
        yield servers.start(engine, Settings(served_model_name=("one", "two")), keys=("right",))
        servers.stop()


@pytest.fixture
def ask(live: Live, monkeypatch: pytest.MonkeyPatch) -> Embed:
    """`embed --url`, which loads nothing."""
    for name in os.environ:
        if name.startswith("STREAMBED_"):
            monkeypatch.delenv(name)
    monkeypatch.setattr("streambed.model.checkpoint.find_checkpoint", None)

    def run(*arguments: str | Path, key: str | None = "right", input: bytes | None = None, **more: str) -> Result:
        options = ["--url", live.url, *(["--api-key", key] if key else [])]
        return CliRunner().invoke(cli, ["embed", *options, *map(str, arguments)], input=input, env=more)

    return run


def test_by_a_server(ask: Embed, vectors: Any, tmp_path: Path) -> None:
    texts = [f"text {number}" for number in range(300)]
    lines = rows(ask("--input-type", "query", "--dimensions", "32", input="\n".join(texts).encode()))
    assert agree(lines, vectors(texts, input_type="query", dimensions=32))
    assert ask("a", "", "--empty", "null", "--output", tmp_path / "a.npy").exit_code == 0
    saved = np.load(tmp_path / "a.npy")
    assert (saved[0] @ vectors(["a"])[0], bool(np.isnan(saved[1]).all())) == (pytest.approx(1, abs=1e-5), True)
    assert agree(rows(ask("word " * 600)), vectors(["word " * 600], long_input="merge"))
    assert agree(rows(ask("a", "--model", "two")), vectors(["a"]))
    more = {"STREAMBED_API_KEY": "right another", "STREAMBED_MODEL": "builtin", "STREAMBED_THREADS": "1"}
    assert agree(rows(ask("a", key=None, **more)), vectors(["a"])), "variables are for other commands, too"


@pytest.mark.parametrize(
    "given", ["--dtype=auto", "--device=cpu", "--revision=main", "--threads=1", "--allow-unknown-config"]
)
def test_flags_that_mean_nothing_to_a_server_are_refused(ask: Embed, given: str) -> None:
    result = ask("a", given)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"{given.partition('=')[0]} is for a model that is loaded here; --url uses the server's" in result.stderr


def test_a_key_without_a_server_is_refused(embed: Embed) -> None:
    result = embed("a", "--api-key", "k")
    assert result.exit_code == 2
    assert "--url" in result.stderr


def test_what_a_server_refuses_is_one_line(ask: Embed, live: Live) -> None:
    for arguments, said in (
        (["--dimensions", "7"], "dimensions"),
        (["--model", "three"], "no such model here; this server has one, two"),
        (["--prompt-name", "none"], "prompt_name"),
    ):
        result = ask("a", *arguments)
        assert (result.exit_code, result.stdout) == (1, "")
        assert said in (result.stderr or str(result.exception))
    assert "key" in str(ask("a", key="wrong").stderr)


# Before the model is loaded


def test_threads(embed: Embed, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    for given, expected in ((["--threads", "1"], 1), ([], usable_cores())):
        asked.clear()
        rows(embed("a", *given))
        assert asked[0] == expected, "before the engine looks for what is fastest"
    assert str(embed("a", "--threads", "0").exception) == "--threads is 0; at least 1 is expected"


def test_more_texts_than_are_taken_at_a_time(embed: Embed, vectors: Any) -> None:
    texts = [f"text number {n}" for n in range(600)]
    assert agree(rows(embed(input="\n".join(texts).encode())), vectors(texts))


def test_no_texts(embed: Embed, tmp_path: Path) -> None:
    for nothing in (b"", b"\n\n"):
        result = embed(input=nothing)
        assert rows(result) == []
        assert result.stderr == "there were no texts\n"
    assert embed("--output", tmp_path / "none.npy", "--dimensions", "32", input=b"").exit_code == 0
    assert np.load(tmp_path / "none.npy").shape == (0, 32)


def test_a_text_that_names_a_file(embed: Embed, tmp_path: Path) -> None:
    """It is what was asked for, and most likely not what was meant."""
    file = tmp_path / "texts.txt"
    file.write_text("a\nb\n")
    result = embed(file)
    assert len(rows(result)) == 1
    assert f"Did you mean --input {file}?" in result.stderr
    assert embed("no file", "x" * 300, "\0").stderr == ""


# Where vectors go


def test_npy(embed: Embed, vectors: Any, tmp_path: Path) -> None:
    file = tmp_path / "vectors.npy"
    result = embed(*TEXTS, "--output", file)
    assert result.exit_code == 0
    assert result.stdout == ""
    got = np.load(file)
    assert got.dtype == np.float32
    assert (got * vectors(TEXTS)).sum(-1).min() >= 0.99999


def test_jsonl_file(embed: Embed, vectors: Any, tmp_path: Path) -> None:
    file = tmp_path / "vectors.jsonl"
    result = embed(*TEXTS, "-o", file)
    assert (result.exit_code, result.stdout) == (0, "")
    assert agree([json.loads(line) for line in file.read_text().splitlines()], vectors(TEXTS))


# What the vectors are


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        (["--instruction", "find"], {"instruction": "find"}),
        (["--input-type", "query"], {"input_type": "query"}),
        (["--dimensions", "32"], {"dimensions": 32}),
        (["--dimensions", "64", "--input-type", "document"], {"dimensions": 64}),
    ],
)
def test_options(embed: Embed, vectors: Any, options: list[str], asked: dict[str, Any]) -> None:
    assert agree(rows(embed(*TEXTS, *options)), vectors(TEXTS, **asked))


def test_truncate(embed: Embed, vectors: Any) -> None:
    long = "word " * 600
    assert agree(
        rows(embed(long, "short", "--long-input", "truncate")), vectors([long, "short"], long_input="truncate")
    )


# Errors


def one_line(result: Result) -> str:
    """The message of a failed run: one line on standard error, exit code 1, whoever prints it."""
    if isinstance(result.exception, InvalidRequest | CheckpointError):  # main() prints these; see test_main.py
        message = str(result.exception)
    else:
        assert result.exit_code == 1, result.output
        message = result.stderr.strip().removeprefix("Error: ")
    assert "\n" not in message
    assert result.stdout == ""
    return message


def test_text_beyond_the_window(embed: Embed) -> None:
    message = one_line(embed("short", "word " * 600, "--long-input", "error"))
    assert "text 1 has 602 tokens" in message
    assert "512" in message


def test_bad_dimensions(embed: Embed) -> None:
    assert "dimensions is 65; this model gives 32 to 64" in one_line(embed("a", "--dimensions", "65"))


def test_two_kinds_of_prompt(embed: Embed) -> None:
    assert "exclude each other" in one_line(embed("a", "--instruction", "b", "--input-type", "query"))
    assert "unknown prompt_name" in one_line(embed("a", "--prompt-name", "code"))


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b'{"text": "good"}\n{"text": \n', "not valid JSON"),
        (b'{"text": "good"}\n[1]\n', "no string in field 'text'"),
        (b'{"text": "good"}\n{"body": "b"}\n', "no string in field 'text'"),
        (b'{"text": "good"}\n{"text": 5}\n', "no string in field 'text'"),
        (b'{"text": "good"}\n{"text": "\\ud800"}\n', "not valid JSON"),
        (b'{"text": "good"}\n{"text": "\xff"}\n', "not UTF-8"),
    ],
)
def test_broken_jsonl_names_file_and_line(embed: Embed, tmp_path: Path, content: bytes, cause: str) -> None:
    file = tmp_path / "broken.jsonl"
    file.write_bytes(content)
    assert one_line(embed("--input", file)).startswith(f"{file}:2: {cause}")


def test_blank_lines_count(embed: Embed, tmp_path: Path) -> None:
    file = tmp_path / "broken.jsonl"
    file.write_bytes(b'\n{"text": "good"}\r\n\r\n{\n')
    assert one_line(embed("--input", file)).startswith(f"{file}:4: ")


def test_text_file_in_another_encoding(embed: Embed, tmp_path: Path) -> None:
    file = tmp_path / "latin.txt"
    file.write_bytes("good\nflie\u00dft\n".encode("latin-1"))
    assert one_line(embed("--input", file)) == f"{file}:2: not UTF-8"


def test_missing_input(embed: Embed, tmp_path: Path) -> None:
    file = tmp_path / "nowhere.txt"
    assert one_line(embed("--input", file)) == f"{file}: cannot be read: No such file or directory"
    assert "cannot be read: Is a directory" in one_line(embed("--input", tmp_path))


def test_output_that_cannot_be_written(embed: Embed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "nowhere" / "vectors.npy"
    assert one_line(embed("a", "--output", file)) == f"{file}: cannot be written: No such file or directory"
    (tmp_path / "a.npy").mkdir()
    monkeypatch.setattr("streambed.model.checkpoint.find_checkpoint", None)  # all of it is known before
    for name, reason in (("a.npy", "Is a directory"), ("nowhere/b.npy", "No such file or directory")):
        assert one_line(embed("a", "--output", tmp_path / name)) == f"{tmp_path / name}: cannot be written: {reason}"


@pytest.mark.parametrize("name", ["vectors.csv", "vectors", "vectors.npz", "vectors.npy.gz", ""])
def test_output_of_an_unknown_kind(embed: Embed, tmp_path: Path, name: str) -> None:
    """Refused before anything is loaded or written."""
    result = embed("a", "--output", tmp_path / name if name else "")
    assert result.exit_code == 2
    assert ".jsonl or .npy" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_nothing_given_at_a_terminal(embed: Embed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embed_module, "sys", SimpleNamespace(stdin=SimpleNamespace(isatty=lambda: True)))
    result = embed()
    assert result.exit_code == 2
    assert "standard input" in result.stderr


@pytest.mark.parametrize(
    ("options", "named"),
    [(["--model", "./nowhere"], "./nowhere"), (["--dtype", "float16"], "--dtype"), (["--device", "tpu"], "--device")],
)
def test_bad_model(embed: Embed, options: list[str], named: str) -> None:
    result = embed("a", *options)
    message = getattr(result.exception, "by_flag", str(result.exception))  # as main() prints it
    assert named in message
    assert "\n" not in message
    assert result.stdout == ""


# As a process


def process(*arguments: str | Path | bytes, input: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "streambed", "embed", *arguments]
    return subprocess.run(command, input=input, capture_output=True, timeout=60, check=False)


def test_pipe(tiny_checkpoint: Path, vectors: Any) -> None:
    """Standard output holds vectors and nothing else; an argument that is no UTF-8 is an error, as in a request."""
    done = process("--model", tiny_checkpoint, "--dtype", "float32", input="\n".join(TEXTS).encode())
    assert done.returncode == 0, done.stderr
    assert agree([json.loads(line) for line in done.stdout.splitlines()], vectors(TEXTS))
    assert done.stderr == b""

    done = process("--model", tiny_checkpoint, b"good", b"broken \xff")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.strip().startswith(b"Error: text 1 has a lone surrogate at character 7")


def test_process_that_fails(tiny_checkpoint: Path, tmp_path: Path) -> None:
    file = tmp_path / "broken.jsonl"
    file.write_bytes(b"{")
    done = process("--model", tiny_checkpoint, "--input", file)
    assert done.returncode == 1
    assert done.stdout == b""
    said = done.stderr.decode().strip()
    assert said.startswith(f"streambed: {file}:1: not valid JSON")
    assert "\n" not in said


@pytest.mark.slow
def test_standard_output_stays_open(tiny_checkpoint: Path) -> None:
    code = "from streambed.cli.embed import embed; embed(standalone_mode=False); print('still open')"
    command = [sys.executable, "-c", code, "--model", tiny_checkpoint, "a"]
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert done.stdout.endswith(b"still open\n")


@pytest.mark.slow
def test_reader_that_leaves(tiny_checkpoint: Path) -> None:
    """`streambed embed | head -1` ends quietly."""
    command = [sys.executable, "-m", "streambed", "embed", "--model", tiny_checkpoint]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdin
        assert running.stdout
        assert running.stderr
        running.stdout.close()
        running.stdin.write(b"a text\n" * 2000)
        running.stdin.close()
        said = running.stderr.read()
        running.wait(60)
    assert said == b""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
@pytest.mark.parametrize(
    "arguments", [pytest.param(["embed", "a", "--model", "MODEL"], marks=pytest.mark.slow), ["embed", "--help"]]
)
def test_a_full_disk_is_one_line(tiny_checkpoint: Path, arguments: list[str]) -> None:
    command = [str(tiny_checkpoint) if each == "MODEL" else each for each in arguments]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "streambed", *command], stdout=full, stderr=subprocess.PIPE, timeout=60, check=False
        )
    assert done.returncode == 1
    assert b"No space left on device" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_a_closed_standard_output_is_one_line(tiny_checkpoint: Path) -> None:
    script = '"$0" -m streambed embed a --model "$1" >&-'
    done = subprocess.run(
        ["/bin/sh", "-c", script, sys.executable, tiny_checkpoint], capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (1, b"Error: standard output is closed\n")


@pytest.mark.parametrize(("how", "says"), [("merge", "merged from their segments"), ("truncate", "truncated")])
def test_long_texts_are_told_on_standard_error(
    embed: Embed, vectors: Callable[..., np.ndarray], how: str, says: str
) -> None:
    texts = ["short", "word " * 700, "another word " * 400]
    result = embed("--long-input", how, *texts)
    assert agree(rows(result), vectors(texts, long_input=how))
    assert result.stderr == f"2 of 3 texts were longer than the model's window, and {says}\n"
    assert embed("short").stderr == ""
