"""The Qwen3 network, from token ids to hidden states (technical report: arXiv 2505.09388).

Pre-norm decoder layers: grouped-query attention with normalised queries and keys and rotary positions, then a gated
SiLU network. It runs on a *flat* batch: one row per token, rows of many sequences one after another, positions given.
What a row attends to, how a matrix is stored and how a norm is computed is the device's business.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from streambed.model.checkpoint import Qwen3Config
from streambed.model.stock.linear import Linear

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""Writes keys and values of a layer's rows to their slots, and attends. Layer, q [rows, heads, head_dim] scaled by
head_dim ** -0.5, k and v [rows, kv_heads, head_dim]; returns [rows, heads * head_dim]."""


class Operators(NamedTuple):
    """What a device does in its own way."""

    linear: Callable[[Tensor, Tensor | None], Linear]
    """Makes a matrix of a weight [out, in] and a bias [out]."""
    rms_norm: Callable[..., Tensor]
    """See `rms_norm` below."""


@dataclass(frozen=True)
class Layer:
    """Weights of one decoder layer. Norm weights are float32."""

    attention_norm: Tensor  # [hidden]
    qkv: Linear  # queries, keys and values of all heads, in this order
    qk_norm: Tensor  # [heads + kv_heads, head_dim]; the queries' part carries the scale head_dim ** -0.5
    output: Linear
    mlp_norm: Tensor  # [hidden]
    gate: Linear
    up: Linear
    down: Linear


@dataclass(frozen=True)
class Qwen3:
    """Weights and forward pass. Immutable: all state of a text is in its KV."""

    config: Qwen3Config
    operators: Operators
    embedding: Tensor  # [vocabulary, hidden]
    layers: tuple[Layer, ...]
    final_norm: Tensor  # [hidden], float32
    rotary: Tensor  # [positions, head_dim / 2], complex64: the turn of each position and frequency

    @property
    def dtype(self) -> torch.dtype:
        return self.embedding.dtype

    @torch.inference_mode()
    def forward(
        self,
        ids: Tensor,
        positions: Tensor,
        attend: Attend,
        wanted: Tensor,
        between: Callable[[], None] | None = None,
    ) -> Tensor:
        """Runs one step.

        ids, positions: int64 [rows]; wanted: int64 [probes], the rows whose final hidden state is asked for. between: is
        called between two layers.
        Returns float32 [probes, hidden], after the final norm.
        """
        config, rms_norm = self.config, self.operators.rms_norm
        heads, kv_heads, dim = config.num_heads, config.num_kv_heads, config.head_dim
        turn = self.rotary[positions][:, None]  # [rows, 1, head_dim / 2]
        hidden = self.embedding[ids]
        for index, layer in enumerate(self.layers):
            if index and between is not None:
                between()
            qkv = layer.qkv(rms_norm(hidden, layer.attention_norm, config.rms_norm_eps)).view(len(ids), -1, dim)
            qk = rms_norm(qkv[:, : heads + kv_heads], layer.qk_norm, config.rms_norm_eps, torch.float32)
            qk = rotate(qk, turn).to(self.dtype)
            q, k, v = qk[:, :heads], qk[:, heads:], qkv[:, heads + kv_heads :]
            attended = attend(index, q, k, v)
            if layer is self.layers[-1]:  # beyond this point a row serves only itself
                attended, hidden = attended[wanted], hidden[wanted]
            hidden = layer.output.plus(attended, hidden)
            normed = rms_norm(hidden, layer.mlp_norm, config.rms_norm_eps)
            hidden = layer.down.plus(layer.up.times(normed, layer.gate.silu(normed)), hidden)
        return rms_norm(hidden, self.final_norm, config.rms_norm_eps, torch.float32)


def rms_norm(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype | None = None) -> Tensor:
    """x / rms(x) * weight over the last dimension, computed in float32 (arXiv 1910.07467), returned as `dtype`."""
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    scale = torch.rsqrt(length.square() / x.shape[-1] + eps)
    return (x * scale).mul_(weight).to(dtype or x.dtype)  # bfloat16 times float32 is float32


def rotate(x: Tensor, turn: Tensor) -> Tensor:
    """Rotary position embedding (arXiv 2104.09864): pairs of neighbours as complex numbers, turned.

    x: [rows, heads, head_dim], float32. Checkpoints pair a dimension with that half a head further on; `weights.py` puts
    such pairs side by side, in queries and keys alike, which leaves their products as they are.
    """
    return torch.view_as_real(torch.view_as_complex(x.view(*x.shape[:-1], -1, 2)) * turn).flatten(-2)


def rotary_table(config: Qwen3Config, positions: int, device: torch.device) -> Tensor:
    """The turn of every position and frequency: complex64 [positions, head_dim / 2], of length one."""
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.int64).float() / config.head_dim
    angles = torch.outer(torch.arange(positions).float(), 1.0 / config.rope_theta**exponents)
    return torch.complex(angles.cos(), angles.sin()).to(device)
