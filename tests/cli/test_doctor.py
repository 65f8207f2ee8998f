"""`streambed doctor`: what it says of a machine, an environment and a model, and what it fails."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from streambed import Engine, machine
from streambed.cli import doctor as doctor_module
from streambed.cli.main import cli
from streambed.doctor.environment import examine
from streambed.engine.session import Session
from streambed.errors import CheckpointError, SettingsError
from streambed.settings import Settings
from tests.checkpoints import make_checkpoint

Doctor = Callable[..., Result]
Findings = dict[tuple[str, str], tuple[str, str]]
EXACTNESS = ["streamed", "edited", "batched", "prefixes", "integrity"]


@pytest.fixture
def doctor(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Doctor]:
    """Runs it on the tiny checkpoint, on one thread; steps of 48 rows, so that texts take several."""
    for name in os.environ:
        if name.startswith("STREAMBED_") or name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
            monkeypatch.delenv(name)
    threads = torch.get_num_threads()

    def run(*arguments: str | Path, **environment: str) -> Result:
        options = [] if "--model" in arguments else ["--model", str(tiny_checkpoint)]
        usual = {"STREAMBED_MAX_BATCH_TOKENS": "48", "STREAMBED_DTYPE": "float32", "STREAMBED_THREADS": "1"}
        result = CliRunner().invoke(cli, ["doctor", *options, *map(str, arguments)], env=usual | environment)
        assert "Traceback" not in result.output
        assert isinstance(result.exception, SystemExit | CheckpointError | SettingsError | None), result.exception
        return result

    yield run
    torch.set_num_threads(threads)


@pytest.fixture
def own_checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy to write in."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "own"))


def findings(result: Result) -> Findings:
    """Of a run with --json: (group, name) to (status, detail)."""
    report = json.loads(result.stdout)
    assert list(report) == ["checks", "ok"]
    assert all(list(check) == ["group", "name", "status", "detail"] for check in report["checks"])
    assert report["ok"] == all(check["status"] != "FAIL" for check in report["checks"])
    assert report["ok"] == (result.exit_code == 0)
    return {(check["group"], check["name"]): (check["status"], check["detail"]) for check in report["checks"]}


def environment(**settings: Any) -> Findings:
    """What is said of the environment, without a model."""
    with click.Context(cli) as context:
        known = doctor_module._known_variables(context)
    values, problem = doctor_module._settings({"model": "builtin"} | settings)
    found = examine(values, problem, known)
    return {(each.group, each.name): (each.status, each.detail) for each in found}


# All is well


def test_report_for_people(doctor: Doctor, tiny_checkpoint: Path) -> None:
    result = doctor()
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    groups = [line for line in lines[:-1] if line and not line.startswith(" ")]
    assert groups == ["machine", "environment", "model", "exactness", "canonical", "speed"]
    details = [line for line in lines if line.startswith(" ")]
    assert {line[2:8] for line in details} <= {"ok    ", "note  ", "warn  "}
    assert all(line[33] == " " != line[34] for line in details)
    assert lines[-1].startswith("all is well")
    assert any(line.split()[:2] == ["ok", "directory"] and line.endswith(str(tiny_checkpoint)) for line in lines)


def test_what_a_checkpoints_files_decide_is_told(doctor: Doctor, tmp_path: Path) -> None:
    """And streams, batches and known vectors are compared under it."""
    directory = make_checkpoint(
        tmp_path / "own", prompts={"query": "Instruct: Find it\nQuery: "}, odd_key=1, dropout=0.1
    )
    file = directory / "config_sentence_transformers.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"default_prompt_name": "query", "truncate_dim": 40}))
    refused = doctor("--model", directory, "--json")
    assert "key 'odd_key' is not known here" in findings(refused)["model", "load"][1]
    found = findings(doctor("--model", directory, "--json", "--allow-unknown-config", "--write-canonical"))
    assert {status for (group, _), (status, _) in found.items() if group in ("exactness", "canonical")} == {"ok"}
    assert found["model", "default prompt"] == ("ok", r"query 'Instruct: Find it\nQuery: ', where a request names none")
    assert found["model", "instruction"] == ("ok", r"'Instruct: {instruction}\nQuery: '")
    assert found["model", "default dimensions"] == ("ok", "40, which is the checkpoint's truncate_dim")
    assert found["model", "only for training"] == ("ok", "config.json: dropout")
    assert found["model", "unknown keys"][0] == "warn"
    assert "config.json: odd_key" in found["model", "unknown keys"][1]


def test_json(doctor: Doctor) -> None:
    result = doctor("--json")
    assert (result.exit_code, result.stderr) == (0, "")
    found = findings(result)
    assert all("worst cosine" in found["exactness", name][1] for name in EXACTNESS[:-1])
    assert all(found["exactness", name][0] == "ok" for name in EXACTNESS)
    assert found["canonical", "vectors"] == ("note", "no canonical vectors known for this checkpoint")
    assert found["model", "vectors"] == ("ok", "64 dimensions, from 2 layers")
    assert found["model", "window"] == ("ok", "512 tokens, all of which can be used")
    assert found["model", "step"] == ("ok", "48 rows")
    assert found["model", "special tokens"] == ("ok", "plain text")
    assert found["environment", "STREAMBED_*"] == (
        "ok",
        "STREAMBED_DTYPE, STREAMBED_MAX_BATCH_TOKENS, STREAMBED_THREADS",
    )
    assert found["speed", "short query"][1].endswith("ms for 10 tokens, the best of 5")
    assert "rows a second" in found["speed", "full step"][1]


def test_settings_that_serve_would_use(doctor: Doctor) -> None:
    found = findings(doctor("--json", STREAMBED_SPECIAL_TOKENS="parse", STREAMBED_KV_MEMORY="100KiB"))
    assert found["model", "special tokens"] == ("ok", "parsed")
    status, detail = found["model", "window"]
    assert (status, "512 tokens, but --kv-memory holds 192" in detail) == ("warn", True)
    assert all(found["exactness", name][0] == "ok" for name in EXACTNESS)


def test_a_budget_for_64_tokens(doctor: Doctor) -> None:
    """Its canonical texts are longer than that, which is no fault of the model's."""
    found = findings(doctor("--json", "--model", "builtin", "--kv-memory", "400KiB"))
    assert found["canonical", "vectors"][0] == "ok"


