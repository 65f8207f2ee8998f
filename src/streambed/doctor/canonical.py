"""Canonical vectors: those that a checkpoint gave when it was made, in a file beside its weights."""

import json
from pathlib import Path

import numpy as np

from streambed.doctor.report import Answer
from streambed.doctor.texts import TEXTS, cosine
from streambed.engine.engine import Engine
from streambed.errors import CheckpointError, SettingsError, TooLarge
from streambed.model.files import read_json
from streambed.vectors.reducers import Vectors

FILE = "canonical.json"
LEAST_COSINE = {"none": 0.999, "int8": 0.98}
"""What float32 and bfloat16 keep, and int8 of them; other weights, or another reading of them, do not."""
_INSTRUCTION = "Find what is said about rivers"


def compare(engine: Engine) -> Answer:
    """Compares the engine's vectors with those of the file. Raises CheckpointError where the file makes no sense."""
    path = engine.checkpoint.directory / FILE
    if not path.exists():
        return "note", "no canonical vectors known for this checkpoint"
    known = _read(path, engine.info.dimensions)
    engine.evict()
    found = []
    for text, instruction, vector in known:
        try:
            found.append(cosine(_embed(engine, text, instruction), vector))
        except TooLarge:
            if engine.info.max_tokens == engine.info.window:  # else it is --kv-memory that holds less
                raise
    if not found:
        return "note", "all canonical texts are longer than --kv-memory holds"
    worst = float(np.min(found))
    if worst >= LEAST_COSINE["int8" if engine.info.has_int8 else "none"]:
        return "ok", f"canonical vectors agree: worst cosine {worst:.7f} of {len(found)}"
    return "FAIL", f"worst cosine {worst:.7f} of {len(found)}: these are not the vectors that this checkpoint gave"


def write(engine: Engine, path: Path) -> Answer:
    """Writes the file.

    Raises:
        SettingsError: the engine does not compute in float32, or the file cannot be written.
    """
    if engine.info.dtype != "float32" or engine.info.has_int8:
        raise SettingsError(f"{path.name} holds float32 vectors; --dtype float32 and --quantize none are expected")
    lines = []
    for text, instruction in [(text, None) for text in TEXTS] + [(text, _INSTRUCTION) for text in TEXTS[:2]]:
        vector = [round(float(value), 6) for value in _embed(engine, text, instruction)]
        lines.append(json.dumps({"text": text, "instruction": instruction, "vector": vector}, ensure_ascii=False))
    part = path.with_name(f"{path.name}.part")
    try:
        part.write_text('{"format": 1, "texts": [\n' + ",\n".join(lines) + "\n]}\n", encoding="utf-8")
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise SettingsError(f"{path}: cannot be written: {error.strerror or error}") from None
    return "ok", f"{len(lines)} texts in {path}"


def _embed(engine: Engine, text: str, instruction: str | None) -> Vectors:
    """The model's own vector of a text, whatever the checkpoint's default dimensions are."""
    return engine.embed([text], instruction=instruction, dimensions=engine.info.dimensions).squeeze(0)


def _read(path: Path, dimensions: int) -> list[tuple[str, str | None, Vectors]]:
    """Texts, instructions and vectors. Raises CheckpointError, in one line that names the file."""
    raw = read_json(path)
    if not isinstance(raw, dict) or raw.get("format") != 1:
        raise CheckpointError(f"{path}: not an object of format 1")
    entries = raw.get("texts")
    if not isinstance(entries, list) or not entries:
        raise CheckpointError(f"{path}: texts is not a list of at least one")
    known = []
    for index, entry in enumerate(entries):
        if (problem := _problem(entry, dimensions)) is not None:
            raise CheckpointError(f"{path}: texts[{index}]: {problem}")
        known.append((entry["text"], entry.get("instruction"), np.array(entry["vector"], dtype=np.float32)))
    return known


def _problem(entry: object, dimensions: int) -> str | None:
    if not isinstance(entry, dict) or not isinstance(entry.get("text"), str):
        return "has no text"
    if not isinstance(entry.get("instruction"), str | None):
        return "instruction is neither a string nor null"
    vector = entry.get("vector")
    if not isinstance(vector, list) or not all(type(value) in (int, float) for value in vector):
        return "vector is not a list of numbers"
    if len(vector) != dimensions:
        return f"vector has {len(vector)} dimensions; the model's have {dimensions}"
    if not all(abs(value) <= 1.001 for value in vector) or not any(vector):
        return "vector is not one of unit length"
    return None
