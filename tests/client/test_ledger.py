"""The ledger of a stream: whatever is lost on the way or refused for a while, each change arrives once and in order."""

from __future__ import annotations

import itertools
import json
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streambed.client import ledger as ledger_module
from streambed.client.events import Answered, Emitted, Refused, Retry, Triggered
from streambed.client.ledger import Ledger, PendingChange
from streambed.errors import (
    ERROR_TABLE,
    ConnectionLost,
    DeadlineExceeded,
    Internal,
    InvalidRequest,
    NotFound,
    Overloaded,
    RequestError,
    RevisionConflict,
    RevisionGap,
    StorageFull,
    TooLarge,
    Unauthorized,
)
from streambed.wire import (
    EmbeddingDone,
    EmbeddingSkipped,
    ErrorEvent,
    InputTextAck,
    ServerEvent,
    SessionClosed,
    SessionCreated,
    SessionResumed,
    WatchTriggered,
    dump,
    error_body,
    error_event,
    error_of,
    load,
)

REFUSED = "✗"
"""A text with this in it is too large for the simulated server."""
CREDIT = 12
Frame = dict[str, Any]


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "PIECE", 4)


# A server, a network and the client's loop, all without I/O


def report(kind: type[SessionCreated | SessionResumed], session: str, revision: int, offset: int) -> ServerEvent:
    return kind(
        session=session, event_id="open", resume_token=f"token-{session}", revision=revision, offset=offset, kv="warm",
        credit=CREDIT, limits={"max_characters": 10_000}, dimensions=64, fingerprint="f", expires_in_s=600.0,
    )  # fmt: skip


def done(revision: int, text: str, event_id: str | None = None) -> EmbeddingDone:
    """Its vector is the text's code points: so it can be told which text an embedding is of."""
    vector = [float(ord(character)) for character in text]
    return EmbeddingDone(
        session="s", event_id=event_id, revision=revision, offset=len(text), embedding=vector, usage={}, timing_ms={}
    )


def ack(revision: int, offset: int, event_id: str | None = None) -> InputTextAck:
    return InputTextAck(session="s", event_id=event_id, revision=revision, offset=offset, tokens=0, credit=0)


def text_of(emitted: Emitted) -> str:
    return "".join(chr(int(number)) for number in emitted.vector)


@dataclass
class Server:
    """docs/protocol.md, as far as one session needs it. A change is acknowledged by `commit`, or taken back by `fail`."""

    session: str | None = None
    text: str = ""
    history: list[tuple[Any, ...]] = field(default_factory=list)
    busy: int = 0
    """Events to refuse with `overloaded`."""
    out: deque[ServerEvent] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self._names = (f"ses{number}" for number in itertools.count())
        self._acked_text, self._acked = "", 0
        self._owed: list[tuple[int, str]] = []
        self._asked: list[tuple[int, str, str]] = []

    @property
    def revision(self) -> int:
        return len(self.history)

    def restart(self) -> None:
        """Everything is forgotten."""
        self.session, self.text, self.history = None, "", []
        self._acked_text, self._acked = "", 0
        self.detach()

    def detach(self) -> None:
        self._owed, self._asked = [], []
        self.out.clear()

    def receive(self, frame: Frame) -> None:
        try:
            self._receive(frame)
        except RequestError as error:
            self.out.append(error_event(error, frame.get("session"), frame["event_id"]))

    def _receive(self, frame: Frame) -> None:
        if self.busy:
            self.busy -= 1
            raise Overloaded("busy")
        if frame["type"] == "session.create":
            self.restart()
            self.session = next(self._names)
            self.out.append(report(SessionCreated, self.session, 0, 0))
            return
        if frame["session"] != self.session:
            raise NotFound("there is no such session")
        if frame["type"] == "session.resume":
            assert frame["resume_token"] == f"token-{self.session}"
            self.out.append(report(SessionResumed, self.session, self._acked, len(self._acked_text)))
        elif frame["type"] == "embedding.create":
            if not self.text:
                raise InvalidRequest("the text is empty; there is nothing to embed yet")
            self._asked.append((self.revision, self.text, frame["event_id"]))
        else:
            self._change(frame)

    def _change(self, frame: Frame) -> None:
        base = frame["base_revision"]
        this = tuple(frame.get(name) for name in ("type", "text", "start", "end"))
        assert set(frame) - {"start", "end"} == {"type", "session", "event_id", "base_revision", "text"}
        if base > self.revision:
            raise RevisionGap("gap")
        if base < self.revision:
            if self.history[base] != this:
                raise RevisionConflict("another change")
        else:
            kind, text, start, end = this
            if kind == "input_text.append":
                start = end = len(self.text)
            elif kind == "input_text.set":
                start, end = 0, len(self.text)
            if not 0 <= start <= end <= len(self.text):
                raise InvalidRequest("range")
            if REFUSED in text:
                raise TooLarge("too large")
            self.text = self.text[:start] + text + self.text[end:]
            self.history.append(this)
        self._owed.append((base + 1, frame["event_id"]))

    def commit(self) -> None:
        self._acked_text, self._acked = self.text, self.revision
        if self._owed:
            revision, event_id = self._acked, self._owed[-1][1]
            self.out.append(
                InputTextAck(
                    session=self.session,
                    event_id=event_id,
                    revision=revision,
                    offset=len(self.text),
                    tokens=0,
                    credit=0,
                )
            )
        self._owed = []

    def fail(self) -> None:
        """The disk is full."""
        if self.revision == self._acked:
            return
        self.text = self._acked_text
        del self.history[self._acked :]
        gone = [event_id for _, event_id in self._owed]
        gone += [event_id for revision, _, event_id in self._asked if revision > self._acked]
        self._asked = [ask for ask in self._asked if ask[0] <= self._acked]
        self._owed = []
        for event_id in gone:
            self.out.append(error_event(StorageFull("full"), self.session, event_id))

    def answer(self) -> None:
        for revision, text, event_id in self._asked:
            self.out.append(done(revision, text, event_id))
        self._asked = []


