"""One segment: a file of batches, and indexes into it. All integers are big-endian::

    00000000000000005000.log        record batches (trunkline.records) one after another, nothing between them
    00000000000000005000.index      i32 last offset of a batch less 5000; i32 position of that batch
    00000000000000005000.timeindex  i64 largest timestamp so far, ms; i32 last offset, less 5000, of the
                                    batch that first reached it
    00000000000000005000.keys       which records have which key, once somebody has asked: see :mod:`.keys`

The first three have Kafka's format, entry for entry. ``index.interval.bytes`` of log lie between two index entries;
the time index gets one at the same moment if the largest timestamp grew, and a final one when the segment is finished.
So records after a time entry's batch may be older than its timestamp, but none before it is newer.

The log is the truth. An index entry that does not match the batch it points at is reported and passed over: the
look-up then walks from the start of the segment, slower but right.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from struct import Struct
from typing import Final, NamedTuple

from trunkline.errors import CorruptLog
from trunkline.records import HEADER_BYTES
from trunkline_segments.files import OpenFiles, StoredFile
from trunkline_segments.index import Entry, SparseIndex
from trunkline_segments.names import INDEX, KEYS, LOG, TIME_INDEX, file_name

__all__ = ["NO_TIMESTAMP", "Placed", "Segment", "corrupt"]

logger = logging.getLogger("trunkline.segments")

NO_TIMESTAMP: Final = -1
MAX_INDEX_BYTES = 10 * 1024 * 1024
"""Roll when the index is this large; Kafka's default for ``segment.index.bytes``."""

_OFFSET_ENTRY = Struct(">ii")
_TIME_ENTRY = Struct(">qi")
MAX_INDEX_ENTRIES = MAX_INDEX_BYTES // _OFFSET_ENTRY.size
MAX_RELATIVE_OFFSET = 2**31 - 1
_WALK_BYTES = 8192  # read at a time to walk headers: a default index interval and the batch after it
_WALKED = Struct(">qi4xb6xi8xq")  # base_offset, batch_length, magic, last_offset_delta, max_timestamp
_LENGTH_END = 12
_MAGIC = 2


class Placed(NamedTuple):
    """A batch in a segment: where it lies, and what its header says."""

    position: int
    size: int
    base_offset: int
    last_offset: int
    max_timestamp: int


class Noted(NamedTuple):
    """What a segment knows of the batches noted in it."""

    size: int
    end_offset: int
    first_timestamp: int
    max_timestamp: int
    max_timestamp_offset: int
    indexed_timestamp: int
    unindexed_bytes: int
    max_offset: int


def corrupt(path: Path, position: int, reason: str) -> CorruptLog:
    """The error for damage in a segment's file."""
    return CorruptLog(
        f"{path}: damaged at byte {position}: {reason}; restore the file from a copy or a replica",
        file=str(path),
        position=position,
    )


