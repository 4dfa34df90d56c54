"""One partition as a source of queues: each committed batch is looked at once for all queues that take from it.

Those that take everything get runs of whole batches, those with filters single records
(:mod:`trunkline.queues.members`). Both kinds are *live*: what is committed reaches them in the same call, and those
with waiting consumers give it out before that call returns.

A queue that begins in the past, or is found again after a restart, is *behind* at first
(:mod:`trunkline.queues.catching_up`); it changes over in one step at the high watermark, so there is no gap and no
double.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from trunkline.errors import TrunklineError
from trunkline.queues.arrivals import Orders, arrivals_of, record_bytes
from trunkline.queues.blocks import StoredBatch
from trunkline.queues.catching_up import CatchingUp
from trunkline.queues.gate import Gate
from trunkline.queues.members import Member, Picking, Wanted, Whole
from trunkline.queues.positions import SharedPosition, position_key
from trunkline.queues.unwritten import Unwritten
from trunkline.records import Record

if TYPE_CHECKING:
    from trunkline.partition import Partition
    from trunkline.queues.config import QueueSource
    from trunkline.queues.context import QueueContext
    from trunkline.queues.remembered import RememberedQueue

__all__ = ["SourceFeed"]


class SourceFeed:
    """All queues that take from one partition; a listener of it. Belongs to the broker's thread.

    Attributes:
      alone: all feeds of a queue that takes from nowhere else.
      unwritten: who has taken what is not stored.
    """

    def __init__(self, context: QueueContext, partition: Partition) -> None:
        self.context = context
        self.partition = partition
        self.alone = (self,)
        self.source = context.sources.number_of(partition)
        self.members: dict[RememberedQueue, Member] = {}
        self._whole: list[Whole] = []
        self._touched: dict[RememberedQueue, None] = {}
        self.unwritten: Unwritten[RememberedQueue] = Unwritten()
        self._noted = -1  # the last shared position
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

    @property
    def is_volatile(self) -> bool:
        """The partition is in memory and in no catalog."""
        return not self.partition.topic.id

    # -- members -----------------------------------------------------------------------------------

    def attach(self, queue: RememberedQueue, sources: Iterable[QueueSource], position: int | None) -> None:
        """Let a queue take from here.

        Args:
          position: everything below it has been looked at for this queue; None: nothing has.
        """
        wanted = tuple([Wanted(source.filter, self._start(source)) for source in sources])
        first = min(one.start for one in wanted)
        member: Member
        if all(one.filter.is_everything for one in wanted):
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
        self.unwritten.forget(queue)
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
        self.passed(sum(map(len, batches)))

    def _take_whole(self, batches: list[bytes]) -> None:
        cache, whole = self.context.cache, self._whole
        is_awaited = any(member.queue.has_consumers for member in whole)
        for data in batches:
            batch = StoredBatch(data)
            if is_awaited:
                cache.add(self.source, batch)
            for arrival in arrivals_of(batch):
                for member in whole:
                    if arrival.offset >= member.start:
                        self.took(member.queue, *arrival)
        for member in whole:
            self._touched[member.queue] = None

    def picked(self, queue: RememberedQueue, record: Record, orders: Orders) -> None:
        """A record that was committed just now is for this queue."""
        if queue.has_consumers:
            self.context.cache.add_single(self.source, record)
        self.took(queue, record.offset, 1, record_bytes(record), orders)
        self._touched[queue] = None

    def took(self, queue: RememberedQueue, offset: int, count: int, size_bytes: int, orders: Orders) -> None:
        """Records of one batch are for this queue."""
        if not queue.is_volatile:
            self.unwritten.took(queue, offset)
        queue.take(self.source, offset, count, size_bytes, orders)

    # -- what is stored ----------------------------------------------------------------------------

    def passed(self, size_bytes: int) -> None:
        """So much was looked at for queues, of what was committed or of the past."""
        if self.unwritten.passed(size_bytes):
            self.note_position()
        self._write_due()

    def _write_due(self) -> None:
        due = self.unwritten.take_due()
        for queue in due:
            queue.changed()
        if due:
            self.context.services.rounds.call_soon(self._write_due)

    def note_position(self) -> None:
        """Store how far all queues have come, if that says more than they do themselves. Not durable on return."""
        entry = self.position_entry()
        if entry is not None:
            self.context.topic.write(*entry)

    def position_entry(self) -> tuple[bytes, bytes] | None:
        """The same as a record, to be written at once."""
        if self.is_volatile:
            return None
        offset = self.partition.high_watermark
        exceptions = self.unwritten.exceptions()
        for member in self._catching_up:
            assert member.position is not None
            number = member.queue.id
            exceptions[number] = min(member.position, exceptions.get(number, member.position))
        is_worth_it = offset != self._noted and len(exceptions) < len(self.members)
        if not is_worth_it or self.context.is_defining or not self.context.sources.save(self.source):
            return None
        self._noted = offset
        return position_key(self.source), SharedPosition(offset, exceptions).encode()

    def partition_closed(self, partition: Partition, error: TrunklineError | None) -> None:
        self._catching_up.stop()

    def close(self) -> None:
        """No queue takes from here any more."""
        self.partition.remove_listener(self)
        self._catching_up.stop()