class World:
    """A client's ledger and a server, with a network between them that loses everything now and then. The client does what
    AsyncStream does."""

    def __init__(self) -> None:
        self.ledger, self.server = Ledger({"emit": {"on": "manual"}}), Server()
        self.sent: deque[Frame] = deque()
        self.retry = False
        self.waiting: dict[str, Any] = {}
        """What is to be checked of each answer that is awaited."""
        self.answers: list[tuple[Any, Emitted | RequestError]] = []
        self.refused: list[Exception] = []
        self.cut()

    def cut(self) -> None:
        self.ledger.live = False
        self.sent.clear()
        self.server.detach()
        self.retry = False
        self._opening: Frame | None = self.ledger.opening()
        self._frames: Iterator[Frame] | None = None

    def restart(self) -> None:
        self.cut()
        self.server.restart()

    def ask(self, about: Any) -> None:
        self.waiting[self.ledger.ask()] = about

    def send(self) -> bool:
        """One frame, if there is any. A frame may wait in the middle of others for room in the socket."""
        if self._frames is None and self._opening is not None:
            self.sent.append(self._opening)
            self._opening = None
            return True
        for _ in range(2):  # there may be more when those that it had begun with are through
            self._frames = self._frames or self.ledger.frames()
            frame = next(self._frames, None)
            if frame is not None:
                self.sent.append(frame)
                return True
            self._frames = None
        return False

    def serve(self) -> bool:
        if not self.sent:
            return False
        self.server.receive(self.sent.popleft())
        return True

    def hear(self) -> bool:
        if not self.server.out:
            return False
        for happening in self.ledger.receive(self.server.out.popleft()):
            match happening:
                case Answered(event_id, answer):
                    self.answers.append((self.waiting.pop(event_id), answer))
                case Refused(error):
                    self.refused.append(error)
                case Retry():
                    self.retry = True
                case _:
                    raise AssertionError(happening)
        return True

    def again(self) -> bool:
        if not self.retry:
            return False
        self.retry = False
        self.ledger.again()
        if not self.ledger.live:
            self._opening = self.ledger.opening()
        return True

    def settle(self) -> None:
        """Nothing goes wrong from here on."""
        self.server.busy = 0
        for _ in range(200):
            moved = False
            for step in (self.send, self.serve, self.hear):
                while step():
                    moved = True
            self.server.commit()
            self.server.answer()
            moved |= bool(self.server.out) | self.again()
            if not moved:
                break
        else:
            raise AssertionError("it never ends")
        assert not self.ledger.unacknowledged, "changes that nobody sends any more"
        assert not self.waiting, "an embedding that was asked for and never came"
        assert self.server.text == self.ledger.text

    def do(self, step: tuple[Any, ...]) -> None:
        match step:
            case ("send" | "serve" | "hear" as name, count):
                for _ in range(count):
                    getattr(self, name)()
            case ("busy", count):
                self.server.busy = count
            case ("again" | "cut" | "restart" as name,):
                getattr(self, name)()
            case (name,):
                getattr(self.server, name)()


