from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from streambed.model.stock import attention
from streambed.model.stock.attention import Plan, Span, attend
from streambed.model.stock.records import from_records, to_records

CPU = torch.device("cpu")


def plan(spans: list[Span], heads: int, kv_heads: int, dtype: torch.dtype, quantized: bool = False) -> Plan:
    """As a CPU asks for it."""
    multiply = dtype == torch.bfloat16
    return attention.plan(spans, heads, kv_heads, dtype, CPU, fused=True, multiply=multiply, quantized=quantized)


LAYERS, LAYER, DIM = 3, 1, 8
# bfloat16: keys, queries and scores are exact inputs or of order 1; weights and sums are rounded to 2^-8.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.03}


@dataclass(frozen=True)
class Sequence:
    """What a span is made from: text rows after `past` slots, then probes, each at its place in the text."""

    rows: int
    past: int = 0
    probes: tuple[int, ...] = ()
    memory: bool = True
    spare: int = 0
    """Slots behind those that are written."""
    borrows: bool = False
    """Whether the memory is another's."""

    @property
    def visible(self) -> tuple[int, ...] | None:
        return (*range(self.past, self.past + self.rows), *self.probes) if self.probes else None


def gaussian(generator: torch.Generator, dtype: torch.dtype, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator).to(dtype)


