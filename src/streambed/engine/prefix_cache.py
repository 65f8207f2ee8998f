"""Which cached sequence a new text starts with, and which texts of a request start alike.

Sequences that finished stand in the order of their tokens, so the one that shares the longest prefix with a new text is
its neighbour on the left or on the right of the place where the text would stand. No hashes, no blocks, no tree.
"""

from bisect import bisect_left
from collections.abc import Iterable
from itertools import pairwise

import numpy as np

from streambed.engine.sequence import Sequence, Task
from streambed.text.strings import common_prefix


class PrefixCache:
    """Finished sequences by owner and tokens. Touched by the engine thread alone."""

    def __init__(self) -> None:
        self._keys: list[bytes] = []
        self._sequences: list[Sequence] = []

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, sequence: Sequence) -> bool:
        return self._find(sequence) is not None

    def add(self, sequence: Sequence) -> bool:
        """Adds a sequence with KV; False where one with the very same tokens is there already."""
        key = _key(sequence.owner, sequence.ids)
        at = bisect_left(self._keys, key)
        if at < len(self._keys) and self._keys[at] == key:
            return False
        self._keys.insert(at, key)
        self._sequences.insert(at, sequence)
        return True

    def remove(self, sequence: Sequence) -> None:
        """Removes a sequence, if it is here, before its tokens change."""
        at = self._find(sequence)
        if at is not None:
            del self._keys[at], self._sequences[at]

    def longest(self, owner: str, ids: list[int]) -> tuple[Sequence | None, int]:
        """The owner's sequence that shares the longest prefix with `ids`, and the length of that prefix."""
        at = bisect_left(self._keys, _key(owner, ids))
        best: tuple[Sequence | None, int] = (None, 0)
        for candidate in self._sequences[max(at - 1, 0) : at + 1]:
            if candidate.owner == owner:
                shared = common_prefix(candidate.ids, ids)
                if shared > best[1]:
                    best = candidate, shared
        return best

    def _find(self, sequence: Sequence) -> int | None:
        at = bisect_left(self._keys, _key(sequence.owner, sequence.ids))
        return at if at < len(self._keys) and self._sequences[at] is sequence else None

    def check_integrity(self) -> None:
        """Asserts what must hold between steps."""
        assert self._keys == sorted(set(self._keys)), "keys are in order, each once"
        for key, sequence in zip(self._keys, self._sequences, strict=True):
            assert key == _key(sequence.owner, sequence.ids), "a sequence stands under its own tokens"
            assert sequence.kv is not None, "only what has KV is worth finding"


def compare(tasks: Iterable[Task]) -> None:
    """Finds how much each task of a request has in common with another one: with a neighbour, in the order of tokens."""
    ordered = sorted(tasks, key=lambda task: _key(task.sequence.owner, task.ids))
    for one, other in pairwise(ordered):
        shared = common_prefix(one.ids, other.ids)
        one.alike, other.alike = max(one.alike, shared), shared


def _key(owner: str, ids: list[int]) -> bytes:
    # Big-endian, so that the order of bytes is the order of ids; the owner is length-prefixed, so none begins another.
    name = owner.encode()
    return len(name).to_bytes(4, "big") + name + np.array(ids, dtype=">u4").tobytes()