class Segment:
    """A segment's files and what is known of them.

    One thread at a time adds to it (:meth:`note`, then the write); any thread reads, up to a limit that
    its caller knows to be written.

    Attributes:
      size: bytes of the batches noted.
      end_offset: the offset after the last one.
      max_timestamp: the largest of them; NO_TIMESTAMP if there is none.
      first_timestamp: the max timestamp of the first batch.
      max_offset: the largest that a batch added to it may have; roll before a later one.
    """

    __slots__ = (
        "_index_interval",
        "_indexed_timestamp",
        "_max_timestamp_offset",
        "_unindexed_bytes",
        "base_offset",
        "end_offset",
        "first_timestamp",
        "index",
        "keys",
        "log",
        "max_offset",
        "max_timestamp",
        "size",
        "times",
    )

    def __init__(
        self, open_files: OpenFiles, directory: Path, base_offset: int, index_interval: int, mark: str = ""
    ) -> None:
        def file(suffix: str) -> StoredFile:
            return StoredFile(open_files, directory / file_name(base_offset, suffix + mark))

        self.base_offset = base_offset
        self.log = file(LOG)
        self.index = SparseIndex(file(INDEX), _OFFSET_ENTRY)
        self.times = SparseIndex(file(TIME_INDEX), _TIME_ENTRY)
        self.keys = StoredFile(open_files, directory / file_name(base_offset, KEYS))
        self._index_interval = index_interval
        self.forget()

    def forget(self) -> None:
        """Know nothing: what the files hold will be noted anew."""
        self.size = 0
        self.end_offset = self.base_offset
        self.first_timestamp = self.max_timestamp = self._indexed_timestamp = NO_TIMESTAMP
        self._max_timestamp_offset = self.base_offset
        self._unindexed_bytes = 0
        self.max_offset = self.base_offset + MAX_RELATIVE_OFFSET
        self.index.clear()
        self.times.clear()

    # -- adding ------------------------------------------------------------------------------------

    def note(self, size: int, last_offset: int, max_timestamp: int) -> None:
        """Take in the next batch: it lies at ``size`` now. Its bytes may be written after this."""
        if max_timestamp > self.max_timestamp:
            self.max_timestamp = max_timestamp
            self._max_timestamp_offset = last_offset
        if not self.size:
            self.first_timestamp = max_timestamp
        if self._unindexed_bytes > self._index_interval:
            self.index.add(last_offset - self.base_offset, self.size)
            self._note_time()
            self._unindexed_bytes = 0
            if len(self.index) >= MAX_INDEX_ENTRIES:
                self.max_offset = last_offset
        self._unindexed_bytes += size
        self.size += size
        self.end_offset = last_offset + 1

    def _note_time(self) -> None:
        if self.max_timestamp > self._indexed_timestamp:
            self._indexed_timestamp = self.max_timestamp
            self.times.add(self.max_timestamp, self._max_timestamp_offset - self.base_offset)

    def noted(self) -> Noted:
        """What is known now, for :meth:`take_back`."""
        return Noted(
            self.size,
            self.end_offset,
            self.first_timestamp,
            self.max_timestamp,
            self._max_timestamp_offset,
            self._indexed_timestamp,
            self._unindexed_bytes,
            self.max_offset,
        )

    def take_back(self, noted: Noted) -> None:
        """Know again what was known then: the batches noted since are not in the file."""
        (
            self.size,
            self.end_offset,
            self.first_timestamp,
            self.max_timestamp,
            self._max_timestamp_offset,
            self._indexed_timestamp,
            self._unindexed_bytes,
            self.max_offset,
        ) = noted
        size, relative = self.size, self.end_offset - self.base_offset
        self.index.take_back(lambda last, at: at < size)
        self.times.take_back(lambda timestamp, last: last < relative)

    def write_indexes(self, position: int, offset: int, *, is_finished: bool) -> None:
        """Make the index entries for what lies before ``position`` durable; the log is so up to there.

        Args:
          offset: that of ``position``.
          is_finished: nothing is added now, so the largest timestamp may be indexed too.
        """
        if is_finished:
            self._note_time()
        relative = offset - self.base_offset
        self.index.write(lambda last, at: at < position)
        self.times.write(lambda timestamp, last: last < relative)

    # -- opening and closing -----------------------------------------------------------------------

    def resume(self, position: int, offset: int, *, is_finished: bool) -> bool:
        """Learn from the index files what lies before ``position``, a batch boundary known to have ``offset``.

        The last batch may end before that: whether there can be a gap is for the caller to judge. Index entries past
        it are dropped. Reads only the log after the last index entry.

        Returns:
          False if the indexes do not fit the log and :meth:`forget` is called for.
        """
        relative = offset - self.base_offset
        self.forget()
        self.index.load(lambda last, at: at < position and last < relative)
        self.times.load(lambda timestamp, last: last < relative)
        latest = self.times.last()
        if latest is not None:
            self.max_timestamp = self._indexed_timestamp = latest[0]
            self._max_timestamp_offset = self.base_offset + latest[1]
        indexed = self.index.last()
        if indexed is not None:
            if not indexed[1]:  # the first entry follows a batch
                return False
            self.size = indexed[1]
            self.end_offset = self.base_offset + indexed[0]
        try:
            for number, placed in enumerate(self.walk(self.size, position)):
                if indexed is not None and number == 0 and not self._is_indexed_well(placed, indexed[0]):
                    return False
                if is_finished and placed.max_timestamp > self._indexed_timestamp:
                    return False
                self.note(placed.size, placed.last_offset, placed.max_timestamp)
            if position:
                self.first_timestamp = next(self.walk(0, position, walk_bytes=HEADER_BYTES)).max_timestamp
        except CorruptLog:
            return False
        return self.size == position and self.end_offset <= offset

    def _is_indexed_well(self, placed: Placed, last: int) -> bool:
        return placed.last_offset == self.base_offset + last and placed.max_timestamp <= self.max_timestamp

    @property
    def has_unwritten_indexes(self) -> bool:
        """Whether index entries are in memory only."""
        return self.index.has_fresh or self.times.has_fresh

    @property
    def _files(self) -> tuple[StoredFile, ...]:
        """The log last: whatever of the others is there has a log."""
        return (self.keys, self.index.file, self.times.file, self.log)

    def close(self) -> None:
        """Close its files."""
        for file in self._files:
            file.close()

    def empty_indexes(self) -> None:
        """Have no index entries; for a finished segment that will be removed."""
        for index in (self.index, self.times):
            index.clear()
            index.file.truncate(0)

    def remove(self) -> None:
        """Remove its files; durable once the directory is synced."""
        for file in self._files:
            file.remove()

    def retire(self) -> None:
        """Use its files no more: others have their names now, or soon."""
        for file in self._files:
            file.retire()

    # -- reading -----------------------------------------------------------------------------------

    def walk(self, position: int, limit: int, nowait: bool = False, walk_bytes: int = _WALK_BYTES) -> Iterator[Placed]:
        """The batches from ``position``, a batch boundary, to ``limit``. Reads little but their headers.

        Raises CorruptLog at a header that makes no sense.
        """
        chunk, chunk_at = b"", position
        offset = self.base_offset
        while position < limit:
            if position + HEADER_BYTES > chunk_at + len(chunk):
                chunk, chunk_at = self.log.read(position, min(walk_bytes, limit - position), nowait), position
                if len(chunk) < HEADER_BYTES:
                    raise corrupt(self.log.path, position, "the file ends inside a batch header")
            base_offset, length, magic, delta, timestamp = _WALKED.unpack_from(chunk, position - chunk_at)
            size = length + _LENGTH_END
            if magic != _MAGIC or size < HEADER_BYTES or position + size > limit or delta < 0 or base_offset < offset:
                raise corrupt(self.log.path, position, "this is not the header of a batch that can be here")
            offset = base_offset + delta + 1
            yield Placed(position, size, base_offset, base_offset + delta, timestamp)
            position += size

    def batch_holding(self, offset: int, limit: int, nowait: bool = False) -> Placed | None:
        """The batch below ``limit`` that holds ``offset``, or the first one after it; None if there is none."""
        relative = offset - self.base_offset
        indexed = self.index.find_last(lambda last, at: last <= relative and at < limit, nowait)
        for placed in self.walk(self._start(indexed, limit, nowait), limit, nowait):
            if placed.last_offset >= offset:
                return placed
        return None

    def boundary(self, position: int, bound: int, end_offset: int, limit: int, nowait: bool = False) -> tuple[int, int]:
        """How far a read from the batch at ``position`` goes, and the offset there.

        It stops at the last batch boundary at or before the byte ``bound`` and ``end_offset``, but takes
        the first batch whatever its size.
        """
        stop = position
        if bound - position > 2 * _WALK_BYTES:  # else walking is as quick
            relative = end_offset - self.base_offset
            indexed = self.index.find_last(lambda last, at: at <= bound and last < relative, nowait)
            stop = max(position, self._start(indexed, limit, nowait))
        for placed in self.walk(stop, limit, nowait):
            end = placed.position + placed.size
            if placed.last_offset >= end_offset or (end > bound and placed.position > position):
                return stop, placed.base_offset
            stop, offset = end, placed.last_offset + 1
        return stop, offset

    def newer_batches(self, timestamp: int, offset: int, limit: int) -> Iterator[Placed]:
        """The batches that may hold a record at or past both ``timestamp`` and ``offset``, in order."""
        latest = self.times.find_last(lambda found, last: found < timestamp)
        first = offset
        if latest is not None and self.base_offset + latest[1] > offset and self._is_timed_well(latest, limit):
            first = self.base_offset + latest[1]
        start = self.batch_holding(first, limit)
        for placed in self.walk(limit if start is None else start.position, limit):
            if placed.max_timestamp >= timestamp:
                yield placed

    def _is_timed_well(self, entry: Entry, limit: int) -> bool:
        timestamp, last = entry
        if self.base_offset + last < self.end_offset:
            placed = self.batch_holding(self.base_offset + last, limit)
            if placed is not None and placed[3:] == (self.base_offset + last, timestamp):
                return True
        logger.warning(
            "%s: its entry for timestamp %d and offset %d is not what the log says; searching without it. Remove "
            "the file while the broker is stopped, and it is made anew",
            self.times.file.path,
            timestamp,
            self.base_offset + last,
        )
        return False

    def _start(self, indexed: Entry | None, limit: int, nowait: bool = False) -> int:
        """Where to start walking: at the index entry if it tells the truth."""
        if indexed is None:
            return 0
        last, position = indexed
        header = self.log.read(position, HEADER_BYTES, nowait) if 0 <= position < limit else b""
        if len(header) == HEADER_BYTES:
            base_offset, _, magic, delta, _ = _WALKED.unpack(header[: _WALKED.size])
            if magic == _MAGIC and base_offset + delta == self.base_offset + last:
                return position
        logger.warning(
            "%s: its entry for offset %d points at byte %d of the log, where no such batch is; walking from the "
            "start instead. Remove the file while the broker is stopped, and it is made anew",
            self.index.file.path,
            self.base_offset + last,
            position,
        )
        return 0
