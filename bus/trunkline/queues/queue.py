"""One queue: records come in from its sources, go out to its consumers, and leave when they are settled.

What happens when:

* a record arrives: it gets the next sequence (:meth:`Queue.take`); nothing is written for it.
* :meth:`Queue.serve`, at most once a round and in the call that commits a batch: what is due becomes ready or expires,
  a queue that is too long is cut, consumers with room are given what is ready.
* consumers settle, release, reject: the state changes at once, in memory; one delta for all changes of a round is
  written in the next (:mod:`trunkline.queues.persist`).

Order: a consumer gets records by priority, then by sequence. Records of one partition have sequences in the order of
their offsets; between partitions it is the order of arrival. What is released returns to its place.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, Literal

import trio
from msgspec.structs import replace

from trunkline.errors import QueueInUse, TrunklineError, UnknownQueue
from trunkline.queues.arrivals import PLAIN, Orders
from trunkline.queues.blocks import Block
from trunkline.queues.consumers import Roster
from trunkline.queues.consumption import Consumption, QueueConsumer, Range, SharedPrefetch
from trunkline.queues.context import ENGINE, QueueContext
from trunkline.queues.explain import explain
from trunkline.queues.gathering import (
    Gathering,
    Needed,
    Piece,
    gather,
    gather_cached,
    gather_nowait,
    gather_waiting,
)
from trunkline.queues.index import Lease
from trunkline.queues.leaving import Departures, Leaving
from trunkline.queues.persist import IDLE_MS, Persister
from trunkline.queues.reports import QueuedRecord, QueueStatistics
from trunkline.queues.state import QueueState
from trunkline.records import ConsumerRecord

if TYPE_CHECKING:
    from trunkline.partition import Partition
    from trunkline.pending import AppendReceiver
    from trunkline.queues.config import Definition, QueueConfig
    from trunkline.queues.feeds import SourceFeed

__all__ = ["Queue"]

logger = logging.getLogger("trunkline.queues")

SERVED_RECORDS: Final = 1000
"""Given to one consumer at a time at most, so that the others get their turn."""

SERVED_BYTES: Final = 256 * 1024
"""The same in bytes."""

_PAUSE_S: Final = 1.0

ROUND_BYTES: Final = 1024 * 1024
"""Given out by one queue in a round, so that other queues and sockets get their turn."""


class Queue:
    """Made by :class:`trunkline.queues.queues.Queues`. Belongs to the broker's thread.

    Attributes:
      id: its number, never given to another queue.
      state: what it holds.
      feeds: the partitions that it takes from.
      others: counters, see :class:`~trunkline.queues.reports.QueueStatistics`.
    """

    __slots__ = (
        "_asked",
        "_idle_ms",
        "_is_dirty",
        "_is_loading_chunk",
        "_is_serving",
        "_is_timed",
        "_leaving",
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
        self.definition = definition
        self.state = QueueState() if state is None else state
        self.feeds: tuple[SourceFeed, ...] = ()
        self.is_deleted = False
        self.acknowledged = self.delivered = self.released = self.refused_publishes = self.gone = 0
        self._roster: Roster[Consumption] | None = None
        self.persister = persister
        self._leaving: Leaving | None = None
        self._timer_ms: int | None = None
        self._written_ms = self._idle_ms = 0  # last written; when to look whether it is idle
        self._asked = False  # to serve
        self._is_timed = state is not None  # some entries may be delayed, expire, or be taken back
        self._is_dirty = False  # something has changed that is not written yet
        self._is_serving = False
        self._is_loading_chunk = False

    def __repr__(self) -> str:
        return f"<Queue {self.name}>"

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

    # -- coming in ---------------------------------------------------------------------------------

    def take(self, source: int, offset: int, count: int, size_bytes: int, orders: Orders) -> None:
        """Records of one batch have arrived; ``serve`` is called when all of them have."""
        config = self.definition.config
        if orders is PLAIN and config.ttl_ms < 0:
            self.state.append(source, offset, count, size_bytes)
            return
        now = self.context.now_ms()
        if orders.spilled is not None:
            self._find_spilled(orders.spilled, source, offset)
            return
        self._is_timed = True
        expires = orders.expires_ms
        if config.ttl_ms >= 0:
            expires = min(expires or 1 << 62, now + config.ttl_ms)
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

    def _find_spilled(self, spilled: tuple[int, int], source: int, offset: int) -> None:
        """A copy of an entry: it counts if the entry is ours, still there, and stored elsewhere."""
        queue_id, sequence = spilled
        self.state.routed(source, offset + 1)
        if queue_id != self.id:
            return
        for entry in self.state.peek(1, sequence - 1):
            if entry.sequence <= sequence < entry.sequence + entry.count and entry.source != source:
                copied = Lease(sequence, 1, entry.source, entry.offset + sequence - entry.sequence, 0)
                self.state.move_entry(copied, source, offset)
                self.changed()

    def looked_at(self, source: int, next_offset: int) -> None:
        """Everything of a source below an offset has arrived, or is not wanted."""
        if self.state.positions.get(source) != next_offset:
            self.state.routed(source, next_offset)

    # -- going out ---------------------------------------------------------------------------------

    @property
    def has_consumers(self) -> bool:
        return self._roster is not None

    @property
    def consumers(self) -> Sequence[Consumption]:
        """Those that are attached now."""
        return () if self._roster is None else tuple(self._roster)

    def consume(
        self,
        consumer: QueueConsumer,
        *,
        prefetch: int = 1000,
        priority: int = 0,
        exclusive: bool = False,
        auto_settle: bool = False,
        shared: SharedPrefetch | None = None,
        name: str = "",
    ) -> Consumption:
        """Attach a consumer. It is given what is ready in the next round, never before this returns.

        Args:
          prefetch: records that it may hold; 0: no limit.
          priority: those with a higher one are served first.
          exclusive: nobody else may consume the queue meanwhile.
          auto_settle: records are settled as they are delivered: at most once.
          shared: a limit for several consumptions together.

        Raises QueueInUse: it has an exclusive consumer, or any, and this one asks for exclusiveness.
        """
        roster = self._roster
        if roster is not None and (exclusive or any(member.is_exclusive for member in roster)):
            raise QueueInUse(f"queue {self.name} has consumers, and one of them is to be the only one", queue=self.name)
        consumption = Consumption(
            self,
            consumer,
            self.context.new_holder(),
            prefetch=prefetch,
            priority=priority,
            exclusive=exclusive,
            auto_settle=auto_settle,
            shared=shared,
            name=name,
        )
        if roster is None:
            roster = self._roster = Roster(is_single=self.config.single_active)
        roster.add(consumption)
        self.serve_soon()
        return consumption

    def leave(self, consumption: Consumption) -> None:
        """See :meth:`Consumption.close`."""
        if consumption.is_closed:
            return
        consumption.is_closed = True
        assert self._roster is not None
        self._roster.remove(consumption)
        if not len(self._roster):
            self._roster = None
        if consumption.unacked:
            self.release(consumption, [(0, self.state.next_sequence)])
        if consumption.shared is not None:
            consumption.shared.consumptions.pop(consumption, None)
        self.serve_soon()

    def serve_soon(self) -> None:
        """See to it that ``serve`` is called in the next round."""
        if not self._asked:
            self._asked = True
            self.context.serve_soon(self)

    def serve(self) -> None:
        """Do what is due, and give out what is ready to those who have room."""
        self._asked = False
        if self._is_serving or self.is_deleted or self.context.is_closing:
            return
        self._is_serving = True
        try:
            state, config = self.state, self.definition.config
            now = self.context.now_ms()
            if self._is_timed and (timer := state.next_timer_ms) is not None and timer <= now:
                self._do_due(now)
            if config.max_length >= 0 or config.max_length_bytes >= 0:
                self._cut(config)
            if self._roster is not None and state.ready:
                self._dispatch(self._roster, now)
            if self._is_timed:
                self._set_timer()
        finally:
            self._is_serving = False

    def _set_timer(self) -> None:
        """Be woken when the next entry is due, expires, or has been held for too long."""
        timer = self.state.next_timer_ms
        if timer is None:
            self._is_timed = False
        elif self._timer_ms is None or timer < self._timer_ms:
            self._timer_ms = timer
            self.context.wake_at(self, timer)

    def _dispatch(self, roster: Roster[Consumption], now: int) -> None:
        state, config = self.state, self.definition.config
        deadline = 0
        if config.lock_timeout_ms:
            deadline = now + config.lock_timeout_ms
            self._is_timed = True
        left = ROUND_BYTES
        while state.ready:
            chosen = roster.choose(state.ready)
            if chosen is None:
                return
            if left <= 0:
                self.serve_soon()
                return
            consumption, limit = chosen
            leases = state.acquire(
                min(limit, SERVED_RECORDS), consumption.holder, now, deadline_ms=deadline, max_bytes=SERVED_BYTES
            )
            if leases:
                left -= sum([lease.size_bytes for lease in leases])
                self._give(consumption, leases)
            elif state.missing_chunk is not None:
                self._load_chunk(state.missing_chunk)
                return
            elif not self._expire(now):
                return

    def _give(self, consumption: Consumption, leases: list[Lease]) -> None:
        count = sum([lease.count for lease in leases])
        consumption.took(count)
        limit = self.definition.config.delivery_limit
        if limit >= 0 and any(lease.deliveries > limit for lease in leases):
            over = [lease for lease in leases if lease.deliveries > limit]
            leases = [lease for lease in leases if lease.deliveries <= limit]
            self._send_away(consumption, [(lease.sequence, lease.sequence + lease.count) for lease in over], _OVER)
        blocks = gather_cached(leases, self.context.cache, self.context.sources)
        if blocks is not None:
            self._deliver(consumption, blocks)
            return
        gathering = gather(leases, self.context.cache, self.context.sources)
        pieces, needed = gather_nowait(gathering)
        if pieces is not None:
            self._deliver_pieces(consumption, pieces)
            return
        consumption.is_loading = True
        ranges = [(lease.sequence, lease.sequence + lease.count) for lease in leases]
        self.context.services.spawn(self._load, consumption, ranges, gathering, needed)

    async def _load(
        self, consumption: Consumption, ranges: Sequence[Range], gathering: Gathering, needed: Needed
    ) -> None:
        """The log has to be waited for; nothing else is given to this consumer meanwhile."""
        try:
            pieces = await gather_waiting(gathering, needed)
        except (OSError, TrunklineError) as error:
            if self.context.is_closing:
                return
            logger.error("queue %s: its records cannot be read, trying again in %g s: %s", self.name, _PAUSE_S, error)
            await trio.sleep(_PAUSE_S)
            consumption.is_loading = False
            consumption.release(ranges, count=False)
            return
        self.context.services.rounds.call_soon(lambda: self._loaded(consumption, pieces))

    def _loaded(self, consumption: Consumption, pieces: list[Piece]) -> None:
        consumption.is_loading = False
        if not consumption.is_closed and not self.context.is_closing:
            self._deliver_pieces(consumption, pieces)
            self.serve_soon()

    def _deliver_pieces(self, consumption: Consumption, pieces: list[Piece]) -> None:
        blocks: list[Block] = []
        for piece in pieces:
            if piece.block is None:
                consumption.let_go(self.missing(consumption.holder, piece))
            else:
                blocks.append(piece.block)
        if blocks:
            self._deliver(consumption, blocks)

    def _deliver(self, consumption: Consumption, blocks: list[Block]) -> None:
        for block in blocks:
            self.delivered += block.count
        try:
            consumption.consumer.deliver(blocks)
        except Exception:  # the boundary: one consumer's bug must not keep records from the others
            logger.exception("queue %s: %r failed and is closed", self.name, consumption.consumer)
            consumption.close()
            return
        if consumption.is_auto_settling:
            consumption.settle([(block.sequence, block.sequence + block.count) for block in blocks])

    def missing(self, holder: int, piece: Piece) -> int:
        """Leased records are not where they were. Give back those that were spilled while they were being read.

        The others are gone: they are settled and counted. How many the holder has lost.
        """
        lost = 0
        end = piece.sequence + piece.length
        for lease in self.state.peek(piece.length, piece.sequence - 1):
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

    def _load_chunk(self, number: int) -> None:
        if not self._is_loading_chunk:
            self._is_loading_chunk = True
            self.context.services.spawn(self._read_chunk, number)

    async def _read_chunk(self, number: int) -> None:
        try:
            await self.load_chunk(number)
        finally:
            self._is_loading_chunk = False
        self.serve_soon()

    async def load_chunk(self, number: int) -> None:
        """Have a chunk of the index in memory."""
        data = await self.context.topic.read_value(self.state.stored_at(number))
        assert data is not None, "a chunk that is referred to is stored"
        self.state.load_chunk(number, data)

    # -- coming back -------------------------------------------------------------------------------

    def release(
        self, consumption: Consumption, ranges: Iterable[Range], *, delay_s: float = 0.0, count: bool = True
    ) -> int:
        """See :meth:`Consumption.release`."""
        due = 0
        if delay_s > 0:
            due = self.context.now_ms() + round(delay_s * 1000)
            self._is_timed = True
        limit = self.definition.config.delivery_limit
        if limit < 0 or not count:
            done = self.state.release(ranges, consumption.holder, due_ms=due, count=count)
        else:
            leases = self.state.transfer(ranges, consumption.holder, ENGINE)
            done = sum(lease.count for lease in leases)
            over = [lease for lease in leases if lease.deliveries >= limit]
            back = [(lease.sequence, lease.sequence + lease.count) for lease in leases if lease.deliveries < limit]
            self.state.release(back, ENGINE, due_ms=due, count=True)
            if over:
                self.leaving.add(over, _OVER)
        if done:
            consumption.let_go(done)
            self.released += done
            self.changed()
            self.serve_soon()
        return done

    def reject(self, consumption: Consumption, ranges: Iterable[Range], reason: str) -> int:
        """See :meth:`Consumption.reject`."""
        return self._send_away(consumption, ranges, reason)

    def _send_away(self, consumption: Consumption, ranges: Iterable[Range], reason: str) -> int:
        leases = self.state.transfer(ranges, consumption.holder, ENGINE)
        done = sum(lease.count for lease in leases)
        if done:
            consumption.let_go(done)
            self.leaving.add(leases, reason)
            self.serve_soon()
        return done

    def extend(self, consumption: Consumption, ranges: Iterable[Range], lock_timeout_s: float) -> int:
        """See :meth:`Consumption.extend`."""
        if not self.config.lock_timeout_ms:
            return 0
        deadline = self.context.now_ms() + round(lock_timeout_s * 1000)
        return self.state.extend(ranges, consumption.holder, deadline)

    # -- what is due -------------------------------------------------------------------------------

    def tick(self) -> None:
        """The time it asked to be woken at has come."""
        self._timer_ms = None
        if self.is_deleted:
            return
        self.serve()
        now = self.context.now_ms()
        if 0 < self._idle_ms <= now:
            self._idle_ms = 0
            if now < self._written_ms + IDLE_MS:
                self._idle_ms = self._written_ms + IDLE_MS
                self.context.wake_at(self, self._idle_ms)
            elif self.persister is not None:
                self.persister.write(snapshot=True)

    def _do_due(self, now: int) -> None:
        state = self.state
        state.due(now)
        lost = state.expire_leases(now)
        if lost and self._roster is not None:
            for member in self._roster:
                if member.holder in lost:
                    member.let_go(lost[member.holder])
                    self.released += lost[member.holder]
        while self._expire(now):
            pass
        self.changed()

    def _expire(self, now: int) -> bool:
        """Send away what has expired at the head; True if there may be more."""
        leases = self.state.take_expired(now, ENGINE)
        if leases:
            self.leaving.add(leases, "expired")
        return bool(leases)

    def _cut(self, config: QueueConfig) -> None:
        """Drop what is over the maximum length."""
        state = self.state
        while 0 <= config.max_length < state.ready:
            if not self._drop(min(state.ready - config.max_length, 1000)):
                return
        while 0 <= config.max_length_bytes < state.live_bytes and state.ready:
            if not self._drop(1):
                return

    def _drop(self, count: int) -> bool:
        leases = self.state.take_oldest(count, ENGINE)
        if leases:
            self.leaving.add(leases, "max-length")
        elif self.state.missing_chunk is not None:
            self._load_chunk(self.state.missing_chunk)
        return bool(leases)

    @property
    def leaving(self) -> Leaving:
        """Entries on their way out."""
        if self._leaving is None:
            self._leaving = Leaving(self)
        return self._leaving

    # -- remembering -------------------------------------------------------------------------------

    def changed(self) -> None:
        """The state has changed in a way that must be remembered; there may be room for consumers."""
        if not self._is_dirty:
            self._is_dirty = True
            self.context.persist_soon(self)
        if not self._asked and self._roster is not None and not self._is_serving:
            self.serve_soon()

    def persist(self) -> None:
        """Write what has changed."""
        if self.is_deleted:
            return
        for feed in self.feeds:
            if feed.members[self].position is None:
                self.looked_at(feed.source, feed.partition.high_watermark)
        if self.persister is None:
            self.persister = Persister(self)
        self._written_ms = self.context.now_ms()
        if not self._idle_ms:
            self._idle_ms = self._written_ms + IDLE_MS
            self.context.wake_at(self, self._idle_ms)
        if not self.persister.is_writing:
            self._is_dirty = False
            self.persister.write()

    def persisted(self) -> None:
        """What was under way is durable."""
        if self._is_dirty:
            self.context.persist_soon(self)
        for feed in self.feeds:
            feed.partition.readers[self.reader_name] = self.needed_from(feed)

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
        waiting = _Waiting()
        self.when_durable(waiting, None)
        await waiting.done.wait()
        if waiting.error is not None:
            raise waiting.error

    def promised(self) -> tuple[int, int]:
        """Records and bytes that are ready, or on their way through a gate."""
        records, size_bytes = self.state.ready, self.state.live_bytes
        for feed in self.feeds:
            gate = feed.members[self].gate
            if gate is not None:
                passed = gate.on_the_way()
                records += passed[0]
                size_bytes += passed[1]
        return records, size_bytes

    # -- looking and moving ------------------------------------------------------------------------

    async def purge(self) -> int:
        """Finish with everything that nobody holds, without dead letters; how many records. Durable on return."""
        purged = self.state.purge()
        if purged:
            self.changed()
            await self.wait_durable()
        return purged

    async def peek(self, limit: int = 10, after_sequence: int = -1) -> list[QueuedRecord]:
        """Look at records without taking them: up to ``limit``, by sequence, behind ``after_sequence``."""
        found: list[QueuedRecord] = []
        for lease in self.state.peek(limit, after_sequence):
            pieces = await gather_waiting(gather([lease], self.context.cache, self.context.sources))
            for piece in pieces:
                if piece.block is not None:
                    found += _looked_at(lease, piece.block)
        return found[:limit]

    async def reset(self, position: Position) -> int:
        """Begin anew from a place in the past, or the end; how many records were dropped for it. Durable on return.

        What consumers hold is taken from them; what they say of it later has no effect. Records from the position on
        are looked at again in the background (``is_loading``), with the filters as they are now.

        Args:
          position: ``earliest``, ``latest``, an offset (of every partition), or ``{"timestamp": ms}``.

        Cancellation: may have happened.
        """
        targets = [(feed, await _find_position(feed.partition, position)) for feed in self.feeds]
        for consumption in self.consumers:
            self.state.release([(0, self.state.next_sequence)], consumption.holder, count=False)
            consumption.let_go(consumption.unacked)
        dropped = self.state.purge()
        self._start_at({feed.partition: offset for feed, offset in targets})
        for feed, offset in targets:
            feed.detach(self)
            self.looked_at(feed.source, offset)
            feed.attach(self, self.config.sources_of(self.name, feed.partition.topic.name), offset)
        self.changed()
        await self.wait_durable()
        return dropped

    def _start_at(self, offsets: Mapping[Partition, int]) -> None:
        """Sources begin there from now on."""
        starts: dict[str, dict[int, int]] = {}
        ids: dict[str, str] = {}
        for partition, offset in offsets.items():
            starts.setdefault(partition.topic.name, {})[partition.index] = offset
            ids[partition.topic.name] = partition.topic.id
        sources = tuple(
            replace(source, start=starts[source.topic], topic_id=ids[source.topic])
            if source.topic in starts
            else source
            for source in self.config.sources
        )
        self.definition = replace(self.definition, config=replace(self.config, sources=sources))
        self.context.topic.write(*self.definition.entry(self.name))

    async def move(self, to: str, limit: int | None = None) -> int:
        """Copy what is ready to another topic, each record settled once its copy is durable; how many.

        Raises what appending raises; what was moved by then stays moved. Cancellation: so too.
        """
        topic = await self.context.services.ensure_topic(to)
        left = self.state.ready if limit is None else min(limit, self.state.ready)
        moved = 0
        while left > 0:
            leases = self.state.acquire(min(left, SERVED_RECORDS), ENGINE, self.context.now_ms(), max_bytes=ROUND_BYTES)
            if not leases:
                if self.state.missing_chunk is None:
                    break
                await self.load_chunk(self.state.missing_chunk)
                continue
            left -= sum(lease.count for lease in leases)
            moved += await self.leaving.move(leases, topic)
        await self.wait_durable()
        return moved

    def statistics(self) -> QueueStatistics:
        state = self.state
        left = self.departures
        leaving = 0 if self._leaving is None else self._leaving.count
        return QueueStatistics(
            ready=state.ready,
            unacked=state.unacked - leaving,
            delayed=state.delayed,
            leaving=leaving,
            size_bytes=state.live_bytes,
            next_sequence=state.next_sequence,
            consumers=len(self.consumers),
            delivered=self.delivered,
            acknowledged=self.acknowledged,
            released=self.released,
            dead_lettered=left.total,
            expired=left.expired,
            dropped=left.dropped,
            rejected=left.rejected,
            over_limit=left.over_limit,
            refused_publishes=self.refused_publishes,
            gone=self.gone,
            is_loading=self.is_loading,
        )

    def explain(self) -> list[str]:
        """Why it stands still, or seems to, in sentences."""
        return explain(self)

    @property
    def active(self) -> Consumption | None:
        """With ``single_active``: the consumer that gets everything."""
        return None if self._roster is None else self._roster.active

    @property
    def departures(self) -> Departures:
        """How many have left without being settled by a consumer, and why."""
        return Departures() if self._leaving is None else self._leaving.departures

    @property
    def leaving_error(self) -> TrunklineError | OSError | None:
        """What went wrong when dead letters were written last."""
        return None if self._leaving is None else self._leaving.error

    @property
    def is_loading(self) -> bool:
        """Records that are there are still being looked at."""
        return any(feed.members[self].position is not None for feed in self.feeds)

    def cancel_consumers(self, error: TrunklineError) -> None:
        """Tell all consumers that it is over."""
        for consumption in self.consumers:
            consumption.close()
            try:
                consumption.consumer.cancelled(error)
            except Exception:  # the boundary, as for deliveries
                logger.exception("queue %s: %r failed when it was told of the end", self.name, consumption.consumer)

    def deleted(self) -> None:
        """It is no longer there."""
        error = UnknownQueue(f"queue {self.name} was deleted", queue=self.name)
        self.is_deleted = True
        self.cancel_consumers(error)
        if self.persister is not None:
            self.persister.close(error)

    def redefined(self, definition: Definition) -> None:
        """Its settings have changed."""
        self.definition = definition
        if self._roster is not None:
            self._roster.is_single = definition.config.single_active
        self.serve_soon()

    def drop_source(self, source: int) -> None:
        """A partition is gone, and with it what was stored there."""
        gone = self.state.drop_source(source)
        self.gone += gone
        if gone:
            logger.warning("queue %s: %d records went with their topic", self.name, gone)
        self.changed()

    @property
    def is_behind_disk(self) -> bool:
        """A restart might have to look at records again."""
        return bool(self.feeds)

    def stored_keys(self) -> list[tuple[bytes, None]]:
        """Tombstones for all that is stored of it."""
        return [] if self.persister is None else self.persister.stored_keys()

    def leave_feed(self, partition: Partition) -> None:
        """It takes nothing more from a partition."""
        for feed in self.feeds:
            if feed.partition is partition:
                feed.detach(self)
        self.feeds = tuple(feed for feed in self.feeds if feed.partition is not partition)


_OVER: Final = "delivery-limit"

Position = Literal["earliest", "latest"] | int | Mapping[str, int]


async def _find_position(partition: Partition, position: Position) -> int:
    start, end = partition.log_start_offset, partition.high_watermark
    if position == "earliest":
        return start
    if position == "latest":
        return end
    if isinstance(position, Mapping):
        found = await partition.find_timestamp(position["timestamp"])
        return end if found is None else found
    assert isinstance(position, int)
    return min(max(position, start), end)


def _looked_at(lease: Lease, block: Block) -> list[QueuedRecord]:
    state = "delayed" if lease.due_ms else "unacked" if lease.holder else "ready"
    topic, partition = block.partition.topic.name, block.partition.index
    return [
        QueuedRecord(
            block.sequence + number,
            state,  # type: ignore[arg-type]  # mypy does not see the literals through the conditions
            lease.deliveries,
            ConsumerRecord(
                record.offset,
                record.timestamp,
                record.key,
                record.value,
                record.headers,
                topic=topic,
                partition=partition,
            ),
        )
        for number, record in enumerate(block.records())
    ]


class _Waiting:
    """Waits for durability; an AppendReceiver."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.error: TrunklineError | None = None

    def append_done(self, token: object, offset: int) -> None:
        self.done.set()

    def append_failed(self, token: object, error: TrunklineError) -> None:
        self.error = error
        self.done.set()
