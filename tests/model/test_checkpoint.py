from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import huggingface_hub
import huggingface_hub.errors
import pytest

from streambed.errors import CheckpointError
from streambed.model.checkpoint import BUILTIN, Qwen3Config, find_checkpoint
from streambed.model.files import read_json
from tests.checkpoints import make_checkpoint

Change = Callable[[Path], None]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good checkpoint; its weights and tokenizer are not looked into here, so they are tiny."""
    directory = make_checkpoint(tmp_path_factory.mktemp("checkpoint") / "good", vocab_size=8)
    (directory / "tokenizer.json").write_text("{}")
    return directory


@pytest.fixture
def case(good: Path, tmp_path: Path) -> Path:
    """A copy of the good checkpoint, to be changed."""
    return Path(shutil.copytree(good, tmp_path / "case"))


def config(**changes: Any) -> Change:
    def change(directory: Path) -> None:
        file = directory / "config.json"
        file.write_text(json.dumps(json.loads(file.read_bytes()) | changes))

    return change


def without(*keys: str) -> Change:
    def change(directory: Path) -> None:
        file = directory / "config.json"
        kept = {key: value for key, value in json.loads(file.read_bytes()).items() if key not in keys}
        file.write_text(json.dumps(kept))

    return change


def write(name: str, content: Any) -> Change:
    """Writes a file: text and bytes as they are, all else as JSON."""

    def change(directory: Path) -> None:
        data = content if isinstance(content, str | bytes) else json.dumps(content)
        (directory / name).write_bytes(data.encode() if isinstance(data, str) else data)

    return change


def remove(name: str) -> Change:
    return lambda directory: (directory / name).unlink()


def index(content: Any) -> Change:
    """Replaces the weights by an index of shards."""

    def change(directory: Path) -> None:
        (directory / "model.safetensors").rename(directory / "model-00001-of-00001.safetensors")
        write(INDEX, content)(directory)

    return change


def pickled(name: str) -> Change:
    return lambda directory: (directory / "model.safetensors").rename(directory / name) and None


def becomes_directory(name: str) -> Change:
    def change(directory: Path) -> None:
        (directory / name).unlink()
        (directory / name).mkdir()

    return change


def modules(*kinds: str, pooling_path: Any = "1_Pooling") -> list[dict[str, Any]]:
    return [
        {"idx": i, "path": pooling_path if kind == "Pooling" else "", "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(kinds)
    ]


def pooling_at(path: str) -> Change:
    return write(MODULES, modules("Transformer", "Pooling", pooling_path=path))


POOLING, MODULES, BERT, PROMPTS = (
    "1_Pooling/config.json",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
)
INDEX = "model.safetensors.index.json"
HUGE = 10**400  # JSON holds it; a float does not
LONG = "b" * 300  # no file system of ours holds a name as long

BROKEN: list[tuple[str, Change, str, str]] = [
    # what is wrong, how to get there, the file to be named, what the message says
    ("no config", remove("config.json"), "config.json", "missing"),
    ("empty config", write("config.json", ""), "config.json", "not valid JSON"),
    ("config cut", write("config.json", '{"model_type": "qwen3",'), "config.json", "not valid JSON"),
    ("config no text", write("config.json", b'{"model_type": "\xff"}'), "config.json", "not valid JSON"),
    ("config deep", write("config.json", "[" * 200_000), "config.json", "not valid JSON"),
    ("config huge number", write("config.json", f'{{"vocab_size": {"9" * 5000}}}'), "config.json", "not valid JSON"),
    ("config a list", write("config.json", [{"model_type": "qwen3"}]), "config.json", "not a JSON object"),
    ("config a word", write("config.json", '"qwen3"'), "config.json", "not a JSON object"),
    ("config a directory", becomes_directory("config.json"), "config.json", "cannot be read"),
    ("other model type", config(model_type="bert"), "config.json", "model_type is 'bert'.*'qwen3'"),
    ("model type of two lines", config(model_type="qwen3\n"), "config.json", r"model_type is 'qwen3\\n'"),
    ("no model type", without("model_type"), "config.json", "model_type is None"),
    ("mixture of experts", config(model_type="qwen3_moe"), "config.json", "model_type is 'qwen3_moe'"),
    ("other architecture", config(architectures=["Qwen3ForSequenceClassification"]), "config.json", "'Qwen3ForSeq"),
    ("one architecture too many", config(architectures=["Qwen3Model", "BertModel"]), "config.json", "'BertModel'"),
    ("architectures a word", config(architectures="Qwen3Model"), "config.json", "architectures is not a list"),
    ("architectures an object", config(architectures={"Qwen3Model": 1}), "config.json", "architectures is not a list"),
    ("architectures a number", config(architectures=3), "config.json", "architectures is not a list"),
    ("architectures true", config(architectures=True), "config.json", "architectures is not a list"),
    (
        "architectures of lists",
        config(architectures=[["Qwen3Model"]]),
        "config.json",
        r"architecture \['Qwen3Model'\];",
    ),
    ("architecture of two lines", config(architectures=["Qwen3\nModel"]), "config.json", r"'Qwen3\\nModel'"),
    ("other activation", config(hidden_act="gelu"), "config.json", "hidden_act is 'gelu'"),
    ("quantised", config(quantization_config={"quant_method": "awq"}), "config.json", "quantization_config"),
    ("sliding window", config(use_sliding_window=True, sliding_window=128), "config.json", "sliding-window"),
    (
        "sliding layers",
        config(layer_types=["full_attention", "sliding_attention"]),
        "config.json",
        "sliding-window",
    ),
    ("layer types a word", config(layer_types="full_attention"), "config.json", "layer_types is not a list"),
    ("layer types an object", config(layer_types={"0": "full_attention"}), "config.json", "layer_types is not a list"),
    ("layer types a number", config(layer_types=2), "config.json", "layer_types is not a list"),
    ("bias a word", config(attention_bias="false"), "config.json", "attention_bias is neither true nor false"),
    ("bias a capital word", config(attention_bias="True"), "config.json", "attention_bias is neither true nor false"),
    ("bias a number", config(attention_bias=0), "config.json", "attention_bias is neither true nor false"),
    ("yarn", config(rope_scaling={"rope_type": "yarn", "factor": 4.0}), "config.json", "rope_type 'yarn'"),
    ("yarn, old key", config(rope_scaling={"type": "yarn", "factor": 4.0}), "config.json", "rope_type 'yarn'"),
    ("yarn beside default", config(rope_scaling={"rope_type": "default", "type": "yarn"}), "config.json", "'yarn'"),
    ("yarn, new key", config(rope_parameters={"rope_type": "yarn"}), "config.json", "rope_type 'yarn'"),
    ("rope of two lines", config(rope_scaling={"type": "de\nfault"}), "config.json", r"rope_type 'de\\nfault'"),
    ("rope no object", config(rope_parameters="default"), "config.json", "rope_parameters is not a JSON object"),
    ("no vocabulary", without("vocab_size"), "config.json", "vocab_size is missing"),
    ("no hidden size", without("hidden_size"), "config.json", "hidden_size is missing"),
    ("no layers", without("num_hidden_layers"), "config.json", "num_hidden_layers is missing"),
    ("heads null", config(num_attention_heads=None), "config.json", "num_attention_heads is missing"),
    ("no positions", without("max_position_embeddings"), "config.json", "max_position_embeddings is missing"),
    ("size a string", config(hidden_size="64"), "config.json", "hidden_size is '64'; a positive number"),
    ("size a truth", config(intermediate_size=True), "config.json", "intermediate_size is True; a positive number"),
    ("size a list", config(vocab_size=[8]), "config.json", r"vocab_size is \[8\]; a positive number"),
    ("no heads", config(num_attention_heads=0), "config.json", "num_attention_heads is 0; a positive number"),
    ("negative", config(num_hidden_layers=-2), "config.json", "num_hidden_layers is -2; a positive number"),
    ("half a layer", config(num_hidden_layers=2.5), "config.json", "num_hidden_layers is 2.5; a whole number"),
    ("infinite", config(max_position_embeddings=float("inf")), "config.json", "max_position_embeddings is inf"),
    ("eps not a number", config(rms_norm_eps=float("nan")), "config.json", "rms_norm_eps is nan; a positive"),
    ("eps zero", config(rms_norm_eps=0), "config.json", "rms_norm_eps is 0; a positive number"),
    ("theta a string", config(rope_theta="1e6"), "config.json", "rope_theta is '1e6'; a positive number"),
    ("theta negative", config(rope_parameters={"rope_theta": -1}), "config.json", "rope_theta is -1"),
    *(
        (f"{key} huge", config(**{key: HUGE}), "config.json", f"{key} is 10{{400}}; a positive number")
        for key in (
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
            "head_dim",
            "max_position_embeddings",
            "rms_norm_eps",
            "rope_theta",
        )
    ),
    ("hugely negative", config(num_hidden_layers=-HUGE), "config.json", "num_hidden_layers is -10{400}; a positive"),
    (
        "theta huge, new key",
        config(rope_parameters={"rope_theta": HUGE}),
        "config.json",
        "rope_theta is 10{400}; a pos",
    ),
    ("one position", config(max_position_embeddings=1), "config.json", "max_position_embeddings is 1; no text fits"),
    ("heads undivided", config(num_key_value_heads=3), "config.json", "4 attention heads do not divide into 3"),
    ("more kv heads", config(num_key_value_heads=8), "config.json", "4 attention heads do not divide into 8"),
    ("odd head", config(head_dim=15), "config.json", "head_dim 15 is odd"),
    ("no weights", remove("model.safetensors"), "model.safetensors", "missing"),
    ("pickled only", pickled("pytorch_model.bin"), "", "pickled weights"),
    ("pickled only, .pt", pickled("model.pt"), "", "pickled weights"),
    ("index broken", index("{"), INDEX, "not valid JSON"),
    ("index no object", index(["a"]), INDEX, "no weight_map"),
    ("index without map", index({"metadata": {}}), INDEX, "no weight_map"),
    ("index of numbers", index({"weight_map": {"norm.weight": 1}}), INDEX, "no weight_map"),
    ("index empty", index({"weight_map": {}}), INDEX, "weight_map is empty"),
    (
        "shard missing",
        index({"weight_map": {"norm.weight": "model-00002-of-00002.safetensors"}}),
        INDEX,
        r"shard 'model-00002-of-00002\.safetensors' is missing$",
    ),
    (
        "one shard of two missing",
        index({"weight_map": {"a": "model-00001-of-00001.safetensors", "b": "model-00009-of-00001.safetensors"}}),
        INDEX,
        r"shard 'model-00009-of-00001\.safetensors' is missing$",
    ),
    ("shard of a long name", index({"weight_map": {"norm.weight": LONG}}), INDEX, "shard 'b{200,300}' is missing$"),
    ("shard with a NUL", index({"weight_map": {"norm.weight": "a\0b"}}), INDEX, r"shard 'a\\x00b' is missing$"),
    ("shard of two lines", index({"weight_map": {"norm.weight": "a\nb"}}), INDEX, r"shard 'a\\nb' is missing$"),
    ("shard a surrogate", index({"weight_map": {"norm.weight": "\ud800"}}), INDEX, r"shard '\\ud800' is missing$"),
    ("shard without name", index({"weight_map": {"norm.weight": ""}}), INDEX, "shard '' is not a plain file name"),
    ("shard the parent", index({"weight_map": {"norm.weight": ".."}}), INDEX, r"shard '\.\.' is not a plain file name"),
    ("shard the directory", index({"weight_map": {"norm.weight": "."}}), INDEX, r"shard '\.' is not a plain file name"),
    ("shard a directory", index({"weight_map": {"norm.weight": "1_Pooling"}}), INDEX, "shard '1_Pooling' is missing$"),
    ("shard above, two lines", index({"weight_map": {"a": "../x\ny"}}), INDEX, r"shard '\.\./x\\ny' is not a plain"),
    ("shard above", index({"weight_map": {"norm.weight": "../x.safetensors"}}), INDEX, r"'\.\./x\.safetensors' is not"),
    ("shard absolute", index({"weight_map": {"norm.weight": "/etc/passwd"}}), INDEX, "'/etc/passwd' is not a plain"),
    ("shard below", index({"weight_map": {"norm.weight": "a/x.safetensors"}}), INDEX, "is not a plain file name"),
    ("pooling gone", remove(POOLING), MODULES, r"config\.json of '1_Pooling' is missing, though it is named$"),
    ("pooling elsewhere", pooling_at("9"), MODULES, r"config\.json of '9' is missing, though it is named$"),
    ("pooling at a long name", pooling_at(LONG), MODULES, r"config\.json of 'b{200,300}' is missing, though"),
    ("pooling at a NUL", pooling_at("a\0b"), MODULES, r"config\.json of 'a\\x00b' is missing, though"),
    ("pooling at two lines", pooling_at("a\nb"), MODULES, r"config\.json of 'a\\nb' is missing, though"),
    ("pooling at a surrogate", pooling_at("\ud800"), MODULES, r"config\.json of '\\ud800' is missing, though"),
    ("pooling broken", write(POOLING, "{"), POOLING, "not valid JSON"),
    ("pooling a list", write(POOLING, []), POOLING, "not a JSON object"),
    ("pooling unset", write(POOLING, {}), POOLING, "pooling is not set"),
    ("pooling all off", write(POOLING, {"pooling_mode_lasttoken": False}), POOLING, "pooling is not set"),
    (
        "mean",
        write(POOLING, {"pooling_mode_mean_tokens": True}),
        POOLING,
        r"pooling is \['mean_tokens'\]; only lasttoken",
    ),
    ("cls", write(POOLING, {"pooling_mode_cls_token": True}), POOLING, r"pooling is \['cls_token'\]; only lasttoken"),
    (
        "two poolings",
        write(POOLING, {"pooling_mode_lasttoken": True, "pooling_mode_mean_tokens": True}),
        POOLING,
        r"pooling is \['lasttoken', 'mean_tokens'\]; only lasttoken",
    ),
    ("mean, new style", write(POOLING, {"pooling_mode": "mean"}), POOLING, r"pooling is \['mean'\]; only lasttoken"),
    (
        "two, new style",
        write(POOLING, {"pooling_mode": ["mean", "lasttoken"]}),
        POOLING,
        r"pooling is \['mean', 'lasttoken'\]; only lasttoken",
    ),
    ("pooling a number", write(POOLING, {"pooling_mode": 3}), POOLING, r"pooling is \[3\]; only lasttoken"),
    (
        "pooling of two lines",
        write(POOLING, {"pooling_mode": "last\ntoken"}),
        POOLING,
        r"pooling is \['last\\ntoken'\];",
    ),
    ("pooling key of two lines", write(POOLING, {"pooling_mode_a\nb": True}), POOLING, r"pooling is \['a\\nb'\];"),
    (
        "mean, new style over old",
        write(POOLING, {"pooling_mode": "mean", "pooling_mode_lasttoken": True}),
        POOLING,
        r"pooling is \['mean'\]; only lasttoken",
    ),
    (
        "none, new style over old",
        write(POOLING, {"pooling_mode": [], "pooling_mode_lasttoken": True}),
        POOLING,
        "pooling is not set; only lasttoken",
    ),
    ("modules broken", write(MODULES, "["), MODULES, "not valid JSON"),
    ("modules no list", write(MODULES, {"0": "Transformer"}), MODULES, "not a list of modules"),
    ("modules of words", write(MODULES, ["Transformer", "Pooling"]), MODULES, "not a list of modules"),
    ("modules empty", write(MODULES, []), MODULES, r"expected Transformer, then Pooling .*, found \[\]$"),
    *(
        (f"modules {' '.join(kinds)}", write(MODULES, modules(*kinds)), MODULES, f"found {re.escape(str([*kinds]))}$")
        for kinds in (
            ("Transformer",),
            ("Pooling",),
            ("Transformer", "Normalize"),
            ("Pooling", "Transformer"),
            ("Transformer", "Transformer", "Pooling"),
            ("Transformer", "Pooling", "Transformer"),
            ("Transformer", "Pooling", "Pooling"),
            ("Transformer", "Pooling", "Pooling", "Normalize"),
            ("Transformer", "Pooling", "Normalize", "Pooling"),
            ("Transformer", "Pooling", "Normalize", "Normalize"),
            ("Transformer", "Normalize", "Pooling"),
            ("Normalize", "Transformer", "Pooling"),
        )
    ),
    ("dense", write(MODULES, modules("Transformer", "Pooling", "Dense")), MODULES, "'.*Dense' is not supported"),
    ("untyped module", write(MODULES, [{"path": ""}]), MODULES, "None is not supported"),
    ("module of two lines", write(MODULES, modules("Trans\nformer")), MODULES, r"'.*Trans\\nformer' is not supported"),
    ("window file a list", write(BERT, []), BERT, "not a JSON object"),
    ("window file null", write(BERT, None), BERT, "not a JSON object"),
    ("window file a number", write(BERT, 512), BERT, "not a JSON object"),
    ("window file a word", write(BERT, '"max_seq_length"'), BERT, "not a JSON object"),
    ("window hugely negative", write(BERT, {"max_seq_length": -HUGE}), BERT, "max_seq_length is -10{400}; a whole"),
    ("window a string", write(BERT, {"max_seq_length": "512"}), BERT, "max_seq_length is '512'; a whole number"),
    ("window a truth", write(BERT, {"max_seq_length": True}), BERT, "max_seq_length is True"),
    ("window a fraction", write(BERT, {"max_seq_length": 511.5}), BERT, "max_seq_length is 511.5"),
    ("window of the end token alone", write(BERT, {"max_seq_length": 1}), BERT, "at least 2"),
    ("window negative", write(BERT, {"max_seq_length": -1}), BERT, "max_seq_length is -1"),
    ("window broken", write(BERT, "max_seq_length: 512"), BERT, "not valid JSON"),
    ("prompts a list", write(PROMPTS, {"prompts": ["query"]}), PROMPTS, "prompts is not a map"),
    ("prompt a number", write(PROMPTS, {"prompts": {"query": 1}}), PROMPTS, "prompts is not a map"),
    ("prompts broken", write(PROMPTS, "{"), PROMPTS, "not valid JSON"),
    ("no tokenizer", remove("tokenizer.json"), "tokenizer.json", "missing"),
    ("tokenizer a directory", becomes_directory("tokenizer.json"), "tokenizer.json", "missing"),
]


@pytest.mark.parametrize(("change", "file", "says"), [row[1:] for row in BROKEN], ids=[row[0] for row in BROKEN])
def test_broken_directories_are_refused_in_one_line(case: Path, change: Change, file: str, says: str) -> None:
    change(case)
    with pytest.raises(CheckpointError, match=says) as caught:
        find_checkpoint(str(case))
    assert str(caught.value).startswith(f"{case / file}: ")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "name",
    ["two\nlines", pytest.param("two\r\nlines", id="crlf"), pytest.param("two\u2028lines", id="line separator")],
)
def test_directories_may_have_any_name(good: Path, tmp_path: Path, name: str) -> None:
    assert find_checkpoint(str(shutil.copytree(good, tmp_path / name))).name == name


@pytest.mark.parametrize(
    ("change", "file", "revision"),
    [
        (lambda directory: None, "", "main"),
        (lambda directory: None, "config.json", None),
        (remove("config.json"), "", None),
        (config(model_type="bert"), "", None),
        (remove("model.safetensors"), "", None),
        (write(POOLING, "{"), "", None),
        (remove("tokenizer.json"), "", None),
    ],
    ids=["revision", "file", "config", "model type", "weights", "pooling", "tokenizer"],
)
def test_directories_of_two_lines_are_refused_in_one_line(
    good: Path, tmp_path: Path, change: Change, file: str, revision: str | None
) -> None:
    directory = Path(shutil.copytree(good, tmp_path / "two\nlines"))
    change(directory)
    with pytest.raises(CheckpointError) as caught:
        find_checkpoint(str(directory / file), revision)
    assert len(str(caught.value).splitlines()) == 1


def test_broken_pooling_below_a_name_of_two_lines(case: Path) -> None:
    (case / "1_Pooling").rename(case / "two\nlines")
    pooling_at("two\nlines")(case)
    write("two\nlines/config.json", {"pooling_mode": "mean"})(case)
    with pytest.raises(CheckpointError, match=r"pooling is \['mean'\]") as caught:
        find_checkpoint(str(case))
    assert len(str(caught.value).splitlines()) == 1


GOOD: list[tuple[str, Change]] = [
    ("untouched", lambda directory: None),
    ("for causal LM", config(architectures=["Qwen3ForCausalLM"])),
    ("architecture unsaid", without("architectures")),
    ("activation unsaid", without("hidden_act")),
    (
        "full attention spelled out",
        config(use_sliding_window=False, sliding_window=None, layer_types=["full_attention"]),
    ),
    ("lists null", config(architectures=None, layer_types=None)),
    ("rope scaling null", config(rope_scaling=None, quantization_config=None)),
    ("whole numbers as floats", config(hidden_size=64.0, num_hidden_layers=2.0)),
    ("pooling new style", write(POOLING, {"pooling_mode": "lasttoken", "include_prompt": True})),
    ("pooling a list of one", write(POOLING, {"pooling_mode": ["lasttoken"]})),
    (
        "pooling new style over old",
        write(
            POOLING, {"pooling_mode": "lasttoken", "pooling_mode_mean_tokens": True, "pooling_mode_lasttoken": False}
        ),
    ),
    ("without normalize", write(MODULES, modules("Transformer", "Pooling"))),
    ("new module names", write(MODULES, [{"type": "a.b.Transformer"}, {"type": "c.Pooling", "path": "1_Pooling"}])),
    ("no modules", remove(MODULES)),
    ("a bare network", lambda directory: (remove(MODULES)(directory), shutil.rmtree(directory / "1_Pooling"))[1]),
    ("pickles beside the weights", write("pytorch_model.bin", b"\x80\x02")),
    ("no prompts", write(PROMPTS, {"prompts": None, "default_prompt_name": None})),
    ("window unset", write(BERT, {"max_seq_length": None, "do_lower_case": False})),
]


@pytest.mark.parametrize("change", [row[1] for row in GOOD], ids=[row[0] for row in GOOD])
def test_variants_that_mean_the_same(case: Path, change: Change) -> None:
    change(case)
    checkpoint = find_checkpoint(str(case))
    assert checkpoint.name == "case"
    assert checkpoint.directory == case
    assert checkpoint.weight_files == (case / "model.safetensors",)
    assert checkpoint.tokenizer_file == case / "tokenizer.json"
    assert checkpoint.window == 512
    assert checkpoint.prompts == {}
    assert checkpoint.config == Qwen3Config(
        vocab_size=8,
        hidden_size=64,
        intermediate_size=96,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        max_positions=512,
        rms_norm_eps=1e-6,
        rope_theta=1e6,
        attention_bias=False,
    )


@pytest.mark.parametrize(
    ("change", "field", "value"),
    [
        (without("head_dim"), "head_dim", 128),
        (config(head_dim=None), "head_dim", 128),
        (without("num_key_value_heads"), "num_kv_heads", 4),
        (without("rms_norm_eps"), "rms_norm_eps", 1e-6),
        (without("rope_theta"), "rope_theta", 1e4),
        (config(rope_theta=500), "rope_theta", 500.0),
        (config(rope_theta=None, rope_parameters={"rope_type": "default", "rope_theta": 2e6}), "rope_theta", 2e6),
        (config(rope_parameters={"rope_type": "default", "rope_theta": 2e6}), "rope_theta", 2e6),
        (config(rope_parameters={"rope_type": "default"}), "rope_theta", 1e6),
        (config(attention_bias=True), "attention_bias", True),
        (without("attention_bias"), "attention_bias", False),
        (config(max_position_embeddings=2), "max_positions", 2),
    ],
)
def test_config_values(case: Path, change: Change, field: str, value: object) -> None:
    change(case)
    assert getattr(find_checkpoint(str(case)).config, field) == value


@pytest.mark.parametrize(
    ("limit", "window"),
    [(2, 2), (100, 100), (512, 512), (513, 512), (32_768, 512), pytest.param(HUGE, 512, id="huge")],
)
def test_window_is_the_smaller_limit(case: Path, limit: int, window: int) -> None:
    write(BERT, {"max_seq_length": limit})(case)
    assert find_checkpoint(str(case)).window == window


def test_kv_values_per_token(good: Path) -> None:
    assert find_checkpoint(str(good)).config.kv_values_per_token == 2 * 2 * 2 * 16


def test_prompts_are_read(case: Path) -> None:
    prompts = {"query": "Instruct: find\nQuery:", "document": ""}
    write(PROMPTS, {"prompts": prompts, "default_prompt_name": None, "similarity_fn_name": "cosine"})(case)
    assert find_checkpoint(str(case)).prompts == prompts


def test_shards_are_each_named_once(tmp_path: Path) -> None:
    directory = make_checkpoint(tmp_path / "sharded", vocab_size=8, shards=3)
    files = find_checkpoint(str(directory)).weight_files
    assert [file.name for file in files] == [f"model-0000{shard}-of-00003.safetensors" for shard in (1, 2, 3)]


def test_single_file_wins_over_an_index(case: Path) -> None:
    write(INDEX, {"weight_map": {"norm.weight": "stale.safetensors"}})(case)
    assert find_checkpoint(str(case)).weight_files == (case / "model.safetensors",)


def test_read_json_of_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="missing") as caught:
        read_json(tmp_path / "absent.json")
    assert str(caught.value) == f"{tmp_path / 'absent.json'}: missing"


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any use of the hub fails the test."""

    def explode(*args: object, **kwargs: object) -> None:
        pytest.fail("the hub was asked")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", explode)


