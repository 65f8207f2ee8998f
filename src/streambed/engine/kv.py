"""KV memory: slabs, and the budget that they share.

A slab is one contiguous range of virtual addresses, as long as the window. On a CPU the operating system pages it in as
rows are written, so growth never copies and attention reads plain strided views: no page tables, no gathers. A GPU's
memory is given out whole: there a slab grows by a copy into a larger one. The budget counts what is written, or promised
to a running task, whichever is more.
"""

from __future__ import annotations

import contextlib
import mmap
import sys
from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor

from streambed import machine
from streambed.engine.sequence import Sequence
from streambed.errors import SettingsError
from streambed.model.checkpoint import Qwen3Config

MAX_PROBES = 64
"""Probes of one sequence in one step. Their KV stands in slots behind the text, which the next rows overwrite."""
_CAN_MAP = hasattr(mmap, "MAP_PRIVATE")
"""Whether the operating system pages private mappings in as they are written; Windows has none."""
_MAP_NORESERVE = 0x4000 if sys.platform == "linux" else 0
_PAGE = mmap.PAGESIZE
_GROWTH = 64
"""Slots that a slab grows by on a GPU. Doubling would copy less, but hold up to twice what the budget counts; copying all
of 8,000 tokens of 0.6B takes an H200 half a millisecond, once in 64 tokens."""
_SPARE = 4
"""Freed slabs kept for the next text, with the memory that they had touched: saves the page faults of short texts."""


