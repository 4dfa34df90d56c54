"""Spans of entries in the order of their sequences, found and cut by range.

Sorted lists in blocks of at most :data:`BLOCK`: a look-up bisects twice, and what comes or goes moves only the rest of
its block. Taking from the front, which is what settling in order does, and adding at the end are as cheap as
taking from anywhere.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from typing import Final

from msgspec.structs import replace

from trunkline.queues.index import GONE, Lease, cut

__all__ = ["SpanMap"]

BLOCK: Final = 256


class SpanMap:
    """Spans that do not overlap. ``entries``, ``size_bytes``: how many they have together, and what they count for."""

    __slots__ = ("_blocks", "_firsts", "_keys", "entries", "size_bytes")

    def __init__(self) -> None:
        self.entries = self.size_bytes = 0
        self._blocks: list[list[Lease]] = []  # none is empty
        self._keys: list[list[int]] = []  # their sequences
        self._firsts: list[int] = []  # at or below the first sequence of each block

    def __iter__(self) -> Iterator[Lease]:
        for block in self._blocks:
            yield from block

    def add(self, span: Lease) -> None:
        """Add a span, which overlaps none that is there."""
        self.entries += span.count
        self.size_bytes += span.size_bytes
        sequence = span.sequence
        if not self._blocks:
            self._blocks.append([span])
            self._keys.append([sequence])
            self._firsts.append(sequence)
            return
        keys = self._keys[-1]
        if sequence > keys[-1]:
            if len(keys) < BLOCK:
                keys.append(sequence)
                self._blocks[-1].append(span)
            else:
                self._blocks.append([span])
                self._keys.append([sequence])
                self._firsts.append(sequence)
            return
        at = max(bisect_right(self._firsts, sequence) - 1, 0)
        self._insert(at, bisect_right(self._keys[at], sequence), span)

    def _insert(self, block: int, at: int, span: Lease) -> None:
        keys, spans = self._keys[block], self._blocks[block]
        keys.insert(at, span.sequence)
        spans.insert(at, span)
        if not at:
            self._firsts[block] = span.sequence
        if len(keys) > BLOCK:
            half = BLOCK // 2
            self._keys.insert(block + 1, keys[half:])
            self._blocks.insert(block + 1, spans[half:])
            self._firsts.insert(block + 1, keys[half])
            del keys[half:], spans[half:]

    def first(self) -> Lease | None:
        """The span with the lowest sequence."""
        return self._blocks[0][0] if self._blocks else None

    def pop_first(self) -> Lease:
        """Take the span with the lowest sequence; there is one."""
        span = self._blocks[0][0]
        self.entries -= span.count
        self.size_bytes -= span.size_bytes
        self._remove(0, 0, 1)
        return span

    def cut_first(self, count: int) -> Lease:
        """Take fewer entries than it has off the span with the lowest sequence."""
        span = self._blocks[0][0]
        front = cut(span, count)
        self.entries -= count
        self.size_bytes -= front.size_bytes
        self._keys[0][0] = span.sequence
        return front

    def _remove(self, block: int, start: int, stop: int) -> None:
        keys = self._keys[block]
        if stop - start == len(keys):
            del self._keys[block], self._blocks[block], self._firsts[block]
        else:
            del keys[start:stop], self._blocks[block][start:stop]

    def _seek(self, sequence: int) -> tuple[int, int]:
        """Block and place of the first span that ends behind ``sequence``; the place may be the end of the block."""
        firsts = self._firsts
        block = bisect_right(firsts, sequence) - 1 if len(firsts) > 1 else 0
        if block < 0:
            return 0, 0
        at = bisect_right(self._keys[block], sequence) - 1
        if at < 0:
            return block, 0
        span = self._blocks[block][at]
        return block, at if span.sequence + span.count > sequence else at + 1

    def overlapping(self, first: int, end: int) -> Iterator[Lease]:
        """The spans that have entries in ``[first, end)``, whole. The map must not change meanwhile."""
        if not self._blocks:
            return
        block, at = self._seek(first)
        while block < len(self._blocks):
            for span in self._blocks[block][at:]:
                if span.sequence >= end:
                    return
                yield span
            block, at = block + 1, 0

    def take_one(self, sequence: int, changed: list[Lease]) -> Lease | None:
        """Take one entry out, without making a span for it; ``changed`` as in :meth:`take`.

        Returns:
          The span in which it was, which has become shorter, or is out. None: it is not there.
        """
        firsts = self._firsts
        if len(firsts) > 1:
            block = bisect_right(firsts, sequence) - 1
            if block < 0:
                return None
        elif firsts:
            block = 0
        else:
            return None
        keys, spans = self._keys[block], self._blocks[block]
        at = bisect_right(keys, sequence) - 1
        if at < 0:
            return None
        span = spans[at]
        count = span.count
        before = sequence - span.sequence
        if before >= count:
            return None
        self.entries -= 1
        if count == 1:
            if len(keys) > 1:
                del keys[at], spans[at]
            else:
                self._remove(block, 0, 1)
            span.holder = GONE
            self.size_bytes -= span.size_bytes
            return span
        size = span.size_bytes
        share, more = divmod(size, count)
        own = share + (before < more)
        self.size_bytes -= own
        if before:
            span.count = before
            span.size_bytes = share * before + min(before, more)
            if count - before > 1:
                rest = replace(span, sequence=sequence + 1, count=count - before - 1, offset=span.offset + before + 1)
                rest.size_bytes = size - own - span.size_bytes
                if rest.is_changed:
                    changed.append(rest)
                self._insert(block, at + 1, rest)
        else:
            keys[at] = span.sequence = sequence + 1
            span.offset += 1
            span.count = count - 1
            span.size_bytes = size - own
        return span

    def take(self, first: int, end: int, changed: list[Lease]) -> list[Lease]:
        """Take all entries in ``[first, end)`` out, as spans; others stay.

        Args:
          changed: if a span that ``is_changed`` is cut, its new part is added to this list.
        """
        if not self._blocks or first >= end:
            return []
        block, at = self._seek(first)
        taken: list[Lease] = []
        while block < len(self._blocks):
            spans, keys = self._blocks[block], self._keys[block]
            if at == len(spans):
                block, at = block + 1, 0
                continue
            span = spans[at]
            sequence = span.sequence
            if sequence >= end:
                break
            if sequence < first:  # its front stays
                front = cut(span, first - sequence)
                if front.is_changed:
                    changed.append(front)
                keys[at] = first
                self._insert(block, at, front)
                block, at = self._seek(first)
                continue
            if sequence + span.count > end:  # its rest stays
                front = cut(span, end - sequence)
                if front.is_changed:
                    changed.append(front)
                keys[at] = end
                taken.append(front)
                break
            stop = at + 1
            last = len(spans)
            while stop < last and keys[stop] < end and keys[stop] + spans[stop].count <= end:
                stop += 1
            taken += spans[at:stop]
            is_block_gone = stop - at == last
            self._remove(block, at, stop)
            if is_block_gone:
                at = 0
        for span in taken:
            self.entries -= span.count
            self.size_bytes -= span.size_bytes
        return taken
