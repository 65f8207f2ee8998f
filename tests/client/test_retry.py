"""When a client tries again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

from hypothesis import given
from hypothesis import strategies as st

from streambed.client.retry import backoff, retry_after


@given(st.integers(0, 10_000))
def test_attempts_come_less_and_less_often_up_to_five_seconds(attempt: int) -> None:
    ceiling = min(5.0, 0.1 * 2 ** min(attempt, 20))
    assert ceiling / 2 <= backoff(attempt) <= ceiling


def test_when_a_server_says_to_come_again() -> None:
    tomorrow = format_datetime(datetime.now(UTC) + timedelta(days=1), usegmt=True)
    assert retry_after({"Retry-After": "120"}) == 120.0
    assert 86_000 < retry_after({"Retry-After": tomorrow}) <= 86_400
    for unreadable in ({}, {"Retry-After": ""}, {"Retry-After": "soon"}, {"Retry-After": "-3"}, {"Retry-After": "²"}):
        assert retry_after(unreadable) <= 0


def test_not_all_clients_come_at_once() -> None:
    assert len({backoff(3) for _ in range(20)}) > 1
