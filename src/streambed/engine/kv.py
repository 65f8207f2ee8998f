"""The budget of KV memory: how much each sequence holds, and which is evicted.

It counts what is written, or promised to a running task, whichever is more.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable

from streambed.engine.sequence import Sequence
from streambed.errors import SettingsError
from streambed.model.device import KV, Device

MAX_PROBES = 64
"""Probes of one sequence in one step. Their KV stands in slots behind the text, which the next rows overwrite."""
_SPARE = 4
"""Slabs of finished texts, with their memory, for the next short texts: saves page faults."""


class KVMemory:
    """The budget, and who pays for what. Touched by the engine thread alone.

    A sequence with KV is either *busy* (a task runs on it: never evicted) or *idle* (evicted to text when others need the
    room: first those of batches, then the longest unused).
    """

    def __init__(
        self,
        device: Device,
        slots: int,
        budget: int,
        on_evict: Callable[[Sequence], None] = lambda sequence: None,
    ) -> None:
        """slots: the longest text, end token included. budget: bytes. on_evict is called before an idle one loses its KV."""
        self._device, self._slots = device, slots
        self.budget = budget
        if budget < self.charge(min(64, slots)):
            raise SettingsError(
                f"is {budget:,} bytes; this model needs at least {self.charge(min(64, slots)):,} for 64 tokens",
                "kv_memory",
            )
        page = device.slots_per_page
        self.max_slots = min(slots, budget // device.bytes_per_slot // page * page)
        """The longest text that fits in the budget alone: what is admitted can always run."""
        self._on_evict = on_evict
        self._paid: dict[Sequence, int] = {}
        self._idle: OrderedDict[Sequence, None] = OrderedDict()
        self._lent: Counter[Sequence] = Counter()
        self._spare: list[KV] = []
        self.used = 0
        self.evictions = 0

    def charge(self, slots: int) -> int:
        """Bytes that `slots` slots of one sequence cost, in whole pages."""
        page = self._device.slots_per_page
        return -(-slots // page) * page * self._device.bytes_per_slot

    def reserve(self, sequence: Sequence, slots: int) -> bool:
        """Reserves memory for `slots` slots to a sequence and makes it busy; evicts idle ones as needed.

        False, and nothing is changed for this sequence, where the others are busy with too much.
        """
        assert slots <= self.max_slots, "admission checks the length"
        self._idle.pop(sequence, None)
        written = sequence.kv.written if sequence.kv else 0
        need = self.charge(max(slots, written)) - self._paid.get(sequence, 0)
        while self.used + need > self.budget and self._reclaim():
            pass
        if self.used + need > self.budget:
            if sequence.kv is not None:
                self._rest(sequence)
            return False
        self._pay(sequence, need)
        if sequence.kv is None:
            sequence.kv = self._spare.pop() if self._spare else self._device.new_kv(self._slots + MAX_PROBES)
            spare = self.charge(sequence.kv.written)
            self.used -= spare
            self._pay(sequence, max(spare - self._paid[sequence], 0))
        return True

    def move(self, giver: Sequence, taker: Sequence, length: int) -> None:
        """`taker` adopts the KV of an idle `giver` with its first `length` slots; the giver is left empty."""
        assert taker.kv is None
        assert giver in self._idle
        del self._idle[giver]
        giver.cut(length)
        taker.kv, taker.ids = giver.kv, giver.ids
        giver.kv, giver.ids = None, []
        self._paid[taker] = self._paid.pop(giver)

    def commit(self, sequence: Sequence) -> None:
        """The task is done: the sequence is charged for what is written and may be evicted."""
        if sequence.kv is None:
            return
        self._pay(sequence, self.charge(sequence.kv.written) - self._paid[sequence])
        self._rest(sequence)

    def release(self, sequence: Sequence) -> None:
        """Takes a sequence's KV away; its text is elsewhere."""
        self._idle.pop(sequence, None)
        kv, sequence.kv = sequence.kv, None
        sequence.ids = []
        if kv is None:
            return
        self.used -= self._paid.pop(sequence)
        charge = self.charge(kv.written)
        if len(self._spare) < _SPARE and charge <= self.budget // 64 and self.used + charge <= self.budget:
            self._spare.append(kv)
            self.used += charge

    def lend(self, sequence: Sequence) -> None:
        """Makes an idle sequence, or one that is lent already, busy until `take_back` was called as often."""
        assert sequence in self._idle or sequence in self._lent
        self._idle.pop(sequence, None)
        self._lent[sequence] += 1

    def take_back(self, sequence: Sequence) -> None:
        """See `lend`."""
        self._lent[sequence] -= 1
        if not self._lent[sequence]:
            del self._lent[sequence]
            self._rest(sequence)

    def touch(self, sequence: Sequence) -> None:
        """Marks an idle sequence as just used."""
        if sequence in self._idle:
            self._rest(sequence)

    def _rest(self, sequence: Sequence) -> None:
        self._idle[sequence] = None
        self._idle.move_to_end(sequence, last=sequence.kept)

    def idle(self) -> list[Sequence]:
        """Sequences that may be evicted, the first to go first."""
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
        # Not release(): its memory is wanted now, not spare.
        del self._idle[victim]
        self.used -= self._paid.pop(victim)
        victim.kv, victim.ids, victim.evicted = None, [], True
        return True

    def _pay(self, sequence: Sequence, amount: int) -> None:
        self._paid[sequence] = self._paid.get(sequence, 0) + amount
        self.used += amount

    def check_integrity(self) -> None:
        """Asserts what must hold between steps."""
        spare = sum(self.charge(kv.written) for kv in self._spare)
        assert self.used == sum(self._paid.values()) + spare, "the sum of what is paid is what is used"
        assert self.used <= self.budget, "the budget holds"
        all_kv = [id(sequence.kv) for sequence in self._paid] + [id(kv) for kv in self._spare]
        assert len(all_kv) == len(set(all_kv)), "no KV has two owners"
        for sequence, paid in self._paid.items():
            assert sequence.kv is not None, "who pays has memory"
            assert len(sequence.ids) <= sequence.kv.written, "KV stands where something was written"
            assert paid >= self.charge(sequence.kv.written), "what is written is paid for"
        assert all(sequence in self._paid for sequence in self._idle), "who is idle has memory"
        assert all(sequence in self._paid for sequence in self._lent), "who lends has memory"
        assert not self._idle.keys() & self._lent.keys(), "who lends is busy"
