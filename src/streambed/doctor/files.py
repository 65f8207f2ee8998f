"""Files that serve would open."""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from streambed.doctor.report import Answer, Finding, attempt
from streambed.engine.engine import Engine
from streambed.settings import Settings
from streambed.vectors.reducers import Reducer


def examine(settings: Settings, engine: Engine) -> Iterator[Finding]:
    """The journal and the reducers, where the settings name any."""
    if settings.journal is not None:
        yield attempt("files", "journal", partial(_journal, Path(settings.journal)))
    for name, path in settings.reducers:
        yield attempt("files", f"reducer {name}", partial(_reducer, Path(path), engine))


def _journal(path: Path) -> Answer:
    """Not opened: a server may have it."""
    if path.is_dir():
        return "FAIL", f"{path}: is a folder; serve would not start"
    if not os.access(path if path.exists() else path.absolute().parent, os.R_OK | os.W_OK):
        return "FAIL", f"{path}: cannot be written, or its folder is missing; serve would not start"
    return "ok", str(path)


def _reducer(path: Path, engine: Engine) -> Answer:
    card = Reducer.load(path, engine.info.fingerprint).card
    return "ok", f"{path}: {card.method} to {card.dimensions} dimensions"
