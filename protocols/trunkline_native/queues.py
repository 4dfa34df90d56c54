"""One connection's part in queues: its consumptions, and what it asks about queues.

Records go out as they lie in the log: a frame is a table of runs and their batches, untouched. What comes back are
ranges of sequences. A client that acknowledges one by one sends a frame for each; those that arrive in one read are
joined, and reach the queue as ranges again.

When the client's buffer is full, all of its consumptions pause until it has drained: a queue then gives its records to
others. When the connection breaks, what it held goes back to its place at once.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final, cast

from trunkline.errors import (
    CorruptBatch,
    DecompressionLimitExceeded,
    Overloaded,
    RemoteProtocolError,
    TrunklineError,
)
from trunkline.queues import QueueConsumer
from trunkline_native.bridge import failure_fields
from trunkline_native.codec import encode, encode_deliver_head
from trunkline_native.queue_control import ANSWERS
from trunkline_native.queue_frames import (
    CancelConsumption,
    Consume,
    Consuming,
    ConsumptionEnd,
    DeliverySource,
    Durable,
    Extend,
    Reject,
    Release,
    SetPrefetch,
    Settle,
    decode_ranges,
    encode_run,
)
from trunkline_native.views import View

if TYPE_CHECKING:
    from trunkline.partition import Partition
    from trunkline.queues import Block, Consumption
    from trunkline_native.connection import NativeConnection
    from trunkline_native.header import Header

__all__ = ["QUEUE_FRAMES", "Queues"]

logger = logging.getLogger("trunkline_native")

MAX_REASON_CHARACTERS: Final = 200

Range = tuple[int, int]


class _Consumer(QueueConsumer):
    """One consumption of this connection, as its queue sees it.

    Attributes:
      consumption: None until the queue has taken this consumer; records may come before that.
      settled: ranges that arrived in this read, to be settled at its end.
    """

    __slots__ = ("_owner", "consumption", "number", "settled")

    def __init__(self, owner: Queues, number: int) -> None:
        self._owner = owner
        self.number = number
        self.consumption: Consumption | None = None
        self.settled: list[Range] = []

    def deliver(self, blocks: list[Block]) -> None:
        """See :class:`trunkline.queues.QueueConsumer`."""
        self._owner.deliver(self, blocks)

    def cancelled(self, error: TrunklineError) -> None:
        """See :class:`trunkline.queues.QueueConsumer`."""
        self._owner.cancelled(self, error)


class Queues(View):
    """Made with the first frame about queues."""

    def __init__(self, connection: NativeConnection) -> None:
        self._connection = connection
        self._transport = connection.transport
        self._consumers: dict[int, _Consumer] = {}
        self._settling: dict[_Consumer, None] = {}  # have something in ``settled``
        self._sources: dict[Partition, int] = {}
        self._is_paused = False
        self.handlers = {
            Settle: self._settle,
            Release: self._release,
            Reject: self._reject,
            Extend: self._extend,
            Consume: self._consume,
            CancelConsumption: self._cancel,
            SetPrefetch: self._set_prefetch,
            **dict.fromkeys(ANSWERS, self._control),
        }

    # -- from the connection -----------------------------------------------------------------------

    def received(self) -> None:
        """See View: what was acknowledged one by one reaches the queues."""
        if self._settling:
            settling, self._settling = self._settling, {}
            for consumer in settling:
                self._settle_now(consumer)

    def writable(self) -> None:
        """See View."""
        if self._is_paused:
            self._is_paused = False
            for consumer in tuple(self._consumers.values()):
                if self._is_paused:  # those before it have filled the buffer again
                    break
                if consumer.consumption is not None:
                    consumer.consumption.resume()

    def closed(self) -> None:
        """See View: what was acknowledged still counts, everything else goes back."""
        self.received()
        consumers, self._consumers = self._consumers, {}
        for consumer in consumers.values():
            if consumer.consumption is not None:
                consumer.consumption.close()

    # -- consuming ---------------------------------------------------------------------------------

    def _consume(self, request: Consume, body: bytes | memoryview) -> None:
        connection, number = self._connection, request.consumption
        connection.requests += 1
        if number in self._consumers:
            raise RemoteProtocolError(f"consumption {number} is already open")
        consumer = self._consumers[number] = _Consumer(self, number)
        try:
            if len(self._consumers) > connection.settings.max_streams:
                raise Overloaded(
                    f"{connection.settings.max_streams} consumptions are open on this connection; cancel one",
                    limit=connection.settings.max_streams,
                )
            queue = connection.broker.queues.get(request.name)
            consumption = queue.consume(
                consumer,
                prefetch=request.prefetch,
                prefetch_bytes=request.prefetch_bytes,
                priority=request.priority,
                exclusive=request.exclusive,
                auto_settle=request.auto_settle,
                name=connection.client_name,
            )
        except TrunklineError as error:
            self._consumers.pop(number, None)
            connection.fail(request.id, error)
            return
        consumer.consumption = consumption
        self._transport.write(encode(Consuming(request.id, queue.config.lock_timeout_ms)))
        if self._is_paused:
            consumption.pause()

    def _cancel(self, request: CancelConsumption, body: bytes | memoryview) -> None:
        consumer = self._consumers.pop(request.consumption, None)
        if consumer is not None and consumer.consumption is not None:
            self._settle_now(consumer)
            consumer.consumption.close()
            self._transport.write(encode(ConsumptionEnd(consumer.number)))

    def _set_prefetch(self, request: SetPrefetch, body: bytes | memoryview) -> None:
        consumption = self._consumption(request.consumption)
        if consumption is not None:
            consumption.set_prefetch(request.prefetch)

    def cancelled(self, consumer: _Consumer, error: TrunklineError) -> None:
        """The queue wants this consumer no more."""
        if self._consumers.pop(consumer.number, None) is not None:
            self._transport.write(encode(ConsumptionEnd(consumer.number, *failure_fields(error))))

    # -- delivering --------------------------------------------------------------------------------

    def deliver(self, consumer: _Consumer, blocks: list[Block]) -> None:
        """Send records that this consumer holds from now on."""
        limit = self._connection.settings.max_data_bytes
        runs: list[bytes] = []
        batches: list[bytes] = []
        size = 0
        for block in blocks:
            try:
                batch = block.batch()
            except (CorruptBatch, DecompressionLimitExceeded) as error:
                self._reject_unreadable(consumer, block, error)
                continue
            if size + len(batch) > limit and batches:
                self._send(consumer.number, runs, batches, size)
                runs, batches, size = [], [], 0
            source = self._sources.get(block.partition)
            if source is None:
                source = self._name_source(block.partition)
            runs.append(encode_run(source, block.deliveries, block.sequence, block.offset, block.count))
            batches.append(batch)
            size += len(batch)
        if batches:
            self._send(consumer.number, runs, batches, size)
        if self._transport.is_congested and not self._is_paused:
            self._pause()

    def _send(self, number: int, runs: list[bytes], batches: list[bytes], size: int) -> None:
        table = b"".join(runs)
        write = self._transport.write
        write(encode_deliver_head(number, len(runs), len(table) + size) + table)
        for batch in batches:
            write(batch)

    def _reject_unreadable(self, consumer: _Consumer, block: Block, error: TrunklineError) -> None:
        """Whoever wrote it wrote nonsense: one such batch must not come back to one consumer after the other."""
        logger.warning("%s offset %d: %s; rejected", block.partition.name, block.offset, error)
        if consumer.consumption is not None:
            consumer.consumption.reject([(block.sequence, block.sequence + block.count)], "unreadable")

    def _name_source(self, partition: Partition) -> int:
        source = self._sources[partition] = len(self._sources) + 1
        self._transport.write(encode(DeliverySource(source, partition.topic.name, partition.index)))
        return source

    def _pause(self) -> None:
        self._is_paused = True
        for consumer in self._consumers.values():
            if consumer.consumption is not None:
                consumer.consumption.pause()

    # -- what is held ------------------------------------------------------------------------------

    def _settle(self, request: Settle, body: bytes | memoryview) -> None:
        ranges = decode_ranges(body)
        consumer = self._consumers.get(request.consumption)
        if consumer is not None and ranges:
            settled = consumer.settled
            if not settled:
                self._settling[consumer] = None
                consumer.settled = ranges
            elif settled[-1][1] == ranges[0][0]:
                settled[-1] = (settled[-1][0], ranges[0][1])
                settled += ranges[1:]
            else:
                settled += ranges
        if request.id is not None:
            self._answer_durable(request.id, consumer)

    def _settle_now(self, consumer: _Consumer) -> None:
        settled = consumer.settled
        if settled and consumer.consumption is not None:
            consumer.settled = []
            consumer.consumption.settle(settled)

    def _answer_durable(self, request_id: int, consumer: _Consumer | None) -> None:
        connection = self._connection
        connection.requests += 1
        if consumer is None or consumer.consumption is None:
            connection.fail(request_id, TrunklineError("this consumption has ended; what it held was released"))
            return
        connection.begin_request()
        self._settle_now(consumer)
        consumer.consumption.when_durable(self, request_id)

    def append_done(self, token: object, offset: int) -> None:
        """See :class:`trunkline.partition.AppendReceiver`."""
        self._connection.inflight_requests -= 1
        self._transport.write(encode(Durable(cast(int, token))))

    def append_failed(self, token: object, error: TrunklineError) -> None:
        """See :class:`trunkline.partition.AppendReceiver`."""
        self._connection.inflight_requests -= 1
        self._connection.fail(cast(int, token), error)

    def _release(self, request: Release, body: bytes | memoryview) -> None:
        ranges = decode_ranges(body)
        consumption = self._consumption(request.consumption)
        if consumption is not None:
            consumption.release(ranges, delay_s=request.delay_ms / 1000, count=request.count)

    def _reject(self, request: Reject, body: bytes | memoryview) -> None:
        ranges = decode_ranges(body)
        consumption = self._consumption(request.consumption)
        if consumption is not None:
            consumption.reject(ranges, request.reason[:MAX_REASON_CHARACTERS])

    def _extend(self, request: Extend, body: bytes | memoryview) -> None:
        ranges = decode_ranges(body)
        consumption = self._consumption(request.consumption)
        if consumption is not None:
            consumption.extend(ranges, request.lock_timeout_ms / 1000)

    def _consumption(self, number: int) -> Consumption | None:
        """An open consumption; what was settled before reaches it first. None: it has just ended, perhaps."""
        consumer = self._consumers.get(number)
        if consumer is None:
            return None
        self._settle_now(consumer)
        return consumer.consumption

    # -- requests ----------------------------------------------------------------------------------

    def _control(self, request: Any, body: bytes | memoryview) -> None:
        self._connection.requests += 1
        self._connection.begin_request()
        self._connection.broker.start_soon(self._connection.answer, request, self._reply)

    async def _reply(self, request: Any) -> None:
        reply = await ANSWERS[type(request)](self._connection, request)
        self._transport.write(reply)


QUEUE_FRAMES: Final[tuple[type[Header], ...]] = (
    Settle,
    Release,
    Reject,
    Extend,
    Consume,
    CancelConsumption,
    SetPrefetch,
    *ANSWERS,
)
"""What is dealt with here."""
