"""A journal's file: SQLite's, with three tables.

A session's row holds its text at some revision, `changes` what came after it, and `heads` where it stands; all go when it
ends. Every row has a checksum: what a disk has changed is never taken for somebody's text, nor is a text that lacks its end.

SQLite (https://sqlite.org/wal.html) in WAL mode: with `synchronous=FULL` a commit survives loss of power, with `NORMAL` the
end of the process. `secure_delete` overwrites what is deleted; the log is emptied by whoever erases.
"""

import contextlib
import hashlib
import os
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from streambed.streams.mark import Mark
from streambed.streams.store.store import DIGEST, HISTORY, Commit, Saved

APPLICATION_ID = 0x53424A4C  # "SBJL"
VERSION = 3
SUM = 8
"""Bytes of a checksum."""

_SESSIONS = """CREATE TABLE sessions (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, token BLOB NOT NULL, options TEXT NOT NULL,
    revision INTEGER NOT NULL, text BLOB NOT NULL, digests BLOB NOT NULL, edited INTEGER NOT NULL,
    start INTEGER NOT NULL, segment INTEGER NOT NULL, checksum BLOB NOT NULL
) STRICT"""
_CHANGES = """CREATE TABLE changes (
    session TEXT NOT NULL, revision INTEGER NOT NULL, "from" INTEGER NOT NULL, "to" INTEGER NOT NULL,
    text BLOB NOT NULL, digest BLOB NOT NULL, checksum BLOB NOT NULL, PRIMARY KEY (session, revision)
) STRICT, WITHOUT ROWID"""
_HEADS = """CREATE TABLE heads (
    session TEXT PRIMARY KEY, revision INTEGER NOT NULL, checksum BLOB NOT NULL
) STRICT, WITHOUT ROWID"""
SESSION = "id, owner, token, options, revision, text, digests, edited, start, segment"
_CHANGE = 'session, revision, "from", "to", text, digest'


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
        elif _version(connection) == 2:
            _add_checksums(connection)
        connection.execute("COMMIT")
        if connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
            raise sqlite3.OperationalError("its file system does not allow a write-ahead log")
        if (found := connection.execute("PRAGMA quick_check(1)").fetchall()[0][0]) != "ok":
            raise Damaged(found)
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


def checksum(*values: object) -> bytes:
    """Of a row's values, texts as bytes."""
    found = hashlib.blake2b(digest_size=SUM)
    for value in values:
        plain = value if isinstance(value, bytes) else repr(value).encode()
        found.update(len(plain).to_bytes(8, "little") + plain)
    return found.digest()


def _put_head(connection: sqlite3.Connection, session: str, revision: int) -> None:
    values = (session, revision, checksum(session.encode(), revision))
    connection.execute("INSERT OR REPLACE INTO heads VALUES (?, ?, ?)", values)


def _sum_session(connection: sqlite3.Connection, session: str) -> None:
    """After its row has changed."""
    for row in _rows(connection, f"SELECT {SESSION} FROM sessions WHERE id = ?", session):
        connection.execute("UPDATE sessions SET checksum = ? WHERE id = ?", (checksum(*row), session))


def insert(connection: sqlite3.Connection, saved: Saved) -> None:
    """Puts a session in the place of whatever has its id."""
    erase(connection, saved.id)
    mark = saved.mark
    connection.execute(
        "INSERT INTO sessions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, x'')",
        (
            saved.id, saved.owner, saved.token, saved.options, mark.revision, saved.text.encode(),
            b"".join(saved.digests), mark.edited, mark.start, mark.segment,
        ),
    )  # fmt: skip
    _sum_session(connection, saved.id)
    _put_head(connection, saved.id, mark.revision)


