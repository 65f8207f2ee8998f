"""Which files of a checkpoint are served, and which are refused by the name of a key."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from streambed.errors import CheckpointError
from streambed.model import keys
from streambed.model.checkpoint import find_checkpoint
from tests.checkpoints import make_checkpoint

FILES: dict[str, keys.Keys] = {
    "config.json": keys.NETWORK,
    "config_sentence_transformers.json": keys.SENTENCE_TRANSFORMERS,
    "sentence_bert_config.json": keys.TRANSFORMER,
    "tokenizer_config.json": keys.TOKENIZER,
    "1_Pooling/config.json": keys.POOLING,
    "2_Normalize/config.json": keys.NORMALIZE,
    "special_tokens_map.json": keys.SPECIAL_TOKENS,
}
NESTED = [
    ("config.json", "rope_parameters"),
    ("config.json", "rope_scaling"),
    *[
        ("sentence_bert_config.json", key)
        for key in ("model_args", "model_kwargs", "tokenizer_args", "processor_kwargs", "config_args", "config_kwargs")
    ],
]
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes keys into a file of a checkpoint that is good without them."""
    directory = make_checkpoint(tmp_path / "case", vocab_size=8)
    (directory / "tokenizer.json").write_text("{}")
    (directory / "2_Normalize").mkdir()
    good = {name: (directory / name).read_text() if (directory / name).exists() else "{}" for name in FILES}

    def change(file: str, **values: Any) -> Path:
        (directory / file).write_text(json.dumps(json.loads(good[file]) | values))
        return directory

    return change