@pytest.mark.usefixtures("no_hub")
def test_builtin() -> None:
    checkpoint = find_checkpoint(BUILTIN)
    assert checkpoint.name == "builtin"
    assert checkpoint.is_builtin
    assert checkpoint.config.hidden_size == 384
    assert checkpoint.window == 8192
    assert all(file.is_file() for file in (*checkpoint.weight_files, checkpoint.tokenizer_file))


@pytest.mark.usefixtures("no_hub")
def test_builtin_wins_over_a_directory_of_that_name(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(good, tmp_path / "builtin")
    monkeypatch.chdir(tmp_path)
    assert find_checkpoint("builtin").config.hidden_size == 384
    assert find_checkpoint("builtin").is_builtin
    for model in ("./builtin", "builtin/", str(tmp_path / "builtin")):
        assert find_checkpoint(model).config.hidden_size == 64
        assert not find_checkpoint(model).is_builtin, "a name alone does not make it ours"


@pytest.mark.usefixtures("no_hub")
def test_local_directories(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Absolute, relative, of the form owner/name, below the home directory."""
    shutil.copytree(good, tmp_path / "Qwen" / "Qwen3-Embedding-0.6B")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for model in (
        str(tmp_path / "Qwen" / "Qwen3-Embedding-0.6B"),
        "Qwen/Qwen3-Embedding-0.6B",
        "./Qwen/Qwen3-Embedding-0.6B/",
        "~/Qwen/Qwen3-Embedding-0.6B",
        "Qwen/../Qwen/./Qwen3-Embedding-0.6B",
    ):
        assert find_checkpoint(model).name == "Qwen3-Embedding-0.6B"


@pytest.mark.usefixtures("no_hub")
def test_names_are_as_given(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link goes by its own name, whatever it leads to; a snapshot in the hub's cache by its id, however it is reached."""
    snapshot = tmp_path / "hub" / "models--Qwen--Qwen3-Embedding-0.6B" / "snapshots" / COMMIT
    shutil.copytree(good, snapshot)
    shutil.copytree(good, tmp_path / "hub" / "models--own" / "snapshots" / COMMIT)
    shutil.copytree(good, tmp_path / "snapshots" / "kept")
    (tmp_path / "current").symlink_to(snapshot)
    (tmp_path / "again").symlink_to("current")
    monkeypatch.chdir(tmp_path)
    for model, name in {
        str(snapshot): "Qwen/Qwen3-Embedding-0.6B",
        f"hub/models--Qwen--Qwen3-Embedding-0.6B/snapshots/{COMMIT}/": "Qwen/Qwen3-Embedding-0.6B",
        f"hub/models--own/snapshots/{COMMIT}": "own",
        "snapshots/kept": "kept",
        "current": "current",
        "./again/": "again",
        "current/.": "current",
    }.items():
        assert find_checkpoint(model).name == name, model
    monkeypatch.chdir(snapshot)
    assert find_checkpoint(".").name == "Qwen/Qwen3-Embedding-0.6B"


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize(
    ("model", "revision", "says"),
    [
        ("builtin", "main", "built-in model has no revisions"),
        ("{good}", "main", "a local directory has no revisions"),
        ("{good}/config.json", None, "is a file; give the directory"),
        ("{good}/model.safetensors", "main", "is a file; give the directory"),
        ("{good}/absent", None, "no such directory"),
        ("/absent", None, "no such directory"),
        ("/absent/x", None, "no such directory"),
        ("./absent", None, "no such directory"),
        ("../absent", None, "no such directory"),
        ("~/absent", None, "no such directory"),
        ("absent", None, "no such directory, and not a hub id of the form owner/name"),
        ("a/b/c", None, "no such directory, and not a hub id of the form owner/name"),
        ("https://huggingface.co/Qwen/Qwen3-Embedding-0.6B", None, "not a hub id of the form owner/name"),
        ("", None, "^'': no such directory"),
        ("", "main", "^'': no such directory"),
        (" ", None, "^' ': no such directory"),
        ("~nosuchuser", None, "^'~nosuchuser': no such directory"),
        ("~nosuchuser/x", None, "^'~nosuchuser/x': no such directory"),
        ("~nosuchuser/x", "main", "^'~nosuchuser/x': no such directory"),
        ("~no\nsuchuser/x", None, r"^'~no\\nsuchuser/x': no such directory"),
        ("~\0/x", None, r"^'~\\x00/x': no such directory"),
        ("a\0b", None, r"^'a\\x00b': no such directory"),
        ("/a/\0b", None, r"^'/a/\\x00b': no such directory"),
        ("\ud800", None, r"^'\\ud800': no such directory"),
        ("two\nlines", None, r"^'two\\nlines': no such directory"),
        ("/two\nlines", None, r"^'/two\\nlines': no such directory"),
        ("a/b\n/c", "main", r"^'a/b\\n/c': no such directory"),
    ],
)
def test_what_is_neither_directory_nor_hub_id(good: Path, model: str, revision: str | None, says: str) -> None:
    with pytest.raises(CheckpointError, match=says) as caught:
        find_checkpoint(model.format(good=good), revision)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize("revision", [None, "main"])
@pytest.mark.parametrize(
    "model",
    [LONG, f"/{LONG}", f"./{LONG}", f"~/{LONG}", f"~{LONG}/x", f"/tmp/{LONG}/x", "/".join([LONG[:200]] * 30)],
    ids=["name", "absolute", "relative", "home", "user", "below", "path"],
)
def test_names_too_long_for_a_path(model: str, revision: str | None) -> None:
    with pytest.raises(CheckpointError, match="': no such directory") as caught:
        find_checkpoint(model, revision)
    assert str(caught.value).startswith(f"'{model[:200]}"), "so much of the name is told"
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.usefixtures("no_hub")
def test_no_name_is_not_the_working_directory(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(good)
    assert find_checkpoint(".").name == "good"
    with pytest.raises(CheckpointError, match=r"^'': no such directory"):
        find_checkpoint("")


@pytest.mark.parametrize("revision", [None, "main", "refs/pr/3", COMMIT])
def test_hub_ids_are_resolved_by_huggingface_hub(
    good: Path, revision: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, dict[str, Any]]] = []

    def download(repo_id: str, **options: Any) -> str:
        asked.append((repo_id, options))
        return str(good)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    checkpoint = find_checkpoint("Qwen/Qwen3-Embedding-0.6B", revision)
    assert checkpoint.name == "Qwen/Qwen3-Embedding-0.6B"
    assert checkpoint.directory == good
    [(repo_id, options)] = asked
    assert repo_id == "Qwen/Qwen3-Embedding-0.6B"
    assert options["revision"] == revision

    def fetched(name: str) -> bool:
        return any(fnmatch(name, pattern) for pattern in options["allow_patterns"])

    wanted = ("config.json", "tokenizer.json", "model.safetensors", "model-00001-of-00002.safetensors", INDEX)
    assert all(map(fetched, (*wanted, POOLING, MODULES, BERT, PROMPTS)))
    never = ("pytorch_model.bin", "model.pt", "x.pkl", "modeling_qwen3.py", "x.so", "README.md", "onnx/model.onnx")
    assert not any(map(fetched, never))


class _Odd(Exception):
    """Of no family that anybody knows."""


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (huggingface_hub.errors.HFValidationError("Repo id must be\nshort"), "Repo id must be short"),
        (
            huggingface_hub.errors.RepositoryNotFoundError("404\n\nRepository not found", response=Mock(headers={})),
            "404 Repository not found",
        ),
        (
            huggingface_hub.errors.RevisionNotFoundError("404\n\nInvalid rev id", response=Mock(headers={})),
            "404 Invalid rev id",
        ),
        (
            huggingface_hub.errors.GatedRepoError("403\n\nAccess is\r\nrestricted", response=Mock(headers={})),
            "403 Access is restricted",
        ),
        (huggingface_hub.errors.HfHubHTTPError("\n500\n\nServer error", response=Mock(headers={})), "500 Server error"),
        (OSError(28, "No space left on device"), "[Errno 28] No space left on device"),
        (OSError(), "OSError"),
        (ValueError("\n"), "ValueError"),
        (
            RuntimeError("Data processing error:\n\n\tCAS service\u2028error"),
            "Data processing error: CAS service error",
        ),
        (_Odd("  first\n\nsecond\x0b\x0cthird\x85fourth\n"), "first second third fourth"),
        (_Odd(), "_Odd"),
        (KeyError("a\nb"), r"'a\nb'"),
        (TypeError("unexpected"), "unexpected"),
        (AssertionError(), "AssertionError"),
        (StopIteration(), "StopIteration"),
        (MemoryError("out\nof memory"), "out of memory"),
        (RecursionError("too deep"), "too deep"),
        (UnicodeDecodeError("utf-8", b"a", 0, 1, "bad\n\nbyte"), "bad byte"),
        (ExceptionGroup("two\n\nfailed", [OSError(), _Odd()]), "two failed (2 sub-exceptions)"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_what_the_hub_refuses_is_told_in_one_line(
    error: Exception, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever its class, and all of what it says: the cause often stands below a blank line."""
    monkeypatch.setattr(huggingface_hub, "snapshot_download", Mock(side_effect=error))
    with pytest.raises(CheckpointError) as caught:
        find_checkpoint("owner/name")
    assert caught.value.__cause__ is error
    assert str(caught.value).startswith("'owner/name': cannot be fetched from the hub: ")
    assert str(caught.value).endswith(f" {reason}")
    assert len(str(caught.value).splitlines()) == 1


def test_what_is_not_in_the_cache_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    error = huggingface_hub.errors.LocalEntryNotFoundError("Cannot find\nan appropriate cached snapshot")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", Mock(side_effect=error))
    with pytest.raises(
        CheckpointError,
        match=r"^'owner/name': cannot be fetched .* HF_HUB_OFFLINE is set, .*: Cannot find an appropriate cached snapshot$",
    ) as caught:
        find_checkpoint("owner/name")
    assert caught.value.__cause__ is error
    assert not str(caught.value).endswith(" ")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            huggingface_hub.errors.LocalEntryNotFoundError("Got: HfHubHTTPError: 429\n\nToo many requests"),
            "429 Too many requests",
        ),
        (
            huggingface_hub.errors.LocalEntryNotFoundError("Got: ConnectError: certificate verify failed\nAn error"),
            "certificate verify failed",
        ),
    ],
    ids=["too many requests", "certificate"],
)
def test_why_the_hub_could_not_be_asked_is_told(error: Exception, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """snapshot_download says so in this class when it was online, failed and had nothing cached."""
    monkeypatch.setattr(huggingface_hub, "snapshot_download", Mock(side_effect=error))
    with pytest.raises(CheckpointError) as caught:
        find_checkpoint("owner/name")
    assert len(str(caught.value).splitlines()) == 1
    assert reason in str(caught.value)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_a_download_can_be_interrupted(error: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", Mock(side_effect=error))
    with pytest.raises(error):
        find_checkpoint("owner/name")


@pytest.mark.parametrize(
    "model",
    ["owner/name", "-a/b", "owner/", "a b/c", f"a/{LONG}", "a/\0b", "two\nlines/x", "a/b\n", "a/\u2028", "a/\ud800"],
)
def test_hub_ids_that_are_not_cached_while_offline(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert huggingface_hub.constants.HF_HUB_OFFLINE, "tests/conftest.py takes care of that"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match=r"not in the local hub cache|cannot be fetched") as caught:
        find_checkpoint(model)
    assert str(caught.value).startswith(f"{model!r}: ")
    assert len(str(caught.value).splitlines()) == 1


@pytest.fixture
def hub_cache(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache that holds owner/name in the hub's own layout, with the files linked from blobs."""
    repository = tmp_path / "hub" / "models--owner--name"
    for file in (path for path in good.rglob("*") if path.is_file()):
        name = file.relative_to(good)
        blob = repository / "blobs" / str(name).replace("/", "-")
        blob.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, blob)
        link = repository / "snapshots" / COMMIT / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    for ref in ("main", "v1"):
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / ref).write_text(COMMIT)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return repository / "snapshots" / COMMIT


@pytest.mark.parametrize("revision", [None, "main", "v1", COMMIT])
def test_hub_cache_serves_offline(hub_cache: Path, revision: str | None) -> None:
    checkpoint = find_checkpoint("owner/name", revision)
    assert checkpoint.name == "owner/name"
    assert checkpoint.directory == hub_cache
    assert checkpoint.config.hidden_size == 64


@pytest.mark.usefixtures("hub_cache")
def test_hub_cache_without_that_revision() -> None:
    with pytest.raises(CheckpointError, match=r"^'owner/name': cannot be fetched from the hub: .*(cache|revision)"):
        find_checkpoint("owner/name", "v2")


def test_hub_cache_with_a_broken_checkpoint(hub_cache: Path) -> None:
    (hub_cache / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match="missing") as caught:
        find_checkpoint("owner/name")
    assert str(caught.value) == f"{hub_cache / 'tokenizer.json'}: missing"
