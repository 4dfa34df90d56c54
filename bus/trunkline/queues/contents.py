"""All entries of a queue at once: looking at them, moving them elsewhere, dropping them."""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Iterator

from msgspec.structs import replace

from trunkline.queues.entries import Entries
from trunkline.queues.index import END, GONE, Chunk, Lease, slice_bytes
from trunkline.queues.level import Level
from trunkline.queues.spans import SpanMap

__all__ = ["Contents"]


class _Scan:
    """What :meth:`Contents.live_below` has found so far, chunk by chunk."""

    __slots__ = ("found", "offset", "source")

    def __init__(self, source: int, offset: int) -> None:
        self.source = source
        self.offset = offset
        self.found: dict[Chunk, list[Lease]] = {}


class Contents(Entries):
    """What goes over all entries, wherever they are, and costs accordingly.

    Entries in chunks that are not in memory cannot be seen. Who would have to says which chunk is missing.
    """

    __slots__ = ("_scan",)

    def __init__(self) -> None:
        super().__init__()
        self._scan: _Scan | None = None

    def _maps(self) -> Iterator[SpanMap]:
        """All spans: leased, returned, delayed."""
        yield from self._holders.values()
        for level in self._order:
            if level.returned is not None:
                yield level.returned
        if self._late is not None:
            yield self._late.spans

    def held_bytes(self) -> int:
        """What everything counts for that is leased or delayed; costs a look at each holder."""
        held = self._leased_bytes()
        return held if self._late is None else held + self._late.spans.size_bytes

    def _leased_bytes(self) -> int:
        return sum(entries.size_bytes for entries in self._holders.values())

    # Looking

    def lowest_live(self, source: int) -> int | None:
        """The lowest offset of ``source`` that has a live entry; None if there is none.

        While chunks have not been in memory since a restart, it may be too low, never too high. What is leased of
        records that are gone (:meth:`drop_below`) need not count.
        """
        found = [span.offset for entries in self._maps() for span in entries if span.source == source]
        for level in self._order:
            level.give_back()
            for chunk in level.ahead():
                extent = chunk.extent(source)
                if chunk.is_sealed and extent is None:
                    continue
                if chunk.runs is not None:
                    lowest = level.lowest_of(chunk, source)
                else:
                    lowest = extent[0] if extent is not None else None
                if lowest is not None:
                    found.append(lowest)
                    if chunk is not level.tail and level.is_ordered(source):
                        if level.tail is not None and (lowest := level.lowest_of(level.tail, source)) is not None:
                            found.append(lowest)
                        break
        return min(found, default=None)

    def live_below(self, source: int, offset: int, limit: int) -> tuple[list[Lease], int | None]:
        """Live entries of ``source`` below ``offset``: at least ``limit + 1`` if there are more than ``limit``.

        Returns:
          Copies, for :meth:`move_entry`, and the number of a chunk that is missing. None: these are all; else load it
          and call again with the same arguments. What was found until then is kept, so a few entries may have been
          settled meanwhile.
        """
        if self._scan is None or (self._scan.source, self._scan.offset) != (source, offset):
            self._scan = _Scan(source, offset)
        found: list[Lease] = []
        left = limit + 1
        for entry in self._all_below(self._scan):
            if isinstance(entry, Chunk):
                return found, entry.number
            found.append(entry)
            left -= entry.count
            if left <= 0:
                break
        return found, None

    def _all_below(self, scan: _Scan) -> Iterator[Lease | Chunk]:
        """Copies of the live entries that are asked for, up to a chunk that is missing."""
        source, below = scan.source, scan.offset
        for entries in self._maps():
            for span in entries:
                if span.source == source and span.offset < below:
                    yield _below(replace(span, chunk=None), below)
        for level in self._order:
            level.give_back()
            for chunk in level.ahead():
                extent = chunk.extent(source)
                if chunk.is_sealed and (extent is None or extent[0] >= below):
                    continue
                if chunk.runs is not None:
                    scan.found[chunk] = [
                        _below(_entry(level, *piece), below)
                        for piece in level.pieces_of(chunk)
                        if piece[1] == source and piece[2] < below
                    ]
                elif chunk not in scan.found:
                    yield chunk
                    return
                yield from scan.found[chunk]

    def peek(self, limit: int, after_sequence: int = -1) -> tuple[list[Lease], int | None]:
        """Look at live entries behind a sequence, in the order of their sequences; nothing changes.

        Returns:
          Copies, and the number of a chunk that is missing. None: there are no more, or they are ``limit`` entries;
          else load it and look behind the last of these. ``holder`` not 0: it is leased. ``due_ms`` not 0: it is
          delayed.
        """
        first = after_sequence + 1
        ways: list[Iterator[Lease]] = [entries.overlapping(first, END) for entries in self._maps()]
        ways += [self._ahead(level, first) for level in self._order]
        found: list[Lease] = []
        for span in heapq.merge(*ways, key=lambda one: one.sequence):
            if limit <= 0:
                break
            if not span.count:
                assert span.chunk is not None
                return found, span.chunk.number
            entry = _between(span, first, max(span.sequence, first) + limit)
            entry.chunk = None
            found.append(entry)
            limit -= entry.count
        return found, None

    def _ahead(self, level: Level, first: int) -> Iterator[Lease]:
        """What of a priority is ready from ``first`` on. An empty one stands where its chunk is missing."""
        level.give_back()
        for chunk in level.ahead():
            if chunk.is_sealed and chunk.end <= first:
                continue
            if chunk.runs is None:
                if level.hidden is not None and level.hidden.covers(chunk.first, chunk.end):
                    continue
                yield Lease(max(chunk.first, first), 0, 0, 0, 0, chunk=chunk)
                return
            is_empty = chunk.is_sealed
            for piece in level.pieces_of(chunk):
                is_empty = False
                if piece[0] + piece[3] > first:
                    yield _entry(level, *piece)
            if is_empty:
                level.hide(chunk.first, chunk.end)  # so that it need not be loaded again

    # Moving

    def move_entry(self, entry: Lease, source: int, offset: int) -> int:
        """The records of ``entry`` are now at ``offset`` and on of ``source``; their places in the queue stay.

        What they count for stays too. Such entries are stored aside, and in memory, from now on.

        Args:
          entry: from :meth:`live_below` or :meth:`peek`, or a part of one; only its sequences matter. Meanwhile some of
            it may have been settled.

        Returns:
          How many entries are still live and were moved.
        """
        first, end = entry.sequence, entry.sequence + entry.count
        moved = 0
        for entries in list(self._maps()):
            for span in entries.take(first, end, self._noted()):
                span.source, span.offset = source, offset + span.sequence - first
                self._levels[span.priority].put_aside(span, self._noted())
                entries.add(span)
                moved += span.count
        for level in self._order:
            level.give_back()
            for known in self._known(level, first, end):
                moved += self._move_ahead(level, known, source, offset - first)
        self.has_changes |= moved > 0
        return moved

    def _known(self, level: Level, first: int, end: int) -> list[Lease]:
        """The entries ahead of the head in a range: those in memory, and those that :meth:`live_below` gave."""
        found: list[Lease] = []
        at = bisect_right(level.chunks, first, level.head, key=level.end_of)
        for chunk in level.chunks[at:]:
            if chunk.is_sealed and chunk.first >= end:
                break
            if chunk.runs is not None:
                found += [_entry(level, *piece) for piece in level.pieces_of(chunk, first, end)]
            elif self._scan is not None:
                found += self._scan.found.get(chunk, ())
        return [_between(one, first, end) for one in found if one.sequence < end and one.sequence + one.count > first]

    def _move_ahead(self, level: Level, entry: Lease, source: int, shift: int) -> int:
        """Put an entry aside, to be found at its sequence + ``shift``."""
        moved = 0
        first, end = entry.sequence, entry.sequence + entry.count
        for start, stop in level.visible(max(first, level.position), end):
            span = replace(_between(entry, start, stop), source=source, offset=start + shift)
            level.hide(start, stop)
            level.put_back(span)
            level.put_aside(span, self._noted())
            moved += span.count
        return moved

    # Dropping

    def purge(self) -> int:
        """Settle all that is ready or delayed; what is leased stays. Returns how many entries that were."""
        purged = self.ready + self.delayed
        if not purged:
            return 0
        for level in self._order:
            level.give_back()
            first = level.position
            if level.returned is not None:
                for span in level.returned:
                    self._settled(span)
                level.returned = None
            if first < level.end:
                level.note_settled(first, level.end)
                self._note_again(level, first, level.end)
            level.skip_all()
        if self._late is not None:
            for span in self._late.spans:
                self._settled(span)
            self._late = None
        self.ready = self.delayed = 0
        self.live_bytes = self._leased_bytes()
        self.has_changes = True
        return purged

    def drop_below(self, source: int, offset: int) -> tuple[int, int | None]:
        """Settle what is ready or delayed and below ``offset`` of ``source``: these records are gone.

        What is leased stays, until its holder settles it, or releases it and it is dropped then.

        Returns:
          How many entries were dropped, and the number of a chunk that is missing. None: these are all; else load it
          and call again.
        """
        before = self.ready + self.delayed
        missing: Chunk | None = None
        for level in self._order:
            if level.returned is not None:
                self.ready -= self._drop_spans(level.returned, source, offset)
            dropped, stopped_at = self._drop_ahead(level, source, offset)
            self.ready -= dropped
            missing = missing or stopped_at
        if self._late is not None:
            self.delayed -= self._drop_spans(self._late.spans, source, offset)
        dropped = before - self.ready - self.delayed
        self.has_changes |= dropped > 0
        return dropped, None if missing is None else missing.number

    def _drop_spans(self, entries: SpanMap, source: int, offset: int) -> int:
        dropped = 0
        for span in list(entries):
            if span.source == source and span.offset < offset:
                end = span.sequence + min(span.count, offset - span.offset)
                for gone in entries.take(span.sequence, end, self._noted()):
                    self.live_bytes -= gone.size_bytes
                    dropped += gone.count
                    self._settled(gone)
        return dropped

    def _drop_ahead(self, level: Level, source: int, offset: int) -> tuple[int, Chunk | None]:
        dropped = 0
        level.give_back()
        for chunk in list(level.ahead()):
            extent = chunk.extent(source)
            if chunk.is_sealed and (extent is None or extent[0] >= offset):
                continue
            if chunk.runs is not None:
                for sequence, of, start, count, size, _ in list(level.pieces_of(chunk)):
                    if of == source and start < offset:
                        gone = min(count, offset - start)
                        size = slice_bytes(size, count, 0, gone)
                        dropped += self._drop(level, sequence, sequence + gone, gone, size)
                if chunk.is_sealed:
                    chunk.raise_extent(source, offset)
            elif _is_whole(level, chunk) and chunk.is_only_of(source) and extent is not None and extent[1] <= offset:
                dropped += self._drop(level, chunk.first, chunk.end, chunk.entries, chunk.size_bytes)
                self._note_again(level, chunk.first, chunk.end)
            else:
                return dropped, chunk
        return dropped, None

    def _drop(self, level: Level, first: int, end: int, entries: int, size_bytes: int) -> int:
        level.hide(first, end)
        level.note_settled(first, end)
        self.live_bytes -= size_bytes
        return entries

    def _note_again(self, level: Level, first: int, end: int) -> None:
        """A range was noted as settled in which entries stored aside are alive: say so in the same delta."""
        for entries in self._maps():
            for span in entries.overlapping(first, end):
                if (
                    span.priority == level.priority
                    and span.chunk is None
                    and span.holder != GONE
                    and not span.is_changed
                ):
                    level.put_aside(span, self._noted())


def _entry(level: Level, sequence: int, source: int, offset: int, count: int, size: int, expires: int) -> Lease:
    return Lease(sequence, count, source, offset, size, int(sequence < level.seen), 0, 0, level.priority, expires)


def _between(entry: Lease, first: int, end: int) -> Lease:
    """A copy of what of an entry is in ``[first, end)``, which is not nothing."""
    start, stop = max(first - entry.sequence, 0), min(end - entry.sequence, entry.count)
    size = slice_bytes(entry.size_bytes, entry.count, start, stop)
    sequence, offset = entry.sequence + start, entry.offset + start
    return replace(entry, sequence=sequence, offset=offset, count=stop - start, size_bytes=size)


def _below(entry: Lease, offset: int) -> Lease:
    """What of an entry is below an offset."""
    return _between(entry, 0, entry.sequence + offset - entry.offset)


def _is_whole(level: Level, chunk: Chunk) -> bool:
    """Whether all entries of a chunk ahead of the head are in the index's order."""
    return level.hidden is None or not level.hidden.touches(chunk.first, chunk.end)
