"""The cursors of a group's member: they come and go with its partitions, and share the memory it may take."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from typing import Final, Literal

from trunkline.errors import OffsetOutOfRange, TrunklineError
from trunkline_native.client.cursors import Chunk, Cursor, Inbox, StreamTable
from trunkline_native.client.holdings import Holding, Holdings

__all__ = ["GroupCursors"]

logger = logging.getLogger("trunkline_native.client")

MIN_WINDOW_BYTES: Final = 64 * 1024


class _Inbox(Inbox):
    def __init__(self, failed: Callable[[int, TrunklineError], None]) -> None:
        super().__init__()
        self._failed = failed

    def cursor_failed(self, index: int, error: TrunklineError) -> None:
        self._failed(index, error)


class GroupCursors:
    """What reads the partitions that a member holds.

    Attributes:
      inbox: what has arrived.
      restarts, skipped: see GroupReaderStatistics.
    """

    def __init__(
        self,
        group: str,
        streams: StreamTable,
        holdings: Holdings,
        start: Literal["earliest", "latest"],
        buffer_bytes: int,
        failed: Callable[[Holding, TrunklineError], None],
    ) -> None:
        self.inbox = _Inbox(self._cursor_failed)
        self.restarts = 0
        self.skipped = 0
        self._group = group
        self._streams = streams
        self._holdings = holdings
        self._start = start
        self._buffer_bytes = buffer_bytes
        self._failed = failed
        self._numbers = itertools.count()
        self._cursors: dict[int, tuple[Holding, Cursor]] = {}

    def begin(self, holding: Holding) -> None:
        """Read a partition from what is committed, or from the start that was asked for."""
        self._read(holding, self._start if holding.committed is None else holding.committed)

    def _read(self, holding: Holding, start: int | Literal["earliest", "latest"]) -> None:
        topic, partition = holding.name
        number = next(self._numbers)
        cursor = Cursor(self.inbox, number, topic, partition, start, follow=True, window=self._window())
        holding.cursor = cursor
        self._cursors[number] = (holding, cursor)
        self._streams.add(self.inbox, [cursor])

    def find(self, chunk: Chunk) -> tuple[Holding, Cursor]:
        """Whose chunk this is; what waits in the inbox is always somebody's."""
        return self._cursors[chunk.cursor]

    def stop(self, holding: Holding) -> None:
        """Read no more of a partition, and forget what has arrived of it."""
        holding.settle_start()
        numbers = {number for number, (held, _) in self._cursors.items() if held is holding}
        for number in numbers:
            self._cursors.pop(number)[1].close()
        chunks = self.inbox.chunks
        kept = [chunk for chunk in chunks if chunk.cursor not in numbers]
        chunks.clear()
        chunks.extend(kept)

    def share_memory(self) -> None:
        """There are more partitions, or fewer: each may take its share of the buffer."""
        window = self._window()
        for _, cursor in self._cursors.values():
            cursor.set_window(window)

    def _window(self) -> int:
        return max(self._buffer_bytes // max(len(self._holdings), 1), MIN_WINDOW_BYTES)

    def _cursor_failed(self, number: int, error: TrunklineError) -> None:
        found = self._cursors.get(number)
        if found is None:
            return  # it was stopped
        holding, cursor = found
        if isinstance(error, OffsetOutOfRange):
            self._restart(holding, cursor, error)
        else:
            self._failed(holding, error)

    def _restart(self, holding: Holding, cursor: Cursor, error: OffsetOutOfRange) -> None:
        """What it was to go on with is not there any more (retention): begin where a new group would."""
        wanted = holding.committed if cursor.received is None else cursor.received
        skipped = max(error.log_start_offset - (wanted or 0), 0) if self._start == "earliest" else 0
        self.restarts += 1
        self.skipped += skipped
        logger.warning(
            "group %s: %s/%d: offset %s is not there any more, only %d to %d; going on from %s%s",
            self._group,
            *holding.name,
            wanted,
            error.log_start_offset,
            error.high_watermark,
            self._start,
            f", {skipped} offsets later" if skipped else "",
        )
        holding.committed = None  # it may be above what is there now
        self._read(holding, self._start)
