"""Checking a segment's bytes batch by batch, and judging what a bad one means.

An append that a crash cut off leaves a *torn* tail, which was never acknowledged and may be cut off. Damage to what
was acknowledged must not be taken for one: a flipped bit would silently cost every record after it. Past the recovery
point nothing on disk says how far the last fsync reached, so the bytes themselves have to tell:

* nothing intact follows: torn;
* intact batches follow, and between lies a sector of zeros: torn. The system wrote pages out of order, and a page of
  an appended file that was never written reads as zeros (after what was durable in it before);
* intact batches follow, and what lies between is no hole: damage. (A damaged record that holds a sector of zeros is
  taken for a hole. The cut is reported with its size either way.)
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import NamedTuple

from trunkline.errors import TrunklineError
from trunkline.records import HEADER_BYTES, BatchHeader, check_batch
from trunkline_segments.files import StoredFile
from trunkline_segments.segment import Segment

__all__ = ["BadBatch", "Window", "find_intact_batch", "has_lost_sector", "scan"]

SCAN_BYTES = 4 * 1024 * 1024
"""Read at a time; a larger batch is read whole."""

_SECTOR_BYTES = 512  # the smallest unit a device writes; lost pages are multiples of it
_LENGTH = Struct(">i")
_LENGTH_AT = 8
_LENGTH_END = 12
_MAGIC_AT = 16
_MAGIC = b"\x02"


class BadBatch(NamedTuple):
    """Where the intact batches of a segment end, and why the next one is none."""

    position: int
    reason: str
    is_cut_short: bool
    """Whether the file ends where more of the log should be."""


class _CutShort(TrunklineError):
    pass


class Window:
    """A part of a file in memory, moved forward as it is asked for."""

    def __init__(self, file: StoredFile, limit: int) -> None:
        self._file = file
        self._limit = limit
        self.data = b""
        self.start = 0

    def hold(self, position: int, size: int) -> bool:
        """Have ``size`` bytes from ``position`` in memory; False if the file has not so many."""
        if position + size > self._limit:
            return False
        if position < self.start or position + size > self.start + len(self.data):
            self.data = self._file.read(position, min(max(size, SCAN_BYTES), self._limit - position))
            self.start = position
        return position + size <= self.start + len(self.data)

    def check(self, position: int) -> BatchHeader:
        """The header of the intact batch at ``position``; TrunklineError if none is, _CutShort if a part of one is."""
        at = position - self.start
        if 0 <= at <= len(self.data) - HEADER_BYTES:
            length = _LENGTH.unpack_from(self.data, at + _LENGTH_AT)[0]
            if at + length + _LENGTH_END <= len(self.data):
                return check_batch(self.data, at, is_compacted=True)
        size = HEADER_BYTES
        if self.hold(position, size):
            length = _LENGTH.unpack_from(self.data, position - self.start + _LENGTH_AT)[0]
            size = max(size, length + _LENGTH_END)
        if not self.hold(position, size):
            raise _CutShort(f"the file ends at byte {self._limit}, inside the batch")
        return check_batch(self.data, position - self.start, is_compacted=True)


def scan(segment: Segment, limit: int, gaps_end: int = 0) -> BadBatch | None:
    """Check all batches from ``segment.size`` to ``limit`` (CRC, offsets without a gap) and note them in it.

    Args:
      gaps_end: below this offset records and batches may be missing.

    Returns:
      The first bad one, if any; what comes before it is noted.
    """
    window = Window(segment.log, limit)
    position, offset = segment.size, segment.end_offset
    while position < limit:
        try:
            header = window.check(position)
        except TrunklineError as error:
            return BadBatch(position, str(error), isinstance(error, _CutShort))
        if header.base_offset != offset and not offset < header.base_offset <= gaps_end:
            return BadBatch(position, f"the batch has offset {header.base_offset}, but {offset} comes next", False)
        if header.record_count <= header.last_offset_delta and header.next_offset > gaps_end:
            return BadBatch(position, f"the batch has only {header.record_count} records", False)
        segment.note(header.size_bytes, header.last_offset, header.max_timestamp)
        position, offset = segment.size, segment.end_offset
    return None


def find_intact_batch(file: StoredFile, position: int, limit: int, offset: int) -> int | None:
    """The position of the first intact batch in ``[position, limit)`` with ``offset`` or a later one.

    A batch that lies inside the value of a record could be taken for one, so it must be followed by another
    one or by the end of the file.
    """
    for candidate in _candidates(file, position, limit):
        window = Window(file, limit)
        try:
            found = window.check(candidate)
            if found.base_offset < offset:
                continue
            after = candidate + found.size_bytes
            if after == limit or window.check(after).base_offset == found.next_offset:
                return candidate
        except TrunklineError:
            continue
    return None


def _candidates(file: StoredFile, position: int, limit: int) -> Iterator[int]:
    """Where a batch may start: its magic is right, and its offset and length are not absurd."""
    while position + HEADER_BYTES <= limit:
        data = file.read(position, SCAN_BYTES + HEADER_BYTES)
        at = data.find(_MAGIC, _MAGIC_AT)
        while 0 <= at < SCAN_BYTES + _MAGIC_AT:
            start = at - _MAGIC_AT
            if data[start] == 0 and start + HEADER_BYTES <= len(data):  # offsets below 2**56
                length = _LENGTH.unpack_from(data, start + _LENGTH_AT)[0]
                if HEADER_BYTES <= length + _LENGTH_END <= limit - position - start:
                    yield position + start
            at = data.find(_MAGIC, at + 1)
        position += SCAN_BYTES


def has_lost_sector(file: StoredFile, position: int, end: int, offset: int) -> bool:
    """Whether a sector that was not written touches ``[position, end)``, where the batch with ``offset`` should start.

    It reads as zeros, except for what was durable before: all that precedes ``position``. The end of the file may
    cut it short, and the batch that follows at ``end`` may begin in it, with the zeros of its own offset.
    """
    aligned = position + -position % _SECTOR_BYTES
    head = file.read(position, aligned - position)
    # A few zeros may be the truth: the beginning of a small offset, of which nothing is lost then
    if not any(head) and (len(head) >= _LENGTH_END or any(offset.to_bytes(8, "big")[: len(head)])):
        return True
    end += -end % _SECTOR_BYTES
    for start in range(aligned, end, SCAN_BYTES):
        data = file.read(start, min(SCAN_BYTES, end - start))
        if any(not any(data[at : at + _SECTOR_BYTES]) for at in range(0, len(data), _SECTOR_BYTES)):
            return True
    return False
