"""The index of one priority: its chunks in order, and a head that goes through them.

The head takes one run after the other out of the chunks. Entries ahead of it are ready, but for those in ``hidden``:
settled before a restart, or dropped, or stored aside. The runs the head stands on are needed in memory, all others are
not.

``seen`` is the end of what was ever given out: after a restart the head begins at the lowest entry that is
not settled, and what it then finds below ``seen`` has been delivered once.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator
from itertools import compress
from typing import Final

from trunkline.queues.index import ANY_SOURCE, END, RUN_FIELDS, Chunk, Piece, Range, pieces, slice_bytes
from trunkline.queues.ranges import Ranges

__all__ = ["Chain"]

# Of the many that are short: replaced by others, never filled.
_NONE_DONE: Final[list[Chunk]] = []
_NO_ENDS: Final[dict[int, int]] = {}


class Chain:
    """The chunks of one priority, those that the head has passed and that are still needed too.

    ``sequence`` to ``expires_ms`` are the run the head stands on, or what is left of it; ``count`` 0: it has to look
    for the next one (:meth:`refill`).
    """

    __slots__ = (
        "_row",
        "_used",
        "chunks",
        "count",
        "deliveries",
        "done",
        "end",
        "ends",
        "expires_ms",
        "head",
        "hidden",
        "offset",
        "priority",
        "seen",
        "sequence",
        "size_bytes",
        "source",
        "tail",
        "unordered",
    )

    def __init__(self, priority: int) -> None:
        self.priority = priority
        self.chunks: list[Chunk] = []  # the open one is last
        self.head = 0  # index in chunks; those before are waiting for their entries to be settled
        self.tail: Chunk | None = None
        self._row = 0  # where the run behind the head's begins in the head's chunk
        self._used = 0  # entries of that run which are used up
        self.sequence = self.count = self.source = self.offset = self.size_bytes = self.expires_ms = self.deliveries = 0
        self.seen = 0
        self.end = 0  # the last run ends here
        self.hidden: Ranges | None = None
        self.done = _NONE_DONE  # chunks that nobody needs any more
        self.ends = _NO_ENDS  # of each source in sealed chunks: the highest offset and one
        self.unordered: frozenset[int] = frozenset()  # sources whose offsets do not always grow along the chunks

    def append(self, sequence: int, source: int, offset: int, count: int, size_bytes: int, expires_ms: int) -> int:
        """Add a run at the end; how many the open chunk has now."""
        tail = self.tail
        runs = tail.runs if tail is not None else self.open_chunk()
        assert runs is not None
        runs.extend((sequence, source, offset, count, size_bytes, expires_ms))
        self.end = sequence + count
        return len(runs) // RUN_FIELDS

    def open_chunk(self) -> array[int]:
        """Begin a chunk: its runs, to be extended."""
        self.tail = Chunk(self.priority)
        self.chunks.append(self.tail)
        assert self.tail.runs is not None
        return self.tail.runs

    # The head

    def refill(self) -> bool:
        """Find the next run for the head; False if there is none, or if it is in a chunk that is not in memory."""
        assert not self.count
        chunks, hidden = self.chunks, self.hidden
        while self.head < len(chunks):
            chunk = chunks[self.head]
            runs = chunk.runs
            if runs is None:
                if hidden is None or not hidden.covers(chunk.first, chunk.end):
                    return False
                self._pass(chunk)
                continue
            row = self._row
            if row == len(runs):
                if not chunk.is_sealed:
                    return False
                self._pass(chunk)
                continue
            start, source, offset, count, size, expires = runs[row : row + 6]
            self._row = row + RUN_FIELDS
            if not self._used and hidden is None and start >= self.seen:
                self.sequence, self.count, self.source, self.offset = start, count, source, offset
                self.size_bytes, self.expires_ms, self.deliveries = size, expires, 0
                return True
            if self._clip(start, source, offset, count, size, expires):
                return True
        return False

    def _clip(self, start: int, source: int, offset: int, count: int, size: int, expires: int) -> bool:
        """Take the first part of a run that is neither used nor hidden, and on one side of ``seen``."""
        first, end = start + self._used, start + count
        self._used = 0
        hole = self.hidden.find(first) if self.hidden is not None else None
        if hole is not None and hole[0] <= first:
            first = hole[1]
            if first >= end:
                return False
            assert self.hidden is not None
            hole = self.hidden.find(first)
        stop = end if hole is None else min(hole[0], end)
        if first < self.seen < stop:
            stop = self.seen
        if stop < end:
            self._row -= RUN_FIELDS
            self._used = stop - start
        self.sequence, self.count, self.source, self.offset = first, stop - first, source, offset + first - start
        self.size_bytes = slice_bytes(size, count, first - start, stop - start)
        self.expires_ms = expires
        self.deliveries = int(first < self.seen)
        return True

    def _pass(self, chunk: Chunk) -> None:
        chunk.is_passed = True
        self._row = self._used = 0
        self.head += 1
        if not chunk.held:
            self.leave(chunk)
        elif chunk.number >= 0:
            chunk.runs = None

    def give_back(self) -> None:
        """Let go of the head's run: :meth:`refill` finds what is left of it again."""
        if not self.count:
            return
        runs = self.chunks[self.head].runs
        assert runs is not None
        if not self._used:
            self._row -= RUN_FIELDS
        self._used = self.sequence - runs[self._row]
        self.count = 0

    @property
    def position(self) -> int:
        """Below it nothing is in the index's order any more."""
        if self.count:
            return self.sequence
        if self.head == len(self.chunks):
            return self.end
        chunk = self.chunks[self.head]
        if chunk.runs is None:
            return chunk.first
        return chunk.runs[self._row] + self._used if self._row < len(chunk.runs) else self.end_of(chunk)

    def end_of(self, chunk: Chunk) -> int:
        """The end of the last run of a chunk."""
        return chunk.end if chunk.is_sealed else self.end

    @property
    def missing_from(self) -> int:
        """The first sequence of the chunk the head stands before and that is not in memory; END: there is none.

        Asked when :meth:`refill` has found nothing.
        """
        chunk = self.chunks[self.head] if self.head < len(self.chunks) else None
        return chunk.first if chunk is not None and chunk.runs is None else END

    @property
    def missing(self) -> Chunk | None:
        """The chunk that the head waits for or will soon need, and that is not in memory."""
        if not self.count:
            self.refill()
        chunks, head = self.chunks, self.head
        if head == len(chunks):
            return None
        runs = chunks[head].runs
        if runs is None:
            return chunks[head]
        if head + 1 < len(chunks) and chunks[head + 1].runs is None and self._row * 2 >= len(runs):
            return chunks[head + 1]
        return None

    def is_near(self, chunk: Chunk) -> bool:
        """Whether a chunk should stay in memory."""
        return any(chunk is near for near in self.chunks[self.head : self.head + 2])

    # Everything ahead of the head

    def ahead(self) -> Iterator[Chunk]:
        """The chunks from the head on. Before: :meth:`give_back`."""
        assert not self.count
        return iter(self.chunks[self.head :])

    def pieces_of(self, chunk: Chunk, low: int = 0, high: int = END) -> Iterator[Piece]:
        """What is ready in a chunk from the head on that is in memory. Before: :meth:`give_back`.

        Args:
          low, high: runs without sequences in ``[low, high)`` are left out.
        """
        assert chunk.runs is not None
        at_head = chunk is self.chunks[self.head]
        used = self._used if at_head else 0
        row = self._row if at_head else 0
        if low:
            sequences = chunk.runs[row::RUN_FIELDS]
            skipped = max(bisect_right(sequences, low) - 1, 0)
            used = 0 if skipped else used
            row += skipped * RUN_FIELDS
        for sequence, source, offset, count, size, expires in pieces(chunk.runs, row):
            if sequence >= high:
                break
            first, end = sequence + used, sequence + count
            used = 0
            for start, stop in self.visible(first, end):
                share = slice_bytes(size, count, start - sequence, stop - sequence)
                yield start, source, offset + start - sequence, stop - start, share, expires

    def lowest_of(self, chunk: Chunk, source: int) -> int | None:
        """The lowest offset of a source that is ready in a chunk as for :meth:`pieces_of`; None: it has none."""
        runs = chunk.runs
        assert runs is not None
        if self.hidden is not None:
            return min((piece[2] for piece in self.pieces_of(chunk) if piece[1] == source), default=None)
        # This is asked after every write, so do it by column.
        at_head = chunk is self.chunks[self.head]
        row = self._row if at_head else 0
        sources, offsets = runs[row + 1 :: RUN_FIELDS], runs[row + 2 :: RUN_FIELDS]
        if at_head and offsets:
            offsets[0] += self._used
        count = sources.count(source)
        if not count:
            return None
        if count == len(sources):
            return min(offsets)
        return min(compress(offsets, map(source.__eq__, sources)))

    def visible(self, first: int, end: int) -> list[Range]:
        """``[first, end)`` without what is hidden, parted at ``seen``."""
        hidden, seen = self.hidden, self.seen
        if hidden is None and (first >= seen or end <= seen):
            return [(first, end)]
        found: list[Range] = []
        while first < end:
            hole = hidden.find(first) if hidden is not None else None
            stop = end if hole is None else min(max(hole[0], first), end)
            if first < seen < stop:
                found.append((first, seen))
                first = seen
            if first < stop:
                found.append((first, stop))
            if hole is None:
                break
            first = hole[1]
        return found

    def hide(self, first: int, end: int) -> None:
        """Entries ahead of the head are no longer in the index's order. Before: :meth:`give_back`."""
        if self.hidden is None:
            self.hidden = Ranges()
        self.hidden.add(first, end)

    def forget_hidden(self) -> None:
        """The head is behind some of what is hidden: that is not needed."""
        if self.hidden is not None:
            self.hidden.forget_below(self.position)
            if not self.hidden:
                self.hidden = None

    def skip_all(self) -> None:
        """Put the head behind everything."""
        self.count = 0
        while self.head < len(self.chunks) and self.chunks[self.head].is_sealed:
            self._pass(self.chunks[self.head])
        if self.head < len(self.chunks):
            runs = self.chunks[self.head].runs
            assert runs is not None
            self._row, self._used = len(runs), 0

    # Chunks

    def trim(self) -> None:
        """Forget the runs of the open chunk that nobody needs any more, so that they are never written."""
        tail = self.tail
        if tail is None or tail.held or self.chunks[self.head] is not tail:
            return
        assert tail.runs is not None
        row = self._row - RUN_FIELDS if self.count and not self._used else self._row
        if row:
            del tail.runs[:row]
            self._row -= row
            tail.saved = max(tail.saved - row, 0)

    def seal(self, at_least: int) -> Chunk | None:
        """Close the open chunk, if after trimming there are so many runs in it."""
        self.trim()
        tail = self.tail
        assert tail is not None
        assert tail.runs is not None
        if len(tail.runs) < at_least * RUN_FIELDS:
            return None
        tail.seal()
        self.tail = None
        self.note_extents(tail)
        return tail

    def note_extents(self, chunk: Chunk) -> None:
        """A chunk was added behind all others: see whether each source's offsets still grow along the chunks."""
        if self.ends is _NO_ENDS:
            self.ends = {}
        extents, ends = chunk.extents, self.ends
        for at in range(0, len(extents), 3):
            source, low, end = extents[at : at + 3]
            if low < ends.get(source, 0):
                self.unordered |= {source}
            ends[source] = max(end, ends.get(source, 0))

    def is_ordered(self, source: int) -> bool:
        """Whether the first chunk that has a source has its lowest offsets."""
        return source not in self.unordered and ANY_SOURCE not in self.ends

    def leave(self, chunk: Chunk) -> None:
        """A chunk behind the head that nobody needs any more."""
        at = self.chunks.index(chunk)
        assert at < self.head
        del self.chunks[at]
        self.head -= 1
        chunk.runs = None
        if self.done is _NONE_DONE:
            self.done = []
        self.done.append(chunk)
