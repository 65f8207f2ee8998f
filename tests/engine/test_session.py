"""A session's embedding is that of its text, exactly, whatever happened to it and around it."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streambed import Engine, InvalidRequest, NotFound, Overloaded, Session, TooLarge
from streambed.engine.sequence import Lane

WORDS = [
    "the",
    " fox",
    " jumps",
    "中文",
    "没有标点",
    "ไทย",
    " 12",
    "!",
    "\n",
    "e\u0301",
    "🙂",
    "<|endoftext|>",
    " a b c d e f g h",
    "",
]
piece = st.lists(st.sampled_from(WORDS), max_size=5).map("".join)
share = st.floats(0, 1)
operation = st.one_of(
    st.tuples(st.just("append"), piece),
    st.tuples(st.just("append"), piece),
    st.tuples(st.just("replace"), share, share, piece),
    st.tuples(st.just("set"), piece),
    st.tuples(st.just("fork")),
    st.tuples(st.just("switch"), st.integers(0, 3)),
    st.tuples(st.just("evict")),
    st.tuples(st.just("evict all")),
    st.tuples(st.just("traffic"), st.sampled_from(list(Lane)), piece, st.integers(1, 60)),
    st.tuples(st.just("check")),
)


def reference(engine: Engine, texts: list[str], instruction: str | None = None) -> np.ndarray:
    """Of whole texts; the empty one too, which a session may be and `embed` refuses."""
    whole = [*texts, "another, so that none of them is kept"]
    return engine.embed_documents(engine.documents.divide(whole, engine.prompt(instruction)))[:-1]


@settings(max_examples=60)
@given(operations=st.lists(operation, max_size=25), instruction=st.sampled_from([None, "Find it"]))
def test_any_interleaving(
    small_engine: Engine, reference_engine: Engine, operations: list[tuple], instruction: str | None
) -> None:
    engine = small_engine
    sessions: list[Session] = [engine.open_session(instruction=instruction)]
    texts = [""]
    current, traffic, probes = 0, [], []
    for kind, *arguments in [*operations, ("check",)]:
        session, text = sessions[current], texts[current]
        if kind == "append":
            session.append(arguments[0])
            texts[current] += arguments[0]
        elif kind == "replace":
            start, end = sorted(round(one * len(text)) for one in arguments[:2])
            session.replace(start, end, arguments[2])
            texts[current] = text[:start] + arguments[2] + text[end:]
        elif kind == "set":
            texts[current] = text[: len(text) // 2] + arguments[0]
            session.set(texts[current])
        elif kind == "fork" and len(sessions) < 4:
            sessions.append(session.fork())
            texts.append(text)
        elif kind == "switch":
            current = arguments[0] % len(sessions)
        elif kind == "evict":
            session.evict()
        elif kind == "evict all":
            engine.evict()
        elif kind == "traffic":
            lane, words, times = arguments
            ids = engine.documents.fit(engine.tokenizer.encode(words * times), truncate=True)
            if ids:
                traffic += engine.submit_batch([ids], lane=lane)
        elif kind == "check":
            # Asked for now, read at the end: it answers for this text, whatever comes behind it.
            probes.append((session.probe(), texts[current], session.revision))
            assert session.text == texts[current]
            assert session.offset == len(texts[current])
            prompt = engine.prompt(instruction)
            assert session.tokens == engine.tokenizer.encode(prompt + texts[current])
    for snapshot, _, revision in probes:
        assert snapshot.revision == revision
    vectors = np.stack([snapshot.future.result(60).vectors[0] for snapshot, _, _ in probes])
    expected = reference(reference_engine, [text for _, text, _ in probes], instruction)
    assert (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True) * expected).sum(-1).min() >= 0.99999
    for future in traffic:
        future.result(60)
    for session, text in zip(sessions, texts, strict=True):
        assert session.embedding() @ reference(reference_engine, [text], instruction)[0] >= 0.99999
        session.close()
    engine.check_integrity()


def test_as_the_readme_shows(tiny_engine: Engine) -> None:
    with tiny_engine.open_session() as session:
        session.append("The quick brown ")
        session.append("fox")
        assert session.embedding() @ tiny_engine.embed(["The quick brown fox"])[0] >= 0.99999
        assert session.replace(4, 9, "slow") == 3
        assert (session.text, session.revision, session.offset) == ("The slow brown fox", 3, 18)
        twin = session.fork()
        twin.append("!")
        assert (session.text, twin.text) == ("The slow brown fox", "The slow brown fox!")
        assert twin.embedding() @ tiny_engine.embed(["The slow brown fox!"])[0] >= 0.99999
        assert session.embedding() @ tiny_engine.embed(["The slow brown fox"])[0] >= 0.99999
        twin.close()


def test_an_empty_session_is_the_end_token_alone(tiny_engine: Engine) -> None:
    with tiny_engine.open_session() as bare, tiny_engine.open_session(instruction="Find it") as asked:
        assert bare.tokens == []
        assert bare.embedding() @ reference(tiny_engine, [""])[0] >= 0.99999
        assert asked.embedding() @ reference(tiny_engine, [""], "Find it")[0] >= 0.99999
        assert bare.embedding() @ asked.embedding() < 0.99


def test_dimensions(tiny_engine: Engine) -> None:
    with tiny_engine.open_session("some text") as session:
        full, short = session.embedding(), session.embedding(dimensions=32)
        assert short.shape == (32,)
        assert np.allclose(short, full[:32] / np.linalg.norm(full[:32]), atol=1e-6)
        with pytest.raises(InvalidRequest, match="32 to 64"):
            session.embedding(dimensions=65)


def test_a_keystroke_costs_two_rows(tiny_engine: Engine) -> None:
    with tiny_engine.open_session("The quick brown fox jumps over the lazy dog. " * 8) as session:
        session.embedding()
        rows = []
        for character in "and runs away":
            session.append(character)
            embedding = session.probe().future.result(60)
            rows.append(embedding.computed_tokens)
            assert embedding.cached_tokens + embedding.computed_tokens == len(session.tokens) + 1
        assert max(rows) <= 4
        assert sum(rows) / len(rows) <= 2.5


def test_appended_text_is_computed_before_it_is_asked_for(tiny_engine: Engine) -> None:
    with tiny_engine.open_session() as session:
        session.append("a text of some length, " * 12)
        while tiny_engine.stats().waiting:
            threading.Event().wait(0.005)
        embedding = session.probe().future.result(60)
        assert embedding.computed_tokens == 1
        assert embedding.cached_tokens == len(session.tokens)


def test_the_window_refuses_and_applies_nothing(tiny_engine: Engine) -> None:
    limit = tiny_engine.info.max_tokens
    with tiny_engine.open_session(" the" * (limit - 1)) as session:
        vector = session.embedding()
        for change in (
            lambda: session.append(" the"),
            lambda: session.replace(0, 4, " the fox"),
            lambda: session.set(" the" * limit),
        ):
            with pytest.raises(TooLarge, match=rf"\d+ tokens; the limit is {limit - 1}"):
                change()
        assert (session.revision, session.offset) == (1, 4 * (limit - 1))
        assert session.embedding() @ vector >= 0.99999


def test_bad_changes_apply_nothing(tiny_engine: Engine) -> None:
    with tiny_engine.open_session("good text") as session:
        with pytest.raises(InvalidRequest, match="surrogate"):
            session.append("\ud800")
        with pytest.raises(InvalidRequest, match="not within"):
            session.replace(5, 100, "x")
        assert (session.text, session.revision) == ("good text", 1)


def test_a_fork_copies_instead_of_computing(tiny_engine: Engine) -> None:
    text = "The quick brown fox jumps over the lazy dog. " * 9
    with tiny_engine.open_session(text) as session:
        session.embedding()
        with session.fork() as twin:
            twin.append(" More.")
            embedding = twin.probe().future.result(60)
            assert embedding.computed_tokens <= 6
            assert embedding.cached_tokens >= len(session.tokens) - 3
            assert twin.embedding() @ tiny_engine.embed([text + " More."])[0] >= 0.99999


def test_eviction_keeps_the_text(tiny_engine: Engine) -> None:
    with tiny_engine.open_session("some text that goes cold") as session:
        warm = session.embedding()
        session.evict()
        embedding = session.probe().future.result(60)
        assert embedding.cached_tokens == 0
        assert session.embedding() @ warm >= 0.99999


def test_closing_tells_who_waits(tiny_engine: Engine) -> None:
    session = tiny_engine.open_session("text " * 90)
    futures = [session.probe().future for _ in range(3)]
    session.close()
    session.close()
    errors = [future.exception(60) for future in futures]
    assert all(error is None or isinstance(error, NotFound) for error in errors)
    assert isinstance(errors[-1], NotFound)
    for call in (session.embedding, session.fork, lambda: session.append("x")):
        with pytest.raises(NotFound, match="closed"):
            call()


def test_two_threads_on_one_session(tiny_engine: Engine) -> None:
    with tiny_engine.open_session() as session:
        errors = []

        def write(letter: str) -> None:
            try:
                for _ in range(40):
                    session.append(letter)
                    session.embedding()
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=write, args=(letter,)) for letter in "ab"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors
        assert sorted(session.text) == ["a"] * 40 + ["b"] * 40
        assert session.revision == 80
        assert session.embedding() @ tiny_engine.embed([session.text])[0] >= 0.99999


def test_a_timeout_leaves_the_session_usable(
    open_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_engine()
    session = engine.open_session("text")
    run, released = engine.compute._device.run, threading.Event()

    def slow(*step):  # type: ignore[no-untyped-def]
        released.wait(30)
        return run(*step)

    monkeypatch.setattr(engine.compute._device, "run", slow)
    with pytest.raises(TimeoutError):
        session.embedding(timeout=0.01)
    snapshot = session.probe()
    snapshot.future.cancel()
    released.set()
    with pytest.raises(CancelledError):
        snapshot.future.result(30)
    assert session.embedding() @ engine.embed(["text"])[0] >= 0.99999


# Texts that outgrow the window


def segmented_text(count: int, seed: int = 0) -> str:
    draw = random.Random(seed)
    ends = draw.choices(["", ".", "\n\n"], [12, 2, 1], k=count)
    return " ".join(f"w{draw.randrange(100)}{end}" for end in ends)


def check_segments(session: Session, reference_engine: Engine, text: str, ended: list, instruction: str | None) -> None:
    """Each embedding is that of the characters that it says; no character but spaces is in none."""
    limit = reference_engine.info.max_tokens - 1
    at = 0
    for number, segment in enumerate(ended):
        assert segment.number == number
        assert not text[at : segment.start].strip()
        at = segment.end
        piece = text[segment.start : segment.end]
        assert segment.tokens <= limit
        wanted = reference(reference_engine, [piece], instruction)[0]
        assert segment.embedding() @ wanted > 0.99999
    assert session.start >= at
    assert not text[at : session.start].strip()
    assert session.segment == len(ended)
    assert session.text == text
    assert session.offset == len(text)
    rest = text[session.start :]
    if rest:
        assert session.embedding() @ reference(reference_engine, [rest], instruction)[0] > 0.99999


@settings(max_examples=25)
@given(
    words=st.integers(0, 800),
    seed=st.integers(0, 9),
    cuts=st.lists(st.integers(1, 600), max_size=12),
    instruction=st.sampled_from([None, "Find it"]),
    spaces=st.sampled_from([0, 1, 3, 900]),
)
def test_a_text_goes_on_in_segments(
    small_engine: Engine,
    reference_engine: Engine,
    words: int,
    seed: int,
    cuts: list[int],
    instruction: str | None,
    spaces: int,
) -> None:
    text = segmented_text(words, seed) + " " * spaces
    ended = []
    with small_engine.open_session(instruction=instruction, overflow="segment") as session:
        at = 0
        for cut in [*cuts, len(text)]:
            session.append(text[at : at + cut])
            at = min(at + cut, len(text))
            ended += session.take_ended()
        check_segments(session, reference_engine, text, ended, instruction)


def test_segments_of_one_append_edits_and_forks(small_engine: Engine, reference_engine: Engine) -> None:
    text = segmented_text(1000)
    with small_engine.open_session(text, overflow="segment") as session:
        ended = session.take_ended()
        assert len(ended) > 1
        check_segments(session, reference_engine, text, ended, None)
        start = session.start
        with pytest.raises(InvalidRequest, match="ended"):
            session.replace(start - 1, start, "x")
        with pytest.raises(InvalidRequest, match="ended"):
            session.set("another text")
        assert session.text == text
        session.replace(start, start + 3, "edited")
        edited = text[:start] + "edited" + text[start + 3 :]
        check_segments(session, reference_engine, edited, ended, None)
        session.set(edited + " and more")
        with session.fork() as twin:
            twin.append(" here")
            assert twin.start == session.start
            assert twin.text == edited + " and more here"
            check_segments(twin, reference_engine, twin.text, ended, None)
        revision = session.revision
        session.restore(text[: ended[0].end + 5], ended[0].end, 1)
        assert session.revision == revision + 1
        check_segments(session, reference_engine, text[: ended[0].end + 5], ended[:1], None)


def test_an_edit_may_end_a_segment(small_engine: Engine, reference_engine: Engine) -> None:
    with small_engine.open_session("the start. " + "the end.", overflow="segment") as session:
        long = segmented_text(600)
        session.replace(11, 11, long)
        ended = session.take_ended()
        assert ended
        check_segments(session, reference_engine, f"the start. {long}the end.", ended, None)


def test_a_segment_that_cannot_end_now_changes_nothing(small_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    with small_engine.open_session("some text.", overflow="segment") as session:

        def refuse(*values: object) -> object:
            raise Overloaded("too much work waits")

        monkeypatch.setattr(small_engine.compute, "post", refuse)
        with pytest.raises(Overloaded):
            session.append(segmented_text(1000))
        monkeypatch.undo()
        assert (session.text, session.revision, session.segment, session.take_ended()) == ("some text.", 1, 0, [])
        session.embedding()


def test_spaces_alone_are_no_segment(small_engine: Engine) -> None:
    with small_engine.open_session(overflow="segment") as session:
        for _ in range(5):
            session.append(" \n" * 500)
        assert session.take_ended() == []
        session.append("a word")
        assert session.text == " \n" * 2500 + "a word"
        assert not session.text[: session.start].strip()
        assert session.embedding() @ small_engine.embed([session.text[session.start :]])[0] > 0.99999


def test_an_instruction_must_leave_room_for_segments(small_engine: Engine) -> None:
    long = "word " * (small_engine.info.max_tokens - 20)
    with pytest.raises(TooLarge, match="instruction leaves"):
        small_engine.open_session(instruction=long, overflow="segment")


def test_a_text_too_long_is_refused_and_leaves_no_session(small_engine: Engine) -> None:
    before = small_engine.stats().sessions
    with pytest.raises(TooLarge):
        small_engine.open_session(segmented_text(1000))
    assert small_engine.stats().sessions == before
