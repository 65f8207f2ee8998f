"""Steps in C, against the network in PyTorch: the same rows, the same slots. And against themselves, bit by bit."""

from __future__ import annotations

import functools
import itertools
import random
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from streambed import machine
from streambed.model.checkpoint import Qwen3Config, find_checkpoint
from streambed.model.cpu.blocks import Blocks
from streambed.model.cpu.native.build import VARIANTS, find_compiler, flags_for, open_library
from streambed.model.cpu.native.library import Library
from streambed.model.cpu.steps import NativeSteps, unfit
from streambed.model.qwen3 import Operators, Qwen3, rms_norm
from streambed.model.stock.attention import Span, attend, plan
from streambed.model.stock.device import Rows
from streambed.model.stock.linear import Linear
from streambed.model.stock.quantized import QuantizedLinear
from streambed.model.stock.quantized import quantize as quantize_rows
from streambed.model.stock.records import from_records, to_records
from streambed.model.weights import load_network
from tests.checkpoints import make_checkpoint

CPU = torch.device("cpu")


class Numbers(NamedTuple):
    """What is computed in, and how near C then is to PyTorch, which rounds between its operators where C does not. A value
    that is rounded to int8 the other way moves all that follow."""

    dtype: torch.dtype
    quantized: bool
    least_cosine: float
    tolerance: float
    """Of keys and values."""
    records: bool = False
    """Whether keys and values are kept in int8."""

    def slots(self, x: torch.Tensor) -> torch.Tensor:
        """Memory that holds them."""
        return to_records(x.float()) if self.records else x.to(self.dtype)

    def values(self, slots: torch.Tensor, dim: int) -> torch.Tensor:
        """What it says."""
        return from_records(slots, dim, torch.float32) if self.records else slots.float()


NUMBERS = {
    "float32": Numbers(torch.float32, False, 0.999999, 1e-4),
    "bfloat16": Numbers(torch.bfloat16, False, 0.998, 0.08),
    "float32 and int8": Numbers(torch.float32, True, 0.999, 0.2),
    "bfloat16 and int8": Numbers(torch.bfloat16, True, 0.998, 0.2),
    "float32, KV in int8": Numbers(torch.float32, False, 0.999, 0.1, True),
    "bfloat16 and int8, KV in int8": Numbers(torch.bfloat16, True, 0.998, 0.2, True),
}


@functools.cache
def networks(directory: Path, seed: int, numbers: Numbers) -> tuple[Qwen3, Qwen3]:
    """For PyTorch and for C. Of random sizes, some of which are no multiple of anything."""
    dice = random.Random(seed)
    kv_heads = dice.choice([1, 2, 3])
    sizes = {
        "hidden_size": dice.choice([64, 72, 96]), "intermediate_size": dice.choice([96, 100, 160]),
        "num_hidden_layers": dice.choice([1, 2, 3]), "num_key_value_heads": kv_heads,
        "num_attention_heads": kv_heads * dice.choice([1, 2, 3]), "head_dim": dice.choice([16, 32, 48, 128]),
        "attention_bias": dice.random() < 0.3,
    }  # fmt: skip
    folder = directory / f"checkpoint-{seed}"
    if not folder.exists():
        make_checkpoint(folder, seed=seed, window=4096, **sizes)

    def load(pack: bool) -> Qwen3:
        choices = random.Random(seed)

        def linear(weight: torch.Tensor, bias: torch.Tensor | None = None) -> Linear:
            """One in four stays as it is, as a matrix that would suffer does."""
            quantize = numbers.quantized and choices.random() < 0.75
            plain = QuantizedLinear(*quantize_rows(weight), bias) if quantize else Linear(weight.clone(), bias)
            return Blocks(plain) if pack else plain

        return load_network(find_checkpoint(str(folder)), numbers.dtype, CPU, Operators(linear, rms_norm))[0]

    return load(pack=False), load(pack=True)


