"""Find a checkpoint, read what decides a vector, refuse what cannot be served.

A checkpoint is a directory in the Hugging Face layout; what stands around the network in it is read by `pipeline.py`.
Nothing is guessed: what is not understood is refused in one line that names the file and the cause (`keys.py`).
"""

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streambed.errors import CheckpointError
from streambed.model import keys
from streambed.model.files import is_file, read_json, read_object
from streambed.model.keys import SERVED, Reader
from streambed.model.pipeline import Pipeline, read_pipeline

logger = logging.getLogger(__name__)

BUILTIN = "builtin"
_BUILTIN_DIRECTORY = Path(__file__).parent / "builtin"
_ARCHITECTURES = ("Qwen3Model", "Qwen3ForCausalLM", "Qwen3ForTextEmbedding")
"""The last is what MLX and TensorRT-LLM call the same network."""
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
    def num_weights(self) -> int:
        """Of the matrices of all layers."""
        heads = (2 * self.num_heads + 2 * self.num_kv_heads) * self.head_dim
        return self.num_layers * self.hidden_size * (heads + 3 * self.intermediate_size)

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
    pipeline: Pipeline
    weight_files: tuple[Path, ...]
    tokenizer_file: Path
    unknown_keys: tuple[str, ...] = ()
    """Keys whose meaning is not known, and that were let through all the same, as `file: key`."""
    training_keys: tuple[str, ...] = ()
    """Keys that only training reads, as `file: key`."""

    @property
    def window(self) -> int:
        """Most tokens of one text: instruction, text and end token together."""
        return self.pipeline.window

    @property
    def prompts(self) -> dict[str, str]:
        """By the names that `prompt_name` knows."""
        return self.pipeline.prompts

    @property
    def is_builtin(self) -> bool:
        return self.directory == _BUILTIN_DIRECTORY


def find_checkpoint(model: str, revision: str | None = None, *, allow_unknown_config: bool = False) -> Checkpoint:
    """Finds `builtin`, a local directory or a hub id (`Qwen/Qwen3-Embedding-0.6B`), and reads all but the weights.

    A local path never leads to a network call. A hub id is resolved by huggingface_hub, which honours `HF_HUB_OFFLINE`
    and `HF_HOME`; `revision` pins a branch, tag or commit. allow_unknown_config: keys of the checkpoint's files that are
    not known are logged as a warning rather than refused.

    Raises:
        CheckpointError: not found, or not a causal Qwen3 embedding checkpoint with last-token pooling.
    """
    reader = Reader(allow_unknown_config)
    if model == BUILTIN:
        if revision is not None:
            raise CheckpointError("the built-in model has no revisions; leave --revision out")
        return _read(BUILTIN, _BUILTIN_DIRECTORY, reader)
    try:
        path = Path(model).expanduser()
        is_directory, exists = path.is_dir(), path.exists()
    except (OSError, RuntimeError, ValueError):  # too long a name, an unknown ~user, a NUL: no path of this machine
        raise CheckpointError(f"{model[:200]!r}: no such directory") from None
    if is_directory and model:
        if revision is not None:
            raise CheckpointError(f"{path}: a local directory has no revisions; leave --revision out")
        return _read(_name_of(path), path.absolute(), reader)
    if exists and model:
        raise CheckpointError(f"{path}: is a file; give the directory that holds config.json")
    if model.startswith((".", "~", os.sep)) or model.count("/") != 1:
        raise CheckpointError(f"{model!r}: no such directory, and not a hub id of the form owner/name")
    return _read(model, _download(model, revision), reader)


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


def _read(name: str, directory: Path, reader: Reader) -> Checkpoint:
    _check_adapter(directory)
    config_file = directory / "config.json"
    config = _read_config(config_file, read_object(config_file), reader)
    weight_files = _find_weights(directory)
    pipeline = read_pipeline(directory, reader, config.max_positions, config.hidden_size)
    tokenizer_file = directory / "tokenizer.json"
    if not tokenizer_file.is_file():
        raise CheckpointError(f"{tokenizer_file}: missing")
    for key in reader.unknown:
        logger.warning("Unknown key in %s; whether it changes vectors is not known here", key)
    return Checkpoint(
        name=name,
        directory=directory,
        config=config,
        pipeline=pipeline,
        weight_files=weight_files,
        tokenizer_file=tokenizer_file,
        unknown_keys=tuple(reader.unknown),
        training_keys=tuple(reader.training),
    )


def _check_adapter(directory: Path) -> None:
    """An adapter changes the weights of another checkpoint; here both would have to be one."""
    for name in ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin", "adapter_model.pt"):
        if is_file(directory / name):
            raise CheckpointError(
                f"{directory / name}: an adapter; merge it into the network's weights first (PEFT's merge_and_unload) "
                "and save the whole model without it"
            )


def _read_config(file: Path, raw: dict[str, Any], reader: Reader) -> Qwen3Config:
    if raw.get("model_type") != "qwen3":
        raise CheckpointError(f"{file}: model_type is {raw.get('model_type')!r}; 'qwen3' is expected: {SERVED}")
    for key in ("architectures", "layer_types"):
        if not isinstance(raw.get(key), list | None):
            raise CheckpointError(f"{file}: {key} is not a list")
    for architecture in raw.get("architectures") or []:
        if architecture not in _ARCHITECTURES:
            raise CheckpointError(f"{file}: architecture {architecture!r}; only {', '.join(_ARCHITECTURES)} are served")
    if raw.get("hidden_act", "silu") != "silu":
        raise CheckpointError(f"{file}: hidden_act is {raw['hidden_act']!r}; Qwen3 uses 'silu'")
    if raw.get("quantization_config") is not None:
        raise CheckpointError(f"{file}: quantization_config is set; quantised checkpoints are not served")
    if "sliding_attention" in (raw.get("layer_types") or []) or raw.get("use_sliding_window"):
        raise CheckpointError(f"{file}: sliding-window attention is not supported")
    for kind in raw.get("layer_types") or []:
        if kind != "full_attention":
            raise CheckpointError(f"{file}: layer_types holds {str(kind)[:120]!r}; only 'full_attention' is served")
    reader.check(file, raw, keys.NETWORK)

    if not isinstance(raw.get("attention_bias", False), bool):
        raise CheckpointError(f"{file}: attention_bias is neither true nor false")

    for key in ("rope_scaling", "rope_parameters"):
        rope = raw.get(key) or {}
        if not isinstance(rope, dict):
            raise CheckpointError(f"{file}: {key} is not a JSON object")
        for kind in (rope.get("rope_type"), rope.get("type")):
            if kind not in (None, "default"):
                raise CheckpointError(f"{file}: rope_type {kind!r} is not supported; only 'default' is")
        reader.check(file, rope, keys.ROPE, key)

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

    rope = raw.get("rope_scaling") or raw.get("rope_parameters") or {}  # in transformers' order
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
            if not is_file(directory / name):
                raise CheckpointError(f"{index_file}: shard {name[:200]!r} is missing")
            files.append(directory / name)
        if not files:
            raise CheckpointError(f"{index_file}: weight_map is empty")
        return tuple(files)
    if any(directory.glob("*.bin")) or any(directory.glob("*.pt")) or any(directory.glob("*.pth")):
        raise CheckpointError(f"{directory}: holds pickled weights only; only safetensors are loaded")
    raise CheckpointError(f"{single}: missing")
