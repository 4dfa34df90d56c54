"""All entries of a queue at once: looking at them, moving them elsewhere, dropping them."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from msgspec.structs import replace

from trunkline.queues.entries import END, Entries
from trunkline.queues.index import GONE, Chunk, Lease, Piece, slice_bytes
from trunkline.queues.level import Level
from trunkline.queues.spans import SpanMap

__all__ = ["Contents"]


class Contents(Entries):
    """What goes over all entries, wherever they are, and costs accordingly.

    Entries in chunks that are not in memory cannot be seen. A method that would have had to sets ``missing_chunk``.
    """

    __slots__ = ()

    def _maps(self) -> Iterator[SpanMap]:
        """All spans: leased, returned, delayed."""
        yield from self._holders.values()
        for level in self._order:
            if level.returned is not None:
                yield level.returned
        if self._late is not None:
            yield self._late

    # Looking

    def lowest_live(self, source: int) -> int | None:
        """The lowest offset of ``source`` that has a live entry; None if there is none.

        While chunks have not been in memory since a restart, it may be too low, never too high.
        """
        found = [span.offset for entries in self._maps() for span in entries if span.source == source]
        for level in self._order:
            level.give_back()
            for chunk in level.ahead():
                if not chunk.is_sealed:
                    break
                if chunk.runs is not None:
                    offsets = [piece[2] for piece in level.pieces_of(chunk) if piece[1] == source]
                    lowest = min(offsets, default=None)
                else:
                    extent = chunk.extent(source)
                    lowest = extent[0] if extent is not None else None
                if lowest is not None:
                    found.append(lowest)
                    if source not in level.unordered:
                        break
            found += [piece[2] for piece in self._open_pieces(level) if piece[1] == source]
        return min(found, default=None)

    def _open_pieces(self, level: Level) -> Iterator[Piece]:
        """What is ready in the open chunk. Before: ``level.give_back``."""
        return level.pieces_of(level.tail) if level.tail is not None else iter(())

    def live_below(self, source: int, offset: int, limit: int) -> list[Lease] | None:
        """Live entries of ``source`` below ``offset``: at least ``limit + 1`` if there are more than ``limit``.

        Returns:
          Copies, for :meth:`move_entry`; None if a chunk is missing.
        """
        found: list[Lease] = []
        left = limit + 1
        for entry in self._all_of(source, offset):
            if entry is None:
                return None
            below = offset - entry.offset
            if entry.count > below:
                entry.size_bytes = slice_bytes(entry.size_bytes, entry.count, 0, below)
                entry.count = below
            found.append(entry)
            left -= entry.count
            if left <= 0:
                break
        return found

    def _all_of(self, source: int, below: int) -> Iterator[Lease | None]:
        """Copies of the live entries of a source that begin below an offset; None for a chunk that is missing."""
        for entries in self._maps():
            for span in entries:
                if span.source == source and span.offset < below:
                    yield replace(span, chunk=None)
        for level in self._order:
            level.give_back()
            for chunk in level.ahead():
                extent = chunk.extent(source)
                if chunk.is_sealed and (extent is None or extent[0] >= below):
                    continue
                if chunk.runs is None:
                    self._wanted = chunk
                    yield None
                    continue
                for piece in level.pieces_of(chunk):
                    if piece[1] == source and piece[2] < below:
                        yield _entry(level, chunk, *piece)

    def peek(self, limit: int, after_sequence: int = -1) -> list[Lease]:
        """Copies of live entries behind a sequence, in the order of their sequences; nothing changes.

        ``holder`` not 0: it is leased. ``due_ms`` not 0: it is delayed. Entries in chunks that are
        not in memory, and all behind them, are missing: load :attr:`missing_chunk` and look again.
        """
        first = after_sequence + 1
        ways: list[Iterator[Lease]] = [entries.overlapping(first, END) for entries in self._maps()]
        ways += [self._ahead(level, first) for level in self._order]
        found: list[Lease] = []
        for span in heapq.merge(*ways, key=lambda one: one.sequence):
            if limit <= 0 or not span.count:
                break
            skip = max(first - span.sequence, 0)
            count = min(span.count - skip, limit)
            size = slice_bytes(span.size_bytes, span.count, skip, skip + count)
            sequence, offset = span.sequence + skip, span.offset + skip
            found.append(replace(span, sequence=sequence, offset=offset, count=count, size_bytes=size))
            limit -= count
        return found

    def _ahead(self, level: Level, first: int) -> Iterator[Lease]:
        """What of a priority is ready from ``first`` on. An empty one stands where a chunk is missing."""
        level.give_back()
        for chunk in level.ahead():
            if chunk.is_sealed and chunk.end <= first:
                continue
            if chunk.runs is None:
                self._wanted = chunk
                yield Lease(max(chunk.first, first), 0, 0, 0, 0)
                return
            for piece in level.pieces_of(chunk):
                if piece[0] + piece[3] > first:
                    yield _entry(level, chunk, *piece)

    # Moving

    def move_entry(self, entry: Lease, source: int, offset: int) -> int:
        """The records of ``entry`` are now at ``offset`` and on of ``source``; their places in the queue stay.

        What they count for stays too. Such entries are stored aside, and in memory, from now on.

        Args:
          entry: from :meth:`live_below` or :meth:`peek`; meanwhile some of it may have been settled.

        Returns:
          How many entries are still live and were moved.
        """
        first, end = entry.sequence, entry.sequence + entry.count
        moved = 0
        for entries in list(self._maps()):
            for span in entries.take(first, end, self._cut_changed()):
                span.source, span.offset = source, offset + span.sequence - first
                self._put_aside(span)
                entries.add(span)
                moved += span.count
        level = self._levels.get(entry.priority)
        if entry.chunk is not None and level is not None:
            moved += self._move_ahead(level, entry, source, offset)
        self.has_changes |= moved > 0
        return moved

    def _move_ahead(self, level: Level, entry: Lease, source: int, offset: int) -> int:
        level.give_back()
        moved = 0
        first, end = entry.sequence, entry.sequence + entry.count
        for start, stop in level.visible(max(first, level.position), end):
            size = slice_bytes(entry.size_bytes, entry.count, start - first, stop - first)
            span = Lease(
                start,
                stop - start,
                source,
                offset + start - first,
                size,
                int(start < level.seen),
                priority=entry.priority,
            )
            span.expires_ms = entry.expires_ms
            level.hide(start, stop)
            level.put_back(span)
            self._note(span)
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
        for span in self._late or ():
            self._settled(span)
        self._late = self._due = None
        self.ready = self.delayed = 0
        self.live_bytes = sum(span.size_bytes for held in self._holders.values() for span in held)
        self.has_changes = True
        return purged

    def drop_source(self, source: int) -> int:
        """Settle all of a source that is ready or delayed: its records are gone. As :meth:`drop_below`."""
        return self.drop_below(source, END)

    def drop_below(self, source: int, offset: int) -> int:
        """Settle what is ready or delayed and below ``offset`` of ``source``: these records are gone.

        What is leased stays, until its holder settles it, or releases it and it is dropped then.

        Returns:
          How many entries were dropped. If a chunk is missing these are not yet all: load it and call again.
        """
        before = self.ready + self.delayed
        for level in self._order:
            if level.returned is not None:
                self.ready -= self._drop_spans(level.returned, source, offset)
            self.ready -= self._drop_ahead(level, source, offset)
        if self._late is not None:
            self.delayed -= self._drop_spans(self._late, source, offset)
        dropped = before - self.ready - self.delayed
        self.has_changes |= dropped > 0
        return dropped

    def _drop_spans(self, entries: SpanMap, source: int, offset: int) -> int:
        dropped = 0
        for span in list(entries):
            if span.source == source and span.offset < offset:
                end = span.sequence + min(span.count, offset - span.offset)
                for gone in entries.take(span.sequence, end, self._cut_changed()):
                    self.live_bytes -= gone.size_bytes
                    dropped += gone.count
                    self._settled(gone)
        return dropped

    def _drop_ahead(self, level: Level, source: int, offset: int) -> int:
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
            elif _is_whole(level, chunk) and len(chunk.extents) == 3 and chunk.extents[2] <= offset:
                dropped += self._drop(level, chunk.first, chunk.end, chunk.entries, chunk.size_bytes)
                self._note_again(level, chunk.first, chunk.end)
            else:
                self._wanted = chunk
                break
        return dropped

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
                    self._note(span)


def _entry(
    level: Level, chunk: Chunk, sequence: int, source: int, offset: int, count: int, size: int, expires: int
) -> Lease:
    deliveries = int(sequence < level.seen)
    return Lease(sequence, count, source, offset, size, deliveries, 0, 0, level.priority, expires, 0, chunk)


def _is_whole(level: Level, chunk: Chunk) -> bool:
    """Whether all entries of a chunk ahead of the head are in the index's order."""
    return level.hidden is None or not level.hidden.touches(chunk.first, chunk.end)