def test_small_window(doctor: Doctor, tmp_path: Path) -> None:
    """Nothing fails for want of room."""
    for window, status in ((16, "note"), (64, "ok")):
        model = make_checkpoint(tmp_path / str(window), window=window)
        result = doctor("--json", "--model", model)
        assert result.exit_code == 0, result.stdout
        name = "self-check" if status == "note" else "edited"
        assert findings(result)["exactness", name][0] == status


# The environment


def test_misspelt_variable_is_no_failure(doctor: Doctor) -> None:
    result = doctor(STREAMBED_PROT="1")
    assert result.exit_code == 0
    assert any(line.split()[:2] == ["warn", "STREAMBED_PROT"] for line in result.stdout.splitlines())
    assert "warning" in result.stdout.splitlines()[-1]


@pytest.mark.usefixtures("doctor")
def test_variables_of_any_command_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    group = click.Group(
        "inner", [click.Command("c", params=[click.Option(["--url"], envvar=["STREAMBED_URL", "URL"])])]
    )
    monkeypatch.setitem(cli.commands, "inner", group)
    monkeypatch.setenv("STREAMBED_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("STREAMBED_API_KEY", "k")
    assert environment()["environment", "STREAMBED_*"] == ("ok", "STREAMBED_API_KEY, STREAMBED_URL")


@pytest.mark.usefixtures("doctor")
@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"STREAMBED_NO_AUTH": "1", "STREAMBED_API_KEY": "s3cret"}, "exclude each other"),
        ({"STREAMBED_PORT": "70000"}, "--port is 70000"),
        ({"STREAMBED_PORT": "many"}, "'many' is not a valid integer"),
        ({"STREAMBED_TLS_CERT": "cert.pem"}, "go together"),
    ],
)
def test_settings_that_cannot_be(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], says: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    status, detail = environment(dtype="bfloat16")["environment", "settings"]
    assert status == "FAIL"
    assert "serve would not start" in detail
    assert says in detail
    assert "s3cret" not in detail
    assert doctor_module._settings({"dtype": "bfloat16"})[0] == Settings(dtype="bfloat16")


