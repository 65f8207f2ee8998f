"""`streambed doctor`: what is here, whether the model is exact on it, and what is misconfigured."""

from __future__ import annotations

import dataclasses
import difflib
import importlib.metadata
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle, islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import click

import streambed
from streambed.cli.options import (
    Command,
    model_options,
    named_by_flag,
    option,
    setting_option,
    use_threads,
)
from streambed.cli.serve import serve
from streambed.errors import CheckpointError, SettingsError, StreambedError, TooLarge
from streambed.machine import usable_cores
from streambed.model.checkpoint import Checkpoint, find_checkpoint
from streambed.model.files import read_json
from streambed.settings import Settings

if TYPE_CHECKING:
    from streambed.engine.engine import Engine
    from streambed.model.device import Vectors

Status = Literal["ok", "note", "warn", "FAIL"]
Answer = tuple[Status, str]

CANONICAL = "canonical.json"
"""Beside the weights: texts and their vectors, as they were when the checkpoint was made."""
CANONICAL_COSINE = 0.999
"""What float32 and bfloat16 keep; other weights, or another reading of them, do not."""
EXACT_COSINE = {"float32": 0.99999, "bfloat16": 0.999}
"""Rule 7 of docs/design.md."""
MIN_DESCRIPTORS = 256
"""Fewer are soon used up: each connection takes one, beside those of the process itself."""
SELF_CHECK_TOKENS = 64
"""A smaller window has no room for the texts of the self-check."""

_TEXTS = (
    "A brook runs to the sea.",
    "Der Fluß fließt ins Meer – 1.234,5 km², und nichts bleibt zurück!",
    "小川は海へ流れる。雨が降れば、また山から始まる。",
    "नदी समुद्र की ओर बहती है।",
    "النهر يجري إلى البحر، ولا يعود.",
    "Река течёт к морю; ветер — обратно.",
    "🌊👩‍👩‍👧‍👦 waves 🇳🇿, e\u0301 and \u1100\u1161\u11a8",
    "def flow(x: int) -> list[int]:\n    return [y ** 2 for y in range(x)]  # wells\n\n",
)
_INSTRUCTION = "Find what is said about rivers"
_EDIT = "; edited: 編集 ✎, "
_CHUNKS = (1, 4, 2, 9, 1, 1, 6, 3, 14, 5, 2, 27, 1, 8)
"""Characters of one append: no rhythm, and the same in each run."""
_CGROUP = Path("/sys/fs/cgroup")
_PREFIX = "STREAMBED_"


class Finding(NamedTuple):
    """A line of the report."""

    group: str
    name: str
    status: Status
    detail: str


class Report:
    """What was found, printed as it comes unless it is to be JSON."""

    def __init__(self, as_json: bool) -> None:
        self.findings: list[Finding] = []
        self._as_json = as_json

    def add(self, finding: Finding) -> None:
        finding = finding._replace(name=_plain(finding.name), detail=_plain(finding.detail))
        if not self._as_json:
            if not self.findings or self.findings[-1].group != finding.group:
                click.echo(f"\n{finding.group}" if self.findings else finding.group)
            click.echo(f"  {finding.status:<4}  {finding.name:<24}  {finding.detail}")
        self.findings.append(finding)

    def count(self, status: Status) -> int:
        return sum(finding.status == status for finding in self.findings)

    @property
    def ok(self) -> bool:
        return not self.count("FAIL")

    def end(self) -> None:
        """The last line, or the one JSON object."""
        if self._as_json:
            checks = [finding._asdict() for finding in self.findings]
            click.echo(json.dumps({"checks": checks, "ok": self.ok}))
            return
        failed, warned = self.count("FAIL"), self.count("warn")
        what = "all is well" if not failed else f"{failed} {'check' if failed == 1 else 'checks'} failed"
        click.echo(f"\n{what}" + (f", {warned} {'warning' if warned == 1 else 'warnings'}" if warned else ""))


