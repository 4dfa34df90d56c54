"""What a channel consumes: consumers, and single messages. Sans-I/O.

A message is written in the round in which its queue gives it out.

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
from trunkline_amqp.errors import AmqpError, Reply, hard
from trunkline_amqp.methods import BasicCancel, BasicCancelOk, BasicConsume, BasicConsumeOk, BasicGet, BasicGetEmpty
from trunkline_amqp.replies import DIRECT_REPLY, Replies

if TYPE_CHECKING:
    from trunkline_amqp.channel import Channel
    from trunkline_amqp.topology import AmqpQueue

__all__ = ["Consuming"]

MAX_GETTERS: Final = 64
"""Queues of one channel that are remembered for the next basic.get."""


class Consuming:
    """The way out of one channel.

    Attributes:
      replies: those that come past all queues.
      unacked: deliveries that nothing was said about.
      last_queue: the queue that was declared last, which an empty name means.
    """

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.replies = Replies(channel)
        self.unacked = channel.acknowledging.unacked
        self.last_queue: str | None = None
        self._server = channel.connection.server
        self._consumers: dict[str, Consumer] = {}
        self._getters: dict[tuple[AmqpQueue, bool], Getter] = {}
        self._shared = SharedPrefetch(0)
        self._prefetch = 0
        self._is_paused = False  # the client's buffer is full
        self._is_flowing = True

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
        if tag in self._consumers or self.replies.has_tag(tag):
            raise hard(Reply.NOT_ALLOWED, f"attempt to reuse consumer tag '{tag[:100]}'")
        if method.queue == DIRECT_REPLY:
            self.replies.listen(method, tag)
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
            self.channel.settle_now()
            consumer.cancel()
            self._server.topology.consumer_gone(consumer.queue)
        elif self.replies.has_tag(method.consumer_tag):
            self.replies.stop()
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
        self.channel.settle_now()
        self.replies.stop()
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