def test_settings_that_cannot_be_fail(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "usable_cores", lambda: 1)
    result = doctor("--json", STREAMBED_PORT="70000")
    assert result.exit_code == 1
    assert findings(result)["environment", "settings"][0] == "FAIL"


# Canonical vectors


def test_canonical_vectors_are_written_and_agree(doctor: Doctor, own_checkpoint: Path) -> None:
    found = findings(doctor("--json", "--model", own_checkpoint, "--write-canonical"))
    assert found["canonical", "written"] == ("ok", f"10 texts in {own_checkpoint / 'canonical.json'}")
    assert found["canonical", "vectors"][0] == "ok"
    known = json.loads((own_checkpoint / "canonical.json").read_text())
    assert known["format"] == 1
    assert {len(entry["vector"]) for entry in known["texts"]} == {64}
    assert {entry["instruction"] is None for entry in known["texts"]} == {True, False}

    result = doctor("--json", "--model", own_checkpoint, "--dtype", "bfloat16")
    status, detail = findings(result)["canonical", "vectors"]
    assert (status, "canonical vectors agree: worst cosine" in detail) == ("ok", True)

    # The vectors of other weights.
    make_checkpoint(own_checkpoint, seed=1)
    result = doctor("--model", own_checkpoint)
    assert result.exit_code == 1
    (line,) = (line for line in result.stdout.splitlines() if "FAIL" in line)
    assert line.split()[:2] == ["FAIL", "vectors"]
    assert result.stdout.splitlines()[-1].startswith("1 check failed")


def test_malformed_canonical_file_fails(doctor: Doctor, own_checkpoint: Path) -> None:
    (own_checkpoint / "canonical.json").write_text('{"format": 1, "texts": ')
    result = doctor("--json", "--model", own_checkpoint)
    assert result.exit_code == 1
    status, detail = findings(result)["canonical", "vectors"]
    assert (status, detail.startswith(f"{own_checkpoint / 'canonical.json'}: not valid JSON")) == ("FAIL", True)


def test_canonical_file_is_of_float32(doctor: Doctor, own_checkpoint: Path) -> None:
    result = doctor("--json", "--model", own_checkpoint, "--dtype", "bfloat16", "--write-canonical")
    assert result.exit_code == 1
    assert "--dtype float32 and --quantize none are expected" in findings(result)["canonical", "written"][1]
    assert not (own_checkpoint / "canonical.json").exists()


def test_what_integers_cost(doctor: Doctor, tmp_path: Path) -> None:
    """By texts of our own, or the user's. Vectors of integers are not canonical."""
    texts = tmp_path / "texts.txt"
    texts.write_text("A first text.\n\nA second one.\n")
    found = findings(doctor("--json", "--quantize", "int8", "--texts", texts, "--write-canonical"))
    assert found["quantisation", "likeness"][1].endswith("of 2 texts")
    assert "--quantize none are expected" in found["canonical", "written"][1]
    assert "of 64 texts" in findings(doctor("--json", "--quantize", "int8"))["quantisation", "likeness"][1]
    assert not [group for group, _ in findings(doctor("--json")) if group == "quantisation"]


def test_texts_to_compare_that_make_no_sense(doctor: Doctor, tmp_path: Path) -> None:
    empty = tmp_path / "empty.txt"
    empty.write_text("\n")
    assert "there is no text in it" in doctor("--quantize", "int8", "--texts", empty).output
    assert "--kv-dtype int8 is compared by" in doctor("--texts", empty).output


# What is broken


