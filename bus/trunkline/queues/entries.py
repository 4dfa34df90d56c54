"""What happens to a queue's entries: appended, acquired, settled, released, expired, dropped. No I/O, no clock.

An entry is *ready* (in the order of its priority's :class:`trunkline.queues.level.Level`), *leased* (a span in the map
of its holder), *delayed* (a span in one map of all) or settled: then nothing is left of it. Sequences are those of the
queue and never used twice.

What the next delta has to tell is noted on the way. An entry that was taken from the index for the first
time needs no note: after a crash the index gives it out again, as delivered once before. About all others the index
says too little: they are stored *aside*, with their location, and noted when what a crash makes of them changes.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import ClassVar, Final

import msgspec

from trunkline.queues.index import END, GONE, RUN_FIELDS, Chunk, Lease, Range, fitting, slice_bytes
from trunkline.queues.level import Level
from trunkline.queues.spans import SpanMap

__all__ = ["NO_HOLDERS", "NO_LEVELS", "Entries", "Scan"]

# Of the many queues that hold nothing: replaced by others, never filled.
NOTHING_LOOKED_AT: Final[dict[int, int]] = {}
NO_LEVELS: Final[dict[int, Level]] = {}
NO_HOLDERS: Final[dict[int, SpanMap]] = {}


class Scan:
    """What :meth:`trunkline.queues.contents.Contents.live_below` has found so far, chunk by chunk."""

    __slots__ = ("found", "offset", "source")

    def __init__(self, source: int, offset: int) -> None:
        self.source = source
        self.offset = offset
        self.found: dict[Chunk, list[Lease]] = {}


class Entries:
    """The entries of a queue. :class:`trunkline.queues.state.QueueState` adds how they are stored.

    ``ready``, ``unacked``, ``delayed``: how many there are, exactly. ``live_bytes``: what all of them count for.
    ``has_changes``: something happened that a crash must not undo (more than appending and acquiring).
    ``may_be_due``: some entries may be delayed, expire, or be taken back; who has found that none is sets it to False.
    """

    __slots__ = (
        "_changed",
        "_deadlines",
        "_due",
        "_holders",
        "_late",
        "_levels",
        "_order",
        "_positions",
        "_routed",
        "_scan",
        "_sealed",
        "_wanted",
        "delayed",
        "has_changes",
        "live_bytes",
        "may_be_due",
        "next_sequence",
        "ready",
        "unacked",
    )

    runs_per_chunk: ClassVar = 4096
    """Runs in a sealed chunk: 192 KiB in memory, some 20 to 60 KiB stored."""

    def __init__(self) -> None:
        self.ready = self.unacked = self.delayed = self.live_bytes = self.next_sequence = 0
        self.has_changes = self.may_be_due = False
        self._positions = NOTHING_LOOKED_AT
        self._levels = NO_LEVELS
        self._order: tuple[Level, ...] = ()  # highest priority first
        self._holders = NO_HOLDERS
        self._late: SpanMap | None = None  # what is delayed
        self._due: list[tuple[int, int, int]] | None = None  # heap of due_ms, first, end; some may be out of date
        self._deadlines: list[tuple[int, int, int, int]] | None = None  # so too: deadline_ms, first, end, holder
        self._changed: list[Lease] | None = None  # to be stored aside with the next delta
        self._routed: set[int] | None = None  # sources whose positions moved since the last delta
        self._sealed: list[Chunk] | None = None  # not handed out yet
        self._scan: Scan | None = None
        self._wanted: Chunk | None = None  # a chunk that was missed, other than by the head

    @property
    def positions(self) -> dict[int, int]:
        """Of each source: everything below was looked at, and after a restart routing goes on there."""
        return self._positions

    def held_by(self, holder: int) -> int:
        """How many entries a holder has."""
        held = self._holders.get(holder)
        return held.entries if held is not None else 0

    @property
    def missing_chunk(self) -> int | None:
        """The number of a chunk that is needed now or soon and is not in memory."""
        if self._wanted is not None and self._wanted.runs is None and not self._wanted.is_passed:
            return self._wanted.number
        for level in self._order:
            if (chunk := level.missing) is not None:
                return chunk.number
        return None

    # Arrivals

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
        """Add entries at the end, of consecutive offsets, and return the sequence of the first.

        ``size_bytes``: of all of them together. Those with ``due_ms`` above ``now_ms`` are delayed until then.
        """
        first = self.next_sequence
        self.next_sequence = end = first + count
        self.live_bytes += size_bytes
        self.routed(source, offset + count)
        level = self._levels.get(priority) or self._add_level(priority)
        if due_ms > now_ms:
            span = Lease(first, count, source, offset, size_bytes, 0, 0, 0, priority, expires_ms, due_ms)
            self._note(span)
            self._delay(span)
            return first
        if expires_ms:
            self.may_be_due = True
        self.ready += count
        tail = level.tail
        runs = tail.runs if tail is not None else level.open_chunk()
        assert runs is not None
        runs.extend((first, source, offset, count, size_bytes, expires_ms))
        level.end = end
        if len(runs) >= self.runs_per_chunk * RUN_FIELDS and (chunk := level.seal(len(runs) // 2)) is not None:
            self._sealed = self._sealed or []
            self._sealed.append(chunk)
        return first

    def routed(self, source: int, next_offset: int) -> None:
        """Everything of ``source`` below ``next_offset`` has been looked at, also what did not match."""
        if self._positions is NOTHING_LOOKED_AT:
            self._positions = {}
        self._positions[source] = next_offset
        if self._routed is None:
            self._routed = {source}
        else:
            self._routed.add(source)

    def forget_source(self, source: int) -> None:
        """Its partition is gone, and so are its entries."""
        if self._positions.pop(source, None) is not None:
            self._routed = (self._routed or set()) | {source}

    def _add_level(self, priority: int) -> Level:
        if self._levels is NO_LEVELS:
            self._levels = {}
        level = self._levels[priority] = Level(priority)
        self._order = tuple(sorted(self._levels.values(), key=lambda one: -one.priority))
        return level

    # To holders

    def acquire(
        self, limit: int, holder: int, now_ms: int, *, deadline_ms: int = 0, max_bytes: int | None = None
    ) -> list[Lease]:
        """Lease ready entries to ``holder``: highest priority first, then lowest sequence.

        Gives nothing if nothing is ready, or the next chunk is not in memory (see :attr:`missing_chunk`), or the next
        entry has expired (see :meth:`take_expired`). Stops before such an entry.

        Args:
          limit: at most so many entries, over all leases.
          deadline_ms: when they are taken away again (:meth:`expire_leases`); 0: never.
          max_bytes: at most so many, but at least one entry.
        """
        if limit <= 0 or not self.ready:
            return []
        limit = min(limit, self.ready)  # so that nobody looks behind the last
        taken: list[Lease] = []
        room = END if max_bytes is None else max_bytes
        for level in self._order:
            limit, room, goes_on = self._take(level, limit, room, holder, deadline_ms, now_ms, False, taken)
            if not goes_on:
                break
        self._lease(taken, holder, deadline_ms)
        return taken

    def take_expired(self, now_ms: int, holder: int, limit: int = 1000) -> list[Lease]:
        """Lease up to ``limit`` expired entries to ``holder``. Only heads: what is next in each priority."""
        taken: list[Lease] = []
        if limit > 0 and self.ready:
            for level in self._order:
                limit, _, _ = self._take(level, limit, END, holder, 0, now_ms, True, taken)
                if limit == 0:
                    break
        self._lease(taken, holder, 0)
        return taken

    def take_oldest(self, limit: int, holder: int) -> list[Lease]:
        """Lease up to ``limit`` ready entries that are worth least: lowest priority first, then lowest sequence."""
        taken: list[Lease] = []
        for level in reversed(self._order):
            limit, _, goes_on = self._take(level, limit, END, holder, 0, 0, False, taken)
            if limit <= 0 or not goes_on:
                break
        self._lease(taken, holder, 0)
        return taken

    def _take(
        self,
        level: Level,
        limit: int,
        room: int,
        holder: int,
        deadline_ms: int,
        now_ms: int,
        is_expired: bool,
        taken: list[Lease],
    ) -> tuple[int, int, bool]:
        """Take from one priority what has expired or not: limit and room that are left, and whether to go on."""
        while True:
            has_run = level.count > 0 or level.refill()
            returned = level.returned
            span = returned.first() if returned is not None else None
            if has_run:
                is_returned = span is not None and span.sequence < level.sequence
            else:
                chunk = level.chunks[level.head] if level.head < len(level.chunks) else None
                is_missing = chunk is not None and chunk.runs is None
                is_returned = span is not None and not (
                    is_missing and chunk is not None and chunk.first <= span.sequence
                )
                if not is_returned:
                    return limit, room, not is_missing
            if is_returned:
                assert span is not None
                assert returned is not None
                expires, count, size = span.expires_ms, span.count, span.size_bytes
            else:
                expires, count, size = level.expires_ms, level.count, level.size_bytes
            if (0 < expires <= now_ms) is not is_expired:
                return limit, room, False
            wanted = count if count < limit else limit
            if size > room:
                wanted = min(wanted, fitting(size, count, room)) or int(not taken)
                if not wanted:
                    return limit, room, False
            if is_returned:
                assert returned is not None
                span = self._take_returned(returned, wanted)
                span.holder, span.deadline_ms = holder, deadline_ms
            else:
                span = self._take_run(level, wanted, holder, deadline_ms)
            taken.append(span)
            limit -= wanted
            room -= span.size_bytes
            if not limit:
                return limit, room, False

    def _take_run(self, level: Level, wanted: int, holder: int, deadline_ms: int) -> Lease:
        """The first entries of the run that the head stands on."""
        sequence, offset, size = level.sequence, level.offset, level.size_bytes
        if wanted == level.count:
            level.count = 0
        else:
            size = slice_bytes(size, level.count, 0, wanted)
            level.sequence += wanted
            level.offset += wanted
            level.count -= wanted
            level.size_bytes -= size
        chunk = level.chunks[level.head]
        span = Lease(
            sequence,
            wanted,
            level.source,
            offset,
            size,
            level.deliveries,
            holder,
            deadline_ms,
            level.priority,
            level.expires_ms,
            0,
            chunk,
        )
        chunk.held += wanted
        if level.deliveries:
            self._put_aside(span)
        return span

    def _take_returned(self, returned: SpanMap, wanted: int) -> Lease:
        first = returned.first()
        assert first is not None
        if wanted == first.count:
            span = returned.pop_first()
        else:
            span = returned.cut_first(wanted)
            if span.is_changed:
                self._cut_changed().append(span)
        if span.chunk is not None:
            self._put_aside(span)
        elif not span.is_changed:
            self._note(span)
        return span

    def _lease(self, taken: list[Lease], holder: int, deadline_ms: int) -> None:
        if not taken:
            return
        held = self._holders.get(holder) or self._add_holder(holder)
        before = held.entries
        for span in taken:
            held.add(span)
        count = held.entries - before
        self.ready -= count
        self.unacked += count
        if deadline_ms:
            first = min(span.sequence for span in taken)
            self._add_deadline(deadline_ms, first, max(span.sequence + span.count for span in taken), holder)

    def _add_holder(self, holder: int) -> SpanMap:
        if self._holders is NO_HOLDERS:
            self._holders = {}
        held = self._holders[holder] = SpanMap()
        return held

    # From holders

    def settle(self, ranges: Iterable[Range], holder: int) -> int:
        """These are done with. Only what ``holder`` has takes effect; returns how many that were."""
        held = self._holders.get(holder)
        if held is None:
            return 0
        changed = self._cut_changed()
        before = held.entries
        size_bytes = 0
        for first, end in ranges:
            if end - first == 1:
                one = held.take_one(first, changed)
                if one is not None:
                    size_bytes += one[1]
                    self._note_settled(one[0], first, end)
            else:
                for span in held.take(first, end, changed):
                    size_bytes += span.size_bytes
                    self._settled(span)
        count = before - held.entries
        if count:
            self.unacked -= count
            self.live_bytes -= size_bytes
            self.has_changes = True
        return count

    def _settled(self, span: Lease) -> None:
        span.holder = GONE
        self._note_settled(span, span.sequence, span.sequence + span.count)

    def _note_settled(self, span: Lease, first: int, end: int) -> None:
        """Entries that are, or were, of ``span`` are settled."""
        level = self._levels[span.priority]
        settled = level.settled
        if settled and settled[-1] == first:
            settled[-1] = end
        else:
            settled.append(first)
            settled.append(end)
        chunk = span.chunk
        if chunk is not None:
            held = chunk.held = chunk.held - end + first
            if not held and chunk.is_passed:
                level.leave(chunk)

    def release(self, ranges: Iterable[Range], holder: int, *, due_ms: int = 0, count: bool = True) -> int:
        """Give back, to their original places; returns how many were the holder's.

        Args:
          due_ms: they are delayed until then; 0: ready at once.
          count: it counts as a delivery.
        """
        held = self._holders.get(holder)
        if held is None:
            return 0
        changed = self._cut_changed()
        released = 0
        for first, end in ranges:
            for span in held.take(first, end, changed):
                released += span.count
                self._release(span, due_ms, count)
        return released

    def _release(self, span: Lease, due_ms: int, is_counted: bool) -> None:
        span.holder = span.deadline_ms = 0
        span.deliveries += is_counted
        self.unacked -= span.count
        self.has_changes = True
        if due_ms or not is_counted:
            self._put_aside(span)
        if due_ms:
            span.due_ms = due_ms
            self._delay(span)
        else:
            self.ready += span.count
            self._levels[span.priority].put_back(span)

    def release_holder(self, holder: int) -> int:
        """Give back all that a holder has, as a delivery."""
        released = self.release(((0, END),), holder)
        self._holders.pop(holder, None)
        return released

    def transfer(self, ranges: Iterable[Range], holder: int, to_holder: int) -> list[Lease]:
        """Hand what of these ``holder`` has to another one, without a deadline. Gives copies of what it got."""
        held = self._holders.get(holder)
        if held is None:
            return []
        changed = self._cut_changed()
        spans = [span for first, end in ranges for span in held.take(first, end, changed)]
        receiver = self._holders.get(to_holder) or self._add_holder(to_holder)
        moved: list[Lease] = []
        for span in spans:
            span.holder, span.deadline_ms = to_holder, 0
            moved.append(msgspec.structs.replace(span, chunk=None))
            receiver.add(span)
        return moved

    def extend(self, ranges: Iterable[Range], holder: int, deadline_ms: int) -> int:
        """Change when the holder loses these; returns how many are the holder's."""
        held = self._holders.get(holder)
        if held is None:
            return 0
        extended = 0
        for first, end in ranges:
            found = held.take(first, end, self._cut_changed())
            for span in found:
                span.deadline_ms = deadline_ms
                extended += span.count
                held.add(span)
            if found and deadline_ms:
                self._add_deadline(deadline_ms, found[0].sequence, found[-1].sequence + found[-1].count, holder)
        return extended

    # Time

    def expire_leases(self, now_ms: int) -> dict[int, int]:
        """Release what was held beyond its deadline, as a delivery: how many entries each holder lost."""
        lost: dict[int, int] = {}
        deadlines = self._deadlines
        while deadlines and deadlines[0][0] <= now_ms:
            _, first, end, holder = heapq.heappop(deadlines)
            held = self._holders.get(holder)
            if held is None:
                continue
            for span in list(held.overlapping(first, end)):
                if 0 < span.deadline_ms <= now_ms:
                    released = self.release(((span.sequence, span.sequence + span.count),), holder)
                    lost[holder] = lost.get(holder, 0) + released
        return lost

    def _add_deadline(self, deadline_ms: int, first: int, end: int, holder: int) -> None:
        if self._deadlines is None:
            self._deadlines = []
        self.may_be_due = True
        heapq.heappush(self._deadlines, (deadline_ms, first, end, holder))
        if len(self._deadlines) > 1024 + 2 * self.unacked:  # most of them are of what was settled long ago
            self._deadlines = [
                (span.deadline_ms, span.sequence, span.sequence + span.count, holder)
                for holder, held in self._holders.items()
                for span in held
                if span.deadline_ms
            ]
            heapq.heapify(self._deadlines)

    def _delay(self, span: Lease) -> None:
        if self._late is None or self._due is None:
            self._late, self._due = SpanMap(), []
        self._late.add(span)
        self.delayed += span.count
        self.may_be_due = True
        heapq.heappush(self._due, (span.due_ms, span.sequence, span.sequence + span.count))

    def due(self, now_ms: int) -> int:
        """Make ready what was delayed until now; returns how many that are."""
        made_ready = 0
        while self._due and self._due[0][0] <= now_ms:
            _, first, end = heapq.heappop(self._due)
            assert self._late is not None
            for span in [one for one in self._late.overlapping(first, end) if one.due_ms <= now_ms]:
                self._late.take(span.sequence, span.sequence + span.count, self._cut_changed())
                span.due_ms = 0
                made_ready += span.count
                self._levels[span.priority].put_back(span)
        self.ready += made_ready
        self.delayed -= made_ready
        return made_ready

    @property
    def next_timer_ms(self) -> int | None:
        """When :meth:`due`, :meth:`take_expired` or :meth:`expire_leases` will next have something to do."""
        times = [expires for level in self._order if (expires := self._head_expiry(level))]
        due, deadlines = self._due, self._deadlines
        while due and not self._is_due_true(*due[0]):
            heapq.heappop(due)
        if due:
            times.append(due[0][0])
        while deadlines and not self._is_deadline_true(*deadlines[0]):
            heapq.heappop(deadlines)
        if deadlines:
            times.append(deadlines[0][0])
        return min(times, default=None)

    def _is_due_true(self, due_ms: int, first: int, end: int) -> bool:
        return self._late is not None and any(span.due_ms == due_ms for span in self._late.overlapping(first, end))

    def _is_deadline_true(self, deadline_ms: int, first: int, end: int, holder: int) -> bool:
        held = self._holders.get(holder)
        return held is not None and any(span.deadline_ms == deadline_ms for span in held.overlapping(first, end))

    def _head_expiry(self, level: Level) -> int:
        has_run = level.count > 0 or level.refill()
        span = level.returned.first() if level.returned is not None else None
        if span is not None and not (has_run and level.sequence < span.sequence):
            return span.expires_ms
        return level.expires_ms if has_run else 0

    # Notes for the next delta

    def _cut_changed(self) -> list[Lease]:
        if self._changed is None:
            self._changed = []
        return self._changed

    def _note(self, span: Lease) -> None:
        span.is_changed = True
        self._cut_changed().append(span)

    def _put_aside(self, span: Lease) -> None:
        """The index no longer says enough about a span."""
        chunk = span.chunk
        if chunk is not None:
            span.chunk = None
            chunk.held -= span.count
            if not chunk.held and chunk.is_passed:
                self._levels[span.priority].leave(chunk)
        if not span.is_changed:
            self._note(span)
