"""How much of the loop one key may take."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from streambed.server import pace
from streambed.server.pace import Pace


def test_an_owner_waits_for_as_long_as_his_events_took(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(pace, "time", SimpleNamespace(monotonic=lambda: now))
    paces = Pace(many=lambda: True)
    assert paces.spend("a", 0.010) == pytest.approx(0.010)
    assert paces.spend("a", 0.010) == pytest.approx(0.030), "another of his sockets waits behind the first"
    assert paces.spend("b", 0.010) == pytest.approx(0.010)
    now += 1.0
    assert paces.spend("a", 0.0001) == 0.0, "what is short is not worth a timer"
    for _ in range(20):
        waited = paces.spend("a", 0.0001)
    assert waited > 0.0, "but adds up"


def test_one_key_alone_leaves_nothing_to_anybody() -> None:
    assert Pace(many=lambda: False).spend("a", 10.0) == 0.0


def test_who_owes_tokens_waits_with_the_next_event_and_not_in_the_midst_of_a_body() -> None:
    debts = {"a": 40.0}
    paces = Pace(lambda: False, lambda owner: debts.get(owner, 0.0))
    assert paces.spend("a", 0.001) == 40.0
    assert paces.wait("a") == 0.0, "what was admitted is read to its end"
    assert paces.spend("b", 0.001) == 0.0
