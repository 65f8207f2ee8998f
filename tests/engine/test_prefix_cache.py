"""The sequence with the longest common prefix, against trying them all."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streambed.engine.prefix_cache import PrefixCache
from streambed.engine.sequence import Sequence
from streambed.text.strings import common_prefix

ids = st.lists(st.sampled_from([0, 1, 255, 256, 70_000]), max_size=8)
owned = st.tuples(st.sampled_from(["", "a", "ab"]), ids)


class _Slab:
    written = 0


def sequence(owner: str, tokens: list[int]) -> Sequence:
    return Sequence(owner, ids=tokens, kv=_Slab())  # type: ignore[arg-type]


@given(st.lists(owned, max_size=20), st.lists(owned, max_size=10), st.data())
def test_longest(cached: list[tuple[str, list[int]]], wanted: list[tuple[str, list[int]]], data: st.DataObject) -> None:
    prefixes, kept = PrefixCache(), {}
    for owner, tokens in cached:
        one = sequence(owner, tokens)
        assert prefixes.add(one) is ((owner, tuple(tokens)) not in kept)
        kept.setdefault((owner, tuple(tokens)), one)
    prefixes.check_integrity()
    for key in data.draw(st.lists(st.sampled_from(sorted(kept)), unique=True)) if kept else []:
        gone = kept.pop(key)
        assert gone in prefixes
        prefixes.remove(gone)
        assert gone not in prefixes
        prefixes.remove(gone)
    prefixes.check_integrity()
    assert len(prefixes) == len(kept)
    for owner, tokens in wanted:
        best = max((common_prefix(list(key[1]), tokens) for key in kept if key[0] == owner), default=0)
        found, shared = prefixes.longest(owner, tokens)
        assert shared == best
        if shared:
            assert found is not None
            assert found.owner == owner
            assert found.ids[:shared] == tokens[:shared]


@given(st.integers(0, 1600), st.integers(0, 1600), st.integers(0, 1600))
def test_common_prefix(shared: int, more: int, other: int) -> None:
    start = list(range(shared))
    assert common_prefix(start + [-1] * more, start + [-2] * other) == shared
    assert common_prefix(start, start + [-2] * other) == shared
