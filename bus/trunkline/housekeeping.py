"""Housekeeping: applies retention and compaction to every partition, again and again, beside everything else.

What to remove is decided in :mod:`trunkline.retention` and :mod:`trunkline.compaction`; here it is asked for, done,
counted and told. One partition at a time, store calls in a worker; a partition that cannot be cleaned is logged
and the others go on. A compaction gives way to whoever needs the log for itself and goes on in the next pass.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Awaitable, Callable, Iterable

import trio

from trunkline.cleaner import Cleaner, CleaningStatistics, RateLimiter
from trunkline.compaction import CompactionPlan, plan_compaction
from trunkline.errors import TrunklineError
from trunkline.partition import Partition
from trunkline.retention import held_offset, start_after_retention

__all__ = ["Housekeeping"]

logger = logging.getLogger("trunkline.housekeeping")


class Housekeeping:
    """The broker's housekeeping task; belongs to the broker's thread.

    Args:
      partitions: gives the partitions that there are now.
      now_ms: the wall clock; read in worker threads too.
      interval_s: from the end of one pass to the beginning of the next.
      compaction_bytes_per_s: read and rewritten at most; 0: no limit.

    Attributes:
      make_room: asked before retention removes the records of a partition below an offset, since somebody may still
        need some of them (a queue); returns the offset, at or below it, up to which they may go.
    """

    def __init__(
        self,
        partitions: Callable[[], Iterable[Partition]],
        now_ms: Callable[[], int],
        interval_s: float,
        compaction_bytes_per_s: int,
    ) -> None:
        self._partitions = partitions
        self._now_ms = now_ms
        self._interval_s = interval_s
        self._compaction_bytes_per_s = compaction_bytes_per_s
        self.make_room: Callable[[Partition, int], Awaitable[int]] | None = None
        self._stop_cleaning = threading.Event()
        self._scope = trio.CancelScope()
        self._is_over = trio.Event()
        self._is_over.set()

    async def run(self) -> None:
        """Pass after pass, until :meth:`stop`."""
        self._is_over = trio.Event()
        try:
            with self._scope:
                while True:
                    await trio.sleep(self._interval_s)
                    await self.run_once()
        finally:
            self._is_over.set()

    async def stop(self) -> None:
        """End it, and wait for a store call under way: nothing touches a log in its name any more."""
        self._scope.cancel()
        self._stop_cleaning.set()
        await self._is_over.wait()

    async def run_once(self) -> None:
        """One pass over all partitions. Cancellation: what is done is done."""
        for partition in list(self._partitions()):
            try:
                await self._apply_retention(partition)
                await self._compact(partition)
            except (OSError, TrunklineError) as error:
                if not partition.is_refusing:
                    logger.error("%s: could not be cleaned: %s", partition.name, error)

    async def _apply_retention(self, partition: Partition) -> None:
        settings = partition.topic.settings
        has_limits = settings.is_retained_by_limits and (settings.retention_ms >= 0 or settings.retention_bytes >= 0)
        if partition.is_refusing or not has_limits:
            return
        start = await trio.to_thread.run_sync(self._decide, partition, self._now_ms())
        if start is not None and self.make_room is not None:
            start = await self.make_room(partition, start)
        if start is None or start <= partition.log_start_offset:
            return
        before = partition.log_start_offset
        await partition.trim(start)
        logger.info(
            "%s: retention removed offsets %d to %d (retention.ms=%d, retention.bytes=%d)",
            partition.name,
            before,
            start - 1,
            settings.retention_ms,
            settings.retention_bytes,
        )

    def _decide(self, partition: Partition, now_ms: int) -> int | None:
        log, settings = partition.log, partition.topic.settings
        return start_after_retention(
            log.chunks(),
            settings=settings,
            now_ms=now_ms,
            size_bytes=log.size_bytes(),
            high_watermark=partition.high_watermark,
            held=held_offset(settings, dict(partition.readers)),
        )

    async def _compact(self, partition: Partition) -> None:
        if partition.is_refusing or not partition.topic.settings.is_compacted:
            return
        plan = await trio.to_thread.run_sync(self._plan, partition, self._now_ms())
        if plan is None:
            return
        self._stop_cleaning = stop = threading.Event()
        limiter = RateLimiter(self._compaction_bytes_per_s, sleep=stop.wait)
        cleaner = Cleaner(limiter, stopping=stop, now_ms=self._now_ms)
        last_batches = partition.last_batches()
        aborted = partition.aborted.copy()

        def clean() -> CleaningStatistics:
            return cleaner.clean(
                partition.log,
                cleaned_offset=plan.start_offset,
                end_offset=plan.end_offset,
                last_batches=last_batches,
                delete_retention_ms=partition.topic.settings.delete_retention_ms,
                aborted=aborted,
            )

        done = await partition.run_beside(clean, stop)
        partition.note_cleaned(done.cleaned_offset)
        logger.info(
            "%s: compacted offsets %d to %d in %.1f s: %d records dropped, %d keys",
            partition.name, plan.start_offset, done.cleaned_offset - 1, done.seconds, done.records_dropped, done.keys,
        )  # fmt: skip

    def _plan(self, partition: Partition, now_ms: int) -> CompactionPlan | None:
        log, settings = partition.log, partition.topic.settings
        return plan_compaction(
            log.chunks(),
            cleaned_offset=max(partition.cleaned_offset, log.start_offset),
            end_offset=min(log.rewritable_end_offset, partition.high_watermark),
            now_ms=now_ms,
            min_dirty_ratio=settings.min_cleanable_dirty_ratio,
            min_lag_ms=settings.min_compaction_lag_ms,
        )
