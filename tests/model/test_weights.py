from __future__ import annotations

import errno
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import streambed.model.cpu.linear
from streambed.errors import CheckpointError
from streambed.model.checkpoint import find_checkpoint
from streambed.model.cpu.device import CPU
from streambed.model.qwen3 import Qwen3
from streambed.model.stock.attention import Span, attend, plan
from streambed.model.weights import expected_shapes, load_network
from tests.checkpoints import BUILTIN, make_checkpoint

VOCABULARY = 64
IDS = [1, 5, 63, 0, 7, 7, 31]
Tensors = dict[str, Tensor]


def make(directory: Path, **options: object) -> Path:
    return make_checkpoint(directory, vocab_size=VOCABULARY, **options)  # type: ignore[arg-type]


def load(directory: Path, dtype: torch.dtype = torch.float32) -> tuple[Qwen3, str]:
    return load_network(find_checkpoint(str(directory)), dtype, torch.device("cpu"), CPU.operators)


def hidden(network: Qwen3) -> Tensor:
    config, rows = network.config, len(IDS)
    heads = config.num_heads, config.num_kv_heads
    spans, device = [Span(0, rows, 0, None)], torch.device("cpu")
    chosen = plan(spans, *heads, network.dtype, device, fused=True, multiply=network.dtype == torch.bfloat16)
    return network.forward(
        torch.tensor(IDS),
        torch.arange(rows),
        functools.partial(attend, chosen),
        torch.arange(rows),
    )


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("weights") / "plain")


@pytest.fixture
def case(tmp_path: Path) -> Path:
    """A checkpoint with the plain one's weights, to be changed."""
    return make(tmp_path / "case")


def rewrite(directory: Path, change: Callable[[Tensors], object]) -> None:
    """Changes the tensors of a checkpoint of one file."""
    file = directory / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    change(tensors)
    save_file(tensors, file)


@pytest.mark.parametrize(
    "options",
    [
        {"prefix": "model."},
        {"lm_head": True},
        {"prefix": "model.", "lm_head": True},
        {"shards": 3},
        {"shards": 3, "prefix": "model.", "lm_head": True},
    ],
    ids=str,
)
def test_layout_of_the_files_changes_nothing(plain: Path, tmp_path: Path, options: dict[str, object]) -> None:
    network, digest = load(plain)
    other, other_digest = load(make(tmp_path / "other", **options))
    assert other_digest == digest
    assert torch.equal(hidden(other), hidden(network))


def test_order_in_the_file_and_metadata_change_nothing(plain: Path, case: Path) -> None:
    tensors = load_file(plain / "model.safetensors")
    save_file(dict(reversed(tensors.items())), case / "model.safetensors", metadata={"made by": "somebody else"})
    assert load(case)[1] == load(plain)[1]


def test_digest_is_the_same_for_every_serving_dtype(plain: Path) -> None:
    assert load(plain, torch.bfloat16)[1] == load(plain)[1]


@pytest.mark.parametrize(
    ("options", "change"),
    [
        ({"seed": 1}, None),
        ({"rope_theta": 1e4}, None),
        ({"rms_norm_eps": 1e-5}, None),
        ({"dtype": torch.bfloat16}, None),
        ({}, "embed_tokens.weight"),
        ({}, "layers.1.self_attn.k_norm.weight"),
        ({}, "layers.0.mlp.down_proj.weight"),
        ({}, "norm.weight"),
    ],
)
def test_digest_tells_what_changes_vectors(
    plain: Path, tmp_path: Path, options: dict[str, object], change: str | None
) -> None:
    """`change`: the tensor whose last value moves by the least step there is."""
    other = make(tmp_path / "other", **options)
    if change is not None:

        def step(tensors: Tensors) -> None:
            last = tensors[change].view(-1)[-1:]
            last.copy_(torch.nextafter(last, torch.tensor(torch.inf)))

        rewrite(other, step)
    assert load(other)[1] != load(plain)[1]