def _plain(text: str) -> str:
    """One line, whatever names of files and prompts hold."""
    return "".join(char if char.isprintable() else " " for char in text)


@click.command(cls=Command)
@model_options
@setting_option("kv_memory", "Model and compute")
@option("--json", "as_json", is_flag=True, help="Print one JSON object instead of lines.", group="Output")
@option("--write-canonical", is_flag=True, hidden=True, help=f"Write {CANONICAL} beside the weights.")
@click.pass_context
def doctor(context: click.Context, /, as_json: bool, write_canonical: bool, **given: Any) -> None:
    """Check the machine, the environment variables and the model that a server would use, and say what is wrong.

    \b
    streambed doctor
    streambed doctor --model Qwen/Qwen3-Embedding-0.6B --json

    It loads the model and checks that streamed, edited and batched texts get the same vectors. The exit code is 1 if any
    line says FAIL. Brackets show the default of a flag and its environment variable.
    """
    report = Report(as_json)
    try:
        # Before all else: a wrong name is one line.
        allow = given["allow_unknown_config"]
        checkpoint = find_checkpoint(given["model"], given["revision"], allow_unknown_config=allow)
        _examine(report, context, checkpoint, given, write_canonical)
    except StreambedError as error:
        if as_json:
            report.add(Finding("model", "load", "FAIL", str(error)))
            report.end()
        raise
    report.end()
    if not report.ok:
        sys.exit(1)


def _examine(
    report: Report, context: click.Context, checkpoint: Checkpoint, given: dict[str, Any], write: bool
) -> None:
    for finding in _machine():
        report.add(finding)
    settings, problem = _settings(given)
    for finding in _environment(settings, problem, _known_variables(context)):
        report.add(finding)
    use_threads(settings.threads)
    started = time.perf_counter()
    with _load(checkpoint, settings) as engine:
        seconds = time.perf_counter() - started
        for finding in _model(engine, seconds):
            report.add(finding)
        if settings.journal is not None:
            report.add(_try("files", "journal", partial(_journal, Path(settings.journal))))
        for name, path in settings.reducers:
            report.add(_try("files", f"reducer {name}", partial(_reducer, Path(path), engine)))
        exact = True
        for finding in _exactness(engine):
            report.add(finding)
            exact = exact and finding.status != "FAIL"
        if write:
            report.add(_try("canonical", "written", lambda: _write(engine, exact)))
        report.add(_try("canonical", "vectors", lambda: _canonical(engine)))
        report.add(_try("speed", "short query", lambda: _query_speed(engine)))
        report.add(_try("speed", "full step", lambda: _step_speed(engine)))


@named_by_flag()
def _load(checkpoint: Checkpoint, settings: Settings) -> Engine:
    """As serve does; what the machine lacks is said in one line too."""
    from streambed.engine.engine import Engine

    try:
        return Engine(
            checkpoint,
            dtype=settings.dtype,
            device=settings.device,
            kv_memory=settings.kv_memory,
            max_batch_tokens=settings.max_batch_tokens,
            special_tokens=settings.special_tokens,
            instruction_template=settings.instruction_template,
        )
    except (RuntimeError, MemoryError, OSError) as error:  # the device's: no memory, no driver
        raise CheckpointError(f"{checkpoint.directory}: cannot be loaded: {_words(error)}") from error


def _try(group: str, name: str, check: Callable[[], Answer]) -> Finding:
    """What a check says; whatever goes wrong in it is a finding too."""
    try:
        return Finding(group, name, *check())
    except StreambedError as error:
        return Finding(group, name, "FAIL", str(error))
    except Exception as error:  # noqa: BLE001 - a doctor reports what breaks
        return Finding(group, name, "FAIL", _words(error))


def _words(error: Exception) -> str:
    """The error in a few words: torch's may hold a trace of their own."""
    return " ".join(f"{type(error).__name__}: {error}".rstrip(": ").split())[:300]


# The machine


