"""The journal: what it was told to keep it keeps, what it told to be on disk is there, what has ended is gone."""

from __future__ import annotations

import contextlib
import hashlib
import os
import queue
import random
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streambed.errors import SettingsError, StorageFull
from streambed.streams.mark import Mark
from streambed.streams.store import sqlite
from streambed.streams.store.sqlite import SQLiteStore
from streambed.streams.store.store import DIGEST, HISTORY, Commit, Entry, Erase, Open, Saved, SetOptions
from tests.journals import bytes_of, copy

SECONDS = 20.0
"""How long the journal's thread may take before a test calls it a hang."""
MARKER = "Zk7#quartz-marker-é∂"
"""Text that is nowhere else in a file."""


class Session:
    """A session's text as the state machine keeps it, and the entries that tell the journal of it."""

    def __init__(self, id: str = "ses_a", text: str = "", options: str = "{}") -> None:
        token = hashlib.sha256(id.encode()).digest()
        self.saved = Saved(id, f"owner of {id}", token, options, text, Mark(offset=len(text)))
        self.history = [self.saved]
        """How it stood at each revision."""

    @property
    def id(self) -> str:
        return self.saved.id

    @property
    def texts(self) -> list[str]:
        return [saved.text for saved in self.history]

    def open(self) -> Open:
        return Open(self.saved)

    def set_options(self, options: str) -> SetOptions:
        self.saved = replace(self.saved, options=options)
        return SetOptions(self.id, self.saved.epoch, options)

    def change(self, start: int, end: int, text: str, snapshot: bool = False) -> Commit:
        """Replaces a range."""
        old = self.saved
        digest = hashlib.blake2b(f"{old.mark.revision} {start} {end} {text}".encode(), digest_size=DIGEST).digest()
        whole = old.text[:start] + text + old.text[end:]
        self.saved = replace(
            old,
            text=whole,
            mark=Mark(old.mark.revision + 1, len(whole), edited=old.mark.edited or start < len(old.text)),
            digests=(*old.digests, digest)[-HISTORY:],
        )
        self.history.append(self.saved)
        everything = (whole, b"".join(self.saved.digests)) if snapshot else None
        return Commit(self.id, self.saved.epoch, self.saved.mark, start, end, text, digest, everything)

    def append(self, text: str, snapshot: bool = False) -> Commit:
        return self.change(len(self.saved.text), len(self.saved.text), text, snapshot)

    def take_back(self, revision: int) -> None:
        """Its changes after that were refused."""
        self.saved = self.history[revision]
        del self.history[revision + 1 :]


def submit(journal: SQLiteStore, *entries: Entry) -> list[queue.SimpleQueue[StorageFull | None]]:
    """Submits without waiting; what becomes of each comes to its queue, once."""
    told: list[queue.SimpleQueue[StorageFull | None]] = [queue.SimpleQueue() for _ in entries]
    for entry, each in zip(entries, told, strict=True):
        journal.submit(entry, each.put)
    return told


def write(journal: SQLiteStore, *entries: Entry) -> list[StorageFull | None]:
    """Submits entries and waits until all are told what became of them."""
    return [told.get(timeout=SECONDS) for told in submit(journal, *entries)]


def keep(journal: SQLiteStore, *entries: Entry) -> None:
    """Submits entries, which must be told to be on disk."""
    assert write(journal, *entries) == [None] * len(entries)


def log_of(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


class Disk:
    """Stands between journals and SQLite: keeps what is executed, makes it wait, has it fail."""

    def __init__(self) -> None:
        self.statements: list[str] = []
        self.before: dict[str, Exception] = {}
        """Statements that fail, by how they begin."""
        self.after: dict[str, Exception] = {}
        """Statements that do what they should and fail then."""
        self.opening: Exception | None = None
        self.opened = 0
        self.free = threading.Event()
        """Transactions wait until it is set."""
        self.free.set()
        self.waiting = threading.Event()
        """A transaction waits, or has waited."""

    def transactions(self) -> list[list[str]]:
        """The statements of each transaction, first words only."""
        result: list[list[str]] = []
        for statement in self.statements:
            if statement.startswith("BEGIN"):
                result.append([])
            elif result:
                result[-1].append(statement.split()[0])
        return result

    def hold(self, journal: SQLiteStore, entry: Entry) -> queue.SimpleQueue[StorageFull | None]:
        """Has a transaction of this entry wait, so that what is submitted next goes into one transaction."""
        self.waiting.clear()
        self.free.clear()
        told = submit(journal, entry)[0]
        assert self.waiting.wait(SECONDS)
        return told


class Connection:
    """A connection to SQLite through a `Disk`."""

    def __init__(self, real: sqlite3.Connection, disk: Disk) -> None:
        vars(self).update(_real=real, _disk=disk)

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        disk = self._disk
        disk.statements.append(sql)
        if sql.startswith("BEGIN"):
            disk.waiting.set()
            assert disk.free.wait(SECONDS)
        _raise(disk.before, sql)
        cursor = self._real.execute(sql, *parameters)
        if sql.startswith(tuple(disk.after)):
            cursor.close()
            _raise(disk.after, sql)
        return cursor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self._real, name, value)


def _raise(faults: dict[str, Exception], sql: str) -> None:
    for beginning, error in faults.items():
        if sql.startswith(beginning):
            raise type(error)(*error.args)  # one that is kept would keep its traceback, and with it the connection


IO_ERROR = sqlite3.OperationalError("disk I/O error")
FULL = sqlite3.OperationalError("database or disk is full")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """What is between the journals of the test and SQLite."""
    disk = Disk()
    real = SQLiteStore._open

    def open_(self: SQLiteStore) -> Any:
        disk.opened += 1
        if disk.opening is not None:
            raise disk.opening
        return Connection(real(self), disk)

    monkeypatch.setattr(SQLiteStore, "_open", open_)
    # A failed erasure is tried again soon, so that tests need not wait.
    monkeypatch.setattr(sqlite, "_AGAIN_SECONDS", 0.01)
    yield disk
    disk.before.clear()
    disk.after.clear()
    disk.opening = None
    disk.free.set()


Start = Callable[..., tuple[SQLiteStore, list[Saved]]]


@pytest.fixture
def start(disk: Disk, path: Path) -> Iterator[Start]:
    """Opens journals and recovers what they hold; `start()` closes the one before."""
    running: list[SQLiteStore] = []

    def open_one(where: Path = path, sync: Any = "full") -> tuple[SQLiteStore, list[Saved]]:
        stop()
        journal = SQLiteStore(where, sync)
        running.append(journal)
        try:
            return journal, journal.recover()
        except BaseException:
            running.remove(journal)
            journal._disconnect()
            raise

    def stop() -> None:
        while running:
            running.pop().close()

    yield open_one
    disk.before.clear()
    disk.after.clear()
    disk.opening = None
    disk.free.set()
    stop()


