"""Finding records by their keys: through a segment's key index as far as it goes, else in the log itself.

Whoever looks for keys also writes the index (:mod:`trunkline_segments.keys`): where it ends, the next block is made
of what lies below the recovery point. One at a time does this, others wait for the block and use it. If it cannot be
written (a full disk, a segment that is just being replaced) the search goes on without.
"""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Callable, Iterable

from trunkline_segments.files import FileGone
from trunkline_segments.keys import DamagedIndex, KeyBlock, Place, SegmentEnd, collect, may_be_full, read_place
from trunkline_segments.room import NO_ROOM
from trunkline_segments.segment import Segment

__all__ = ["KeySearch"]

logger = logging.getLogger("trunkline.segments")

_MOST_BYTES = 64 * 1024 * 1024
"""Of log and index that one search reads, roughly; it takes a second at most if all of it must be decoded."""

_UNWRITABLE = (*NO_ROOM, errno.EACCES, errno.EPERM, errno.ENOENT)
"""ENOENT: of a read-only file system, where a missing file is not made."""

_DAMAGED = "%s: damaged at byte %d: %s; it is made anew from there"


class KeySearch:
    """One call of ``find_keys``.

    Args:
      lock: of the log; held while its index is written.
      is_current: whether a segment is still one of the log's.
      is_closed: whether the log was closed meanwhile: then it stops where it is.

    Attributes:
      offset: how far it has looked.
      found: the offsets so far.
    """

    def __init__(
        self,
        offset: int,
        end_offset: int,
        wants: Callable[[bytes], bool],
        max_offsets: int,
        lock: threading.Lock,
        is_current: Callable[[Segment], bool],
        is_closed: Callable[[], bool],
    ) -> None:
        self.offset = offset
        self.found: list[int] = []
        self._end_offset = end_offset
        self._wants = wants
        self._max_offsets = max_offsets
        self._room = _MOST_BYTES
        self._lock = lock
        self._is_current = is_current
        self._is_closed = is_closed

    @property
    def is_over(self) -> bool:
        is_enough = self._room <= 0 or len(self.found) >= self._max_offsets
        return is_enough or self.offset >= self._end_offset or self._is_closed()

    def search(self, segment: Segment, end: SegmentEnd, indexable: SegmentEnd, *, is_finished: bool) -> None:
        """Look at a segment's records from ``offset`` on.

        Args:
          end: up to where it is written, for this reader.
          indexable: up to where it is durable and stays as it is.
          is_finished: nothing is added to it; ``indexable`` is its end.
        """
        file_position, reached = 0, (segment.base_offset, 0)
        while not self.is_over and self.offset < end[0]:
            place = None
            if is_finished or may_be_full(reached, indexable):
                place = self._place(segment, file_position, reached, indexable, is_finished=is_finished)
            if place is None:
                self._search_log(segment, reached, end)
                continue
            file_position, reached = place.end, (place.end_offset, place.end_position)
            if self.offset < place.end_offset:
                self._search_block(segment, place)

    # -- the index ---------------------------------------------------------------------------------

    def _place(
        self, segment: Segment, file_position: int, reached: SegmentEnd, indexable: SegmentEnd, *, is_finished: bool
    ) -> Place | None:
        """The next block, made now if need be; None if there is none to be had."""
        if reached[1] >= indexable[1]:
            return None
        try:
            place = _read(segment, file_position, reached, is_quiet=True)
            if place is None:
                with self._lock:
                    place = self._make(segment, file_position, reached, indexable, is_finished=is_finished)
            return place
        except FileGone:  # the segment is just being replaced or removed
            return None
        except OSError as error:
            if error.errno not in _UNWRITABLE:
                raise
            logger.debug("%s: no key index can be written: %s", segment.log.path, error)
            return None

    def _make(
        self, segment: Segment, file_position: int, reached: SegmentEnd, indexable: SegmentEnd, *, is_finished: bool
    ) -> Place | None:
        place = _read(segment, file_position, reached)  # somebody else may have made it meanwhile
        if place is not None or not self._is_current(segment):
            return place
        block = collect(segment, *reached, limit=indexable[1], end_offset=indexable[0])
        self._room -= block.end_position - block.position
        if not (block.is_full or is_finished):
            return None
        if segment.keys.size() > file_position:
            segment.keys.truncate(file_position)
        try:
            segment.keys.append(block.encode())
        except OSError:
            segment.keys.truncate(file_position)  # no part of it need be taken for damage
            raise
        return _read(segment, file_position, reached)

    def _search_block(self, segment: Segment, place: Place) -> None:
        try:
            if place.is_listed:
                self._room -= place.keys_bytes
                found: list[int] = []
                for key, position, size, crc in place.keys(segment):
                    if self._wants(key):
                        self._room -= size
                        found += place.offsets(segment, position, size, crc)
                self._take(found, place.end_offset)
                return
        except DamagedIndex as error:
            logger.warning(_DAMAGED, segment.keys.path, place.file_position, error)
            self._cut_off(segment, place.file_position)
        except FileGone:
            pass
        self._search_log(segment, (place.base_offset, place.position), (place.end_offset, place.end_position))

    def _cut_off(self, segment: Segment, file_position: int) -> None:
        try:
            with self._lock:
                if segment.keys.size() > file_position:
                    segment.keys.truncate(file_position)
        except FileGone:
            pass
        except OSError as error:
            if error.errno not in _UNWRITABLE:
                raise

    # -- the log -----------------------------------------------------------------------------------

    def _search_log(self, segment: Segment, start: SegmentEnd, end: SegmentEnd) -> None:
        """Look at some of what lies between, from ``offset`` on."""
        if self.offset > start[0]:
            placed = segment.batch_holding(self.offset, end[1])
            if placed is None:  # a gap reaches up to the end
                self.offset = min(end[0], self._end_offset)
                return
            start = (placed.base_offset, placed.position)
        block = collect(segment, *start, limit=end[1], end_offset=end[0])
        self._room -= block.end_position - block.position
        self._take_wanted(block)

    def _take_wanted(self, block: KeyBlock) -> None:
        wants = self._wants
        found = [offsets for key, offsets in block.offsets.items() if wants(key)]
        self._take((offset for offsets in found for offset in offsets), block.end_offset)

    def _take(self, found: Iterable[int], end_offset: int) -> None:
        """Add what was found below ``end_offset``, in order, as far as it is asked for."""
        end_offset = min(end_offset, self._end_offset)
        taken = sorted(offset for offset in found if self.offset <= offset < end_offset)
        room = self._max_offsets - len(self.found)
        if len(taken) >= room:
            taken = taken[:room]
            end_offset = taken[-1] + 1
        self.found += taken
        self.offset = end_offset


def _read(segment: Segment, file_position: int, reached: SegmentEnd, *, is_quiet: bool = False) -> Place | None:
    """The block at ``file_position``; None if there is none that is right, which is reported unless ``is_quiet``."""
    try:
        place = read_place(segment, file_position, *reached)
        if place is not None and place.end > segment.keys.size():
            raise DamagedIndex("the file ends inside a block")
        return place
    except DamagedIndex as error:
        if not is_quiet:
            logger.warning(_DAMAGED, segment.keys.path, file_position, error)
        return None