def _machine() -> Iterator[Finding]:
    def found(name: str, detail: str, status: Status = "ok") -> Finding:
        return Finding("machine", name, status, detail)

    import torch

    cores, limit = usable_cores(), _cpu_limit()
    yield found("processor", _processor())
    yield found("cores", f"{cores} usable" + (f"; a container's limit of {limit:g}" if limit is not None else ""))
    yield found("PyTorch uses", _capability())
    yield _memory()
    pages = _read(Path("/sys/kernel/mm/transparent_hugepage/enabled"))
    yield found("huge pages", _bracketed(pages) if pages else "unknown", "ok" if pages else "note")
    yield _descriptors()
    yield from _cuda()
    yield found(
        "versions",
        f"streambed {streambed.__version__}, Python {platform.python_version()}, torch {torch.__version__}, "
        + ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("numpy", "tokenizers")),
    )


def _processor() -> str:
    for line in (_read(Path("/proc/cpuinfo")) or "").splitlines():
        if line.startswith("model name"):
            return " ".join(line.partition(":")[2].split())
    return platform.processor() or platform.machine() or "unknown"


def _capability() -> str:
    """What torch says that this processor can do."""
    import torch

    parts = [torch.backends.cpu.get_cpu_capability()]
    for name, helper in (("AVX512-BF16", "_is_avx512_bf16_supported"), ("AMX", "_is_amx_tile_supported")):
        if hasattr(torch.cpu, helper):
            parts.append(name if getattr(torch.cpu, helper)() else f"no {name}")
    return ", ".join(parts)


def _cpu_limit() -> float | None:
    """Cores that a container's quota allows, if any."""
    words = (_read(_CGROUP / "cpu.max") or "").split()  # version 2
    if len(words) != 2:
        words = [_read(_CGROUP / "cpu" / f"cpu.cfs_{name}_us") or "" for name in ("quota", "period")]
    quota, period = words
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) else None


def _memory() -> Finding:
    from streambed.engine.core import choose_memory

    meminfo = _meminfo()
    limit = 4 * choose_memory()
    total, free = meminfo.get("MemTotal", limit), _free_memory("cpu")
    detail = f"{_gib(total)}, {_gib(free)} free" if free is not None else _gib(total)
    if limit < total:
        detail += f"; a container's limit of {_gib(limit)}"
    return Finding("machine", "memory", "ok", detail)


def _meminfo() -> dict[str, int]:
    """Bytes by name, of /proc/meminfo."""
    lines = (_read(Path("/proc/meminfo")) or "").splitlines()
    rows = [line.replace(":", " ").split() for line in lines]
    return {row[0]: int(row[1]) << 10 for row in rows if len(row) == 3 and row[1].isdigit() and row[2] == "kB"}


def _free_memory(device: str) -> int | None:
    """Bytes that can still be had, a container's limit counted; None where the system does not say."""
    import torch

    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(torch.device(device))[0])
    bounds = [_meminfo().get("MemAvailable"), _container_free("memory.max", "memory.current", "inactive_file")]
    old = ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file")
    return min((bound for bound in [*bounds, _container_free(*old)] if bound is not None), default=None)


def _container_free(limit: str, usage: str, cache: str) -> int | None:
    """What a control group's limit leaves. Files that were read count as used there, and are dropped when need be."""
    most, used = _read(_CGROUP / limit) or "", _read(_CGROUP / usage) or ""
    if not most.isdigit() or not used.isdigit():
        return None
    stat = [line.split() for line in (_read((_CGROUP / usage).parent / "memory.stat") or "").splitlines()]
    droppable = sum(int(row[1]) for row in stat if len(row) == 2 and row[0] == cache)
    return max(0, int(most) - int(used) + droppable)