def refusal(path: Path) -> str:
    """What a journal that cannot be opened says, without the flag."""
    with pytest.raises(SettingsError) as caught:
        SQLiteStore(path)
    return reason(caught.value, path)


def reason(error: SettingsError, path: Path) -> str:
    said = str(error)
    assert said.startswith(f"--journal {path}: "), said
    assert len(said.splitlines()) == 1, said
    return said.removeprefix(f"--journal {path}: ")


# What is written comes back


def test_round_trip(start: Start) -> None:
    """Every kind of entry, and every field of a session."""
    journal, found = start()
    assert found == []
    a, b = Session("ses_a", "Grüße, 世界! 😀", '{"emit": {"on": "append"}}'), Session("ses_b")
    gone = Session("ses_c", "this one ends")
    keep(journal, a.open(), b.open(), gone.open())
    keep(journal, a.append(" and on"), a.change(0, 5, ""), b.append("é"), gone.append("!"))
    keep(journal, a.append("", snapshot=True), a.append("after it"), a.set_options('{"dimensions": 32}'))
    keep(journal, b.append("b"), Erase(gone.id, 1))

    _, found = start()
    assert found == [a.saved, b.saved]
    assert found[0].text == ", 世界! 😀 and onafter it"
    assert (found[0].mark.revision, len(found[0].digests), found[0].mark.edited) == (4, 4, True)
    assert (found[1].mark.revision, found[1].mark.edited) == (2, False)


def test_goes_on_after_recovery(start: Start) -> None:
    """Opened again and again, with changes in between and without."""
    session = Session()
    journal, _ = start()
    keep(journal, session.open())
    for turn in range(5):
        journal, found = start()
        assert found == [session.saved]
        if turn % 2 == 0:
            keep(journal, session.append(f"{turn} "), session.change(0, 1, "x", snapshot=turn == 2))


def test_options_and_text_do_not_touch_each_other(start: Start) -> None:
    journal, _ = start()
    session = Session(text="as it began")
    keep(journal, session.open(), session.set_options('{"a": 1}'), session.append("!"), session.set_options('{"b": 2}'))
    keep(journal, session.append("?", snapshot=True))
    _, found = start()
    assert found == [session.saved]
    assert found[0].options == '{"b": 2}'


def test_open_again_begins_anew(start: Start) -> None:
    """An id that opens again has nothing of what it was."""
    journal, _ = start()
    old, new = Session("ses_a", "old"), Session("ses_a", "new")
    keep(journal, old.open(), old.append("er"), new.open())
    keep(journal, new.append("er"))
    _, found = start()
    assert found == [new.saved]


def test_history_is_bounded(start: Start) -> None:
    """Digests of the last changes alone come back, whether from snapshots or from changes."""
    journal, _ = start(sync="normal")
    session = Session()
    keep(journal, session.open())
    keep(journal, *[session.append("a", snapshot=n == 900) for n in range(HISTORY + 100)])
    _, found = start()
    assert found == [session.saved]
    assert len(found[0].digests) == HISTORY


@pytest.mark.parametrize("sync", ["full", "normal"])
def test_told_is_written(start: Start, path: Path, tmp_path: Path, sync: str) -> None:
    """What was told to be on disk is there for who looks after a kill, without an orderly end."""
    journal, _ = start(sync=sync)
    session = Session()
    keep(journal, session.open())
    for turn in range(10):
        keep(journal, session.append(f"{turn} ", snapshot=turn == 5))
        seen = SQLiteStore(copy(path, tmp_path / str(turn)))
        assert seen.recover() == [session.saved]
        seen.close()


@pytest.mark.parametrize(("sync", "value"), [("full", 2), ("normal", 1)])
def test_sync(start: Start, sync: str, value: int) -> None:
    journal, _ = start(sync=sync)
    assert journal._connection is not None
    assert journal._connection.execute("PRAGMA synchronous").fetchone() == (value,)
    assert journal._connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_close_writes_what_was_submitted(start: Start, disk: Disk) -> None:
    journal, _ = start()
    session = Session()
    keep(journal, session.open())
    disk.hold(journal, session.append("a"))
    told = submit(journal, *[session.append("b") for _ in range(10)])
    threading.Timer(0.05, disk.free.set).start()
    journal.close()
    assert [each.get(timeout=SECONDS) for each in told] == [None] * 10
    _, found = start()
    assert found == [session.saved]


# Order


CHANGE = ["INSERT", "INSERT"]
"""What a change is to SQLite: where the session stands, and the change."""
OPTIONS = ["UPDATE", "SELECT", "UPDATE"]
"""New options, and the row's new checksum."""


def test_group_commit(start: Start, disk: Disk) -> None:
    """What waits when the thread is free goes into one transaction, and is told after it, in order."""
    journal, _ = start()
    a, b = Session("ses_a"), Session("ses_b")
    keep(journal, a.open(), b.open())
    first = disk.hold(journal, a.append("1"))
    order: list[int] = []
    entries = [a.append("2"), b.append("1"), a.set_options("[]"), a.append("3"), b.append("2")]
    done = threading.Event()
    for number, entry in enumerate(entries):
        journal.submit(entry, lambda error, number=number: order.append(number) if error is None else None)  # type: ignore[misc]
    journal.submit(SetOptions("nobody", 1, ""), lambda error: done.set())
    assert first.empty()
    assert order == [], "nobody is told before it is on disk"
    disk.free.set()
    assert done.wait(SECONDS)
    assert order == [0, 1, 2, 3, 4]
    assert disk.transactions()[-2:] == [
        [*CHANGE, "COMMIT"],
        [*CHANGE, *CHANGE, *OPTIONS, *CHANGE, *CHANGE, "UPDATE", "SELECT", "COMMIT"],
    ]
    _, found = start()
    assert found == [a.saved, b.saved]


