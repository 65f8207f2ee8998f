from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from streambed.model.checkpoint import find_checkpoint
from streambed.model.cpu.device import CPU as Processor
from streambed.model.qwen3 import Qwen3, rms_norm, rotary_table, rotate
from streambed.model.stock.attention import Span, attend, plan
from streambed.model.stock.device import Stock
from streambed.model.weights import load_network
from tests.checkpoints import BUILTIN, make_checkpoint

VOCABULARY, WINDOW = 500, 256
CPU = torch.device("cpu")

SHAPES: dict[str, dict[str, Any]] = {
    "grouped heads": {},
    "one KV head": {"num_key_value_heads": 1},
    "as many KV heads as heads": {"num_key_value_heads": 4},
    "six heads on three": {"num_attention_heads": 6, "num_key_value_heads": 3},
    "head_dim above hidden / heads": {"head_dim": 32},
    "head_dim below hidden / heads": {"head_dim": 6},
    "one head": {"num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 64},
    "untied": {
        "tie_word_embeddings": False,
        "architectures": ["Qwen3ForCausalLM"],
        "prefix": "model.",
        "lm_head": True,
    },
    "rope theta 1e4": {"rope_theta": 1e4},
    "nested rope": {"nested_rope": True, "rope_theta": 5e6},
    "attention bias": {"attention_bias": True},
    "large eps": {"rms_norm_eps": 1e-2},
    "small eps": {"rms_norm_eps": 1e-9},
    "four layers": {"num_hidden_layers": 4},
    "narrow": {"hidden_size": 24, "intermediate_size": 17},
    "stored in bfloat16": {"dtype": torch.bfloat16},
}


def make(directory: Path, **shape: Any) -> Path:
    small = {"vocab_size": VOCABULARY, "window": WINDOW, "pad_token_id": None, "eos_token_id": None}
    return make_checkpoint(directory, **(small | shape))


def load(directory: Path, dtype: torch.dtype = torch.float32) -> Qwen3:
    return load_network(find_checkpoint(str(directory)), dtype, CPU, Processor.operators)[0]


def random_ids(rows: int, seed: int = 0) -> list[int]:
    return torch.randint(VOCABULARY, (rows,), generator=torch.Generator().manual_seed(seed)).tolist()


def forward(
    network: Qwen3, ids: list[int], positions: list[int], spans: list[Span], wanted: list[int] | None = None
) -> Tensor:
    config, multiply = network.config, network.dtype == torch.bfloat16
    chosen = plan(spans, config.num_heads, config.num_kv_heads, network.dtype, CPU, fused=True, multiply=multiply)
    return network.forward(
        torch.tensor(ids),
        torch.tensor(positions),
        functools.partial(attend, chosen),
        torch.tensor(range(len(ids)) if wanted is None else wanted, dtype=torch.int64),
    )


def whole(network: Qwen3, ids: list[int]) -> Tensor:
    """Hidden states of one text at every position, in one step and without memory."""
    return forward(network, ids, list(range(len(ids))), [Span(0, len(ids), 0, None)])


def memory(network: Qwen3, slots: int) -> Tensor:
    """KV for one sequence; what was never written would show."""
    config = network.config
    shape = (config.num_layers, 2, config.num_kv_heads, slots, config.head_dim)
    return torch.full(shape, torch.nan, dtype=network.dtype)


def reference(directory: Path, ids: list[int]) -> Tensor:
    import transformers  # late: it takes seconds

    model = transformers.AutoModel.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager")
    assert isinstance(model, transformers.Qwen3Model)
    with torch.inference_mode():
        states: Tensor = model.eval()(input_ids=torch.tensor([ids])).last_hidden_state[0]
    return states


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("qwen3") / "tiny")


@pytest.fixture(scope="module")
def network(tiny: Path) -> Qwen3:
    return load(tiny)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_every_position_agrees_with_transformers(shape: dict[str, Any], tmp_path: Path) -> None:
    directory = make(tmp_path / "case", **shape)
    ids = random_ids(200)
    ours, theirs = whole(load(directory), ids), reference(directory, ids)
    assert ours.dtype == torch.float32
    assert ours.shape == theirs.shape
    assert cosine_similarity(ours.double(), theirs.double()).min() >= 0.9999999
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize("rows", [1, 2, WINDOW])
def test_short_and_longest_text_agree_with_transformers(network: Qwen3, tiny: Path, rows: int) -> None:
    ids = random_ids(rows, seed=rows)
    assert torch.allclose(whole(network, ids), reference(tiny, ids), rtol=0, atol=1e-4)


def test_builtin_agrees_with_transformers() -> None:
    ids = [random_id * 32 for random_id in random_ids(200)]
    ours, theirs = whole(load(BUILTIN), ids), reference(BUILTIN, ids)
    assert cosine_similarity(ours.double(), theirs.double()).min() >= 0.9999999


def test_bfloat16_is_close_to_float32(network: Qwen3, tiny: Path) -> None:
    ids = random_ids(200)
    ours = whole(load(tiny, torch.bfloat16), ids)
    assert ours.dtype == torch.float32
    assert cosine_similarity(ours, whole(network, ids)).min() > 0.999