def _descriptors() -> Finding:
    """serve raises the limit as far as it may, so the higher one counts."""
    try:
        import resource
    except ImportError:  # not on every platform
        return Finding("machine", "open files", "note", "unknown")
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY:
        return Finding("machine", "open files", "ok", f"{_count(now)} at once; serve lifts the limit")
    if most < MIN_DESCRIPTORS:
        detail = f"{most} at once are few for a server, whose connections take one each; raise `ulimit -n`"
        return Finding("machine", "open files", "warn", detail)
    raised = f"; serve raises it to {most:,}" if most > now else ""
    return Finding("machine", "open files", "ok", f"{_count(now)} at once{raised}")


def _count(limit: int) -> str:
    return f"{limit:,}" if limit >= 0 else "any number"


def _cuda() -> Iterator[Finding]:
    import torch

    if not torch.cuda.is_available():
        yield Finding("machine", "CUDA", "note", "no device that PyTorch sees")
        return
    for index in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(index)
        bfloat16 = "" if torch.cuda.get_device_capability(index) >= (8, 0) else "no "
        free = _free_memory(f"cuda:{index}") or 0
        detail = f"{about.name}, {_gib(about.total_memory)}, {_gib(free)} free, {bfloat16}native bfloat16"
        yield Finding("machine", f"CUDA {index}", "ok", detail)


