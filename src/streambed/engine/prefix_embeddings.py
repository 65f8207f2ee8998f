"""Many vectors from one reading of a text: which probes go with which tokens."""

import functools
from collections.abc import Sequence as Sequence_
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from streambed.engine.sequence import Embedding
from streambed.model.device import Vectors
from streambed.text.cuts import Cut


class Pass(NamedTuple):
    """A task of the reading."""

    ids: list[int]
    probes: tuple[int, ...]
    behind: int
    """How many of the ids the previous pass has computed already."""
    cuts: list[int]
    """Indexes of the places that its probes answer."""


@dataclass(frozen=True)
class Prefixes:
    """A text's tokens, and the places where its beginnings are embedded.

    Where a place falls between two tokens of the text, its probe runs in the one pass over them. Where it falls inside one
    (in the middle of a word, say), the beginning's own last tokens take that token's place for a moment: the pass is
    interrupted there, and goes on from the last token that both share. No row is computed twice but those few.
    """

    ids: list[int]
    """Token ids of the text up to its last place."""
    cuts: list[Cut]
    """Ascending; the last one has no tail."""

    @functools.cached_property
    def passes(self) -> list[Pass]:
        """Tasks for one sequence, in order."""
        passes: list[Pass] = []
        clean: list[int] = []
        behind = 0
        for number, cut in enumerate(self.cuts):
            if not cut.tail:
                clean.append(number)
                continue
            due = [each for each in clean if self.cuts[each].shared <= cut.shared]
            clean = clean[len(due) :]
            passes.append(self._pass([*self.ids[: cut.shared], *cut.tail], [*due, number], behind))
            behind = cut.shared
        if clean:
            passes.append(self._pass(self.ids, clean, behind))
        return passes

    def _pass(self, ids: list[int], cuts: list[int], behind: int) -> Pass:
        return Pass(ids, tuple(self.cuts[number].num_tokens for number in cuts), behind, cuts)

    def vectors(self, embeddings: Sequence_[Embedding]) -> Vectors:
        """What the tasks of `passes` ended in, in the order of the places: float32 [places, hidden]."""
        found = np.empty((len(self.cuts), embeddings[0].vectors.shape[1]), dtype=np.float32)
        for one, embedding in zip(self.passes, embeddings, strict=True):
            found[one.cuts] = embedding.vectors
        return found