_few = st.integers(1, 5)
_progress = (
    st.tuples(st.sampled_from(["send", "serve", "hear"]), _few)
    | st.tuples(st.sampled_from(["again", "commit", "answer"]))
)  # fmt: skip
_trouble = st.tuples(st.just("busy"), _few) | st.tuples(st.sampled_from(["cut", "fail"]))
_restart = st.just(("restart",))
_text = st.text("abcde é🌊", max_size=11)
_change = (
    st.tuples(st.just("append"), _text)
    | st.tuples(st.just("set"), _text)
    | st.tuples(st.just("replace"), st.integers(0, 30), st.integers(0, 30), _text)
)
_ask = st.just(("ask",))


def apply(ledger: Ledger, step: tuple[Any, ...]) -> list[str]:
    """Makes a change. Returns what the text is after each piece of it, which is worked out here and not by the ledger."""
    text, new, size = ledger.text, step[-1], len(ledger.text)
    match step:
        case ("append", _):
            start = end = size
        case ("set", _):
            start, end = 0, size
        case ("replace", one, other, _):
            start, end = sorted((min(one, size), min(other, size)))
    ledger.change(f"input_text.{step[0]}", start, end, new)
    after = [text[:start] + new + text[end:]]
    if len(new) > 4:  # the first piece takes all behind it away, and the others bring it back
        whole, same = after[0], start
        while same < min(size, len(whole)) and text[same] == whole[same]:
            same += 1
        after = [whole[: at + 4] for at in range(same, max(len(whole), same + 1), 4)]
    assert ledger.text == after[-1]
    return after


@given(st.lists(_change | _ask | _progress | _trouble, max_size=60))
def test_every_change_arrives_once_and_in_order(steps: list[tuple[Any, ...]]) -> None:
    world, texts = World(), [""]
    for step in steps:
        if step == ("ask",):
            if texts[-1]:
                world.ask(len(texts) - 1)
        elif step[0] in ("append", "set", "replace"):
            texts += apply(world.ledger, step)
        else:
            world.do(step)
    world.settle()
    assert world.server.text == texts[-1]
    assert world.server.revision == world.ledger.revision == len(texts) - 1, "each piece raises the revision once"
    assert world.refused == []
    for made_before, answer in world.answers:
        assert isinstance(answer, Emitted), answer
        assert answer.revision >= made_before
        assert text_of(answer) == texts[answer.revision]


@given(st.lists(_change | _ask | _progress | _trouble | _restart, max_size=60))
def test_a_server_that_forgets_gets_the_text_again(steps: list[tuple[Any, ...]]) -> None:
    world, texts = World(), [""]
    for step in steps:
        if step == ("ask",):
            if texts[-1]:
                world.ask(len(texts) - 1)
        elif step[0] in ("append", "set", "replace"):
            texts += apply(world.ledger, step)
        else:
            world.do(step)
    world.settle()
    assert world.server.text == texts[-1]
    assert world.refused == []
    for made_before, answer in world.answers:
        assert isinstance(answer, Emitted), answer
        assert text_of(answer) in texts[made_before:]


_word = st.sampled_from(["word", "two", REFUSED])