def test_session_that_gives_another_vector(
    doctor: Doctor, own_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing is declared canonical then."""
    honest = Session.embedding
    monkeypatch.setattr(Session, "embedding", lambda session: np.roll(honest(session), 1))
    result = doctor("--json", "--model", own_checkpoint, "--write-canonical")
    assert result.exit_code == 1
    found = findings(result)
    assert [found["exactness", name][0] for name in EXACTNESS] == ["FAIL", "FAIL", "ok", "ok", "ok"]
    assert "0.999999 is the least for native" in found["exactness", "streamed"][1]
    assert found["canonical", "written"][0] == "FAIL"
    assert list(own_checkpoint.glob("canonical*")) == []


def test_ways_that_break(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is raised is a line; the other checks go on."""

    def integrity(engine: Engine) -> None:
        raise AssertionError("the budget holds")

    def prefixes(engine: Engine, text: str, **options: Any) -> None:
        raise RuntimeError("first line\n\x1b[31msecond")

    monkeypatch.setattr(Engine, "check_integrity", integrity)
    monkeypatch.setattr(Engine, "prefix_embeddings", prefixes)
    monkeypatch.setattr(Session, "tokens", property(lambda session: [0]))
    result = doctor()
    assert result.exit_code == 1
    assert "\x1b" not in result.stdout
    failed = [" ".join(line.split()) for line in result.stdout.splitlines() if "FAIL" in line]
    assert [line.split()[1] for line in failed] == ["streamed", "edited", "prefixes", "integrity"]
    assert failed[2:] == [
        "FAIL prefixes RuntimeError: first line [31msecond",
        "FAIL integrity AssertionError: the budget holds",
    ]
    assert "are not those of the whole text" in failed[0]
    assert result.stdout.splitlines()[-1].startswith("4 checks failed")


# What cannot be served


def test_missing_model(doctor: Doctor) -> None:
    result = doctor("--model", "./nowhere")
    assert isinstance(result.exception, CheckpointError)
    assert (result.exit_code, result.stdout) == (1, "")


@pytest.mark.parametrize(
    ("options", "named"),
    [(["--model", "./nowhere"], "./nowhere"), (["--dtype", "float16"], "--dtype"), (["--device", "tpu"], "--device")],
)
def test_json_of_what_cannot_be_served(doctor: Doctor, options: list[str], named: str) -> None:
    result = doctor("--json", *options)
    assert isinstance(result.exception, CheckpointError | SettingsError)
    assert result.exit_code == 1
    status, detail = findings(result)["model", "load"]
    assert (status, named in detail) == ("FAIL", True)


def test_damaged_weights(doctor: Doctor, own_checkpoint: Path) -> None:
    (own_checkpoint / "model.safetensors").write_bytes(b"damaged")
    result = doctor("--model", own_checkpoint)
    assert isinstance(result.exception, CheckpointError)
    assert "\n" not in str(result.exception)
    assert result.stdout.startswith("machine\n")


def test_machine_without_memory(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

    monkeypatch.setattr("streambed.model.stock.device.load_network", fail)
    result = doctor()
    assert isinstance(result.exception, CheckpointError)
    assert str(result.exception).endswith("cannot be loaded: OutOfMemoryError: CUDA out of memory. Tried to allocate")


def test_bad_size() -> None:
    result = CliRunner().invoke(cli, ["doctor", "--kv-memory", "much"])
    assert result.exit_code == 2
    assert "--kv-memory" in result.stderr


def test_process(tiny_checkpoint: Path) -> None:
    """One line on standard error where a model is missing; help is quick."""
    command = [sys.executable, "-m", "streambed", "doctor"]
    done = subprocess.run([*command, "--model", "./nowhere"], capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, b"")
    said = done.stderr.decode().strip()
    assert said.startswith("streambed: './nowhere': no such directory")
    assert "\n" not in said
    done = subprocess.run([*command, "--help"], capture_output=True, timeout=60, check=False)
    assert done.returncode == 0
    assert b"write-canonical" not in done.stdout
