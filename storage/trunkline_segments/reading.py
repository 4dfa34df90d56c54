"""The part of a log that readers see, and their way through it.

Readers work from one copy of ``_tail`` and need no lock: everything below it is written and stays where it is. What
changes under them is only what ``trim`` and ``truncate`` remove; a reader that stumbles over that starts again and
gets its answer, or OffsetOutOfRange.

Finding a position costs an index look-up and a walk over a few headers. So the positions of recent appends and of the
ends of recent reads are kept as *marks*: readers at the tail, and readers that go through the log in order, find
theirs at once. The marks are a small table in which an offset has one slot and the newest wins; a lost one costs only
the look-up.
"""

from __future__ import annotations

import threading
from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Callable
from operator import attrgetter
from struct import Struct
from typing import ParamSpec, TypeVar

from trunkline.errors import CorruptLog, OffsetOutOfRange, TrunklineError
from trunkline.log import Log, TimestampedOffset, TopicPartition
from trunkline.records import check_batch, decode
from trunkline_segments.files import FileGone, WouldWait
from trunkline_segments.searching import KeySearch
from trunkline_segments.segment import Placed, Segment, corrupt

__all__ = ["ReadableLog", "Tail", "number_of"]

_FIRST = Struct(">q8xb6xi")  # base_offset, magic, last_offset_delta
_MAGIC = 2
_BASE_OFFSET = attrgetter("base_offset")
_MARKS = 64
_SPREAD = 0x9E3779B1  # 2**32 divided by the golden ratio: offsets in even steps fall into different slots

T = TypeVar("T")
P = ParamSpec("P")

Tail = tuple[int, Segment, int]
"""Where the log ends: the offset, the last segment and the byte in it."""

Mark = tuple[int, Segment, int]
"""An offset, and the segment and byte where its batch starts."""


