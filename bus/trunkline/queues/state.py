"""The state of a queue: which entries it has, who holds them, what is settled. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from trunkline.queues.index import Lease, Range, slice_bytes

__all__ = ["QueueState"]


class QueueState:
    """Entries in the order of their sequence: each ready, delayed or leased until it is settled."""

    def __init__(self) -> None:
        self._entries: dict[int, Lease] = {}  # by sequence; settled ones are gone
        self._positions: dict[int, int] = {}
        self._changed = False
        self.next_sequence = 0
        self.missing_chunk: int | None = None

    def _all(self) -> Iterator[Lease]:
        return iter(list(self._entries.values()))

    @property
    def ready(self) -> int:
        return sum(not one.holder and not one.due_ms for one in self._all())

    @property
    def unacked(self) -> int:
        return sum(one.holder != 0 for one in self._all())

    @property
    def delayed(self) -> int:
        return sum(one.due_ms != 0 for one in self._all())

    @property
    def live_bytes(self) -> int:
        return sum(one.size_bytes for one in self._all())

    def held_by(self, holder: int) -> int:
        return sum(one.holder == holder for one in self._all())

    @property
    def positions(self) -> dict[int, int]:
        return self._positions

    @property
    def has_changes(self) -> bool:
        return self._changed

    def append(
        self,
        source: int,
        offset: int,
        count: int,
        size_bytes: int,
        *,
        priority: int = 0,
        due_ms: int = 0,
        expires_ms: int = 0,
        now_ms: int = 0,
    ) -> int:
        """Add entries at the end and return the sequence of the first."""
        first = self.next_sequence
        for i in range(count):
            share = slice_bytes(size_bytes, count, i, i + 1)
            due = due_ms if due_ms > now_ms else 0
            self._entries[first + i] = Lease(
                first + i, 1, source, offset + i, share, priority=priority, expires_ms=expires_ms, due_ms=due
            )
        self.next_sequence += count
        self.routed(source, offset + count)
        return first

    def routed(self, source: int, next_offset: int) -> None:
        self._positions[source] = max(next_offset, self._positions.get(source, 0))
        self._changed = True

    def _ready(self) -> list[Lease]:
        found = [one for one in self._all() if not one.holder and not one.due_ms]
        return sorted(found, key=lambda one: (-one.priority, one.sequence))

    @staticmethod
    def _is_expired(one: Lease, now_ms: int) -> bool:
        return 0 < one.expires_ms <= now_ms

    def acquire(
        self, limit: int, holder: int, now_ms: int, *, deadline_ms: int = 0, max_bytes: int | None = None
    ) -> list[Lease]:
        """Lease up to ``limit`` entries; stops before a head that has expired (see :meth:`take_expired`)."""
        taken: list[Lease] = []
        room = max_bytes
        for one in self._ready()[: max(limit, 0)]:
            if self._is_expired(one, now_ms) or (taken and room is not None and one.size_bytes > room):
                break
            room = None if room is None else room - one.size_bytes
            one.holder, one.deadline_ms = holder, deadline_ms
            taken.append(msgspec.structs.replace(one))
        self._changed |= bool(taken)
        return taken

    def _held(self, ranges: Iterable[Range], holder: int) -> Iterator[Lease]:
        for first, end in ranges:
            for one in self._all():
                if one.holder == holder and first <= one.sequence < end:
                    yield one

    def settle(self, ranges: Iterable[Range], holder: int) -> int:
        settled = [self._entries.pop(one.sequence, None) for one in self._held(ranges, holder)]
        self._changed |= bool(settled)
        return len(settled)

    def _give_back(self, one: Lease, due_ms: int, count: bool) -> None:
        one.holder, one.deadline_ms, one.due_ms = 0, 0, due_ms
        one.deliveries += count

    def release(self, ranges: Iterable[Range], holder: int, *, due_ms: int = 0, count: bool = True) -> int:
        released = 0
        for one in self._held(ranges, holder):
            self._give_back(one, due_ms, count)
            released += 1
        self._changed |= bool(released)
        return released

    def release_holder(self, holder: int) -> int:
        return self.release([(0, self.next_sequence)], holder)

    def expire_leases(self, now_ms: int) -> dict[int, int]:
        """Release what was held for too long; how many entries each holder lost."""
        lost: dict[int, int] = {}
        for one in self._all():
            if one.holder and 0 < one.deadline_ms <= now_ms:
                lost[one.holder] = lost.get(one.holder, 0) + 1
                self._give_back(one, 0, True)
        self._changed |= bool(lost)
        return lost

    def extend(self, ranges: Iterable[Range], holder: int, deadline_ms: int) -> int:
        extended = list(self._held(ranges, holder))
        for one in extended:
            one.deadline_ms = deadline_ms
        return len(extended)

    def take_expired(self, now_ms: int, holder: int, limit: int = 1000) -> list[Lease]:
        """Lease expired heads, of every priority, up to ``limit`` entries."""
        taken: list[Lease] = []
        blocked: set[int] = set()
        for one in self._ready():
            if one.priority in blocked:
                continue
            if len(taken) == limit or not self._is_expired(one, now_ms):
                blocked.add(one.priority)
                continue
            one.holder = holder
            taken.append(msgspec.structs.replace(one))
        return taken

    def transfer(self, ranges: Iterable[Range], holder: int, to_holder: int) -> list[Lease]:
        """What of ``ranges`` ``holder`` has is from now on ``to_holder``'s, without a deadline; gives those leases."""
        moved: list[Lease] = []
        for one in list(self._held(ranges, holder)):
            one.holder, one.deadline_ms = to_holder, 0
            moved.append(msgspec.structs.replace(one))
        return moved

    def take_oldest(self, limit: int, holder: int) -> list[Lease]:
        """Lease up to ``limit`` ready entries that are worth least: lowest priority first, then lowest sequence."""
        found = sorted(self._ready(), key=lambda one: (one.priority, one.sequence))[: max(limit, 0)]
        for one in found:
            one.holder = holder
        return [msgspec.structs.replace(one) for one in found]

    def due(self, now_ms: int) -> int:
        found = [one for one in self._all() if 0 < one.due_ms <= now_ms]
        for one in found:
            one.due_ms = 0
        self._changed |= bool(found)
        return len(found)

    @property
    def next_timer_ms(self) -> int | None:
        times = [one.due_ms for one in self._all() if one.due_ms]
        times += [one.deadline_ms for one in self._all() if one.holder and one.deadline_ms]
        heads: dict[int, int] = {}
        for one in self._ready():
            heads.setdefault(one.priority, one.expires_ms)
        times += [expires for expires in heads.values() if expires]
        return min(times, default=None)

    def lowest_live(self, source: int) -> int | None:
        return min((one.offset for one in self._all() if one.source == source), default=None)

    def live_below(self, source: int, offset: int, limit: int) -> list[Lease] | None:
        """Live entries of a source below an offset, at least ``limit + 1`` of them if there are more than ``limit``."""
        found = [msgspec.structs.replace(one) for one in self._all() if one.source == source and one.offset < offset]
        return found[: limit + 1]

    def move_entry(self, entry: Lease, source: int, offset: int) -> int:
        """The sequences of ``entry`` are now stored at ``offset`` and on of ``source``; how many are still live."""
        moved = 0
        for i in range(entry.count):
            one = self._entries.get(entry.sequence + i)
            if one is not None:
                one.source, one.offset = source, offset + i
                moved += 1
        self._changed |= bool(moved)
        return moved

    def peek(self, limit: int, after_sequence: int = -1) -> list[Lease]:
        """Copies of live entries, by sequence."""
        found = sorted((one for one in self._all() if one.sequence > after_sequence), key=lambda one: one.sequence)
        return [msgspec.structs.replace(one) for one in found[:limit]]

    def _drop(self, gone: list[Lease]) -> int:
        for one in gone:
            del self._entries[one.sequence]
        self._changed |= bool(gone)
        return len(gone)

    def purge(self) -> int:
        """Settle all that is ready or delayed."""
        return self._drop([one for one in self._all() if not one.holder])

    def drop_below(self, source: int, offset: int) -> int:
        """Settle what is ready or delayed and whose record is gone."""
        return self._drop(
            [one for one in self._all() if one.source == source and one.offset < offset and not one.holder]
        )

    def drop_source(self, source: int) -> int:
        return self.drop_below(source, 1 << 63)

    def take_delta(self, max_bytes: int = 4 * 1024 * 1024) -> bytes | None:
        if not self._changed:
            return None
        self._changed = False
        return b"".join(self.snapshot())

    def apply_delta(self, data: bytes) -> None:
        found = self.restore([data])
        self._entries, self._positions, self.next_sequence = found._entries, found._positions, found.next_sequence

    def snapshot(self) -> list[bytes]:
        entries = [msgspec.structs.replace(one) for one in self._all()]
        for one in entries:
            one.deliveries += one.holder != 0
            one.holder = one.deadline_ms = 0
        return [msgspec.msgpack.encode((self.next_sequence, self._positions, entries))]

    @classmethod
    def restore(cls, chunks: Sequence[bytes]) -> QueueState:
        state = cls()
        kind: Any = tuple[int, dict[int, int], list[Lease]]
        state.next_sequence, state._positions, entries = msgspec.msgpack.decode(b"".join(chunks), type=kind)
        state._entries = {one.sequence: one for one in entries}
        return state

    def recover_chunk(self, number: int, stored_at: int, head: bytes) -> None:
        """After a restart: a chunk of the index is stored there. ``head``: at least its first CHUNK_HEAD_BYTES."""

    def recovered(self) -> None:
        """After a restart: all deltas and chunks were given."""

    def take_sealed(self) -> list[tuple[int, bytes]]:
        return []

    def chunk_written(self, number: int, stored_at: int) -> None:
        pass

    def stored_at(self, number: int) -> int:
        raise KeyError(number)

    def load_chunk(self, number: int, data: bytes) -> None:
        pass

    def chunks_to_forget(self) -> list[int]:
        return []
