"""Steps run in C. See `native/layer.h`.

PyTorch takes longer for the twelve hundred small operators of a keystroke than for its work, its parallel regions end when
the slowest thread does, and between large products it passes over the rows a dozen times. Here a layer is one call.
"""

import ctypes
import os
import weakref
from collections.abc import Callable
from dataclasses import fields

import numpy as np
import torch
from numpy.typing import NDArray

from streambed.model.checkpoint import Qwen3Config
from streambed.model.cpu.blocks import Blocks
from streambed.model.cpu.native import library as native
from streambed.model.cpu.native.library import FORMATS, Library, Span, Step
from streambed.model.device import Vectors
from streambed.model.qwen3 import Layer, Qwen3
from streambed.model.stock.attention import Span as TextSpan
from streambed.model.stock.device import Rows

_MOST_GROUP = 256
"""Query heads that share keys: C attends to so many queries at once."""


def unfit(config: Qwen3Config) -> str:
    """What of a network C does not know; empty where it knows it all."""
    if config.head_dim % 16 or config.head_dim > 256:
        return f"heads of {config.head_dim}"
    if (group := config.num_heads // config.num_kv_heads) > _MOST_GROUP:
        return f"{group} heads that share keys"
    return ""


class NativeSteps:
    """A network whose matrices are `Blocks`. Used by one thread."""

    def __init__(self, library: Library, network: Qwen3, threads: int, quantized_kv: bool = False) -> None:
        """quantized_kv: whether keys and values are kept as records of int8."""
        self._library, self._network = library, network
        self._format = FORMATS[str(network.dtype).removeprefix("torch.")]
        self._kv_format = FORMATS["int8"] if quantized_kv else self._format
        self._pool = ctypes.c_void_p(library.open_pool(threads))
        weakref.finalize(self, _close, library, self._pool, os.getpid())
        self._turns: NDArray[np.float32] = torch.view_as_real(network.rotary).flatten(-2).numpy()
        self._final_norm = network.final_norm.numpy()
        self._layers = (native.Layer * len(network.layers))(*map(_describe, network.layers))
        self._scratch = [aligned(0)]
        """Not in use; a step that runs between two layers of another takes one of its own."""

    @torch.inference_mode()
    def forward(self, rows: Rows, between: Callable[[], None] | None = None) -> Vectors:
        """As `Qwen3.forward` with all spans attended."""
        config, (ids, positions, spans, wanted) = self._network.config, rows
        x = self._network.embedding[torch.tensor(ids)].float().numpy()
        turns = self._turns[np.array(positions)]
        limits = np.array([place for span in spans for place in span.visible or ()], dtype=np.int32)
        want = np.array(wanted, dtype=np.int32)
        described = (Span * len(spans))()
        at = 0
        for span, described_span in zip(spans, described, strict=True):
            _describe_span(span, described_span, -1 if span.visible is None else at)
            at += len(span.visible or ())
        step = Step(
            format=self._format, kv_format=self._kv_format, rows=len(ids), hidden=config.hidden_size, heads=config.num_heads,
            kv_heads=config.num_kv_heads, dim=config.head_dim, mlp=config.intermediate_size, spans=len(spans),
            wanted=len(wanted), eps=config.rms_norm_eps, x=x.ctypes.data, turns=turns.ctypes.data,
            limits=limits.ctypes.data, want=want.ctypes.data, span=ctypes.addressof(described),
        )  # fmt: skip
        scratch = self._scratch.pop() if self._scratch else aligned(0)
        if len(scratch) < (size := self._library.scratch_bytes(step)):
            scratch = aligned(size)
        step.scratch = scratch.ctypes.data
        last = len(self._layers) - 1
        for index, layer in enumerate(self._layers):
            if index and between is not None:
                between()
            self._library.run_layer(self._pool, layer, step, index, index == last)
        self._scratch.append(scratch)
        result = np.empty((len(wanted), config.hidden_size), dtype=np.float32)
        self._library.rms_norm(
            x.ctypes.data, self._final_norm.ctypes.data, result.ctypes.data, *result.shape, config.rms_norm_eps
        )
        return result


def _describe(layer: Layer) -> native.Layer:
    described = native.Layer(
        attention_norm=layer.attention_norm.data_ptr(),
        qk_norm=layer.qk_norm.data_ptr(),
        mlp_norm=layer.mlp_norm.data_ptr(),
    )
    for each in fields(layer):
        if isinstance(matrix := getattr(layer, each.name), Blocks):
            setattr(described, each.name, matrix.describe())
    return described


def _describe_span(span: TextSpan, described: Span, limits_at: int) -> None:
    described.first, described.rows, described.past, described.limits_at = span.start, span.rows, span.past, limits_at
    described.borrows = span.borrows
    if span.kv is not None:
        per_layer, per_kind, per_head, per_slot, _ = span.kv.stride()
        described.keys = span.kv.data_ptr()
        described.values = span.kv.data_ptr() + per_kind * span.kv.element_size()
        described.head_stride, described.slot_stride, described.layer_stride = per_head, per_slot, per_layer


def aligned(size: int) -> NDArray[np.uint8]:
    """So many bytes, from a multiple of 64 on."""
    memory = np.empty(size + 64, dtype=np.uint8)
    return memory[-memory.ctypes.data % 64 :]


def _close(library: Library, pool: ctypes.c_void_p, home: int) -> None:
    """Ends the threads; a child of `fork` has none."""
    if os.getpid() == home:
        library.close_pool(pool)
