"""Streambed: real-time text embeddings.

A causal model's KV cache grows with the text, so the exact embedding of a text that is still arriving costs a few rows.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streambed.client.aclient import AsyncClient
    from streambed.client.client import Client
    from streambed.client.events import Emitted, Triggered
    from streambed.engine.engine import Engine
    from streambed.engine.session import Session
    from streambed.errors import (
        CheckpointError,
        ConnectionLost,
        DeadlineExceeded,
        ForbiddenOrigin,
        Internal,
        InvalidRequest,
        NotFound,
        NotReady,
        OffsetConflict,
        OffsetGap,
        Overloaded,
        RequestError,
        RevisionConflict,
        RevisionGap,
        SettingsError,
        StorageFull,
        StreambedError,
        TimedOut,
        TooLarge,
        Unauthorized,
        UnsupportedMedia,
    )

__version__ = "0.1.0"

__all__ = [
    "AsyncClient",
    "CheckpointError",
    "Client",
    "ConnectionLost",
    "DeadlineExceeded",
    "Emitted",
    "Engine",
    "ForbiddenOrigin",
    "Internal",
    "InvalidRequest",
    "NotFound",
    "NotReady",
    "OffsetConflict",
    "OffsetGap",
    "Overloaded",
    "RequestError",
    "RevisionConflict",
    "RevisionGap",
    "Session",
    "SettingsError",
    "StorageFull",
    "StreambedError",
    "TimedOut",
    "TooLarge",
    "Triggered",
    "Unauthorized",
    "UnsupportedMedia",
]

_HOMES = {
    "AsyncClient": "streambed.client.aclient",
    "Client": "streambed.client.client",
    "Emitted": "streambed.client.events",
    "Engine": "streambed.engine.engine",
    "Session": "streambed.engine.session",
    "Triggered": "streambed.client.events",
}


def __getattr__(name: str) -> object:
    # torch takes a second to import; whoever only needs an error class or `streambed --help` should not wait for it.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(_HOMES.get(name, "streambed.errors")), name)
    except ModuleNotFoundError as error:
        from streambed.extras import explain

        if (message := explain(error)) is None:
            raise
        raise ImportError(f"streambed.{name}: {message}", name=error.name) from error


def __dir__() -> list[str]:
    # What the missing extra would bring is left out: help() and its like ask for each name that is listed.
    try:
        engine = find_spec("torch") is not None
    except ImportError:
        engine = False
    return [*(name for name in __all__ if engine or name not in ("Engine", "Session")), "__version__"]