def _read(path: Path) -> str | None:
    """A file of /proc or /sys; None where this system has none."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None


def _bracketed(words: str) -> str:
    """The word in brackets: which of several the kernel has chosen."""
    return next((word.strip("[]") for word in words.split() if word.startswith("[")), words)


def _gib(size: int) -> str:
    return f"{size / (1 << 30):,.2f} GiB"


# The environment


def _settings(given: dict[str, Any]) -> tuple[Settings, str | None]:
    """What `serve` would run with here, these flags included; and what is wrong, where it would not run at all."""
    try:
        # Without --help: click keeps its names on the command from the first context on, and here they lack -h.
        values = serve.make_context("serve", [], help_option_names=[]).params
        names = {field.name for field in dataclasses.fields(Settings)}
        return Settings(**{name: value for name, value in values.items() if name in names} | given), None
    except click.ClickException as error:
        return Settings(**given), error.format_message()
    except SettingsError as error:
        return Settings(**given), str(error)


def _known_variables(context: click.Context) -> set[str]:
    """Those of the settings, and whatever an option of any command names."""
    known = {f"{_PREFIX}{field.name.upper()}" for field in dataclasses.fields(Settings)}
    commands = [context.find_root().command]
    while commands:
        command = commands.pop()
        if isinstance(command, click.Group):
            found = (command.get_command(context, name) for name in command.list_commands(context))
            commands += [each for each in found if each is not None]
        for parameter in command.params:
            names = parameter.envvar or ()
            known |= {names} if isinstance(names, str) else set(names)
    return known


def _environment(settings: Settings, problem: str | None, known: set[str]) -> Iterator[Finding]:
    yield from _variables(known)
    if problem is not None:
        yield Finding("environment", "settings", "FAIL", f"serve would not start: {problem}")
    else:
        yield Finding("environment", "settings", "ok", "agree with one another")
    threads, cores = settings.threads or usable_cores(), usable_cores()
    yield _threads(threads, cores)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        if name in os.environ:
            yield _library_threads(name, os.environ[name], threads, cores)


def _variables(known: set[str]) -> Iterator[Finding]:
    names = sorted(name for name in os.environ if name.startswith(_PREFIX))
    unknown = [name for name in names if name not in known]
    for name in unknown:
        near = difflib.get_close_matches(name.removeprefix(_PREFIX), [each.removeprefix(_PREFIX) for each in known], 1)
        hint = f"; was {_PREFIX}{near[0]} meant?" if near else ""
        yield Finding("environment", name, "warn", f"no command knows this variable, so it has no effect{hint}")
    if not unknown:
        said = ", ".join(names) if names else "none set"
        yield Finding("environment", f"{_PREFIX}*", "ok", said)


def _threads(threads: int, cores: int) -> Finding:
    limit = _cpu_limit()
    if threads > cores:
        detail = f"{threads} threads on {cores} usable cores wait for one another; lower --threads"
    elif limit is not None and threads > max(1.0, limit):
        detail = f"{threads} threads, but the container may use {limit:g} cores; set --threads {max(1, int(limit))}"
    else:
        return Finding("environment", "threads", "ok", f"{threads} on {cores} usable cores")
    return Finding("environment", "threads", "warn", detail)


def _library_threads(name: str, value: str, threads: int, cores: int) -> Finding:
    """The commands override these; programs that load an Engine do not."""
    first = value.split(",")[0].strip()
    if not first.isdigit() or not int(first):
        problem = f"{value!r} is no number of threads"
    elif int(first) > cores:
        problem = (
            f"{first} threads on {cores} usable cores would wait for one another; serve uses {threads} all the same"
        )
    elif int(first) != threads:
        problem = f"{first}, but serve computes with {threads} threads whatever it says; use --threads"
    else:
        return Finding("environment", name, "ok", f"{first}, as serve will use")
    return Finding("environment", name, "warn", problem)


# The model


def _model(engine: Engine, seconds: float) -> Iterator[Finding]:
    def found(name: str, detail: str) -> Finding:
        return Finding("model", name, "ok", detail)

    info, checkpoint = engine.info, engine.checkpoint
    size = sum(file.stat().st_size for file in checkpoint.weight_files)
    files = "1 file" if len(checkpoint.weight_files) == 1 else f"{len(checkpoint.weight_files)} files"
    yield found("name", info.model)
    yield found("directory", str(checkpoint.directory))
    yield found("weights", f"{files}, {_gib(size)}; loaded and measured in {seconds:.1f} s")
    yield found("fingerprint", info.fingerprint)
    yield found("vectors", f"{info.dimensions:,} dimensions, from {checkpoint.config.num_layers} layers")
    yield _number_format(engine)
    yield _window(engine)
    yield _budget(engine)
    yield found("step", f"{info.max_batch_tokens:,} rows")
    yield from _facts(engine)
    yield found("special tokens", {"text": "plain text", "parse": "parsed"}[info.special_tokens])


def _facts(engine: Engine) -> Iterator[Finding]:
    """What was read from the checkpoint's files, beside shapes and weights."""

    def found(name: str, detail: str, status: Status = "ok") -> Finding:
        return Finding("model", name, status, detail)

    info, checkpoint = engine.info, engine.checkpoint
    yield found("attention, pooling", "causal, last token; vectors of unit length")
    if info.default_dimensions != info.dimensions:
        yield found("default dimensions", f"{info.default_dimensions:,}, which is the checkpoint's truncate_dim")
    prompts = [f"{name} {prompt!r}" for name, prompt in sorted(checkpoint.prompts.items())]
    yield found("prompts", ", ".join(prompts) or "none named")
    name = info.default_prompt_name
    yield found("default prompt", "none" if name is None else f"{name} {engine.prompt()!r}, where a request names none")
    yield found("instruction", repr(info.instruction_template))
    if checkpoint.pipeline.lower_case:
        yield found("text", "made lower-case first, as the checkpoint says")
    if checkpoint.training_keys:
        yield found("only for training", ", ".join(checkpoint.training_keys))
    if checkpoint.unknown_keys:
        detail = f"{', '.join(checkpoint.unknown_keys)}; whether they change vectors is not known here"
        yield found("unknown keys", detail, "warn")


def _number_format(engine: Engine) -> Finding:
    import torch

    from streambed.model.choice import multiplies_bfloat16

    info = engine.info
    detail = f"{info.dtype} on {info.device}, {info.threads} {'thread' if info.threads == 1 else 'threads'}"
    if info.dtype == "bfloat16" and not multiplies_bfloat16(torch.device(info.device)):
        detail = f"{detail}; this processor does not multiply bfloat16 natively: --dtype float32 is faster and exact"
        return Finding("model", "number format", "warn", detail)
    return Finding("model", "number format", "ok", detail)


