"""Methods that take time: what is declared has to be on the disk before it is answered. The driver of a channel.

One task at a time for each channel, and only for these methods; what comes on the channel meanwhile waits in order.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

import trio

from trunkline.errors import BrokerClosing, StoreFull, TrunklineError
from trunkline_amqp.errors import AmqpError, Reply, hard
from trunkline_amqp.methods import (
    BasicGet,
    BasicGetEmpty,
    ExchangeBind,
    ExchangeBindOk,
    ExchangeDeclare,
    ExchangeDeclareOk,
    ExchangeDelete,
    ExchangeDeleteOk,
    ExchangeUnbind,
    ExchangeUnbindOk,
    Method,
    QueueBind,
    QueueBindOk,
    QueueDeclare,
    QueueDeclareOk,
    QueueDelete,
    QueueDeleteOk,
    QueuePurge,
    QueuePurgeOk,
    QueueUnbind,
    QueueUnbindOk,
    TxCommit,
    TxCommitOk,
)
from trunkline_amqp.replies import DIRECT_REPLY

if TYPE_CHECKING:
    from trunkline_amqp.channel import Channel

__all__ = ["ERRANDS", "Errands"]

logger = logging.getLogger("trunkline.amqp")


class Errands:
    """The slow part of one channel.

    Attributes:
      is_busy: something is under way; whatever else comes has to wait.
      behind: what to send behind its answer. A client that deletes a queue wants to hear that first, and then that its
        consumer has gone with it, as RabbitMQ tells it.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._changed: trio.Event | None = None
        self.is_busy = False
        self.behind: list[Method] = []

    def run(self, method: Method) -> None:
        """Do it, as soon as what the channel has published is committed."""
        self.is_busy = True
        self._channel.connection.server.spawn(self._run, method)

    async def _run(self, method: Method) -> None:
        channel = self._channel
        connection = channel.connection
        try:
            await self.wait_caught_up()
            if not channel.is_closed:
                self._answer(method, await ERRANDS[type(method)](channel, self, method))
        except TrunklineError as error:
            failure = error if isinstance(error, AmqpError) else _told(error)
            failure.class_id, failure.method_id = method.ids
            if not channel.is_closed:
                connection.fail(failure, channel)
        except Exception:  # the boundary: a bug ends this connection and no other
            logger.exception("%s: %s failed", channel, type(method).__name__)
            connection.fail(hard(Reply.INTERNAL_ERROR, "an internal error; the broker's log says more"))
        finally:
            self.is_busy = False
        behind, self.behind = self.behind, []
        for said in behind:
            if not channel.is_closed and not connection.is_over:
                channel.send(said)
        if connection.is_over:
            connection.server.topology.connection_closed(connection)  # what it declared in the meantime
        else:
            channel.go_on()

    def _answer(self, method: Method, answer: Method | None) -> None:
        if answer is not None and not self._channel.is_closed and not getattr(method, "no_wait", False):
            self._channel.send(answer)

    async def wait_caught_up(self) -> None:
        """Until everything that was published on the channel is committed, or the channel is closed."""
        while self._channel.publishing.in_flight and not self._channel.is_closed:
            self._changed = trio.Event()
            await self._changed.wait()

    def caught_up(self) -> None:
        """Called when that is so."""
        if self._changed is not None:
            self._changed.set()

    async def wait_for(self, begin: Callable[[Callable[[], None]], None]) -> None:
        """Call ``begin`` with what it has to call when it is over, and wait for that."""
        over = trio.Event()
        begin(over.set)
        await over.wait()


def _told(error: TrunklineError) -> AmqpError:
    """Somebody else's error, as a client is told of it."""
    if isinstance(error, BrokerClosing):
        return hard(Reply.CONNECTION_FORCED, str(error))
    if isinstance(error, StoreFull):
        return hard(Reply.RESOURCE_ERROR, str(error))
    logger.error("an AMQP method failed: %s", error)
    return AmqpError(Reply.INTERNAL_ERROR, str(error), is_hard=True)


# -- what is to be done ----------------------------------------------------------------------------


async def _declare_exchange(channel: Channel, errands: Errands, method: ExchangeDeclare) -> Method:
    await channel.connection.server.topology.declare_exchange(
        channel.connection.terms.vhost,
        method.exchange,
        method.type,
        durable=method.durable,
        auto_delete=method.auto_delete,
        internal=method.internal,
        arguments=method.arguments,
        passive=method.passive,
    )
    return ExchangeDeclareOk()


async def _delete_exchange(channel: Channel, errands: Errands, method: ExchangeDelete) -> Method:
    connection = channel.connection
    await connection.server.topology.delete_exchange(
        connection.terms.vhost, method.exchange, if_unused=method.if_unused
    )
    return ExchangeDeleteOk()


async def _bind_exchange(channel: Channel, errands: Errands, method: ExchangeBind) -> Method:
    await channel.connection.server.topology.bind_exchange(
        channel.connection.terms.vhost, method.destination, method.source, method.routing_key, method.arguments
    )
    return ExchangeBindOk()