def test_only_wanted_rows_are_returned_in_their_order(network: Qwen3) -> None:
    ids = random_ids(50)
    span = [Span(0, 50, 0, None)]
    some = forward(network, ids, list(range(50)), span, [49, 3, 3, 0])
    assert torch.allclose(some, whole(network, ids)[[49, 3, 3, 0]], atol=1e-5)
    assert forward(network, ids, list(range(50)), span, []).shape == (0, 64)


@pytest.mark.parametrize("cuts", [[1], [63], [1, 2, 3], [10, 40, 41, 90]], ids=str)
def test_text_in_pieces_is_the_text(network: Qwen3, cuts: list[int]) -> None:
    ids = random_ids(100)
    kv = memory(network, 100)
    pieces = [
        forward(network, ids[start:stop], list(range(start, stop)), [Span(0, stop - start, start, kv)])
        for start, stop in zip([0, *cuts], [*cuts, 100], strict=True)
    ]
    assert torch.allclose(torch.cat(pieces), whole(network, ids), atol=1e-4)
    assert kv.isfinite().all()


def test_texts_of_one_step_do_not_see_each_other(network: Qwen3) -> None:
    texts = [random_ids(rows, seed=rows) for rows in (1, 5, 40, 41, 150, 20)]
    ids: list[int] = []
    positions: list[int] = []
    spans = []
    for text in texts:
        spans.append(Span(len(ids), len(ids) + len(text), 0, None))
        ids += text
        positions += range(len(text))
    together = forward(network, ids, positions, spans)
    for span, text in zip(spans, texts, strict=True):
        assert torch.allclose(together[span.start : span.stop], whole(network, text), atol=1e-4)


def test_probes_give_what_each_prefix_would(network: Qwen3) -> None:
    """End tokens behind the text, each at the position where its prefix stops, see their prefix and themselves."""
    ids, end, stops = random_ids(60), 7, [1, 30, 59, 60]
    kv = memory(network, 60 + len(stops))
    forward(network, ids[:20], list(range(20)), [Span(0, 20, 0, kv)])
    rows = ids[20:] + [end] * len(stops)
    span = Span(0, len(rows), 20, kv, visible=(*range(20, 60), *stops))
    probed = forward(network, rows, [*range(20, 60), *stops], [span], list(range(40, len(rows))))
    for state, stop in zip(probed, stops, strict=True):
        assert torch.allclose(state, whole(network, [*ids[:stop], end])[-1], atol=1e-4)


def test_rms_norm_is_computed_in_float32() -> None:
    x = torch.randn(3, 5, 64, generator=torch.Generator().manual_seed(0)) * 100
    weight = torch.linspace(0.5, 2, 64)
    exact = x.double() / (x.double().square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight
    assert torch.allclose(rms_norm(x, weight, 1e-6).double(), exact, rtol=1e-5)
    half = rms_norm(x.bfloat16(), weight, 1e-6)
    assert half.dtype == torch.bfloat16
    assert torch.allclose(half.double(), exact, rtol=2e-2)
    assert rms_norm(x.bfloat16(), weight, 1e-6, torch.float32).dtype == torch.float32
    assert rms_norm(torch.zeros(1, 64), weight, 1e-6).eq(0).all()


def test_rotation_is_a_complex_product(network: Qwen3) -> None:
    table = rotary_table(network.config, WINDOW, CPU)
    assert table.shape == (WINDOW, 8)
    assert table.dtype == torch.complex64
    x = torch.randn(WINDOW, 4, 16, generator=torch.Generator().manual_seed(0))
    turned = rotate(x, table[:, None])
    angles = torch.outer(torch.arange(WINDOW).double(), 1e6 ** (-torch.arange(8).double() / 8))
    pairs = torch.complex(x.double()[..., ::2], x.double()[..., 1::2])
    product = pairs * torch.polar(torch.ones_like(angles), angles)[:, None]
    assert torch.allclose(turned.double(), torch.view_as_real(product).flatten(-2), atol=1e-4)
    assert torch.equal(turned[0], x[0])


def test_nothing_but_the_load_is_tied_to_the_cpu(tmp_path: Path) -> None:
    """One device of its own kind without memory: a tensor that stayed elsewhere, or a value that is looked at, fails."""
    meta = torch.device("meta")
    network = load_network(find_checkpoint(str(make(tmp_path))), torch.float32, meta, Stock.operators)[0]
    kv = torch.empty(
        network.config.num_layers, 2, network.config.num_kv_heads, 64, network.config.head_dim, device=meta
    )
    spans = [Span(0, 3, 0, None), Span(3, 8, 0, None), Span(8, 18, 7, kv), Span(18, 20, 17, kv, (4, 9))]
    config, rows = network.config, torch.arange(20, device=meta)
    for fused in (True, False):
        chosen = plan(spans, config.num_heads, config.num_kv_heads, network.dtype, meta, fused, not fused)
        vectors = network.forward(rows, rows, functools.partial(attend, chosen), rows[:5])
        assert vectors.shape == (5, config.hidden_size)
