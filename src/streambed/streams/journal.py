"""Accepted text on disk, in SQLite, so that it outlives the process.

One thread writes. What waits when it is free goes into one transaction (group commit), and only when that is on disk are
those who wait told. A session's row holds its text at some revision, and `changes` what came after it; both go when it ends.

SQLite (https://sqlite.org/wal.html) in WAL mode: with `synchronous=FULL` a commit survives loss of power, with `NORMAL` the
end of the process. `secure_delete` overwrites what is deleted, and the log is emptied after each erasure.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from streambed.errors import SettingsError, StorageFull
from streambed.streams.protocol import DIGEST, HISTORY, START, Commit, Window

logger = logging.getLogger(__name__)

APPLICATION_ID = 0x53424A4C  # "SBJL"
VERSION = 2
BATCH = 1024
"""Entries of one transaction."""
_CLOSE_SECONDS = 10.0
_AGAIN_SECONDS = 1.0
"""After how long an erasure is tried again."""

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


@dataclass(frozen=True)
class Saved:
    """A session as it is on disk."""

    id: str
    owner: str
    token: bytes
    """Digest of the resume token."""
    options: str
    """`SessionOptions` as JSON, its text left out."""
    text: str = ""
    revision: int = 0
    digests: tuple[bytes, ...] = ()
    edited: bool = False
    window: Window = START


@dataclass(frozen=True)
class Open:
    """A session begins."""

    saved: Saved


@dataclass(frozen=True)
class Options:
    """A session's options are others now."""

    session: str
    options: str


@dataclass(frozen=True)
class Change:
    """A session's text has changed."""

    session: str
    commit: Commit


@dataclass(frozen=True)
class Erase:
    """A session has ended; nothing of it may stay."""

    session: str


Entry = Open | Options | Change | Erase
Done = Callable[[StorageFull | None], None]
"""Called on the journal's thread when an entry is on disk, or could not be written."""


@dataclass
class _Item:
    entry: Entry
    done: Done
    error: StorageFull | None = field(default=None)


