"""One log in one directory.

    records.N       the batches, one after another, as they were appended
    manifest        which file that is, and what of it is certain; replaced in one step, durably
    state.OFFSET    the core's snapshots

Where the batches lie is kept in memory, and found again by reading the file when the log is opened. The manifest
says up to which byte the file had been synced when it was written. Damage before that is damage (CorruptLog); what is
not intact after it is an append that a crash cut off, and is cut off here too.

Whatever cannot be done by appending (compaction, giving back the space of trimmed records) writes a new file and then
a manifest that names it: a crash before that leaves the old file, a crash after it the new one.

One lock goes around everything. That is slow and sure; it is the first thing to improve.
"""

from __future__ import annotations

import errno
import logging
import math
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
from trunkline.disk import Disk, DiskFile
from trunkline.errors import CorruptLog, OffsetOutOfRange, StoreFull, TrunklineError
from trunkline.log import Chunk, Log, SavedState, TimestampedOffset, TopicPartition
from trunkline.records import HEADER_BYTES, BatchHeader, check_batch, decode, read_header

from trunkline_shoebox.manifest import Manifest
from trunkline_shoebox.states import SavedStates

__all__ = ["ShoeboxLog"]

logger = logging.getLogger("trunkline.shoebox")

CHECKPOINT_BYTES: Final = 1024 * 1024
"""The manifest is written again after so many flushed bytes: it costs two more syncs."""

_RECORDS: Final = "records."
_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT)


class Place(NamedTuple):
    """A batch and where it lies."""

    base_offset: int
    next_offset: int
    position: int
    size_bytes: int
    max_timestamp: int

    @classmethod
    def of(cls, header: BatchHeader, position: int) -> Place:
        return cls(header.base_offset, header.next_offset, position, header.size_bytes, header.max_timestamp)


