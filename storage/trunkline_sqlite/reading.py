"""One log in the database: what finds and reads.

Every read is one snapshot of the database, over within milliseconds, so it needs no lock: it sees a batch
in its old or its new form whatever is written meanwhile. What was trimmed in that time is refused afterwards, which is
why whoever trims moves ``_start_offset`` first.
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_right
from collections.abc import Callable, Iterator
from operator import itemgetter
from pathlib import Path

from trunkline.errors import OffsetOutOfRange, TrunklineError
from trunkline.log import Chunk, Log, TimestampedOffset, TopicPartition
from trunkline.records import decode
from trunkline_sqlite.connections import ReadPool
from trunkline_sqlite.keys import KeySearch
from trunkline_sqlite.rows import ROW_BYTES, Row, StoredBatch, build

__all__ = ["SIZE_OF_ROW", "ReadableLog"]

_BATCH_COLUMNS = ", ".join(StoredBatch._fields)
_THIS_LOG = "topic = ? AND partition = ?"

_SELECT_BATCHES = f"""
    SELECT {_BATCH_COLUMNS} FROM batches
    WHERE {_THIS_LOG} AND last_offset >= ? AND last_offset < ? ORDER BY last_offset"""

_SELECT_RECORDS = f"""
    SELECT "offset", timestamp, key, value, headers FROM records
    WHERE {_THIS_LOG} AND "offset" >= ? AND "offset" <= ? ORDER BY "offset\""""

# In offset order, as highest_timestamp never goes back; the index gives the first that can have such a record
_SELECT_BATCHES_BY_TIME = f"""
    SELECT {_BATCH_COLUMNS} FROM batches INDEXED BY batches_by_time
    WHERE {_THIS_LOG} AND highest_timestamp >= ? AND max_timestamp >= ? AND last_offset >= ? AND last_offset < ?
    ORDER BY highest_timestamp, last_offset"""

_SELECT_RECORD_BY_TIME = f"""
    SELECT "offset", timestamp FROM records
    WHERE {_THIS_LOG} AND "offset" >= ? AND "offset" <= ? AND timestamp >= ? ORDER BY "offset" LIMIT 1"""

SIZE_OF_ROW = f"""
    {ROW_BYTES} + coalesce(length(CAST(key AS BLOB)), 0) + coalesce(length(CAST(value AS BLOB)), 0)
    + coalesce(length(CAST(headers AS BLOB)), 0)"""
"""What :func:`trunkline_sqlite.rows.add_rows` counts for a record, in SQL."""

_SELECT_SIZES = f"""
    SELECT "offset", timestamp, {SIZE_OF_ROW} FROM records
    WHERE {_THIS_LOG} AND "offset" >= ? AND "offset" <= ? ORDER BY "offset\""""

_CHUNK_BATCHES = 64
"""Looked at in one go by retention; it wants few when there is little to remove."""

_offset_of = itemgetter(0)