def test_digest_tells_swapped_tensors(plain: Path, case: Path) -> None:
    def swap(tensors: Tensors) -> None:
        one, other = "layers.0.mlp.gate_proj.weight", "layers.0.mlp.up_proj.weight"
        tensors[one], tensors[other] = tensors[other], tensors[one]

    rewrite(case, swap)
    assert load(case)[1] != load(plain)[1]


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16])
def test_half_precision_storage(plain: Path, tmp_path: Path, stored: torch.dtype) -> None:
    """Served in float32, stored values are exact; only their own rounding is left."""
    half = make(tmp_path / "half", dtype=stored)
    network, _ = load(half)
    tensors = load_file(half / "model.safetensors")
    assert network.dtype == torch.float32
    assert torch.equal(network.embedding, tensors["embed_tokens.weight"].float())
    assert torch.equal(network.final_norm, tensors["norm.weight"].float())
    rounded = make(tmp_path / "rounded")
    rewrite(rounded, lambda all_: all_.update({name: tensor.to(stored).float() for name, tensor in all_.items()}))
    assert torch.equal(hidden(network), hidden(load(rounded)[0]))


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16])
def test_serving_in_bfloat16(tmp_path: Path, stored: torch.dtype) -> None:
    network, _ = load(make(tmp_path / "half", dtype=stored), torch.bfloat16)
    assert network.dtype == torch.bfloat16
    assert network.final_norm.dtype == network.layers[0].attention_norm.dtype == torch.float32
    full, _ = load(make(tmp_path / "full"))
    assert torch.cosine_similarity(hidden(network), hidden(full)).min() > 0.99