def refusal(directory: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        find_checkpoint(str(directory))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("file", FILES)
def test_an_unknown_key_is_refused_by_name_unless_it_says_nothing(write: Write, file: str) -> None:
    for value in (True, 1, 0, 0.5, "word", [1], {"a": 1}):
        message = refusal(write(file, strange_key=value))
        assert f"{file}: key 'strange_key' is not known here" in message, value
        assert "only causal Qwen3 with last-token pooling" in message
        assert "--allow-unknown-config" in message
    for value in (None, False, "", [], {}):
        find_checkpoint(str(write(file, strange_key=value)))
    find_checkpoint(str(write(file, _note=[1])))
    assert "keys 'one', 'two' are not known" in refusal(write(file, one=1, two=2))


@pytest.mark.parametrize(("file", "key"), NESTED)
def test_unknown_keys_within_keys_are_refused_too(write: Write, file: str, key: str) -> None:
    assert f"key '{key}.strange_key' is not known here" in refusal(write(file, **{key: {"strange_key": 2}}))
    assert "not a JSON object" in refusal(write(file, **{key: [1]}))


def test_unknown_keys_load_with_a_warning_where_that_is_allowed(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    write("config.json", strange=1)
    directory = write("sentence_bert_config.json", config_args={"odd": 2})
    with caplog.at_level(logging.WARNING):
        checkpoint = find_checkpoint(str(directory), allow_unknown_config=True)
    assert checkpoint.unknown_keys == ("config.json: strange", "sentence_bert_config.json: config_args.odd")
    assert [key in caplog.text for key in checkpoint.unknown_keys] == [True, True]
    write("config.json", is_causal=False)
    with pytest.raises(CheckpointError, match="is_causal is False"):
        find_checkpoint(str(directory), allow_unknown_config=True)


@pytest.mark.parametrize(("file", "table"), FILES.items(), ids=FILES)
def test_fixed_keys_have_their_value_or_are_refused(write: Write, file: str, table: keys.Keys) -> None:
    for key, (allowed, reason) in table.fixed.items():
        for value in (*allowed, None):
            find_checkpoint(str(write(file, **{key: value})))
        for value in (False, True, 2, "other", ["x"]):
            if not any(value is each or (value == each and not isinstance(value, bool)) for each in allowed):
                assert reason in refusal(write(file, **{key: value})), (key, value)


@pytest.mark.parametrize(
    ("file", "values"),
    [
        ("config.json", {"is_causal": False}),
        ("config.json", {"causal": False}),
        ("config.json", {"use_bidirectional_attention": True}),
        ("config.json", {"layer_types": ["full_attention", "linear_attention"]}),
        ("config.json", {"auto_map": {"AutoModel": "modeling_own.Own"}}),
        ("config.json", {"quantization": {"bits": 4}}),
        ("config.json", {"per_layer_config": {"0": {"num_attention_heads": 2}}}),
        ("config.json", {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}),
        ("config.json", {"rope_parameters": {"full_attention": {"rope_type": "default"}}}),
        ("config.json", {"partial_rotary_factor": 0.5}),
        ("sentence_bert_config.json", {"config_args": {"is_causal": False}}),
        ("sentence_bert_config.json", {"config_kwargs": {"rope_theta": 5.0}}),
        ("sentence_bert_config.json", {"tokenizer_args": {"truncation_side": "left"}}),
        ("sentence_bert_config.json", {"processing_kwargs": {"text": {"add_special_tokens": False}}}),
        ("sentence_bert_config.json", {"query_length": 32}),
        ("sentence_bert_config.json", {"do_lower_case": "yes"}),
        ("sentence_bert_config.json", {"tokenizer_name_or_path": "other/tokenizer"}),
        ("config_sentence_transformers.json", {"model_type": "SparseEncoder"}),
        ("config_sentence_transformers.json", {"default_prompt_name": "absent"}),
        ("config_sentence_transformers.json", {"default_prompt_name": 3}),
        ("config_sentence_transformers.json", {"truncate_dim": 16}),
        ("config_sentence_transformers.json", {"truncate_dim": 48.5}),
        ("tokenizer_config.json", {"add_prefix_space": True}),
        ("tokenizer_config.json", {"tokenizer_class": "BertTokenizer"}),
        ("tokenizer_config.json", {"truncation_side": "left"}),
        ("tokenizer_config.json", {"do_lower_case": True}),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": "own"}}),
        ("tokenizer_config.json", {"model_max_length": 1}),
        ("tokenizer_config.json", {"model_max_length": "512"}),
        ("1_Pooling/config.json", {"word_embedding_dimension": 65}),
        ("1_Pooling/config.json", {"pooling_mode_mean_tokens": True}),
        ("2_Normalize/config.json", {"normalize_embeddings": False}),
        ("2_Normalize/config.json", {"module_input_name": "token_embeddings"}),
    ],
    ids=str,
)
def test_what_would_give_other_vectors_is_refused(write: Write, file: str, values: dict[str, Any]) -> None:
    message = refusal(write(file, **values))
    assert file in message
    assert next(iter(values)).removeprefix("pooling_mode_mean_") in message


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"])
@pytest.mark.parametrize("beside", [True, False])
def test_adapters_are_to_be_merged_first(write: Write, name: str, beside: bool) -> None:
    directory = write("config.json")
    (directory / name).write_text("{}")
    if not beside:
        for file in ("config.json", "model.safetensors"):
            (directory / file).unlink()
    message = refusal(directory)
    assert name in message
    assert "merge it" in message


def test_modules_are_read_strictly(write: Write) -> None:
    directory = write("config.json")
    modules = json.loads((directory / "modules.json").read_text())
    for change, says in (
        (lambda: modules[0].update(path="0_Transformer"), "'0_Transformer'"),
        (lambda: modules[0].update(path="", kwargs=["task"]), "Transformer.kwargs"),
        (lambda: (modules[0].pop("kwargs"), modules.append({"type": "x.Dense", "path": "3_Dense"})), "x.Dense"),
        (lambda: (modules.pop(), modules.append(modules[1])), "expected Transformer, then Pooling"),
    ):
        change()
        (directory / "modules.json").write_text(json.dumps(modules))
        assert says in refusal(directory)


def _published(size: str) -> dict[str, Any]:
    """`config.json` of a published Qwen3-Embedding, but for the shapes, which are a tiny model's."""
    return {
        "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 151643, "eos_token_id": 151643,
        "hidden_act": "silu", "initializer_range": 0.02, "max_window_layers": 28 if size == "0.6B" else 36,
        "rope_scaling": None, "rope_theta": 1000000, "sliding_window": None, "tie_word_embeddings": size != "8B",
        "torch_dtype": "bfloat16", "transformers_version": "4.51.3", "use_cache": True, "use_sliding_window": False,
        "architectures": ["Qwen3ForCausalLM"],
    }  # fmt: skip


@pytest.mark.parametrize("size", ["0.6B", "4B", "8B"])
@pytest.mark.parametrize("transformers", [4, 5])
@pytest.mark.parametrize("sentence_transformers", [3, 6])
def test_files_of_the_published_sizes_load(
    write: Write, size: str, transformers: int, sentence_transformers: int
) -> None:
    """As the hub has them, and as transformers 5 and sentence-transformers 6 save them again."""
    published = _published(size)
    if transformers == 5:
        theta = published.pop("rope_theta")
        published |= {
            "dtype": published.pop("torch_dtype"), "rope_parameters": {"rope_theta": theta, "rope_type": "default"},
            "layer_types": ["full_attention"] * 2, "pad_token_id": None, "transformers_version": "5.24.0",
        }  # fmt: skip
        del published["rope_scaling"]
    directory = write("config.json", **published)
    prompts = {"query": "Instruct: Given a web search query, retrieve relevant passages\nQuery:", "document": ""}
    said: dict[str, Any] = {"prompts": prompts, "default_prompt_name": None, "similarity_fn_name": "cosine"}
    if sentence_transformers == 6:
        said |= {
            "model_type": "SentenceTransformer",
            "__version__": {"sentence_transformers": "6.2.0", "transformers": "5.24.0", "pytorch": "2.13.0"},
        }
        write(
            "sentence_bert_config.json",
            transformer_task="feature-extraction",
            modality_config={"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
            module_output_name="token_embeddings",
            processing_kwargs={},
            unpad_inputs=None,
        )
        kinds = ("base.modules.transformer.Transformer", "sentence_transformer.modules.pooling.Pooling")
        (directory / "modules.json").write_text(
            json.dumps(
                [
                    {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.{kind}"}
                    for number, (kind, path) in enumerate(
                        zip(
                            (*kinds, "base.modules.normalize.Normalize"),
                            ("", "1_Pooling", "2_Normalize"),
                            strict=True,
                        )
                    )
                ]
            )
        )
        (directory / "1_Pooling" / "config.json").write_text(
            json.dumps({"embedding_dimension": 64, "pooling_mode": "lasttoken", "include_prompt": True})
        )
        write(
            "2_Normalize/config.json", module_input_name="sentence_embedding", module_output_name="sentence_embedding"
        )
    else:
        said |= {"__version__": {"sentence_transformers": "3.4.1", "transformers": "4.51.3", "pytorch": "2.6.0"}}
    write("config_sentence_transformers.json", **said)
    tokens = ["<|im_start|>", "<|im_end|>", "<|object_ref_start|>"]
    about = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    write(
        "tokenizer_config.json",
        add_bos_token=False, add_prefix_space=False, additional_special_tokens=tokens, bos_token=None,
        added_tokens_decoder={"151643": {"content": "<|endoftext|>", **about}}, chat_template="{% if messages %}",
        clean_up_tokenization_spaces=False, eos_token="<|im_end|>", errors="replace", model_max_length=131072,
        pad_token="<|endoftext|>", split_special_tokens=False, tokenizer_class="Qwen2Tokenizer", unk_token=None,
    )  # fmt: skip
    checkpoint = find_checkpoint(str(directory))
    assert checkpoint.prompts == prompts
    assert checkpoint.window == 512
    assert set(checkpoint.pipeline.named_tokens) == {*tokens, "<|endoftext|>"}
    assert "config.json: attention_dropout" in checkpoint.training_keys


def test_architectures_that_are_qwen3_by_another_name(write: Write) -> None:
    for name in ("Qwen3Model", "Qwen3ForCausalLM", "Qwen3ForTextEmbedding"):
        find_checkpoint(str(write("config.json", architectures=[name])))
    assert "'Qwen3BidirectionalModel'" in refusal(write("config.json", architectures=["Qwen3BidirectionalModel"]))
    assert "only causal Qwen3" in refusal(write("config.json", model_type="qwen2"))


@pytest.mark.parametrize(
    ("said", "window"),
    [
        ({}, 512),
        ({"tokenizer_config.json": {"model_max_length": 100}}, 100),
        ({"tokenizer_config.json": {"model_max_length": 1e30}}, 512),
        ({"tokenizer_config.json": {"model_max_length": 100.0}}, 100),
        ({"tokenizer_config.json": {"model_max_length": None, "max_len": 90}}, 90),
        ({"tokenizer_config.json": {"model_max_length": 100}, "sentence_bert_config.json": {"max_seq_length": 80}}, 80),
        ({"tokenizer_config.json": {"model_max_length": 70}, "sentence_bert_config.json": {"max_seq_length": 80}}, 70),
        ({"sentence_bert_config.json": {"processor_kwargs": {"model_max_length": 60}}}, 60),
        ({"sentence_bert_config.json": {"tokenizer_args": {"model_max_length": 50}}}, 50),
        ({"tokenizer_config.json": {"model_max_length": 131072}}, 512),
    ],
)
def test_the_window_is_the_least_of_what_is_said(write: Write, said: dict[str, Any], window: int) -> None:
    directory = write("tokenizer_config.json", model_max_length=None)
    for file, values in said.items():
        write(file, **values)
    assert find_checkpoint(str(directory)).window == window


def test_an_old_name_of_the_transformer_file_counts(write: Write) -> None:
    directory = write("config.json")
    (directory / "sentence_roberta_config.json").write_text('{"max_seq_length": 44, "do_lower_case": true}')
    pipeline = find_checkpoint(str(directory)).pipeline
    assert (pipeline.window, pipeline.lower_case) == (44, True)