class Slab:
    """KV of one sequence: [layers, 2, kv_heads, slots, head_dim], heads-major, so that a head's keys are contiguous."""

    def __init__(self, config: Qwen3Config, slots: int, dtype: torch.dtype, device: torch.device) -> None:
        self._shape = (config.num_layers, 2, config.num_kv_heads, slots, config.head_dim)
        self._dtype, self._device = dtype, device
        self.written = 0
        """Slots that are, or are about to be, backed by memory: they are paid for until the slab goes."""
        self.kv = self._empty(0)

    def grow(self, slots: int) -> None:
        """Says that the first `slots` slots are about to be written. Takes no memory: scheduling cannot fail."""
        self.written = max(self.written, slots)

    def back(self) -> None:
        """Takes the memory for what is about to be written; a step does it. Raises torch.OutOfMemoryError, OSError."""
        if self.written <= self.kv.shape[3]:
            return
        if _is_mapped(self._device):
            self.kv = self._map()
        else:
            larger = self._empty(min(-(-self.written // _GROWTH) * _GROWTH, self._shape[3]))
            larger[:, :, :, : self.kv.shape[3]] = self.kv
            self.kv = larger

    def copy(self, source: Slab, start: int, stop: int) -> None:
        self.kv[:, :, :, start:stop] = source.kv[:, :, :, start:stop]

    def _empty(self, slots: int) -> Tensor:
        return torch.empty((*self._shape[:3], slots, self._shape[4]), dtype=self._dtype, device=self._device)

    def _map(self) -> Tensor:
        values = torch.Size(self._shape).numel()
        size = values * self._dtype.itemsize
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE)
        if hasattr(mmap, "MADV_NOHUGEPAGE"):
            # With huge pages one token would commit 2 MiB in every head of every layer. Kernels built without them
            # refuse the advice, and need none.
            with contextlib.suppress(OSError):
                memory.madvise(mmap.MADV_NOHUGEPAGE)
        # The tensor keeps the mapping alive, and dropping it gives the memory back.
        return torch.frombuffer(memory, dtype=self._dtype, count=values).view(self._shape)


class KVMemory:
    """The budget, and who pays for what. Touched by the engine thread alone.

    A sequence with a slab is either *busy* (a task runs on it: never evicted) or *idle* (evicted to text, the longest
    unused first, when others need the room).
    """

    def __init__(
        self, config: Qwen3Config, slots: int, dtype: torch.dtype, device: torch.device, budget: int,
        on_evict: Callable[[Sequence], None] = lambda sequence: None,
    ) -> None:  # fmt: skip
        """slots: the longest text, end token included. budget: bytes. on_evict is called before an idle one loses its KV."""
        self._config, self._slots, self._dtype, self._device = config, slots, dtype, device
        self.bytes_per_slot = config.kv_values_per_token * dtype.itemsize
        # Pages fill as slots are written, one page per head and layer at a time.
        page = max(1, _PAGE // (config.head_dim * dtype.itemsize))
        self._slots_per_page = page if _is_mapped(device) else _GROWTH
        self.budget = budget
        if budget < self.charge(min(64, slots)):
            raise SettingsError(
                f"is {budget:,} bytes; this model needs at least {self.charge(min(64, slots)):,} for 64 tokens",
                "kv_memory",
            )
        self.max_slots = min(slots, budget // self.bytes_per_slot // self._slots_per_page * self._slots_per_page)
        """The longest text that fits in the budget alone: what is admitted can always run."""
        self._on_evict = on_evict
        self._paid: dict[Sequence, int] = {}
        self._idle: OrderedDict[Sequence, None] = OrderedDict()
        self._spare: list[Slab] = []
        self.used = 0
        self.evictions = 0

    def charge(self, slots: int) -> int:
        """Bytes that `slots` slots of one slab cost, in whole pages."""
        return -(-slots // self._slots_per_page) * self._slots_per_page * self.bytes_per_slot

    def reserve(self, sequence: Sequence, slots: int) -> bool:
        """Promises memory for `slots` slots to a sequence and makes it busy; evicts idle ones as needed.

        False, and nothing is changed for this sequence, where the others are busy with too much.
        """
        assert slots <= self.max_slots, "admission checks the length"
        self._idle.pop(sequence, None)
        written = sequence.slab.written if sequence.slab else 0
        need = self.charge(max(slots, written)) - self._paid.get(sequence, 0)
        while self.used + need > self.budget and self._reclaim():
            pass
        if self.used + need > self.budget:
            if sequence.slab is not None:
                self._idle[sequence] = None
            return False
        self._pay(sequence, need)
        if sequence.slab is None:
            sequence.slab = self._spare.pop() if self._spare else self._new()
            spare = self.charge(sequence.slab.written)
            self.used -= spare
            self._pay(sequence, max(spare - self._paid[sequence], 0))
        return True

    def move(self, giver: Sequence, taker: Sequence, length: int) -> None:
        """`taker` adopts the slab of an idle `giver` with its first `length` slots; the giver is left empty."""
        assert taker.slab is None
        assert giver in self._idle
        del self._idle[giver]
        giver.cut(length)
        taker.slab, taker.ids = giver.slab, giver.ids
        giver.slab, giver.ids = None, []
        self._paid[taker] = self._paid.pop(giver)

    def rest(self, sequence: Sequence) -> None:
        """The sequence's task is over: it pays for what is written and may be evicted."""
        if sequence.slab is None:
            return
        self._pay(sequence, self.charge(sequence.slab.written) - self._paid[sequence])
        self._idle[sequence] = None
        self._idle.move_to_end(sequence)

    def drop(self, sequence: Sequence) -> None:
        """Takes a sequence's KV away; its text is elsewhere."""
        self._idle.pop(sequence, None)
        slab, sequence.slab = sequence.slab, None
        sequence.ids = []
        if slab is None:
            return
        self.used -= self._paid.pop(sequence)
        charge = self.charge(slab.written)
        if len(self._spare) < _SPARE and charge <= self.budget // 64 and self.used + charge <= self.budget:
            self._spare.append(slab)
            self.used += charge

    def touch(self, sequence: Sequence) -> None:
        """Marks an idle sequence as just used."""
        if sequence in self._idle:
            self._idle.move_to_end(sequence)

    def idle(self) -> list[Sequence]:
        """Sequences that may be evicted, the longest unused first."""
        return list(self._idle)

    def is_idle(self, sequence: Sequence) -> bool:
        return sequence in self._idle

    def _reclaim(self) -> bool:
        if self._spare:
            self.used -= self.charge(self._spare.pop().written)
            return True
        if not self._idle:
            return False
        victim = next(iter(self._idle))
        self._on_evict(victim)
        self.evictions += 1
        # Not drop(): its memory is wanted now, not spare.
        del self._idle[victim]
        self.used -= self._paid.pop(victim)
        victim.slab, victim.ids, victim.evicted = None, [], True
        return True

    def _pay(self, sequence: Sequence, amount: int) -> None:
        self._paid[sequence] = self._paid.get(sequence, 0) + amount
        self.used += amount

    def _new(self) -> Slab:
        return Slab(self._config, self._slots + MAX_PROBES, self._dtype, self._device)

    def check_integrity(self) -> None:
        """Asserts what must hold between steps."""
        spare = sum(self.charge(slab.written) for slab in self._spare)
        assert self.used == sum(self._paid.values()) + spare, "the sum of what is paid is what is used"
        assert self.used <= self.budget, "the budget holds"
        slabs = [id(sequence.slab) for sequence in self._paid] + [id(slab) for slab in self._spare]
        assert len(slabs) == len(set(slabs)), "no slab has two owners"
        for sequence, paid in self._paid.items():
            assert sequence.slab is not None, "who pays has memory"
            assert len(sequence.ids) <= sequence.slab.written, "KV stands where something was written"
            assert paid >= self.charge(sequence.slab.written), "what is written is paid for"
        assert all(sequence in self._paid for sequence in self._idle), "who is idle has memory"


def _is_mapped(device: torch.device) -> bool:
    return device.type == "cpu" and _CAN_MAP


def physical_memory(device: torch.device) -> int:
    """Bytes of memory of the machine or the accelerator; a container's limit counts. Raises SettingsError where the system
    does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if (memory := machine.usable_memory()) is None:
        raise SettingsError("is needed: this system does not say how much memory it has", "kv_memory")
    return memory
