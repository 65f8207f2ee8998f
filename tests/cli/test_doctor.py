"""`streambed doctor`: what it says of a machine, an environment and a model, and what it fails."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from streambed import Engine
from streambed.cli import doctor as doctor_module
from streambed.cli.main import cli
from streambed.engine.session import Session
from streambed.errors import CheckpointError, SettingsError
from streambed.model import choice
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
    found = doctor_module._environment(values, problem, known)
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


def test_bfloat16_on_a_processor_without_it(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "multiplies_bfloat16", lambda device: False)
    found = findings(doctor("--json", "--dtype", "bfloat16", "--device", "cpu", "--kv-memory", "999999GiB"))
    status, detail = found["model", "number format"]
    assert (status, "does not multiply bfloat16" in detail) == ("warn", True)
    status, detail = found["model", "KV"]
    assert (status, "lower --kv-memory" in detail) == ("warn", True)
    assert all(found["exactness", name][0] == "ok" for name in EXACTNESS)


def test_files_that_serve_would_refuse(doctor: Doctor, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    found = findings(
        doctor("--json", STREAMBED_JOURNAL=str(tmp_path / "none/x.db"), STREAMBED_REDUCER=f"small={tmp_path / 'empty'}")
    )
    status, detail = found["files", "journal"]
    assert (status, "serve would not start" in detail) == ("FAIL", True)
    assert found["files", "reducer small"][0] == "FAIL"
    found = findings(doctor("--json", STREAMBED_JOURNAL=str(tmp_path / "x.db")))
    assert found["files", "journal"] == ("ok", str(tmp_path / "x.db"))
    assert not (tmp_path / "x.db").exists()
    assert findings(doctor("--json", STREAMBED_JOURNAL=str(tmp_path)))["files", "journal"][0] == "FAIL"


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


@pytest.mark.usefixtures("doctor")
def test_misspelt_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMBED_KV_MEMROY", "secret")
    monkeypatch.setenv("STREAMBED_COLOUR", "secret")
    found = environment()
    assert found["environment", "STREAMBED_KV_MEMROY"] == (
        "warn",
        "no command knows this variable, so it has no effect; was STREAMBED_KV_MEMORY meant?",
    )
    assert found["environment", "STREAMBED_COLOUR"] == ("warn", "no command knows this variable, so it has no effect")
    assert "secret" not in str(found)


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
    monkeypatch.setattr(doctor_module, "usable_cores", lambda: 1)
    result = doctor("--json", STREAMBED_PORT="70000")
    assert result.exit_code == 1
    assert findings(result)["environment", "settings"][0] == "FAIL"


@pytest.mark.parametrize(
    ("value", "threads", "status", "says"),
    [
        ("2", 2, "ok", "as serve will use"),
        ("2,1", 2, "ok", "as serve will use"),
        ("3", 2, "warn", "serve computes with 2 threads"),
        ("64", 2, "warn", "on 4 usable cores"),
        ("lots", 2, "warn", "no number"),
        ("0", 2, "warn", "no number"),
        ("", 2, "warn", "no number"),
    ],
)
def test_threads_of_libraries(value: str, threads: int, status: str, says: str) -> None:
    finding = doctor_module._library_threads("OMP_NUM_THREADS", value, threads, 4)
    assert finding.status == status
    assert says in finding.detail


@pytest.mark.usefixtures("doctor")
def test_threads_of_libraries_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ("environment", "OMP_NUM_THREADS") not in environment()
    monkeypatch.setenv("OMP_NUM_THREADS", "4096")
    monkeypatch.setenv("MKL_NUM_THREADS", "4096")
    found = environment()
    assert found["environment", "OMP_NUM_THREADS"][0] == found["environment", "MKL_NUM_THREADS"][0] == "warn"


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"cpu.max": "150000 100000"}, 1.5),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, 0.5),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({}, None),
    ],
)
def test_container_limit_of_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], limit: float | None
) -> None:
    (tmp_path / "cpu").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(f"{text}\n")
    monkeypatch.setattr(doctor_module, "_CGROUP", tmp_path)
    assert doctor_module._cpu_limit() == limit
    assert doctor_module._threads(4, 4).status == ("ok" if limit is None else "warn")
    assert doctor_module._threads(1, 4).status == "ok"
    assert doctor_module._threads(5, 4).status == "warn"


def test_container_limit_of_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Less is free than the machine says; what was only read from files can be had."""
    monkeypatch.setattr(doctor_module, "_CGROUP", tmp_path)
    unbound = doctor_module._free_memory("cpu")
    (tmp_path / "memory.max").write_text("100000\n")
    (tmp_path / "memory.current").write_text("90000\n")
    (tmp_path / "memory.stat").write_text("anon 50000\ninactive_file 20000\n")
    assert unbound is None or unbound > 30000
    assert doctor_module._free_memory("cpu") == 30000


@pytest.mark.parametrize(("most", "status"), [(100, "warn"), (4096, "ok"), (resource.RLIM_INFINITY, "ok")])
def test_descriptors(monkeypatch: pytest.MonkeyPatch, most: int, status: str) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (100, most))
    assert doctor_module._descriptors().status == status


def test_system_that_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_module, "_read", lambda path: None)
    found = {finding.name: finding for finding in doctor_module._machine()}
    assert found["huge pages"].status == "note"
    assert found["processor"].detail
    assert found["memory"].status == "ok"


