"""What happens to a queue's entries: appended, acquired, settled, released, expired, dropped. No I/O, no clock.

An entry is *ready* (in the order of its priority's :class:`trunkline.queues.level.Level`), *leased* (in the map
of its holder), *delayed* (:mod:`trunkline.queues.delayed`) or settled: then nothing is left of it. Sequences are those
of the queue and never used twice.

What the next delta has to tell is noted on the way. An entry that was taken from the index for the first
time needs no note: after a crash the index gives it out again, as delivered once before. About all others the index
says too little: they are stored *aside*, with their location, and noted when what a crash makes of them changes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Final

import msgspec

from trunkline.queues.deadlines import Deadlines
from trunkline.queues.delayed import Delayed
from trunkline.queues.index import END, GONE, Chunk, Lease, Range
from trunkline.queues.level import Level, Taking
from trunkline.queues.spans import SpanMap

__all__ = ["NO_HOLDERS", "NO_LEVELS", "Entries"]

# Of the many queues that hold nothing: replaced by others, never filled.
NOTHING_LOOKED_AT: Final[dict[int, int]] = {}
NO_LEVELS: Final[dict[int, Level]] = {}
NO_HOLDERS: Final[dict[int, SpanMap]] = {}


class Entries:
    """The entries of a queue. :class:`trunkline.queues.state.QueueState` adds how they are stored.

    ``ready``, ``unacked``, ``delayed``: how many there are, exactly. ``live_bytes``: what all of them count for.
    ``has_changes``: something happened that a crash must not undo (more than appending and acquiring).
    ``may_be_due``: some entries may be delayed, expire, or be taken back; who has found that none is sets it to False.
    """

    __slots__ = (
        "_changed",
        "_deadlines",
        "_holders",
        "_late",
        "_levels",
        "_order",
        "_positions",
        "_routed",
        "_sealed",
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
        self._deadlines: Deadlines | None = None
        self._late: Delayed | None = None
        self._changed: list[Lease] | None = None  # to be stored aside with the next delta
        self._routed: set[int] | None = None  # sources whose positions moved since the last delta
        self._sealed: list[Chunk] | None = None  # not handed out yet

    @property
    def positions(self) -> dict[int, int]:
        """Of each source: everything below was looked at, and after a restart routing goes on there."""
        return self._positions

    def held_by(self, holder: int) -> int:
        """How many entries a holder has."""
        held = self._holders.get(holder)
        return held.entries if held is not None else 0

    def bytes_held_by(self, holder: int) -> int:
        """What the entries count for that a holder has."""
        held = self._holders.get(holder)
        return held.size_bytes if held is not None else 0

    @property
    def missing_chunk(self) -> int | None:
        """The number of a chunk that :meth:`acquire` needs, or soon will, and that is not in memory."""
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
        self.next_sequence = first + count
        self.live_bytes += size_bytes
        self.routed(source, offset + count)
        level = self._levels.get(priority) or self._add_level(priority)
        if due_ms > now_ms:
            span = Lease(first, count, source, offset, size_bytes, 0, 0, 0, priority, expires_ms, due_ms)
            level.put_aside(span, self._noted())
            self._delay(span)
            return first
        if expires_ms:
            self.may_be_due = True
        self.ready += count
        runs = level.append(first, source, offset, count, size_bytes, expires_ms)
        if runs >= self.runs_per_chunk and (chunk := level.seal(runs // 2)) is not None:
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
        if limit > self.ready:
            limit = self.ready  # so that nobody looks behind the last
        taking = Taking(limit, holder, deadline_ms, END if max_bytes is None else max_bytes, now_ms)
        changed = self._noted()
        for level in self._order:
            if not level.take(taking, changed):
                break
        return self._lease(taking)

    def take_expired(self, now_ms: int, holder: int, limit: int = 1000) -> list[Lease]:
        """Lease up to ``limit`` expired entries to ``holder``. Only heads: what is next in each priority."""
        taking = Taking(limit, holder, now_ms=now_ms, wants_expired=True)
        if self.ready:
            for level in self._order:
                level.take(taking, self._noted())
        return self._lease(taking)

    def take_oldest(self, limit: int, holder: int) -> list[Lease]:
        """Lease up to ``limit`` ready entries that are worth least: lowest priority first, then lowest sequence."""
        taking = Taking(limit, holder)
        for level in reversed(self._order):
            if not level.take(taking, self._noted()):
                break
        return self._lease(taking)

    def _lease(self, taking: Taking) -> list[Lease]:
        spans = taking.spans
        if spans:
            count = self._hold(spans, taking.holder, taking.deadline_ms)
            self.ready -= count
            self.unacked += count
        return spans

    def _hold(self, spans: list[Lease], holder: int, deadline_ms: int) -> int:
        """They are the holder's, and marked so; how many entries that are."""
        held = self._holders.get(holder) or self._add_holder(holder)
        before = held.entries
        for span in spans:
            held.add(span)
        if deadline_ms:
            if self._deadlines is None:
                self._deadlines = Deadlines()
            self._deadlines.add(spans, holder, deadline_ms, self._holders)
            self.may_be_due = True
        return held.entries - before

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
        changed = self._noted()
        before, bytes_before = held.entries, held.size_bytes
        for first, end in ranges:
            if end - first == 1:
                span = held.take_one(first, changed)
                if span is not None:
                    self._levels[span.priority].note_settled(first, end, span.chunk)
            else:
                for span in held.take(first, end, changed):
                    self._settled(span)
        count = before - held.entries
        if count:
            self.unacked -= count
            self.live_bytes -= bytes_before - held.size_bytes
            self.has_changes = True
        return count

    def _settled(self, span: Lease) -> None:
        span.holder = GONE
        self._levels[span.priority].note_settled(span.sequence, span.sequence + span.count, span.chunk)

    def release(self, ranges: Iterable[Range], holder: int, *, due_ms: int = 0, count: bool = True) -> int:
        """Give back, to their original places; returns how many were the holder's.

        Args:
          due_ms: they are delayed until then; 0: ready at once.
          count: it counts as a delivery.
        """
        held = self._holders.get(holder)
        if held is None:
            return 0
        changed = self._noted()
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
        level = self._levels[span.priority]
        if due_ms or not is_counted:
            level.put_aside(span, self._noted())
        if due_ms:
            span.due_ms = due_ms
            self._delay(span)
        else:
            self.ready += span.count
            level.put_back(span)

    def forget_holder(self, holder: int) -> None:
        """It has given back all it had, and takes nothing more."""
        held = self._holders.pop(holder, None)
        assert held is None or not held.entries, "what somebody has is not forgotten"

    def transfer(self, ranges: Iterable[Range], holder: int, to_holder: int) -> list[Lease]:
        """Hand what of these ``holder`` has to another one, without a deadline. Gives copies of what it got."""
        held = self._holders.get(holder)
        if held is None:
            return []
        changed = self._noted()
        spans = [span for first, end in ranges for span in held.take(first, end, changed)]
        for span in spans:
            span.holder, span.deadline_ms = to_holder, 0
        moved = [msgspec.structs.replace(span, chunk=None) for span in spans]
        if spans:
            self._hold(spans, to_holder, 0)
        return moved

    def extend(self, ranges: Iterable[Range], holder: int, deadline_ms: int) -> int:
        """Change when the holder loses these; returns how many are the holder's."""
        held = self._holders.get(holder)
        if held is None:
            return 0
        extended = 0
        for first, end in ranges:
            found = held.take(first, end, self._noted())
            for span in found:
                span.deadline_ms = deadline_ms
            if found:
                extended += self._hold(found, holder, deadline_ms)
        return extended

    # Time

    def expire_leases(self, now_ms: int) -> dict[int, int]:
        """Release what was held beyond its deadline, as a delivery: how many entries each holder lost."""
        lost: dict[int, int] = {}
        if self._deadlines is not None:
            for holder, first, end in self._deadlines.overdue(now_ms, self._holders):
                lost[holder] = lost.get(holder, 0) + self.release(((first, end),), holder)
        return lost

    def _delay(self, span: Lease) -> None:
        if self._late is None:
            self._late = Delayed()
        self._late.add(span)
        self.delayed += span.count
        self.may_be_due = True

    def due(self, now_ms: int) -> int:
        """Make ready what was delayed until now; returns how many that are."""
        made_ready = 0
        if self._late is not None:
            for span in self._late.take_due(now_ms, self._noted()):
                span.due_ms = 0
                made_ready += span.count
                self._levels[span.priority].put_back(span)
        self.ready += made_ready
        self.delayed -= made_ready
        return made_ready

    @property
    def next_timer_ms(self) -> int | None:
        """When :meth:`due`, :meth:`take_expired` or :meth:`expire_leases` will next have something to do."""
        times = [expires for level in self._order if (expires := level.next_expiry_ms)]
        if self._late is not None and (due := self._late.next_ms()) is not None:
            times.append(due)
        if self._deadlines is not None and (deadline := self._deadlines.next_ms(self._holders)) is not None:
            times.append(deadline)
        return min(times, default=None)

    def _noted(self) -> list[Lease]:
        """Where spans are noted for the next delta, also those that come about when one that is noted is cut."""
        if self._changed is None:
            self._changed = []
        return self._changed
