"""Attention of a flat batch: rows of many sequences, each over its own keys and values.

By PyTorch's own kernels, chosen by shape and by what the device says of itself. A `Plan` is made once per step and
serves every layer.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from streambed.model.stock.records import from_records, to_records

_PACK_ROWS = 128
"""Texts without a past up to this many rows share one padded call; beyond it, padding costs more than a call."""
_FOLD_ROWS = 32
"""Below this, the query heads of a group are folded into rows, so that keys and values are read once per group."""
_BLOCK_ROWS = 128
"""Rows per block where attention goes through the matrix units; scores of a block stay in the cache."""


@dataclass(frozen=True, eq=False)
class Span:
    """Rows `[start, stop)` of the flat batch, all of one sequence, in the order of their slots.

    Slot `i` of `kv` holds row `i` of the sequence. Slots below `past` are already written, or by another span of this batch;
    the rows of this span take the slots from `past` on, unless they borrow what is below. `visible` is None where every row
    sees all slots up to its own (causal); otherwise one entry per row: the row sees slots `[0, visible)` and its own.
    """

    start: int
    stop: int
    past: int
    kv: Tensor | None
    """As in `Slab`, or None for rows that nobody will continue and that have no past."""
    visible: tuple[int, ...] | None = None
    borrows: bool = False
    """Whether `kv` is another sequence's, with the same beginning: it is read, and these rows are written nowhere."""

    @property
    def rows(self) -> int:
        return self.stop - self.start


@dataclass
class Plan:
    """How the spans of one step are attended to. Made by `plan`, the same for all layers."""

    multiply: bool
    """Whether plain products beat the fused kernel where rows are many."""
    quantized: bool = False
    """Whether keys and values are kept as records of int8."""
    written: list[Span] = field(default_factory=list)
    packed: list["_Packed"] = field(default_factory=list)
    single: list[tuple[Span, Tensor | None, bool]] = field(default_factory=list)
    """Span, its additive mask (None: causal among its own rows, no past), and whether groups are folded."""
    blocked: list[Span] = field(default_factory=list)

    @property
    def padding(self) -> int:
        """Padding rows."""
        return sum(len(pack.gather) - len(pack.rows) for pack in self.packed)


@dataclass(frozen=True)
class _Packed:
    """Short texts without a past, padded on the right: causal order hides the padding from every real row."""

    gather: Tensor  # [texts * longest] rows of the flat batch; padding repeats a text's own first row, never another's
    rows: Tensor  # [real rows] rows of the flat batch
    places: Tensor  # [real rows] where each of them stands in the padded batch
    texts: int