def test_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """As two devices would be named; this machine may have none."""
    about = SimpleNamespace(name="Card", total_memory=80 << 30)
    for name, value in {
        "is_available": True,
        "device_count": 2,
        "get_device_properties": about,
        "mem_get_info": (70 << 30, 80 << 30),
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (9, 0) if index else (7, 5))
    found = [(finding.name, finding.detail) for finding in doctor_module._cuda()]
    assert found == [
        ("CUDA 0", "Card, 80.00 GiB, 70.00 GiB free, no native bfloat16"),
        ("CUDA 1", "Card, 80.00 GiB, 70.00 GiB free, native bfloat16"),
    ]


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


@pytest.fixture(scope="module")
def canonical_engine(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    own = shutil.copytree(tiny_checkpoint, tmp_path_factory.mktemp("doctor") / "own")
    with Engine.load(str(own), dtype="float32", max_batch_tokens=48) as engine:
        yield engine


def entry(**changes: Any) -> dict[str, Any]:
    return {"text": "a", "instruction": None, "vector": [0.125] * 64} | changes


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"{", "not valid JSON"),
        (b"\xff", "not valid JSON"),
        (b"", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        ([], "not an object of format 1"),
        ({"texts": [entry()]}, "not an object of format 1"),
        ({"format": 2, "texts": [entry()]}, "not an object of format 1"),
        ({"format": 1}, "texts is not a list of at least one"),
        ({"format": 1, "texts": []}, "texts is not a list of at least one"),
        ({"format": 1, "texts": {"a": 1}}, "texts is not a list of at least one"),
        ({"format": 1, "texts": [entry(), 5]}, "texts[1]: has no text"),
        ({"format": 1, "texts": [entry(text=None)]}, "texts[0]: has no text"),
        ({"format": 1, "texts": [entry(instruction=5)]}, "instruction is neither a string nor null"),
        ({"format": 1, "texts": [entry(vector=None)]}, "vector is not a list of numbers"),
        ({"format": 1, "texts": [entry(vector=["1"] * 64)]}, "vector is not a list of numbers"),
        ({"format": 1, "texts": [entry(vector=[True] * 64)]}, "vector is not a list of numbers"),
        ({"format": 1, "texts": [entry(vector=[0.1] * 63)]}, "vector has 63 dimensions; the model's have 64"),
        ({"format": 1, "texts": [entry(vector=[0] * 64)]}, "not one of unit length"),
        ({"format": 1, "texts": [entry(vector=[float("nan")] * 64)]}, "not one of unit length"),
        ({"format": 1, "texts": [entry(vector=[10**400] * 64)]}, "not one of unit length"),
        ({"format": 1, "texts": [entry(text="\ud800")]}, "lone surrogate"),
        ({"format": 1, "texts": [entry(text="word " * 600)]}, "602 tokens"),
        ({"format": 1, "texts": [entry()]}, "not the vectors that this checkpoint gave"),
    ],
)
def test_canonical_file_that_is_wrong(canonical_engine: Engine, content: Any, says: str) -> None:
    file = canonical_engine.checkpoint.directory / "canonical.json"
    file.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    finding = doctor_module._try("canonical", "vectors", lambda: doctor_module._canonical(canonical_engine))
    assert finding.status == "FAIL"
    assert says in finding.detail
    assert "\n" not in finding.detail


def test_malformed_canonical_file_fails(doctor: Doctor, own_checkpoint: Path) -> None:
    (own_checkpoint / "canonical.json").write_text('{"format": 1, "texts": ')
    result = doctor("--json", "--model", own_checkpoint)
    assert result.exit_code == 1
    status, detail = findings(result)["canonical", "vectors"]
    assert (status, detail.startswith(f"{own_checkpoint / 'canonical.json'}: not valid JSON")) == ("FAIL", True)


def test_canonical_file_that_cannot_be_written(canonical_engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be written: No such file or directory"):
        doctor_module.write_canonical(canonical_engine, tmp_path / "nowhere" / "canonical.json")


def test_canonical_file_is_of_float32(doctor: Doctor, own_checkpoint: Path) -> None:
    result = doctor("--json", "--model", own_checkpoint, "--dtype", "bfloat16", "--write-canonical")
    assert result.exit_code == 1
    assert "--dtype float32 is expected" in findings(result)["canonical", "written"][1]
    assert not (own_checkpoint / "canonical.json").exists()


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
    assert "0.99999 is the least in float32" in found["exactness", "streamed"][1]
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


@pytest.mark.parametrize(("way", "name"), [("embed", "batched"), ("prefix_embeddings", "prefixes")])
def test_way_that_gives_another_vector(
    canonical_engine: Engine, monkeypatch: pytest.MonkeyPatch, way: str, name: str
) -> None:
    """Many at once come in the wrong order: the checks compare vectors with those of their own texts."""
    honest = getattr(Engine, way)

    def swap(engine: Engine, texts: Any, **options: Any) -> Any:
        found = honest(engine, texts, **options)
        if way == "embed":
            return found[::-1]
        offsets, vectors = zip(*found, strict=True)
        return list(zip(offsets, vectors[::-1], strict=True))

    monkeypatch.setattr(doctor_module, "_TEXTS", doctor_module._TEXTS[:2])
    monkeypatch.setattr(Engine, way, swap)
    found = {finding.name: finding.status for finding in doctor_module._exactness(canonical_engine)}
    assert found == dict.fromkeys(EXACTNESS, "ok") | {name: "FAIL"}


def test_vector_that_is_not_a_number(canonical_engine: Engine) -> None:
    pairs = iter([("a", np.full(64, np.nan, np.float32)), ("b", np.full(64, np.nan, np.float32))])
    assert doctor_module._compare(canonical_engine, pairs, {})[0] == "FAIL"


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
