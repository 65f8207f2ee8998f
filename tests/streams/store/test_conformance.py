"""What any store must do (`streams/store/store.py`), whichever it is: `STORES` has each.

Two owners write under their epochs; what one was told to be kept is what the next one claims, and nobody writes after
another has claimed.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from streambed.errors import NotFound, StorageFull
from streambed.streams.mark import Mark
from streambed.streams.store.sqlite import SQLiteStore
from streambed.streams.store.store import DIGEST, Commit, Entry, Erase, Open, Saved, SetOptions, Store

STORES: dict[str, Callable[[Path], Store]] = {"sqlite": lambda folder: SQLiteStore(folder / "journal")}
SECONDS = 20.0
Outcome = StorageFull | None


@pytest.fixture(params=STORES)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Store]:
    return lambda: STORES[request.param](tmp_path)


@pytest.fixture
def store(make: Callable[[], Store]) -> Iterator[Store]:
    store = make()
    assert store.recover() == []
    yield store
    store.close()


def new(id: str = "ses_a", text: str = "", epoch: int = 1) -> Saved:
    return Saved(id, "owner", b"token", "{}", text, Mark(offset=len(text)), epoch=epoch)


def change(saved: Saved, start: int, end: int, text: str, snapshot: bool = False) -> tuple[Saved, Commit]:
    """How a session stands after a range was replaced, and the entry that says so."""
    whole = saved.text[:start] + text + saved.text[end:]
    old = saved.mark
    mark = Mark(old.revision + 1, len(whole), edited=old.edited or start < len(saved.text))
    digest = f"{mark.revision:0{DIGEST}}".encode()
    after = replace(saved, text=whole, mark=mark, digests=(*saved.digests, digest))
    everything = (whole, b"".join(after.digests)) if snapshot else None
    return after, Commit(saved.id, saved.epoch, mark, start, end, text, digest, everything)


def append(saved: Saved, text: str) -> tuple[Saved, Commit]:
    return change(saved, len(saved.text), len(saved.text), text)


def submit(store: Store, *entries: Entry) -> list[Outcome]:
    told: list[queue.SimpleQueue[Outcome]] = []
    for entry in entries:
        told.append(queue.SimpleQueue())
        store.submit(entry, told[-1].put)
    outcomes = [each.get(timeout=SECONDS) for each in told]
    assert all(each.empty() for each in told), "told twice"
    return outcomes


def keep(store: Store, *entries: Entry) -> None:
    assert submit(store, *entries) == [None] * len(entries)


def claim(store: Store, session: str) -> Saved:
    return store.claim(session).result(SECONDS)


def test_a_claim_brings_all_that_was_kept(store: Store) -> None:
    saved = new(text="é")
    keep(store, Open(saved))
    saved, first = append(saved, " and on")
    saved, second = change(saved, 0, 1, "", snapshot=True)
    saved, third = append(saved, "😀")
    keep(store, first, second, third, SetOptions(saved.id, 1, '{"dimensions": 32}'))
    assert claim(store, saved.id) == replace(saved, options='{"dimensions": 32}', epoch=2)
    assert claim(store, saved.id).epoch == 3


def test_a_claim_of_nothing(store: Store) -> None:
    keep(store, Open(new()), Erase("ses_a", 1))
    for session in ("ses_a", "ses_b", ""):
        with pytest.raises(NotFound):
            claim(store, session)


def test_an_older_owner_writes_nothing(store: Store) -> None:
    saved = new(text="text")
    keep(store, Open(saved))
    mine = claim(store, saved.id)
    _, late = append(saved, " of an older owner")
    entries = [late, SetOptions(saved.id, 1, "late"), Erase(saved.id, 1)]
    assert [type(each) for each in submit(store, *entries)] == [StorageFull] * 3
    mine, ours = append(mine, "!")
    keep(store, ours)
    assert claim(store, saved.id) == replace(mine, epoch=3)


def test_what_was_submitted_before_a_claim_is_in_it(store: Store) -> None:
    saved = new()
    keep(store, Open(saved))
    for number in range(50):
        saved, entry = append(saved, f"{number} ")
        store.submit(entry, lambda error: None)
    assert claim(store, saved.id).text == saved.text


def test_only_the_next_change_is_kept(store: Store) -> None:
    saved = new()
    keep(store, Open(saved))
    after, first = append(saved, "a")
    _, second = append(after, "b")
    assert isinstance(submit(store, second)[0], StorageFull)
    keep(store, first)
    assert isinstance(submit(store, first)[0], StorageFull)
    keep(store, second)


def test_a_session_of_the_same_name_begins_anew(store: Store) -> None:
    keep(store, Open(new(text="old")))
    claim(store, "ses_a")
    keep(store, Erase("ses_a", 2), Open(new(text="new")))
    assert claim(store, "ses_a").text == "new"


def test_the_next_process_recovers_what_is_there(make: Callable[[], Store]) -> None:
    store = make()
    store.recover()
    saved, gone = new(text="text"), new("ses_b", "gone")
    keep(store, Open(saved), Open(gone))
    saved, entry = append(saved, "!")
    keep(store, entry, Erase(gone.id, 1))
    store.close()
    later = make()
    try:
        (found,) = later.recover()
        assert replace(found, epoch=saved.epoch) == saved
        assert claim(later, saved.id).epoch > found.epoch
    finally:
        later.close()


def test_each_transaction_is_told(store: Store) -> None:
    told: list[tuple[int, int]] = []
    store.on_commit = lambda entries, refused, seconds: told.append((entries, refused))
    keep(store, Open(new()))
    submit(store, SetOptions("ses_a", 7, "{}"))
    assert told == [(1, 0), (1, 1)]


class Owners(RuleBasedStateMachine):
    """Two owners, who do not know of each other, and what the store must hold."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()

    @initialize(kind=st.sampled_from(sorted(STORES)))
    def begin(self, kind: str) -> None:
        self.store = STORES[kind](Path(self.folder.name))
        self.store.recover()
        self.kept: Saved | None = None
        self.owners: list[Saved | None] = [None, None]
        """How each believes the session to stand."""

    which = st.integers(0, 1)

    @precondition(lambda self: self.kept is None)
    @rule(which=which, text=st.text("aé😀", max_size=4))
    def open(self, which: int, text: str) -> None:
        self.kept = self.owners[which] = new(text=text)
        self.owners[1 - which] = None
        keep(self.store, Open(self.kept))

    @rule(which=which)
    def claim(self, which: int) -> None:
        if self.kept is None:
            with pytest.raises(NotFound):
                claim(self.store, "ses_a")
            return
        claimed = claim(self.store, "ses_a")
        assert claimed.epoch > self.kept.epoch
        assert replace(claimed, epoch=0) == replace(self.kept, epoch=0)
        self.kept = self.owners[which] = claimed

    @rule(which=which, text=st.text("bü", max_size=3), at=st.floats(0, 1), snapshot=st.booleans())
    def change(self, which: int, text: str, at: float, snapshot: bool) -> None:
        mine = self.owners[which]
        if mine is None:
            return
        start = int(at * len(mine.text))
        after, entry = change(mine, start, len(mine.text) if snapshot else start, text, snapshot)
        owns = self.kept is not None and mine.epoch == self.kept.epoch
        outcome = submit(self.store, entry)[0]
        assert (outcome is None) == owns
        if owns:
            self.kept = self.owners[which] = after
        else:
            self.owners[which] = None  # it has learned that it has lost the session

    @rule(which=which)
    def erase(self, which: int) -> None:
        mine = self.owners[which]
        if mine is None or self.kept is None:
            return
        owns = mine.epoch == self.kept.epoch
        assert (submit(self.store, Erase("ses_a", mine.epoch))[0] is None) == owns
        self.owners[which] = None
        if owns:
            self.kept, self.owners = None, [None, None]

    @invariant()
    def one_owner_at_most(self) -> None:
        if self.__dict__.get("kept") is not None:
            assert sum(each is not None and each.epoch == self.kept.epoch for each in self.owners) <= 1  # type: ignore[union-attr]

    def teardown(self) -> None:
        with suppress(AttributeError):
            self.store.close()
        self.folder.cleanup()


Owners.TestCase.settings = settings(max_examples=40, stateful_step_count=20)
test_two_owners: Any = Owners.TestCase