def _window(engine: Engine) -> Finding:
    info = engine.info
    if info.max_tokens < info.window:
        detail = (
            f"{info.window:,} tokens, but --kv-memory holds {info.max_tokens:,}; longer texts are refused or divided"
        )
        return Finding("model", "window", "warn", detail)
    return Finding("model", "window", "ok", f"{info.window:,} tokens, all of which can be used")


def _budget(engine: Engine) -> Finding:
    info, free = engine.info, _free_memory(engine.info.device)
    held = info.kv_memory // info.kv_bytes_per_token
    detail = f"{_gib(info.kv_memory)} for {held:,} tokens of {info.kv_bytes_per_token / 1024:,.1f} KiB"
    if free is not None and info.kv_memory > free:
        return Finding("model", "KV", "warn", f"{detail}, but {_gib(free)} are free; lower --kv-memory")
    return Finding("model", "KV", "ok", detail)


# Files that serve would open


def _journal(path: Path) -> Answer:
    """Not opened: a server may have it."""
    if path.is_dir():
        return "FAIL", f"{path}: is a folder; serve would not start"
    if not os.access(path if path.exists() else path.absolute().parent, os.R_OK | os.W_OK):
        return "FAIL", f"{path}: cannot be written, or its folder is missing; serve would not start"
    return "ok", str(path)


def _reducer(path: Path, engine: Engine) -> Answer:
    from streambed.vectors.reducers import Reducer

    card = Reducer.load(path, engine.info.fingerprint).card
    return "ok", f"{path}: {card.method} to {card.dimensions} dimensions"


# Exactness: ways to the same vector

Pairs = Iterator[tuple[str, "Vectors"]]
"""A text, and the vector that came for it by some way."""


def _exactness(engine: Engine) -> Iterator[Finding]:
    group = "exactness"
    if engine.info.max_tokens < SELF_CHECK_TOKENS:
        yield Finding(group, "self-check", "note", f"left out: the texts need {SELF_CHECK_TOKENS} tokens")
        return
    one_shot: dict[str, Vectors] = {}
    texts = self_check_texts(engine)
    for name, way in (
        ("streamed", _streamed),
        ("edited", _edited),
        ("batched", _batched),
        ("prefixes", _prefixes),
    ):
        yield _try(group, name, lambda way=way: _compare(engine, way(engine, texts), one_shot))  # type: ignore[misc]
    yield _try(group, "integrity", lambda: _integrity(engine))


def self_check_texts(engine: Engine) -> list[str]:
    """The built-in ones, and one that takes more than a step, all short enough to be edited."""
    room = (engine.info.max_tokens - 1) // 2
    length = min(max(room, engine.info.max_tokens - 1 - SELF_CHECK_TOKENS), engine.info.max_batch_tokens + 256)
    around = " ".join(_TEXTS)
    copies = 1 + length // len(engine.tokenizer.encode(around))
    long = " ".join(f"{number}. {around}" for number in range(copies))
    return [_cut(engine, text, room) for text in _TEXTS] + [_cut(engine, long, length)]


