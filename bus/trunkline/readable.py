"""The readable side of a partition: reads, and those who follow it.

Everything here stays below the high watermark. A reader asks (``read_nowait``, ``read``); a follower is told
(:class:`TailListener`) in the round in which the high watermark moves, with the batches it moved over.

**Transactions.** To readers and followers the high watermark is where decided records end: an open transaction holds it
back at its own first record, whatever is acknowledged beyond, and what an aborted one wrote comes as batches without
records. So nobody here sees a record of an open or aborted transaction, and nobody need know that there are any. When
the last open one ends, followers are told of what it held back (:mod:`trunkline.transactions.held_back`). Kafka's
clients may ask for more: ``acknowledged_offset`` is what they call the high watermark, ``last_stable_offset`` is
the same as theirs, and ``read_stored`` reads up to either, as it was written.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, cast

import trio

from trunkline.changes import Changes
from trunkline.errors import OffsetOutOfRange, TrunklineError
from trunkline.log import Log, TimestampedOffset
from trunkline.transactions.aborted import NONE_ABORTED, AbortedTransactions, hide_aborted
from trunkline.transactions.in_log import LogTransactions

if TYPE_CHECKING:
    from trunkline.partition import Partition
    from trunkline.topic import Topic

__all__ = ["ReadablePartition", "TailListener"]

logger = logging.getLogger("trunkline.partition")


class TailListener(Protocol):
    """Who follows a partition. If it raises, that is logged and it is told no more."""

    def records_committed(self, partition: Partition, base_offset: int, next_offset: int, batches: list[bytes]) -> None:
        """The high watermark moved from ``base_offset`` to ``next_offset``; these batches are what lies between."""

    def partition_closed(self, partition: Partition, error: TrunklineError | None) -> None:
        """No more will come: the topic was deleted, the broker closes, or the log stopped (``error``)."""


class ReadablePartition(ABC):
    """What :class:`trunkline.partition.Partition` is to readers. Belongs to the broker's thread.

    Attributes:
      high_watermark: readers and followers have everything below it to see, and nothing else.
      acknowledged_offset: everything below it is as durable as the topic demands; the same, unless a transaction holds
        readers back.
      transactions: open and aborted ones; None if there never were any.
    """

    __slots__ = (
        "_changed",
        "_early_listeners",
        "_is_closed",
        "_listeners",
        "_refusal",
        "acknowledged_offset",
        "high_watermark",
        "index",
        "log",
        "name",
        "topic",
        "transactions",
    )

    def __init__(self, topic: Topic, index: int, log: Log) -> None:
        self.topic = topic
        self.index = index
        self.name = f"{topic.name}/{index}"
        self.log = log
        self.high_watermark = self.acknowledged_offset = log.end_offset
        self.transactions: LogTransactions | None = None
        self._listeners: list[TailListener] = []
        self._early_listeners: list[TailListener] = []
        self._refusal: TrunklineError | None = None
        self._is_closed = False
        self._changed = Changes()

    @property
    def log_start_offset(self) -> int:
        return self.log.start_offset

    @property
    def is_refusing(self) -> bool:
        """It takes no changes: it is closing, or its log has failed."""
        return self._refusal is not None

    @property
    def is_closed(self) -> bool:
        """Nothing can be read any more."""
        return self._is_closed

    @property
    def refusal(self) -> TrunklineError | None:
        """Why nothing can be staged any more; None while it can."""
        return self._refusal

    @property
    @abstractmethod
    def is_idle(self) -> bool:
        """Nothing is staged or on its way to the disk."""

    @property
    def last_stable_offset(self) -> int:
        """Where the first open transaction begins, or the acknowledged offset; the high watermark follows it."""
        if self.transactions is None:
            return self.acknowledged_offset
        return self.transactions.last_stable_offset(self.acknowledged_offset)

    @property
    def aborted(self) -> AbortedTransactions:
        """The aborted transactions of what the log holds now; keep it while reading, as a newer one may know less."""
        return NONE_ABORTED if self.transactions is None else self.transactions.aborted

    @property
    def is_held_back(self) -> bool:
        """What is staged now may be acknowledged before readers can see it, because of a transaction."""
        transactions = self.transactions
        if transactions is None:
            return False
        return not transactions.is_settled or self.high_watermark < self.acknowledged_offset

    @property
    def has_listeners(self) -> bool:
        return bool(self._listeners)

    def add_listener(self, listener: TailListener, *, early: bool = False) -> None:
        """Tell ``listener`` of everything committed from the present high watermark on.

        Args:
          early: it wants to know of what is acknowledged, from the present acknowledged offset on, whether it is
            decided or not; batches come as they were written. It is told also, of no batches, when what was staged is
            taken back because the store is full.
        """
        (self._early_listeners if early else self._listeners).append(listener)

    def remove_listener(self, listener: TailListener) -> None:
        """Stop telling it; nothing happens if it is not there."""
        if listener in self._listeners:
            self._listeners.remove(listener)
        elif listener in self._early_listeners:
            self._early_listeners.remove(listener)

    def read_nowait(self, offset: int, max_bytes: int) -> bytes | None:
        """Whole batches from the one that holds ``offset`` up to the high watermark, if that needs no waiting.

        Returns empty bytes at the high watermark, None if the store would have to wait (then ``read``).
        Limits are those of :meth:`trunkline.log.Log.read`.

        Raises OffsetOutOfRange below the log start offset or above the high watermark; UnknownTopic or
        BrokerClosing once the log is closed.
        """
        if not self._check_offset(offset, self.high_watermark):
            return b""
        found = self.log.read_nowait(offset, max_bytes, self.high_watermark)
        return found if self.transactions is None or not found else hide_aborted(found, self.transactions.aborted)

    async def read(self, offset: int, max_bytes: int) -> bytes:
        """Like ``read_nowait``, waiting for the store where it must. Cancellation: nothing has changed."""
        found = self.read_nowait(offset, max_bytes)
        if found is not None:
            return found
        aborted = self.aborted  # as of now: what is read may be trimmed before it is here
        found = await trio.to_thread.run_sync(self.log.read, offset, max_bytes, self.high_watermark)
        return hide_aborted(found, aborted)

    def read_stored_nowait(self, offset: int, max_bytes: int, end_offset: int) -> bytes | None:
        """Like ``read_nowait``, but as it was written: records of open and aborted transactions are there too.

        Args:
          end_offset: read no further: ``acknowledged_offset``, ``last_stable_offset``, or a batch boundary below.
        """
        assert end_offset <= self.acknowledged_offset
        if not self._check_offset(offset, end_offset):
            return b""
        return self.log.read_nowait(offset, max_bytes, end_offset)

    async def read_stored(self, offset: int, max_bytes: int, end_offset: int) -> bytes:
        """Like ``read_stored_nowait``, waiting for the store where it must. Cancellation: nothing has changed."""
        found = self.read_stored_nowait(offset, max_bytes, end_offset)
        if found is not None:
            return found
        return await trio.to_thread.run_sync(self.log.read, offset, max_bytes, end_offset)

    def _check_offset(self, offset: int, end_offset: int) -> bool:
        """Whether there is something to read. What is acknowledged may be asked for, and comes when it is decided."""
        if self._is_closed:
            assert self._refusal is not None
            raise self._refusal
        if not self.log.start_offset <= offset <= self.acknowledged_offset:
            raise OffsetOutOfRange(
                f"{self.name}: offset {offset} is outside {self.log.start_offset} to {self.high_watermark}; "
                "start from earliest or latest",
                log_start_offset=self.log.start_offset,
                high_watermark=self.high_watermark,
            )
        return offset < end_offset

    async def find_timestamp(self, timestamp: int) -> int | None:
        """The first offset below the high watermark whose record is at or after ``timestamp`` (ms), or None."""
        found = await self.find_record_at(timestamp)
        return None if found is None else found.offset

    async def find_record_at(self, timestamp: int, end_offset: int | None = None) -> TimestampedOffset | None:
        """Like ``find_timestamp``, with the record's own timestamp. Raises as ``read_nowait``.

        Args:
          end_offset: look no further than here, as in ``read_stored``; None: the high watermark.
        """
        end = self.high_watermark if end_offset is None else end_offset
        self._check_offset(end, end)
        return await trio.to_thread.run_sync(self.log.find_timestamp, timestamp, end)

    async def find_keys(self, offset: int, wants: Callable[[bytes], bool], max_offsets: int) -> tuple[list[int], int]:
        """Offsets of records with a wanted key below the high watermark, and how far it looked; see ``Log.find_keys``.

        Raises as ``read_nowait``. Cancellation: waits for the store.
        """
        if not self._check_offset(offset, self.high_watermark):
            return [], offset
        return await trio.to_thread.run_sync(self.log.find_keys, offset, self.high_watermark, wants, max_offsets)

    async def wait_past(self, offset: int) -> bool:
        """Wait until the high watermark is above ``offset``; False if the partition is closed instead."""
        while self.high_watermark <= offset:
            if self._refusal is not None and self.is_idle:
                return False
            await self._changed.wait()
        return True

    def show(self, next_offset: int, batches: list[bytes]) -> None:
        """Move the high watermark and tell the followers; ``batches`` are what it moves over, as readers see it."""
        base_offset = self.high_watermark
        self.high_watermark = next_offset
        self._changed.tell()
        if self._listeners:
            self._tell(self._listeners, base_offset, next_offset, batches)

    def _tell(self, listeners: list[TailListener], base_offset: int, next_offset: int, batches: list[bytes]) -> None:
        for listener in tuple(listeners):
            try:
                listener.records_committed(cast("Partition", self), base_offset, next_offset, batches)
            except Exception:  # the boundary: one follower's bug must not hold up the log
                logger.exception("%s: %r failed at offset %d and is left out", self.name, listener, base_offset)
                self.remove_listener(listener)

    def close_listeners(self, error: TrunklineError | None) -> None:
        """Tell the listeners that it is over."""
        listeners = [*self._listeners, *self._early_listeners]
        self._listeners, self._early_listeners = [], []
        for listener in listeners:
            try:
                listener.partition_closed(cast("Partition", self), error)
            except Exception:  # the boundary, as above
                logger.exception("%s: %r failed when it was told of the end", self.name, listener)
        self._changed.tell()