@given(st.lists(st.tuples(st.just("append"), _word) | _ask | _progress | _trouble | _restart, max_size=60))
def test_what_is_refused_takes_what_came_after_it_along(steps: list[tuple[Any, ...]]) -> None:
    """The words are numbered, so it can be seen which have arrived."""
    world, refused, count = World(), 0, 0
    for step in steps:
        if step == ("ask",):
            if world.ledger.text:
                world.ask(world.ledger.text)
        elif step[0] == "append":
            word = step[1][:1] + chr(0x4E00 + count)
            count += 1
            world.ledger.change("input_text.append", len(world.ledger.text), len(world.ledger.text), word)
            refused += REFUSED in word
        else:
            world.do(step)
    world.settle()
    arrived = [character for character in world.server.text if character >= chr(0x4E00)]
    assert arrived == sorted(set(arrived)), "each once, in order"
    assert REFUSED not in world.server.text
    answers = [answer for _, answer in world.answers if not isinstance(answer, Emitted)]
    told = [error.code for error in world.refused] + [answer.code for answer in answers]  # type: ignore[attr-defined]
    assert set(told) <= {"too_large"}
    assert bool(told) == bool(refused)
    if not refused:
        assert len(arrived) == count
    for before, answer in world.answers:
        if isinstance(answer, Emitted):
            assert text_of(answer).startswith(before)
            assert world.server.text.startswith(text_of(answer))


_refusable = (
    st.tuples(st.just("append"), st.text("abcd" + REFUSED, max_size=11))
    | st.tuples(st.just("set"), st.text("abcd" + REFUSED, max_size=11))
    | st.tuples(st.just("replace"), st.integers(0, 30), st.integers(0, 30), st.text("abcd" + REFUSED, max_size=11))
)


@given(st.lists(_refusable | _ask | _progress | _trouble | _restart, max_size=60))
def test_client_and_server_agree_whatever_is_refused(steps: list[tuple[Any, ...]]) -> None:
    world, refused = World(), False
    for step in steps:
        if step == ("ask",):
            world.ask(None)
        elif step[0] in ("append", "set", "replace"):
            apply(world.ledger, step)
            refused |= REFUSED in step[-1]
        else:
            world.do(step)
    world.settle()
    assert REFUSED not in world.server.text
    errors = [answer for _, answer in world.answers if not isinstance(answer, Emitted)]
    assert all(isinstance(error, InvalidRequest | TooLarge) for error in errors), "of an empty text, or a refused one"
    assert bool([error for error in errors if isinstance(error, TooLarge)] + world.refused) == refused


# One thing at a time


@pytest.fixture
def ledger() -> Ledger:
    """On an open session."""
    ledger = Ledger({})
    assert ledger.opening()["type"] == "session.create"
    ledger.receive(report(SessionCreated, "s", 0, 0))
    return ledger


def append(ledger: Ledger, *texts: str) -> None:
    for text in texts:
        ledger.change("input_text.append", len(ledger.text), len(ledger.text), text)


def sent(ledger: Ledger) -> list[Frame]:
    return list(ledger.frames())


def refusal(error: RequestError, event_id: str | None) -> ErrorEvent:
    return error_event(error, "s", event_id)


def test_nothing_is_sent_before_the_session_is_open() -> None:
    ledger = Ledger({"dimensions": 64})
    append(ledger, "a")
    assert ledger.opening() == {"type": "session.create", "event_id": "open", "dimensions": 64}
    assert sent(ledger) == []
    ledger.receive(report(SessionCreated, "s", 0, 0))
    assert [frame["text"] for frame in sent(ledger)] == ["a"]
    assert (ledger.session, ledger.fingerprint, ledger.limits) == ("s", "f", {"max_characters": 10_000})


def test_frames_are_those_of_the_contract(ledger: Ledger) -> None:
    append(ledger, "abcdef")
    ledger.change("input_text.replace", 1, 3, "x")
    ledger.change("input_text.set", 0, 5, "")
    ledger.ask()
    assert ledger.text == ""
    frames = sent(ledger)
    assert frames[-1] == {"type": "embedding.create", "session": "s", "event_id": "ask-1"}
    assert [frame["base_revision"] for frame in frames[:-1]] == [0, 1, 2, 3]
    assert [frame["text"] for frame in frames[:-1]] == ["abcd", "ef", "x", ""]
    assert (frames[2]["start"], frames[2]["end"]) == (1, 3)
    assert (frames[3]["type"], "start" in frames[3]) == ("input_text.set", False)
    assert sent(ledger) == []


