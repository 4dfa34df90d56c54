"""A queue as far as it is remembered: what has arrived, what has changed, and what of that is durable.

Giving records out is in :mod:`trunkline.queues.serving`.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final

from trunkline.errors import TrunklineError, UnknownQueue
from trunkline.pending import WaitForAppends
from trunkline.queues.arrivals import PLAIN, Orders
from trunkline.queues.consumers import Roster
from trunkline.queues.context import QueueContext
from trunkline.queues.gathering import Piece
from trunkline.queues.index import END, Lease
from trunkline.queues.leaving import Departures, Leaving
from trunkline.queues.persist import IDLE_MS, Persister
from trunkline.queues.state import QueueState

if TYPE_CHECKING:
    from trunkline.partition import Partition
    from trunkline.pending import AppendReceiver
    from trunkline.queues.config import Definition, QueueConfig
    from trunkline.queues.consumption import Consumption
    from trunkline.queues.feeds import SourceFeed
    from trunkline.queues.marks import Mark
    from trunkline.topic import Topic

__all__ = ["RememberedQueue"]

logger = logging.getLogger("trunkline.queues")

READERS_INTERVAL_MS: Final = 1000


class RememberedQueue(ABC):
    """What :class:`trunkline.queues.queue.Queue` is to its sources and to ``__queues``.

    Attributes:
      id: its number, never given to another queue.
      state: what it holds.
      origin: which thing of a door it is, in words for people; set by the door. Empty: none.
      feeds: the partitions that it takes from.
      acknowledged, delivered, ...: counters, see :class:`~trunkline.queues.reports.QueueStatistics`.
    """

    __slots__ = (
        "_asked",
        "_idle_ms",
        "_is_dirty",
        "_is_loading_chunk",
        "_is_serving",
        "_leaving",
        "_readers_are_stale",
        "_readers_ms",
        "_roster",
        "_timer_ms",
        "_written_ms",
        "acknowledged",
        "context",
        "definition",
        "delivered",
        "feeds",
        "gone",
        "is_deleted",
        "name",
        "origin",
        "persister",
        "refused_publishes",
        "released",
        "state",
    )

    def __init__(
        self,
        context: QueueContext,
        name: str,
        definition: Definition,
        state: QueueState | None = None,
        persister: Persister | None = None,
    ) -> None:
        self.context = context
        self.name = name
        self.origin = ""
        self.definition = definition
        self.state = QueueState() if state is None else state
        self.feeds: tuple[SourceFeed, ...] = ()
        self.is_deleted = False
        self.acknowledged = self.delivered = self.released = self.refused_publishes = self.gone = 0
        self._roster: Roster[Consumption] | None = None
        self.persister = persister
        self._leaving: Leaving | None = None
        self._timer_ms: int | None = None
        self._readers_ms = 0  # when they may be told again
        self._readers_are_stale = False
        self._written_ms = self._idle_ms = 0  # last written; when to look whether it is idle
        self._asked = False  # to serve
        self._is_dirty = False  # something has changed that is not written yet
        self._is_serving = False
        self._is_loading_chunk = False

    is_volatile = False
    """It does not outlive the broker."""

    def __repr__(self) -> str:
        return f"<Queue {self.name}>"

    @property
    def home(self) -> Topic | None:
        """Its home topic, if there is one yet."""
        return self.context.services.catalog.topics.get(self.name)

    async def ensure_home(self) -> Topic:
        """Its home topic, made now if it is missing. Cancellation: may have happened."""
        return await self.context.services.ensure_topic(self.name)

    async def store(self, definition: Definition) -> None:
        """Keep its definition. Durable on return."""
        await self.context.topic.write_durable([definition.entry(self.name)])

    @property
    def id(self) -> int:
        return self.definition.id

    @property
    def config(self) -> QueueConfig:
        return self.definition.config

    @property
    def reader_name(self) -> str:
        """What it is called among the readers of a partition."""
        return f"queue:{self.name}"

    @property
    def has_consumers(self) -> bool:
        return self._roster is not None

    def take(self, source: int, offset: int, count: int, size_bytes: int, orders: Orders) -> None:
        """Records of one batch have arrived; ``serve`` is called when all of them have."""
        config = self.definition.config
        if orders is PLAIN and config.ttl_ms < 0:
            self.state.append(source, offset, count, size_bytes)
            return
        now = self.context.now_ms()
        mark = orders.spilled
        is_here = mark is not None and mark.topic == self.context.sources.topic_name(source)
        if mark is not None and is_here and self.context.marks.is_true(mark):
            self._find_spilled(mark, source, offset)
            return
        expires = orders.expires_ms
        if config.ttl_ms >= 0:
            expires = min(expires or 1 << 62, max(now, orders.due_ms) + config.ttl_ms)
        self.state.append(
            source,
            offset,
            count,
            size_bytes,
            priority=min(orders.priority, config.max_priority),
            due_ms=orders.due_ms if orders.due_ms > now else 0,
            expires_ms=expires,
            now_ms=now,
        )

    def _find_spilled(self, mark: Mark, source: int, offset: int) -> None:
        """A copy of an entry: it counts if the entry is ours, still there, and stored elsewhere."""
        sequence = mark.sequence
        self.state.routed(source, offset + 1)
        if mark.queue_id != self.id:
            return
        for entry in self.state.peek(1, sequence - 1)[0]:
            if entry.sequence <= sequence < entry.sequence + entry.count and entry.source != source:
                copied = Lease(sequence, 1, entry.source, entry.offset + sequence - entry.sequence, 0)
                self.state.move_entry(copied, source, offset)
                self.changed()

    def looked_at(self, source: int, next_offset: int) -> None:
        """Everything of a source below an offset has arrived, or is not wanted."""
        if self.state.positions.get(source) != next_offset:
            self.state.routed(source, next_offset)

    def drop_source(self, source: int) -> None:
        """A partition is gone, and with it what was stored there."""
        self.drop_below(source, END)

    def drop_below(self, source: int, offset: int) -> None:
        """Records were removed. Those that consumers hold are theirs to finish with."""
        gone, missing = self.state.drop_below(source, offset)
        self._count_gone(gone)
        if missing is not None:
            self.context.services.spawn(self._drop_rest, source, offset)
        elif offset == END:
            self.state.forget_source(source)

    async def _drop_rest(self, source: int, offset: int) -> None:
        """The same in the parts of the index that are not in memory."""
        while not self.is_deleted:
            gone, missing = self.state.drop_below(source, offset)
            self._count_gone(gone)
            if missing is None:
                break
            await self.load_chunk(missing)
        if offset == END:
            self.state.forget_source(source)
            self.changed()

    def _count_gone(self, gone: int) -> None:
        if gone:
            self.gone += gone
            logger.warning("queue %s: %d records were removed from their topic before their time", self.name, gone)
        self.changed()

    @property
    def is_loading(self) -> bool:
        """Records that are there are still being looked at."""
        return any(feed.members[self].position is not None for feed in self.feeds)

    def leave_feed(self, partition: Partition) -> None:
        """It takes nothing more from a partition."""
        for feed in self.feeds:
            if feed.partition is partition:
                feed.detach(self)
        self.feeds = tuple(feed for feed in self.feeds if feed.partition is not partition)

    def missing(self, holder: int, piece: Piece) -> int:
        """Leased records are not where they were. Give back those that were spilled while they were being read.

        The others are gone: they are settled and counted. How many the holder has lost.
        """
        lost = 0
        end = piece.sequence + piece.length
        for lease in self.state.peek(piece.length, piece.sequence - 1)[0]:
            if lease.sequence >= end:
                break
            ranges = [(lease.sequence, min(lease.sequence + lease.count, end))]
            if (lease.source, lease.offset) != (piece.source, piece.offset + lease.sequence - piece.sequence):
                lost += self.state.release(ranges, holder, count=False)
                self.serve_soon()
            elif settled := self.state.settle(ranges, holder):
                lost += settled
                self.gone += settled
                self.changed()
                logger.warning(
                    "queue %s: %d records were removed from their topic before their time", self.name, settled
                )
        return lost

    async def load_chunk(self, number: int) -> None:
        """Have a chunk of the index in memory."""
        data = await self.context.topic.read_value(self.state.stored_at(number))
        assert data is not None, "a chunk that is referred to is stored"
        self.state.load_chunk(number, data)

    @property
    def leaving(self) -> Leaving:
        """Entries on their way out."""
        if self._leaving is None:
            self._leaving = Leaving(self)
        return self._leaving

    @property
    def departures(self) -> Departures:
        """How many have left without being settled by a consumer, and why."""
        return Departures() if self._leaving is None else self._leaving.departures

    @property
    def leaving_error(self) -> TrunklineError | OSError | None:
        """What went wrong when dead letters were written last."""
        return None if self._leaving is None else self._leaving.error

    def serve_soon(self) -> None:
        """See to it that ``serve`` is called in the next round."""
        if not self._asked:
            self._asked = True
            self.context.serve_soon(self)

    def changed(self) -> None:
        """The state has changed in a way that must be remembered; there may be room for consumers."""
        if not self._is_dirty:
            self._is_dirty = True
            self.context.persist_soon(self)
        if not self._asked and self._roster is not None and not self._is_serving:
            self.serve_soon()

    def persist(self, *, snapshot: bool = False) -> None:
        """Write what has changed, or see to it that it is written after what is under way."""
        if self.is_deleted:
            return
        persister = self.persister
        if persister is None:
            persister = self.persister = Persister(self)
        self._written_ms = self.context.now_ms()
        if not self._idle_ms and not snapshot:
            self._idle_ms = self._written_ms + IDLE_MS
            self.context.wake_at(self, self._idle_ms)
        if persister.is_writing or persister.failure is not None:
            return
        for feed in self.feeds:
            if feed.members[self].position is None:
                self.looked_at(feed.source, feed.partition.high_watermark)
            feed.unwritten.writes(self)
        self._is_dirty = False
        persister.write(snapshot=snapshot)

    def persisted(self) -> None:
        """What was under way is durable."""
        for feed in self.feeds:
            feed.unwritten.written(self)
        if self._is_dirty:
            self.context.persist_soon(self)
        if self._readers_ms:
            self._readers_are_stale = True
        else:
            self._update_readers()

    def _update_readers(self) -> None:
        """Tell the partitions what is still needed, at most once a second: it takes a look at all that is held."""
        for feed in self.feeds:
            feed.partition.readers[self.reader_name] = self.needed_from(feed)
        self._readers_are_stale = False
        self._readers_ms = self.context.now_ms() + READERS_INTERVAL_MS
        self.context.wake_at(self, self._readers_ms)

    def keep_readers(self, now_ms: int) -> None:
        """Called now and then: do what was put off."""
        if 0 < self._readers_ms <= now_ms:
            self._readers_ms = 0
            if self._readers_are_stale:
                self._update_readers()

    def needed_from(self, feed: SourceFeed) -> int:
        """The lowest offset of a source that the queue still has use for."""
        first = feed.members[self].needed_from
        lowest = self.state.lowest_live(feed.source)
        return first if lowest is None else min(first, lowest)

    def when_durable(self, receiver: AppendReceiver, token: object) -> None:
        """See :meth:`Consumption.when_durable`."""
        persister = self.persister
        if self.is_deleted:
            gone = UnknownQueue(f"queue {self.name} was deleted", queue=self.name)
            self.context.services.rounds.call_soon(lambda: receiver.append_failed(token, gone))
            return
        if self._is_dirty and persister is None:
            persister = self.persister = Persister(self)
        if persister is None or not persister.when_durable(receiver, token, is_dirty=self._is_dirty):
            failure = None if persister is None else persister.failure
            if failure is None:
                self.context.services.rounds.call_soon(lambda: receiver.append_done(token, 0))
            else:
                error = failure
                self.context.services.rounds.call_soon(lambda: receiver.append_failed(token, error))

    async def wait_durable(self) -> None:
        """Wait until everything that has happened so far is durable. Raises LogStopped, BrokerClosing."""
        waiting = WaitForAppends()
        self.when_durable(waiting.one_more(), None)
        await waiting.wait()

    @property
    def has_unwritten(self) -> bool:
        """A restart would have to look at records again."""
        return any(self in feed.unwritten for feed in self.feeds)

    def stored_keys(self) -> list[tuple[bytes, None]]:
        """Tombstones for all that is stored of it."""
        return [] if self.persister is None else self.persister.stored_keys()

    def promised(self) -> tuple[int, int]:
        """Records and bytes that are ready, or on their way through a gate."""
        records, size_bytes = self.state.ready, self.state.live_bytes
        if self.config.max_length_bytes >= 0:
            size_bytes -= self.state.held_bytes()
        for feed in self.feeds:
            gate = feed.members[self].gate
            if gate is not None:
                passed = gate.on_the_way()
                records += passed[0]
                size_bytes += passed[1]
        return records, size_bytes

    @abstractmethod
    def serve(self) -> None:
        """Do what is due, and give out what is ready to those who have room."""

    @abstractmethod
    def tick(self) -> None:
        """The time it asked to be woken at has come."""
