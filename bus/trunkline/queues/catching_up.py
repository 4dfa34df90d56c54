"""Queues that are behind: what a source already held is offered to them, while others are live.

One task a partition reads a chunk at a time, at the position of the one that has waited longest; all that stand in this
chunk take from it. So a thousand queues that are found again after a restart share one reading of the log, and one that
is reset to the beginning does not hold up those that are nearly done.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import trio

from trunkline.changes import Changes
from trunkline.errors import OffsetOutOfRange, TrunklineError
from trunkline.queues.blocks import READ_BYTES, StoredBatch
from trunkline.records import iter_headers

if TYPE_CHECKING:
    from trunkline.queues.feeds import SourceFeed
    from trunkline.queues.members import Member

__all__ = ["CatchingUp"]

logger = logging.getLogger("trunkline.queues")

_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 30.0


class CatchingUp:
    """Those of one feed that are behind."""

    __slots__ = ("_changed", "_feed", "_is_failing", "_is_running", "_waiting")

    def __init__(self, feed: SourceFeed) -> None:
        self._feed = feed
        self._waiting: deque[Member] = deque()
        self._is_running = False
        self._is_failing = False  # the last attempt to read
        self._changed = Changes()

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Member]:
        return iter(self._waiting)

    def add(self, member: Member) -> None:
        """It stands at ``member.position``."""
        self._waiting.append(member)
        if not self._is_running:
            self._is_running = True
            self._feed.context.services.spawn(self._run)

    def remove(self, member: Member) -> None:
        if member in self._waiting:
            self._waiting.remove(member)
            self._changed.tell()

    def stop(self) -> None:
        """Nothing more can be read."""
        self._waiting.clear()
        self._changed.tell()

    async def wait(self) -> None:
        """Wait until nobody is behind, or the log cannot be read for now."""
        while self._waiting and not self._is_failing:
            await self._changed.wait()

    async def _run(self) -> None:
        partition = self._feed.partition
        pause_s = _PAUSE_S
        try:
            while self._waiting:
                await trio.lowlevel.checkpoint()
                try:
                    if self._waiting:
                        await self._advance()
                    self._is_failing, pause_s = False, _PAUSE_S
                except (OSError, TrunklineError) as error:
                    if partition.refusal is not None:
                        self.stop()
                        return
                    self._is_failing = True
                    self._changed.tell()
                    logger.error(
                        "%s: its records cannot be looked at, so queues do not get them; trying again in %.0f s: %s",
                        partition.name, pause_s, error,
                    )  # fmt: skip
                    await trio.sleep(pause_s)
                    pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
        finally:
            self._is_running = False

    async def _advance(self) -> None:
        partition = self._feed.partition
        position = self._waiting[0].position
        assert position is not None
        self._waiting.rotate(-1)
        if position < partition.log_start_offset:
            self._offer([], position, partition.log_start_offset)
            return
        if position < partition.high_watermark:
            try:
                data = await partition.read(position, READ_BYTES)
            except OffsetOutOfRange:  # retention was quicker
                return
            batches = [StoredBatch(data[at : at + header.size_bytes], header) for at, header in iter_headers(data)]
            if batches:
                self._offer(batches, position, batches[-1].header.next_offset)
                return
        self._offer([], position, partition.high_watermark)

    def _offer(self, batches: list[StoredBatch], from_offset: int, next_offset: int) -> None:
        """Nothing but ``batches`` lies in ``[from_offset, next_offset)``; in one go, without waiting."""
        high_watermark = self._feed.partition.high_watermark
        next_offset = min(next_offset, high_watermark)
        standing = [
            member
            for member in self._waiting
            if member.position is not None
            and (from_offset <= member.position < next_offset or member.position == next_offset == high_watermark)
        ]
        for batch in batches:
            self._feed.offer(standing, batch)
        for member in standing:
            member.position = next_offset
            member.queue.looked_at(self._feed.source, next_offset)
            if next_offset >= high_watermark:
                self._waiting.remove(member)
                self._feed.caught_up(member)
            self._feed.context.serve(member.queue)
        self._feed.passed(sum(len(batch.data) for batch in batches))
        self._changed.tell()