def test_no_more_is_in_flight_than_the_credit(ledger: Ledger) -> None:
    append(ledger, *["abcd"] * 5)
    event_id = ledger.ask()
    assert len(sent(ledger)) == CREDIT // 4
    assert ledger.unacknowledged == 5
    assert ledger.unacknowledged_characters == 20
    ledger.receive(ack(1, 4))
    assert [frame["base_revision"] for frame in sent(ledger)] == [3]
    ledger.receive(ack(4, 16))
    frames = sent(ledger)
    assert [frame.get("base_revision") for frame in frames] == [4, None]
    assert frames[-1]["event_id"] == event_id, "an embedding waits for the changes before it"


def test_a_change_larger_than_the_credit_goes_alone(ledger: Ledger) -> None:
    ledger.credit = 2
    append(ledger, "abcd", "e")
    assert [frame["text"] for frame in sent(ledger)] == ["abcd"]
    ledger.receive(ack(1, 4))
    assert [frame["text"] for frame in sent(ledger)] == ["e"]


def test_a_resumed_session_says_what_is_not_sent_again(ledger: Ledger) -> None:
    append(ledger, "a", "b", "c")
    event_id = ledger.ask()
    sent(ledger)
    frame = ledger.opening()
    assert frame == {"type": "session.resume", "event_id": "open", "session": "s", "resume_token": "token-s"}
    assert not ledger.live
    assert sent(ledger) == []
    ledger.receive(report(SessionResumed, "s", 2, 2))
    frames = sent(ledger)
    assert [(frame.get("text"), frame.get("base_revision")) for frame in frames] == [("c", 2), (None, None)]
    assert frames[-1]["event_id"] == event_id
    assert ledger.revision == 2


def test_a_lost_session_begins_again_with_its_text(ledger: Ledger) -> None:
    append(ledger, "abcd", "ef")
    sent(ledger)
    ledger.receive(ack(2, 6))
    append(ledger, "g")
    ledger.opening()
    assert ledger.receive(refusal(NotFound("gone"), "open")) == [Retry(0.0)]
    assert (ledger.session, ledger.live, ledger.text) == (None, False, "abcdefg")
    assert ledger.opening()["type"] == "session.create"
    ledger.receive(report(SessionCreated, "t", 0, 0))
    assert [(frame["session"], frame["base_revision"], frame["text"]) for frame in sent(ledger)] == [
        ("t", 0, "abcd"),
        ("t", 1, "ef"),
        ("t", 2, "g"),
    ]


def test_a_session_that_cannot_be_opened_now_is_opened_later(ledger: Ledger) -> None:
    ledger.opening()
    (retry,) = ledger.receive(refusal(Overloaded("full"), "open"))
    assert isinstance(retry, Retry)
    assert retry.seconds > 0
    assert ledger.session == "s"


@pytest.mark.parametrize("error", [InvalidRequest("dimensions is 7"), Unauthorized("key"), NotFound("prompt")])
def test_a_session_that_cannot_be_opened_at_all_ends_the_stream(error: RequestError) -> None:
    ledger = Ledger({})
    ledger.opening()
    with pytest.raises(type(error), match=error.message):
        ledger.receive(refusal(error, "open"))


def test_what_came_after_a_refused_change_goes_with_it(ledger: Ledger) -> None:
    """It was made to a text that will never be."""
    append(ledger, "a", REFUSED, "b")
    frames = sent(ledger)
    ledger.receive(ack(1, 1))
    refused, retry = ledger.receive(refusal(TooLarge("large"), frames[1]["event_id"]))
    assert isinstance(refused, Refused)
    assert (str(refused.error), retry) == ("large", Retry(0.0))
    assert ledger.receive(refusal(RevisionGap("gap"), frames[2]["event_id"])) == []
    assert (ledger.text, ledger.unacknowledged) == ("a", 0)
    ledger.again()
    append(ledger, "c")
    assert [(frame["base_revision"], frame["text"]) for frame in sent(ledger)] == [(1, "c")]


def test_what_came_before_a_refused_change_stays(ledger: Ledger) -> None:
    append(ledger, "ab", REFUSED)
    ledger.change("input_text.replace", 2, 3, "c")
    frames = sent(ledger)
    ledger.receive(refusal(TooLarge("large"), frames[1]["event_id"]))
    assert ledger.text == "ab"
    assert ledger.unacknowledged == 1


