"""Steps of few rows, run in C: a keystroke, a short query. See `native/layer.h`.

PyTorch takes longer for the twelve hundred small operators of such a step than for its work, and its parallel regions end
when the slowest thread does. Here a layer is one call, and the weights are read where oneDNN has packed them: large steps
go on using the same copy.
"""

import ctypes
import os
import weakref
from dataclasses import fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from streambed import machine
from streambed.model.cpu.linear import PackedLinear
from streambed.model.cpu.native import library as native
from streambed.model.cpu.native.library import FORMATS, Library, Matrix, Span, Step
from streambed.model.device import Vectors
from streambed.model.qwen3 import Layer, Qwen3
from streambed.model.stock.attention import Span as TextSpan
from streambed.model.stock.device import Rows
from streambed.model.stock.linear import Linear

MOST_PAIRS = 40_000
"""Of rows and the keys that they see. With more, PyTorch is faster, whose attention multiplies in blocks (measured at 2,000
and 5,500 keys; `benchmarks/README.md`)."""


class SmallSteps:
    """A network's small steps. Used by one thread."""

    def __init__(self, library: Library, network: Qwen3, threads: int) -> None:
        """Raises ValueError for a network whose weights lie otherwise, or whose heads are of no size that C knows."""
        config = network.config
        if config.head_dim % 16 or config.head_dim > 256:
            raise ValueError(f"heads of {config.head_dim}")
        self._library, self._network = library, network
        # Beyond that oneDNN is faster, by its matrix units (AMX) or by reading the weights once for more rows.
        units = network.dtype == torch.bfloat16 and machine.has_matrix_units()
        self._most_rows = min(library.most_rows, 16) if units else library.most_rows
        self._format = FORMATS[str(network.dtype).removeprefix("torch.")]
        self._kept: list[Tensor] = []
        self._pool = ctypes.c_void_p(library.open_pool(threads))
        weakref.finalize(self, _close, library, self._pool, os.getpid())
        self._turns: NDArray[np.float32] = torch.view_as_real(network.rotary).flatten(-2).numpy()
        self._final_norm = network.final_norm.numpy()
        self._layers = (native.Layer * len(network.layers))(*map(self._layer, network.layers))
        self._scratch = np.empty(0, dtype=np.uint8)

    def fits(self, rows: Rows) -> bool:
        """Whether PyTorch would take longer for these."""
        pairs = sum(span.rows * (span.past + span.rows) for span in rows.spans)
        return 0 < len(rows.ids) <= self._most_rows and pairs <= MOST_PAIRS

    def forward(self, rows: Rows) -> Vectors:
        """As `Qwen3.forward` with all spans attended."""
        config, (ids, positions, spans, wanted) = self._network.config, rows
        x = self._network.embedding[torch.tensor(ids)].float().numpy()
        turns = self._turns[np.array(positions)]
        limits = np.array([place for span in spans for place in span.visible or ()], dtype=np.int32)
        want = np.array(wanted, dtype=np.int32)
        described = (Span * len(spans))()
        at = 0
        for span, described_span in zip(spans, described, strict=True):
            self._describe(span, described_span, -1 if span.visible is None else at)
            at += len(span.visible or ())
        step = Step(
            format=self._format, rows=len(ids), hidden=config.hidden_size, heads=config.num_heads,
            kv_heads=config.num_kv_heads, dim=config.head_dim, mlp=config.intermediate_size, spans=len(spans),
            wanted=len(wanted), eps=config.rms_norm_eps, x=x.ctypes.data, turns=turns.ctypes.data,
            limits=limits.ctypes.data, want=want.ctypes.data, span=ctypes.addressof(described),
        )  # fmt: skip
        size = self._library.scratch_bytes(step) + 64
        if size > len(self._scratch):
            self._scratch = np.empty(size, dtype=np.uint8)
        step.scratch = -(-self._scratch.ctypes.data // 64) * 64
        self._library.run_layers(self._pool, self._layers, step, len(self._layers))
        result = np.empty((len(wanted), config.hidden_size), dtype=np.float32)
        self._library.rms_norm(
            x.ctypes.data, self._final_norm.ctypes.data, result.ctypes.data, *result.shape, config.rms_norm_eps
        )
        return result

    def _describe(self, span: TextSpan, described: Span, limits_at: int) -> None:
        described.first, described.rows, described.past, described.limits_at = (
            span.start,
            span.rows,
            span.past,
            limits_at,
        )
        if span.kv is not None:
            per_layer, per_kind, per_head, per_slot, _ = span.kv.stride()
            described.keys = span.kv.data_ptr()
            described.values = span.kv.data_ptr() + per_kind * span.kv.element_size()
            described.head_stride, described.slot_stride, described.layer_stride = per_head, per_slot, per_layer

    def _layer(self, layer: Layer) -> native.Layer:
        described = native.Layer(
            attention_norm=layer.attention_norm.data_ptr(),
            qk_norm=layer.qk_norm.data_ptr(),
            mlp_norm=layer.mlp_norm.data_ptr(),
        )
        for name in (each.name for each in fields(layer) if isinstance(getattr(layer, each.name), Linear)):
            setattr(described, name, self._matrix(getattr(layer, name)))
        return described

    def _matrix(self, linear: Linear) -> Matrix:
        if not isinstance(linear, PackedLinear):
            raise ValueError("weights that oneDNN has not packed")
        layout = linear.layout()
        matrix = Matrix(layout.pointer, None, *layout[1:])
        if linear.bias is not None:
            self._kept.append(linear.bias.float())
            matrix.bias = self._kept[-1].data_ptr()
        self._check(linear, matrix)
        return matrix

    def _check(self, linear: Linear, matrix: Matrix) -> None:
        """How a weight lies is oneDNN's own affair, so a row is multiplied both ways before it is trusted."""
        x = torch.randn(1, matrix.inputs, generator=torch.Generator().manual_seed(matrix.outputs)).to(
            self._network.dtype
        )
        given, y = x.float().numpy(), np.empty((1, matrix.outputs), dtype=np.float32)
        self._library.product(self._pool, matrix, self._format, given.ctypes.data, y.ctypes.data, 1)
        wanted = linear(x).float().numpy()
        if not np.allclose(y, wanted, rtol=0.02, atol=0.02 * float(np.abs(wanted).max()) + 1e-6):
            raise ValueError("weights that lie otherwise than they are said to")


def _close(library: Library, pool: ctypes.c_void_p, home: int) -> None:
    """Ends the threads; a child of `fork` has none."""
    if os.getpid() == home:
        library.close_pool(pool)
