"""A key that is kept, by nobody else to be read."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from streambed.errors import SettingsError
from streambed.server import keyfile
from streambed.server.keyfile import keep_key
from streambed.settings import Settings

GOOD = "sb-0123456789abcdef"


def put(path: Path, content: bytes | str = f"{GOOD}\n", mode: int = 0o600) -> None:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(mode)


def test_made_once_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "journal.key"
    old = os.umask(0)
    try:
        key = keep_key(path)
    finally:
        os.umask(old)
    assert keep_key(path) == key
    assert len(key) >= 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path], "nothing is left beside it"
    Settings(api_key=(key,))  # may be given as a key, too
    assert keep_key(tmp_path / "other.key") != key


@pytest.mark.parametrize("content", [GOOD, f"{GOOD}\n", f"{GOOD}\r\n"])
def test_written_by_hand(tmp_path: Path, content: str) -> None:
    put(tmp_path / "k", content)
    assert keep_key(tmp_path / "k") == GOOD


CASES: dict[str, tuple[Callable[[Path], object], str]] = {
    "read by the group": (lambda path: put(path, mode=0o640), "others may read"),
    "read by all": (lambda path: put(path, mode=0o604), "others may read"),
    "written by the group": (lambda path: put(path, mode=0o620), "others may read or write"),
    "empty": (lambda path: put(path, ""), "holds no key"),
    "short": (lambda path: put(path, "sb-1\n"), "holds no key"),
    "two lines": (lambda path: put(path, f"{GOOD}\n{GOOD}\n"), "holds no key"),
    "spaces": (lambda path: put(path, f" {GOOD}\n"), "holds no key"),
    "not ASCII": (lambda path: put(path, f"{GOOD}é\n"), "holds no key"),
    "bytes": (lambda path: put(path, b"\x00" * 32), "holds no key"),
    "huge": (lambda path: put(path, "a" * 100_000), "holds no key"),
    "directory": (lambda path: path.mkdir(mode=0o700), "is no file"),
    "pipe": (lambda path: os.mkfifo(path, 0o600), "is no file"),
    "link": (lambda path: (put(path.with_name("real")), path.symlink_to("real")), "is a link"),
    "dangling link": (lambda path: path.symlink_to("nowhere"), "is a link"),
}


def state(path: Path) -> tuple[int, ...]:
    """All but when it was read, which reading changes wherever the next second has begun."""
    found = os.lstat(path)
    return found.st_mode, found.st_ino, found.st_nlink, found.st_size, found.st_mtime_ns


@pytest.mark.parametrize("case", CASES)
def test_refused(tmp_path: Path, case: str) -> None:
    path = tmp_path / "journal.key"
    make, reason = CASES[case]
    make(path)
    before = state(path)
    with pytest.raises(SettingsError, match=reason) as caught:
        keep_key(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert GOOD not in message
    assert state(path) == before, "it is left as it is"


def test_of_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "k")
    monkeypatch.setattr(keyfile.os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(SettingsError, match="another user"):
        keep_key(tmp_path / "k")


def test_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(keyfile.os, "fsync", fail)
    with pytest.raises(SettingsError, match="cannot be kept: No space left"):
        keep_key(tmp_path / "k")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(SettingsError, match="cannot be kept: No such file"):
        keep_key(tmp_path / "nowhere" / "k")
