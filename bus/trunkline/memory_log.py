"""A log that keeps its batches in memory: for what need not outlive the broker, and for the store ``memory``."""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence

from trunkline.errors import OffsetOutOfRange, TrunklineError
from trunkline.log import Chunk, Log, SavedState, TimestampedOffset, TopicPartition
from trunkline.records import decode, read_header

__all__ = ["KeptBatches", "MemoryLog"]

_KEPT_STATES = 2


class _Contents:
    """A log's batches. Both lists only grow at the end, or are replaced together, so readers need no lock.

    ``ends[i]`` is the offset after ``batches[i]``, and is added after it: what ``ends`` has can be read.
    """

    def __init__(self, batches: list[bytes], ends: list[int]) -> None:
        self.batches = batches
        self.ends = ends


class KeptBatches:
    """What of a log stays when it is closed."""

    def __init__(self) -> None:
        self.start_offset = 0
        self.end_offset = 0
        self.size_bytes = 0
        self.contents = _Contents([], [])
        self.states: list[SavedState] = []
        self.lock = threading.Lock()  # an append must not add to contents that a rewrite is replacing


class MemoryLog(Log):
    """One log; what it keeps is an object of its own, so that it can be closed and opened again."""

    def __init__(self, name: TopicPartition, kept: KeptBatches) -> None:
        self._name = name
        self._kept = kept

    @property
    def start_offset(self) -> int:
        return self._kept.start_offset

    @property
    def end_offset(self) -> int:
        return self._kept.end_offset

    def append(self, batches: Sequence[bytes]) -> None:
        kept = self._kept
        with kept.lock:
            contents = kept.contents
            for batch in batches:
                end = read_header(batch).next_offset
                contents.batches.append(bytes(batch))
                contents.ends.append(end)
                kept.size_bytes += len(batch)
                kept.end_offset = end

    def flush(self) -> int:
        return self._kept.end_offset

    def read(self, offset: int, max_bytes: int, end_offset: int) -> bytes:
        kept = self._kept
        contents, log_end = kept.contents, kept.end_offset
        if not kept.start_offset <= offset <= log_end:
            raise OffsetOutOfRange(
                f"{self._name}: offset {offset} is outside [{kept.start_offset}, {log_end}]; read from within it",
                log_start_offset=kept.start_offset,
                high_watermark=log_end,
            )
        if offset >= end_offset:
            return b""
        first = number = bisect_right(contents.ends, offset)
        size = 0
        stop = bisect_right(contents.ends, min(end_offset, log_end))
        while number < stop:
            size += len(contents.batches[number])
            if size > max_bytes and number > first:
                break
            number += 1
        return b"".join(contents.batches[first:number])

    def read_nowait(self, offset: int, max_bytes: int, end_offset: int) -> bytes | None:
        return self.read(offset, max_bytes, end_offset)

    def find_timestamp(self, timestamp: int, end_offset: int) -> TimestampedOffset | None:
        kept = self._kept
        contents, start = kept.contents, kept.start_offset
        stop = bisect_right(contents.ends, end_offset)
        for batch in contents.batches[bisect_right(contents.ends, start) : stop]:
            header = read_header(batch)
            if header.max_timestamp < timestamp:
                continue
            try:
                records = decode(batch)
            except TrunklineError:  # only its producer knows what is in it: the header has to do
                return TimestampedOffset(max(start, header.base_offset), header.max_timestamp)
            for record in records:
                if record.timestamp >= timestamp and record.offset >= start:
                    return TimestampedOffset(record.offset, record.timestamp)
        return None

    def truncate(self, offset: int) -> None:
        kept = self._kept
        number = bisect_left(kept.contents.ends, offset + 1)
        self._keep(_Contents(kept.contents.batches[:number], kept.contents.ends[:number]))
        kept.end_offset = offset
        kept.states = [state for state in kept.states if state.offset <= offset]

    def trim(self, offset: int) -> None:
        kept = self._kept
        kept.start_offset = max(kept.start_offset, offset)
        number = bisect_right(kept.contents.ends, offset)
        self._keep(_Contents(kept.contents.batches[number:], kept.contents.ends[number:]))

    def _keep(self, contents: _Contents) -> None:
        self._kept.contents = contents
        self._kept.size_bytes = sum(map(len, contents.batches))

    def chunks(self) -> Iterator[Chunk]:
        start = self._kept.start_offset
        for batch in list(self._kept.contents.batches):
            header = read_header(batch)
            yield Chunk(max(header.base_offset, start), header.next_offset, len(batch), header.max_timestamp)

    @property
    def rewritable_end_offset(self) -> int:
        return self._kept.end_offset

    def rewrite(self, end_offset: int, transform: Callable[[bytes], bytes | None]) -> None:
        contents = self._kept.contents
        count = bisect_right(contents.ends, end_offset)
        batches: list[bytes] = []
        ends: list[int] = []
        for batch, end in zip(contents.batches[:count], contents.ends[:count], strict=True):
            kept = transform(batch)
            if kept is not None:
                batches.append(kept)
                ends.append(end)
        with self._kept.lock:  # what was appended meanwhile follows
            self._keep(_Contents(batches + contents.batches[count:], ends + contents.ends[count:]))

    def size_bytes(self) -> int:
        return self._kept.size_bytes

    def save_state(self, state: SavedState) -> None:
        others = [old for old in self._kept.states if old.offset != state.offset]
        self._kept.states = sorted([*others, state])[-_KEPT_STATES:]

    def load_state(self) -> SavedState | None:
        return max((state for state in self._kept.states if state.offset <= self.end_offset), default=None)

    def close(self) -> None:
        """Nothing to write."""
