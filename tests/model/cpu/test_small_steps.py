"""Small steps in C, against the network in PyTorch: the same rows, the same slots."""

from __future__ import annotations

import functools
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from streambed import machine
from streambed.model.checkpoint import find_checkpoint
from streambed.model.cpu.linear import can_pack, linear
from streambed.model.cpu.native.build import VARIANTS, find_compiler, flags_for, open_library
from streambed.model.cpu.native.library import Library
from streambed.model.cpu.small_steps import SmallSteps
from streambed.model.qwen3 import Operators, Qwen3, rms_norm
from streambed.model.stock.attention import Span, attend, plan
from streambed.model.stock.device import Rows
from streambed.model.weights import load_network
from tests.checkpoints import make_checkpoint

CPU = torch.device("cpu")
DTYPES = [dtype for dtype in (torch.float32, torch.bfloat16) if can_pack(dtype)]
LEAST_COSINE = {torch.float32: 0.999999, torch.bfloat16: 0.998}
"""bfloat16: PyTorch rounds between its operators, C does not."""


@functools.cache
def network(directory: Path, seed: int, dtype: torch.dtype) -> Qwen3:
    """Of random sizes, some of which are no multiple of anything."""
    dice = random.Random(seed)
    kv_heads = dice.choice([1, 2, 3])
    sizes = {
        "hidden_size": dice.choice([64, 72, 96]), "intermediate_size": dice.choice([96, 100, 160]),
        "num_hidden_layers": dice.choice([1, 2, 3]), "num_key_value_heads": kv_heads,
        "num_attention_heads": kv_heads * dice.choice([1, 2, 3]), "head_dim": dice.choice([16, 32, 48, 128]),
        "attention_bias": dice.random() < 0.3,
    }  # fmt: skip
    folder = make_checkpoint(directory / f"checkpoint-{seed}", seed=seed, window=4096, **sizes)
    return load_network(find_checkpoint(str(folder)), dtype, CPU, Operators(linear, rms_norm))[0]


def check(library: Library, directory: Path, seed: int, dtype: torch.dtype | None = None) -> None:
    """A step of a random mix of texts: new and continued, with memory and without, long ones and probes."""
    dice = random.Random(seed)
    dtype = dtype or dice.choice(DTYPES)
    net = network(directory, seed % 4, dtype)
    config, generator = net.config, torch.Generator().manual_seed(seed)
    small = SmallSteps(library, net, dice.choice([1, 2, 5]))
    ids: list[int] = []
    positions: list[int] = []
    wanted: list[int] = []
    spans: list[Span] = []
    for _ in range(dice.randint(1, 5)):
        rows = min(dice.choice([1, 1, 2, 3, 9]), library.most_rows - len(ids))
        if rows < 1:
            break
        past = dice.choice([0, 0, 1, 63, 64, 257, dice.randint(1, 1500)])
        probes = tuple(sorted(dice.randint(0, past) for _ in range(rows))) if past and dice.random() < 0.3 else None
        memory = None
        if past or dice.random() < 0.5:
            shape = (config.num_layers, 2, config.num_kv_heads, past + rows + dice.randint(0, 40), config.head_dim)
            memory = torch.randn(shape, generator=generator).to(dtype)
        spans.append(Span(len(ids), len(ids) + rows, past, memory, probes))
        positions += probes or range(past, past + rows)
        ids += [dice.randrange(config.vocab_size) for _ in range(rows)]
        wanted += range(spans[-1].start, spans[-1].stop) if probes else [len(ids) - 1] * dice.randint(0, 1)
    copies = [Span(s.start, s.stop, s.past, None if s.kv is None else s.kv.clone(), s.visible) for s in spans]

    found = small.forward(Rows(ids, positions, copies, wanted))

    heads = config.num_heads, config.num_kv_heads
    how = plan(spans, *heads, dtype, CPU, fused=True, multiply=dtype == torch.bfloat16)
    told = (torch.tensor(ids), torch.tensor(positions), functools.partial(attend, how), torch.tensor(wanted).long())
    expected = net.forward(*told).numpy()
    assert found.shape == expected.shape
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    assert ((found * expected).sum(1) / lengths >= LEAST_COSINE[dtype]).all()
    for one, other in zip(copies, spans, strict=True):
        if one.kv is not None and other.kv is not None:
            own = slice(one.past, one.past + one.stop - one.start)
            assert torch.allclose(one.kv[..., own, :].float(), other.kv[..., own, :].float(), rtol=0.05, atol=0.05)
            one.kv[..., own, :] = other.kv[..., own, :]
            assert torch.equal(one.kv, other.kv), "other slots stay as they were"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", range(12))
def test_any_mix(tmp_path_factory: pytest.TempPathFactory, dtype: torch.dtype, seed: int) -> None:
    check(open_library(), _folder(tmp_path_factory), seed, dtype)


@pytest.mark.parametrize("variant", VARIANTS)
def test_other_processors(tmp_path_factory: pytest.TempPathFactory, variant: str) -> None:
    if not VARIANTS[variant] <= set(machine.features()):
        pytest.skip(f"this processor is no {variant}")
    library = open_library(flags_for(variant, find_compiler()))
    for seed in range(30, 35):
        check(library, _folder(tmp_path_factory), seed)


def test_a_long_past(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Beyond 32 stretches, which then grow."""
    net = network(_folder(tmp_path_factory), 1, torch.float32)
    config = net.config
    kv = torch.randn(config.num_layers, 2, config.num_kv_heads, 20_000, config.head_dim)
    small = SmallSteps(open_library(), net, 2)
    spans = [Span(0, 2, 19_000, kv)]
    found = small.forward(Rows([1, 2], [300, 301], spans, [0, 1]))
    how = plan(spans, config.num_heads, config.num_kv_heads, torch.float32, CPU, fused=True, multiply=False)
    expected = net.forward(
        torch.tensor([1, 2]), torch.tensor([300, 301]), functools.partial(attend, how), torch.tensor([0, 1])
    )
    assert np.allclose(found, expected.numpy(), atol=1e-4)


def test_heads_of_a_size_that_c_does_not_know(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "c", head_dim=24)
    net = load_network(find_checkpoint(str(folder)), torch.float32, CPU, Operators(linear, rms_norm))[0]
    with pytest.raises(ValueError, match="heads of 24"):
        SmallSteps(open_library(), net, 1)


def _folder(factory: pytest.TempPathFactory) -> Path:
    folder = factory.getbasetemp() / "small-steps"
    folder.mkdir(exist_ok=True)
    return folder
