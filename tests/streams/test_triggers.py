"""When a session embeds itself: rules over times, told by a clock that only these tests move."""

from __future__ import annotations

import itertools
import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streambed.errors import InvalidRequest
from streambed.streams.triggers import HYSTERESIS, Target, Trigger, Watches
from streambed.wire import Emit, Watch

MODES = ["manual", "append", "pause", "sentence", "drift"]
EMITTING = MODES[1:]


def unit(degrees: float) -> np.ndarray:
    return np.array([math.cos(math.radians(degrees)), math.sin(math.radians(degrees))], dtype=np.float32)


def watch(id: str = "w", threshold: float = 0.5, **more: object) -> Watch:
    return Watch(id=id, threshold=threshold, **more or {"embedding": [1.0, 0.0]})  # type: ignore[arg-type]


# Modes


@pytest.mark.parametrize("mode", MODES)
def test_nothing_is_wanted_before_the_first_change(mode: str) -> None:
    trigger = Trigger(Emit(on=mode), watching=True)
    assert trigger.wake_at() is None
    assert not trigger.wants_emit(1e9)
    assert not trigger.wants_probe(1e9)


def test_manual_never_emits() -> None:
    trigger = Trigger(Emit(on="manual"), watching=False)
    trigger.change("", "All of it. ", 10.0)
    assert trigger.wake_at() is None
    assert not trigger.wants_probe(1e9)


def test_manual_with_watches_looks_and_does_not_emit() -> None:
    trigger = Trigger(Emit(on="manual"), watching=True)
    trigger.change("", "a", 10.0)
    assert trigger.wants_probe(10.0)
    assert not trigger.wants_emit(1e9)
    trigger.probed(False, 10.0)
    assert not trigger.wants_probe(1e9)
    assert trigger.wake_at() is None


@pytest.mark.parametrize("mode", ["append", "drift"])
def test_every_change_is_wanted_at_once(mode: str) -> None:
    trigger = Trigger(Emit(on=mode), watching=False)
    for now in (10.0, 10.0, 11.0):
        trigger.change("", "a", now)
        assert trigger.wants_emit(now)
        assert trigger.wants_probe(now)
        trigger.probed(True, now)
        assert not trigger.wants_probe(now)


def test_a_pause_begins_anew_with_each_change() -> None:
    trigger = Trigger(Emit(on="pause", pause_ms=300), watching=False)
    trigger.change("", "a", 10.0)
    trigger.change("a", "b", 10.25)
    assert not trigger.wants_probe(10.5)
    assert trigger.wake_at() == 10.25 + 0.3
    assert trigger.wants_probe(10.25 + 0.3)
    assert trigger.due == 10.25 + 0.3, "whoever pauses does not wait"
    trigger.probed(True, 10.6)
    assert trigger.wake_at() is None


def test_a_sentence_is_emitted_at_its_end_and_what_follows_after_a_pause() -> None:
    trigger = Trigger(Emit(on="sentence", pause_ms=300), watching=False)
    trigger.change("", "One", 10.0)
    assert not trigger.wants_emit(10.25)
    trigger.change("One", ". Tw", 10.25)
    assert trigger.wants_emit(10.25)
    trigger.probed(True, 10.25)
    trigger.change("One. Tw", "o", 10.5)
    assert not trigger.wants_emit(10.75)
    assert trigger.wake_at() == 10.5 + 0.3
    assert trigger.wants_emit(10.5 + 0.3)


def test_a_sentence_end_that_was_not_emitted_yet_is_not_forgotten() -> None:
    trigger = Trigger(Emit(on="sentence", min_interval_ms=1000), watching=False)
    trigger.change("", "One. ", 10.0)
    trigger.probed(True, 10.0)
    trigger.change("One. ", "Two. ", 10.125)
    trigger.change("One. Two. ", "Th", 10.25)
    assert not trigger.wants_probe(10.25)
    assert trigger.wake_at() == 11.0
    assert trigger.wants_probe(11.0)
    assert trigger.due == 11.0