def check(library: Library, directory: Path, seed: int, numbers: Numbers | None = None) -> None:
    """A step of a random mix of texts: new and continued, with memory, without and with another's, long ones and probes."""
    dice = random.Random(seed)
    numbers = numbers or dice.choice(list(NUMBERS.values()))
    plain, packed = networks(directory, seed % 4, numbers)
    config, generator = plain.config, torch.Generator().manual_seed(seed)
    steps = NativeSteps(library, packed, dice.choice([1, 2, 5]), numbers.records)
    ids: list[int] = []
    positions: list[int] = []
    wanted: list[int] = []
    spans: list[Span] = []
    for _ in range(dice.randint(1, 5)):
        rows = dice.choice([1, 1, 2, 3, 9, 40, 150, dice.randint(1, 300)])
        past = dice.choice([0, 0, 1, 63, 64, 257, dice.randint(1, 1500)])
        probes = tuple(sorted(dice.randint(0, past) for _ in range(rows))) if past and dice.random() < 0.3 else None
        memory = None
        if past or dice.random() < 0.5:
            shape = (config.num_layers, 2, config.num_kv_heads, past + rows + dice.randint(0, 40), config.head_dim)
            memory = numbers.slots(torch.randn(shape, generator=generator))
        borrows = past > 0 and probes is None and dice.random() < 0.4
        spans.append(Span(len(ids), len(ids) + rows, past, memory, probes, borrows))
        positions += probes or range(past, past + rows)
        ids += [dice.randrange(config.vocab_size) for _ in range(rows)]
        wanted += range(spans[-1].start, spans[-1].stop) if probes else [len(ids) - 1] * dice.randint(0, 1)
    copies = [replace(span, kv=None if span.kv is None else span.kv.clone()) for span in spans]
    before = [replace(span, kv=None if span.kv is None else span.kv.clone()) for span in spans]

    found = steps.forward(Rows(ids, positions, copies, wanted))

    expected = run_plain(plain, Rows(ids, positions, spans, wanted), numbers.records)
    assert found.shape == expected.shape
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    assert ((found * expected).sum(1) / lengths >= numbers.least_cosine).all()
    for one, other, old in zip(copies, spans, before, strict=True):
        if one.borrows and one.kv is not None and other.kv is not None and old.kv is not None:
            assert torch.equal(one.kv, old.kv), "what is borrowed stays as it was"
            assert torch.equal(other.kv, old.kv)
        elif one.kv is not None and other.kv is not None:
            own = slice(one.past, one.past + one.stop - one.start)
            ours, theirs = (numbers.values(each.kv[..., own, :], config.head_dim) for each in (one, other))
            assert torch.allclose(ours, theirs, rtol=0.05, atol=numbers.tolerance)
            one.kv[..., own, :] = other.kv[..., own, :]
            assert torch.equal(one.kv, other.kv), "other slots stay as they were"


def run_plain(network: Qwen3, rows: Rows, quantized: bool = False) -> np.ndarray:
    heads = network.config.num_heads, network.config.num_kv_heads
    how = plan(rows.spans, *heads, network.dtype, CPU, True, network.dtype == torch.bfloat16, quantized)
    told = torch.tensor(rows.ids), torch.tensor(rows.positions), functools.partial(attend, how)
    return network.forward(*told, torch.tensor(rows.wanted).long()).numpy()


@pytest.mark.parametrize("numbers", NUMBERS)
@pytest.mark.parametrize("seed", range(8))
def test_any_mix(tmp_path_factory: pytest.TempPathFactory, numbers: str, seed: int) -> None:
    check(open_library(), _folder(tmp_path_factory), seed, NUMBERS[numbers])


@pytest.mark.parametrize("variant", VARIANTS)
def test_other_processors(tmp_path_factory: pytest.TempPathFactory, variant: str) -> None:
    if not VARIANTS[variant] <= set(machine.features()):
        pytest.skip(f"this processor is no {variant}")
    library = open_library(flags_for(variant, find_compiler()))
    for seed in range(30, 35):
        check(library, _folder(tmp_path_factory), seed)


