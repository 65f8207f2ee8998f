"""What a WebSocket may send in a second."""

from __future__ import annotations

from streambed.limits import FRAME_BURST, FRAMES_PER_SECOND, SOCKET_BURST, SOCKET_BYTES_PER_SECOND
from streambed.server.frames import FrameBudget


def test_empty_frames_are_bounded_and_messages_are_not() -> None:
    budget = FrameBudget(0.0)
    for _ in range(10 * FRAME_BURST):
        budget.count(whole=True)
    assert budget.pay(0, 0.0)
    for _ in range(FRAME_BURST):
        budget.count()
    assert budget.pay(0, 0.0)
    budget.count()
    assert not budget.pay(0, 0.0)


def test_time_fills_it_again() -> None:
    budget = FrameBudget(0.0)
    for second in range(20):
        for _ in range(FRAMES_PER_SECOND):
            budget.count()
        assert budget.pay(SOCKET_BYTES_PER_SECOND, float(second + 1))


def test_bytes_are_bounded() -> None:
    budget = FrameBudget(0.0)
    assert budget.pay(SOCKET_BURST, 0.0)
    assert not budget.pay(1, 0.0)
