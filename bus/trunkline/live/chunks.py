"""Pieces of the log as they were decoded for one who is behind, kept for those who come the same way.

When thousands of sessions come back after a restart, all of them read the same part of the log, each for a few records
of its own. So a piece is read and decoded once, and its keys are sorted: what a filter wants lies between two places in
that order, found by how the filter begins. For whoever wants nothing of a piece it costs two look-ups.

    records of a piece    0 dev/7/on    1 dev/12/on    2 (no key)    3 dev/7/off    4 lamp
    keys, sorted          dev/12/on [1]    dev/7/off [3]    dev/7/on [0]    lamp [4]
    dev/7/#               ................[-----------------------]  and 2: records 0, 2, 3

What comes out is what a filter *may* want: ``dev/70`` begins so too. Whoever asks looks at each record again.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterable
from operator import attrgetter
from typing import Final

from trunkline.records import Record

__all__ = ["Chunk", "Chunks"]

MAX_KEPT_BYTES: Final = 4 * 1024 * 1024
"""Of keys, values and what a record takes beside them, in one partition: 20,000 small records. Who is further behind
looks by key."""

_RECORD_BYTES: Final = 100
"""What a record takes beside its key and value, roughly."""


class Chunk:
    """Some records in a row.

    Attributes:
      start, end: offsets; what is between and not in ``records`` is not there to be read.
      records: in order.
      size_bytes: roughly, in memory.
    """

    __slots__ = ("_by_key", "_keys", "end", "records", "size_bytes", "start")

    def __init__(self, start: int, end: int, records: list[Record]) -> None:
        self.start = start
        self.end = end
        self.records = records
        self.size_bytes = sum(len(record.value or b"") + len(record.key or b"") + _RECORD_BYTES for record in records)
        self._by_key: dict[bytes | None, list[int]] | None = None
        self._keys: list[bytes] = []

    def at(self, offset: int) -> Record | None:
        """The record with this offset."""
        index = bisect_left(self.records, offset, key=_offset)
        found = self.records[index : index + 1]
        return found[0] if found and found[0].offset == offset else None

    def last_first(self, beginnings: Iterable[bytes], offset: int) -> list[Record]:
        """From ``offset`` on, the records without a key and those whose keys begin in one of these ways, last first."""
        by_key = self._index()
        wanted = set(by_key.get(None, ()))
        for beginning in beginnings:
            if not beginning:
                wanted = set(range(len(self.records)))
                break
            at = bisect_left(self._keys, beginning)
            while at < len(self._keys) and self._keys[at].startswith(beginning):
                wanted.update(by_key[self._keys[at]])
                at += 1
        records = self.records
        return [records[index] for index in sorted(wanted, reverse=True) if records[index].offset >= offset]

    def _index(self) -> dict[bytes | None, list[int]]:
        """The places of the records of each key; made for whoever asks first."""
        by_key = self._by_key
        if by_key is None:
            by_key = self._by_key = {}
            for index, record in enumerate(self.records):
                if record.key in by_key:
                    by_key[record.key].append(index)
                else:
                    by_key[record.key] = [index]
            self._keys = sorted(key for key in by_key if key is not None)
        return by_key


_offset = attrgetter("offset")


class Chunks:
    """The newest ones, as many as there is room for; the one that was put in last always."""

    def __init__(self) -> None:
        self._order: deque[Chunk] = deque()  # as they came
        self._by_start: dict[int, Chunk] = {}
        self._starts: list[int] = []  # sorted
        self._size_bytes = 0

    def find(self, offset: int) -> Chunk | None:
        """One that begins at this offset or before, and goes on behind it."""
        at = bisect_right(self._starts, offset)
        if not at:
            return None
        chunk = self._by_start[self._starts[at - 1]]
        return chunk if offset < chunk.end else None

    def put(self, chunk: Chunk) -> None:
        """Keep one; what was there with the same start goes."""
        known = self._by_start.get(chunk.start)
        if known is not None:
            self._order.remove(known)
            self._drop(known)
        self._order.append(chunk)
        self._by_start[chunk.start] = chunk
        self._starts.insert(bisect_left(self._starts, chunk.start), chunk.start)
        self._size_bytes += chunk.size_bytes
        while self._size_bytes > MAX_KEPT_BYTES and len(self._order) > 1:
            self._drop(self._order.popleft())

    def _drop(self, chunk: Chunk) -> None:
        del self._by_start[chunk.start]
        del self._starts[bisect_left(self._starts, chunk.start)]
        self._size_bytes -= chunk.size_bytes

    def clear(self) -> None:
        self._order.clear()
        self._by_start.clear()
        self._starts.clear()
        self._size_bytes = 0