class ShoeboxLog(Log):
    """See the module's docstring, and :class:`trunkline.log.Log` for each method."""

    def __init__(self, disk: Disk, directory: Path, name: TopicPartition) -> None:
        self._disk = disk
        self._directory = directory
        self._name = name
        self._lock = threading.RLock()
        self._states = SavedStates(disk, directory)
        self._manifest = Manifest.load(disk, directory)
        self._file = self._open_file()
        self._places: list[Place] = []
        self._ends: list[int] = []  # next_offset of each place, to bisect
        self._size = 0
        self._synced_bytes = self._manifest.durable_bytes
        self._end_offset = self._manifest.end_offset
        self._recover()

    # -- opening -----------------------------------------------------------------------------------

    def _open_file(self) -> DiskFile:
        current = self._path(self._manifest.file)
        for name in self._disk.list(self._directory):
            if name.startswith(_RECORDS) and name != current.name:
                self._disk.remove(self._directory / name)  # a copy that was not finished, or the one before
        file = self._disk.open(current)
        self._disk.sync_directory(self._directory)
        return file

    def _path(self, number: int) -> Path:
        return self._directory / f"{_RECORDS}{number}"

    def _recover(self) -> None:
        size = self._file.size()
        while self._size < size:
            try:
                header = self._check(self._size, size)
            except TrunklineError as error:
                self._cut_torn_tail(size, error)
                break
            self._add(header)
        self._sync()  # a killed broker may have left what is only in the page cache, and readers will see it
        if self._size < self._manifest.durable_bytes:
            raise self._damaged(f"it ends there, but {self._manifest.durable_bytes} bytes had been synced")

    def _check(self, position: int, end: int) -> BatchHeader:
        header = read_header(self._file.read(position, HEADER_BYTES))
        data = self._file.read(position, min(header.size_bytes, end - position))
        header = check_batch(data, is_compacted=True)
        first = self._ends[-1] if self._ends else 0  # offsets may be missing, but never go back
        limit = self._manifest.end_offset if position < self._manifest.durable_bytes else math.inf
        if not first <= header.base_offset < header.next_offset <= limit:
            raise CorruptLog(f"a batch of offset {header.base_offset} is where one of {first} to {limit} should be")
        return header

    def _cut_torn_tail(self, size: int, error: TrunklineError) -> None:
        if self._size < self._manifest.durable_bytes:
            raise self._damaged(str(error)) from None
        logger.warning(
            "%s, byte %d, offset %d: %d bytes of an append that was never finished are cut off (%s)",
            self._path(self._manifest.file), self._size, self._end_offset, size - self._size, error,
        )  # fmt: skip
        self._file.truncate(self._size)
        self._file.sync()

    def _damaged(self, reason: str) -> CorruptLog:
        path = self._path(self._manifest.file)
        message = f"{path}, byte {self._size}, offset {self._end_offset}: {reason}; restore the file from a copy"
        return CorruptLog(message, file=str(path), position=self._size)

    def _add(self, header: BatchHeader) -> None:
        place = Place.of(header, self._size)
        self._places.append(place)
        self._ends.append(place.next_offset)
        self._size += place.size_bytes
        self._end_offset = max(self._end_offset, place.next_offset)

    # -- writing -----------------------------------------------------------------------------------

    @property
    def start_offset(self) -> int:
        return self._manifest.start_offset

    @property
    def end_offset(self) -> int:
        return self._end_offset

    def append(self, batches: Sequence[bytes]) -> None:
        with self._lock:
            try:
                self._file.append(batches)
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    raise
                self._file.truncate(self._size)  # a part of it may have been written,
                self._file.sync()  # and must not come back after a crash: it is refused
                raise StoreFull(f"{self._name}: {error.strerror}; make room") from None
            for batch in batches:
                self._add(read_header(batch))

    def flush(self) -> int:
        with self._lock:
            self._sync()
            if self._size - self._manifest.durable_bytes >= CHECKPOINT_BYTES:
                with _room_or_not():  # without it there is more to check when the log is opened
                    self._checkpoint()
            return self._end_offset

    def _sync(self) -> None:
        if self._synced_bytes != self._size:
            self._file.sync()
            self._synced_bytes = self._size

    def _checkpoint(self, **changes: Any) -> None:
        """Sync, and write the manifest: what it calls durable must be."""
        self._sync()
        self._write_manifest(**{"end_offset": self._end_offset, "durable_bytes": self._size, **changes})

    def _write_manifest(self, **changes: Any) -> None:
        manifest = msgspec.structs.replace(self._manifest, **changes)
        manifest.save(self._disk, self._directory)
        self._manifest = manifest

    def close(self) -> None:
        with self._lock:
            self._sync()
            with _room_or_not():
                self._checkpoint()
            self._file.close()

    # -- reading -----------------------------------------------------------------------------------

    def read(self, offset: int, max_bytes: int, end_offset: int) -> bytes:
        with self._lock:
            if not self.start_offset <= offset <= self._end_offset:
                raise OffsetOutOfRange(
                    f"{self._name}: offset {offset} is outside {self.start_offset} to {self._end_offset}",
                    log_start_offset=self.start_offset,
                    high_watermark=self._end_offset,
                )
            first = bisect_right(self._ends, offset)
            size = 0
            for place in self._places[first : bisect_right(self._ends, end_offset)]:
                if size and size + place.size_bytes > max_bytes:
                    break
                size += place.size_bytes
            return self._file.read(self._places[first].position, size) if size else b""

    def find_timestamp(self, timestamp: int, end_offset: int) -> TimestampedOffset | None:
        with self._lock:
            for place in self._live_places(end_offset):
                if place.max_timestamp < timestamp:
                    continue
                for record in decode(self._read(place)):
                    if record.timestamp >= timestamp and record.offset >= self.start_offset:
                        return TimestampedOffset(record.offset, record.timestamp)
            return None

    def _live_places(self, end_offset: int) -> list[Place]:
        return self._places[bisect_right(self._ends, self.start_offset) : bisect_right(self._ends, end_offset)]

    def _read(self, place: Place) -> bytes:
        with self._lock:
            return self._file.read(place.position, place.size_bytes)

    def chunks(self) -> Iterator[Chunk]:
        with self._lock:
            start, places = self.start_offset, self._live_places(self._end_offset)
        for place in places:
            yield Chunk(max(start, place.base_offset), place.next_offset, place.size_bytes, place.max_timestamp)

    def size_bytes(self) -> int:
        with self._lock:
            return self._size - self._dead_bytes()

    def _dead_bytes(self) -> int:
        first = bisect_right(self._ends, self.start_offset)
        return self._places[first].position if first < len(self._places) else self._size

    # -- removing and changing ---------------------------------------------------------------------

    def trim(self, offset: int) -> None:
        with self._lock:
            self._checkpoint(start_offset=max(offset, self.start_offset))
            if self._dead_bytes() > self._size // 2:
                with _room_or_not():  # without it the space comes back with a later trim
                    self.rewrite(self.start_offset, lambda batch: batch)

    def truncate(self, offset: int) -> None:
        with self._lock:
            count = bisect_right(self._ends, offset)
            size = self._places[count].position if count < len(self._places) else self._size
            self._states.forget_after(offset)
            self._checkpoint(end_offset=offset, durable_bytes=size)
            del self._places[count:], self._ends[count:]  # the manifest came first: it must not promise too much
            self._size, self._end_offset = size, offset
            self._file.truncate(size)
            self._file.sync()
            self._synced_bytes = size

    @property
    def rewritable_end_offset(self) -> int:
        return self._end_offset

    def rewrite(self, end_offset: int, transform: Callable[[bytes], bytes | None]) -> None:
        number = self._manifest.file + 1
        copy = self._disk.open(self._path(number))
        try:
            places: list[Place] = []
            for place in self._live_places(end_offset):  # without the lock: transform may take its time
                batch = transform(self._read(place))
                if batch is not None:
                    _copy_batch(copy, batch, places)
            with self._lock:
                for place in self._places[bisect_right(self._ends, max(end_offset, self.start_offset)) :]:
                    _copy_batch(copy, self._read(place), places)
                self._switch_to(copy, number, places)
        except BaseException:
            if self._manifest.file != number:
                copy.close()
                self._disk.remove(self._path(number))
            raise

    def _switch_to(self, copy: DiskFile, number: int, places: list[Place]) -> None:
        size = sum(place.size_bytes for place in places)
        copy.sync()
        self._disk.sync_directory(self._directory)
        self._write_manifest(file=number, end_offset=self._end_offset, durable_bytes=size)
        old, self._file = self._file, copy
        self._places, self._ends = places, [place.next_offset for place in places]
        self._size = self._synced_bytes = size
        old.close()
        self._disk.remove(self._path(number - 1))

    # -- the core's state --------------------------------------------------------------------------

    def save_state(self, state: SavedState) -> None:
        with self._lock:
            self._states.save(state)

    def load_state(self) -> SavedState | None:
        with self._lock:
            return self._states.load(self._end_offset)


@contextmanager
def _room_or_not() -> Iterator[None]:
    """Around what is only useful: a full disk does not make it fail."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise


def _copy_batch(copy: DiskFile, batch: bytes, places: list[Place]) -> None:
    position = places[-1].position + places[-1].size_bytes if places else 0
    copy.append([batch])
    places.append(Place.of(read_header(batch), position))
