"""`streambed reduce`: fitted, saved, looked at, served; refused in one line where that cannot be."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from streambed.cli.main import cli
from streambed.errors import CheckpointError, SettingsError
from streambed.extras import explain
from streambed.vectors.reducers import Reducer
from tests.checkpoints import load_engine
from tests.server.test_process import Process

Reduce = Callable[..., Result]


@pytest.fixture
def reduce(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Reduce:
    for name in os.environ:
        if name.startswith("STREAMBED_"):
            monkeypatch.delenv(name)

    def run(*arguments: str | Path, input: bytes | None = None) -> Result:
        command, *rest = arguments
        options = ["--model", str(tiny_checkpoint), "--dtype", "float32"]
        return CliRunner().invoke(cli, ["reduce", str(command), *options, *map(str, rest)], input=input)

    return run


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    draw = np.random.default_rng(0)
    words = ["stone", "river", "light", "garden", "winter", "music", "paper", "ocean", "a", "the"]
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    lines = [{"text": " ".join(draw.choice(words, draw.integers(3, 9)))} for _ in range(400)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def fine(result: Result) -> str:
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


@pytest.mark.parametrize("method", ["pca", pytest.param("projection", marks=pytest.mark.slow)])
def test_fit_and_eval(reduce: Reduce, texts: Path, tmp_path: Path, tiny_checkpoint: Path, method: str) -> None:
    folder = tmp_path / "small"
    told = fine(reduce("fit", "--method", method, "--dimensions", 8, "--input", texts, "--output", folder))
    fitted = int(re.search(r"fitted to (\d+) texts", told)[1])  # type: ignore[index]
    left_out = int(re.search(r"\((\d+) left out", told)[1])  # type: ignore[index]
    assert fitted + left_out == len(set(texts.read_text().splitlines()))
    assert 0.1 * fitted < left_out < 0.5 * fitted
    assert sorted(file.name for file in folder.iterdir()) == ["reducer.json", "reducer.safetensors"]
    with load_engine(tiny_checkpoint) as engine:
        reducer = Reducer.load(folder, engine.info.fingerprint)
    assert reducer.fingerprint in told

    told = fine(reduce("eval", folder, "--input", texts))
    assert f"among {left_out} held-out" in told
    table = {line[:24].strip(): line[24:].split() for line in told.splitlines() if line[24:].strip()[:1].isdigit()}
    assert set(table) == {
        "whole", "whole, int8", "whole, ubinary", "cut to 8", "cut to 8, int8", "cut to 8, ubinary",
        method, f"{method}, int8", f"{method}, ubinary",
    }  # fmt: skip
    assert table["whole"] == ["64", "256", "1.000", "1.000"]
    assert table[method][:2] == ["8", "32"]
    assert float(table[method][3]) > float(table["cut to 8"][3])
    assert float(table["whole, int8"][3]) > 0.9
    with Image.open(folder / "recall.png") as image:
        assert image.width > 600

    plot = tmp_path / "other.svg"
    told = fine(reduce("eval", folder, "--input", texts, "--all", "--plot", plot))
    assert f"among {fitted + left_out} held-out" in told
    assert plot.read_text().lstrip().startswith("<?xml")


def test_standard_input(reduce: Reduce, texts: Path, tmp_path: Path) -> None:
    plain = "\n".join(json.loads(line)["text"] for line in texts.read_text().splitlines()).encode()
    fine(reduce("fit", "--method", "pca", "--dimensions", 4, "--input", "-", "--output", tmp_path, input=plain))
    assert (tmp_path / "reducer.json").exists()


def test_what_can_be_known_is_known_before_the_model_is_loaded(
    reduce: Reduce, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted, empty, out = tmp_path / "fitted", tmp_path / "empty.jsonl", tmp_path / "out"
    fine(reduce("fit", "--method", "pca", "--dimensions", 8, "--input", texts, "--output", fitted))
    empty.write_text('{"text": "a"}\n{"text": ""}\n{"text": ""}\n')
    monkeypatch.setattr("streambed.model.checkpoint.find_checkpoint", None)
    fit = ("fit", "--method", "pca", "--dimensions", 8)
    for arguments, said in (
        (["eval", tmp_path, "--input", texts], f"{tmp_path}/reducer.json: cannot be read: No such file or directory"),
        (
            ["eval", fitted, "--input", texts, "--plot", out / "a.png"],
            f"--plot {out}/a.png: cannot be written: No such",
        ),
        ([*fit, "--input", texts, "--output", empty], f"--output {empty}: is a file; a folder is expected"),
        ([*fit, "--input", texts, "--output", empty / "a"], f"--output {empty}/a: cannot be written: Not a directory"),
        ([*fit, "--input", empty, "--output", out], f"2 texts are empty: {empty}:2, {empty}:3; "),
    ):
        assert str(reduce(*arguments).exception).startswith(said)


@pytest.mark.usefixtures("reduce")
def test_a_byte_order_mark_is_no_part_of_the_first_text(reduce: Reduce, texts: Path, tmp_path: Path) -> None:
    """A reducer is decided by the vectors, so that of the file with a mark is the one of the file without."""
    marked = tmp_path / "marked.jsonl"
    marked.write_bytes(b"\xef\xbb\xbf" + texts.read_bytes())
    fit = ("fit", "--method", "pca", "--dimensions", 8, "--output")
    told = [fine(reduce(*fit, tmp_path / each.stem, "--input", each)) for each in (texts, marked)]
    assert told[0].partition(":")[2] == told[1].partition(":")[2]


BAD: dict[str, tuple[list[Any], str]] = {
    "dimensions": (["fit", "--method", "pca", "--dimensions", 64, "--input", "TEXTS", "--output", "OUT"], "1 to 63"),
    "too few": (["fit", "--method", "pca", "--dimensions", 8, "--input", "FEW", "--output", "OUT"], "too few"),
    "a file": (["fit", "--method", "pca", "--dimensions", 8, "--input", "TEXTS", "--output", "FEW"], "is a file"),
    "no reducer": (["eval", "OUT", "--input", "TEXTS"], "cannot be read"),
    "nothing held out": (["eval", "FITTED", "--input", "FEW"], "too few"),
    "no picture": (["eval", "FITTED", "--input", "TEXTS", "--plot", "OUT/deep/a.png"], "cannot be written"),
}


@pytest.mark.parametrize("name", BAD)
def test_wrong_use_is_one_line(name: str, reduce: Reduce, texts: Path, tmp_path: Path) -> None:
    few, fitted = tmp_path / "few.txt", tmp_path / "fitted"
    few.write_text("one\ntwo\n")
    places = {"TEXTS": texts, "FEW": few, "OUT": tmp_path / "out", "FITTED": fitted}
    arguments, message = BAD[name]
    if "FITTED" in arguments:
        fine(reduce("fit", "--method", "pca", "--dimensions", 8, "--input", texts, "--output", fitted))
    result = reduce(*(places.get(str(each), each) if "/" not in str(each) else tmp_path / each for each in arguments))
    assert isinstance(result.exception, SettingsError | CheckpointError), result.output
    assert message in str(result.exception)
    assert "\n" not in str(result.exception)


@pytest.mark.parametrize("module", ["sklearn", "matplotlib"])
def test_the_extra_is_named(
    module: str, reduce: Reduce, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = ("fit", "--method", "pca", "--dimensions", 8, "--input", texts, "--output", tmp_path)
    if module == "matplotlib":
        fine(reduce(*fit))
    monkeypatch.setitem(sys.modules, module, None)
    result = reduce(*fit) if module == "sklearn" else reduce("eval", tmp_path, "--input", texts)
    assert isinstance(result.exception, ModuleNotFoundError)
    assert "pip install '.[reduce]'" in str(explain(result.exception))
    assert not result.output, "it is said before anything is computed"


@pytest.mark.slow
def test_served(reduce: Reduce, texts: Path, tmp_path: Path, tiny_checkpoint: Path) -> None:
    fine(reduce("fit", "--method", "pca", "--dimensions", 8, "--input", texts, "--output", tmp_path / "small"))
    common = ("--model", tiny_checkpoint, "--port", "0", "--threads", "1", "--dtype", "float32")
    process = Process(*common, "--reducer", f"tiny={tmp_path / 'small'}").ready()
    try:
        model = process.client.get("/v1/models").json()["data"][0]["id"]
        reply = process.client.post(
            "/v1/embeddings", json={"model": model, "input": "a river", "reducer": "tiny"}
        ).json()
        assert len(reply["data"][0]["embedding"]) == 8
        assert "Reducer: tiny, pca to 8 dimensions" in process.output
    finally:
        process.close()
    process = Process(*common, "--special-tokens", "parse", "--reducer", f"tiny={tmp_path / 'small'}")
    try:
        assert process.end() == 1
        assert "was fitted to vectors of" in process.output
        assert "Traceback" not in process.output
    finally:
        process.close()