def naive(span: Span, before: Tensor | None, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax in float64 over the slots that each row sees. Returns [rows, heads, dim]."""
    group = q.shape[1] // k.shape[1]
    keys, values = (
        torch.cat([old, new[span.start : span.stop].transpose(0, 1)], 1).double().repeat_interleave(group, 0)
        for old, new in zip(
            before[LAYER, :, :, : span.past] if before is not None else q.new_empty(2, k.shape[1], 0, DIM),
            (k, v),
            strict=True,
        )
    )
    slots, own = torch.arange(keys.shape[1]), torch.arange(span.past, span.past + span.rows)
    visible = own if span.visible is None else torch.tensor(span.visible)
    seen = (slots < visible[:, None]) | (slots == own[:, None])
    scores = torch.einsum("rhd,hsd->hrs", q[span.start : span.stop].double(), keys)
    weights = torch.where(seen, scores.exp(), 0.0)
    return torch.einsum("hrs,hsd->rhd", weights / weights.sum(-1, keepdim=True), values)


def check(
    sequences: list[Sequence], heads: int, kv_heads: int, dtype: torch.dtype, seed: int = 0, backwards: bool = False,
    quantized: bool = False,
) -> Plan:  # fmt: skip
    """Attends to all sequences in one step, compares with `naive`, and looks at every slot of the memory."""
    generator = torch.Generator().manual_seed(seed)
    spans: list[Span] = []
    first = 0
    for sequence in sequences:
        rows = sequence.rows + len(sequence.probes)
        slots = sequence.past + rows + sequence.spare
        kv = gaussian(generator, dtype, LAYERS, 2, kv_heads, slots, DIM) if sequence.memory else None
        if kv is not None and quantized:
            kv = to_records(kv)
        spans.append(Span(first, first + rows, sequence.past, kv, sequence.visible, sequence.borrows))
        first += rows
    q = (torch.randn(first, heads, DIM, generator=generator) * DIM**-0.5).to(dtype)
    k = gaussian(generator, dtype, first, kv_heads, DIM)
    v = gaussian(generator, dtype, first, kv_heads, DIM)
    before = [None if span.kv is None else span.kv.clone() for span in spans]

    chosen = plan(spans[::-1] if backwards else spans, heads, kv_heads, dtype, quantized)
    out = attend(chosen, LAYER, q, k, v)

    assert out.dtype == dtype
    assert out.shape == (first, heads * DIM)
    written = k, v
    if quantized:
        written = to_records(k), to_records(v)
        k, v = (from_records(records, DIM, dtype) for records in written)
    for span, kv in zip(spans, before, strict=True):
        values = kv if kv is None or not quantized else from_records(kv, DIM, dtype)
        expected = naive(span, values, q, k, v).flatten(1)
        error = (out[span.start : span.stop].double() - expected).abs().max()
        assert error <= TOLERANCE[dtype], f"{span.rows} rows after {span.past}: off by {error}"
        if kv is not None:
            own = slice(span.past, span.past + span.rows)
            for kind, rows in enumerate(written):
                if not span.borrows:
                    kv[LAYER, kind, :, own] = rows[span.start : span.stop].transpose(0, 1)
            assert span.kv is not None
            assert torch.equal(span.kv, kv), "other slots and layers stay as they were"
    return chosen


@st.composite
def sequences(draw: st.DrawFn, most_rows: int, most_past: int) -> Sequence:
    kind = draw(st.sampled_from(["new", "continued", "one row", "probed"]))
    past = 0 if kind == "new" else draw(st.integers(0, most_past))
    rows = 1 if kind == "one row" else draw(st.integers(0 if kind == "probed" else 1, most_rows))
    probes = draw(st.lists(st.integers(0, past + rows), min_size=1, max_size=6)) if kind == "probed" else []
    memory = past > 0 or draw(st.booleans())
    borrows = past > 0 and not probes and draw(st.booleans())
    return Sequence(rows, past, tuple(probes), memory, draw(st.integers(0, 3)) if memory else 0, borrows)


def mixes(most: int, most_rows: int, most_past: int) -> st.SearchStrategy[list[Sequence]]:
    return st.lists(sequences(most_rows, most_past), min_size=1, max_size=most)


HEADS = [(4, 2), (4, 1), (4, 4), (6, 3), (1, 1)]


@given(
    st.one_of(mixes(8, 50, 50), mixes(4, 300, 200)),
    st.sampled_from(HEADS),
    st.sampled_from(list(TOLERANCE)),
    st.integers(0, 9),
    st.booleans(),
    st.booleans(),
)
@settings(max_examples=200)
def test_any_mix_of_sequences(
    mix: list[Sequence], heads: tuple[int, int], dtype: torch.dtype, seed: int, backwards: bool, quantized: bool
) -> None:
    check(mix, *heads, dtype, seed, backwards, quantized)


PATHS: dict[str, tuple[list[Sequence], dict[torch.dtype, tuple[int, int, int]]]] = {
    # sequences, then how many are packed, alone, and blocked, for each type
    "one short text": ([Sequence(40)], {torch.float32: (0, 1, 0), torch.bfloat16: (0, 1, 0)}),
    "short texts": ([Sequence(rows) for rows in (40, 40, 33, 1, 17)], {torch.float32: (5, 0, 0)}),
    "short texts nobody continues": (
        [Sequence(rows, memory=False) for rows in (128, 64, 65, 63, 1, 2)],
        {torch.float32: (6, 0, 0), torch.bfloat16: (6, 0, 0)},
    ),
    "a long text": ([Sequence(129)], {torch.float32: (0, 1, 0), torch.bfloat16: (0, 0, 1)}),
    "long texts": (
        [Sequence(300), Sequence(129, memory=False)],
        {torch.float32: (0, 2, 0), torch.bfloat16: (0, 0, 2)},
    ),
    "one block": ([Sequence(64)], {torch.float32: (0, 1, 0), torch.bfloat16: (0, 0, 1)}),
    "one row less than blocks begin at": ([Sequence(63, 20)], {torch.float32: (0, 1, 0), torch.bfloat16: (0, 1, 0)}),
    "blocks after a past": (
        [Sequence(64, 1), Sequence(128, 77, spare=2), Sequence(257, 40)],
        {torch.float32: (0, 3, 0), torch.bfloat16: (0, 0, 3)},
    ),
    "a keystroke": ([Sequence(1, 200)], {torch.float32: (0, 1, 0), torch.bfloat16: (0, 1, 0)}),
    "a first row": ([Sequence(1)], {torch.float32: (0, 1, 0), torch.bfloat16: (0, 1, 0)}),
    "folded": (
        [Sequence(2, 100), Sequence(31, 5), Sequence(1, 1)],
        {torch.float32: (0, 3, 0), torch.bfloat16: (0, 3, 0)},
    ),
    "not folded": ([Sequence(32, 100), Sequence(33, 1)], {torch.float32: (0, 2, 0), torch.bfloat16: (0, 2, 0)}),
    "probes": (
        [Sequence(10, 30, (40, 5, 0, 31, 31)), Sequence(0, 30, (30,)), Sequence(100, 30, (1, 130))],
        {torch.float32: (0, 3, 0), torch.bfloat16: (0, 3, 0)},
    ),
    "probes without memory": (
        [Sequence(20, 0, (3, 20), memory=False), Sequence(150, 0, (9,), memory=False)],
        {torch.float32: (0, 2, 0), torch.bfloat16: (0, 2, 0)},
    ),
    "a step of everything": (
        [
            Sequence(20, memory=False),
            Sequence(1, 90),
            Sequence(90, 90),
            Sequence(5, 12, (13, 17)),
            Sequence(35, spare=4),
            Sequence(140),
        ],
        {torch.float32: (2, 4, 0), torch.bfloat16: (2, 2, 2)},
    ),
}


@pytest.mark.parametrize("heads", HEADS, ids=str)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("path", PATHS)
def test_every_kernel(path: str, dtype: torch.dtype, heads: tuple[int, int]) -> None:
    mix, expected = PATHS[path]
    chosen = check(mix, *heads, dtype)
    packed = len(mix) - len(chosen.single) - len(chosen.blocked)
    assert bool(packed) == bool(chosen.packed)
    if dtype in expected:
        assert (packed, len(chosen.single), len(chosen.blocked)) == expected[dtype]
    folds = [(span.rows, fold) for span, _, fold in chosen.single if span.past]
    assert folds == [(rows, heads[0] != heads[1] and rows < 32) for rows, _ in folds]


@pytest.mark.parametrize("heads", HEADS, ids=str)
@pytest.mark.parametrize("path", ["short texts", "a long text", "a keystroke", "probes", "a step of everything"])
def test_devices_whose_kernels_we_have_not_run(
    path: str, heads: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plain products, and the fused kernel only with as many heads of keys as of queries: shown on the CPU."""

    def fused(q: Tensor, k: Tensor, v: Tensor, **more: Any) -> Tensor:
        assert q.shape[1] == k.shape[1]
        return scaled_dot_product_attention(q, k, v, **more)

    choose = attention.plan

    def plainly(*values: Any, **_: bool) -> Plan:
        return choose(*values, fused=False, multiply=True)

    monkeypatch.setattr(attention, "plan", plainly)
    monkeypatch.setattr(attention, "scaled_dot_product_attention", fused)
    check(PATHS[path][0], *heads, torch.float32)


def test_packs_are_at_most_half_padding() -> None:
    mix = [Sequence(rows, memory=False) for rows in (1, 2, 3, 4, 7, 8, 16, 40, 90, 128)]
    chosen = check(mix, 4, 2, torch.float32)
    assert sum(pack.texts for pack in chosen.packed) == len(mix)
    for pack in chosen.packed:
        assert len(pack.rows) * 2 >= len(pack.gather)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_one_plan_serves_all_layers(dtype: torch.dtype) -> None:
    """The same step at each layer of one memory gives what each layer alone would."""
    generator = torch.Generator().manual_seed(0)
    kv = torch.zeros(LAYERS, 2, 2, 100, DIM, dtype=dtype)
    spans = [Span(0, 90, 0, kv), Span(90, 95, 0, None)]
    chosen = plan(spans, 4, 2, dtype)
    q = gaussian(generator, dtype, LAYERS, 95, 4, DIM)
    k, v = (gaussian(generator, dtype, LAYERS, 95, 2, DIM) for _ in "kv")
    outs = [attend(chosen, layer, q[layer], k[layer], v[layer]) for layer in range(LAYERS)]
    for layer, out in enumerate(outs):
        alone = attend(plan(spans, 4, 2, dtype), layer, q[layer], k[layer], v[layer])
        assert torch.equal(out, alone)
        assert torch.equal(kv[layer, 0, :, :90], k[layer, :90].transpose(0, 1))
        assert torch.equal(kv[layer, 1, :, :90], v[layer, :90].transpose(0, 1))
        assert not kv[layer, :, :, 90:].any()


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("rows", [1, 20, 40, 100])
def test_slots_that_a_row_must_not_see_may_hold_anything(rows: int, dtype: torch.dtype) -> None:
    """Memory behind the written slots is never read: not even NaN gets out of it."""
    generator = torch.Generator().manual_seed(0)
    kv = gaussian(generator, dtype, LAYERS, 2, 2, 300, DIM)
    kv[:, :, :, 50:] = torch.nan
    q, k, v = (gaussian(generator, dtype, rows, heads, DIM) for heads in (4, 2, 2))
    assert attend(plan([Span(0, rows, 50, kv)], 4, 2, dtype), LAYER, q, k, v).isfinite().all()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf], ids=str)