def test_a_refusal_that_comes_twice_takes_no_other_change(ledger: Ledger) -> None:
    """The change had been sent twice, and another one has its place by now."""
    append(ledger, REFUSED)
    (frame,) = sent(ledger)
    assert isinstance(ledger.receive(refusal(TooLarge("large"), frame["event_id"]))[0], Refused)
    append(ledger, "a")
    assert sent(ledger)[0]["event_id"] != frame["event_id"]
    assert ledger.receive(refusal(TooLarge("large"), frame["event_id"])) == [Retry(0.0)]
    assert ledger.text == "a"


def test_whoever_waits_for_a_refused_change_hears_why(ledger: Ledger) -> None:
    append(ledger, "a")
    before = ledger.ask()
    append(ledger, REFUSED)
    after = ledger.ask()
    frames = sent(ledger)
    error = TooLarge("large")
    answered, retry = ledger.receive(refusal(error, frames[2]["event_id"]))
    assert isinstance(answered, Answered)
    assert (answered.event_id, str(answered.answer)) == (after, "large"), "it is told once"
    assert retry == Retry(0.0)
    assert isinstance(ledger.receive(done(1, "a", before))[0], Answered)


def test_a_change_that_waits_in_the_socket_is_sent_again_too(ledger: Ledger) -> None:
    """While its frame waits for room, what is to be sent begins anew."""
    append(ledger, "a", "b", "c")
    frames = ledger.frames()
    next(frames)
    ledger.again()
    assert list(frames) == []
    assert [frame["text"] for frame in sent(ledger)] == ["a", "b", "c"]


@pytest.mark.parametrize("error", [Overloaded("busy"), StorageFull("full")])
def test_a_change_that_there_is_no_room_for_is_sent_again_later(ledger: Ledger, error: RequestError) -> None:
    append(ledger, "a", "b")
    frames = sent(ledger)
    (retry,) = ledger.receive(refusal(error, frames[0]["event_id"]))
    assert isinstance(retry, Retry), "nobody is told"
    assert retry.seconds > 0
    append(ledger, "c")
    assert sent(ledger) == [], "until then nothing is sent"
    ledger.again()
    assert [frame["text"] for frame in sent(ledger)] == ["a", "b", "c"]


def test_an_embedding_lacks_what_came_after_it_was_asked_for(ledger: Ledger) -> None:
    """Somebody goes on writing, and acknowledgements are faster than embeddings."""
    append(ledger, "a")
    event_id = ledger.ask()
    append(ledger, "b")
    sent(ledger)
    ledger.receive(ack(2, 2))
    (answered,) = ledger.receive(done(1, "a", event_id))
    assert isinstance(answered, Answered)
    assert isinstance(answered.answer, Emitted)
    assert sent(ledger) == []


def test_an_embedding_that_came_too_early_waits_for_the_changes(ledger: Ledger) -> None:
    append(ledger, "a", "b")
    event_id = ledger.ask()
    frames = sent(ledger)
    ledger.receive(ack(1, 1))
    ledger.receive(refusal(Overloaded("busy"), frames[1]["event_id"]))
    assert ledger.receive(done(1, "a", event_id)) == []
    assert sent(ledger) == [], "it would come too early again"
    ledger.again()
    frames = sent(ledger)
    assert [frame["type"] for frame in frames] == ["input_text.append", "embedding.create"]
    ledger.receive(ack(2, 2))
    (answered,) = ledger.receive(done(2, "ab", event_id))
    assert isinstance(answered, Answered)
    assert answered.event_id == event_id


def test_an_embedding_refused_because_its_text_is_still_to_come_is_asked_for_again(ledger: Ledger) -> None:
    """There is nothing to embed yet, because there was no room for the first change."""
    append(ledger, "a")
    event_id = ledger.ask()
    frames = sent(ledger)
    ledger.receive(refusal(Overloaded("busy"), frames[0]["event_id"]))
    assert isinstance(ledger.receive(refusal(InvalidRequest("the text is empty"), event_id))[0], Retry)
    ledger.again()
    assert [frame["type"] for frame in sent(ledger)] == ["input_text.append", "embedding.create"]


