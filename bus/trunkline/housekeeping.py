"""Housekeeping: applies retention to every partition, again and again, beside everything else.

What to remove is decided in :mod:`trunkline.retention`; here it is asked for, done, counted and told. One
partition at a time, store calls in a worker; a partition that cannot be cleaned is logged and the others go on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

import trio

from trunkline.errors import TrunklineError
from trunkline.partition import Partition
from trunkline.retention import held_offset, start_after_retention

__all__ = ["Housekeeping"]

logger = logging.getLogger("trunkline.housekeeping")


class Housekeeping:
    """The broker's housekeeping task; belongs to the broker's thread.

    Args:
      partitions: gives the partitions that there are now.
      now_ms: the wall clock.
      interval_s: from the end of one pass to the beginning of the next.
    """

    def __init__(
        self, partitions: Callable[[], Iterable[Partition]], now_ms: Callable[[], int], interval_s: float
    ) -> None:
        self._partitions = partitions
        self._now_ms = now_ms
        self._interval_s = interval_s
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
        await self._is_over.wait()

    async def run_once(self) -> None:
        """One pass over all partitions. Cancellation: what is done is done."""
        for partition in list(self._partitions()):
            try:
                await self._apply_retention(partition)
            except (OSError, TrunklineError) as error:
                if not partition.is_refusing:
                    logger.error("%s: retention could not be applied: %s", partition.name, error)

    async def _apply_retention(self, partition: Partition) -> None:
        settings = partition.topic.settings
        if partition.is_refusing or (settings.retention_ms < 0 and settings.retention_bytes < 0):
            return
        start = await trio.to_thread.run_sync(self._decide, partition, self._now_ms())
        if start is None:
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
