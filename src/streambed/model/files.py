"""Reading the JSON files of a checkpoint."""

import json
from pathlib import Path
from typing import Any

from streambed.errors import CheckpointError


def read_json(path: Path) -> Any:
    """Parses a JSON file of a checkpoint. Raises CheckpointError where it is missing or broken."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(f"{path}: missing") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not valid JSON: {error}") from error


def read_object(path: Path, kind: type = dict) -> Any:
    """`read_json` of a file that holds an object, or a list if `kind` says so."""
    value = read_json(path)
    if not isinstance(value, kind):
        raise CheckpointError(f"{path}: not {'a JSON object' if kind is dict else 'a list of modules'}")
    return value


def is_file(path: Path) -> bool:
    """Whether a file is there, whatever its name may be."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long for this file system, or with a NUL in it
        return False
