"""Which device runs a checkpoint, and in which numbers."""

from typing import NamedTuple

import torch

from streambed import machine
from streambed.errors import SettingsError
from streambed.model.checkpoint import Checkpoint
from streambed.model.cpu.device import CPU
from streambed.model.cuda.device import CUDA
from streambed.model.device import Choices, Device
from streambed.model.stock.device import Stock

DEVICES: dict[str, type[Stock]] = {"cpu": CPU, "cuda": CUDA, "mps": Stock}
"""By PyTorch's names. `mps`, Apple's GPU, is for those who try it: we have not run it."""


def open_device(checkpoint: Checkpoint, device: str, dtype: str, choices: Choices = Choices()) -> Device:  # noqa: B008
    """The device, still without the checkpoint's weights. Raises SettingsError."""
    where = choose_device(device)
    if choices.quantize != "none" and where.type != "cpu":
        raise SettingsError(
            f"is {choices.quantize!r}, but products of integers are built for CPUs alone, not for {where}", "quantize"
        )
    numbers = choose_dtype(dtype, where, checkpoint.is_builtin)
    return DEVICES[where.type](checkpoint.config, where, numbers, choices)


def choose_device(device: str) -> torch.device:
    """`auto` is CUDA where there is one, else the CPU. Raises SettingsError for what this machine has not."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(str(device))
    except RuntimeError:
        chosen = None
    if chosen is None or chosen.type not in DEVICES:
        raise SettingsError(f"is {device!r}; auto, cpu, cuda, cuda:N or mps is expected", "device")
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise SettingsError(f"is {device!r}, but PyTorch sees no GPU of Apple's here", "device")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise SettingsError(f"is {device!r}, but PyTorch sees {torch.cuda.device_count()} CUDA devices here", "device")
    return chosen


def choose_dtype(dtype: str, device: torch.device, builtin: bool) -> torch.dtype:
    """`auto` is float32 for the built-in model, bfloat16 where the processor multiplies it natively, else float32."""
    if dtype == "auto":
        return torch.bfloat16 if not builtin and multiplies_bfloat16(device) else torch.float32
    chosen = {"float32": torch.float32, "bfloat16": torch.bfloat16}.get(str(dtype))
    if chosen is None:
        raise SettingsError(
            f"is {dtype!r}; auto, float32 or bfloat16 is expected (float16 overflows on Qwen3)", "dtype"
        )
    return chosen


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether it does so natively."""
    if device.type == "cuda":
        return bool(torch.cuda.get_device_capability(device) >= (8, 0))
    return device.type == "cpu" and machine.multiplies_bfloat16()


class GPU(NamedTuple):
    """One that could be chosen: bytes of memory, and whether it multiplies bfloat16 natively."""

    name: str
    total: int
    free: int
    bfloat16: bool


def find_gpus() -> list[GPU]:
    """Those that PyTorch can use by CUDA, in the order of their numbers."""
    gpus = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        about, (free, _) = torch.cuda.get_device_properties(index), torch.cuda.mem_get_info(index)
        gpus.append(GPU(about.name, about.total_memory, free, multiplies_bfloat16(torch.device("cuda", index))))
    return gpus