def plan(
    spans: Sequence[Span], heads: int, kv_heads: int, dtype: torch.dtype, device: torch.device, fused: bool,
    multiply: bool, quantized: bool = False,
) -> Plan:  # fmt: skip
    """Chooses a kernel for each span. Additive masks are built here, once per step, in `dtype`.

    fused: whether the fused kernels may be used. multiply, quantized: as in `Plan`.
    """
    least = _BLOCK_ROWS // 2 if fused else 1
    result = Plan(multiply, quantized, [span for span in spans if span.kv is not None and not span.borrows])
    short = [span for span in spans if not span.past and span.visible is None and span.rows <= _PACK_ROWS]
    if len(short) > 1:
        result.packed = _pack(short, device)
        spans = [span for span in spans if span.past or span.visible is not None or span.rows > _PACK_ROWS]
    for span in spans:
        if span.visible is None and multiply and span.rows >= least:
            result.blocked.append(span)
        elif span.visible is None and (not span.past or span.rows == 1):
            result.single.append((span, None, span.rows == 1 and heads != kv_heads))
        else:
            fold = heads != kv_heads and (not fused or span.rows < _FOLD_ROWS)
            mask = _mask(span, dtype, device)
            result.single.append((span, mask.repeat(heads // kv_heads, 1) if fold else mask, fold))
    return result


def _pack(spans: list[Span], device: torch.device) -> list[_Packed]:
    packs = []
    ordered = sorted(spans, key=lambda span: span.rows)
    while ordered:
        longest = ordered[-1].rows
        group = [span for span in ordered if 2 * span.rows >= longest]  # at most half of a pack is padding
        ordered = ordered[: len(ordered) - len(group)]
        gather = torch.tensor([span.start for span in group])[:, None].repeat(1, longest)
        rows, places = [], []
        for i, span in enumerate(group):
            gather[i, : span.rows] = torch.arange(span.start, span.stop)
            rows.append(torch.arange(span.start, span.stop))
            places.append(torch.arange(i * longest, i * longest + span.rows))
        packs.append(
            _Packed(
                gather.flatten().to(device), torch.cat(rows).to(device), torch.cat(places).to(device), texts=len(group)
            )
        )
    return packs


def _mask(span: Span, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Additive mask [rows, past + rows]: 0 where a row sees a slot, minus infinity elsewhere."""
    slots = torch.arange(span.past + span.rows, device=device)
    own = slots[span.past :, None]
    if span.visible is None:
        seen = slots <= own
    else:
        seen = (slots < torch.tensor(span.visible, device=device)[:, None]) | (slots == own)
    return torch.zeros(seen.shape, dtype=dtype, device=device).masked_fill_(~seen, float("-inf"))


def attend(plan: Plan, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Writes the rows' keys and values to their slots, then attends.

    q: [rows, heads, head_dim], already scaled by head_dim ** -0.5; k, v: [rows, kv_heads, head_dim].
    Returns [rows, heads * head_dim].
    Keys and values of all spans are written before any is read.
    """
    kept = k, v
    if plan.quantized:
        kept = to_records(k), to_records(v)
        k, v = (from_records(records, x.shape[-1], x.dtype) for records, x in zip(kept, (k, v), strict=True))
    for span in plan.written:
        assert span.kv is not None
        for kind, rows in enumerate(kept):
            span.kv[layer, kind, :, span.past : span.past + span.rows] = rows[span.start : span.stop].transpose(0, 1)
    out = torch.empty_like(q)
    for pack in plan.packed:
        _attend_packed(pack, q, k, v, out, plan.multiply)
    for span, mask, fold in plan.single:
        keys, values = _keys_values(span, layer, k, v)
        if fold:
            _attend_folded(span, q, keys, values, mask, out)
        else:
            attended = scaled_dot_product_attention(
                q[span.start : span.stop].transpose(0, 1)[None],
                keys[None],
                values[None],
                attn_mask=mask,
                is_causal=mask is None and span.rows > 1,
                scale=1.0,
                enable_gqa=True,
            )
            out[span.start : span.stop] = attended[0].transpose(0, 1)
    for span in plan.blocked:
        keys, values = _keys_values(span, layer, k, v)
        _attend_blocked(span, q, keys, values, out)
    return out.flatten(1)


def _keys_values(span: Span, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """All keys and values that the span may see: [kv_heads, past + rows, head_dim] each."""
    if not span.past:
        return k[span.start : span.stop].transpose(0, 1), v[span.start : span.stop].transpose(0, 1)
    assert span.kv is not None, "a span with a past has memory"
    slots = span.past if span.borrows else span.past + span.rows
    kept = span.kv[layer, :, :, :slots]
    if kept.dtype == torch.int8:
        kept = from_records(kept, k.shape[-1], k.dtype)
    if span.borrows:
        own = torch.stack([x[span.start : span.stop].transpose(0, 1) for x in (k, v)])
        kept = torch.cat((kept, own), 2)
    return kept[0], kept[1]


def _attend_packed(pack: _Packed, q: Tensor, k: Tensor, v: Tensor, out: Tensor, multiply: bool) -> None:
    q_padded, k_padded, v_padded = (
        x.index_select(0, pack.gather).view(pack.texts, -1, *x.shape[1:]).transpose(1, 2) for x in (q, k, v)
    )
    if multiply:
        grouped = q_padded.reshape(pack.texts, k.shape[1], -1, *q_padded.shape[2:])
        attended = _multiply(grouped, k_padded, v_padded).flatten(1, 2)
    else:
        attended = scaled_dot_product_attention(
            q_padded, k_padded, v_padded, is_causal=True, scale=1.0, enable_gqa=True
        )
    flat = attended.transpose(1, 2).reshape(-1, *q.shape[1:])
    out.index_copy_(0, pack.rows, flat.index_select(0, pack.places))


def _attend_folded(span: Span, q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, out: Tensor) -> None:
    rows, (kv_heads, _, dim) = span.rows, keys.shape
    folded = q[span.start : span.stop].view(rows, kv_heads, -1, dim).permute(1, 2, 0, 3).reshape(1, kv_heads, -1, dim)
    attended = scaled_dot_product_attention(folded, keys[None], values[None], attn_mask=mask, scale=1.0)
    unfolded = attended.reshape(kv_heads, -1, rows, dim).permute(2, 0, 1, 3)
    out[span.start : span.stop] = unfolded.reshape(rows, -1, dim)


def _attend_blocked(span: Span, q: Tensor, keys: Tensor, values: Tensor, out: Tensor) -> None:
    kv_heads, _, dim = keys.shape
    for first in range(0, span.rows, _BLOCK_ROWS):
        last = min(first + _BLOCK_ROWS, span.rows)
        seen = span.past + last
        block = (
            q[span.start + first : span.start + last].view(1, last - first, kv_heads, -1, dim).permute(0, 2, 3, 1, 4)
        )
        attended = _multiply(block, keys[None, :, :seen], values[None, :, :seen])
        out[span.start + first : span.start + last] = attended[0].permute(2, 0, 1, 3).flatten(1, 2)


def _multiply(q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Plain softmax(q k^T) v, the last row seeing all keys, the one before all but one, and so on.

    q: [texts, kv_heads, group, rows, dim], as is the result; keys, values: [texts, kv_heads, seen, dim]. On CPUs the fused
    kernel does not use bf16 matrix instructions, products do: 2.5 to 3.5 times faster from 64 rows on (AVX512-BF16).
    """
    rows, seen = q.shape[3], keys.shape[2]
    scores = (q.flatten(2, 3) @ keys.transpose(-1, -2)).view(*q.shape[:4], seen)
    scores[..., seen - rows :] += torch.full((rows, rows), float("-inf"), dtype=q.dtype, device=q.device).triu_(1)
    weights = torch.softmax(scores, -1).flatten(2, 3)
    return (weights @ values).view(q.shape)
