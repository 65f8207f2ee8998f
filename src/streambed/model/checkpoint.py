"""Find a checkpoint, read what decides a vector, refuse what cannot be served.

A checkpoint is a directory in the Hugging Face layout; the sentence-transformers files beside it (`modules.json`,
`1_Pooling/config.json`, `config_sentence_transformers.json`) say how the vector is taken. Nothing is guessed: what is
not understood is refused in one line that names the file and the cause.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from streambed.errors import CheckpointError

BUILTIN = "builtin"
_BUILTIN_DIRECTORY = Path(__file__).parent / "builtin"
_ARCHITECTURES = ("Qwen3Model", "Qwen3ForCausalLM")
_MODULES = ("Transformer", "Pooling", "Normalize")
_HUB_FILES = ["*.safetensors", "*.json"]  # never pickles, never code


@dataclass(frozen=True)
class Qwen3Config:
    """The network's shape, from `config.json` (Qwen3 technical report, arXiv 2505.09388; transformers' `Qwen3Config`)."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_positions: int
    rms_norm_eps: float
    rope_theta: float
    attention_bias: bool

    @property
    def kv_values_per_token(self) -> int:
        """Numbers that one token leaves in the KV cache."""
        return self.num_layers * 2 * self.num_kv_heads * self.head_dim


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was found and understood; its weights are not read yet."""

    name: str
    directory: Path
    config: Qwen3Config
    window: int
    """Most tokens of one text: instruction, text and end token together."""
    weight_files: tuple[Path, ...]
    tokenizer_file: Path
    prompts: dict[str, str] = field(default_factory=dict)

    @property
    def is_builtin(self) -> bool:
        return self.directory == _BUILTIN_DIRECTORY


def find_checkpoint(model: str, revision: str | None = None) -> Checkpoint:
    """Finds `builtin`, a local directory or a hub id (`Qwen/Qwen3-Embedding-0.6B`), and reads all but the weights.

    A local path never leads to a network call. A hub id is resolved by huggingface_hub, which honours `HF_HUB_OFFLINE`
    and `HF_HOME`; `revision` pins a branch, tag or commit.

    Raises:
        CheckpointError: not found, or not a Qwen3 embedding checkpoint with last-token pooling.
    """
    if model == BUILTIN:
        if revision is not None:
            raise CheckpointError("the built-in model has no revisions; leave --revision out")
        return _read(BUILTIN, _BUILTIN_DIRECTORY)
    try:
        path = Path(model).expanduser()
        is_directory, exists = path.is_dir(), path.exists()
    except (OSError, RuntimeError, ValueError):  # too long a name, an unknown ~user, a NUL: no path of this machine
        raise CheckpointError(f"{model[:200]!r}: no such directory") from None
    if is_directory and model:
        if revision is not None:
            raise CheckpointError(f"{path}: a local directory has no revisions; leave --revision out")
        return _read(_name_of(path), path.absolute())
    if exists and model:
        raise CheckpointError(f"{path}: is a file; give the directory that holds config.json")
    if model.startswith((".", "~", os.sep)) or model.count("/") != 1:
        raise CheckpointError(f"{model!r}: no such directory, and not a hub id of the form owner/name")
    return _read(model, _download(model, revision))


def _name_of(directory: Path) -> str:
    """The directory's name as it was given, not that of what a link leads to; of a snapshot in the hub's cache, its id."""
    given = Path(os.path.abspath(directory))
    repository = given.parent.parent.name
    if given.parent.name == "snapshots" and repository.startswith("models--"):
        return repository.removeprefix("models--").replace("--", "/")
    return given.name


def _download(model: str, revision: str | None) -> Path:
    from huggingface_hub import constants, snapshot_download

    # Offline, some releases (1.33) still ask for the list of files of a pinned commit, unless they are told not to.
    local = constants.HF_HUB_OFFLINE
    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=_HUB_FILES, local_files_only=local))
    except Exception as error:  # the library's HTTP and transfer layers have no common base of their own
        reason = " ".join(str(error).split()) or type(error).__name__
        if local:
            reason = f"HF_HUB_OFFLINE is set, so only the local cache was looked at: {reason}"
        raise CheckpointError(f"{model!r}: cannot be fetched from the hub: {reason}") from error


def read_json(path: Path) -> Any:
    """Parses a JSON file of a checkpoint. Raises CheckpointError where it is missing or broken."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(f"{path}: missing") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not valid JSON: {error}") from error


