"""safetensors -> network: every tensor exactly once, its shape and values checked, hashed on the way.

Tensors are read one layer at a time from the memory-mapped files and copied into the form that the network multiplies
with, so the files' pages are the only second copy, and they are the operating system's to drop.
"""

import ctypes
import hashlib
import json
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from streambed.errors import CheckpointError
from streambed.model.checkpoint import Checkpoint, Qwen3Config
from streambed.model.qwen3 import Layer, Operators, Qwen3, rotary_table
from streambed.model.stock.linear import Linear

_STORED_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_NEVER_LOADED = ("lm_head.weight",)


def expected_shapes(config: Qwen3Config) -> dict[str, tuple[int, ...]]:
    """Name (without the `model.` prefix) and shape of every tensor that the network is made of."""
    hidden, dim = config.hidden_size, config.head_dim
    q, kv = config.num_heads * dim, config.num_kv_heads * dim
    shapes: dict[str, tuple[int, ...]] = {"embed_tokens.weight": (config.vocab_size, hidden)}
    for index in range(config.num_layers):
        layer = {
            "input_layernorm.weight": (hidden,),
            "self_attn.q_proj.weight": (q, hidden),
            "self_attn.k_proj.weight": (kv, hidden),
            "self_attn.v_proj.weight": (kv, hidden),
            "self_attn.o_proj.weight": (hidden, q),
            "self_attn.q_norm.weight": (dim,),
            "self_attn.k_norm.weight": (dim,),
            "post_attention_layernorm.weight": (hidden,),
            "mlp.gate_proj.weight": (config.intermediate_size, hidden),
            "mlp.up_proj.weight": (config.intermediate_size, hidden),
            "mlp.down_proj.weight": (hidden, config.intermediate_size),
        }
        if config.attention_bias:
            layer |= {
                f"self_attn.{name}_proj.bias": (size,) for name, size in zip("qkvo", (q, kv, kv, hidden), strict=True)
            }
        shapes |= {f"layers.{index}.{name}": shape for name, shape in layer.items()}
    return shapes | {"norm.weight": (hidden,)}


