"""Everything of a checkpoint that decides a vector beside its network: sentence-transformers' files, and those of the
tokenizer.

Each setting has the effect that it has in sentence-transformers, or the checkpoint is refused in one line.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from streambed.errors import CheckpointError
from streambed.model import keys
from streambed.model.files import is_file, read_object
from streambed.model.keys import SERVED, Reader

_MODULES = ("Transformer", "Pooling", "Normalize")
_BERT = "sentence_bert_config.json"
_OTHER_NAMES = tuple(
    f"sentence_{name}_config.json" for name in ("roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
"""Old names of the same file; the first that is there counts."""
_UNSET = 1e20
"""transformers writes 1e30 where a tokenizer has no limit, and takes what is larger than this for none."""
MIN_DIMENSIONS = 32


@dataclass(frozen=True)
class Pipeline:
    """How a text becomes tokens, and hidden states a vector."""

    window: int
    """Most tokens of one text: instruction, text and end token together."""
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    """Name of the prompt for requests that name none."""
    default_dimensions: int | None = None
    """Leading dimensions to keep where a request does not say; all of them where None."""
    lower_case: bool = False
    """Whether texts are made lower-case first."""
    named_tokens: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Tokens that the files beside `tokenizer.json` name, with what they say of them: it must have each."""
    pooling: str = "lasttoken"
    """Which hidden states make the vector."""
    causal: bool = True
    """Whether a token depends on those before it alone, so that the KV of a text serves every longer one. Other values
    of this and of the pooling are refused."""


def read_pipeline(directory: Path, reader: Reader, max_positions: int, hidden_size: int) -> Pipeline:
    """Reads the files around the network. Raises CheckpointError."""
    _check_modules(directory, reader, hidden_size)
    transformer_file, transformer = _read_transformer(directory, reader)
    tokenizer_file, tokenizer = _read_object(directory / "tokenizer_config.json")
    reader.check(tokenizer_file, _without_tokens(tokenizer), keys.TOKENIZER)
    limits = [max_positions]
    for file, values, key in (
        (transformer_file, transformer, "max_seq_length"),
        (
            transformer_file,
            transformer.get("tokenizer_args") or transformer.get("processor_kwargs"),
            "model_max_length",
        ),
        (tokenizer_file, tokenizer, "model_max_length"),
        (tokenizer_file, tokenizer, "max_len"),
    ):
        limits += _limit(file, values or {}, key)
    prompts_file, prompts = _read_object(directory / "config_sentence_transformers.json")
    reader.check(prompts_file, prompts, keys.SENTENCE_TRANSFORMERS)
    named = _prompts(prompts_file, prompts)
    return Pipeline(
        window=min(limits),
        prompts=named,
        default_prompt_name=_default_prompt_name(prompts_file, prompts, named),
        default_dimensions=_default_dimensions(prompts_file, prompts, hidden_size),
        lower_case=_truth(transformer_file, transformer, "do_lower_case"),
        named_tokens=_named_tokens(directory, tokenizer_file, tokenizer, reader),
    )


def _read_object(file: Path) -> tuple[Path, dict[str, Any]]:
    return file, read_object(file) if file.is_file() else {}


# The modules: network, pooling, unit length


def _check_modules(directory: Path, reader: Reader, hidden_size: int) -> None:
    modules_file = directory / "modules.json"
    pooling_path = "1_Pooling"
    if modules_file.is_file():
        modules = _modules(modules_file, reader)
        if modules["Transformer"].get("path"):
            raise CheckpointError(
                f"{modules_file}: the network stands in a folder of its own, {modules['Transformer']['path'][:200]!r}; "
                "save the model with a current sentence-transformers, which puts it beside modules.json"
            )
        pooling_path = str(modules["Pooling"].get("path", pooling_path))
        normalize_file = directory / str(modules.get("Normalize", {}).get("path", "")) / "config.json"
        if "Normalize" in modules and modules["Normalize"].get("path") and is_file(normalize_file):
            reader.check(normalize_file, read_object(normalize_file), keys.NORMALIZE)
    pooling_file = directory / pooling_path / "config.json"
    if is_file(pooling_file):
        _check_pooling(pooling_file, reader, hidden_size)
    elif modules_file.is_file():
        raise CheckpointError(f"{modules_file}: config.json of {pooling_path[:200]!r} is missing, though it is named")
    # Else it is a bare Qwen3 checkpoint: last-token pooling is what the network was made for.


def _modules(file: Path, reader: Reader) -> dict[str, dict[str, Any]]:
    """The entries of `modules.json` by their kinds, in order."""
    modules = read_object(file, list)
    if not all(isinstance(module, dict) for module in modules):
        raise CheckpointError(f"{file}: not a list of modules")
    kinds = [str(module.get("type", "")).rsplit(".", 1)[-1] for module in modules]
    for kind, module in zip(kinds, modules, strict=True):
        if kind not in _MODULES:
            raise CheckpointError(f"{file}: module {module.get('type')!r} is not supported; {SERVED}")
        reader.check(file, module, keys.MODULE, kind)
    if kinds not in (["Transformer", "Pooling"], list(_MODULES)):
        raise CheckpointError(f"{file}: expected Transformer, then Pooling (and Normalize), found {kinds}")
    return dict(zip(kinds, modules, strict=True))


