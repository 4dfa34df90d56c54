"""Who holds messages of a queue for a channel: a consumer, or who gets single ones. Sans-I/O.

Both are given blocks of records by the queue, make messages of them (:mod:`~trunkline_amqp.bridge`) and write them.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable
from struct import Struct
from typing import TYPE_CHECKING, Any, Final

from trunkline.errors import CorruptBatch, DecompressionLimitExceeded, TrunklineError
from trunkline.queues import Block, Consumption, QueueConsumer
from trunkline_amqp.bridge import messages_of
from trunkline_amqp.content import BASIC, encode_content
from trunkline_amqp.fields import encode_short_string
from trunkline_amqp.frames import BODY, FRAME_OVERHEAD, HEADER, METHOD
from trunkline_amqp.methods import BasicGetEmpty, BasicGetOk, encode_method
from trunkline_amqp.properties import with_header
from trunkline_amqp.streams import StreamReader

if TYPE_CHECKING:
    from trunkline.queues.consumption import Range
    from trunkline_amqp.consuming import Consuming
    from trunkline_amqp.topology import AmqpQueue

__all__ = ["Consumer", "Getter", "Holder"]

logger = logging.getLogger("trunkline.amqp")


class Holder(QueueConsumer):
    """Somebody that a queue gives records to.

    Attributes:
      consumption: None until the queue has taken it.
      settled: ranges that were acknowledged, and that the queue does not know of yet.
    """

    def __init__(self, owner: Consuming, queue: AmqpQueue, *, no_ack: bool) -> None:
        self.queue = queue
        self.consumption: Consumption | StreamReader | None = None
        self.settled: list[Range] = []
        self._owner = owner
        self._is_no_ack = no_ack

    @property
    def hold(self) -> Consumption | StreamReader:
        assert self.consumption is not None
        return self.consumption

    def settle_now(self) -> None:
        """Let the queue know what was acknowledged."""
        settled, self.settled = self.settled, []
        if settled:
            self.hold.settle(settled)

    def close(self) -> None:
        """What it holds goes back."""
        if self.consumption is not None:
            self.consumption.close()

    def _messages(self, block: Block) -> list[tuple[bytes, bytes, bytes, bytes]]:
        """Exchange, key, properties and body of each record. Raises CorruptBatch, DecompressionLimitExceeded."""
        records = block.records()
        place = self._owner.channel.connection.server.topology.place(block.partition.topic.name)
        messages = messages_of(records, place)
        kind = self.queue.kind
        if kind == "stream" or isinstance(self.consumption, StreamReader):
            return [
                (exchange, key, with_header(properties, "x-stream-offset", record.offset), body)
                for record, (exchange, key, properties, body) in zip(records, messages, strict=True)
            ]
        if block.deliveries and kind == "quorum":
            return [
                (exchange, key, with_header(properties, "x-delivery-count", block.deliveries), body)
                for exchange, key, properties, body in messages
            ]
        return messages

    def _reject_unreadable(self, block: Block, error: TrunklineError) -> None:
        """Whoever wrote it wrote nonsense: it must not come back to one consumer after the other."""
        logger.warning("%s offset %d: %s; rejected", block.partition.name, block.offset, error)
        ranges = [(block.sequence, block.sequence + block.count)]
        self._owner.channel.connection.server.call_last(lambda: self._reject(ranges))

    def _reject(self, ranges: list[Range]) -> None:
        if self.consumption is not None:
            self.consumption.reject(ranges, "unreadable")

    @abstractmethod
    def deliver(self, blocks: list[Block]) -> None: ...


_TAGS: Final = Struct(">QB")
_HEADER: Final = Struct(">BHIHHQ")
_HEAD: Final = Struct(">BHI")


class Consumer(Holder):
    """A consumer with a tag.

    Attributes:
      tag: the consumer tag.
    """

    def __init__(self, owner: Consuming, queue: AmqpQueue, tag: str, *, no_ack: bool) -> None:
        super().__init__(owner, queue, no_ack=no_ack)
        self.tag = tag
        self._prefix = b"\x00\x3c\x00\x3c" + encode_short_string(tag)
        self._is_cancelled = False

    def deliver(self, blocks: list[Block]) -> None:
        """See :class:`trunkline.queues.QueueConsumer`."""
        if self._is_cancelled:
            self._give_back(blocks)
            return
        owner = self._owner
        frames: list[bytes] = []
        for block in blocks:
            try:
                messages = self._messages(block)
            except (CorruptBatch, DecompressionLimitExceeded) as error:
                self._reject_unreadable(block, error)
                continue
            if self._is_no_ack:
                tag = owner.unacked.skip(block.count)
            else:
                tag = owner.unacked.add(self, block.sequence, block.count)
            self._write(messages, tag, block.deliveries > 0, frames)
        owner.channel.connection.transport.write(b"".join(frames))
        owner.channel.connection.server.delivered += len(frames)
        owner.wrote()

    def _write(
        self, messages: list[tuple[bytes, bytes, bytes, bytes]], tag: int, redelivered: bool, frames: list[bytes]
    ) -> None:
        """Frames for these, with tags from ``tag`` on."""
        channel, frame_max = self._owner.channel.number, self._owner.channel.connection.terms.frame_max
        prefix, prefix_size = self._prefix, len(self._prefix) + 11
        pack_tag, pack_head, pack_header, most = _TAGS.pack, _HEAD.pack, _HEADER.pack, frame_max - FRAME_OVERHEAD
        for exchange, key, properties, body in messages:
            size = len(body)
            if 0 < size <= most:
                frames.append(
                    b"%b%b%b%c%b%c%b\xce%b%b\xce%b%b\xce"
                    % (
                        pack_head(METHOD, channel, prefix_size + len(exchange) + len(key)),
                        prefix,
                        pack_tag(tag, redelivered),
                        len(exchange),
                        exchange,
                        len(key),
                        key,
                        pack_header(HEADER, channel, 12 + len(properties), BASIC, 0, size),
                        properties,
                        pack_head(BODY, channel, size),
                        body,
                    )
                )
            else:
                names = b"%c%b%c%b" % (len(exchange), exchange, len(key), key)
                method = prefix + pack_tag(tag, redelivered) + names
                frames.append(encode_content(channel, method, properties, body, frame_max))
            tag += 1

    def _give_back(self, blocks: list[Block]) -> None:
        """They were on their way when it was cancelled."""
        ranges = [(block.sequence, block.sequence + block.count) for block in blocks]
        self._owner.channel.connection.server.call_last(lambda: self._release(ranges))

    def _release(self, ranges: list[Range]) -> None:
        self.hold.release(ranges, count=False)

    def cancel(self) -> None:
        """It gets nothing more; what it holds it keeps."""
        self._is_cancelled = True
        if self.hold.unacked:
            self.hold.retire()
        else:
            self.hold.close()

    def cancelled(self, error: TrunklineError) -> None:
        """See :class:`trunkline.queues.QueueConsumer`."""
        self._owner.cancelled(self, error)


class Getter(Holder):
    """Who gets single messages of a queue, each when it asks.

    Attributes:
      is_waiting: a message is on its way to it.
      arrived: called when it has come.
    """

    def __init__(self, owner: Consuming, queue: AmqpQueue, *, no_ack: bool) -> None:
        super().__init__(owner, queue, no_ack=no_ack)
        self._taker: Consumption = queue.core.taker(self, auto_settle=no_ack)
        self.consumption = self._taker
        self.is_waiting = False
        self.arrived: Callable[[], Any] | None = None

    def take(self) -> bool | None:
        """See :meth:`trunkline.queues.Consumption.take`; the message is written when it comes."""
        self.is_waiting = True
        given = self._taker.take()
        if not given:
            self.is_waiting = False
        return given

    def deliver(self, blocks: list[Block]) -> None:
        """See :class:`trunkline.queues.QueueConsumer`."""
        self.is_waiting = False
        (block,) = blocks
        owner = self._owner
        channel = owner.channel
        try:
            ((exchange, key, properties, body),) = self._messages(block)
        except (CorruptBatch, DecompressionLimitExceeded) as error:
            self._reject_unreadable(block, error)
            channel.send(BasicGetEmpty())
        else:
            tag = owner.unacked.skip(1) if self._is_no_ack else owner.unacked.add(self, block.sequence, 1)
            method = BasicGetOk(
                delivery_tag=tag,
                redelivered=block.deliveries > 0,
                exchange=exchange.decode("utf-8", "surrogateescape"),
                routing_key=key.decode("utf-8", "surrogateescape"),
                message_count=self.queue.message_count,
            )
            connection = channel.connection
            connection.transport.write(
                encode_content(channel.number, encode_method(method), properties, body, connection.terms.frame_max)
            )
            connection.server.delivered += 1
        if self.arrived is not None:
            self.arrived()

    def cancelled(self, error: TrunklineError) -> None:
        """It is none of the queue's consumers, and so never told."""