def _read(name: str, directory: Path) -> Checkpoint:
    config_file = directory / "config.json"
    raw = read_json(config_file)
    if not isinstance(raw, dict):
        raise CheckpointError(f"{config_file}: not a JSON object")
    config = _read_config(config_file, raw)
    weight_files = _find_weights(directory)
    _check_pooling(directory)
    tokenizer_file = directory / "tokenizer.json"
    if not tokenizer_file.is_file():
        raise CheckpointError(f"{tokenizer_file}: missing")
    return Checkpoint(
        name=name,
        directory=directory,
        config=config,
        window=_read_window(directory, config),
        weight_files=weight_files,
        tokenizer_file=tokenizer_file,
        prompts=_read_prompts(directory),
    )


def _read_config(file: Path, raw: dict[str, Any]) -> Qwen3Config:
    if raw.get("model_type") != "qwen3":
        raise CheckpointError(f"{file}: model_type is {raw.get('model_type')!r}; only 'qwen3' is served")
    for key in ("architectures", "layer_types"):
        if not isinstance(raw.get(key), list | None):
            raise CheckpointError(f"{file}: {key} is not a list")
    for architecture in raw.get("architectures") or []:
        if architecture not in _ARCHITECTURES:
            raise CheckpointError(
                f"{file}: architecture {architecture!r}; only {' and '.join(_ARCHITECTURES)} are served"
            )
    if raw.get("hidden_act", "silu") != "silu":
        raise CheckpointError(f"{file}: hidden_act is {raw['hidden_act']!r}; Qwen3 uses 'silu'")
    if raw.get("quantization_config") is not None:
        raise CheckpointError(f"{file}: quantization_config is set; quantised checkpoints are not served")
    if "sliding_attention" in (raw.get("layer_types") or []) or raw.get("use_sliding_window"):
        raise CheckpointError(f"{file}: sliding-window attention is not supported")

    if not isinstance(raw.get("attention_bias", False), bool):
        raise CheckpointError(f"{file}: attention_bias is neither true nor false")

    rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise CheckpointError(f"{file}: rope_parameters is not a JSON object")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise CheckpointError(f"{file}: rope_type {kind!r} is not supported; only 'default' is")

    def number(key: str, default: float | None = None, source: dict[str, Any] = raw) -> float:
        value = source.get(key)
        if value is None:
            value = default
        if value is None:
            raise CheckpointError(f"{file}: {key} is missing")
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e12:
            raise CheckpointError(f"{file}: {key} is {value!r}; a positive number is expected")
        return value

    def count(key: str, default: int | None = None) -> int:
        value = number(key, default)
        if value != int(value):
            raise CheckpointError(f"{file}: {key} is {value!r}; a whole number is expected")
        return int(value)

    theta = number("rope_theta", 10_000.0, rope if rope.get("rope_theta") is not None else raw)
    heads = count("num_attention_heads")
    config = Qwen3Config(
        vocab_size=count("vocab_size"),
        hidden_size=count("hidden_size"),
        intermediate_size=count("intermediate_size"),
        num_layers=count("num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=count("num_key_value_heads", heads),
        head_dim=count("head_dim", 128),  # transformers' default; not hidden_size / heads
        max_positions=count("max_position_embeddings"),
        rms_norm_eps=float(number("rms_norm_eps", 1e-6)),
        rope_theta=float(theta),
        attention_bias=raw.get("attention_bias", False),
    )
    if config.num_heads % config.num_kv_heads:
        raise CheckpointError(
            f"{file}: {config.num_heads} attention heads do not divide into {config.num_kv_heads} key-value heads"
        )
    if config.num_layers > 1000:
        raise CheckpointError(f"{file}: num_hidden_layers is {config.num_layers}; no Qwen3 has more than 1,000")
    if config.max_positions < 2:
        raise CheckpointError(f"{file}: max_position_embeddings is 1; no text fits beside the end token")
    if config.head_dim % 2:
        raise CheckpointError(f"{file}: head_dim {config.head_dim} is odd; rotary embedding needs pairs")
    return config


def _find_weights(directory: Path) -> tuple[Path, ...]:
    single, index_file = directory / "model.safetensors", directory / "model.safetensors.index.json"
    if single.is_file():
        return (single,)
    if index_file.is_file():
        index = read_json(index_file)
        weight_map = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
            raise CheckpointError(f"{index_file}: has no weight_map from tensor names to files")
        files = []
        for name in sorted(set(weight_map.values())):
            if Path(name).name != name or name in ("", ".."):
                raise CheckpointError(f"{index_file}: shard {name!r} is not a plain file name")
            if not _is_file(directory / name):
                raise CheckpointError(f"{index_file}: shard {name[:200]!r} is missing")
            files.append(directory / name)
        if not files:
            raise CheckpointError(f"{index_file}: weight_map is empty")
        return tuple(files)
    if any(directory.glob("*.bin")) or any(directory.glob("*.pt")) or any(directory.glob("*.pth")):
        raise CheckpointError(f"{directory}: holds pickled weights only; only safetensors are loaded")
    raise CheckpointError(f"{single}: missing")


def _check_pooling(directory: Path) -> None:
    modules_file = directory / "modules.json"
    pooling_path = "1_Pooling"
    if modules_file.is_file():
        modules = read_json(modules_file)
        if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
            raise CheckpointError(f"{modules_file}: not a list of modules")
        kinds = [str(module.get("type", "")).rsplit(".", 1)[-1] for module in modules]
        for kind, module in zip(kinds, modules, strict=True):
            if kind not in _MODULES:
                raise CheckpointError(f"{modules_file}: module {module.get('type')!r} is not supported")
            if kind == "Pooling":
                pooling_path = str(module.get("path", pooling_path))
        if kinds not in (["Transformer", "Pooling"], list(_MODULES)):
            raise CheckpointError(f"{modules_file}: expected Transformer, then Pooling (and Normalize), found {kinds}")
    pooling_file = directory / pooling_path / "config.json"
    if not _is_file(pooling_file):
        if modules_file.is_file():
            raise CheckpointError(
                f"{modules_file}: config.json of {pooling_path[:200]!r} is missing, though it is named"
            )
        return  # a bare Qwen3 checkpoint: last-token pooling is what the network was made for
    pooling = read_json(pooling_file)
    if not isinstance(pooling, dict):
        raise CheckpointError(f"{pooling_file}: not a JSON object")
    named = pooling.get(
        "pooling_mode"
    )  # as sentence-transformers has it: where this is set, the older keys are ignored
    older = [key.removeprefix("pooling_mode_") for key, on in pooling.items() if key.startswith("pooling_mode_") and on]
    modes = named if isinstance(named, list) else older if named is None else [named]
    if modes != ["lasttoken"]:
        raise CheckpointError(f"{pooling_file}: pooling is {modes or 'not set'}; only lasttoken is served")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long for this file system, or with a NUL in it
        return False


def _read_window(directory: Path, config: Qwen3Config) -> int:
    """sentence-transformers cuts at `max_seq_length` where the checkpoint sets one; so does this window."""
    file = directory / "sentence_bert_config.json"
    raw = read_json(file) if file.is_file() else {}
    if not isinstance(raw, dict):
        raise CheckpointError(f"{file}: not a JSON object")
    limit = raw.get("max_seq_length")
    if limit is None:
        return config.max_positions
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 2:
        raise CheckpointError(f"{file}: max_seq_length is {limit!r}; a whole number of at least 2 is expected")
    return min(limit, config.max_positions)


def _read_prompts(directory: Path) -> dict[str, str]:
    file = directory / "config_sentence_transformers.json"
    if not file.is_file():
        return {}
    raw = read_json(file)
    if not isinstance(raw, dict):
        raise CheckpointError(f"{file}: not a JSON object")
    prompts = raw.get("prompts")
    if prompts is None:
        return {}
    if not isinstance(prompts, dict) or not all(isinstance(prompt, str) for prompt in prompts.values()):
        raise CheckpointError(f"{file}: prompts is not a map from names to strings")
    return dict(prompts)
