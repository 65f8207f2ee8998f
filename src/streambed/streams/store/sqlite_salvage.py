"""What can still be read of a journal whose pages a disk has damaged.

Its first page says how the file is laid out. It is the same in every journal but for a few counters, so where it is damaged,
a new journal's serves. Everything else is read from both ends, and by name where neither reaches; each row has a checksum.
"""

import contextlib
import logging
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from streambed.streams.store import sqlite_file
from streambed.streams.store.store import Saved

logger = logging.getLogger(__name__)

_PAGE = 4096
_HEAD = "session, revision, checksum"
_NAMES = "SELECT id FROM sessions ORDER BY id"


def is_damage(error: Exception, path: Path) -> bool:
    """Whether it says that a disk has damaged a journal of ours, not that it is in use, or cannot be written."""
    if isinstance(error, sqlite_file.Foreign):
        return False
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR) and _is_ours(path)


def _is_ours(path: Path) -> bool:
    """Whether a file is a journal, by what its first page still says."""
    with path.open("rb") as file:
        page = file.read(_PAGE)
    marks = [page[68:72] == sqlite_file.APPLICATION_ID.to_bytes(4, "big")]
    marks += [b"CREATE TABLE %b" % name in page for name in (b"sessions", b"changes", b"heads")]
    return sum(marks) >= 2


def salvage(path: Path) -> None:
    """Moves a damaged journal aside, and puts a new one with what can be read of it in its place. Raises sqlite3.Error,
    OSError."""
    aside = _free_name(path)
    found: dict[str, Saved | ValueError] = {}
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as directory:
        for number, with_first_page in enumerate((False, True)):
            copy = Path(directory) / f"{number}"
            _copy(path, copy)
            if with_first_page:
                _replace_first_page(copy, Path(directory) / "new")
            found = dict(_read(copy)) | {name: each for name, each in found.items() if isinstance(each, Saved)}
            if any(isinstance(each, Saved) for each in found.values()):
                break
        kept = [each for each in found.values() if isinstance(each, Saved)]
        fresh = Path(directory) / "fresh"
        connection = sqlite_file.open_file(fresh, "full")
        with contextlib.closing(connection):
            connection.execute("BEGIN")
            for saved in kept:
                sqlite_file.insert(connection, saved)
            connection.execute("COMMIT")
        _copy(path, aside)
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        fresh.replace(path)
    lost = [name for name, each in found.items() if not isinstance(each, Saved)]
    for name in lost:
        logger.error("journal: session %s is damaged and lost: %s", name, found[name])
    logger.error(
        "journal: its file is damaged; %d sessions were recovered, %d are known to be lost; delete %s, which holds their "
        "texts, when you no longer need it",
        len(kept), len(lost), aside,
    )  # fmt: skip


def _copy(path: Path, target: Path) -> None:
    for suffix in ("", "-wal"):
        if (each := path.with_name(path.name + suffix)).exists():
            copy = target.with_name(target.name + suffix)
            copy.touch(0o600)
            shutil.copyfile(each, copy)


def _free_name(path: Path) -> Path:
    number = 1
    while (name := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    return name


def _replace_first_page(path: Path, new: Path) -> None:
    """A new journal's, with the size of this file and no free pages."""
    sqlite_file.open_file(new, "full").close()
    page = bytearray(new.read_bytes()[:_PAGE])
    page[28:32] = (path.stat().st_size // _PAGE).to_bytes(4, "big")
    page[32:40] = bytes(8)
    page[92:96] = page[24:28]  # for which change counter the size holds
    with path.open("r+b") as file:
        file.write(page)
    path.with_name(f"{path.name}-wal").unlink(missing_ok=True)


def _read(path: Path) -> Iterator[tuple[str, Saved | ValueError]]:
    """Sessions and, of those that cannot be read, why."""
    with (
        contextlib.suppress(sqlite3.Error, UnicodeDecodeError),
        contextlib.closing(sqlite3.connect(path)) as connection,
    ):
        connection.text_factory = bytes
        standing = _scan(connection, f"SELECT {_HEAD} FROM heads")
        heads: dict[str, Any] = {sqlite_file.name_of(head[0]): head for head in standing}
        yield from ((name, ValueError("it cannot be read")) for name in heads)
        select = f"SELECT {sqlite_file.SESSION}, checksum FROM sessions"
        rows = {
            row[0]: row for order in ("ASC", "DESC") for row in _scan(connection, f"{select} ORDER BY rowid {order}")
        }
        # Those that neither scan has reached, by their names: from their heads, and from the index.
        names = {head[0] for head in heads.values()} | {name for (name,) in _scan(connection, _NAMES)}
        for missing in names - rows.keys():
            for row in _scan(connection, f"{select} WHERE id = CAST(? AS TEXT)", missing):
                rows[row[0]] = row
        for row in rows.values():
            name = sqlite_file.name_of(row[0])
            try:
                changes = sqlite_file.changes_of(connection, name)
            except (sqlite3.Error, UnicodeDecodeError) as error:
                yield name, ValueError(str(error))
                continue
            if name not in heads:
                found = _scan(connection, f"SELECT {_HEAD} FROM heads WHERE session = ?", name)
                heads[name] = next(found, None)
            yield name, sqlite_file.replay(row, changes, heads[name])


def _scan(connection: sqlite3.Connection, query: str, *values: object) -> Iterator[Any]:
    """Rows up to where no more can be read."""
    with contextlib.suppress(sqlite3.Error, UnicodeDecodeError):
        yield from connection.execute(query, values)