async def _unbind_exchange(channel: Channel, errands: Errands, method: ExchangeUnbind) -> Method:
    await channel.connection.server.topology.unbind_exchange(
        channel.connection.terms.vhost, method.destination, method.source, method.routing_key, method.arguments
    )
    return ExchangeUnbindOk()


async def _declare_queue(channel: Channel, errands: Errands, method: QueueDeclare) -> Method:
    connection = channel.connection
    if method.queue.startswith(DIRECT_REPLY):
        if method.queue == DIRECT_REPLY or method.queue.encode() in connection.server.replies:
            return QueueDeclareOk(queue=method.queue, message_count=0, consumer_count=1)
        raise AmqpError(Reply.NOT_FOUND, f"no queue '{method.queue[:100]}' in vhost '{connection.terms.vhost}'")
    queue = await connection.server.topology.declare_queue(
        connection.terms.vhost,
        channel.consuming.resolve(method.queue) if method.passive else method.queue,
        durable=method.durable,
        exclusive=method.exclusive,
        auto_delete=method.auto_delete,
        arguments=method.arguments,
        passive=method.passive,
        owner=connection,
    )
    channel.consuming.last_queue = queue.name
    return QueueDeclareOk(queue=queue.name, message_count=queue.message_count, consumer_count=queue.consumer_count)


async def _bind_queue(channel: Channel, errands: Errands, method: QueueBind) -> Method:
    connection = channel.connection
    queue = channel.consuming.resolve(method.queue)
    await connection.server.topology.bind_queue(
        connection.terms.vhost,
        queue,
        method.exchange,
        method.routing_key if method.queue or method.routing_key else queue,
        method.arguments,
        owner=connection,
    )
    return QueueBindOk()


async def _unbind_queue(channel: Channel, errands: Errands, method: QueueUnbind) -> Method:
    connection = channel.connection
    await connection.server.topology.unbind_queue(
        connection.terms.vhost,
        channel.consuming.resolve(method.queue),
        method.exchange,
        method.routing_key,
        method.arguments,
        owner=connection,
    )
    return QueueUnbindOk()


async def _purge(channel: Channel, errands: Errands, method: QueuePurge) -> Method:
    queue = channel.consuming.queue(method.queue)
    if queue.kind == "stream":
        raise hard(Reply.NOT_IMPLEMENTED, f"queue.purge not supported by stream queues queue '{queue.name}'")
    return QueuePurgeOk(message_count=await queue.core.purge())


async def _delete_queue(channel: Channel, errands: Errands, method: QueueDelete) -> Method:
    connection = channel.connection
    count = await connection.server.topology.delete_queue(
        connection.terms.vhost,
        channel.consuming.resolve(method.queue),
        if_unused=method.if_unused,
        if_empty=method.if_empty,
        owner=connection,
    )
    return QueueDeleteOk(message_count=count)


async def _get(channel: Channel, errands: Errands, method: BasicGet) -> Method | None:
    getter = channel.consuming.getter(method)
    while (given := getter.take()) is None:
        await getter.queue.core.load_head()
    if not given:
        return BasicGetEmpty()
    if getter.is_waiting:
        await errands.wait_for(lambda over: setattr(getter, "arrived", over))
        getter.arrived = None
    return None


class _Durable:
    """Waits until acknowledgements are on the disk; an append receiver."""

    def __init__(self, over: Callable[[], None]) -> None:
        self._over = over
        self.error: TrunklineError | None = None

    def append_done(self, token: object, offset: int) -> None:
        self._over()

    def append_failed(self, token: object, error: TrunklineError) -> None:
        self.error = error
        self._over()


async def _commit(channel: Channel, errands: Errands, method: TxCommit) -> Method:
    channel.publishing.commit()
    await errands.wait_caught_up()
    for holder in channel.acknowledging.commit():
        durable: list[_Durable] = []

        def begin(over: Callable[[], None], holder: Any = holder, durable: list[_Durable] = durable) -> None:
            durable.append(_Durable(over))
            holder.hold.when_durable(durable[0], None)

        await errands.wait_for(begin)
        if durable[0].error is not None:
            raise durable[0].error
    return TxCommitOk()


ERRANDS: Final[dict[type[Method], Callable[[Channel, Errands, Any], Awaitable[Method | None]]]] = {
    ExchangeDeclare: _declare_exchange,
    ExchangeDelete: _delete_exchange,
    ExchangeBind: _bind_exchange,
    ExchangeUnbind: _unbind_exchange,
    QueueDeclare: _declare_queue,
    QueueBind: _bind_queue,
    QueueUnbind: _unbind_queue,
    QueuePurge: _purge,
    QueueDelete: _delete_queue,
    BasicGet: _get,
    TxCommit: _commit,
}
"""What takes time, and how it is done; the answer, unless it was given already."""
