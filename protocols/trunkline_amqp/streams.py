"""Consuming a log by offset: stream queues, and any other queue's log for who asks with ``x-stream-offset``.

A stream keeps its messages and consumers only read: each has a place, and acknowledgements give it credit for more. Its
log is its home topic: dense, in one order, whatever exchanges it is bound to. What is published to it directly is
stored there at once; what its bindings bring is copied there by a :class:`Pump`, from a queue of the core that is fed
by those bindings. So records of other doors get there too, and an offset means the same after a restart. A crash may
leave a copy twice.

Another queue's log is what its sources hold, as far as its filters want it, taken or not. With several topics as
sources there is no one order among them, and an offset counts in each.

Positions (``x-stream-offset``): ``first``, ``last`` (the last message there is), ``next`` (the default), an offset, a
time, or how long ago: a number and one of Y, M, D, h, m, s.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

from trunkline.errors import RecordTooLarge, TrunklineError, UnknownQueue
from trunkline.live import Delivery, LiveSubscriber
from trunkline.queues import Block, Consumption, QueueConsumer
from trunkline.queues.blocks import SingleRecord
from trunkline.records import encode_headers
from trunkline_amqp.arguments import parse_age_ms
from trunkline_amqp.bridge import Place, message_of
from trunkline_amqp.errors import AmqpError, Reply
from trunkline_amqp.fields import Timestamp
from trunkline_amqp.routing import EXCHANGE_HEADER

if TYPE_CHECKING:
    from trunkline.filters import RecordFilter
    from trunkline.live import LiveTail
    from trunkline.partition import Partition
    from trunkline.queues.consumption import Range

__all__ = ["PUMPED_BYTES", "PUMPED_RECORDS", "Pump", "Start", "StreamReader", "find_start", "parse_start"]

logger = logging.getLogger("trunkline.amqp")

PUMPED_RECORDS: Final = 1000
PUMPED_BYTES: Final = 8 * 1024 * 1024
"""Under way at a time from a stream's bindings into its log."""

_RETRY_S: Final = 1.0

Start = Literal["first", "last", "next"] | int | tuple[Literal["time"], int]
"""Where to begin: an offset, or ``("time", ms since the epoch)``."""


def parse_start(value: Any, now_ms: int) -> Start:
    """What ``x-stream-offset`` says. Raises AmqpError (406)."""
    if value is None:
        return "next"
    if isinstance(value, Timestamp):
        return "time", int(value) * 1000
    if isinstance(value, int) and not isinstance(value, bool):
        return max(value, 0)
    if value in ("first", "last", "next"):
        named: Literal["first", "last", "next"] = value
        return named
    age_ms = parse_age_ms(value) if isinstance(value, str) else None
    if age_ms is not None:
        return "time", now_ms - age_ms
    raise AmqpError(
        Reply.PRECONDITION_FAILED,
        f"invalid arg 'x-stream-offset': use first, last, next, an offset, a timestamp or an age like 10m, "
        f"not {str(value)[:60]!r}",
    )


class _Member(LiveSubscriber):
    """A reader's place in one partition."""

    __slots__ = ("last", "partition", "reader", "tail")

    def __init__(self, reader: StreamReader, partition: Partition, tail: LiveTail) -> None:
        self.reader = reader
        self.partition = partition
        self.tail = tail
        self.last = -1

    def begin(self, filters: Iterable[RecordFilter], start: int) -> None:
        for wanted in filters:
            self.tail.subscribe(self, wanted.pattern, wanted, start=start, syntax=wanted.syntax)

    def deliver(self, delivery: Delivery, options: list[Any]) -> bool:
        record = delivery.record
        if record.offset > self.last and any(one.matches_rest(record.key, record.headers) for one in options):
            self.last = record.offset
            return self.reader.take(Block(0, 1, 0, self.partition, record.offset, SingleRecord(record)))
        return self.reader.has_room

    def live_closed(self, error: TrunklineError | None) -> None:
        self.reader.ended(error)