@pytest.mark.parametrize("variant", ["native", *VARIANTS])
@pytest.mark.parametrize("numbers", NUMBERS)
def test_a_row_has_the_same_bits_in_every_step(
    tmp_path_factory: pytest.TempPathFactory, variant: str, numbers: str
) -> None:
    """However a text is divided among steps, and whatever runs beside it; as a probe within a longer text, too."""
    if variant != "native" and not VARIANTS[variant] <= set(machine.features()):
        pytest.skip(f"this processor is no {variant}")
    library = open_library() if variant == "native" else open_library(flags_for(variant, find_compiler()))
    folder = _folder(tmp_path_factory)

    @settings(max_examples=12)
    @given(seed=st.integers(0, 1000), length=st.integers(2, 700))
    def check_bits(seed: int, length: int) -> None:
        dice = random.Random(seed)
        network = networks(folder, seed % 4, NUMBERS[numbers])[1]
        steps = NativeSteps(library, network, 1 + seed % 3, NUMBERS[numbers].records)
        config = network.config
        text = [dice.randrange(config.vocab_size) for _ in range(length)]
        alone = steps.forward(Rows(text, range(length), [Span(0, length, 0, None)], range(length)))
        base = min(dice.choice([1, 4, 20, 128, 300, 512]), length - 1)
        shape = config.num_layers, 2, config.num_kv_heads, length + 8, config.head_dim
        memory = NUMBERS[numbers].slots(torch.full(shape, torch.nan))
        at = 0
        while at < length:
            rows = min(dice.choice([1, 2, 3, 9, 33, 200]), length - at)
            beside = dice.choice([0, 1, 5, 60])
            spans = [Span(beside, beside + rows, at, memory)]
            if beside:
                spans.insert(0, Span(0, beside, 0, None))
            step = Rows(
                [1] * beside + text[at : at + rows], [*range(beside), *range(at, at + rows)], spans,
                range(beside, beside + rows),
            )  # fmt: skip
            assert np.array_equal(steps.forward(step), alone[at : at + rows])
            at += rows
        # Another text that begins with this one's first tokens, and has no memory; in one step with them, too.
        again = NUMBERS[numbers].slots(torch.full(shape, torch.nan))
        for spans in (
            [Span(0, length - base, base, memory, borrows=True)],
            [Span(0, base, 0, again), Span(base, length, base, again, borrows=True)],
        ):
            first = spans[0].past
            step = Rows(text[first:], range(first, length), spans, range(base - first, length - first))
            assert np.array_equal(steps.forward(step), alone[base:])
        # Probes: the same tokens at places that have been passed, in slots behind the text.
        places = tuple(sorted(dice.randrange(length) for _ in range(dice.randint(1, 8))))
        ids = [text[place] for place in places]
        found = steps.forward(Rows(ids, places, [Span(0, len(places), length, memory, places)], range(len(places))))
        assert np.array_equal(found, alone[list(places)])

    check_bits()


def test_what_is_no_number_stays_none(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A damaged key or value is not rounded to a number; who asks for the vector is told."""
    for numbers, kind in itertools.product(NUMBERS.values(), (0, 1)):
        network = networks(_folder(tmp_path_factory), 1, numbers)[1]
        config = network.config
        values = torch.zeros((config.num_layers, 2, config.num_kv_heads, 70, config.head_dim))
        values[0, kind, :, 3] = torch.nan
        memory = numbers.slots(values)
        found = NativeSteps(open_library(), network, 1, numbers.records).forward(
            Rows([1], [64], [Span(0, 1, 64, memory)], [0])
        )
        assert not np.isfinite(found).any()


@pytest.mark.parametrize("numbers", NUMBERS)
def test_a_long_past(tmp_path_factory: pytest.TempPathFactory, numbers: str) -> None:
    """Many stretches: those of few rows are pieces of their own."""
    plain, packed = networks(_folder(tmp_path_factory), 1, NUMBERS[numbers])
    config = plain.config
    kept = NUMBERS[numbers].records
    kv = NUMBERS[numbers].slots(torch.randn(config.num_layers, 2, config.num_kv_heads, 20_000, config.head_dim))
    rows = Rows([1, 2], [300, 301], [Span(0, 2, 19_000, kv)], [0, 1])
    found, expected = NativeSteps(open_library(), packed, 2, kept).forward(rows), run_plain(plain, rows, kept)
    assert ((found * expected).sum(1) >= 0.999 * np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)).all()


def test_networks_that_c_does_not_know(tmp_path: Path) -> None:
    def config(**sizes: int) -> Qwen3Config:
        return find_checkpoint(str(make_checkpoint(tmp_path / str(sizes), **sizes))).config

    assert unfit(config(head_dim=24)) == "heads of 24"
    assert unfit(config(head_dim=16)) == ""


def _folder(factory: pytest.TempPathFactory) -> Path:
    folder = factory.getbasetemp() / "steps"
    folder.mkdir(exist_ok=True)
    return folder
