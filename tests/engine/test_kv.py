"""Slabs and their budget."""

from __future__ import annotations

import pytest
import torch

from streambed.engine import core
from streambed.engine.core import choose_memory
from streambed.engine.kv import KVMemory
from streambed.engine.sequence import Sequence
from streambed.errors import SettingsError
from streambed.model.checkpoint import Qwen3Config
from streambed.model.cpu.device import CPU
from streambed.model.device import Memory
from streambed.model.stock.device import Stock
from streambed.model.stock.slab import Slab

CONFIG = Qwen3Config(100, 64, 96, 2, 4, 2, 16, 512, 1e-6, 1e6, False)
SLOT = 2 * 2 * 2 * 16 * 4  # layers, keys and values, heads, dimensions, bytes
PAGE = 4096 // (16 * 4)  # slots that share a page


def memory(slots: int, window: int = 512) -> tuple[KVMemory, list[Sequence]]:
    evicted: list[Sequence] = []
    device = CPU(CONFIG, torch.device("cpu"), torch.float32)
    return KVMemory(device, window, slots * SLOT, evicted.append), evicted


def filled(kv: KVMemory, slots: int) -> Sequence:
    """A sequence with `slots` slots of KV, idle."""
    sequence = Sequence("")
    assert kv.reserve(sequence, slots)
    assert isinstance(sequence.kv, Slab)
    sequence.kv.grow(slots)
    sequence.kv.back()
    sequence.ids = list(range(slots))
    kv.commit(sequence)
    kv.check_integrity()
    return sequence


def test_elsewhere_a_slab_holds_what_the_budget_counts() -> None:
    """The way of CUDA, shown on another device without memory of its own."""
    meta = torch.device("meta")
    kv = KVMemory(Stock(CONFIG, meta, torch.float32), 500, 4096 * SLOT)
    sequence = Sequence("")
    sizes = []
    for slots in (1, 64, 65, 100, 129, 400, 500):
        assert kv.reserve(sequence, slots)
        assert isinstance(sequence.kv, Slab)
        sequence.kv.grow(slots)
        sequence.kv.back()
        sizes.append(sequence.kv.kv.shape[3])
        assert sequence.kv.kv.nbytes <= kv.used
        kv.check_integrity()
    assert sizes == [64, 64, 128, 128, 192, 448, 512]
    small = Slab(CONFIG, 70, torch.float32, meta)
    small.grow(65)
    small.back()
    assert small.kv.shape[3] == 70  # never beyond the window and its probes


def test_the_longest_unused_is_evicted_to_text() -> None:
    kv, evicted = memory(4 * PAGE)
    first, second, third = (filled(kv, PAGE) for _ in range(3))
    kv.touch(first)
    new = Sequence("")
    assert kv.reserve(new, 2 * PAGE)
    assert evicted == [second]
    assert (second.kv, second.ids) == (None, [])
    assert first.kv is not None
    assert third.kv is not None
    assert kv.used == kv.budget
    kv.check_integrity()


def test_the_busy_are_never_evicted() -> None:
    kv, evicted = memory(4 * PAGE)
    busy = Sequence("")
    assert kv.reserve(busy, 3 * PAGE)
    other = Sequence("")
    assert not kv.reserve(other, 2 * PAGE)
    assert (evicted, other.kv) == ([], None)
    kv.check_integrity()
    kv.commit(busy)  # nothing was written, so all of it is free again
    assert kv.reserve(other, 2 * PAGE)
    kv.check_integrity()


def test_a_refused_sequence_keeps_what_it_has() -> None:
    kv, _ = memory(4 * PAGE)
    mine = filled(kv, PAGE)
    busy = Sequence("")
    assert kv.reserve(busy, 2 * PAGE)
    assert not kv.reserve(mine, 3 * PAGE)
    assert kv.is_idle(mine)
    assert len(mine.ids) == PAGE
    kv.check_integrity()


def test_adopting_moves_the_slab() -> None:
    kv, _ = memory(8 * PAGE)
    giver, taker = filled(kv, 2 * PAGE), Sequence("")
    memory_, used = giver.kv, kv.used
    kv.move(giver, taker, PAGE + 3)
    assert (taker.kv, len(taker.ids), giver.kv, giver.ids) == (memory_, PAGE + 3, None, [])
    assert kv.used == used
    assert kv.reserve(taker, 3 * PAGE)
    kv.check_integrity()


def test_dropped_slabs_are_used_again_within_the_budget() -> None:
    kv, evicted = memory(64 * 4 * PAGE)
    slabs = set()
    for _ in range(10):
        sequence = filled(kv, 10)
        slabs.add(id(sequence.kv))
        kv.release(sequence)
        kv.check_integrity()
    assert len(slabs) == 1
    kept = [filled(kv, 10) for _ in range(8)]
    for sequence in kept:
        kv.release(sequence)
    kv.check_integrity()
    everything = Sequence("")
    assert kv.reserve(everything, kv.max_slots)
    kv.check_integrity()
    assert not evicted


@pytest.mark.parametrize(
    ("slots", "longest"), [(512, 512), (600, 512), (511, 448), (PAGE, PAGE), (2 * PAGE + 1, 2 * PAGE)]
)
def test_what_is_admitted_fits_alone(slots: int, longest: int) -> None:
    kv, _ = memory(slots)
    assert kv.max_slots == longest
    for _ in range(3):
        filled(kv, min(PAGE, longest))
    assert kv.reserve(Sequence(""), longest)
    kv.check_integrity()


def test_a_window_need_not_end_with_a_page() -> None:
    for slots in range(PAGE, 4 * PAGE):
        kv, _ = memory(slots, window=PAGE + 5)
        assert kv.reserve(Sequence(""), kv.max_slots)
        kv.check_integrity()


def test_too_little_is_refused_at_the_start() -> None:
    with pytest.raises(SettingsError, match=r"^kv_memory is [\d,]+ bytes; .* at least"):
        memory(PAGE - 1)


def test_systems_that_do_not_say_how_much_memory_they_have(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_memory() > 0
    assert choose_memory(Memory(4000, 9000, 0)) == 1000
    monkeypatch.setattr(core, "usable_memory", lambda: None)
    with pytest.raises(SettingsError, match=r"^kv_memory is needed"):
        choose_memory()