class ReadableLog(Log):
    """The half of a log that changes nothing."""

    def __init__(self, name: TopicPartition, path: Path, readers: ReadPool) -> None:
        self._name = name
        self._path = path
        self._readers = readers
        self._start_offset = 0
        self._end_offset = 0

    @property
    def start_offset(self) -> int:
        return self._start_offset

    @property
    def end_offset(self) -> int:
        return self._end_offset

    # -- by offset ---------------------------------------------------------------------------------

    def read(self, offset: int, max_bytes: int, end_offset: int) -> bytes:
        self._check(offset)
        found = b"".join(batch for _, batch in self._read_batches(offset, max_bytes, end_offset))
        self._check(offset)  # it may have been trimmed before the database was looked at
        return found

    def _check(self, offset: int) -> None:
        start, end = self._start_offset, self._end_offset
        if not start <= offset <= end:
            raise OffsetOutOfRange(
                f"{self._name}: offset {offset} is outside [{start}, {end}]; read from within it",
                log_start_offset=start,
                high_watermark=end,
            )

    def _read_batches(self, offset: int, max_bytes: int, end_offset: int) -> list[tuple[StoredBatch, bytes]]:
        """The batches that ``read`` gives, each with its row."""
        if offset >= end_offset:
            return []
        with self._readers.snapshot() as connection:
            batches = self._select_batches(connection, offset, max_bytes, end_offset)
            if not batches:
                return []
            between = (batches[0].base_offset, batches[-1].last_offset)
            rows: list[Row] = connection.execute(_SELECT_RECORDS, (*self._name, *between)).fetchall()
        place = f"{self._path}: {self._name}"
        if len(batches) == 1:
            return [(batches[0], build(batches[0], rows, place))]
        found, first = [], 0
        for batch in batches:
            stop = bisect_right(rows, batch.last_offset, lo=first, key=_offset_of)
            found.append((batch, build(batch, rows[first:stop], place)))
            first = stop
        return found

    def _select_batches(
        self, connection: sqlite3.Connection, offset: int, max_bytes: int, end_offset: int
    ) -> list[StoredBatch]:
        batches: list[StoredBatch] = []
        room = max_bytes
        cursor = connection.execute(_SELECT_BATCHES, (*self._name, offset, end_offset))
        for row in cursor:
            batch = StoredBatch._make(row)
            room -= batch.size_bytes
            if batches and room < 0:
                break
            batches.append(batch)
        cursor.close()
        return batches

    # -- by time -----------------------------------------------------------------------------------

    def find_timestamp(self, timestamp: int, end_offset: int) -> TimestampedOffset | None:
        start = self._start_offset
        with self._readers.snapshot() as connection:
            wanted = (*self._name, timestamp, timestamp, start, end_offset)
            for row in connection.execute(_SELECT_BATCHES_BY_TIME, wanted):
                found = self._find_in(connection, StoredBatch._make(row), start, timestamp)
                if found is not None:
                    return found
        return None

    def _find_in(
        self, connection: sqlite3.Connection, batch: StoredBatch, start: int, timestamp: int
    ) -> TimestampedOffset | None:
        """None if the record that the batch had its time from is gone."""
        first = max(batch.base_offset, start)
        if batch.raw is None:
            between = (first, batch.last_offset, timestamp)
            row = connection.execute(_SELECT_RECORD_BY_TIME, (*self._name, *between)).fetchone()
            return None if row is None else TimestampedOffset(*row)
        try:
            records = decode(batch.raw)
        except TrunklineError:  # only its producer knows what is in it: the header has to do
            return TimestampedOffset(first, batch.max_timestamp)
        for record in records:
            if record.timestamp >= timestamp and record.offset >= start:
                return TimestampedOffset(record.offset, record.timestamp)
        return None

    # -- by key ------------------------------------------------------------------------------------

    def find_keys(
        self, offset: int, end_offset: int, wants: Callable[[bytes], bool], max_offsets: int
    ) -> tuple[list[int], int]:
        self._check(offset)
        end_offset = min(end_offset, self._end_offset)
        if offset >= end_offset:
            return [], offset
        with self._readers.snapshot() as connection:
            found = KeySearch(connection, self._name, wants).find(offset, end_offset, max_offsets)
        self._check(offset)
        return found

    # -- retention ---------------------------------------------------------------------------------

    def chunks(self) -> Iterator[Chunk]:
        """Single records. A gap goes with the record after it, and at the end of the log with the one before."""
        start, end = self._start_offset, self._end_offset
        previous: Chunk | None = None
        for end_offset, timestamp, size_bytes in self._pieces(start, end):
            if previous is not None:
                yield previous
                start = previous.end_offset
            previous = Chunk(start, end_offset, size_bytes, timestamp)
        if previous is not None:
            yield previous._replace(end_offset=end)
        elif start < end:
            yield Chunk(start, end, 0, -1)

    def _pieces(self, position: int, end: int) -> Iterator[tuple[int, int, int]]:
        """End offset, timestamp and size of each record, and of each batch that has no rows."""
        while True:
            with self._readers.snapshot() as connection:
                cursor = connection.execute(_SELECT_BATCHES, (*self._name, position, end))
                batches = [StoredBatch._make(row) for row in cursor.fetchmany(_CHUNK_BATCHES)]
                cursor.close()
                if not batches:
                    return
                between = (position, batches[-1].last_offset)
                found = connection.execute(_SELECT_SIZES, (*self._name, *between)).fetchall()
            found += [
                (batch.last_offset, batch.max_timestamp, ROW_BYTES + len(batch.raw))
                for batch in batches
                if batch.raw is not None
            ]
            for last_offset, timestamp, size_bytes in sorted(found):
                yield last_offset + 1, timestamp, size_bytes
            position = batches[-1].last_offset + 1
