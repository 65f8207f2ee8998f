"""A journal's file: SQLite's, with two tables.

A session's row holds its text at some revision, and `changes` what came after it; both go when it ends.

SQLite (https://sqlite.org/wal.html) in WAL mode: with `synchronous=FULL` a commit survives loss of power, with `NORMAL` the
end of the process. `secure_delete` overwrites what is deleted; the log is emptied by whoever erases.
"""

import contextlib
import os
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from streambed.streams.mark import Mark
from streambed.streams.store.store import DIGEST, HISTORY, Commit, Saved

APPLICATION_ID = 0x53424A4C  # "SBJL"
VERSION = 2

_SCHEMA = """
CREATE TABLE sessions (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, token BLOB NOT NULL, options TEXT NOT NULL,
    revision INTEGER NOT NULL, text BLOB NOT NULL, digests BLOB NOT NULL, edited INTEGER NOT NULL,
    start INTEGER NOT NULL, segment INTEGER NOT NULL
) STRICT;
CREATE TABLE changes (
    session TEXT NOT NULL, revision INTEGER NOT NULL, "from" INTEGER NOT NULL, "to" INTEGER NOT NULL,
    text BLOB NOT NULL, digest BLOB NOT NULL, PRIMARY KEY (session, revision)
) STRICT, WITHOUT ROWID;
"""


def open_file(path: Path, sync: str) -> sqlite3.Connection:
    """Opens or makes it, for this process alone. Raises sqlite3.Error, OSError."""
    if not path.exists():
        _make(path)
    elif not path.is_file():
        raise OSError("not a file")
    _check(path)
    path.chmod(0o600)  # its log takes the mode over
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=0)
    try:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("BEGIN EXCLUSIVE")  # takes the lock, for as long as the connection lives
        if not connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
            _lay_out(connection)  # the file was there, and empty
        connection.execute("COMMIT")
        if connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
            raise sqlite3.OperationalError("its file system does not allow a write-ahead log")
        connection.execute(f"PRAGMA synchronous = {sync}")
        connection.execute("PRAGMA secure_delete = ON")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except BaseException:
        connection.close()
        raise
    return connection


def empty_log(connection: sqlite3.Connection) -> bool:
    """Whether nothing that was erased is left in the log."""
    busy: int = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    return not busy


# Rows


def insert(connection: sqlite3.Connection, saved: Saved) -> None:
    """Puts a session in the place of whatever has its id."""
    erase(connection, saved.id)
    mark = saved.mark
    connection.execute(
        "INSERT INTO sessions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            saved.id, saved.owner, saved.token, saved.options, mark.revision, saved.text.encode(),
            b"".join(saved.digests), mark.edited, mark.start, mark.segment,
        ),
    )  # fmt: skip


def change(connection: sqlite3.Connection, commit: Commit) -> None:
    session, mark = commit.session, commit.mark
    if commit.snapshot is None:
        connection.execute(
            "INSERT INTO changes VALUES (?, ?, ?, ?, ?, ?)",
            (session, mark.revision, commit.start, commit.end, commit.text.encode(), commit.digest),
        )
        return
    text, digests = commit.snapshot
    connection.execute("DELETE FROM changes WHERE session = ?", (session,))
    connection.execute(
        "UPDATE sessions SET revision = ?, text = ?, digests = ?, edited = ?, start = ?, segment = ? WHERE id = ?",
        (mark.revision, text.encode(), digests, mark.edited, mark.start, mark.segment, session),
    )


def erase(connection: sqlite3.Connection, session: str) -> None:
    connection.execute("DELETE FROM changes WHERE session = ?", (session,))
    connection.execute("DELETE FROM sessions WHERE id = ?", (session,))


def read(connection: sqlite3.Connection, session: str | None = None) -> list[tuple[str, Saved | ValueError]]:
    """The sessions that there are, or this one, by name. Of one that cannot be read, why. Raises sqlite3.Error."""
    query = "SELECT id, owner, token, options, revision, text, digests, edited, start, segment FROM sessions"
    one = "" if session is None else " WHERE id = ?"
    found: list[tuple[str, Saved | ValueError]] = []
    for row in _rows(connection, query + one, *([] if session is None else [session])):
        name = row[0].decode(errors="replace")
        changes = _rows(
            connection,
            'SELECT revision, "from", "to", text, digest FROM changes WHERE session = ? ORDER BY revision',
            name,
        )
        try:
            found.append((name, _replay(row, changes)))
        except (ValueError, TypeError) as error:
            found.append((name, ValueError(str(error))))
    return found


def _rows(connection: sqlite3.Connection, query: str, *values: str) -> list[Any]:
    """All rows, their texts as bytes: damaged ones are for us to find."""
    connection.text_factory = bytes
    try:
        return connection.execute(query, values).fetchall()
    finally:
        connection.text_factory = str


def _make(path: Path) -> None:
    """A new journal appears under its name when it is complete."""
    new = path.with_name(f"{path.name}.new")
    for left in (new, new.with_name(f"{new.name}-journal")):  # of a start that was killed
        left.unlink(missing_ok=True)
    os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    with contextlib.closing(sqlite3.connect(new, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN EXCLUSIVE")
        _lay_out(connection)
        connection.execute("COMMIT")
    os.link(new, path)  # unlike a rename, never over a file that another process has made meanwhile
    new.unlink()
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _lay_out(connection: sqlite3.Connection) -> None:
    for statement in filter(str.strip, _SCHEMA.split(";")):
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {VERSION}")


def _check(path: Path) -> None:
    """Raises sqlite3.Error unless the file is empty or a journal of this version. Leaves it as it is, lock and all."""
    if not path.stat().st_size:
        return
    # Not by open(): closing a file gives up the locks that SQLite holds on it in this process.
    with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?immutable=1", uri=True)) as connection:
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
    if application != APPLICATION_ID:
        raise sqlite3.DatabaseError("it is no journal of Streambed")
    if version != VERSION:
        raise sqlite3.DatabaseError(f"it has version {version}; this Streambed writes {VERSION}")


_SessionRow = tuple[bytes, bytes, bytes, bytes, int, bytes, bytes, int, int, int]
_ChangeRow = tuple[int, int, int, bytes, bytes]


def _replay(row: _SessionRow, changes: Iterable[_ChangeRow]) -> Saved:
    """The session of its row and the changes after it. Raises ValueError where they do not fit together."""
    id, owner, token, options, revision, raw, joined, edited, first, segment = row
    text = raw.decode()
    if revision < 0:
        raise ValueError(f"it is at revision {revision}")
    if not 0 <= first <= len(text) or segment < 0:
        raise ValueError(f"segment {segment} begins at {first}, and the text has {len(text)} characters")
    digests = [joined[at : at + DIGEST] for at in range(0, len(joined), DIGEST)]
    edits = bool(edited)
    for number, start, end, inserted, digest in changes:
        if number != revision + 1:
            raise ValueError(f"change {revision + 1} is missing")
        if not first <= start <= end <= len(text):
            raise ValueError(f"change {number} is not within the text")
        edits = edits or start < len(text)
        text = text[:start] + inserted.decode() + text[end:]
        digests.append(digest)
        revision = number
    mark = Mark(revision, len(text), first, segment, edits)
    return Saved(id.decode(), owner.decode(), token, options.decode(), text, mark, tuple(digests[-HISTORY:]))


def reason_of(error: Exception) -> str:
    """Why the file cannot be used, in a few words."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, UnicodeDecodeError):  # SQLite's own words, about names that are damaged
        return "it is damaged"
    reason = str(error)
    return "it is in use by another process" if "locked" in reason else reason