def test_large_queue_is_several_transactions(start: Start, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "BATCH", 3)
    journal, _ = start()
    session = Session()
    keep(journal, session.open())
    disk.hold(journal, session.append("1"))
    told = submit(journal, *[session.append(str(n)) for n in range(7)])
    disk.free.set()
    assert [each.get(timeout=SECONDS) for each in told] == [None] * 7
    assert [(len(each) - 1) // len(CHANGE) for each in disk.transactions()[-4:]] == [1, 3, 3, 1]
    _, found = start()
    assert found == [session.saved]


@pytest.mark.parametrize("together", [True, False])
def test_no_change_without_the_one_before(start: Start, disk: Disk, together: bool) -> None:
    """A change whose predecessor is not on disk is refused, and all after it; other sessions go on."""
    journal, _ = start()
    session, other = Session("ses_a"), Session("ses_b")
    keep(journal, session.open(), other.open(), session.append("1"))
    session.append("this one is lost on the way")
    held = disk.hold(journal, other.append("0"))
    entries = [session.append("3"), other.append("1"), session.append("4", snapshot=True), other.append("2")]
    if together:
        told = submit(journal, *entries)
        disk.free.set()
        said = [each.get(timeout=SECONDS) for each in told]
    else:
        disk.free.set()
        said = [write(journal, entry)[0] for entry in entries]
    assert held.get(timeout=SECONDS) is None
    assert [type(each) for each in said] == [StorageFull, type(None), StorageFull, type(None)]
    session.take_back(1)
    keep(journal, session.append("2"))
    _, found = start()
    assert found == [session.saved, other.saved]


@pytest.mark.parametrize("revision", [0, 1, 3, 7])
def test_only_the_next_revision(start: Start, revision: int) -> None:
    """Neither the same revision again, nor an older, nor one further on."""
    journal, _ = start()
    session = Session()
    keep(journal, session.open(), session.append("1"))
    good = session.append("2")
    wrong = replace(good, mark=replace(good.mark, revision=revision))
    assert isinstance(write(journal, wrong)[0], StorageFull)
    keep(journal, good)
    assert isinstance(write(journal, good)[0], StorageFull), "twice is once"
    _, found = start()
    assert found == [session.saved]


@pytest.mark.parametrize("together", [True, False])
def test_changes_of_no_session(start: Start, path: Path, disk: Disk, together: bool) -> None:
    """Of one that never opened, or has ended."""
    journal, _ = start()
    session, stranger, guard = Session("ses_a", MARKER), Session("ses_b"), Session("ses_c")
    keep(journal, guard.open(), session.open(), session.append(MARKER))
    entries = [Erase(session.id, 1), session.append(MARKER), session.append(MARKER, True), stranger.append(MARKER)]
    if together:
        disk.hold(journal, guard.append("x"))
        told = submit(journal, *entries)
        disk.free.set()
        said = [each.get(timeout=SECONDS) for each in told]
    else:
        keep(journal, guard.append("x"))
        said = [write(journal, entry)[0] for entry in entries]
    assert [type(each) for each in said] == [type(None), StorageFull, StorageFull, StorageFull]
    assert MARKER.encode() not in bytes_of(path)
    _, found = start()
    assert found == [guard.saved]


# The file

_HOLD = """
import sys
from streambed.streams.store.sqlite import SQLiteStore
journal = SQLiteStore(sys.argv[1])
journal.recover()
print("open", flush=True)
sys.stdin.read()
"""


def test_nobody_else_reads_it(start: Start, path: Path) -> None:
    """Text is private: mode 0600, of the log too, also where the file was another's to read."""
    journal, _ = start()
    session = Session()
    keep(journal, session.open())
    for each in (path, log_of(path)):
        assert stat.S_IMODE(each.stat().st_mode) == 0o600
    assert {file.name for file in path.parent.iterdir()} == {path.name, log_of(path).name}
    journal.close()
    path.chmod(0o644)
    journal, _ = start()
    keep(journal, session.append("a"))
    for each in (path, log_of(path)):
        assert stat.S_IMODE(each.stat().st_mode) == 0o600


def test_in_use_in_this_process(start: Start, path: Path) -> None:
    journal, _ = start()
    session = Session()
    keep(journal, session.open())
    for _ in range(2):
        assert refusal(path) == "it is in use by another process"
        keep(journal, session.append("a"))
    # The attempt has not cost the first one its lock: POSIX drops a process's locks when it closes any descriptor.
    late = subprocess.run(
        [sys.executable, "-c", _HOLD, str(path)], stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert "it is in use by another process" in late.stderr, late.stdout
    keep(journal, session.append("a"))
    journal.close()
    _, found = start()
    assert found == [session.saved]


def test_in_use_by_another_process(start: Start, path: Path) -> None:
    """In either direction, from before the first entry until the end, however it ends."""
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        assert refusal(path) == "it is in use by another process"
        other.kill()
        other.wait(SECONDS)
    journal, _ = start()  # a kill leaves no lock
    keep(journal, Session().open())
    late = subprocess.run(
        [sys.executable, "-c", _HOLD, str(path)], stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert late.stdout == ""
    assert "SettingsError" in late.stderr
    assert "it is in use by another process" in late.stderr
    keep(journal, Session("ses_b").open())


def test_still_in_use_after_a_fault(start: Start, path: Path, disk: Disk) -> None:
    """The lock is taken again when the file is opened anew; who has taken it meanwhile keeps it."""
    journal, _ = start()
    session = Session()
    keep(journal, session.open())
    disk.before["COMMIT"] = IO_ERROR
    assert write(journal, session.append("1")) != [None]
    session.take_back(0)
    disk.before.clear()
    keep(journal, session.append("1", snapshot=True))
    assert refusal(path) == "it is in use by another process"

    disk.before["COMMIT"] = IO_ERROR
    assert write(journal, session.append("2")) != [None]
    session.take_back(1)
    disk.before.clear()
    thief = SQLiteStore(path)
    assert write(journal, session.append("2", snapshot=True)) != [None]
    session.take_back(1)
    assert thief.recover() == [session.saved]
    thief.close()
    keep(journal, session.append("2", snapshot=True))
    _, found = start()
    assert found == [session.saved]


def _text(path: Path) -> None:
    path.write_text("Dear diary,\n" * 100)


def _short_text(path: Path) -> None:
    path.write_text("to do")


def _other_database(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE sessions (id)")
    connection.commit()
    connection.close()


def _other_log(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE mail (body)")
    connection.execute("INSERT INTO mail VALUES ('kept')")
    connection.commit()
    connection.close()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (_text, "file is not a database"),
        (_short_text, "file is not a database"),
        (_other_database, "it is no journal of Streambed"),
        (_other_log, "it is no journal of Streambed"),
        (Path.mkdir, "not a file"),
    ],
)
def test_no_journal(path: Path, make: Callable[[Path], None], says: str) -> None:
    """Says what is wrong, and leaves alone what is not its own."""
    make(path)
    path.chmod(0o755)
    before = path.read_bytes() if path.is_file() else b""
    assert refusal(path) == says
    assert (path.read_bytes() if path.is_file() else b"") == before
    assert stat.S_IMODE(path.stat().st_mode) == 0o755
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_device_is_no_journal() -> None:
    assert refusal(Path("/dev/null")) == "not a file"


def test_no_directory(tmp_path: Path) -> None:
    assert refusal(tmp_path / "nowhere" / "journal") == "No such file or directory"
    (tmp_path / "file").write_text("")
    assert refusal(tmp_path / "file" / "journal") == "Not a directory"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only(start: Start, path: Path) -> None:
    journal, _ = start()
    keep(journal, Session().open())
    journal.close()
    path.parent.chmod(0o500)
    try:
        assert refusal(path.with_name("other")) == "Permission denied"
        path.chmod(0o400)
        refusal(path)
    finally:
        path.parent.chmod(0o700)


def test_read_only_file_system(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root, who may write anywhere but there."""
    real = os.open

    def read_only(where: Any, flags: int, *more: Any, **others: Any) -> int:
        if flags & os.O_CREAT:
            raise OSError(30, "Read-only file system")
        return real(where, flags, *more, **others)

    monkeypatch.setattr(os, "open", read_only)
    assert refusal(path) == "Read-only file system"


def test_newer_version(start: Start, path: Path) -> None:
    journal, _ = start()
    session = Session()
    keep(journal, session.open())
    journal.close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 4")
    connection.execute("CREATE TABLE more (a)")  # what a newer version is for
    connection.close()
    assert refusal(path) == "it has version 4; this Streambed writes 3"
    connection = sqlite3.connect(path)
    connection.execute("DROP TABLE more")
    connection.execute("PRAGMA user_version = 3")
    connection.close()
    _, found = start()
    assert found == [session.saved], "to look at it has changed nothing"


def test_empty_file(start: Start, path: Path) -> None:
    """What a kill leaves right after the file was made, or `touch`."""
    path.touch()
    journal, found = start()
    assert found == []
    session = Session()
    keep(journal, session.open())
    _, found = start()
    assert found == [session.saved]


_MAKE = """
import resource, signal, sys
from streambed.streams.store.sqlite import SQLiteStore
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
SQLiteStore(sys.argv[1])
"""


@pytest.mark.parametrize("size", [0, 512, 4096, 8192, 12288])
def test_killed_while_it_was_made(start: Start, path: Path, size: int) -> None:
    """A start that was killed at its first bytes does not stop the next one."""
    # The first write beyond the size is the end of the process, by signal.
    made = subprocess.run([sys.executable, "-B", "-c", _MAKE, str(path), str(size)], capture_output=True)
    assert made.returncode in (-signal.SIGXFSZ, 0), made.stderr
    assert made.returncode or size > 4096
    journal, found = start()
    assert found == []
    session = Session()
    keep(journal, session.open())
    _, found = start()
    assert found == [session.saved]


# Damage


def _example(journal: SQLiteStore, path: Path) -> tuple[Session, list[int]]:
    """A session whose changes have a transaction each; with the log's size after each revision."""
    session, ends = Session(text="begin "), []
    keep(journal, session.open())
    ends.append(log_of(path).stat().st_size)
    for turn in range(12):
        length = len(session.saved.text)
        entry = session.append(f"append {turn} ") if turn % 3 else session.change(length // 2, length, f"edit {turn} ")
        keep(journal, entry)
        ends.append(log_of(path).stat().st_size)
    return session, ends


def test_torn_log(start: Start, path: Path, tmp_path: Path) -> None:
    """Wherever the log ends, all that was told before that place is there, and nothing that never was."""
    journal, _ = start()
    journal.close()
    journal, _ = start()  # now the tables are in the file, and the log is empty
    session, ends = _example(journal, path)
    whole = copy(path, tmp_path / "whole")
    base, log = whole.read_bytes(), log_of(whole).read_bytes()
    assert ends == sorted(ends)
    assert ends[-1] == len(log)
    places = sorted(
        {*range(0, len(log), 331), *(end + by for end in ends for by in (-1, 0, 1) if end + by <= len(log))}
    )
    torn = tmp_path / "torn"
    for place in places:
        journal.close()
        torn.write_bytes(base)
        log_of(torn).write_bytes(log[:place])
        journal, found = start(torn, "normal")
        told = sum(end <= place for end in ends)
        expected = [session.history[told - 1]] if told else []
        assert found == expected, f"the log ended after {place} of {len(log)} bytes"


def test_damaged_log(start: Start, path: Path, tmp_path: Path) -> None:
    """A flipped byte in the log: what came before it is there, and nothing that never was."""
    journal, _ = start()
    journal.close()
    journal, _ = start()
    session, ends = _example(journal, path)
    whole = copy(path, tmp_path / "whole")
    base, log = whole.read_bytes(), log_of(whole).read_bytes()
    torn = tmp_path / "torn"
    for place in range(3, len(log), 487):
        journal.close()
        torn.write_bytes(base)
        log_of(torn).write_bytes(log[:place] + bytes([log[place] ^ 0x55]) + log[place + 1 :])
        journal, found = start(torn, "normal")
        before = sum(end <= place for end in ends)
        assert found in (
            [[each] for each in session.history[max(before - 1, 0) :]] + [[]] * (before == 0 or place < 32)
        )


def _sessions(journal: SQLiteStore) -> list[Session]:
    sessions = []
    for name in "abc":
        session = Session(f"ses_{name}" * 4, f"{name} began ")
        keep(journal, session.open(), *[session.append(f"{name}{n} é ") for n in range(20)])
        sessions.append(session)
    return sessions


def test_truncated_file(start: Start, path: Path) -> None:
    """Refused in one line, or what is there recovers; no traceback."""
    journal, _ = start()
    _sessions(journal)
    journal.close()
    whole = path.read_bytes()
    refused = 0
    for size in sorted({*range(0, len(whole), 509), *range(1, 200, 13)}):
        journal.close()
        path.write_bytes(whole[:size])
        try:
            journal, _ = start(sync="normal")
        except SettingsError as error:
            reason(error, path)
            refused += 1
        journal.close()
        log_of(path).unlink(missing_ok=True)
    assert refused


@pytest.mark.parametrize("seed", range(2))
def test_flipped_bytes(start: Start, path: Path, seed: int, caplog: pytest.LogCaptureFixture) -> None:
    """No start is refused and no wrong text served: what is lost is said, the rest recovers and can be written on."""
    journal, _ = start()
    sessions = {session.id: session.saved for session in _sessions(journal)}
    journal.close()
    whole = path.read_bytes()
    pages = range(0, len(whole), 4096)
    rng = random.Random(seed)
    outcomes = {"lost": 0, "recovered": 0}
    for turn in range(200):
        # Heads of the file and of pages, where SQLite's own structures are, more often than anywhere.
        at = rng.choice(pages) + rng.randrange(200) if turn % 2 else rng.randrange(len(whole))
        damaged = bytearray(whole)
        for place in range(at, min(at + rng.choice([1, 1, 1, 2, 20]), len(whole))):
            damaged[place] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        caplog.clear()
        journal, found = start(sync="normal")
        about = f"seed {seed}, turn {turn}, bytes from {at}"
        assert all(each == sessions[each.id] for each in found), about
        assert len(found) == 3 or caplog.records, f"{about}: what is lost is said"
        assert "began" not in caplog.text, "text is never logged"
        outcomes["recovered" if len(found) == 3 else "lost"] += 1
        write(journal, Session("ses_new").open())
        journal.close()
        for file in (log_of(path), *path.parent.glob(f"{path.name}.damaged-*")):
            file.unlink(missing_ok=True)
    assert all(outcomes.values()), outcomes
    assert outcomes["recovered"] > outcomes["lost"]


def test_a_damaged_file_is_kept_for_its_owner_alone(start: Start, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    journal, _ = start()
    sessions = [session.saved for session in _sessions(journal)]
    journal.close()
    whole = path.read_bytes()
    path.write_bytes(b"?" * 16 + whole[16:])
    _, found = start()
    assert found == sessions
    (aside,) = path.parent.glob(f"{path.name}.damaged-*")
    assert aside.read_bytes()[16:] == whole[16:]
    assert stat.S_IMODE(aside.stat().st_mode) == 0o600
    assert str(aside) in caplog.text
    _, found = start()
    assert found == sessions


def test_sessions_of_a_journal_that_has_seen_millions_are_found(start: Start, path: Path) -> None:
    """Their rows have numbers far beyond what a file of this size holds."""
    journal, _ = start()
    sessions = [session.saved for session in _sessions(journal)]
    journal.close()
    alter(path, "UPDATE sessions SET rowid = rowid * 10000000")
    path.write_bytes(b"?" * 16 + path.read_bytes()[16:])
    _, found = start()
    assert found == sessions


OLD = """
CREATE TABLE sessions (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, token BLOB NOT NULL, options TEXT NOT NULL,
    revision INTEGER NOT NULL, text BLOB NOT NULL, digests BLOB NOT NULL, edited INTEGER NOT NULL,
    start INTEGER NOT NULL, segment INTEGER NOT NULL
) STRICT;
CREATE TABLE changes (
    session TEXT NOT NULL, revision INTEGER NOT NULL, "from" INTEGER NOT NULL, "to" INTEGER NOT NULL,
    text BLOB NOT NULL, digest BLOB NOT NULL, PRIMARY KEY (session, revision)
) STRICT, WITHOUT ROWID;
PRAGMA application_id = 0x53424A4C;
PRAGMA user_version = 2;
"""


def test_a_journal_without_checksums_gets_them(start: Start, path: Path, tmp_path: Path) -> None:
    journal, _ = start(tmp_path / "new")
    sessions = [session.saved for session in _sessions(journal)]
    journal.close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(OLD)
        connection.execute("ATTACH ? AS new", (str(tmp_path / "new"),))
        columns = "id, owner, token, options, revision, text, digests, edited, start, segment"
        connection.execute(f"INSERT INTO sessions SELECT {columns} FROM new.sessions")
        connection.execute('INSERT INTO changes SELECT session, revision, "from", "to", text, digest FROM new.changes')
        connection.commit()
    for _ in range(2):
        _, found = start()
        assert found == sessions
    start(tmp_path / "other")
    alter(path, "UPDATE changes SET text = x'61' WHERE session = ? AND revision = 20", sessions[1].id)
    _, found = start()
    assert found == [sessions[0], sessions[2]]


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the journal logs, as text alone."""
    messages: list[str] = []

    class Log:
        def error(self, message: str, *values: object) -> None:
            messages.append(message % values)

    monkeypatch.setattr(sqlite, "logger", Log())
    return messages


def alter(path: Path, statement: str, *parameters: Any) -> None:
    """Damages what is in a closed journal."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA ignore_check_constraints = ON")
    assert connection.execute(statement, parameters).rowcount, "nothing was damaged"
    connection.close()


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM changes WHERE session = ? AND revision = 1",
        "DELETE FROM changes WHERE session = ? AND revision = 7",
        "UPDATE changes SET revision = 99 WHERE session = ? AND revision = 20",
        'UPDATE changes SET "from" = 9999, "to" = 9999 WHERE session = ? AND revision = 7',
        'UPDATE changes SET "from" = -1 WHERE session = ? AND revision = 7',
        'UPDATE changes SET "from" = 5, "to" = 4 WHERE session = ? AND revision = 7',
        "UPDATE changes SET text = x'ff' WHERE session = ? AND revision = 7",
        "UPDATE sessions SET text = x'c3' WHERE id = ?",
        "UPDATE sessions SET revision = 5 WHERE id = ?",
        "UPDATE sessions SET revision = -1 WHERE id = ?",
        "UPDATE sessions SET owner = CAST(x'ff' AS TEXT) WHERE id = ?",
        "UPDATE sessions SET options = CAST(x'ff' AS TEXT) WHERE id = ?",
        "UPDATE sessions SET owner = 'another' WHERE id = ?",
        "UPDATE changes SET text = x'61' WHERE session = ? AND revision = 20",
        "DELETE FROM changes WHERE session = ? AND revision = 20",
        "DELETE FROM sessions WHERE id = ?",
        "DELETE FROM heads WHERE session = ?",
        "UPDATE heads SET revision = 19 WHERE session = ?",
    ],
)
def test_damaged_session(start: Start, path: Path, damage: str, logged: list[str]) -> None:
    """It is left out, which is logged; the others recover and go on."""
    journal, _ = start()
    a, b, c = _sessions(journal)
    journal.close()
    alter(path, damage, b.id)
    journal, found = start()
    assert found == [a.saved, c.saved]
    assert len(logged) == 1
    assert b.id in logged[0]
    assert "began" not in logged[0], "text is never logged"
    keep(journal, a.append("more"), c.append("more", snapshot=True))
    _, found = start()
    assert found == [a.saved, c.saved]


def test_damaged_session_holds_nothing(start: Start, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A handler that keeps what was logged (as pytest's does) keeps neither the file open nor its lock."""
    journal, _ = start()
    a, b, _ = _sessions(journal)
    journal.close()
    alter(path, "DELETE FROM changes WHERE session = ? AND revision = 7", b.id)
    start()
    assert b.id in caplog.text
    journal, _ = start()
    keep(journal, a.append("more"))


@pytest.mark.parametrize("table", ["sessions", "changes", "heads"])
def test_missing_table(start: Start, path: Path, table: str, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is left to recover; that is said, and the server starts."""
    journal, _ = start()
    _sessions(journal)
    journal.close()
    connection = sqlite3.connect(path)
    connection.execute(f"DROP TABLE {table}")
    connection.commit()
    connection.close()
    journal, found = start()
    assert found == []
    assert "0 sessions were recovered" in caplog.text
    keep(journal, Session().open())


# What has ended is gone


def test_erased(start: Start, path: Path) -> None:
    """When an erasure is told, no byte of the text is in any file; what others wrote is."""
    journal, _ = start()
    other = Session("ses_other", "another's text stays ")
    keep(journal, other.open())
    ways: dict[str, Callable[[Session], list[Entry]]] = {
        "as it began": lambda s: [],
        "appended": lambda s: [s.append(MARKER)],
        "replaced": lambda s: [s.append(MARKER), s.change(0, len(s.saved.text), "nothing")],
        "snapshot": lambda s: [s.append(MARKER), s.append(MARKER, snapshot=True)],
        "replaced, then snapshot": lambda s: [
            s.append(MARKER), s.change(0, len(s.saved.text), "nothing"), s.append("more", snapshot=True),
        ],
        "changes after a snapshot": lambda s: [s.append("a", snapshot=True), *[s.append(MARKER) for _ in range(30)]],
        "many pages": lambda s: [s.append(MARKER * 5000), s.append(MARKER * 3000, snapshot=True), s.append(MARKER)],
        "options": lambda s: [s.set_options(f'{{"instruction": "{MARKER}"}}'), s.set_options("{}")],
    }  # fmt: skip
    for name, way in ways.items():
        session = Session(f"ses_{MARKER}", MARKER if name == "as it began" else "", f'{{"x": "{MARKER}"}}')
        keep(journal, session.open(), *way(session), other.append("."))
        assert MARKER.encode() in bytes_of(path), "or this test would see nothing"
        keep(journal, Erase(session.id, 1))
        assert MARKER.encode() not in bytes_of(path), name
    assert b"another's text stays" in bytes_of(path)
    assert bytes_of(path) != b""
    _, found = start()
    assert found == [other.saved]


def test_erased_one_by_one(start: Start, path: Path) -> None:
    """Each entry in a transaction of its own, so that the log holds all of the pages' versions."""
    journal, _ = start()
    session = Session()
    keep(journal, session.open())
    for turn in range(20):
        keep(journal, session.change(0, len(session.saved.text) // 2, f"{MARKER} {turn}", snapshot=turn % 7 == 6))
    assert bytes_of(path).count(MARKER.encode()) > 20
    keep(journal, Erase(session.id, 1))
    assert MARKER.encode() not in bytes_of(path)


def test_erased_with_others_in_the_batch(start: Start, path: Path, disk: Disk) -> None:
    """A session that opens, changes and ends within one transaction leaves nothing."""
    journal, _ = start()
    guard, session = Session("ses_guard"), Session("ses_a", MARKER)
    keep(journal, guard.open())
    disk.hold(journal, guard.append("x"))
    told = submit(journal, session.open(), session.append(MARKER * 500), Erase(session.id, 1), guard.append("y"))
    disk.free.set()
    assert [each.get(timeout=SECONDS) for each in told] == [None] * 4
    assert MARKER.encode() not in bytes_of(path)
    _, found = start()
    assert found == [guard.saved]


def test_erased_after_recovery(start: Start, path: Path) -> None:
    journal, _ = start()
    session = Session(text=MARKER)
    keep(journal, session.open(), session.append(MARKER), session.append(MARKER))
    journal, _ = start()
    assert MARKER.encode() in bytes_of(path)
    keep(journal, Erase(session.id, 1), Erase("ses_nobody", 1))
    assert MARKER.encode() not in bytes_of(path)


# Random edits


@st.composite
def _steps(draw: st.DrawFn) -> list[tuple[Any, ...]]:
    text = st.text(st.sampled_from("ab é世😀\n\x00"), max_size=8)
    edit = st.tuples(st.just("edit"), st.integers(0, 2), st.floats(0, 1), st.floats(0, 1), text, st.booleans())
    append = st.tuples(st.just("edit"), st.integers(0, 2), st.just(1.0), st.just(1.0), text, st.booleans())
    options = st.tuples(st.just("options"), st.integers(0, 2), text)
    others = st.sampled_from([("reopen",), ("kill",)])
    erase = st.tuples(st.just("erase"), st.integers(0, 2))
    return draw(st.lists(st.one_of(edit, edit, append, append, append, options, others, erase), max_size=40))


@settings(max_examples=60)
@given(steps=_steps())
def test_random_edits(steps: list[tuple[Any, ...]]) -> None:
    """Three sessions through edits, snapshots, ends and kills; each comes back as it was told to be."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "0" / "journal"
        path.parent.mkdir()
        journal = SQLiteStore(path, "normal")
        assert journal.recover() == []
        sessions: dict[int, Session] = {}
        pending: list[queue.SimpleQueue[StorageFull | None]] = []
        try:
            for turn, (kind, *more) in enumerate([*steps, ("kill",), ("reopen",)]):
                if kind in ("reopen", "kill"):
                    assert [told.get(timeout=SECONDS) for told in pending] == [None] * len(pending)
                    pending.clear()
                    if kind == "kill":
                        target = Path(directory) / f"{turn + 1}"
                        target.mkdir()
                        for file in path.parent.iterdir():
                            shutil.copy(file, target)
                        path = target / "journal"
                    journal.close()
                    journal = SQLiteStore(path, "normal")
                    found = journal.recover()
                    expected = {session.id: session.saved for session in sessions.values()}
                    assert {saved.id: saved for saved in found} == expected
                    continue
                which = more[0]
                if kind == "erase":
                    if which in sessions:
                        pending += submit(journal, Erase(sessions.pop(which).id, 1))
                    continue
                if which not in sessions:
                    sessions[which] = Session(f"ses_{which}", "at first " * which)
                    pending += submit(journal, sessions[which].open())
                session = sessions[which]
                if kind == "options":
                    pending += submit(journal, session.set_options(more[1]))
                    continue
                _, start, end, text, snapshot = more
                places = sorted(round(place * len(session.saved.text)) for place in (start, end))
                pending += submit(journal, session.change(*places, text, snapshot))
        finally:
            journal.close()


# Faults


@pytest.mark.parametrize("where", ["BEGIN", "INSERT", "COMMIT"])
def test_failed_write(start: Start, path: Path, tmp_path: Path, disk: Disk, where: str) -> None:
    """Nothing is told to be on disk; once the disk works again, so does the journal, and nothing is lost."""
    journal, _ = start()
    a, b = Session("ses_a"), Session("ses_b")
    keep(journal, a.open(), b.open(), a.append("kept "), b.append("kept "))
    disk.before[where] = IO_ERROR
    for turn in range(3):
        new = Session("ses_new")
        said = write(journal, a.append("1"), a.append("2"), b.append("1"), new.open())
        assert [type(each) for each in said] == [StorageFull] * 4
        assert all(each is not None and "I/O" not in each.message for each in said), "the cause is for the log"
        a.take_back(1)
        b.take_back(1)
        seen = copy(path, tmp_path / str(turn))
        after_kill = sqlite3.connect(seen)
        assert after_kill.execute("SELECT count(*) FROM changes").fetchone() == (2,)
        after_kill.close()
    disk.before.clear()
    keep(journal, a.append("1 ", snapshot=True), b.append("1 ", snapshot=True))
    keep(journal, a.append("2"), b.append("2"))
    _, found = start()
    assert found == [a.saved, b.saved]


def test_fault_is_logged_without_text(start: Start, disk: Disk, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    journal, _ = start()
    session = Session()
    keep(journal, session.open())
    disk.before["COMMIT"] = IO_ERROR
    write(journal, session.append(MARKER))
    assert "disk I/O error" in caplog.text
    assert MARKER not in caplog.text
    assert "Traceback" not in caplog.text
    disk.before.clear()
    session.take_back(0)
    keep(journal, session.append(MARKER, snapshot=True))
    assert "writing again" in caplog.text


def test_next_batch_after_a_failure(start: Start, disk: Disk) -> None:
    """The batch after the one that failed can be written, but what builds on the failed one is refused."""
    journal, _ = start()
    session, other = Session("ses_a"), Session("ses_b")
    keep(journal, session.open(), other.open(), session.append("kept"))

    def works_again(error: StorageFull | None) -> None:
        disk.before.clear()

    disk.free.clear()
    disk.waiting.clear()
    disk.before["COMMIT"] = IO_ERROR
    journal.submit(session.append("2"), works_again)
    assert disk.waiting.wait(SECONDS)
    told = submit(journal, session.append("3"), session.append("4", snapshot=True), other.append("1"))
    disk.free.set()
    said = [each.get(timeout=SECONDS) for each in told]
    assert [type(each) for each in said] == [StorageFull, StorageFull, type(None)]
    session.take_back(1)
    keep(journal, session.append("2", snapshot=True))
    _, found = start()
    assert found == [session.saved, other.saved]


def test_failed_but_on_disk(start: Start, path: Path, tmp_path: Path, disk: Disk) -> None:
    """A commit that failed may have reached the disk. What is written next counts, once."""
    journal, _ = start()
    session = Session()
    keep(journal, session.open(), session.append("1"))
    disk.after["COMMIT"] = IO_ERROR
    for _ in range(2):
        assert [type(each) for each in write(journal, session.append("never"), session.append("told"))] == [
            StorageFull,
            StorageFull,
        ]
        session.take_back(1)
    disk.after.clear()
    # The state machine writes its whole text after a failure.
    keep(journal, session.append("2", snapshot=True))
    keep(journal, session.append("3"), session.append("4"))
    _, found = start()
    assert found == [session.saved]
    assert found[0].text == "1234"


def test_failed_but_on_disk_then_killed(start: Start, path: Path, tmp_path: Path, disk: Disk) -> None:
    """What is recovered then is one of the states that were asked for, at least the last that was told."""
    journal, _ = start()
    session = Session()
    keep(journal, session.open(), session.append("1"))
    disk.after["COMMIT"] = IO_ERROR
    write(journal, session.append("2"), session.append("3"))
    journal, found = start(copy(path, tmp_path / "killed"))
    assert len(found) == 1
    assert found[0] in session.history[1:]
    session.take_back(found[0].mark.revision)
    disk.after.clear()
    keep(journal, session.append("on"))


def test_failed_but_whole_on_disk_then_killed(start: Start, path: Path, tmp_path: Path, disk: Disk) -> None:
    """The same of a whole text that reached the disk; another session's writing has opened the file anew since."""
    journal, _ = start()
    session, other = Session("ses_a"), Session("ses_b")
    keep(journal, session.open(), session.append("1"), other.open())
    disk.after["COMMIT"] = IO_ERROR
    assert all(write(journal, session.append("2", snapshot=True)))
    disk.after.clear()
    keep(journal, other.append("1"))
    _, found = start(copy(path, tmp_path / "killed"))
    assert found == [session.history[2], other.saved]


def test_failed_but_opened(start: Start, disk: Disk) -> None:
    """A session whose opening failed is erased by who asked for it; then it is gone, whatever reached the disk."""
    journal, _ = start()
    session = Session(text=MARKER)
    disk.after["COMMIT"] = IO_ERROR
    assert write(journal, session.open()) != [None]
    disk.after.clear()
    keep(journal, Erase(session.id, 1))
    _, found = start()
    assert found == []


def test_really_full(start: Start, disk: Disk) -> None:
    """SQLite itself says that there is no room: refused, and taken once there is."""
    journal, _ = start()
    session, small = Session("ses_a", "kept "), Session("ses_b")
    keep(journal, session.open(), small.open(), session.append("too "))
    connection = journal._connection
    assert connection is not None
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    large = "x" * 100_000

    real = journal._open

    def open_full() -> Any:
        opened = real()
        opened.execute(f"PRAGMA max_page_count = {pages}")
        return opened

    journal._open = open_full  # type: ignore[method-assign]
    connection.execute(f"PRAGMA max_page_count = {pages}")
    for _ in range(3):
        assert isinstance(write(journal, session.append(large))[0], StorageFull)
        session.take_back(1)
        # What needs no more room is written still.
        keep(journal, small.append("s", snapshot=True))
    assert "database or disk is full" not in (session.saved.text + small.saved.text)
    journal._open = real  # type: ignore[method-assign]
    connection = journal._connection
    assert connection is not None
    connection.execute("PRAGMA max_page_count = 1000000")
    keep(journal, session.append(large, snapshot=True))
    _, found = start()
    assert found == [session.saved, small.saved]


def test_cannot_be_opened_again(start: Start, disk: Disk) -> None:
    journal, _ = start()
    session = Session()
    keep(journal, session.open())
    disk.before["COMMIT"] = IO_ERROR
    write(journal, session.append("1"))
    session.take_back(0)
    disk.before.clear()
    disk.opening = PermissionError(13, "Permission denied")
    for _ in range(3):
        assert isinstance(write(journal, session.append("1", snapshot=True))[0], StorageFull)
        session.take_back(0)
    disk.opening = None
    keep(journal, session.append("1", snapshot=True))
    _, found = start()
    assert found == [session.saved]


def test_failed_but_on_disk_is_taken_back(start: Start, path: Path, tmp_path: Path, disk: Disk) -> None:
    """ "Nothing was applied" stays true when the disk works again, whether or not the session is written to any more."""
    journal, _ = start()
    session, other = Session("ses_a"), Session("ses_b")
    keep(journal, session.open(), other.open(), session.append("1"))
    disk.after["COMMIT"] = IO_ERROR
    assert isinstance(write(journal, session.append("refused"))[0], StorageFull)
    session.take_back(1)
    disk.after.clear()
    keep(journal, other.append("1"))
    _, found = start(copy(path, tmp_path / "killed"))
    assert found == [session.saved, other.saved]


@pytest.mark.parametrize("fault", ["before", "after"])
@pytest.mark.parametrize("where", ["BEGIN", "DELETE", "COMMIT", "PRAGMA wal_checkpoint"])
def test_erasure_is_tried_again(start: Start, path: Path, disk: Disk, where: str, fault: str) -> None:
    """A session that has ended has ended. Its text goes as soon as it can, without anything else to write."""
    journal, _ = start()
    session, other = Session("ses_a", MARKER), Session("ses_b", "stays")
    keep(journal, session.open(), session.append(MARKER), other.open())
    getattr(disk, fault)[where] = IO_ERROR
    keep(journal, Erase(session.id, 1))
    opened = disk.opened
    until(lambda: disk.opened > opened + 2)  # it tries again, in vain
    getattr(disk, fault).clear()
    until(lambda: MARKER.encode() not in bytes_of(path))
    keep(journal, other.append("!", snapshot=True))
    assert MARKER.encode() not in bytes_of(path)
    _, found = start()
    assert found == [other.saved]


def test_erasure_is_tried_again_at_the_end(start: Start, path: Path, disk: Disk) -> None:
    """An orderly end does not leave what it could not erase before."""
    journal, _ = start()
    session = Session("ses_a", MARKER)
    keep(journal, session.open())
    sqlite._AGAIN_SECONDS = 3600  # the fixture puts it back
    disk.before["COMMIT"] = IO_ERROR
    keep(journal, Erase(session.id, 1))
    disk.before.clear()
    journal.close()
    assert MARKER.encode() not in bytes_of(path)
    _, found = start()
    assert found == []


def test_no_change_after_a_failed_erasure(start: Start, path: Path, disk: Disk) -> None:
    """What was still on its way when a session ended may not bring its text back."""
    journal, _ = start()
    session = Session("ses_a", MARKER)
    keep(journal, session.open())
    disk.before["COMMIT"] = IO_ERROR
    keep(journal, Erase(session.id, 1))
    late = session.append(MARKER)
    disk.before.clear()
    assert isinstance(write(journal, late)[0], StorageFull)
    until(lambda: MARKER.encode() not in bytes_of(path))
    _, found = start()
    assert found == []
    assert MARKER.encode() not in bytes_of(path)


def test_batch_with_an_erasure_whose_end_fails(start: Start, path: Path, disk: Disk) -> None:
    """To empty the log can fail when all else is on disk (a full disk does that). Others' sessions must go on after it."""
    journal, _ = start()
    session, ended, guard = Session("ses_a"), Session("ses_b", MARKER), Session("ses_c")
    keep(journal, session.open(), ended.open(), guard.open(), session.append("1"))
    held = disk.hold(journal, guard.append("x"))
    told = submit(journal, session.append("2"), Erase(ended.id, 1))
    disk.before["PRAGMA wal_checkpoint"] = FULL
    disk.free.set()
    assert held.get(timeout=SECONDS) is None
    said = told[0].get(timeout=SECONDS)
    assert told[1].get(timeout=SECONDS) is None
    disk.before.clear()
    if said is not None:  # it may be told either; but what it was told counts
        session.take_back(1)
        keep(journal, session.append("again", snapshot=True))
    keep(journal, session.append("3"))
    until(lambda: MARKER.encode() not in bytes_of(path))
    _, found = start()
    assert found == [session.saved, guard.saved]


def test_other_file_in_its_place(start: Start, path: Path, disk: Disk) -> None:
    """A file that went away during a fault holds no session: no change may be told to be on disk, or be so."""
    journal, _ = start()
    session = Session(text="long text ")
    keep(journal, session.open(), session.append("1"))
    disk.before["COMMIT"] = IO_ERROR
    write(journal, session.append("2"))
    session.take_back(1)
    disk.before.clear()
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()
    said = write(journal, session.append("2", snapshot=True), session.append("3"))
    _, found = start()
    if said == [None, None]:
        assert found == [session.saved]
    else:
        assert [type(each) for each in said] == [StorageFull, StorageFull]


def test_bug_in_an_entry(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    """What cannot be written for a reason of our own is refused and logged; the thread lives."""
    journal, _ = start()
    session = Session()
    keep(journal, session.open())
    bad = Commit(session.id, 1, Mark(1, 1), 0, 0, "\ud800", b"d" * DIGEST, None)
    assert isinstance(write(journal, bad)[0], StorageFull)
    assert "Traceback" in caplog.text
    keep(journal, session.append("1", snapshot=True))
    _, found = start()
    assert found == [session.saved]


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32 - 1))
def test_random_faults(seed: int) -> None:
    """Commits fail at random, before or after they reach the disk, with kills in between: what was told is kept."""
    rng = random.Random(seed)
    disk = Disk()
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        real = SQLiteStore._open
        patch.setattr(SQLiteStore, "_open", lambda self: Connection(real(self), disk))
        patch.setattr(sqlite, "_AGAIN_SECONDS", 3600.0)  # with the next entries, not while files are copied
        path = Path(directory) / "0" / "journal"
        path.parent.mkdir()
        journal = SQLiteStore(path, "normal")
        journal.recover()
        session, ended = Session(), Session("ses_ended", MARKER)
        keep(journal, session.open(), ended.open())
        ghosts: list[Saved] = []  # states that were refused, but may have reached the disk since something was told
        for turn in range(25):
            happens = rng.random()
            where = rng.choice(["COMMIT", "BEGIN", "INSERT", "PRAGMA wal_checkpoint"])
            if happens < 0.2:
                disk.before[where] = IO_ERROR
            elif happens < 0.4:
                disk.after[where] = IO_ERROR
            told = session.saved.mark.revision
            entries: list[Entry] = []
            for number in range(rng.randint(1, 3)):
                length = len(session.saved.text)
                start = rng.randint(0, length)
                entries.append(
                    session.change(
                        start, rng.randint(start, length), f"{turn}.{number} ",
                        snapshot=(bool(ghosts) and number == 0) or rng.random() < 0.2,
                    )
                )  # fmt: skip
            if turn == 12:
                entries.insert(rng.randint(0, len(entries)), Erase(ended.id, 1))
            said = write(journal, *entries)
            changes = [each for each, entry in zip(said, entries, strict=True) if isinstance(entry, Commit)]
            good = next((n for n, each in enumerate(changes) if each is not None), len(changes))
            assert all(each is not None for each in changes[good:]), f"a hole: seed {seed}, turn {turn}"
            states = session.history[told + good :]
            disk.before.clear()
            disk.after.clear()
            if rng.random() < 0.2:
                target = Path(directory) / f"{turn + 1}"
                target.mkdir()
                for file in path.parent.iterdir():
                    shutil.copy(file, target)
                path = target / "journal"
                journal.close()
                journal = SQLiteStore(path, "normal")
                found = journal.recover()
                if turn >= 12 and found[1:]:  # killed before it could be erased: it goes when its time is over
                    keep(journal, Erase(ended.id, 1))
                assert found[0] in states or found[0] in ghosts, f"seed {seed}, turn {turn}"
                session.saved = found[0]
                session.history[told:] = [found[0]] * (found[0].mark.revision - told + 1)
                ghosts = []
            else:
                ghosts = states[1:] + (ghosts if not good else [])
                session.take_back(told + good)
        keep(journal, session.append("the end", snapshot=bool(ghosts)))
        journal.close()
        journal = SQLiteStore(path, "normal")
        found = journal.recover()
        journal.close()
        assert found == [session.saved], "a session came back after its end"


def until(condition: Callable[[], object]) -> None:
    """Waits for a condition; the limit is there to end a hanging test, not to measure."""
    pause = threading.Event()
    for _ in range(int(SECONDS / 0.01)):
        if condition():
            return
        pause.wait(0.01)
    pytest.fail("waited in vain")
