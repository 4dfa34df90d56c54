"""A queue's place in a source: whether it takes everything, or what its filters pick.

A queue that takes everything (*whole*) gets runs of whole batches. One with filters (*picking*) is a subscriber of the
partition's :class:`~trunkline.live.LiveTail`, which decodes each batch once for all views of the log and knows who
wants what.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from trunkline.filters import RecordFilter, Syntax
from trunkline.live import Delivery, LiveSubscriber
from trunkline.queues.arrivals import PLAIN, arrivals_of, orders_of, record_bytes
from trunkline.queues.blocks import StoredBatch
from trunkline.records import Header, Record

if TYPE_CHECKING:
    from trunkline.queues.feeds import SourceFeed
    from trunkline.queues.gate import Gate
    from trunkline.queues.remembered import RememberedQueue

__all__ = ["Member", "Picking", "Wanted", "Whole"]


class Wanted:
    """A filter and the offset from which it counts."""

    __slots__ = ("filter", "start")

    def __init__(self, filter: RecordFilter, start: int) -> None:
        self.filter = filter
        self.start = start


class Member(ABC):
    """A queue's place in a feed. ``position`` is None while it is live, ``gate`` unless it refuses what is too much."""

    __slots__ = ("feed", "gate", "position", "queue")

    is_picking = False

    def __init__(self, feed: SourceFeed, queue: RememberedQueue) -> None:
        self.feed = feed
        self.queue = queue
        self.position: int | None = None
        self.gate: Gate | None = None

    @property
    def needed_from(self) -> int:
        """It has not looked at what lies at this offset or past it."""
        return self.feed.partition.high_watermark if self.position is None else self.position

    @abstractmethod
    def wants(self, key: bytes | None, headers: Sequence[Header]) -> bool:
        """Whether it takes such a record when it is published now."""

    def close(self) -> None:  # noqa: B027 - for those who are known elsewhere
        """It takes no more from here."""


class Whole(Member):
    """A queue that takes everything from ``start`` on."""

    __slots__ = ("start",)

    def __init__(self, feed: SourceFeed, queue: RememberedQueue, start: int) -> None:
        super().__init__(feed, queue)
        self.start = start

    def wants(self, key: bytes | None, headers: Sequence[Header]) -> bool:
        return True

    def take_batch(self, batch: StoredBatch, from_offset: int) -> None:
        """Offer it a batch of the past."""
        for arrival in arrivals_of(batch, max(from_offset, self.start)):
            self.feed.took(self.queue, *arrival)


class Picking(Member, LiveSubscriber):
    """A queue with filters."""

    __slots__ = ("_last", "_wanted")

    is_picking = True

    def __init__(self, feed: SourceFeed, queue: RememberedQueue, wanted: tuple[Wanted, ...]) -> None:
        super().__init__(feed, queue)
        self._wanted = wanted
        self._last = -1  # offset that it was offered last: filters of two syntaxes may both match
        live = feed.live()
        by_pattern: dict[tuple[str, Syntax], list[Wanted]] = {}
        for one in wanted:
            by_pattern.setdefault((one.filter.pattern, one.filter.syntax), []).append(one)
        for (pattern, syntax), same in by_pattern.items():
            live.subscribe(self, pattern, wanted if len(same) == len(wanted) else tuple(same), syntax=syntax)

    def deliver(self, delivery: Delivery, options: list[Any]) -> bool:
        record = delivery.record
        if self.position is not None or record.offset <= self._last:
            return True
        for same in options:
            for wanted in same:
                if wanted.start <= record.offset and wanted.filter.matches_rest(record.key, record.headers):
                    self._last = record.offset
                    orders = delivery.cache.get("queues")
                    if orders is None:
                        orders = delivery.cache["queues"] = orders_of(record.headers) if record.headers else PLAIN
                    self.feed.picked(self.queue, record, orders)
                    return True
        return True

    def wants(self, key: bytes | None, headers: Sequence[Header]) -> bool:
        return any(wanted.filter.matches(key, headers) for wanted in self._wanted)

    def take_record(self, record: Record, options: Sequence[Sequence[Wanted]]) -> None:
        """Offer it a record of the past; ``options`` are those of its filters whose patterns match."""
        if record.offset <= self._last:
            return
        for same in options:
            for wanted in same:
                if wanted.start <= record.offset and wanted.filter.matches_rest(record.key, record.headers):
                    self._last = record.offset
                    orders = orders_of(record.headers) if record.headers else PLAIN
                    self.feed.took(self.queue, record.offset, 1, record_bytes(record), orders)
                    return

    def close(self) -> None:
        self.feed.live().remove(self)