def _check_pooling(file: Path, reader: Reader, hidden_size: int) -> None:
    pooling = read_object(file)
    named = pooling.get(
        "pooling_mode"
    )  # as sentence-transformers has it: where this is set, the older keys are ignored
    older = [key.removeprefix("pooling_mode_") for key, on in pooling.items() if key.startswith("pooling_mode_") and on]
    modes = named if isinstance(named, list) else older if named is None else [named]
    if modes != ["lasttoken"]:
        raise CheckpointError(f"{file}: pooling is {modes or 'not set'}; only lasttoken is served")
    reader.check(file, pooling, keys.POOLING)
    for key in ("word_embedding_dimension", "embedding_dimension"):
        if pooling.get(key) not in (None, hidden_size):
            raise CheckpointError(f"{file}: {key} is {pooling[key]!r}, but the network's hidden_size is {hidden_size}")


# The network's own settings


def _read_transformer(directory: Path, reader: Reader) -> tuple[Path, dict[str, Any]]:
    names = (_BERT, *_OTHER_NAMES)
    file = next((directory / name for name in names if (directory / name).is_file()), directory / _BERT)
    values = _read_object(file)[1]
    reader.check(file, values, keys.TRANSFORMER)
    for key in ("model_args", "model_kwargs", "tokenizer_args", "processor_kwargs", "config_args", "config_kwargs"):
        within = values.get(key) or {}
        if not isinstance(within, dict):
            raise CheckpointError(f"{file}: {key} is not a JSON object")
        reader.check(file, within, keys.NETWORK_LOADING if key.startswith("config") else keys.LOADING, key)
    return file, values


def _truth(file: Path, values: Mapping[str, Any], key: str) -> bool:
    value = values.get(key)
    if not isinstance(value, bool | None):
        raise CheckpointError(f"{file}: {key} is {value!r}; true or false is expected")
    return bool(value)


def _limit(file: Path, values: Mapping[str, Any], key: str) -> list[int]:
    """The number of tokens that a file says is the most; empty where it says none."""
    limit = values.get(key)
    if limit is None:
        return []
    if isinstance(limit, int | float) and not isinstance(limit, bool) and limit > _UNSET:
        return []
    if isinstance(limit, bool) or not isinstance(limit, int | float) or limit != limit // 1 or limit < 2:
        raise CheckpointError(f"{file}: {key} is {limit!r}; a whole number of at least 2 is expected")
    return [int(limit)]


# Prompts and dimensions


def _prompts(file: Path, values: Mapping[str, Any]) -> dict[str, str]:
    prompts = values.get("prompts")
    if prompts is None:
        return {}
    if not isinstance(prompts, dict) or not all(isinstance(prompt, str | None) for prompt in prompts.values()):
        raise CheckpointError(f"{file}: prompts is not a map from names to strings")
    return {name: prompt or "" for name, prompt in prompts.items()}


def _default_prompt_name(file: Path, values: Mapping[str, Any], prompts: Mapping[str, str]) -> str | None:
    name = values.get("default_prompt_name")
    if name is None:
        return None
    # sentence-transformers knows the names `query` and `document` of itself, and puts nothing before the text for them.
    if not isinstance(name, str) or name not in {*prompts, "query", "document"}:
        known = ", ".join(sorted(prompts)) or "none"
        raise CheckpointError(f"{file}: default_prompt_name is {name!r}, but the prompts are: {known}")
    return name


def _default_dimensions(file: Path, values: Mapping[str, Any], hidden_size: int) -> int | None:
    size = values.get("truncate_dim")
    if size is None:
        return None
    least = min(MIN_DIMENSIONS, hidden_size)
    if isinstance(size, bool) or not isinstance(size, int) or size < least:
        raise CheckpointError(f"{file}: truncate_dim is {size!r}; a whole number of at least {least} is expected")
    return min(size, hidden_size)


# Tokens


def _is_token(key: str, value: Any) -> bool:
    return key.endswith("_token") and isinstance(value, str | dict)


def _without_tokens(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if not _is_token(key, value)}


def _named_tokens(
    directory: Path, tokenizer_file: Path, tokenizer: Mapping[str, Any], reader: Reader
) -> dict[str, dict[str, Any]]:
    """transformers adds each of these to the tokenizer where it is not there, and then texts with it are other tokens."""
    found: dict[str, dict[str, Any]] = {}

    def add(file: Path, key: str, token: Any) -> None:
        about = token if isinstance(token, dict) else {}
        content = about.get("content") if about else token
        if not isinstance(content, str):
            raise CheckpointError(f"{file}: {key} names no token: {str(token)[:120]!r}")
        found.setdefault(content, {}).update(about)

    map_file, tokens = _read_object(directory / "special_tokens_map.json")
    reader.check(map_file, _without_tokens(tokens), keys.SPECIAL_TOKENS)
    for file, values in ((tokenizer_file, tokenizer), (map_file, tokens)):
        for key, value in values.items():
            if _is_token(key, value):
                add(file, key, value)
        for key in keys.SPECIAL_TOKENS.read:
            several = values.get(key) or []
            if not isinstance(several, list | dict):
                raise CheckpointError(f"{file}: {key} is neither a list nor a JSON object")
            for token in several.values() if isinstance(several, dict) else several:
                add(file, key, token)
    added_file, added = _read_object(directory / "added_tokens.json")
    for token in added:
        add(added_file, token, token)
    return found
