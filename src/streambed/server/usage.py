"""What each key has taken: what is left of its rates, and counts by its name for metrics.

A rate is a token bucket (as in RFC 2697) that holds a second's worth. Requests are refused where there is none; tokens are
counted when they have been computed, so a key can owe some: until it is even, its requests are refused, and its WebSockets
are not read. What the cache had costs nothing.
"""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Literal

from streambed.engine.stats import StepReport
from streambed.errors import QuotaExceeded
from streambed.server.keyring import Key, Keyring

Outcome = Literal["ok", "refused", "failed"]
OUTCOMES: tuple[Outcome, ...] = ("ok", "refused", "failed")
"""Refused: with 429."""


class Bucket:
    """What is left of a rate; less than nothing is owed."""

    def __init__(self) -> None:
        self._left, self._at = float("inf"), time.monotonic()

    def left(self, rate: float) -> float:
        now = time.monotonic()
        self._left = min(self._left + (now - self._at) * rate, max(rate, 1.0))
        self._at = now
        return self._left

    def take(self, rate: float, amount: float) -> None:
        self._left = self.left(rate) - amount


class Usage:
    """Of all keys. Safe to call from any thread."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring
        self._lock = threading.Lock()
        self._requests: dict[str, Bucket] = {}
        self._tokens: dict[str, Bucket] = {}
        self._ended: Counter[tuple[str, Outcome]] = Counter()
        self._computed: Counter[str] = Counter()
        keyring.on_change.append(self._forget)

    def admit(self, key: Key) -> None:
        """Takes a request. Raises QuotaExceeded."""
        if debt := self.debt(key.owner):
            most = key.quota.tokens_per_second
            raise _exceeded(f"this key may have {most:,g} tokens a second computed, and had more", debt)
        if (per_second := key.quota.requests_per_second) is None:
            return
        with self._lock:
            bucket = self._requests.setdefault(key.owner, Bucket())
            if (missing := 1 - bucket.left(per_second)) > 0:
                raise _exceeded(f"this key may make {per_second:,g} requests a second", missing / per_second)
            bucket.take(per_second, 1)

    def debt(self, owner: str) -> float:
        """Seconds until an owner no longer owes tokens."""
        per_second = self._keyring.quota(owner).tokens_per_second
        if per_second is None or owner not in self._tokens:
            return 0.0
        with self._lock:
            return max(-self._tokens[owner].left(per_second), 0.0) / per_second

    def step(self, report: StepReport) -> None:
        """Counts what a step has computed."""
        names = self._keyring.names
        with self._lock:
            for owner, count in report.owners.items():
                if owner in names:
                    self._computed[owner] += count
                if (per_second := self._keyring.quota(owner).tokens_per_second) is not None:
                    self._tokens.setdefault(owner, Bucket()).take(per_second, count)

    def end(self, key: Key, outcome: Outcome) -> None:
        """One of its requests has ended."""
        if key.owner in self._keyring.names:
            with self._lock:
                self._ended[key.owner, outcome] += 1

    def by_name(self) -> Iterator[tuple[str, str, dict[Outcome, int], int]]:
        """Of each owner with a name: both, requests that have ended, and tokens that were computed."""
        with self._lock:
            found = [
                (owner, name, {outcome: self._ended[owner, outcome] for outcome in OUTCOMES}, self._computed[owner])
                for owner, name in self._keyring.names.items()
            ]
        yield from found

    def _forget(self) -> None:
        """Owners who are gone."""
        there = self._keyring.owners
        with self._lock:
            self._requests = {owner: bucket for owner, bucket in self._requests.items() if owner in there}
            self._tokens = {owner: bucket for owner, bucket in self._tokens.items() if owner in there}
            self._ended = Counter({at: count for at, count in self._ended.items() if at[0] in there})
            self._computed = Counter({owner: count for owner, count in self._computed.items() if owner in there})


def _exceeded(message: str, wait: float) -> QuotaExceeded:
    error = QuotaExceeded(f"{message}; try again in {wait:.1f} seconds")
    error.retry_after = wait
    return error