def test_an_embedding_that_there_is_no_room_for_is_asked_for_later(ledger: Ledger) -> None:
    append(ledger, "a")
    event_id = ledger.ask()
    sent(ledger)
    ledger.receive(ack(1, 1))
    (retry,) = ledger.receive(refusal(Overloaded("64 are asked for"), event_id))
    assert isinstance(retry, Retry)
    assert retry.seconds > 0
    assert sent(ledger) == [], "not at once"
    ledger.again()
    assert [frame["event_id"] for frame in sent(ledger)] == [event_id]


def test_an_embedding_that_is_refused_is_answered(ledger: Ledger) -> None:
    append(ledger, "a")
    event_id = ledger.ask()
    sent(ledger)
    ledger.receive(ack(1, 1))
    (answered,) = ledger.receive(refusal(DeadlineExceeded("late"), event_id))
    assert isinstance(answered, Answered)
    assert isinstance(answered.answer, DeadlineExceeded)
    assert ledger.opening()["type"] == "session.resume"
    ledger.receive(report(SessionResumed, "s", 1, 1))
    assert sent(ledger) == [], "and not asked for again"


def test_an_embedding_that_nobody_waits_for_is_not_asked_for_again(ledger: Ledger) -> None:
    append(ledger, "a")
    ledger.forget(ledger.ask())
    assert [frame["type"] for frame in sent(ledger)] == ["input_text.append"]


def test_what_comes_unasked(ledger: Ledger) -> None:
    append(ledger, "a")
    (emitted,) = ledger.receive(done(1, "a"))
    assert isinstance(emitted, Emitted)
    assert (text_of(emitted), emitted.revision, emitted.offset, emitted.drift) == ("a", 1, 1, None)
    event = WatchTriggered(session="s", watch="w", score=0.5, revision=1, offset=1)
    assert ledger.receive(event) == [Triggered("w", 0.5, 1, 1)]
    assert ledger.receive(EmbeddingSkipped(session="s", revision=1, superseded_by=2)) == []
    (refused,) = ledger.receive(refusal(TooLarge("watch 'w': too long"), None))
    assert isinstance(refused, Refused)
    assert str(refused.error) == "watch 'w': too long"


@pytest.mark.parametrize(
    ("reason", "error"), [("taken_over", ConnectionLost), ("expired", NotFound), ("closed", NotFound)]
)
def test_a_session_that_somebody_else_has_or_has_ended_ends_the_stream(
    ledger: Ledger, reason: Any, error: type[Exception]
) -> None:
    with pytest.raises(error):
        ledger.receive(SessionClosed(session="s", reason=reason))
    assert not ledger.live


@pytest.mark.parametrize("reason", ["draining", "idle", "lifetime"])
def test_a_session_that_can_be_resumed_is_not_live(ledger: Ledger, reason: Any) -> None:
    assert ledger.receive(SessionClosed(session="s", reason=reason)) == []
    assert not ledger.live
    assert ledger.opening()["type"] == "session.resume"


def test_the_session_that_was_asked_to_end_has_ended(ledger: Ledger) -> None:
    """An answer to `session.close`; `aclose` waits for it."""
    assert ledger.live
    try:
        ledger.receive(SessionClosed(session="s", event_id="close", reason="closed"))
    finally:
        assert not ledger.live


def test_another_clients_changes_are_noticed(ledger: Ledger) -> None:
    append(ledger, "a")
    frames = sent(ledger)
    with pytest.raises(RevisionConflict):
        ledger.receive(refusal(RevisionConflict("another change"), frames[0]["event_id"]))
    with pytest.raises(RevisionConflict, match="another client"):
        ledger.receive(ack(2, 2))


@pytest.mark.parametrize("on_its_way", [True, False])
def test_another_clients_change_is_not_taken_for_ours(ledger: Ledger, on_its_way: bool) -> None:
    """Changes over HTTP are acknowledged to the socket, too, while a change of ours is still to come or on its way."""
    append(ledger, "a")
    if on_its_way:
        sent(ledger)
    with pytest.raises(RevisionConflict, match="another client"):
        ledger.receive(ack(1, 12))


