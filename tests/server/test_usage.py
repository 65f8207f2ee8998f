"""What a key may still take."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streambed.engine.stats import StepReport
from streambed.errors import QuotaExceeded
from streambed.server import usage
from streambed.server.keyring import Key, Keyring
from streambed.server.usage import Bucket, Usage
from streambed.settings import Settings


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        # Not the module itself: the loops of servers in other threads would sleep until their clock comes back.
        monkeypatch.setattr(usage, "time", SimpleNamespace(monotonic=lambda: self.now))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def report(**rows: int) -> StepReport:
    return StepReport(sum(rows.values()), 0, 0.0, {f"name:{name}": count for name, count in rows.items()})


def open_usage(tmp_path: Path, **quotas: float) -> tuple[Usage, dict[str, Key], Keyring]:
    (file := tmp_path / "keys.toml").write_text("[a]\nkey = 'ka'\n[b]\nkey = 'kb'\n")
    ring = Keyring(Settings(api_keys=str(file), **quotas))  # type: ignore[arg-type]
    return Usage(ring), {key.name: key for key in ring.owners.values()}, ring


def refused(used: Usage, key: Key, message: str) -> float:
    """A request is refused, in these words. The seconds after which to come again."""
    with pytest.raises(QuotaExceeded, match=message) as caught:
        used.admit(key)
    assert caught.value.retry_after is not None
    return caught.value.retry_after


def test_requests_a_second(tmp_path: Path, clock: Clock) -> None:
    used, keys, _ = open_usage(tmp_path, key_requests_per_second=2)
    for _ in range(2):
        used.admit(keys["a"])
    assert refused(used, keys["a"], "this key may make 2 requests a second") == pytest.approx(0.5)
    used.admit(keys["b"])
    clock.now += 0.5
    used.admit(keys["a"])
    with pytest.raises(QuotaExceeded):
        used.admit(keys["a"])
    clock.now += 3600
    for _ in range(2):
        used.admit(keys["a"])
    with pytest.raises(QuotaExceeded):  # an hour of silence is no hour's worth of requests
        used.admit(keys["a"])


def test_less_than_one_a_second(tmp_path: Path, clock: Clock) -> None:
    used, keys, _ = open_usage(tmp_path, key_requests_per_second=0.1)
    used.admit(keys["a"])
    assert refused(used, keys["a"], "may make 0.1 requests a second") == pytest.approx(10)
    clock.now += 10
    used.admit(keys["a"])


def test_tokens_a_second(tmp_path: Path, clock: Clock) -> None:
    used, keys, _ = open_usage(tmp_path, key_tokens_per_second=100)
    used.step(report(a=60, b=10))
    used.admit(keys["a"])
    used.step(report(a=240))
    assert used.debt("name:a") == pytest.approx(2.0)
    assert used.debt("name:b") == used.debt("name:nobody") == 0.0
    assert refused(used, keys["a"], "may have 100 tokens a second computed, and had more") == pytest.approx(2.0)
    used.admit(keys["b"])
    clock.now += 2.0
    used.admit(keys["a"])
    assert {name: tokens for _, name, _, tokens in used.by_name()} == {"a": 300, "b": 10}


def test_without_quotas_nothing_is_refused(tmp_path: Path) -> None:
    used, keys, _ = open_usage(tmp_path)
    used.step(report(a=1 << 40))
    for _ in range(1000):
        used.admit(keys["a"])


def test_who_is_gone_is_forgotten(tmp_path: Path) -> None:
    used, keys, ring = open_usage(tmp_path, key_requests_per_second=1, key_tokens_per_second=1)
    used.admit(keys["a"])
    used.end(keys["a"], "ok")
    used.step(report(a=5))
    (tmp_path / "keys.toml").write_text("[b]\nkey = 'kb'\n")
    ring.reload()
    used.end(keys["a"], "ok")  # one that was still at work
    assert [name for _, name, _, _ in used.by_name()] == ["b"]
    (tmp_path / "keys.toml").write_text("[a]\nkey = 'ka2'\n")
    ring.reload()
    assert list(used.by_name()) == [("name:a", "a", {"ok": 0, "refused": 0, "failed": 0}, 0)]
    assert used.debt("name:a") == 0.0


@given(st.lists(st.tuples(st.floats(0, 5), st.floats(0, 50)), max_size=50), st.floats(0.1, 100))
def test_no_more_than_the_rate_and_one_second_of_it(times: list[tuple[float, float]], rate: float) -> None:
    with pytest.MonkeyPatch.context() as patch:
        clock = Clock(patch)
        bucket, taken, start = Bucket(), 0.0, clock.now
        for pause, amount in times:
            clock.now += pause
            if bucket.left(rate) >= amount:
                bucket.take(rate, amount)
                taken += amount
        assert taken <= rate * (clock.now - start) + max(rate, 1.0) + 1e-6