def test_looking_for_watches_does_not_use_up_the_emission() -> None:
    trigger = Trigger(Emit(on="pause", pause_ms=300), watching=True)
    trigger.change("", "a", 10.0)
    assert trigger.wants_probe(10.0)
    assert not trigger.wants_emit(10.0)
    trigger.probed(False, 10.0)
    assert trigger.wake_at() == 10.0 + 0.3
    assert trigger.wants_emit(10.0 + 0.3)


@pytest.mark.parametrize("mode", EMITTING)
def test_a_touched_text_is_emitted_though_it_did_not_change(mode: str) -> None:
    trigger = Trigger(Emit(on=mode), watching=False)
    trigger.touch(10.0)
    wake = trigger.wake_at()
    assert wake is not None
    assert trigger.wants_emit(max(wake, 10.0))


@pytest.mark.parametrize("mode", EMITTING)
def test_two_automatic_embeddings_keep_their_distance(mode: str) -> None:
    trigger = Trigger(Emit(on=mode, min_interval_ms=2000, pause_ms=10), watching=True)
    trigger.change("", "One. ", 10.0)
    trigger.probed(True, 10.0)
    trigger.change("One. ", "Two. ", 10.5)
    assert not trigger.wants_probe(11.9)
    assert trigger.wake_at() == 12.0
    assert trigger.wants_probe(12.0)


@pytest.mark.parametrize("interval", [0, 50, 2000])
def test_a_probe_that_could_not_be_had_is_tried_again_soon_but_not_too_soon(interval: int) -> None:
    trigger = Trigger(Emit(on="append", min_interval_ms=interval), watching=False)
    trigger.change("", "a", 10.0)
    trigger.probed(True, 10.0)
    trigger.change("a", "b", 10.0625)
    trigger.postpone(10.0625)
    wake = trigger.wake_at()
    assert wake == pytest.approx(max(10.1625, 10 + interval / 1000))
    assert not trigger.wants_probe(wake - 0.001)
    assert trigger.wants_probe(wake)


# Sentences


@pytest.mark.parametrize(
    ("chunks", "ends"),
    [
        (["Hello world"], []),
        (["Hello. "], [0]),
        (["Hello.", " "], [1]),
        (["Hello", ".", " W"], [2]),
        (["Hello. ", "W", "orld", " "], [0]),
        (["One. Two. ", "Three"], [0]),
        (["Really?!", " "], [1]),
        (["Well…", " "], [1]),
        (['"No."', " He"], [1]),
        (["(Yes", ".)", "\n"], [2]),
        (["He said “no.”", " "], [1]),
        (["a line", "\n"], [1]),
        (["\n"], [0]),
        (["It is 3.14"], []),
        (["It is 3.", "14"], []),
        (["It is 3", ".", "1", "4. "], [3]),
        (["see example.com/a?b=c!d"], []),
        (["你好"], []),
        (["你好。"], [0]),
        (["你", "好", "！", "再", "见"], [2]),
        (["真的？是。"], [0]),
        (["日本｡", "x"], [0]),
        (["好。”", "他"], [0]),
        (["全角。\u3000", "x"], [0]),
        (["a" * 50 + ".", " "], [1]),
        (["", "Hi.", "", " ", ""], [3]),
    ],
)
def test_where_sentences_end(chunks: list[str], ends: list[int]) -> None:
    trigger = Trigger(Emit(on="sentence", pause_ms=60_000), watching=False)
    text, found = "", []
    for index, chunk in enumerate(chunks):
        trigger.change(text, chunk, 10.0)
        text += chunk
        if trigger.wants_emit(10.0):
            found.append(index)
            trigger.probed(True, 10.0)
    assert found == ends


