"""The state of a queue beside one that is too simple to be wrong, through crashes at any point of what is written.

``TRUNKLINE_MODEL_EXAMPLES=5000 pytest tests/queues/test_state_model.py`` runs for long.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from trunkline.queues.index import Lease, Range, slice_bytes
from trunkline.queues.state import QueueState

EXAMPLES = int(os.environ.get("TRUNKLINE_MODEL_EXAMPLES", "150"))
HOLDERS = st.integers(1, 3)
LIAR = 9  # a holder that never gets anything
SOURCES = st.integers(0, 2)
HOUSE = 7  # the source to which entries are moved
PRIORITIES = st.sampled_from([0, 0, 0, 4, 255])


class NaiveImage(NamedTuple):
    next_sequence: int
    positions: dict[int, int]
    entries: list[Lease]


class NaiveState:
    """The model: one lease of one entry for each, in a dict."""

    def __init__(self) -> None:
        self._entries: dict[int, Lease] = {}  # by sequence; settled ones are gone
        self._positions: dict[int, int] = {}
        self.next_sequence = 0

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

    def bytes_held_by(self, holder: int) -> int:
        return sum(one.size_bytes for one in self._all() if one.holder == holder)

    def held_bytes(self) -> int:
        return sum(one.size_bytes for one in self._all() if one.holder or one.due_ms)

    @property
    def positions(self) -> dict[int, int]:
        return self._positions

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
        return taken

    def _held(self, ranges: Iterable[Range], holder: int) -> Iterator[Lease]:
        for first, end in ranges:
            for one in self._all():
                if one.holder == holder and first <= one.sequence < end:
                    yield one

    def settle(self, ranges: Iterable[Range], holder: int) -> int:
        settled = [self._entries.pop(one.sequence, None) for one in self._held(ranges, holder)]
        return len(settled)

    def _give_back(self, one: Lease, due_ms: int, count: bool) -> None:
        one.holder, one.deadline_ms, one.due_ms = 0, 0, due_ms
        one.deliveries += count

    def release(self, ranges: Iterable[Range], holder: int, *, due_ms: int = 0, count: bool = True) -> int:
        released = 0
        for one in self._held(ranges, holder):
            self._give_back(one, due_ms, count)
            released += 1
        return released

    def expire_leases(self, now_ms: int) -> dict[int, int]:
        """Release what was held for too long; how many entries each holder lost."""
        lost: dict[int, int] = {}
        for one in self._all():
            if one.holder and 0 < one.deadline_ms <= now_ms:
                lost[one.holder] = lost.get(one.holder, 0) + 1
                self._give_back(one, 0, True)
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
        found = list(self._held(ranges, holder))
        for one in found:
            one.holder, one.deadline_ms = to_holder, 0
        return [msgspec.structs.replace(one) for one in found]

    def take_oldest(self, limit: int, holder: int) -> list[Lease]:
        found = sorted(self._ready(), key=lambda one: (one.priority, one.sequence))[:limit]
        for one in found:
            one.holder = holder
        return [msgspec.structs.replace(one) for one in found]

    def due(self, now_ms: int) -> int:
        found = [one for one in self._all() if 0 < one.due_ms <= now_ms]
        for one in found:
            one.due_ms = 0
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

    def lowest_live(self, source: int, start: int = 0) -> int | None:
        return min((one.offset for one in self._all() if one.source == source and one.offset >= start), default=None)

    def live_below(self, source: int, offset: int) -> list[Lease]:
        """Live entries of a source below an offset."""
        return [msgspec.structs.replace(one) for one in self._all() if one.source == source and one.offset < offset]

    def move_entry(self, entry: Lease, source: int, offset: int) -> int:
        """The sequences of ``entry`` are now stored at ``offset`` and on of ``source``; how many are still live."""
        moved = 0
        for i in range(entry.count):
            one = self._entries.get(entry.sequence + i)
            if one is not None:
                one.source, one.offset = source, offset + i
                moved += 1
        return moved

    def peek(self) -> list[Lease]:
        """Copies of live entries, by sequence."""
        return [msgspec.structs.replace(one) for one in sorted(self._all(), key=lambda one: one.sequence)]

    def _drop(self, gone: list[Lease]) -> int:
        for one in gone:
            del self._entries[one.sequence]
        return len(gone)

    def purge(self) -> int:
        """Settle all that is ready or delayed."""
        return self._drop([one for one in self._all() if not one.holder])

    def drop_below(self, source: int, offset: int) -> int:
        """Settle what is ready or delayed and whose record is gone."""
        return self._drop(
            [one for one in self._all() if one.source == source and one.offset < offset and not one.holder]
        )

    def image(self) -> NaiveImage:
        """What a crash leaves, if all of it is stored now."""
        entries = [msgspec.structs.replace(one) for one in self._all()]
        for one in entries:
            one.deliveries += one.holder != 0
            one.holder = one.deadline_ms = 0
        return NaiveImage(self.next_sequence, dict(self._positions), entries)

    @classmethod
    def restore(cls, image: NaiveImage) -> NaiveState:
        state = cls()
        state.next_sequence, state._positions = image.next_sequence, dict(image.positions)
        state._entries = {one.sequence: msgspec.structs.replace(one) for one in image.entries}
        return state


class SmallChunks(QueueState):
    __slots__ = ()
    runs_per_chunk = 4


class Arrival(NamedTuple):
    """A batch in a source."""

    source: int
    offset: int
    records: int
    size_bytes: int
    priority: int
    due_ms: int
    expires_ms: int


class Written(NamedTuple):
    """A record of the log that survives a crash, and the model as of then, if it tells all of the state."""

    kind: str
    number: int
    data: Sequence[bytes]
    model: NaiveImage | None = None


def entries(leases: Sequence[Lease], *, with_holder: bool = True) -> list[tuple[int, ...]]:
    """One row for each entry: what the state says of it."""
    rows: list[tuple[int, ...]] = []
    for lease in leases:
        for i in range(lease.count):
            share = lease.size_bytes // lease.count + (i < lease.size_bytes % lease.count)
            row = (lease.sequence + i, lease.source, lease.offset + i, share, lease.deliveries, lease.priority)
            rows.append((*row, lease.expires_ms, lease.due_ms, lease.holder, lease.deadline_ms))
    return rows


class QueueMachine(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.state: QueueState = SmallChunks()
        self.model = NaiveState()
        self.now_ms = 1000
        self.arrived: dict[int, list[Arrival]] = {}
        self.ends: dict[int, int] = {}
        self.starts: dict[int, int] = {}  # below them the records are gone
        self.log: list[Written] = []
        self.chunk_data: dict[int, bytes] = {}
        self.house_end = 0

    # Driving

    def load_missing(self) -> bool:
        return self.load(self.state.missing_chunk)

    def load(self, number: int | None) -> bool:
        if number is None:
            return False
        assert self.state.stored_at(number) == number * 10
        self.state.load_chunk(number, self.chunk_data[number])
        return True

    def write_sealed(self) -> None:
        for number, data in self.state.take_sealed():
            self.log.append(Written("chunk", number, [data]))
            self.chunk_data[number] = data
            self.state.chunk_written(number, number * 10)

    def forget(self) -> None:
        for number in self.state.chunks_to_forget():
            self.log.append(Written("forget", number, []))
            del self.chunk_data[number]

    @rule(part_bytes=st.sampled_from([30, 60, 1 << 20]))
    def write_delta(self, part_bytes: int) -> None:
        self.write_sealed()
        parts = []
        while (part := self.state.take_delta(part_bytes)) is not None:
            parts.append(part)
            assert len(part) <= part_bytes
        model = self.model.image()
        for i, part in enumerate(parts):
            self.log.append(Written("delta", 0, [part], model if i == len(parts) - 1 else None))
        assert not self.state.has_changes
        self.forget()

    @rule()
    def write_snapshot(self) -> None:
        self.write_sealed()
        self.log.append(Written("snapshot", 0, self.state.snapshot(), self.model.image()))
        self.forget()

    @rule(lost=st.integers(0, 6), again=st.booleans(), data=st.data())
    def crash(self, lost: int, again: bool, data: st.DataObject) -> None:
        del self.log[len(self.log) - lost :]
        snapshots = [i for i, one in enumerate(self.log) if one.kind == "snapshot"]
        start = snapshots[-1] if snapshots else -1
        self.state = SmallChunks.restore(self.log[start].data) if snapshots else SmallChunks()
        deltas = [one.data[0] for one in self.log[start + 1 :] if one.kind == "delta"]
        old = [one.data[0] for one in self.log[: start + 1] if one.kind == "delta"]
        for part in (*old, *deltas, *(deltas if again else [])):
            self.state.apply_delta(part)
        self.chunk_data = {}
        for one in self.log:
            if one.kind == "chunk":
                self.chunk_data[one.number] = one.data[0]
            elif one.kind == "forget":
                del self.chunk_data[one.number]
        for number, chunk in self.chunk_data.items():
            self.state.recover_chunk(number, number * 10, chunk)
        self.state.recovered()
        models = [one.model for one in self.log if one.model is not None]
        self.model = NaiveState.restore(models[-1]) if models else NaiveState()
        self.compare()
        self.match_again(data)

    def match_again(self, data: st.DataObject) -> None:
        """Look again at what arrived behind the stored positions, each source in its order."""
        assert self.state.positions == self.model.positions
        left = {
            source: [one for one in arrivals if one.offset >= self.state.positions.get(source, 0)]
            for source, arrivals in self.arrived.items()
        }
        while waiting := [source for source, arrivals in left.items() if arrivals]:
            self.append(left[data.draw(st.sampled_from(waiting))].pop(0))

    def append(self, one: Arrival) -> None:
        for state in (self.state, self.model):
            state.append(
                one.source,
                one.offset,
                one.records,
                one.size_bytes,
                priority=one.priority,
                due_ms=one.due_ms,
                expires_ms=one.expires_ms,
                now_ms=self.now_ms,
            )

    # What happens

    @rule(
        source=SOURCES,
        count=st.sampled_from([1, 1, 2, 7, 30]),
        size_bytes=st.integers(0, 50),
        priority=PRIORITIES,
        due=st.sampled_from([0, 0, 0, 0, 0, -5, 40]),
        expires=st.sampled_from([0, 0, 0, 0, 20, 60]),
        gap=st.sampled_from([0, 0, 3]),
        times=st.sampled_from([1, 1, 3, 9]),
    )
    def arrive(
        self, source: int, count: int, size_bytes: int, priority: int, due: int, expires: int, gap: int, times: int
    ) -> None:
        for _ in range(times):
            offset = self.ends.get(source, 0) + gap
            self.ends[source] = offset + count
            due_ms = self.now_ms + due if due else 0
            expires_ms = self.now_ms + expires if expires else 0
            one = Arrival(source, offset, count, size_bytes, priority, due_ms, expires_ms)
            self.arrived.setdefault(source, []).append(one)
            self.append(one)

    @rule(source=SOURCES, more=st.integers(0, 3))
    def look_at_what_does_not_match(self, source: int, more: int) -> None:
        self.ends[source] = self.ends.get(source, 0) + more
        self.state.routed(source, self.ends[source])
        self.model.routed(source, self.ends[source])

    @rule(
        limit=st.sampled_from([0, 1, 2, 5, 40]),
        holder=HOLDERS,
        deadline=st.sampled_from([0, 0, 15]),
        max_bytes=st.sampled_from([None, None, 0, 20]),
    )
    def acquire(self, limit: int, holder: int, deadline: int, max_bytes: int | None) -> None:
        deadline_ms = self.now_ms + deadline if deadline else 0
        expected = self.model.acquire(limit, holder, self.now_ms, deadline_ms=deadline_ms, max_bytes=max_bytes)
        got: list[tuple[int, ...]] = []
        while True:
            room = None if max_bytes is None else max_bytes - sum(row[3] for row in got)
            if room is not None and got and (len(got) == len(expected) or room < 0):
                break  # asking again would give one entry at least
            more = self.state.acquire(limit - len(got), holder, self.now_ms, deadline_ms=deadline_ms, max_bytes=room)
            got += entries(more)
            if not more and not self.load_missing():
                break
        assert got == entries(expected)

    @rule(holder=HOLDERS, limit=st.sampled_from([1, 3, 1000]))
    def take_expired(self, holder: int, limit: int) -> None:
        while self.load_missing():
            pass
        expected = entries(self.model.take_expired(self.now_ms, holder, limit))
        got: list[tuple[int, ...]] = []
        while len(got) < limit:
            more = self.state.take_expired(self.now_ms, holder, limit - len(got))
            got += entries(more)
            if not more and not self.load_missing():
                break
        assert sorted(got) == sorted(expected)

    def ranges(self, data: st.DataObject, holder: int) -> list[Range]:
        """Some of what the holder has, and lies."""
        held = [one.sequence for one in self.model._all() if one.holder == holder]
        ranges: list[Range] = []
        if held:
            for first in data.draw(st.lists(st.sampled_from(held), max_size=4)):
                ranges.append((first, first + data.draw(st.sampled_from([1, 1, 2, 10]))))
        lies = [(5, 2), (-4, -1), (0, 1 << 70), (self.state.next_sequence, self.state.next_sequence + 9), (3, 3)]
        if data.draw(st.integers(0, 9)) == 0:
            ranges.append(data.draw(st.sampled_from(lies)))
        return ranges

    @rule(holder=HOLDERS, data=st.data())
    def settle(self, holder: int, data: st.DataObject) -> None:
        ranges = self.ranges(data, holder)
        assert self.state.settle(ranges, holder) == self.model.settle(ranges, holder)
        assert self.state.settle(ranges, holder) == 0

    @rule(holder=HOLDERS)
    def settle_all(self, holder: int) -> None:
        everything = [(0, self.state.next_sequence)]
        assert self.state.settle(everything, holder) == self.model.settle(everything, holder)

    @rule()
    def settle_what_others_have(self) -> None:
        everything = [(0, self.state.next_sequence)]
        assert self.state.settle(everything, LIAR) == 0
        assert self.state.release(everything, LIAR) == 0
        assert self.state.extend(everything, LIAR, 1) == 0

    @rule(holder=HOLDERS, data=st.data(), due=st.sampled_from([0, 0, 25]), count=st.booleans())
    def release(self, holder: int, data: st.DataObject, due: int, count: bool) -> None:
        ranges = self.ranges(data, holder)
        due_ms = self.now_ms + due if due else 0
        expected = self.model.release(ranges, holder, due_ms=due_ms, count=count)
        assert self.state.release(ranges, holder, due_ms=due_ms, count=count) == expected

    @rule(holder=HOLDERS)
    def leave(self, holder: int) -> None:
        everything = [(0, self.state.next_sequence)]
        assert self.state.release(everything, holder) == self.model.release(everything, holder)
        self.state.forget_holder(holder)

    @rule(holder=HOLDERS, data=st.data(), deadline=st.sampled_from([0, 5, 30]))
    def extend(self, holder: int, data: st.DataObject, deadline: int) -> None:
        ranges = self.ranges(data, holder)
        deadline_ms = self.now_ms + deadline if deadline else 0
        expected = self.model.extend(ranges, holder, deadline_ms)
        got = self.state.extend(ranges, holder, deadline_ms)
        assert got >= expected  # what is named twice counts twice

    @rule(holder=HOLDERS, to_holder=HOLDERS, data=st.data())
    def transfer(self, holder: int, to_holder: int, data: st.DataObject) -> None:
        ranges = self.ranges(data, holder)
        if holder != to_holder:
            expected = self.model.transfer(ranges, holder, to_holder)
            assert set(entries(self.state.transfer(ranges, holder, to_holder))) == set(entries(expected))

    @rule(holder=HOLDERS, limit=st.sampled_from([1, 3, 40]))
    def take_oldest(self, holder: int, limit: int) -> None:
        expected = entries(self.model.take_oldest(limit, holder))
        got: list[tuple[int, ...]] = []
        while len(got) < limit:
            more = self.state.take_oldest(limit - len(got), holder)
            got += entries(more)
            if not more and not self.load_missing():
                break
        assert got == expected

    @rule(by=st.sampled_from([0, 1, 10, 50, -30]))
    def pass_time(self, by: int) -> None:
        self.now_ms += by
        assert self.state.expire_leases(self.now_ms) == self.model.expire_leases(self.now_ms)
        assert self.state.due(self.now_ms) == self.model.due(self.now_ms)

    @rule()
    def purge(self) -> None:
        assert self.state.purge() == self.model.purge()

    @rule(source=st.sampled_from([0, 1, 2, HOUSE]), data=st.data())
    def drop(self, source: int, data: st.DataObject) -> None:
        offset = data.draw(st.integers(0, self.ends.get(source, 0) + 1))
        self.starts[source] = max(offset, self.starts.get(source, 0))
        dropped, missing = self.state.drop_below(source, offset)
        while self.load(missing):
            more, missing = self.state.drop_below(source, offset)
            dropped += more
        assert dropped == self.model.drop_below(source, offset)

    @rule(source=SOURCES, limit=st.sampled_from([0, 3, 50]), late=st.booleans(), data=st.data())
    def spill(self, source: int, limit: int, late: bool, data: st.DataObject) -> None:
        offset = data.draw(st.integers(0, self.ends.get(source, 0) + 1))
        found, missing = self.state.live_below(source, offset, limit)
        while self.load(missing):
            found, missing = self.state.live_below(source, offset, limit)
        expected = self.model.live_below(source, offset)
        rows = [row[:8] for row in entries(found)]
        assert set(rows) <= {row[:8] for row in entries(expected)}
        assert len(rows) == len(set(rows))
        assert len(rows) == len(expected) or len(rows) > limit
        if late:  # something happens while the records are copied
            self.settle_all(1)
            self.purge()
        for entry in found:
            moved = self.model.move_entry(entry, HOUSE, self.house_end)
            assert self.state.move_entry(entry, HOUSE, self.house_end) == moved
            self.house_end += entry.count

    # What is always true

    @invariant()
    def compare(self) -> None:
        state, model = self.state, self.model
        assert (state.ready, state.unacked, state.delayed) == (model.ready, model.unacked, model.delayed)
        assert state.live_bytes == model.live_bytes
        assert state.next_sequence == model.next_sequence
        for holder in range(1, 4):
            assert state.held_by(holder) == model.held_by(holder)
            assert state.bytes_held_by(holder) == model.bytes_held_by(holder)
        assert state.held_bytes() == model.held_bytes()

    @invariant()
    def lowest_offsets_are_never_too_high(self) -> None:
        for source in (0, 1, 2, HOUSE):
            lowest = self.state.lowest_live(source)
            expected = self.model.lowest_live(source, self.starts.get(source, 0))
            assert expected is None or (lowest is not None and lowest <= expected)

    @rule()
    def look_at_everything(self) -> None:
        while self.load_missing():
            pass
        assert self.state.next_timer_ms == self.model.next_timer_ms
        found: list[tuple[int, ...]] = []
        while True:
            last = found[-1][0] if found else -1
            more, missing = self.state.peek(1 << 30, last)
            found += entries(more)
            if not self.load(missing):
                break
        assert found == entries(self.model.peek())

    def teardown(self) -> None:
        """Nothing is stuck: all of it can be acquired and settled."""
        if not hasattr(self, "state"):
            return
        self.look_at_everything()
        for holder in range(1, 4):
            self.leave(holder)
        self.now_ms += 1_000_000
        self.pass_time(0)
        while self.model.ready:
            self.take_expired(1, 1000)
            self.acquire(40, 1, 0, None)
            self.settle_all(1)
            self.compare()
        self.write_delta(1 << 20)
        assert self.chunk_data == {}
        assert self.state.next_timer_ms is None


TestQueueState = QueueMachine.TestCase
TestQueueState.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=40,
    deadline=None,
    report_multiple_bugs=False,
    phases=(Phase.generate, Phase.shrink),
    derandomize="TRUNKLINE_MODEL_EXAMPLES" not in os.environ,
    suppress_health_check=list(HealthCheck),
)