def test_loaded_network_has_the_files_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Matrices are packed for the processor; unpacked, they can be read. Pairs of queries and keys stand side by side."""

    def paired(rows: torch.Tensor) -> torch.Tensor:
        order = [base + half for base in range(8) for half in (0, 8)]
        return torch.cat([head[order] for head in rows.split(16)])

    monkeypatch.setattr(streambed.model.cpu.linear, "can_pack", lambda dtype: False)
    directory = make(tmp_path / "biased", attention_bias=True)
    tensors = load_file(directory / "model.safetensors")
    network, _ = load(directory)
    for index, layer in enumerate(network.layers):
        at = f"layers.{index}."
        attention = f"{at}self_attn."
        for suffix, loaded in (("weight", layer.qkv.weight), ("bias", layer.qkv.bias)):
            assert loaded is not None
            q, k, v = (tensors[f"{attention}{part}_proj.{suffix}"] for part in "qkv")
            assert torch.equal(loaded, torch.cat([paired(q), paired(k), v]))
        assert layer.output.bias is not None
        assert torch.equal(layer.output.bias, tensors[f"{attention}o_proj.bias"])
        assert layer.gate.bias is None
        for name, loaded in (
            ("self_attn.o_proj", layer.output.weight),
            ("mlp.gate_proj", layer.gate.weight),
            ("mlp.up_proj", layer.up.weight),
            ("mlp.down_proj", layer.down.weight),
            ("input_layernorm", layer.attention_norm),
            ("post_attention_layernorm", layer.mlp_norm),
        ):
            assert torch.equal(loaded, tensors[f"{at}{name}.weight"])
        assert torch.equal(layer.qk_norm[4:], paired(tensors[f"{attention}k_norm.weight"]).expand(2, -1))
        assert torch.equal(layer.qk_norm[:4], paired(tensors[f"{attention}q_norm.weight"]).expand(4, -1) * 16**-0.5)


@pytest.mark.parametrize("attention_bias", [False, True])
def test_expected_shapes_are_what_a_checkpoint_holds(tmp_path: Path, attention_bias: bool) -> None:
    directory = make(tmp_path / "any", attention_bias=attention_bias)
    stored = {name: tuple(tensor.shape) for name, tensor in load_file(directory / "model.safetensors").items()}
    assert expected_shapes(find_checkpoint(str(directory)).config) == stored


def test_builtin_loads() -> None:
    network, digest = load(BUILTIN)
    assert len(network.layers) == 4
    assert len(digest) == 64
    assert hidden(network).isfinite().all()


def with_value(name: str, value: float) -> Callable[[Tensors], object]:
    return lambda tensors: tensors[name].view(-1)[-1:].fill_(value)


def to(name: str, dtype: torch.dtype) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({name: tensors[name].to(dtype)})


def reshaped(name: str, *shape: int) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({name: torch.zeros(shape)})


def extra(name: str) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({name: torch.zeros(4)})


K_PROJ, NORM, DOWN = "layers.1.self_attn.k_proj.weight", "norm.weight", "layers.0.mlp.down_proj.weight"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda tensors: tensors.pop(K_PROJ), f"tensor '{K_PROJ}' is missing"),
        (lambda tensors: [tensors.pop(name) for name in (NORM, K_PROJ, DOWN)], f"'{DOWN}' is missing and 2 more"),
        (lambda tensors: tensors.pop("embed_tokens.weight"), "tensor 'embed_tokens.weight' is missing"),
        (extra("layers.2.mlp.up_proj.weight"), "tensor 'layers.2.mlp.up_proj.weight' is no part of this network"),
        (extra("layers.0.self_attn.q_proj.bias"), "'layers.0.self_attn.q_proj.bias' is no part of this network"),
        (extra("model.model.norm.weight"), "'model.model.norm.weight' is no part of this network"),
        (extra("two\nlines"), r"tensor 'two\\nlines' is no part of this network"),
        (reshaped(NORM, 63), rf"'{NORM}' has shape \(63,\), config.json asks for \(64,\)"),
        (reshaped(K_PROJ, 64, 32), rf"'{K_PROJ}' has shape \(64, 32\), config.json asks for \(32, 64\)"),
        (reshaped(NORM, 1, 64), rf"'{NORM}' has shape \(1, 64\), config.json asks for \(64,\)"),
        (reshaped("embed_tokens.weight", 63, 64), r"'embed_tokens.weight' has shape \(63, 64\)"),
        (with_value(K_PROJ, torch.nan), f"tensor '{K_PROJ}' has values that are not finite"),
        (with_value(NORM, torch.inf), f"tensor '{NORM}' has values that are not finite"),
        (with_value(DOWN, -torch.inf), f"tensor '{DOWN}' has values that are not finite"),
        (with_value("embed_tokens.weight", torch.nan), "tensor 'embed_tokens.weight' has values that are not finite"),
        (to(K_PROJ, torch.int8), f"tensor '{K_PROJ}' is torch.int8; float32, bfloat16 or float16 is expected"),
        (to(NORM, torch.float64), f"tensor '{NORM}' is torch.float64; float32"),
        (to(DOWN, torch.float8_e4m3fn), f"tensor '{DOWN}' is torch.float8_e4m3fn; float32"),
        (lambda tensors: tensors.update({f"model.{NORM}": torch.ones(64)}), f"'(model.)?{NORM}' is there twice"),
    ],
)
def test_wrong_tensors_are_refused_in_one_line(case: Path, change: Callable[[Tensors], object], says: str) -> None:
    rewrite(case, change)
    with pytest.raises(CheckpointError, match=says) as caught:
        load(case)
    assert str(caught.value).startswith(f"{case / 'model.safetensors'}: tensor '")
    assert len(str(caught.value).splitlines()) == 1


def test_biases_that_the_config_asks_for_must_be_there(case: Path) -> None:
    config = json.loads((case / "config.json").read_bytes())
    (case / "config.json").write_text(json.dumps(config | {"attention_bias": True}))
    with pytest.raises(CheckpointError, match=r"'layers.0.self_attn.q_proj.bias' is missing and 7 more"):
        load(case)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_not_finite_in_every_storage(tmp_path: Path, dtype: torch.dtype, value: float) -> None:
    directory = make(tmp_path / "case", dtype=dtype)
    rewrite(directory, with_value(NORM, value))
    with pytest.raises(CheckpointError, match="not finite"):
        load(directory)


@pytest.mark.parametrize("value", [3.4e38, -3.4e38])
@pytest.mark.parametrize("name", ["embed_tokens.weight", K_PROJ, DOWN, NORM])
def test_finite_in_float32_but_not_in_bfloat16(case: Path, name: str, value: float) -> None:
    """Rounded to bfloat16 it would be infinite, so it is refused there, and only there."""
    assert torch.tensor(value).to(torch.bfloat16).isinf()
    rewrite(case, with_value(name, value))
    load(case)
    with pytest.raises(CheckpointError, match=r"values that are not finite, or not in torch\.bfloat16$") as caught:
        load(case, torch.bfloat16)
    assert str(caught.value).startswith(f"{case / 'model.safetensors'}: tensor '{name}' has ")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_largest_values_of_a_type_pass(case: Path, dtype: torch.dtype) -> None:
    largest = torch.finfo(dtype).max
    for name, value in (("embed_tokens.weight", largest), (DOWN, -largest)):
        rewrite(case, with_value(name, value))
    network, _ = load(case, dtype)
    assert network.embedding.isfinite().all()
    assert network.embedding[-1, -1] == largest


def test_weights_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """safetensors calls them missing."""
    directory = make(tmp_path / "case")
    opened = Path.open

    def refuse(self: Path, *arguments: Any, **more: Any) -> Any:
        if self.suffix == ".safetensors":
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return opened(self, *arguments, **more)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: .*Permission denied"):
        load(directory)


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole[:-1],
        lambda whole: whole[: len(whole) // 2],
        lambda whole: whole[:100],
        lambda whole: whole[:7],
        lambda whole: b"",
        lambda whole: whole + b"\x00",
        lambda whole: bytes(len(whole)),
        lambda whole: b"\xff" * 1000,
        lambda whole: b"\x80\x04}\x94." * 100,
        lambda whole: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        lambda whole: whole.replace(b'"F32"', b'"F33"', 1),
        lambda whole: whole.replace(b'"data_offsets":[0,', b'"data_offsets":[4,', 1),
    ],
    ids=["cut", "half", "header", "length", "empty", "longer", "zeros", "ones", "pickle", "lfs", "dtype", "offsets"],
)
def test_damaged_files_are_refused_in_one_line(plain: Path, case: Path, damage: Callable[[bytes], bytes]) -> None:
    whole = (plain / "model.safetensors").read_bytes()
    damaged = damage(whole)
    assert damaged != whole
    (case / "model.safetensors").write_bytes(damaged)
    with pytest.raises(CheckpointError, match="not a readable safetensors file") as caught:
        load(case)
    assert str(caught.value).startswith(f"{case / 'model.safetensors'}: ")
    assert len(str(caught.value).splitlines()) == 1


def with_header(header: dict[str, object], size: int) -> bytes:
    """A safetensors file of zeros with any header."""
    encoded = json.dumps(header).encode()
    return len(encoded).to_bytes(8, "little") + encoded + bytes(size)


@pytest.mark.parametrize(
    "content",
    [
        with_header({"two\nlines": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}, 12),
        with_header({NORM: {"dtype": "F\n32", "shape": [2], "data_offsets": [0, 8]}}, 8),
    ],
    ids=["tensor", "dtype"],
)
def test_damaged_files_with_names_of_two_lines(case: Path, content: bytes) -> None:
    (case / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="not a readable safetensors file") as caught:
        load(case)
    assert str(caught.value).startswith(f"{case / 'model.safetensors'}: ")
    assert len(str(caught.value).splitlines()) == 1


def test_directories_of_two_lines_are_refused_in_one_line(tmp_path: Path) -> None:
    directory = make(tmp_path / "two\nlines")
    rewrite(directory, lambda tensors: tensors.pop(NORM))
    with pytest.raises(CheckpointError, match=f"tensor '{NORM}' is missing") as caught:
        load(directory)
    assert len(str(caught.value).splitlines()) == 1


def test_damaged_shard_is_named(tmp_path: Path) -> None:
    directory = make(tmp_path / "case", shards=3)
    shard = directory / "model-00002-of-00003.safetensors"
    shard.write_bytes(shard.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match="not a readable safetensors file") as caught:
        load(directory)
    assert str(caught.value).startswith(f"{shard}: ")


@pytest.mark.parametrize("again", [NORM, f"model.{NORM}"])
def test_tensor_in_two_shards(tmp_path: Path, again: str) -> None:
    directory = make(tmp_path / "case", shards=3)
    shards = [directory / f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
    [first] = [shard for shard in shards if NORM in load_file(shard)]
    second = next(shard for shard in shards if shard != first)
    save_file({**load_file(second), again: torch.ones(64)}, second)
    with pytest.raises(CheckpointError, match=f"'(model.)?{NORM}' is there twice, also in model-0000") as caught:
        load(directory)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert {first.name, second.name} == {shard.name for shard in shards if shard.name in message}


def test_tensor_missing_from_all_shards(tmp_path: Path) -> None:
    directory = make(tmp_path / "case", shards=3)
    [shard] = [file for file in directory.glob("*.safetensors") if NORM in load_file(file)]
    save_file({name: tensor for name, tensor in load_file(shard).items() if name != NORM}, shard)
    with pytest.raises(CheckpointError, match=f"tensor '{NORM}' is missing"):
        load(directory)


@pytest.mark.parametrize("packs", [True, False], ids=["packed", "plain"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_network_keeps_no_view_of_the_file(
    tmp_path: Path, packs: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stored as it is served, so that nothing but a copy on purpose parts the two."""
    if not packs:
        monkeypatch.setattr(streambed.model.cpu.linear, "can_pack", lambda dtype: False)
    directory = make(tmp_path / "case", dtype=dtype, attention_bias=True)
    file = directory / "model.safetensors"
    network, _ = load(directory, dtype)
    before = hidden(network)
    with safe_open(file, framework="pt") as still_open:
        view = still_open.get_tensor(NORM)
        with file.open("r+b") as same_file:
            same_file.write(bytes(file.stat().st_size))
        if view.any():
            pytest.skip("safetensors does not map files on this platform")
    after = hidden(network)
    assert before.any()
    assert torch.equal(after, before)