@given(st.lists(st.sampled_from(["a", "3", ".", "!", " ", "\n", "。", '"', ")"]), max_size=30), st.data())
def test_chunks_do_not_change_how_a_text_is_seen(characters: list[str], data: st.DataObject) -> None:
    def emits(chunks: list[str]) -> bool:
        trigger, text = Trigger(Emit(on="sentence"), watching=False), ""
        for chunk in chunks:
            trigger.change(text, chunk, 10.0)
            text += chunk
        return trigger.wants_emit(10.0)

    text = "".join(characters)
    cut = data.draw(st.integers(0, len(text)))
    # So many closing quotes in a row that their full stop is out of sight are left out.
    if not re.search(r'[")]{7}', text):
        assert emits([text]) == emits([text[:cut], text[cut:]])


# Times

emits = st.builds(
    Emit,
    on=st.sampled_from(MODES),
    min_interval_ms=st.sampled_from([0, 10, 70, 100, 330, 1000]),
    pause_ms=st.sampled_from([10, 70, 100, 300]),
)
operations = st.lists(
    st.one_of(
        st.sampled_from(["a", "b. ", "。", ""]),  # a change
        st.sampled_from(["touch", "fail"]),
        st.integers(1, 60),  # hundredths of a second
    ),
    max_size=30,
)


@given(emits, st.booleans(), operations, st.integers(0, 40))
def test_a_simulated_session(emit: Emit, watching: bool, operations: list[str | int], takes: int) -> None:
    """A clock of hundredths. Probes take a while, one at a time; those that start are noted."""
    trigger = Trigger(emit, watching)
    clock, text, newest, busy_until = 10_000, "", None, 0
    probed: list[tuple[float, str, bool]] = []

    def agree() -> None:
        now, wake = clock / 100, trigger.wake_at()
        if wake is None:
            assert not any(trigger.wants_probe(now + later) for later in (0, 0.5, 10, 1e6))
            return
        assert trigger.wants_probe(max(now, wake))
        if wake > now:
            earlier = (now, (now + wake) / 2, math.nextafter(wake, 0))
            assert not any(trigger.wants_probe(time) for time in earlier if time < wake)

    def look(now: float) -> None:
        if trigger.wants_probe(now):
            emitting = trigger.wants_emit(now)
            trigger.probed(emitting, now)
            probed.append((now, text, emitting))
            assert not trigger.wants_emit(now) or not emitting

    for operation in operations:
        match operation:
            case "touch":
                trigger.touch(clock / 100)
                newest = text
            case "fail":
                if trigger.wants_probe(clock / 100):
                    trigger.postpone(clock / 100)
                    assert not trigger.wants_probe(clock / 100)
            case str():
                trigger.change(text, operation, clock / 100)
                text += operation
                newest = text
            case int():
                for _ in range(operation):
                    clock += 1
                    before = len(probed)
                    if clock >= busy_until:
                        look(clock / 100)
                    if len(probed) > before:
                        busy_until = clock + takes
        agree()

    for _ in range(3):  # changes have stopped; the clock jumps to where it is told
        wake = trigger.wake_at()
        if wake is None:
            break
        now = max(wake, clock / 100, busy_until / 100)
        assert trigger.wants_probe(now)
        look(now)
        clock = math.ceil(now * 100)
    assert trigger.wake_at() is None

    if newest is None or (emit.on == "manual" and not watching):
        assert not probed
    else:
        assert probed[-1][1] == newest
        if emit.on != "manual":
            assert [text for _, text, emitting in probed if emitting][-1] == newest
    for (earlier, _, _), (later, _, _) in itertools.pairwise(probed):
        assert later - earlier >= emit.min_interval_ms / 1000 - 1e-9


# Watches


