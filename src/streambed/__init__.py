"""Streambed: real-time text embeddings.

A causal model's KV cache grows with the text, so the exact embedding of a text that is still arriving costs a few rows.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streambed.engine.engine import Engine
    from streambed.engine.session import Session
    from streambed.errors import (
        CheckpointError,
        DeadlineExceeded,
        Internal,
        InvalidRequest,
        NotFound,
        NotReady,
        Overloaded,
        RequestError,
        SettingsError,
        StreambedError,
        TooLarge,
    )

__version__ = "0.1.0"

__all__ = [
    "CheckpointError",
    "DeadlineExceeded",
    "Engine",
    "Internal",
    "InvalidRequest",
    "NotFound",
    "NotReady",
    "Overloaded",
    "RequestError",
    "Session",
    "SettingsError",
    "StreambedError",
    "TooLarge",
]

_HOMES = {"Engine": "streambed.engine.engine", "Session": "streambed.engine.session"}


def __getattr__(name: str) -> object:
    # torch takes a second to import; who only wants an error class or `streambed --help` does not wait for it.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES.get(name, "streambed.errors")), name)