def _cut(engine: Engine, text: str, most: int) -> str:
    """The beginning of a text that has at most so many tokens."""
    while (tokens := len(engine.tokenizer.encode(text))) > most:
        text = text[: min(len(text) * most // tokens, len(text) - 1)]
    return text


def _compare(engine: Engine, pairs: Pairs, one_shot: dict[str, Vectors]) -> Answer:
    """The worst cosine to the vector of each text embedded alone; nothing that was computed before is used."""
    import numpy as np

    engine.evict()
    got = list(pairs)
    for text, _ in got:
        if text not in one_shot:
            engine.evict()
            one_shot[text] = engine.embed([text])[0]
    cosines = [_cosine(vector, one_shot[text]) for text, vector in got]
    worst, least = float(np.min(cosines)), EXACT_COSINE[engine.info.dtype]
    detail = f"worst cosine {worst:.7f} of {len(got)}"
    # Not a number is no agreement.
    return ("ok", detail) if worst >= least else ("FAIL", f"{detail}; {least} is the least in {engine.info.dtype}")


def _cosine(one: Vectors, other: Vectors) -> float:
    import numpy as np

    a, b = one.astype(np.float64), other.astype(np.float64)
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def _streamed(engine: Engine, texts: list[str]) -> Pairs:
    """Appended in pieces, and looked at halfway and at the end."""
    for text in texts:
        scale = 1 + len(text) // 1000  # a long text in no more pieces than it takes
        ends = [0]
        for size in cycle(_CHUNKS):
            if ends[-1] >= len(text):
                break
            ends.append(min(len(text), ends[-1] + size * scale))
        with engine.open_session() as session:
            for number, (start, end) in enumerate(pairwise(ends)):
                session.append(text[start:end])
                if number == len(ends) // 2:
                    yield session.text, session.embedding()
            _check_tokens(engine, session.text, session.tokens)
            yield text, session.embedding()


def _edited(engine: Engine, texts: list[str]) -> Pairs:
    """Changed in the middle, then changed back."""
    for text in texts:
        start, end = len(text) // 3, len(text) // 2
        changed = text[:start] + _EDIT + text[end:]
        with engine.open_session(text) as session:
            session.embedding()
            session.replace(start, end, _EDIT)
            _check_tokens(engine, changed, session.tokens)
            yield changed, session.embedding()
            session.replace(start, start + len(_EDIT), text[start:end])
            _check_tokens(engine, text, session.tokens)
            yield text, session.embedding()


def _check_tokens(engine: Engine, text: str, tokens: list[int]) -> None:
    if tokens != engine.tokenizer.encode(engine.prompt() + text):
        raise StreambedError(f"the tokens of {text[:40]!r} are not those of the whole text")


def _batched(engine: Engine, texts: list[str]) -> Pairs:
    yield from zip(texts, engine.embed(texts), strict=True)


def _prefixes(engine: Engine, texts: list[str]) -> Pairs:
    for text in texts:
        places = sorted({-(-len(text) * part // 5) for part in range(1, 6)} - {0})
        for offset, vector in engine.prefix_embeddings(text, offsets=places):
            yield text[:offset], vector


def _integrity(engine: Engine) -> Answer:
    engine.check_integrity()
    return "ok", "scheduler and memory add up"


# Vectors that are known


def write_canonical(engine: Engine, path: Path) -> int:
    """Writes what `doctor` compares vectors of this checkpoint with from now on; returns how many texts.

    Raises:
        SettingsError: the engine does not compute in float32, or the file cannot be written.
    """
    if engine.info.dtype != "float32":
        raise SettingsError(f"{path.name} holds float32 vectors; --dtype float32 is expected")
    asked = [(text, None) for text in _TEXTS] + [(text, _INSTRUCTION) for text in _TEXTS[:2]]
    entries = [
        {
            "text": text,
            "instruction": instruction,
            "vector": [round(float(value), 6) for value in _whole(engine, text, instruction)],
        }
        for text, instruction in asked
    ]
    lines = ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries)
    part = path.with_name(f"{path.name}.part")
    try:
        part.write_text(f'{{"format": 1, "texts": [\n{lines}\n]}}\n', encoding="utf-8")
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise SettingsError(f"{path}: cannot be written: {error.strerror or error}") from None
    return len(entries)


def _whole(engine: Engine, text: str, instruction: str | None) -> Vectors:
    """The model's own vector of a text, whatever the checkpoint's default dimensions are."""
    vector: Vectors = engine.embed([text], instruction=instruction, dimensions=engine.info.dimensions)[0]
    return vector


def _write(engine: Engine, exact: bool) -> Answer:
    path = engine.checkpoint.directory / CANONICAL
    if not exact:
        return "FAIL", f"{path} was not written, since the model is not exact here"
    return "ok", f"{write_canonical(engine, path)} texts in {path}"


def _canonical(engine: Engine) -> Answer:
    path = engine.checkpoint.directory / CANONICAL
    if not path.exists():
        return "note", "no canonical vectors known for this checkpoint"
    import numpy as np

    known = _read_canonical(path, engine.info.dimensions)
    engine.evict()
    found = []
    for text, task, vector in known:
        try:
            found.append(_cosine(_whole(engine, text, task), vector))
        except TooLarge:
            if engine.info.max_tokens == engine.info.window:  # else it is --kv-memory that holds less
                raise
    if not found:
        return "note", "all canonical texts are longer than --kv-memory holds"
    worst = float(np.min(found))
    if worst >= CANONICAL_COSINE:
        return "ok", f"canonical vectors agree: worst cosine {worst:.7f} of {len(found)}"
    return "FAIL", f"worst cosine {worst:.7f} of {len(found)}: these are not the vectors that this checkpoint gave"


def _read_canonical(path: Path, dimensions: int) -> list[tuple[str, str | None, Vectors]]:
    """Texts, instructions and vectors. Raises CheckpointError, in one line that names the file."""
    import numpy as np

    raw = read_json(path)
    if not isinstance(raw, dict) or raw.get("format") != 1:
        raise CheckpointError(f"{path}: not an object of format 1")
    entries = raw.get("texts")
    if not isinstance(entries, list) or not entries:
        raise CheckpointError(f"{path}: texts is not a list of at least one")
    known = []
    for index, entry in enumerate(entries):
        where = f"{path}: texts[{index}]"
        if not isinstance(entry, dict) or not isinstance(entry.get("text"), str):
            raise CheckpointError(f"{where}: has no text")
        task, vector = entry.get("instruction"), entry.get("vector")
        if not isinstance(task, str | None):
            raise CheckpointError(f"{where}: instruction is neither a string nor null")
        if not isinstance(vector, list) or not all(type(value) in (int, float) for value in vector):
            raise CheckpointError(f"{where}: vector is not a list of numbers")
        if len(vector) != dimensions:
            raise CheckpointError(f"{where}: vector has {len(vector)} dimensions; the model's have {dimensions}")
        if not all(abs(value) <= 1.001 for value in vector) or not any(vector):
            raise CheckpointError(f"{where}: vector is not one of unit length")
        known.append((entry["text"], task, np.array(vector, dtype=np.float32)))
    return known


# Speed


def _query_speed(engine: Engine) -> Answer:
    """Of ten rows, end token included, with nothing known before."""
    ids = list(islice(cycle(engine.tokenizer.encode(_TEXTS[0])), min(10, engine.info.max_tokens) - 1))
    times = []
    for _ in range(5):
        engine.evict()
        started = time.perf_counter()
        engine.submit_batch([ids])[0].result()
        times.append(time.perf_counter() - started)
    return "ok", f"{min(times) * 1000:.1f} ms for {len(ids) + 1} tokens, the best of {len(times)}"


def _step_speed(engine: Engine) -> Answer:
    """Of as many rows as the engine takes at once beside somebody who types, in texts of up to 128 tokens."""
    rows = engine.info.max_batch_tokens
    each = min(128, rows, engine.info.max_tokens)
    ids = list(islice(cycle(engine.tokenizer.encode(" ".join(_TEXTS))), each - 1))
    times = []
    for _ in range(3):
        engine.evict()
        before, started = engine.stats(), time.perf_counter()
        for future in engine.submit_batch([ids] * (rows // each)):
            future.result()
        times.append(time.perf_counter() - started)
        after = engine.stats()
    computed, steps = after.rows - before.rows, after.steps - before.steps
    what = "a step" if steps == 1 else f"{steps} steps"
    return "ok", f"{computed / min(times):,.0f} rows a second in {what} of {computed:,}, texts of {each} tokens"
