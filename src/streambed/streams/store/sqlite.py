"""Accepted text on disk, so that it outlives the process: the store of one machine.

One thread writes. What waits when it is free goes into one transaction (group commit), and only when that is on disk are
those who wait told. The file is locked for as long as it is open, so only this process can have claimed anything: epochs
begin anew with it and are kept in memory.
"""

import contextlib
import itertools
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

from streambed.errors import NotFound, SettingsError, StorageFull
from streambed.streams.store import sqlite_file, sqlite_salvage
from streambed.streams.store.sqlite_file import reason_of
from streambed.streams.store.store import Commit, Done, Entry, Erase, Open, Saved, SetOptions

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

BATCH = 1024
"""Entries of one transaction."""
_CLOSE_SECONDS = 10.0
_AGAIN_SECONDS = 1.0
"""Seconds after which an erasure is tried again."""


class _Standing(NamedTuple):
    """Epoch and revision of a session, as its owner was told."""

    epoch: int
    revision: int


@dataclass(eq=False)
class _Item:
    entry: Entry
    done: Done
    error: StorageFull | None = None


@dataclass(eq=False)
class _Claim:
    session: str
    claimed: Future[Saved]


class SQLiteStore:
    """An open journal and its thread. See `Store`."""

    def __init__(self, path: str | Path, sync: Literal["full", "normal"] = "full") -> None:
        """Opens or makes the file, for this process alone.

        Raises:
            SettingsError: it is in use, no journal, damaged, or cannot be written; in one line.
        """
        self._path = Path(path)
        self._sync = sync
        self._queue: queue.SimpleQueue[_Item | _Claim | None] = queue.SimpleQueue()
        self._standings: dict[str, _Standing] = {}
        self._unerased: set[str] = set()
        """Sessions that have ended while nothing could be written."""
        self._damaged: set[str] = set()
        """Sessions that could not be read; they are left as they are."""
        self.on_commit: Callable[[int, int, float], None] = lambda entries, refused, seconds: None
        self._connection: sqlite3.Connection | None = None
        self._or_salvage(self._connect)
        self._thread = threading.Thread(target=self._serve, name="streambed-journal", daemon=True)

    def recover(self) -> list[Saved]:
        """As `Store.recover`; starts the thread."""
        sessions = []
        for name, found in self._or_salvage(lambda: sqlite_file.read(self._connect())):
            if isinstance(found, Saved):
                sessions.append(found)
            else:
                self._damaged.add(name)
                logger.error("journal: session %s is damaged and left out: %s", name, str(found))
        self._standings = {saved.id: _Standing(saved.epoch, saved.mark.revision) for saved in sessions}
        self._thread.start()
        return sessions

    def claim(self, session: str) -> Future[Saved]:
        """As `Store.claim`."""
        item = _Claim(session, Future())
        self._queue.put(item)
        return item.claimed

    def submit(self, entry: Entry, done: Done) -> None:
        """As `Store.submit`."""
        self._queue.put(_Item(entry, done))

    def close(self) -> None:
        """Writes what was submitted, and ends."""
        self._queue.put(None)
        self._thread.join(_CLOSE_SECONDS)

    # The thread

    def _serve(self) -> None:
        open_ = True
        while open_:
            items: list[_Item | _Claim | None] = []
            with contextlib.suppress(queue.Empty):
                items.append(self._queue.get(timeout=_AGAIN_SECONDS if self._unerased else None))
                while len(items) < BATCH:
                    items.append(self._queue.get_nowait())
            open_ = None not in items
            asked = itertools.groupby((item for item in items if item is not None), key=type)
            if self._unerased and not any(isinstance(item, _Item) for item in items):
                self._commit([])
            for kind, group in asked:
                if kind is _Claim:
                    for claim in group:
                        assert isinstance(claim, _Claim)
                        self._claim(claim)
                else:
                    self._commit([item for item in group if isinstance(item, _Item)])
        self._disconnect()

    def _claim(self, claim: _Claim) -> None:
        session = claim.session
        try:
            found = dict(sqlite_file.read(self._connected(), session)).get(session)
        except (sqlite3.Error, OSError) as error:
            self._disconnect()
            self._log(error, quiet=False)
            claim.claimed.set_exception(StorageFull("the journal cannot be read"))
            return
        standing = self._standings.get(session)
        if standing is None or not isinstance(found, Saved) or session in self._unerased:
            claim.claimed.set_exception(NotFound("there is no such session; it may have expired", "session"))
            return
        epoch = standing.epoch + 1
        self._standings[session] = _Standing(epoch, found.mark.revision)
        claim.claimed.set_result(replace(found, epoch=epoch))

    def _commit(self, batch: list[_Item]) -> None:
        """One transaction. All are told that they are on disk, or that they are not."""
        started = time.monotonic()
        standings = dict(self._standings)
        erasing = self._unerased | {item.entry.session for item in batch if self._erases(item.entry)}
        try:
            connection = self._connected()
            standings = dict(self._standings)
            connection.execute("BEGIN IMMEDIATE")
            for session in self._unerased:
                sqlite_file.erase(connection, session)
            for item in batch:
                item.error = self._write(connection, item.entry, standings)
            connection.execute("COMMIT")
            self._standings = standings
        except Exception as error:  # noqa: BLE001 - whatever it was, those who wait must hear that nothing was written
            # After a failed sync nobody knows what the file holds, so it is opened and read anew before more is written.
            refused = len(batch)
            self._disconnect()
            self._log(error, quiet=not batch)
            for item in batch:
                if not self._erases(item.entry):  # a session that has ended has ended; erasing it is tried again
                    item.error = StorageFull("the journal cannot be written; nothing was applied")
            for session in erasing:
                self._standings.pop(session, None)
        else:
            refused = sum(item.error is not None for item in batch)
            if self._empty_log(erasing):
                erasing = set()
        self._unerased = erasing
        if batch:
            self.on_commit(len(batch), refused, time.monotonic() - started)
        for item in batch:
            item.done(item.error)

    def _erases(self, entry: Entry) -> bool:
        return isinstance(entry, Erase) and not _is_fenced(entry, self._standings)

    def _empty_log(self, erased: set[str]) -> bool:
        """The log still holds what was erased. False where it could not be emptied; that is tried again, too."""
        if not erased:
            return True
        assert self._connection is not None
        try:
            return sqlite_file.empty_log(self._connection)
        except sqlite3.Error as error:
            self._disconnect()
            self._log(error, quiet=False)
            return False

    def _log(self, error: Exception, quiet: bool) -> None:
        known = isinstance(error, (sqlite3.Error, OSError))
        if not known or not quiet:
            message = "journal: %s; nothing is acknowledged until it can be written again"
            logger.error(message, reason_of(error), exc_info=None if known else error)

    def _write(
        self, connection: sqlite3.Connection, entry: Entry, standings: dict[str, _Standing]
    ) -> StorageFull | None:
        if not isinstance(entry, Open) and _is_fenced(entry, standings):
            return StorageFull("another server has claimed the session; nothing was applied")
        match entry:
            case Open(saved):
                sqlite_file.insert(connection, saved)
                standings[saved.id] = _Standing(saved.epoch, saved.mark.revision)
            case SetOptions():
                sqlite_file.set_options(connection, entry.session, entry.options)
            case Commit():
                standing, revision = standings.get(entry.session), entry.mark.revision
                if standing is None or standing.revision != revision - 1:
                    # An earlier change could not be written, and this one was on its way already.
                    return StorageFull("an earlier change could not be written; nothing was applied")
                sqlite_file.change(connection, entry)
                standings[entry.session] = _Standing(entry.epoch, revision)
            case Erase():
                sqlite_file.erase(connection, entry.session)
                standings.pop(entry.session, None)
        return None

    # The connection

    def _or_salvage(self, work: Callable[[], Result]) -> Result:
        """Does it at the start; once more, with what can still be read, if the disk has damaged the file. Raises
        SettingsError."""
        try:
            try:
                return work()
            except (sqlite3.Error, UnicodeDecodeError) as error:
                self._disconnect()
                if not sqlite_salvage.is_damage(error, self._path):
                    raise
                sqlite_salvage.salvage(self._path)
                return work()
        except (sqlite3.Error, OSError, UnicodeDecodeError) as error:
            self._disconnect()
            raise SettingsError(f"--journal {self._path}: {reason_of(error)}") from None

    def _open(self) -> sqlite3.Connection:
        return sqlite_file.open_file(self._path, self._sync)

    def _connect(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = self._open()
        return self._connection

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = self._reopen()
            logger.info("journal: writing again")
        return self._connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    def _reopen(self) -> sqlite3.Connection:
        """After a fault: changes that were refused, but reached the disk, go; what is no longer there cannot be written on.
        (A whole text that did is overwritten by the session's next change, which brings the whole text again.)"""
        connection = self._open()
        try:
            there = {row[0] for row in connection.execute("SELECT id FROM sessions")} - self._damaged
            connection.execute("BEGIN IMMEDIATE")
            for session in there:
                if session in self._standings:
                    sqlite_file.take_back(connection, session, self._standings[session].revision)
                else:
                    sqlite_file.erase(connection, session)
            connection.execute("COMMIT")
        except BaseException:
            connection.close()
            raise
        self._standings = {session: told for session, told in self._standings.items() if session in there}
        return connection


def _is_fenced(entry: Entry, standings: dict[str, _Standing]) -> bool:
    """Whether somebody else has claimed the entry's session since it was made."""
    standing = standings.get(entry.session)
    return standing is not None and standing.epoch != entry.epoch
