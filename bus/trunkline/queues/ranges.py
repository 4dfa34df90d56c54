"""Sets of sequences, as half-open ranges in two arrays: 16 bytes a range, look-ups by bisection."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator

from trunkline.queues.index import Range

__all__ = ["Ranges", "joined"]


def joined(ranges: Iterable[Range]) -> list[Range]:
    """The same sequences in ascending ranges that neither overlap nor touch."""
    found: list[Range] = []
    last_first = last_end = -1
    for first, end in sorted(ranges):
        if first > last_end:
            if last_end > last_first:
                found.append((last_first, last_end))
            last_first, last_end = first, end
        elif end > last_end:
            last_end = end
    if last_end > last_first:
        found.append((last_first, last_end))
    return found


class Ranges:
    """A set of sequences. Ranges in it neither overlap nor touch."""

    __slots__ = ("_ends", "_firsts")

    def __init__(self, ranges: Iterable[Range] = ()) -> None:
        self._firsts = array("q")
        self._ends = array("q")
        self._take(joined(ranges))

    def _take(self, ranges: list[Range]) -> None:
        self._firsts = array("q", [first for first, _ in ranges])
        self._ends = array("q", [end for _, end in ranges])

    def __iter__(self) -> Iterator[Range]:
        return zip(self._firsts, self._ends, strict=True)

    def __len__(self) -> int:
        return len(self._firsts)

    def add(self, first: int, end: int) -> None:
        """Add ``[first, end)``."""
        if first >= end:
            return
        firsts, ends = self._firsts, self._ends
        low = bisect_left(ends, first)  # the first range that touches it or lies behind it
        high = bisect_right(firsts, end)
        if low < high:
            first, end = min(first, firsts[low]), max(end, ends[high - 1])
        firsts[low:high] = array("q", (first,))
        ends[low:high] = array("q", (end,))

    def update(self, ranges: list[Range]) -> None:
        """Add many: in one pass, where adding them one by one would move the rest each time."""
        if len(ranges) < 8:
            for first, end in ranges:
                self.add(first, end)
        else:
            self._take(joined([*self, *ranges]))

    def find(self, sequence: int) -> Range | None:
        """The first range that ends behind ``sequence``."""
        at = bisect_right(self._ends, sequence)
        return (self._firsts[at], self._ends[at]) if at < len(self._ends) else None

    def covers(self, first: int, end: int) -> bool:
        """Whether all of ``[first, end)`` is in the set."""
        found = self.find(first)
        return found is not None and found[0] <= first and end <= found[1]

    def touches(self, first: int, end: int) -> bool:
        """Whether some of ``[first, end)`` is in the set."""
        found = self.find(first)
        return found is not None and found[0] < end

    def above(self, sequence: int) -> Iterator[Range]:
        """What of the ranges is at or above ``sequence``."""
        for at in range(bisect_right(self._ends, sequence), len(self._ends)):
            yield max(self._firsts[at], sequence), self._ends[at]

    def forget_below(self, sequence: int) -> None:
        """Drop the ranges that end at or below ``sequence``."""
        at = bisect_right(self._ends, sequence)
        if at:
            del self._firsts[:at], self._ends[:at]
