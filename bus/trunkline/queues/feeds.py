"""One partition as a source of queues: each committed batch is looked at once for all queues that take from it.

A queue that takes everything (*whole*) gets runs of whole batches. One with filters (*picking*) is a subscriber of the
partition's :class:`~trunkline.live.LiveTail`, which decodes each batch once for all views of the log and knows who
wants what. Both kinds are *live*: what is committed reaches them in the same call, and those with waiting consumers
give it out before that call returns.

A queue that begins in the past, or is found again after a restart, is *behind* at first
(:mod:`trunkline.queues.catching_up`); it changes over in one step at the high watermark, so there is no gap and no
double.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from trunkline.errors import TrunklineError
from trunkline.filters import RecordFilter, Syntax
from trunkline.live import Delivery, LiveSubscriber
from trunkline.queues.arrivals import PLAIN, Orders, arrivals_of, orders_of, record_bytes
from trunkline.queues.blocks import StoredBatch
from trunkline.queues.catching_up import CatchingUp
from trunkline.queues.gate import Gate
from trunkline.records import Header, Record

if TYPE_CHECKING:
    from trunkline.partition import Partition
    from trunkline.queues.config import QueueSource
    from trunkline.queues.context import QueueContext
    from trunkline.queues.remembered import RememberedQueue

__all__ = ["Picking", "SourceFeed", "Whole"]

CHECKPOINT_BYTES: Final = 16 * 1024 * 1024
"""After so many bytes each queue of a source notes how far it has come, which bounds what a restart looks at again."""


class Wanted:
    """A filter and the offset from which it counts."""

    __slots__ = ("filter", "start")

    def __init__(self, filter: RecordFilter, start: int) -> None:
        self.filter = filter
        self.start = start


class Member:
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

    def wants(self, key: bytes | None, headers: Sequence[Header]) -> bool:
        """Whether it takes such a record when it is published now."""
        raise NotImplementedError

    def close(self) -> None:
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
        source = self.feed.source
        for arrival in arrivals_of(batch, max(from_offset, self.start)):
            self.queue.take(source, *arrival)


class Picking(Member, LiveSubscriber):
    """A queue with filters."""

    __slots__ = ("_last", "_wanted")

    is_picking = True

    def __init__(self, feed: SourceFeed, queue: RememberedQueue, wanted: Sequence[Wanted]) -> None:
        super().__init__(feed, queue)
        self._wanted = wanted
        self._last = -1  # offset that it was offered last: filters of two syntaxes may both match
        patterns: dict[tuple[str, Syntax], list[Wanted]] = {}
        for one in wanted:
            patterns.setdefault((one.filter.pattern, one.filter.syntax), []).append(one)
        live = feed.live()
        for (pattern, syntax), same in patterns.items():
            live.subscribe(self, pattern, tuple(same), syntax=syntax)

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

    def takes(self, key: bytes | None, headers: Sequence[Header], options: Sequence[Sequence[Wanted]]) -> bool:
        """The same for a record whose key is known to match ``options``."""
        return any(wanted.filter.matches_rest(key, headers) for same in options for wanted in same)

    def take_record(self, record: Record, options: Sequence[Sequence[Wanted]]) -> None:
        """Offer it a record of the past; ``options`` are those of its filters whose patterns match."""
        if record.offset <= self._last:
            return
        for same in options:
            for wanted in same:
                if wanted.start <= record.offset and wanted.filter.matches_rest(record.key, record.headers):
                    self._last = record.offset
                    orders = orders_of(record.headers) if record.headers else PLAIN
                    self.queue.take(self.feed.source, record.offset, 1, record_bytes(record), orders)
                    return

    def close(self) -> None:
        self.feed.live().remove(self)


class SourceFeed:
    """All queues that take from one partition; a listener of it. Belongs to the broker's thread."""

    def __init__(self, context: QueueContext, partition: Partition) -> None:
        self.context = context
        self.partition = partition
        self.source = context.sources.number_of(partition)
        self.members: dict[RememberedQueue, Member] = {}
        self._whole: list[Whole] = []
        self._touched: dict[RememberedQueue, None] = {}
        self._unchecked_bytes = 0
        self._catching_up = CatchingUp(self)
        self._has_tail = False
        partition.add_listener(self)

    def live(self) -> Any:
        """The partition's live tail. It is asked before this feed, so that a commit's records are all there."""
        tail = self.context.services.live(self.partition)
        if not self._has_tail:
            self._has_tail = True
            self.partition.remove_listener(self)
            self.partition.add_listener(self)
        return tail

    # -- members -----------------------------------------------------------------------------------

    def attach(self, queue: RememberedQueue, sources: Iterable[QueueSource], position: int | None) -> None:
        """Let a queue take from here.

        Args:
          position: everything below it has been looked at for this queue; None: nothing has.
        """
        wanted = [Wanted(source.filter, self._start(source)) for source in sources]
        first = min(one.start for one in wanted)
        everything = [one for one in wanted if one.filter.is_everything]
        member: Member
        if len(everything) == len(wanted):
            member = Whole(self, queue, first)
        else:
            member = Picking(self, queue, wanted)
        self.members[queue] = member
        if queue.config.overflow == "reject":
            member.gate = Gate(member)
            self.partition.gates.append(member.gate)
        begin = max(first if position is None else position, self.partition.log_start_offset)
        if begin < self.partition.high_watermark:
            member.position = begin
            self._catching_up.add(member)
        elif isinstance(member, Whole):
            self._whole.append(member)

    def _start(self, source: QueueSource) -> int:
        if isinstance(source.start, dict) and source.topic_id == self.partition.topic.id:
            return source.start.get(self.partition.index, 0)
        return 0

    def detach(self, queue: RememberedQueue) -> None:
        """It takes nothing more from here."""
        member = self.members.pop(queue, None)
        if member is not None:
            member.close()
            if member.gate is not None:
                self.partition.gates.remove(member.gate)
            self._catching_up.remove(member)
            if isinstance(member, Whole) and member in self._whole:
                self._whole.remove(member)
        self.partition.readers.pop(queue.reader_name, None)

    def offer(self, members: Iterable[Member], batch: StoredBatch) -> None:
        """Offer a batch of the past to those that are behind; each from its position on."""
        picking: set[Picking] = set()
        for member in members:
            if isinstance(member, Picking):
                picking.add(member)
            elif isinstance(member, Whole):
                assert member.position is not None
                member.take_batch(batch, member.position)
        if not picking or batch.header.is_control:
            return
        try:
            records = batch.records(0, batch.header.next_offset)
        except TrunklineError:
            return  # as it is live: what cannot be read matches nothing
        wanting = self.live().wanting
        for record in records:
            for subscriber, options in wanting(record.key):
                if subscriber in picking and record.offset >= subscriber.position:
                    subscriber.take_record(record, options)

    def caught_up(self, member: Member) -> None:
        """It has been offered everything below the high watermark: it is live from now on."""
        member.position = None
        if isinstance(member, Whole):
            self._whole.append(member)

    @property
    def distance(self) -> int:
        """How far the one that is farthest behind has to go, in offsets."""
        high_watermark = self.partition.high_watermark
        return max((high_watermark - member.needed_from for member in self.members.values()), default=0)

    def is_wanted(self, key: bytes | None, headers: Iterable[Header]) -> bool:
        """Whether any queue takes such a record."""
        if not self._has_tail:
            return bool(self.members)
        if any(not member.is_picking for member in self.members.values()):
            return True
        found = tuple(headers)
        return any(
            isinstance(subscriber, Picking) and subscriber.takes(key, found, options)
            for subscriber, options in self.live().wanting(key)
        )

    async def wait_caught_up(self) -> None:
        """Wait until nobody is behind."""
        await self._catching_up.wait()

    # -- live --------------------------------------------------------------------------------------

    def records_committed(self, partition: Partition, base_offset: int, next_offset: int, batches: list[bytes]) -> None:
        if self._whole:
            self._take_whole(batches)
        if self._touched:
            touched, self._touched = self._touched, {}
            for queue in touched:
                self.context.serve(queue)
            self.context.cache.forget_singles()
        self._unchecked_bytes += sum(map(len, batches))
        if self._unchecked_bytes > CHECKPOINT_BYTES:
            self._unchecked_bytes = 0
            for queue in self.members:
                queue.changed()

    def _take_whole(self, batches: list[bytes]) -> None:
        cache, source, whole = self.context.cache, self.source, self._whole
        is_awaited = any(member.queue.has_consumers for member in whole)
        for data in batches:
            batch = StoredBatch(data)
            if is_awaited:
                cache.add(source, batch)
            for arrival in arrivals_of(batch):
                for member in whole:
                    if arrival.offset >= member.start:
                        member.queue.take(source, *arrival)
        for member in whole:
            self._touched[member.queue] = None

    def picked(self, queue: RememberedQueue, record: Record, orders: Orders) -> None:
        """A record that was committed just now is for this queue."""
        if queue.has_consumers:
            self.context.cache.add_single(self.source, record)
        queue.take(self.source, record.offset, 1, record_bytes(record), orders)
        self._touched[queue] = None

    def partition_closed(self, partition: Partition, error: TrunklineError | None) -> None:
        self._catching_up.stop()

    def close(self) -> None:
        """No queue takes from here any more."""
        self.partition.remove_listener(self)
        self._catching_up.stop()