@pytest.mark.parametrize("which", ["q", "k", "v"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("heads", HEADS, ids=str)
def test_packed_texts_do_not_reach_each_other(
    heads: tuple[int, int], dtype: torch.dtype, which: str, bad: float
) -> None:
    """Padding is a text's own: what is not a number in one text stays there, wherever it stands in the step."""
    generator = torch.Generator().manual_seed(0)
    sizes = (5, 3, 8, 1, 7, 30)  # three packs, two of them with padding
    ends = torch.tensor(sizes).cumsum(0).tolist()
    spans = [Span(end - rows, end, 0, None) for rows, end in zip(sizes, ends, strict=True)]
    inputs = {
        name: gaussian(generator, dtype, ends[-1], count, DIM)
        for name, count in zip("qkv", (heads[0], heads[1], heads[1]), strict=True)
    }
    chosen = plan(spans, *heads, dtype)
    assert sum(pack.texts for pack in chosen.packed) == len(spans)
    assert any(len(pack.gather) > len(pack.rows) for pack in chosen.packed)
    before = attend(chosen, LAYER, **inputs)
    assert before.isfinite().all()
    for span in spans:
        spoilt = {name: tensor.clone() for name, tensor in inputs.items()}
        spoilt[which][span.start : span.stop] = bad
        after = attend(chosen, LAYER, **spoilt)
        # Not so for q and k: PyTorch's fused kernel answers scores that are not a number with zeros.
        assert which != "v" or not after[span.start : span.stop].isfinite().any()
        others = torch.ones(ends[-1], dtype=torch.bool)
        others[span.start : span.stop] = False
        assert torch.equal(after[others], before[others])


def test_sequences_may_share_a_step_with_their_own_memory_in_one_slab() -> None:
    """Two sequences in neighbouring slots of one allocation do not touch each other's."""
    generator = torch.Generator().manual_seed(0)
    slab = gaussian(generator, torch.float32, LAYERS, 2, 2, 40, DIM)
    before = slab.clone()
    q, k, v = (gaussian(generator, torch.float32, 10, heads, DIM) for heads in (4, 2, 2))
    left, right = Span(0, 4, 8, slab[:, :, :, :20]), Span(4, 10, 3, slab[:, :, :, 20:])
    out = attend(plan([left, right], 4, 2, torch.float32), LAYER, q, k, v)
    for span, memory in ((left, before[:, :, :, :20]), (right, before[:, :, :, 20:])):
        expected = naive(span, memory, q, k, v).flatten(1)
        assert torch.allclose(out[span.start : span.stop].double(), expected, atol=2e-5)
    changed = (slab != before).any(-1).any(1).any(1)
    assert changed[LAYER].nonzero().flatten().tolist() == [*range(8, 12), *range(23, 29)]
    assert not changed[[0, 2]].any()
