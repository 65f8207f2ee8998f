"""A key that outlives the process: sessions in a journal belong to the key that made them.

Who can read the file can do what the key allows, so it is refused where anybody but its owner can, and where it is a link.
"""

import contextlib
import os
import secrets
import stat
import tempfile
from pathlib import Path

from streambed.errors import SettingsError

_MOST_BYTES = 4096


def make_key() -> str:
    """A new one."""
    return f"sb-{secrets.token_urlsafe(24)}"


def keep_key(path: Path) -> str:
    """The key that a file holds, or a new one that it holds from now on: whole or not at all, and for its owner alone.

    Raises:
        SettingsError: the file cannot be read or written, is a link or no file, belongs to somebody else, can be read by
            others, or holds no key.
    """
    try:
        return _read(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from None
    key = make_key()
    try:
        _write(path, key)
    except OSError as error:
        raise SettingsError(f"{path}: the key cannot be kept: {error.strerror}") from None
    return key


def _read(path: Path) -> str:
    if path.is_symlink():  # where the system has no O_NOFOLLOW, and for the words
        raise SettingsError(f"{path}: is a link; a key is kept in a file of its own")
    # Not blocking: a pipe in its place must not hold up the start.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise SettingsError(f"{path}: is no file; a key is kept there")
        if hasattr(os, "geteuid") and found.st_uid != os.geteuid():
            raise SettingsError(f"{path}: belongs to another user, who knows the key; delete it, or give --api-key")
        if os.name == "posix" and found.st_mode & 0o077:
            raise SettingsError(f"{path}: others may read or write it (chmod 600, if nobody has); or give --api-key")
        text = os.read(descriptor, _MOST_BYTES + 1)
    finally:
        os.close(descriptor)
    key = text.decode("latin-1").removesuffix("\n").removesuffix("\r")
    if not 16 <= len(key) <= _MOST_BYTES or not key.isascii() or not key.isprintable() or key != key.strip():
        raise SettingsError(f"{path}: holds no key; one line of at least 16 ASCII characters is expected")
    return key


def _write(path: Path, key: str) -> None:
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mkstemp makes it with mode 0600
    try:
        with open(descriptor, "w") as file:
            file.write(f"{key}\n")
            file.flush()
            os.fsync(descriptor)
        os.replace(name, path)
        directory = os.open(path.parent, os.O_RDONLY)  # sessions on disk must not outlive it when the power fails
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
