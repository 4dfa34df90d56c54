"""The aborted transactions of one partition, and records kept from readers because of them.

One row for each: producer, first offset, offset of the marker that ended it. In columns, as a log may hold a million
of them; the rows are in the order of their markers. Each also has the last stable offset as of its marker: whatever
ended later began there or later, so a search can stop early.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from typing import Final, NamedTuple

from trunkline.records import BatchHeader, iter_headers, read_header, with_records
from trunkline.records.batch import COMPRESSION_MASK

__all__ = ["NONE_ABORTED", "AbortedTransaction", "AbortedTransactions", "hide_aborted"]


class AbortedTransaction(NamedTuple):
    """What a producer wrote in ``[first_offset, last_offset]`` is void; at ``last_offset`` is the marker."""

    producer_id: int
    first_offset: int
    last_offset: int


class AbortedTransactions:
    """Grows at its end only; those who search it in another thread, or later, take a copy or keep this object.

    What is below the log start is left out in a new object (:meth:`from_offset`), so a reader who holds an older one
    still finds what belongs to the bytes that it has read.
    """

    __slots__ = ("_firsts", "_lasts", "_producers", "_stables")

    def __init__(self) -> None:
        self._producers = array("q")
        self._firsts = array("q")
        self._stables = array("q")
        self._lasts = array("q")

    def __len__(self) -> int:
        return len(self._lasts)

    @property
    def end_offset(self) -> int:
        """Nothing at or past it was aborted, as far as is known."""
        return self._lasts[-1] + 1 if self._lasts else 0

    def add(self, producer_id: int, first_offset: int, last_offset: int, stable_offset: int) -> None:
        """A marker was written; ``stable_offset``: where the first of those that are open yet began, or the next."""
        assert last_offset >= self.end_offset
        self._producers.append(producer_id)
        self._firsts.append(first_offset)
        self._stables.append(stable_offset)
        self._lasts.append(last_offset)

    def between(self, start: int, end: int) -> list[AbortedTransaction]:
        """Those with something in ``[start, end)``, in the order of their markers."""
        found = []
        for row in range(bisect_left(self._lasts, start), len(self._lasts)):
            if self._firsts[row] < end:
                found.append(AbortedTransaction(self._producers[row], self._firsts[row], self._lasts[row]))
            if self._stables[row] >= end:
                break
        return found

    def has(self, header: BatchHeader) -> bool:
        """Whether a batch is part of one."""
        base = header.base_offset
        return header.is_transactional and any(
            one.producer_id == header.producer_id for one in self.between(base, base + 1)
        )

    def forget_from(self, offset: int) -> None:
        """Markers at or past ``offset`` were not written after all."""
        row = bisect_left(self._lasts, offset)
        for column in (self._producers, self._firsts, self._stables, self._lasts):
            del column[row:]

    def from_offset(self, offset: int) -> AbortedTransactions:
        """Those whose marker is at or past ``offset``; this object if that is all."""
        row = bisect_left(self._lasts, offset)
        if not row:
            return self
        rest = AbortedTransactions()
        for name in self.__slots__:
            setattr(rest, name, getattr(self, name)[row:])
        return rest

    def copy(self) -> AbortedTransactions:
        """One that does not grow."""
        copied = AbortedTransactions()
        for name in self.__slots__:
            setattr(copied, name, getattr(self, name)[:])
        return copied

    def rows(self) -> list[tuple[int, int, int, int]]:
        """What ``add`` was given, one after another."""
        return list(zip(self._producers, self._firsts, self._lasts, self._stables, strict=True))


NONE_ABORTED: Final = AbortedTransactions()
"""Of a log without transactions; stays empty."""


def hide_aborted(batches: bytes, aborted: AbortedTransactions) -> bytes:
    """A run of stored batches with those of aborted transactions emptied: header, offsets, and no records.

    A reader goes on past them as past what compaction has emptied. Costs nothing past the last aborted transaction.
    """
    if not batches or read_header(batches).base_offset >= aborted.end_offset:
        return batches
    headers = list(iter_headers(batches))
    found = aborted.between(headers[0][1].base_offset, headers[-1][1].next_offset)
    if not found:
        return batches
    parts: list[bytes | memoryview] = []
    kept_from = 0
    view = memoryview(batches)
    for position, header in headers:
        if header.is_transactional and not header.is_control and _is_among(header, found):
            attributes = header.attributes & ~COMPRESSION_MASK
            parts += (
                view[kept_from:position],
                with_records(header._replace(attributes=attributes, record_count=0), b""),
            )
            kept_from = position + header.size_bytes
    parts.append(view[kept_from:])
    return b"".join(parts)


def _is_among(header: BatchHeader, found: list[AbortedTransaction]) -> bool:
    producer, base = header.producer_id, header.base_offset
    return any(one.producer_id == producer and one.first_offset <= base <= one.last_offset for one in found)