class ReadableLog(Log):
    """The reads of a log on segments; :class:`trunkline_segments.log.SegmentLog` publishes what they work from.

    In this order: ``truncate`` publishes the tail, then new marks, then counts the removal, then removes; ``trim``
    the start offset, the count, the segments. Readers copy marks, then tail, then segments.
    """

    def __init__(self, name: TopicPartition) -> None:
        self._name = name
        self._start_offset = 0
        self._tail: Tail
        self._segments: list[Segment] = []  # replaced, never changed: readers hold the old list
        self._gaps_end = 0  # what is missing below it was compacted away; past it each batch follows the one before
        self._marks: list[Mark] = []
        self._removals = 0
        self._keys_lock = threading.Lock()  # around writing key indexes
        self._is_closed = False

    @property
    @abstractmethod
    def _stable_end(self) -> Tail:
        """Up to where the log is durable and cannot be cut off by a crash."""

    @property
    def start_offset(self) -> int:
        return self._start_offset

    @property
    def end_offset(self) -> int:
        return self._tail[0]

    def read(self, offset: int, max_bytes: int, end_offset: int) -> bytes:
        return self._undisturbed(self._read, offset, max_bytes, end_offset, False)

    def read_nowait(self, offset: int, max_bytes: int, end_offset: int) -> bytes | None:
        try:
            return self._undisturbed(self._read, offset, max_bytes, end_offset, True)
        except WouldWait:
            return None

    def find_timestamp(self, timestamp: int, end_offset: int) -> TimestampedOffset | None:
        return self._undisturbed(self._find_timestamp, timestamp, end_offset)

    def find_keys(
        self, offset: int, end_offset: int, wants: Callable[[bytes], bool], max_offsets: int
    ) -> tuple[list[int], int]:
        return self._undisturbed(self._find_keys, offset, end_offset, wants, max_offsets)

    def _undisturbed(self, read: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Read; again if a removal may have been what it stumbled over."""
        while True:
            removals = self._removals
            try:
                return read(*args, **kwargs)
            except (CorruptLog, FileGone):
                if removals == self._removals:
                    raise

    def _read(self, offset: int, max_bytes: int, end_offset: int, nowait: bool) -> bytes:
        marks = self._marks  # before the tail: truncate changes them in the other order
        tail = self._tail
        log_end = tail[0]
        if not self._start_offset <= offset <= log_end:
            raise self._out_of_range(offset, log_end)
        if offset >= end_offset or offset == log_end:
            return b""
        located = self._locate(marks, tail, offset, nowait)
        if located is None:
            return b""
        segment, position, limit = located
        segment_end = log_end if segment is tail[1] else segment.end_offset
        if end_offset >= segment_end:
            stop, next_offset = limit, segment_end
        else:
            stop, next_offset = self._recall(marks, end_offset, segment) or limit + max_bytes, end_offset
        if stop - position > max_bytes:
            bound = min(position + max_bytes, limit)
            stop, next_offset = segment.boundary(position, bound, end_offset, limit, nowait)
        if stop <= position:  # a gap reaches up to end_offset
            return b""
        data = segment.log.read(position, stop - position, nowait)
        self._check_read(data, segment, position, stop, offset, nowait)
        if stop < limit or segment is tail[1]:
            self._mark(marks, next_offset, segment, stop)
        return data

    def _check_read(self, data: bytes, segment: Segment, position: int, stop: int, offset: int, nowait: bool) -> None:
        if len(data) < stop - position:
            if nowait:
                raise WouldWait
            raise corrupt(segment.log.path, position + len(data), f"the file ends here, but was written up to {stop}")
        base_offset, magic, delta = _FIRST.unpack_from(data)
        is_there = base_offset <= offset or base_offset <= self._gaps_end
        if magic != _MAGIC or not is_there or offset > base_offset + delta:
            raise corrupt(segment.log.path, position, f"this is not the header of the batch that holds offset {offset}")

    def _out_of_range(self, offset: int, log_end: int) -> OffsetOutOfRange:
        start = self._start_offset
        side = f"below the log start offset {start}" if offset < start else f"above the log end offset {log_end}"
        return OffsetOutOfRange(
            f"{self._name}: offset {offset} is {side}; read from an offset in between",
            log_start_offset=start,
            high_watermark=log_end,
        )

    def _locate(
        self, marks: list[Mark], tail: Tail, offset: int, nowait: bool = False
    ) -> tuple[Segment, int, int] | None:
        """Where the batch that holds ``offset`` starts, or the next one, and where the segment ends for this reader.

        None if there is no batch at or past it.
        """
        _, last, last_limit = tail
        marked, segment, position = marks[(offset * _SPREAD >> 16) % _MARKS]
        limit = last_limit if segment is last else segment.size
        if marked == offset and position < limit:  # else a mark at the end of what was the last segment then
            return segment, position, limit
        segments = self._segments
        for segment in segments[number_of(segments, offset) :]:
            limit = last_limit if segment is last else segment.size
            placed = segment.batch_holding(offset, limit, nowait)
            if placed is not None:
                return segment, placed.position, limit
            if offset >= self._gaps_end:
                raise corrupt(segment.log.path, limit, f"offset {offset} should be before this byte")
            if segment is last:
                break
        return None  # a gap reaches up to the end

    def _recall(self, marks: list[Mark], offset: int, segment: Segment) -> int | None:
        marked, there, position = marks[(offset * _SPREAD >> 16) % _MARKS]
        return position if marked == offset and there is segment else None

    def _mark(self, marks: list[Mark], offset: int, segment: Segment, position: int) -> None:
        marks[(offset * _SPREAD >> 16) % _MARKS] = (offset, segment, position)

    def _no_marks(self) -> list[Mark]:
        return [(-1, self._tail[1], 0)] * _MARKS

    def _find_timestamp(self, timestamp: int, end_offset: int) -> TimestampedOffset | None:
        log_end, last, last_limit = self._tail
        start = self._start_offset
        end_offset = min(end_offset, log_end)
        segments = self._segments
        for segment in segments[number_of(segments, start) :]:
            first = max(start, segment.base_offset)
            if first >= end_offset:
                return None
            if segment.max_timestamp < timestamp:
                continue
            limit = last_limit if segment is last else segment.size
            for placed in segment.newer_batches(timestamp, first, limit):
                if placed.base_offset >= end_offset:
                    return None
                found = self._first_newer(segment, placed, timestamp, first)
                if found is not None:
                    return found if found.offset < end_offset else None
        return None

    def _find_keys(
        self, offset: int, end_offset: int, wants: Callable[[bytes], bool], max_offsets: int
    ) -> tuple[list[int], int]:
        stable_offset, stable_segment, stable_position = self._stable_end
        log_end, last, last_limit = self._tail
        if not self._start_offset <= offset <= log_end:
            raise self._out_of_range(offset, log_end)
        end_offset = min(end_offset, log_end)
        search = KeySearch(offset, end_offset, wants, max_offsets, self._keys_lock, self._has, lambda: self._is_closed)
        segments = self._segments
        number = number_of(segments, offset)
        for segment, following in zip(segments[number:], [*segments[number + 1 :], None], strict=True):
            if search.is_over:
                break
            end = (log_end, last_limit)
            if segment is not last and following is not None:
                end = (following.base_offset, segment.size)
            is_finished = segment.base_offset < stable_segment.base_offset
            if is_finished:
                indexable = end
            else:
                indexable = (stable_offset, stable_position) if segment is stable_segment else (segment.base_offset, 0)
            search.search(segment, end, indexable, is_finished=is_finished)
        return search.found, max(search.offset, offset)

    def _has(self, segment: Segment) -> bool:
        return segment in self._segments

    def _first_newer(self, segment: Segment, placed: Placed, timestamp: int, first: int) -> TimestampedOffset | None:
        data = segment.log.read(placed.position, placed.size)
        try:
            records = decode(data)
        except TrunklineError:
            try:
                check_batch(data, is_compacted=True)
            except TrunklineError as error:
                raise corrupt(segment.log.path, placed.position, str(error)) from None
            # The batch is as its producer sent it, only no one can read it: its header has to do
            return TimestampedOffset(max(first, placed.base_offset), placed.max_timestamp)
        for record in records:
            if record.timestamp >= timestamp and record.offset >= first:
                return TimestampedOffset(record.offset, record.timestamp)
        return None


def number_of(segments: list[Segment], offset: int) -> int:
    """Which of the segments holds ``offset``; the first if it lies before that."""
    return max(bisect_right(segments, offset, key=_BASE_OFFSET) - 1, 0)