class Journal:
    """An open journal and its thread. Entries are written in the order of submission, or refused; never skipped."""

    def __init__(self, path: str | Path, sync: Literal["full", "normal"] = "full") -> None:
        """Opens or makes the file, for this process alone.

        Raises:
            SettingsError: it is in use, no journal, damaged, or cannot be written; in one line.
        """
        self._path = Path(path)
        self._sync = sync
        self._queue: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._revisions: dict[str, int] = {}
        """The revision of each session that was told to be on disk."""
        self._unerased: set[str] = set()
        """Sessions that have ended while nothing could be written."""
        self.on_commit: Callable[[int, int, float], None] = lambda entries, refused, seconds: None
        """Is told of each transaction: its entries, how many were refused, seconds. On the journal's thread."""
        self._damaged: set[str] = set()
        """Sessions that could not be read; they are left as they are."""
        try:
            self._connection: sqlite3.Connection | None = self._open()
        except (sqlite3.Error, OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"--journal {self._path}: {_reason(error)}") from None
        self._thread = threading.Thread(target=self._serve, name="streambed-journal", daemon=True)

    def recover(self) -> list[Saved]:
        """The sessions on disk, and starts the thread. What cannot be read of one session loses that session alone.

        Raises:
            SettingsError: the file is damaged.
        """
        sessions = []
        try:
            for row in self._rows(
                "SELECT id, owner, token, options, revision, text, digests, edited, start, segment FROM sessions"
            ):
                changes = self._rows(
                    'SELECT revision, "from", "to", text, digest FROM changes WHERE session = ? ORDER BY revision',
                    row[0],
                )
                try:
                    sessions.append(_replay(row, changes))
                except (ValueError, TypeError) as error:
                    name = row[0].decode(errors="replace")
                    self._damaged.add(name)
                    logger.error("journal: session %s is damaged and left out: %s", name, str(error))
        except (sqlite3.Error, UnicodeDecodeError, AttributeError) as error:
            self._disconnect()
            raise SettingsError(f"--journal {self._path}: {_reason(error)}") from None
        self._revisions = {saved.id: saved.revision for saved in sessions}
        self._thread.start()
        return sessions

    def _rows(self, query: str, session: bytes | None = None) -> list[Any]:
        """All rows, their texts as bytes: damaged ones are for us to find."""
        connection = self._connection
        assert connection is not None
        connection.text_factory = bytes
        try:
            values = () if session is None else (session.decode(errors="replace"),)
            return connection.execute(query, values).fetchall()
        finally:
            connection.text_factory = str

    def submit(self, entry: Entry, done: Done) -> None:
        """Writes an entry soon. Never waits."""
        self._queue.put(_Item(entry, done))

    def close(self) -> None:
        """Writes what was submitted, and ends."""
        self._queue.put(None)
        self._thread.join(_CLOSE_SECONDS)

    # The thread

    def _serve(self) -> None:
        open_ = True
        while open_:
            items: list[_Item | None] = []
            with contextlib.suppress(queue.Empty):
                items.append(self._queue.get(timeout=_AGAIN_SECONDS if self._unerased else None))
                while len(items) < BATCH:
                    items.append(self._queue.get_nowait())
            open_ = None not in items
            self._commit([item for item in items if item is not None])
        self._disconnect()

    def _commit(self, batch: list[_Item]) -> None:
        """One transaction. All are told that they are on disk, or that they are not."""
        started = time.monotonic()
        revisions = dict(self._revisions)
        erasing = self._unerased | {item.entry.session for item in batch if isinstance(item.entry, Erase)}
        try:
            if self._connection is None:
                self._connection = self._reopen()
                revisions = dict(self._revisions)
                logger.info("journal: writing again")
            self._connection.execute("BEGIN IMMEDIATE")
            for session in self._unerased:
                self._erase(self._connection, session)
            for item in batch:
                item.error = self._write(self._connection, item.entry, revisions)
            self._connection.execute("COMMIT")
            self._revisions = revisions
        except Exception as error:  # noqa: BLE001 - whatever it was, those who wait must hear that nothing was written
            # After a failed sync nobody knows what the file holds, so it is opened and read anew before more is written.
            refused = len(batch)
            self._disconnect()
            self._log(error, quiet=not batch)
            for item in batch:
                if not isinstance(item.entry, Erase):  # a session that has ended has ended; erasing it is tried again
                    item.error = StorageFull("the journal cannot be written; nothing was applied")
            for session in erasing:
                self._revisions.pop(session, None)
        else:
            refused = sum(item.error is not None for item in batch)
            if self._empty_log(erasing):
                erasing = set()
        self._unerased = erasing
        if batch:
            self.on_commit(len(batch), refused, time.monotonic() - started)
        for item in batch:
            item.done(item.error)

    def _empty_log(self, erased: set[str]) -> bool:
        """The log still holds what was erased. False where it could not be emptied; that is tried again, too."""
        assert self._connection is not None
        if not erased:
            return True
        try:
            busy: int = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        except sqlite3.Error as error:
            self._disconnect()
            self._log(error, quiet=False)
            return False
        return not busy

    def _log(self, error: Exception, quiet: bool) -> None:
        known = isinstance(error, (sqlite3.Error, OSError))
        if not known or not quiet:
            message = "journal: %s; nothing is acknowledged until it can be written again"
            logger.error(message, _reason(error), exc_info=None if known else error)

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    def _write(self, connection: sqlite3.Connection, entry: Entry, revisions: dict[str, int]) -> StorageFull | None:
        match entry:
            case Open(saved):
                self._erase(connection, saved.id)
                connection.execute(
                    "INSERT INTO sessions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        saved.id, saved.owner, saved.token, saved.options, saved.revision, saved.text.encode(),
                        b"".join(saved.digests), saved.edited, *saved.window,
                    ),
                )  # fmt: skip
                revisions[saved.id] = saved.revision
            case Options(session, options):
                connection.execute("UPDATE sessions SET options = ? WHERE id = ?", (options, session))
            case Change(session, commit):
                if revisions.get(session) != commit.revision - 1:
                    # An earlier change could not be written, and this one was on its way already.
                    return StorageFull("an earlier change could not be written; nothing was applied")
                self._write_change(connection, session, commit)
                revisions[session] = commit.revision
            case Erase(session):
                self._erase(connection, session)
                revisions.pop(session, None)
        return None

    def _write_change(self, connection: sqlite3.Connection, session: str, commit: Commit) -> None:
        if commit.snapshot is not None:
            text, digests = commit.snapshot
            connection.execute("DELETE FROM changes WHERE session = ?", (session,))
            connection.execute(
                "UPDATE sessions SET revision = ?, text = ?, digests = ?, edited = ?, start = ?, segment = ? WHERE id = ?",
                (commit.revision, text.encode(), digests, commit.edited, *commit.window, session),
            )
            return
        connection.execute(
            "INSERT INTO changes VALUES (?, ?, ?, ?, ?, ?)",
            (session, commit.revision, commit.start, commit.end, commit.text.encode(), commit.digest),
        )

    def _erase(self, connection: sqlite3.Connection, session: str) -> None:
        connection.execute("DELETE FROM changes WHERE session = ?", (session,))
        connection.execute("DELETE FROM sessions WHERE id = ?", (session,))

    def _reopen(self) -> sqlite3.Connection:
        """After a fault: changes that were refused, but reached the disk, go; what is no longer there cannot be written on.
        (A whole text that did is overwritten by the session's next change, which brings the whole text again.)"""
        connection = self._open()
        try:
            there = {row[0] for row in connection.execute("SELECT id FROM sessions")} - self._damaged
            connection.execute("BEGIN IMMEDIATE")
            for session in there:
                if session in self._revisions:
                    told = self._revisions[session]
                    connection.execute("DELETE FROM changes WHERE session = ? AND revision > ?", (session, told))
                else:
                    self._erase(connection, session)
            connection.execute("COMMIT")
        except BaseException:
            connection.close()
            raise
        self._revisions = {session: told for session, told in self._revisions.items() if session in there}
        return connection

    def _open(self) -> sqlite3.Connection:
        if not self._path.exists():
            _make(self._path)
        elif not self._path.is_file():
            raise OSError("not a file")
        _check(self._path)
        self._path.chmod(0o600)  # its log takes the mode over
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, timeout=0)
        try:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("BEGIN EXCLUSIVE")  # takes the lock, for as long as the connection lives
            if not connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
                _lay_out(connection)  # the file was there, and empty
            connection.execute("COMMIT")
            if connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
                raise sqlite3.OperationalError("its file system does not allow a write-ahead log")
            connection.execute(f"PRAGMA synchronous = {self._sync}")
            connection.execute("PRAGMA secure_delete = ON")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except BaseException:
            connection.close()
            raise
        return connection


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
    return Saved(
        id.decode(), owner.decode(), token, options.decode(), text, revision, tuple(digests[-HISTORY:]), edits,
        Window(first, segment),
    )  # fmt: skip


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, UnicodeDecodeError):  # SQLite's own words, about names that are damaged
        return "it is damaged"
    reason = str(error)
    return "it is in use by another process" if "locked" in reason else reason
