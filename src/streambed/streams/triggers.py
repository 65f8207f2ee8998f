"""When a session sends embeddings unasked, and which watches trigger. Plain rules over times and vectors; no clock, no
I/O."""

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streambed.errors import InvalidRequest, RequestError
from streambed.text.sentences import CJK_STOP, STOP
from streambed.wire import Emit, Watch

Vector = NDArray[np.float32]

HYSTERESIS = 0.02
"""How far below its threshold the similarity must fall before a watch may trigger again."""
_AGAIN_SECONDS = 0.1
"""Seconds after which a probe is tried again that the engine had no room for."""
_CONTEXT = 8
"""Characters before a change that may be the end of its sentence."""
_SENTENCE_END = re.compile(rf"{STOP}\s|{CJK_STOP}|\n")


class Trigger:
    """When to embed without being asked. Times are seconds of a monotonic clock.

    *Automatic* embeddings are latest-wins: one runs at a time, always of the newest text. After changes stop, the newest
    text is always looked at.
    """

    def __init__(self, emit: Emit, watching: bool) -> None:
        """watching: whether every change is looked at for the sake of watches, even if nothing is emitted."""
        self.emit = emit
        self.watching = watching
        self._unseen = False
        """Whether the newest text is still to be probed."""
        self._unemitted = False
        """Whether the newest text is still to be probed for an emission."""
        self._sentence = False
        self._changed = 0.0
        self._probed = float("-inf")

    def change(self, before: str, inserted: str, now: float) -> None:
        """The text was changed: `inserted` now stands after `before`."""
        self.touch(now)
        context = before[-_CONTEXT:]
        # A match must reach into what is new, or each change after a sentence would count as its end.
        ends = (match.end() > len(context) for match in _SENTENCE_END.finditer(context + inserted))
        self._sentence = self._sentence or any(ends)

    def touch(self, now: float) -> None:
        """The text is to be looked at though it did not change: the client or the rules are new."""
        self._unseen = self._unemitted = True
        self._changed = now

    def wants_emit(self, now: float) -> bool:
        """Whether the newest text should be emitted; for `drift`, if its vector says so too."""
        if not self._unemitted:
            return False
        match self.emit.on:
            case "manual":
                return False
            case "pause":
                return now >= self._pause_ends
            case "sentence":
                return self._sentence or now >= self._pause_ends
        return True

    def wants_probe(self, now: float) -> bool:
        """Whether a probe should start now, if none is in flight."""
        return now >= self._allowed and ((self.watching and self._unseen) or self.wants_emit(now))

    def wake_at(self) -> float | None:
        """When `wants_probe` becomes true without a further change; None for never."""
        if (self.watching and self._unseen) or self.wants_emit(self._changed):
            return self._allowed
        if self._unemitted and self.emit.on != "manual":
            return max(self._allowed, self._pause_ends)
        return None

    def probed(self, emitting: bool, now: float) -> None:
        """A probe of the newest text has started; `emitting` tells whether `wants_emit` said so."""
        self._probed = now
        self._unseen = False
        if emitting:
            self._unemitted = self._sentence = False

    def change_rules(self, emit: Emit, watching: bool, now: float) -> None:
        """Puts other rules in force, and looks at the text as it is. The distance to the last probe is kept."""
        self.emit, self.watching = emit, watching
        self.touch(now)

    def postpone(self, now: float) -> None:
        """The engine had no room for the probe: it is tried again after a while."""
        self._probed = max(self._probed, now - self.emit.min_interval_ms / 1000 + _AGAIN_SECONDS)

    @property
    def due(self) -> float:
        """The time since which the probe of `wants_probe` has been due."""
        wake = self.wake_at()
        assert wake is not None, "it is wanted"
        return max(self._changed, wake)

    @property
    def _allowed(self) -> float:
        return self._probed + self.emit.min_interval_ms / 1000

    @property
    def _pause_ends(self) -> float:
        return self._changed + self.emit.pause_ms / 1000


@dataclass(eq=False)
class Target:
    """A watch in force."""

    watch: Watch
    vector: Vector | None
    """Of unit length; None until the watch's text is embedded."""
    armed: bool = True
    resolving: bool = False
    """Whether its text is being embedded."""
    gone: bool = False
    """Whether others have replaced it meanwhile."""
    error: RequestError | None = None
    """Why that failed, until somebody is told. It is tried again when the watches are given again."""


class Watches:
    """The watches of a session."""

    def __init__(self, dimensions: int) -> None:
        self._dimensions = dimensions
        self._targets: list[Target] = []

    def check(self, watches: list[Watch]) -> None:
        """Raises InvalidRequest where these watches make no sense."""
        seen = set()
        for index, watch in enumerate(watches):
            where = f"watch[{index}]"
            if watch.id in seen:
                raise InvalidRequest(f"{where}: another watch has this id", f"{where}.id")
            seen.add(watch.id)
            if (watch.text is None) == (watch.embedding is None):
                raise InvalidRequest(f"{where}: give text or embedding, one of them", where)
            if watch.embedding is not None:
                if len(watch.embedding) != self._dimensions:
                    raise InvalidRequest(
                        f"{where}: the embedding has {len(watch.embedding)} dimensions, the session {self._dimensions}",
                        f"{where}.embedding",
                    )
                if not np.isfinite(watch.embedding).all() or not np.any(watch.embedding):
                    raise InvalidRequest(f"{where}: the embedding has no direction", f"{where}.embedding")

    def replace(self, watches: list[Watch]) -> list[Target]:
        """Puts these in force, which `check` has passed. Those that are as before keep their state. Returns those whose
        text must be embedded now."""
        before = {target.watch.id: target for target in self._targets}
        kept = [before.get(watch.id) for watch in watches]
        self._targets = [
            old if old is not None and old.watch == watch else self._target(watch)
            for old, watch in zip(kept, watches, strict=True)
        ]
        for target in before.values():
            target.gone = target not in self._targets
        new = [target for target in self._targets if target.vector is None and not target.resolving]
        for target in new:
            target.resolving = True
        return new

    def failed(self) -> list[Target]:
        """Those whose text could not be embedded, and nobody was told."""
        return [target for target in self._targets if target.error is not None]

    def trigger(self, vector: Vector) -> list[tuple[str, float]]:
        """Watches that this vector of the text triggers, with their scores. Each triggers once, until its similarity
        has fallen again."""
        result = []
        for target in self._targets:
            if target.vector is None:
                continue
            score = float(target.vector @ vector)
            if target.armed and score >= target.watch.threshold:
                target.armed = False
                result.append((target.watch.id, score))
            elif score < target.watch.threshold - HYSTERESIS:
                target.armed = True
        return result

    def _target(self, watch: Watch) -> Target:
        if watch.embedding is None:
            return Target(watch, None)
        vector = np.asarray(watch.embedding, dtype=np.float64)
        vector /= np.abs(vector).max()  # so that no square overflows
        return Target(watch, (vector / np.linalg.norm(vector)).astype(np.float32))
