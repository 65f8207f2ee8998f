"""What an engine is made of, beside its checkpoint."""

from dataclasses import dataclass, fields
from typing import Any, Self, get_args

from streambed.errors import SettingsError
from streambed.model.device import Choices, Kernels, KVDtype, Quantize
from streambed.text.tokenizer import SpecialTokens


@dataclass(frozen=True)
class EngineOptions:
    """Raises SettingsError for what makes no sense, in one line that names the argument; a command line names its flag
    (`SettingsError.by_flag`)."""

    dtype: str = "auto"
    """`float32` or `bfloat16`."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:N` or `mps`."""
    kernels: Kernels = "auto"
    """`auto`: steps on a CPU run on native kernels, built at the first start, where that can be; `torch`: on none."""
    quantize: Quantize = "none"
    """`int8`: matrices are multiplied as integers, on CPUs. Half the memory and more speed, for vectors a little off those
    of full precision; `streambed doctor --quantize int8` says by how much."""
    kv_dtype: KVDtype = "auto"
    """`int8`: keys and values in half the memory of bfloat16; `auto`: in the model's own numbers."""
    kv_memory: int | None = None
    """Bytes for KV; a quarter of the memory by default."""
    max_batch_tokens: int | None = None
    """Rows of a step; by default as many as run in a tenth of a second, followed as it runs."""
    special_tokens: SpecialTokens = "text"
    """Whether `<|endoftext|>` and its like in a text are plain `text` or `parse`d."""
    instruction_template: str | None = None
    """The form of an instruction, with `{instruction}` in its place; by default the one that the checkpoint's prompts show,
    else Qwen's."""

    @classmethod
    def of(cls, settings: Any) -> Self:
        """Those of an object with attributes of the same names, such as `Settings`."""
        return cls(**{each.name: getattr(settings, each.name) for each in fields(cls)})

    @property
    def choices(self) -> Choices:
        """Those of the device."""
        return Choices(self.kernels, self.quantize, self.kv_dtype)

    def __post_init__(self) -> None:
        for name in ("max_batch_tokens", "kv_memory"):
            number: Any = getattr(self, name)
            if number is not None and (type(number) is not int or number < 1):
                raise SettingsError(f"is {number!r}; an integer of at least 1 is expected", name)
        for name, choices in (
            ("kernels", Kernels),
            ("quantize", Quantize),
            ("kv_dtype", KVDtype),
            ("special_tokens", SpecialTokens),
        ):
            if (chosen := getattr(self, name)) not in (modes := get_args(choices)):
                raise SettingsError(f"is {chosen!r}; {' or '.join(modes)} is expected", name)
