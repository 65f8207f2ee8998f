"""The student: Qwen3 as transformers defines it, written for training many short texts on few cores.

The same network as `streambed.model.qwen3`, whose file explains it; this one keeps gradients. Padding stands to the
right, which a causal network never sees, so no mask but the causal one is needed. A test holds it against transformers.
"""

from dataclasses import asdict, dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Shape:
    """The fields of config.json that make the network; names are transformers'."""

    vocab_size: int = 20_800
    hidden_size: int = 384
    num_hidden_layers: int = 4
    num_attention_heads: int = 6
    num_key_value_heads: int = 3
    head_dim: int = 64
    intermediate_size: int = 576
    rope_theta: float = 1_000_000.0
    rms_norm_eps: float = 1e-6
    max_position_embeddings: int = 8_192

    def config(self) -> dict[str, object]:
        return asdict(self)


class Norm(nn.Module):
    """RMS norm in float32 (Zhang and Sennrich 2019)."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        x = x.float()
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.weight


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    one, other = x.chunk(2, -1)
    return x * cos + torch.cat((-other, one), -1) * sin


class Attention(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads, self.groups, self.size = shape.num_attention_heads, shape.num_key_value_heads, shape.head_dim
        wide, narrow = self.heads * self.size, self.groups * self.size
        self.q_proj = nn.Linear(shape.hidden_size, wide, bias=False)
        self.k_proj = nn.Linear(shape.hidden_size, narrow, bias=False)
        self.v_proj = nn.Linear(shape.hidden_size, narrow, bias=False)
        self.o_proj = nn.Linear(wide, shape.hidden_size, bias=False)
        self.q_norm = Norm(self.size, shape.rms_norm_eps)
        self.k_norm = Norm(self.size, shape.rms_norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        batch, length, _ = x.shape
        q = self.q_norm(self.q_proj(x).view(batch, length, self.heads, self.size))
        k = self.k_norm(self.k_proj(x).view(batch, length, self.groups, self.size))
        v = self.v_proj(x).view(batch, length, self.groups, self.size).transpose(1, 2)
        # The query heads of a group are folded into rows: plain products of short texts beat the fused kernel on a CPU.
        per = self.heads // self.groups
        q = _rotate(q, cos, sin).to(x.dtype).transpose(1, 2).reshape(batch, self.groups, per * length, self.size)
        k = _rotate(k, cos, sin).to(x.dtype).transpose(1, 2)
        scores = (q @ k.transpose(-1, -2)).float().view(batch, self.groups, per, length, length) * self.size**-0.5
        shares = (scores + mask).softmax(-1).to(x.dtype).view(batch, self.groups, per * length, length)
        mixed = (shares @ v).view(batch, self.heads, length, self.size).transpose(1, 2).reshape(batch, length, -1)
        return cast(Tensor, self.o_proj(mixed))


class MLP(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.up_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.down_proj = nn.Linear(shape.intermediate_size, shape.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x)))


class Layer(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.self_attn = Attention(shape)
        self.mlp = MLP(shape)
        self.input_layernorm = Norm(shape.hidden_size, shape.rms_norm_eps)
        self.post_attention_layernorm = Norm(shape.hidden_size, shape.rms_norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, dtype: torch.dtype) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x).to(dtype), cos, sin, mask).float()
        return cast(Tensor, x + self.mlp(self.post_attention_layernorm(x).to(dtype)).float())


class Student(nn.Module):
    """Token ids `[n, length]` and the place of each text's end token `[n]` to float32 `[n, hidden]`, not normalised.

    Products run in `dtype`; the residual stream and the norms are float32. Parameter names are the checkpoint's.
    """

    def __init__(self, shape: Shape, dtype: torch.dtype = torch.bfloat16) -> None:
        super().__init__()
        self.shape, self.dtype = shape, dtype
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList([Layer(shape) for _ in range(shape.num_hidden_layers)])
        self.norm = Norm(shape.hidden_size, shape.rms_norm_eps)
        steps = torch.arange(0, shape.head_dim, 2).float() / shape.head_dim
        angles = torch.outer(torch.arange(1_024).float(), shape.rope_theta**-steps).repeat(1, 2)[:, None]
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, ids: Tensor, ends: Tensor) -> Tensor:
        length = ids.shape[1]
        cos, sin = cast(Tensor, self.cos)[:length], cast(Tensor, self.sin)[:length]
        mask = torch.full((length, length), -1e9, device=ids.device).triu(1)
        x = self.embed_tokens(ids).float()
        with torch.autocast(ids.device.type, self.dtype, enabled=self.dtype is not torch.float32):
            for layer in self.layers:
                x = layer(x, cos, sin, mask, self.dtype)
        return cast(Tensor, self.norm(x[torch.arange(len(ids), device=ids.device), ends]))
