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

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Literal

import trio
from msgspec.structs import replace

from trunkline.errors import InvalidSetting, UnknownQueue
from trunkline.queues.blocks import Block
from trunkline.queues.context import ENGINE
from trunkline.queues.explain import explain
from trunkline.queues.gathering import gather, gather_waiting
from trunkline.queues.index import Lease
from trunkline.queues.reports import QueuedRecord, QueueStatistics
from trunkline.queues.serving import ROUND_BYTES, SERVED_RECORDS, ServedQueue
from trunkline.records import ConsumerRecord

if TYPE_CHECKING:
    from trunkline.partition import Partition
    from trunkline.queues.config import Definition
    from trunkline.queues.feeds import SourceFeed

__all__ = ["Position", "Queue"]

Position = Literal["earliest", "latest"] | int | Mapping[str, int]
"""Where to begin anew: an offset counts for every partition, a mapping is ``{"timestamp": ms}``."""


class Queue(ServedQueue):
    """Made by :class:`trunkline.queues.queues.Queues`; belongs to the broker's thread."""

    __slots__ = ()

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
        while len(found) < limit:
            leases, missing = self.state.peek(limit - len(found), after_sequence)
            for lease in leases:
                after_sequence = lease.sequence + lease.count - 1
                for piece in await gather_waiting(gather([lease], self.context.cache, self.context.sources)):
                    if piece.block is not None:
                        found += _looked_at(lease, piece.block)
            if not leases:
                if missing is None:
                    break
                await self.load_chunk(missing)
        return found[:limit]

    async def reset(self, position: Position) -> int:
        """Begin anew from a place in the past, or the end; how many records were dropped for it. Durable on return.

        What consumers hold is taken from them; what they say of it later has no effect. Records from the position on
        are looked at again in the background (``is_loading``), with the filters as they are now.

        Args:
          position: ``earliest``, ``latest``, an offset (of every partition), or ``{"timestamp": ms}``.

        Raises UnknownQueue (it was deleted), InvalidSetting (there is no such position). Cancellation: may have
        happened.
        """
        async with self.context.holding(self.name):
            self._check_there()
            targets = [(feed, await _find_position(feed.partition, position)) for feed in self.feeds]
            definition = self._started_at({feed.partition: offset for feed, offset in targets})
            # What is stored must not begin elsewhere than what is here.
            with trio.CancelScope(shield=True), self.context.defining():
                await self.store(definition)
                self.definition = definition
                dropped = self._begin_at([target for target in targets if target[0] in self.feeds])  # topics go
        await self.wait_durable()
        return dropped

    def _check_there(self) -> None:
        if self.is_deleted:
            raise UnknownQueue(f"queue {self.name} was deleted", queue=self.name)

    def _begin_at(self, targets: Iterable[tuple[SourceFeed, int]]) -> int:
        for consumption in self.consumers:
            self.state.release([(0, self.state.next_sequence)], consumption.holder, count=False)
            consumption.let_go(consumption.unacked)
        dropped = self.state.purge()
        for feed, offset in targets:
            feed.detach(self)
            self.looked_at(feed.source, offset)
            feed.attach(self, self.config.sources_of(self.name, feed.partition.topic.name), offset)
            feed.unwritten.moved(self)
        self.changed()
        return dropped

    def _started_at(self, offsets: Mapping[Partition, int]) -> Definition:
        """The definition with sources that begin there."""
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
        return replace(self.definition, config=replace(self.config, sources=sources))

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


async def _find_position(partition: Partition, position: Position) -> int:
    start, end = partition.log_start_offset, partition.high_watermark
    if position == "earliest":
        return start
    if position == "latest":
        return end
    if isinstance(position, Mapping) and isinstance(position.get("timestamp"), int):
        found = await partition.find_timestamp(position["timestamp"])
        return end if found is None else found
    if not isinstance(position, int):
        raise InvalidSetting(
            f"there is no position {position!r}; use earliest, latest, an offset or a time", setting="position"
        )
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
