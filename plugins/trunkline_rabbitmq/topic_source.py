"""The partitions of topics, with a consumer group as the cursor.

The link is the group's one member, so the group's description shows it and its lag, nobody resets it by mistake while
it runs, and its offsets survive whatever happens to either side. When the group moves partitions (somebody else joined
it) the conversation ends, and the next one begins with what is assigned then.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Final, Literal, NamedTuple

import trio

from trunkline.broker import Broker
from trunkline.errors import OffsetOutOfRange, TrunklineError
from trunkline.groups import Assignment, OffsetAndMetadata
from trunkline.links import DeadLetter, Journal, LinkFailed, keep_dead_letters
from trunkline.log import TopicPartition
from trunkline.partition import Partition
from trunkline.records import decode_all, iter_headers, read_header
from trunkline_rabbitmq.outbound import Message
from trunkline_rabbitmq.progress import Progress
from trunkline_rabbitmq.sources import Source, ToMessage

__all__ = ["TopicSource"]

READ_BYTES: Final = 256 * 1024
SESSION_TIMEOUT_S: Final = 30.0
MAX_BEHIND: Final = 100_000
"""Runs of records that are done behind one that is not; then the partition waits for that one."""


class _Place(NamedTuple):
    """Where a message comes from."""

    lane: _Lane
    offset: int
    next_offset: int


class _Lane:
    """One partition; a TailListener."""

    def __init__(self, partition: Partition, position: int, wake: Callable[[], None]) -> None:
        self.partition = partition
        self.progress = Progress(position)
        self.committed = position
        self.ready: deque[Message] = deque()
        self._wake = wake

    @property
    def name(self) -> TopicPartition:
        return TopicPartition(self.partition.topic.name, self.partition.index)

    @property
    def has_more(self) -> bool:
        """There are records to read, and room to remember what is done of them."""
        progress = self.progress
        return progress.position < self.partition.high_watermark and progress.behind < MAX_BEHIND

    def records_committed(self, partition: Partition, base_offset: int, next_offset: int, batches: list[bytes]) -> None:
        """See :class:`trunkline.partition.TailListener`."""
        self._wake()

    def partition_closed(self, partition: Partition, error: TrunklineError | None) -> None:
        """Likewise."""
        self._wake()


class TopicSource(Source):
    """See the module's docstring; as ``start`` says where nothing is committed yet."""

    def __init__(
        self,
        broker: Broker,
        group: str,
        topics: Iterable[str],
        start: Literal["earliest", "latest"],
        dead_letter_topic: str,
        journal: Journal,
        to_message: ToMessage,
        wake: Callable[[], None],
    ) -> None:
        super().__init__(to_message, wake)
        self._broker = broker
        self._group = group
        self._topics = tuple(topics)
        self._start = start
        self._dead_letter_topic = dead_letter_topic
        self._journal = journal
        self._lanes: dict[TopicPartition, _Lane] = {}
        self._turn: deque[_Lane] = deque()
        self._member_id = ""
        self._generation = -1
        self._assigned = trio.Event()
        self._ended: Exception | None = None

    # -- membership --------------------------------------------------------------------------------

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """See :class:`Source`."""
        for topic in self._topics:
            await self._broker.ensure_topic(topic)
        groups = self._broker.groups
        joined = groups.join(
            self._group, self, topics=self._topics, client="rabbitmq", session_timeout_s=SESSION_TIMEOUT_S
        )
        self._member_id = joined.member_id
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._beat_forever)
                await self._assigned.wait()
                await self._commit_starts()
                yield
                nursery.cancel_scope.cancel()
        finally:
            for lane in self._lanes.values():
                lane.partition.remove_listener(lane)
            if self._ended is None:
                self._ended = LinkFailed("it is over")
                groups.leave(self._group, self._member_id)

    async def _beat_forever(self) -> None:
        while True:
            await trio.sleep(SESSION_TIMEOUT_S / 4)
            if self._ended is None:
                self._broker.groups.heartbeat(self._group, self._member_id)

    def assignment_changed(self, assignment: Assignment) -> None:
        """See :class:`trunkline.groups.MemberListener`."""
        self._generation = assignment.generation
        if assignment.revoked:
            self._fail(LinkFailed(f"group {self._group} has another member, which takes over some partitions"))
            return
        committed = self._broker.groups.committed(self._group, assignment.assigned)
        for name in assignment.assigned:
            if name not in self._lanes:
                offset = committed[name].offset if name in committed else -1
                self._add_lane(name, self._broker.partition(*name), offset)
        self._assigned.set()
        self.wake()

    def _add_lane(self, name: TopicPartition, partition: Partition, committed: int) -> None:
        first, end = partition.log_start_offset, partition.high_watermark
        is_known = committed >= 0
        position = committed if is_known else first if self._start == "earliest" else end
        if is_known and position < first:
            self._journal.counters["removed_unread"] += first - position
            self._journal.note(
                f"{partition.name}: retention removed {first - position} records before they were sent",
                self._broker.now_ms(),
            )
        lane = _Lane(partition, min(max(position, first), end), self.wake)
        lane.committed = committed
        self._lanes[name] = lane
        self._turn.append(lane)
        partition.add_listener(lane)

    def fenced(self, error: TrunklineError) -> None:
        """See :class:`trunkline.groups.MemberListener`."""
        self._fail(error)

    def _fail(self, error: Exception) -> None:
        if self._ended is None:
            self._ended = error
        self._assigned.set()
        self.wake()

    # -- messages ----------------------------------------------------------------------------------

    async def take(self, limit: int) -> list[Message]:
        """See :class:`Source`; also raises LinkFailed, TrunklineError when the source is over."""
        found: list[Message] = []
        for _ in range(len(self._turn)):
            if self._ended is not None:
                raise self._ended
            lane = self._turn[0]
            self._turn.rotate(-1)
            while len(found) < limit:
                if not lane.ready and not (lane.has_more and await self._read(lane)):
                    break
                while lane.ready and len(found) < limit:
                    found.append(lane.ready.popleft())
        return found

    async def _read(self, lane: _Lane) -> bool:
        """Decode the next chunk; False if there is nothing to send in it."""
        partition, progress = lane.partition, lane.progress
        refusal = partition.refusal
        if refusal is not None and partition.is_idle:
            raise refusal
        try:
            data = await partition.read(progress.position, READ_BYTES)
        except OffsetOutOfRange as error:  # retention was faster
            missing = error.log_start_offset - progress.position
            if missing <= 0:
                raise
            self._journal.counters["removed_unread"] += missing
            progress.read(error.log_start_offset - 1, error.log_start_offset)
            progress.done(error.log_start_offset - 1, error.log_start_offset)
            return lane.has_more and await self._read(lane)
        for position, header in iter_headers(data):
            self._decode(lane, data[position : position + header.size_bytes])
        return bool(lane.ready)

    def _decode(self, lane: _Lane, batch: bytes) -> None:
        progress = lane.progress
        header = read_header(batch)
        try:
            records = decode_all(batch, from_offset=progress.position)
        except TrunklineError as error:  # a client's batch with an intact checksum around nonsense
            self._journal.counters["unreadable"] += header.next_offset - progress.position
            self._journal.note(f"{lane.partition.name}: {error}", self._broker.now_ms())
            records = []
        topic = lane.partition.topic.name
        for record in records:
            offset = record.offset
            progress.read(offset, offset + 1)
            message = self.to_message(record, topic, _Place(lane, offset, offset + 1))
            if message is None:
                progress.done(offset, offset + 1)
            else:
                lane.ready.append(message)
        if progress.position < header.next_offset:
            position = progress.position
            progress.read(position, header.next_offset)
            progress.done(position, header.next_offset)

    def done(self, message: Message) -> None:
        """See :class:`Source`."""
        lane, offset, next_offset = message.place
        lane.progress.done(offset, next_offset)

    def give_back(self, message: Message, delay_s: float) -> bool:
        """A log does not take anything back."""
        return False

    async def dead_letter(self, message: Message, reason: str) -> None:
        """A copy of the record, with where it was and why, in the dead-letter topic."""
        lane, offset, _ = message.place
        partition = lane.partition
        place = TopicPartition(partition.topic.name, partition.index)
        await keep_dead_letters(self._broker, self._dead_letter_topic, [DeadLetter(place, offset, reason)])
        self.done(message)

    # -- offsets -----------------------------------------------------------------------------------

    async def _commit_starts(self) -> None:
        """So that a link that has sent nothing yet begins at the same place next time."""
        if self._ended is not None:
            raise self._ended
        await self.commit()

    async def commit(self) -> None:
        """See :class:`Source`."""
        changed = {
            name: lane.progress.committable
            for name, lane in self._lanes.items()
            if lane.progress.committable != lane.committed
        }
        if not changed or self._ended is not None:
            return
        waiting = _Waiting()
        self._broker.groups.commit(
            self._group,
            {name: OffsetAndMetadata(offset) for name, offset in changed.items()},
            member_id=self._member_id,
            generation=self._generation,
            receiver=waiting,
        )
        await waiting.done.wait()
        if waiting.error is not None:
            raise waiting.error
        for name, offset in changed.items():
            self._lanes[name].committed = offset

    @property
    def lag(self) -> int:
        """See :class:`Source`."""
        return sum(lane.partition.high_watermark - lane.progress.committable for lane in self._lanes.values())


class _Waiting:
    """Waits for a commit; an AppendReceiver."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.error: TrunklineError | None = None

    def append_done(self, token: object, offset: int) -> None:
        self.done.set()

    def append_failed(self, token: object, error: TrunklineError) -> None:
        self.error = error
        self.done.set()
