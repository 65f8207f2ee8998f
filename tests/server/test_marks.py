"""Which messages a client sent after it had received something of ours."""

from __future__ import annotations

from streambed.server.marks import Marks


def test_a_pong_stands_between_messages() -> None:
    marks = Marks()
    one, two = marks.set("one"), marks.set("two")
    assert marks.passed(1) == []
    assert marks.pong(one, 1)  # behind the first message
    assert marks.passed(1) == [], "which was sent before"
    assert marks.passed(2) == ["one"]
    assert marks.passed(3) == [], "each is told once"
    assert marks.pong(two, 3)
    assert marks.passed(4) == ["two"]


def test_a_pong_may_answer_for_those_before_it() -> None:
    marks = Marks()
    marks.set("one")
    two = marks.set("two")
    assert marks.pong(two, 0)
    assert marks.passed(1) == ["one", "two"]


def test_other_pongs_are_none_of_ours() -> None:
    marks = Marks()
    one = marks.set("one")
    assert not marks.pong(b"", 0)
    assert not marks.pong(b"x" * 8, 0)
    assert marks.pong(one, 0)
    assert not marks.pong(one, 0), "once"
