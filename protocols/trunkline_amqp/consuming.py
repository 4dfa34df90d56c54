"""What a channel consumes: consumers, single messages, what it holds and what it says of that. Sans-I/O.

A message is written in the round in which its queue gives it out. Acknowledgements are joined to ranges of sequences,
and reach the queues at the end of the read that they came in.

Limits: ``prefetch`` of each consumer, and one for all of the channel together (basic.qos with *global*); both may
change at any time. When the client's buffer is full all of its consumers pause, so that queues give to others.

A consumer that is cancelled keeps what it holds, and the client may still acknowledge that. What is not acknowledged
when the channel ends goes back to its place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from trunkline.errors import BrokerClosing, QueueInUse, TrunklineError
from trunkline.queues import SharedPrefetch
from trunkline_amqp.consumers import Consumer, Getter, Holder
from trunkline_amqp.content import Delivery, encode_deliver
from trunkline_amqp.errors import AmqpError, Reply, hard
from trunkline_amqp.methods import BasicCancel, BasicCancelOk, BasicConsume, BasicConsumeOk, BasicGet, BasicGetEmpty
from trunkline_amqp.publishing import DIRECT_REPLY, Message
from trunkline_amqp.unacked import Held, Unacked

if TYPE_CHECKING:
    from trunkline_amqp.channel import Channel
    from trunkline_amqp.topology import AmqpQueue

__all__ = ["Consuming"]

MAX_GETTERS: Final = 64
"""Queues of one channel that are remembered for the next basic.get."""


class Consuming:
    """The way out of one channel.

    Attributes:
      unacked: deliveries that nothing was said about.
      last_queue: the queue that was declared last, which an empty name means.
      reply_address: where replies to this channel go; None: it does not listen for any.
    """

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.unacked: Unacked[Holder] = Unacked()
        self.last_queue: str | None = None
        self.reply_address: str | None = None
        self._server = channel.connection.server
        self._consumers: dict[str, Consumer] = {}
        self._getters: dict[tuple[AmqpQueue, bool], Getter] = {}
        self._unsettled: dict[Holder, None] = {}
        self._shared = SharedPrefetch(0)
        self._prefetch = 0
        self._is_paused = False  # the client's buffer is full
        self._is_flowing = True
        self._reply_tag = b""
        self._transaction: list[tuple[int, bool, bool | None]] | None = None  # tag, multiple, requeue (None: ack)

    # -- consumers ---------------------------------------------------------------------------------

    def queue(self, name: str) -> AmqpQueue:
        """The queue; an empty name is the one declared last. Raises AmqpError: 404, 405."""
        connection = self.channel.connection
        return self._server.topology.queue(connection.terms.vhost, self.resolve(name), connection)

    def resolve(self, name: str) -> str:
        if name:
            return name
        if self.last_queue is None:
            raise AmqpError(Reply.NOT_FOUND, "no previously declared queue")
        return self.last_queue

    def consume(self, method: BasicConsume) -> None:
        """basic.consume. Raises AmqpError: 403 (exclusive), 404, 405, 406 (arguments), 530 (the tag is in use)."""
        tag = method.consumer_tag or self._server.new_name("amq.ctag-")
        if tag in self._consumers or (self.reply_address is not None and tag.encode() == self._reply_tag):
            raise hard(Reply.NOT_ALLOWED, f"attempt to reuse consumer tag '{tag[:100]}'")
        if method.queue == DIRECT_REPLY:
            self._listen_for_replies(method, tag)
            return
        queue = self.queue(method.queue)
        priority = method.arguments.get("x-priority", 0)
        if not isinstance(priority, int) or isinstance(priority, bool):
            raise AmqpError(Reply.PRECONDITION_FAILED, "invalid arg 'x-priority': it has to be an integer")
        consumer = Consumer(self, queue, tag, no_ack=method.no_ack)
        try:
            consumption = queue.consume(
                consumer,
                prefetch=0 if method.no_ack else self._prefetch,
                priority=priority,
                exclusive=method.exclusive,
                auto_settle=method.no_ack,
                shared=None if method.no_ack else self._shared,
                name=tag,
                arguments=method.arguments,
            )
        except QueueInUse:
            raise AmqpError(
                Reply.ACCESS_REFUSED, f"queue '{queue.name}' in vhost '{queue.vhost}' in exclusive use"
            ) from None
        consumer.consumption = consumption
        self._consumers[tag] = consumer
        self._server.consumers += 1
        if not method.no_wait:
            self.channel.send(BasicConsumeOk(consumer_tag=tag))
        if self._is_paused or not self._is_flowing:
            consumption.pause()

    def cancel(self, method: BasicCancel) -> None:
        """basic.cancel; also of a tag that there is not, as in RabbitMQ."""
        consumer = self._consumers.pop(method.consumer_tag, None)
        if consumer is not None:
            self._server.consumers -= 1
            self.settle_now()
            consumer.cancel()
            self._server.topology.consumer_gone(consumer.queue)
        elif self.reply_address is not None and method.consumer_tag.encode() == self._reply_tag:
            self._stop_replies()
        if not method.no_wait:
            self.channel.send(BasicCancelOk(consumer_tag=method.consumer_tag))

    def cancelled(self, consumer: Consumer, error: TrunklineError) -> None:
        """Its queue is gone, or the broker closes."""
        if self._consumers.pop(consumer.tag, None) is not None:
            self._server.consumers -= 1
            if not isinstance(error, BrokerClosing) and self.channel.connection.wants_cancels:
                self.channel.send_behind(BasicCancel(consumer_tag=consumer.tag, no_wait=True))

    def set_prefetch(self, count: int, *, for_all: bool) -> None:
        """basic.qos: for all consumers of the channel together, or for each that is to come."""
        if for_all:
            self._shared.set_limit(count)
        else:
            self._prefetch = count

    # -- direct replies ----------------------------------------------------------------------------

    def _listen_for_replies(self, method: BasicConsume, tag: str) -> None:
        if not method.no_ack:
            raise AmqpError(Reply.PRECONDITION_FAILED, "reply consumer cannot acknowledge")
        if self.reply_address is not None:
            raise AmqpError(Reply.PRECONDITION_FAILED, "reply consumer already set")
        self.reply_address = self._server.new_name(f"{DIRECT_REPLY}.")
        self._reply_tag = tag.encode()
        self._server.replies[self.reply_address.encode()] = self
        if not method.no_wait:
            self.channel.send(BasicConsumeOk(consumer_tag=tag))

    def _stop_replies(self) -> None:
        if self.reply_address is not None:
            self._server.replies.pop(self.reply_address.encode(), None)
            self.reply_address = None

    def reply(self, key: bytes, content: Message) -> bool:
        """A message for this channel, past all queues; False if its client does not keep up."""
        transport = self.channel.connection.transport
        if transport.is_congested:
            return False
        delivery = Delivery(self._reply_tag, self.unacked.skip(1), False, b"", key)
        frame_max = self.channel.connection.terms.frame_max
        _, raw, body = content
        transport.write(encode_deliver(self.channel.number, delivery, raw, body, frame_max))
        return True

    # -- single messages ---------------------------------------------------------------------------

    def getter(self, method: BasicGet) -> Getter:
        """Who gets single messages of this queue. Raises AmqpError: 404, 405, 540 (it is a stream)."""
        queue = self.queue(method.queue)
        if queue.kind == "stream":
            raise hard(Reply.NOT_IMPLEMENTED, f"basic.get not supported by stream queues: queue '{queue.name}'")
        found = self._getters.get((queue, method.no_ack))
        if found is None:
            if len(self._getters) >= MAX_GETTERS:
                self._getters = {
                    key: getter for key, getter in self._getters.items() if getter.is_waiting or getter.hold.unacked
                }
            found = self._getters[queue, method.no_ack] = Getter(self, queue, no_ack=method.no_ack)
        return found

    def get_nowait(self, method: BasicGet) -> bool:
        """basic.get, answered if that can be done now."""
        getter = self.getter(method)
        self._server.topology.touched(getter.queue)
        given = getter.take()
        if given is False:
            self.channel.send(BasicGetEmpty())
        return given is not None and not getter.is_waiting

    # -- what is held ------------------------------------------------------------------------------

    def acknowledge(self, tag: int, multiple: int) -> None:
        """basic.ack. Raises AmqpError (406): nothing with this tag is unacknowledged."""
        if self._transaction is not None:
            self._hold(tag, bool(multiple), None)
        elif multiple:
            for holder, first, end in self._through(tag):
                self._settle(holder, first, end)
        else:
            held = self.unacked.take(tag)
            if held is None:
                raise _unknown(tag)
            self._settle(*held)

    def acknowledge_run(self, first: int, end: int) -> None:
        """basic.ack for each of these deliveries."""
        held = None if self._transaction is not None else self.unacked.take_run(first, end)
        if held is not None:
            self._settle(*held)
            return
        for tag in range(first, end):
            self.acknowledge(tag, 0)

    def _settle(self, holder: Holder, first: int, end: int) -> None:
        settled = holder.settled
        if not settled:
            if not self._unsettled:
                self.channel.settle_soon()
            self._unsettled[holder] = None
            settled.append((first, end))
        elif settled[-1][1] == first:
            settled[-1] = settled[-1][0], end
        else:
            settled.append((first, end))

    def settle_now(self) -> None:
        """Let the queues know what was acknowledged."""
        if self._unsettled:
            unsettled, self._unsettled = self._unsettled, {}
            for holder in unsettled:
                holder.settle_now()

    def refuse(self, tag: int, *, multiple: bool, requeue: bool, is_single: bool = False) -> None:
        """basic.nack, basic.reject. Raises AmqpError (406)."""
        if self._transaction is not None:
            self._hold(tag, multiple, requeue)
            return
        if multiple and not is_single:
            refused = self._through(tag)
        else:
            held = self.unacked.take(tag)
            if held is None:
                raise _unknown(tag)
            refused = [held]
        self.settle_now()
        for holder, first, end in refused:
            if requeue:
                holder.hold.release([(first, end)])
            else:
                holder.hold.reject([(first, end)])

    def _through(self, tag: int) -> list[Held[Holder]]:
        """Everything up to a tag; 0: everything."""
        held = self.unacked.take_through(tag) if tag else self.unacked.take_all()
        if held is None:
            raise _unknown(tag)
        return held

    def recover(self) -> None:
        """basic.recover: everything that is held goes back."""
        self.settle_now()
        for holder, first, end in self.unacked.take_all():
            holder.hold.release([(first, end)])

    # -- transactions ------------------------------------------------------------------------------

    def select_transactions(self) -> None:
        """Acknowledgements wait for tx.commit from now on."""
        if self._transaction is None:
            self._transaction = []

    def _hold(self, tag: int, multiple: bool, requeue: bool | None) -> None:
        if not (multiple and not tag) and not self.unacked.has(tag):
            raise _unknown(tag)
        assert self._transaction is not None
        self._transaction.append((tag or self.unacked.highest, multiple, requeue))
        if len(self._transaction) > MAX_HELD:
            raise hard(Reply.RESOURCE_ERROR, f"a transaction of more than {MAX_HELD} acknowledgements")

    def rollback(self) -> None:
        """Nothing of it was said."""
        self._transaction = []

    def commit(self) -> list[Holder]:
        """Say what was held back; of whose messages it was."""
        held, self._transaction = self._transaction, None
        touched: dict[Holder, None] = {}
        for tag, multiple, requeue in held or ():
            taken = self.unacked.take_through(tag) if multiple else None
            if not multiple and (one := self.unacked.take(tag)) is not None:
                taken = [one]
            for holder, first, end in taken or ():
                touched[holder] = None
                if requeue is None:
                    self._settle(holder, first, end)
                elif requeue:
                    holder.hold.release([(first, end)])
                else:
                    holder.hold.reject([(first, end)])
        self._transaction = []
        self.settle_now()
        return list(touched)

    # -- flow --------------------------------------------------------------------------------------

    def wrote(self) -> None:
        """Something was written: pause everybody of this connection if its client does not keep up."""
        connection = self.channel.connection
        if connection.transport.is_congested:
            for channel in connection.channels.values():
                channel.consuming.pause()

    def pause(self) -> None:
        if not self._is_paused:
            self._is_paused = True
            for consumer in self._consumers.values():
                consumer.hold.pause()

    def resume(self) -> None:
        """The client's buffer has drained."""
        if self._is_paused and not self.channel.connection.transport.is_congested:
            self._is_paused = False
            self._resume()

    def set_flow(self, active: bool) -> None:
        """channel.flow: whether the client wants to be sent anything."""
        self._is_flowing = active
        if active:
            self._resume()
        else:
            for consumer in self._consumers.values():
                consumer.hold.pause()

    def _resume(self) -> None:
        if self._is_flowing and not self._is_paused:
            for consumer in tuple(self._consumers.values()):
                consumer.hold.resume()

    def close(self) -> None:
        """Everything that is held goes back."""
        self.settle_now()
        self._stop_replies()
        consumers, self._consumers = self._consumers, {}
        self._server.consumers -= len(consumers)
        holders: dict[Holder, Any] = dict.fromkeys(consumers.values())
        holders |= dict.fromkeys(self._getters.values())
        holders |= dict.fromkeys(held[0] for held in self.unacked.take_all())
        self._getters = {}
        for holder in holders:
            holder.close()
        for consumer in consumers.values():
            self._server.topology.consumer_gone(consumer.queue)


MAX_HELD: Final = 100_000
"""Acknowledgements of one transaction."""


def _unknown(tag: int) -> AmqpError:
    return AmqpError(Reply.PRECONDITION_FAILED, f"unknown delivery tag {tag}")