class StreamReader:
    """One consumer of a log. It has the methods of a :class:`~trunkline.queues.Consumption` that a channel calls.

    Args:
      prefetch: messages that it may hold; 0: no limit.
      auto_settle: it holds none.

    Attributes:
      unacked: messages that were delivered and not acknowledged.
    """

    def __init__(
        self, consumer: QueueConsumer, *, prefetch: int, auto_settle: bool, ended: Callable[[StreamReader], None]
    ) -> None:
        self.unacked = 0
        self.is_closed = False
        self._consumer = consumer
        self._prefetch = 0 if auto_settle else prefetch
        self._is_auto_settling = auto_settle
        self._is_paused = False
        self._ended = ended
        self._members: list[_Member] = []
        self._sequence = 0

    def begin(self, partition: Partition, tail: LiveTail, filters: Sequence[RecordFilter], start: int) -> None:
        """Read a partition from an offset on."""
        if not self.is_closed:
            member = _Member(self, partition, tail)
            self._members.append(member)
            member.begin(filters, start)

    @property
    def has_room(self) -> bool:
        return not self._is_paused and not self.is_closed and not 0 < self._prefetch <= self.unacked

    def take(self, block: Block) -> bool:
        """A message for the consumer; whether it may get more."""
        block.sequence = self._sequence
        self._sequence += 1
        if not self._is_auto_settling:
            self.unacked += 1
        self._consumer.deliver([block])
        return self.has_room

    def settle(self, ranges: Iterable[Range]) -> int:
        """These are done with: so many more may come."""
        done = min(sum(end - first for first, end in ranges), self.unacked)
        self.unacked -= done
        self._go_on()
        return done

    def release(self, ranges: Iterable[Range], *, delay_s: float = 0.0, count: bool = True) -> int:
        """Nothing comes back to a log; it is as if they were settled."""
        return self.settle(ranges)

    def reject(self, ranges: Iterable[Range], reason: str = "rejected") -> int:
        """So too."""
        return self.settle(ranges)

    def set_prefetch(self, prefetch: int) -> None:
        self._prefetch = prefetch
        self._go_on()

    def pause(self) -> None:
        """Give it nothing more until ``resume``; one message of each partition may still come."""
        self._is_paused = True

    def resume(self) -> None:
        self._is_paused = False
        self._go_on()

    def _go_on(self) -> None:
        if self.has_room:
            for member in self._members:
                member.tail.resume(member)

    def retire(self) -> None:
        """It gets nothing more."""
        self.close()

    def close(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            for member in self._members:
                member.tail.remove(member)
            self._ended(self)

    def ended(self, error: TrunklineError | None) -> None:
        """The log is gone."""
        if not self.is_closed:
            self.close()
            self._consumer.cancelled(
                UnknownQueue("the log is not there any more", queue="") if error is None else error
            )


async def find_start(partition: Partition, start: Start) -> int:
    """The offset at which to begin. Raises what reading raises."""
    first, end = partition.log_start_offset, partition.high_watermark
    if start == "first":
        return first
    if start == "last":
        return max(first, end - 1)
    if start == "next":
        return end
    if isinstance(start, tuple):
        found = await partition.find_timestamp(start[1])
        return partition.high_watermark if found is None else found
    return min(max(start, first), end)


class Pump(QueueConsumer):
    """Copies what a stream's bindings bring into its log; settled once the copy is durable.

    Args:
      home: the stream's log.
      place: how the records of a topic are read.
      now_ms: the broker's clock.
    """

    def __init__(self, home: Partition, place: Callable[[str], Place], now_ms: Callable[[], int]) -> None:
        self._home = home
        self._place = place
        self._now_ms = now_ms
        self.consumption: Consumption | None = None

    def deliver(self, blocks: list[Block]) -> None:
        for block in blocks:
            try:
                records = block.records()
            except TrunklineError as error:
                logger.error("%s: %r cannot be read and is left out: %s", self._home.name, block, error)
                self._settle(block.sequence, block.count)
                continue
            place = self._place(block.partition.topic.name)
            for number, record in enumerate(records):
                message = message_of(record, place)
                headers = [header for header in record.headers if header[0] != EXCHANGE_HEADER]
                headers.append((EXCHANGE_HEADER, message.exchange))
                token = block.sequence + number
                try:
                    self._home.stage_record(
                        self._now_ms(), message.routing_key, record.value, encode_headers(headers), self, token
                    )
                except RecordTooLarge as error:
                    logger.error("%s: a record is left out: %s", self._home.name, error)
                    self._settle(token, 1)
                except TrunklineError as error:
                    self.append_failed(token, error)

    def _settle(self, sequence: int, count: int) -> None:
        assert self.consumption is not None
        self.consumption.settle([(sequence, sequence + count)])

    def append_done(self, token: object, offset: int) -> None:
        assert isinstance(token, int)
        self._settle(token, 1)

    def append_failed(self, token: object, error: TrunklineError) -> None:
        assert isinstance(token, int)
        assert self.consumption is not None
        self.consumption.release([(token, token + 1)], delay_s=_RETRY_S, count=False)

    def cancelled(self, error: TrunklineError) -> None:
        """The stream is deleted, or the broker closes."""