def test_another_clients_changes_are_noticed_at_resume(ledger: Ledger) -> None:
    append(ledger, "a")
    sent(ledger)
    ledger.opening()
    with pytest.raises(RevisionConflict, match="another client"):
        ledger.receive(report(SessionResumed, "s", 1, 5))


def test_a_server_that_lost_acknowledged_text_is_noticed(ledger: Ledger) -> None:
    append(ledger, "a", "b")
    sent(ledger)
    ledger.receive(ack(2, 2))
    ledger.opening()
    with pytest.raises(RevisionConflict, match="lost text"):
        ledger.receive(report(SessionResumed, "s", 1, 1))


def test_an_acknowledgement_that_comes_twice_counts_once(ledger: Ledger) -> None:
    append(ledger, "a", "b")
    sent(ledger)
    for revision in (1, 1, 2, 1):
        ledger.receive(ack(revision, revision))
    assert (ledger.revision, ledger.unacknowledged, ledger.text) == (2, 0, "ab")


@pytest.mark.parametrize(("start", "end"), [(-1, 0), (0, 4), (2, 1), (4, 4)])
def test_a_range_outside_the_text_changes_nothing(ledger: Ledger, start: int, end: int) -> None:
    append(ledger, "abc")
    with pytest.raises(InvalidRequest, match="3 characters"):
        ledger.change("input_text.replace", start, end, "x")
    assert (ledger.text, ledger.unacknowledged) == ("abc", 1)


def test_a_text_beyond_the_limit_changes_nothing(ledger: Ledger) -> None:
    ledger.limits = {"max_characters": 5}
    append(ledger, "abcde")
    with pytest.raises(TooLarge, match="5 characters"):
        append(ledger, "f")
    ledger.change("input_text.replace", 0, 2, "xy")
    assert ledger.text == "xycde"


# The small ones


@pytest.mark.parametrize("kind", ERROR_TABLE, ids=lambda kind: kind.code)
def test_every_error_of_the_table_comes_back_as_itself(kind: type[RequestError]) -> None:
    error = kind("why", "text")
    error.expected_offset, error.revision = 3, 4
    event = load(json.loads(dump(error_event(error, "s", "1"))))
    assert isinstance(event, ErrorEvent)
    for body, status in ((error_body(error), kind.status), ({"error": event.error}, None)):
        back = error_of(dict(body), status)
        assert type(back) is kind
        assert (str(back), back.param) == ("why", "text")
    back = error_of(dict(error_body(error)))
    assert (back.expected_offset, back.revision) == (3, 4)


@pytest.mark.parametrize("kind", ERROR_TABLE, ids=lambda kind: kind.code)
def test_an_answer_without_a_code_is_known_by_its_status(kind: type[RequestError]) -> None:
    body: dict[str, Any]
    for body in ({}, {"error": "a proxy's words"}, {"error": {"message": "m"}}, {"error": {"code": "unheard_of"}}):
        assert error_of(body, kind.status).status == kind.status


def test_an_answer_without_anything_is_an_internal_error() -> None:
    for status in (None, 502, 418):
        assert type(error_of({}, status)) is Internal
    assert "418" in str(error_of({}, 418))


def test_large_changes_never_reach_back() -> None:
    """All pieces but the first are appended, whatever the change, and what is alike at the start is not sent."""
    piece_size = 4
    for change, start, end, text in [
        ("input_text.set", 0, None, "a" * piece_size * 3 + "new"),
        ("input_text.replace", 5, 9, "b" * piece_size * 2),
        ("input_text.append", None, None, "c" * piece_size * 2),
    ]:
        ledger = Ledger({})
        ledger.text = "a" * piece_size * 3
        size = len(ledger.text)
        first = size if start is None else start
        last = size if end is None else end
        wanted = ledger.text[:first] + text + ledger.text[last:]
        ledger.change(change, first, last, text)
        assert ledger.text == wanted
        sent = list(ledger._pending)
        at = None
        for piece in sent:
            assert isinstance(piece, PendingChange)
            assert len(piece.text) <= piece_size
            if at is not None:
                assert (piece.type, piece.start, piece.end) == ("input_text.append", at, at)
            at = piece.start + len(piece.text)
        if change == "input_text.set":
            assert [(piece.start, piece.text) for piece in sent] == [(size, "new")]
