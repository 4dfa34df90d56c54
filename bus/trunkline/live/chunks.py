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
from typing import Final, Generic, Self, TypeVar

from trunkline.errors import TrunklineError
from trunkline.records import Record, decode_all, decode_readable, iter_headers, read_header

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

    __slots__ = ("_by_key", "_by_offset", "_keys", "end", "records", "size_bytes", "start")

    def __init__(self, start: int, end: int, records: list[Record]) -> None:
        self.start = start
        self.end = end
        self.records = records
        self.size_bytes = sum(len(record.value or b"") + len(record.key or b"") + _RECORD_BYTES for record in records)
        self._by_offset: dict[int, Record] | None = None
        self._by_key: dict[bytes | None, list[int]] | None = None
        self._keys: list[bytes] = []

    @classmethod
    def decode(cls, name: str, offset: int, batches: bytes) -> Self:
        """What a read at ``offset`` gave; the first batch of it, if they cannot be decoded together.

        So one that cannot be read costs nobody its neighbours, and those that are large only together are taken one at
        a time. A read that gave nothing says that what was asked for is not there.

        Args:
          name: of the partition, for the log.
        """
        headers = [header for _, header in iter_headers(batches)]
        if not headers:
            return cls(offset, offset + 1, [])
        first, last = headers[0], headers[-1]
        if first is last:
            records = [*decode_readable(name, batches, from_offset=offset)]
        else:
            try:
                records = decode_all(batches, from_offset=offset)
            except TrunklineError:
                return cls.decode(name, offset, batches[: first.size_bytes])
        assert last.next_offset > offset
        return cls(offset, last.next_offset, records)

    @classmethod
    def decode_whole(cls, name: str, offset: int, batches: bytes) -> Self:
        """Likewise, with what is before ``offset`` in the batch that has it: others want that."""
        start = min(offset, read_header(batches).base_offset) if batches else offset
        return cls.decode(name, start, batches)

    def covers(self, offset: int) -> bool:
        """It is in here, if it is there at all."""
        return self.start <= offset < self.end

    def at(self, offset: int) -> Record | None:
        """The record with this offset."""
        by_offset = self._by_offset
        if by_offset is None:
            by_offset = self._by_offset = {record.offset: record for record in self.records}
        return by_offset.get(offset)

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


C = TypeVar("C", bound=Chunk)


class Chunks(Generic[C]):
    """The newest ones, as many as there is room for; the one that was put in last always."""

    def __init__(self) -> None:
        self._order: deque[C] = deque()  # as they came
        self._by_start: dict[int, C] = {}
        self._starts: list[int] = []  # sorted
        self._size_bytes = 0

    def find(self, offset: int) -> C | None:
        """One that begins at this offset or before, and goes on behind it."""
        at = bisect_right(self._starts, offset)
        if not at:
            return None
        chunk = self._by_start[self._starts[at - 1]]
        return chunk if offset < chunk.end else None

    def put(self, chunk: C) -> None:
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

    def _drop(self, chunk: C) -> None:
        del self._by_start[chunk.start]
        del self._starts[bisect_left(self._starts, chunk.start)]
        self._size_bytes -= chunk.size_bytes

    def clear(self) -> None:
        self._order.clear()
        self._by_start.clear()
        self._starts.clear()
        self._size_bytes = 0