@pytest.mark.parametrize(
    ("watches", "param"),
    [
        ([watch("a"), watch("b"), watch("a")], "watch[2].id"),
        ([watch(text="t", embedding=[1.0, 0.0])], "watch[0]"),
        ([watch(text=None)], "watch[0]"),
        ([watch("a"), watch("b", embedding=[1.0])], "watch[1].embedding"),
        ([watch(embedding=[1.0, 0.0, 0.0])], "watch[0].embedding"),
        ([watch(embedding=[])], "watch[0].embedding"),
        ([watch(embedding=[0.0, 0.0])], "watch[0].embedding"),
        ([watch(embedding=[math.inf, 0.0])], "watch[0].embedding"),
        ([watch(embedding=[math.nan, 1.0])], "watch[0].embedding"),
    ],
)
def test_watches_that_make_no_sense(watches: list[Watch], param: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        Watches(2).check(watches)
    assert raised.value.param == param


def test_watches_that_make_sense() -> None:
    Watches(2).check([])
    Watches(2).check([watch("a"), watch("b", text="t"), watch("c", embedding=[0.0, -3.0])])


def test_a_watch_triggers_once_until_the_text_has_gone_away_again() -> None:
    watches = Watches(2)
    assert watches.replace([watch(threshold=0.5)]) == []
    edge = math.degrees(math.acos(0.5))
    just_below = math.degrees(math.acos(0.5 - HYSTERESIS / 2))
    far_below = math.degrees(math.acos(0.5 - HYSTERESIS * 2))
    path = [90, 10, 20, just_below, edge - 1, far_below, just_below, edge - 1, 5, 180, 0]
    triggered = [degrees for degrees in path if watches.trigger(unit(degrees))]
    assert triggered == [10, edge - 1, 0]
    # The second time near the edge was after the text had gone far enough.
    assert [bool(watches.trigger(unit(degrees))) for degrees in (far_below, edge - 1, edge - 1)] == [False, True, False]


def test_scores_are_cosines_whatever_the_length_of_the_watched_vector() -> None:
    watches = Watches(2)
    vectors = {"a": [3.0, 0.0], "b": [0.0, 1e-3], "huge": [1e300, 1e300], "tiny": [5e-320, 0.0]}
    given = [watch(id, 0.1, embedding=vector) for id, vector in vectors.items()]
    watches.check(given)
    watches.replace(given)
    cosines = {"a": 60, "b": 30, "huge": 15, "tiny": 60}
    assert dict(watches.trigger(unit(60))) == {
        id: pytest.approx(math.cos(math.radians(degrees)), abs=1e-6) for id, degrees in cosines.items()
    }


def test_a_score_at_the_threshold_triggers() -> None:
    watches = Watches(2)
    watches.replace([watch(threshold=1.0)])
    assert watches.trigger(unit(0)) == [("w", 1.0)]


def test_replacing_watches_keeps_the_state_of_those_that_stay() -> None:
    watches = Watches(2)
    watches.replace([watch("a"), watch("b"), watch("c")])
    assert [id for id, _ in watches.trigger(unit(0))] == ["a", "b", "c"]
    watches.replace([watch("d"), watch("b", threshold=0.6), watch("a")])
    assert [id for id, _ in watches.trigger(unit(0))] == ["d", "b"]
    watches.replace([])
    assert watches.trigger(unit(0)) == []
    watches.replace([watch("a")])
    assert [id for id, _ in watches.trigger(unit(0))] == ["a"]


def test_a_watch_with_a_text_waits_for_its_vector() -> None:
    watches = Watches(2)
    unresolved = watches.replace([watch("given"), watch("text", text="a text")])
    assert [target.watch.id for target in unresolved] == ["text"]
    assert [id for id, _ in watches.trigger(unit(0))] == ["given"]
    unresolved[0].vector = unit(0)
    assert [id for id, _ in watches.trigger(unit(0))] == ["text"]
    assert watches.replace([watch("text", text="a text")]) == []
    assert watches.trigger(unit(0)) == []


def test_a_watch_that_was_replaced_hears_nothing_of_the_old_text() -> None:
    watches = Watches(2)
    old: Target = watches.replace([watch(text="old")])[0]
    new: Target = watches.replace([watch(text="new")])[0]
    old.vector = unit(0)
    assert watches.trigger(unit(0)) == []
    new.vector = unit(90)
    assert watches.trigger(unit(0)) == []
    assert [id for id, _ in watches.trigger(unit(90))] == ["w"]