def load_network(
    checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device, operators: Operators
) -> tuple[Qwen3, str]:
    """Reads the weights. Returns the network and the hex digest of config and weights, which names of shards, the order
    of tensors in them and the `model.` prefix do not change.

    Raises:
        CheckpointError: a tensor is missing, extra, doubled, misshapen, of an unsupported type or not finite, or a file
            is damaged.
    """
    config = checkpoint.config
    with ExitStack() as stack:
        reader = _Reader(checkpoint, expected_shapes(config), dtype, stack)

        def norm(name: str) -> Tensor:
            return paired(name.removesuffix(".weight"), reader.take(name)).to(device, torch.float32, copy=True)

        def paired(name: str, rows: Tensor) -> Tensor:
            """Queries and keys with the pairs that rotary embedding turns side by side, as `rotate` wants them."""
            if not name.endswith(("q_proj", "k_proj", "q_norm", "k_norm")):
                return rows
            return rows.reshape(-1, 2, config.head_dim // 2, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)

        def linear(*names: str) -> Linear:
            parts = [paired(name, reader.take(f"{name}.weight")).to(device, dtype) for name in names]
            biases = [
                paired(name, reader.take(f"{name}.bias")).to(device, dtype, copy=True)
                for name in names
                if reader.has(f"{name}.bias")
            ]
            weight = torch.cat(parts) if len(parts) > 1 else parts[0]
            matrix = operators.linear(weight, torch.cat(biases) if biases else None)
            if matrix.weight is parts[0]:
                matrix.weight = weight.clone()  # never keep a view of the file: a changed file must not change vectors
            return matrix

        embedding = reader.take("embed_tokens.weight").to(device, dtype, copy=True)
        layers = []
        for index in range(config.num_layers):
            _trim_heap()
            at = f"layers.{index}."
            scale = config.head_dim**-0.5
            layers.append(
                Layer(
                    attention_norm=norm(f"{at}input_layernorm.weight"),
                    qkv=linear(*(f"{at}self_attn.{part}_proj" for part in "qkv")),
                    qk_norm=torch.cat(
                        (
                            (norm(f"{at}self_attn.q_norm.weight") * scale).expand(config.num_heads, -1),
                            norm(f"{at}self_attn.k_norm.weight").expand(config.num_kv_heads, -1),
                        )
                    ),
                    output=linear(f"{at}self_attn.o_proj"),
                    mlp_norm=norm(f"{at}post_attention_layernorm.weight"),
                    gate=linear(f"{at}mlp.gate_proj"),
                    up=linear(f"{at}mlp.up_proj"),
                    down=linear(f"{at}mlp.down_proj"),
                )
            )
        network = Qwen3(
            config=config,
            operators=operators,
            embedding=embedding,
            layers=tuple(layers),
            final_norm=norm("norm.weight"),
            rotary=rotary_table(config, checkpoint.window, device),
        )
        _trim_heap()
        return network, reader.digest()


class _Reader:
    """Hands out each tensor once, checked; hashes it in a thread of its own meanwhile (hashlib drops the GIL)."""

    def __init__(
        self, checkpoint: Checkpoint, shapes: dict[str, tuple[int, ...]], dtype: torch.dtype, stack: ExitStack
    ) -> None:
        self._dtype = dtype
        self._shapes = shapes
        self._config = checkpoint.config
        self._where: dict[str, tuple[Any, str, Path]] = {}
        self._hashes: dict[str, Future[str]] = {}
        self._pool = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="fingerprint"))
        for file in checkpoint.weight_files:
            try:
                file.open("rb").close()  # safetensors calls a file missing that this user may not read
                handle = stack.enter_context(safe_open(file, framework="pt"))
            except (SafetensorError, OSError, ValueError) as error:
                raise CheckpointError(f"{file}: not a readable safetensors file: {error}") from error
            for stored in handle.keys():  # noqa: SIM118 - safe_open is no dict
                name = stored.removeprefix("model.")
                if name in _NEVER_LOADED:
                    continue
                if name not in shapes:
                    raise CheckpointError(f"{file}: tensor {stored!r} is no part of this network")
                if name in self._where:
                    raise CheckpointError(
                        f"{file}: tensor {stored!r} is there twice, also in {self._where[name][2].name}"
                    )
                shape = tuple(handle.get_slice(stored).get_shape())
                if shape != shapes[name]:
                    raise CheckpointError(
                        f"{file}: tensor {stored!r} has shape {shape}, config.json asks for {shapes[name]}"
                    )
                self._where[name] = (handle, stored, file)
        missing = [name for name in shapes if name not in self._where]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise CheckpointError(f"{checkpoint.weight_files[0]}: tensor {missing[0]!r} is missing{more}")

    def has(self, name: str) -> bool:
        return name in self._shapes

    def take(self, name: str) -> Tensor:
        handle, stored, file = self._where.pop(name)
        try:
            tensor: Tensor = handle.get_tensor(stored)
        except (SafetensorError, OSError, ValueError) as error:
            raise CheckpointError(f"{file}: tensor {stored!r} cannot be read: {error}") from error
        if tensor.dtype not in _STORED_DTYPES:
            raise CheckpointError(
                f"{file}: tensor {stored!r} is {tensor.dtype}; float32, bfloat16 or float16 is expected"
            )
        # NaN and infinities survive min and max; what is finite here must stay so in the type that is computed with.
        largest = torch.finfo(self._dtype).max
        if not all(abs(float(extreme)) <= largest for extreme in tensor.aminmax()):
            raise CheckpointError(f"{file}: tensor {stored!r} has values that are not finite, or not in {self._dtype}")
        self._hashes[name] = self._pool.submit(_digest, tensor)
        return tensor

    def digest(self) -> str:
        assert not self._where, f"tensors never asked for: {list(self._where)}"
        whole = {name: hashed.result() for name, hashed in sorted(self._hashes.items())}
        return hashlib.sha256(json.dumps([asdict(self._config), whole], sort_keys=True).encode()).hexdigest()


def _trim_heap() -> None:
    """Gives back what conversions took for a moment: glibc would keep it, half as much again as the weights of 0.6B."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)


def _digest(tensor: Tensor) -> str:
    values = tensor.contiguous().view(-1).view(torch.uint8).numpy()
    hashed = hashlib.sha256(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
    hashed.update(values.data)
    return hashed.hexdigest()