def change(connection: sqlite3.Connection, commit: Commit) -> None:
    session, mark = commit.session, commit.mark
    _put_head(connection, session, mark.revision)
    if commit.snapshot is None:
        values = (mark.revision, commit.start, commit.end, commit.text.encode(), commit.digest)
        row = (session, *values, checksum(session.encode(), *values))
        connection.execute("INSERT INTO changes VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        return
    text, digests = commit.snapshot
    connection.execute("DELETE FROM changes WHERE session = ?", (session,))
    connection.execute(
        "UPDATE sessions SET revision = ?, text = ?, digests = ?, edited = ?, start = ?, segment = ? WHERE id = ?",
        (mark.revision, text.encode(), digests, mark.edited, mark.start, mark.segment, session),
    )
    _sum_session(connection, session)


def set_options(connection: sqlite3.Connection, session: str, options: str) -> None:
    connection.execute("UPDATE sessions SET options = ? WHERE id = ?", (options, session))
    _sum_session(connection, session)


def take_back(connection: sqlite3.Connection, session: str, revision: int) -> None:
    """Takes out the changes after a revision. A whole text of a later one stays, and is where the session stands then."""
    connection.execute("DELETE FROM changes WHERE session = ? AND revision > ?", (session, revision))
    whole: int = connection.execute("SELECT revision FROM sessions WHERE id = ?", (session,)).fetchone()[0]
    _put_head(connection, session, max(revision, whole))


def erase(connection: sqlite3.Connection, session: str) -> None:
    connection.execute("DELETE FROM changes WHERE session = ?", (session,))
    connection.execute("DELETE FROM sessions WHERE id = ?", (session,))
    connection.execute("DELETE FROM heads WHERE session = ?", (session,))


def read(connection: sqlite3.Connection, session: str | None = None) -> list[tuple[str, Saved | ValueError]]:
    """The sessions that there are, or this one, by name. Of one that cannot be read, why. Raises sqlite3.Error."""
    only = [] if session is None else [session]
    where_id, where_session = ("", "") if session is None else (" WHERE id = ?", " WHERE session = ?")
    heads = {
        name_of(head[0]): head
        for head in _rows(connection, f"SELECT session, revision, checksum FROM heads{where_session}", *only)
    }
    found: dict[str, Saved | ValueError] = {}
    for row in _rows(connection, f"SELECT {SESSION}, checksum FROM sessions{where_id}", *only):
        name = name_of(row[0])
        found[name] = replay(row, changes_of(connection, name), heads.pop(name, None))
    lost = dict.fromkeys(heads, ValueError("its text is gone"))
    return list((found | lost).items())


def changes_of(connection: sqlite3.Connection, session: str) -> list[Any]:
    """A session's changes in their order. Raises sqlite3.Error."""
    query = f"SELECT {_CHANGE}, checksum FROM changes WHERE session = ? ORDER BY revision"
    return _rows(connection, query, session)


def name_of(id: object) -> str:
    """A session's id as it was read; a disk may have made anything of it."""
    return id.decode(errors="replace") if isinstance(id, bytes) else repr(id)


def _rows(connection: sqlite3.Connection, query: str, *values: str) -> list[Any]:
    """All rows, their texts as bytes: damaged ones are for us to find."""
    before, connection.text_factory = connection.text_factory, bytes
    try:
        return connection.execute(query, values).fetchall()
    finally:
        connection.text_factory = before


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
    for statement in (_SESSIONS, _CHANGES, _HEADS):
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {VERSION}")


def _add_checksums(connection: sqlite3.Connection) -> None:
    """Makes a journal of version 2 one of version 3."""
    for table in ("sessions", "changes"):
        connection.execute(f"ALTER TABLE {table} RENAME TO old_{table}")
    _lay_out(connection)
    connection.execute(f"INSERT INTO sessions SELECT {SESSION}, x'' FROM old_sessions")
    connection.execute(f"INSERT INTO changes SELECT {_CHANGE}, x'' FROM old_changes")
    for table in ("sessions", "changes"):
        connection.execute(f"DROP TABLE old_{table}")
    for session, revision in connection.execute("SELECT id, revision FROM sessions").fetchall():
        for row in _rows(connection, f"SELECT {_CHANGE} FROM changes WHERE session = ? ORDER BY revision", session):
            revision = row[1]
            values = (checksum(*row), session, revision)
            connection.execute("UPDATE changes SET checksum = ? WHERE session = ? AND revision = ?", values)
        _sum_session(connection, session)
        _put_head(connection, session, revision)


class Damaged(sqlite3.DatabaseError):
    """It is a journal of ours, and its pages do not fit together."""


def _check(path: Path) -> None:
    """Raises sqlite3.Error unless the file is empty or a journal of this version, or of the one before. Leaves it as it is,
    lock and all."""
    if not path.stat().st_size:
        return
    # Not by open(): closing a file gives up the locks that SQLite holds on it in this process.
    with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?immutable=1", uri=True)) as connection:
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        version = _version(connection)
        tables = {sql for (sql,) in connection.execute("SELECT sql FROM sqlite_schema WHERE type = 'table'")}
    is_ours = tables == {_SESSIONS, _CHANGES, _HEADS}  # then a number that differs is damage
    if application != APPLICATION_ID and not is_ours:
        raise Foreign("it is no journal of Streambed")
    if version not in (2, VERSION) and not is_ours:
        raise Foreign(f"it has version {version}; this Streambed writes {VERSION}")
    if is_ours and (application, version) != (APPLICATION_ID, VERSION):
        raise Damaged("its version is damaged")


class Foreign(sqlite3.DatabaseError):
    """It is something else, or of another version."""


def _version(connection: sqlite3.Connection) -> int:
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return version


def replay(row: Sequence[Any], changes: Iterable[Sequence[Any]], head: Sequence[Any] | None) -> Saved | ValueError:
    """The session of its row, of the changes after it and of where it stands, all with checksums; or why there is none."""
    try:
        for each in (row, *changes, *([] if head is None else [head])):
            if checksum(*each[:-1]) != each[-1]:
                raise ValueError("a checksum differs")
        saved = _replay(row, changes)
        if head is None or head[1] != saved.mark.revision:
            raise ValueError("its last changes are missing")
        return saved
    except (ValueError, TypeError) as error:
        return ValueError(str(error))


def _replay(row: Sequence[Any], changes: Iterable[Sequence[Any]]) -> Saved:
    """Raises ValueError where they do not fit together."""
    id, owner, token, options, revision, raw, joined, edited, first, segment, _ = row
    text = raw.decode()
    if revision < 0:
        raise ValueError(f"it is at revision {revision}")
    if not 0 <= first <= len(text) or segment < 0:
        raise ValueError(f"segment {segment} begins at {first}, and the text has {len(text)} characters")
    digests = [joined[at : at + DIGEST] for at in range(0, len(joined), DIGEST)]
    edits = bool(edited)
    for _, number, start, end, inserted, digest, _ in changes:
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
