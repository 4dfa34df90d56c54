"""Exchanges, queues and bindings as they are declared: what is durable is stored before a call returns.

The model (:mod:`trunkline_amqp.model`) says what there is, ``__amqp`` keeps it, and the core has what follows from it:
a topic for each durable exchange, a queue for each queue with its home topic, and filters in that queue for its
bindings. The order of a change is such that a crash between two steps is mended by the next start, which compares:

    declare   stored, then made in the core: a start makes what is missing
    bind      stored, then set as filters of the queue: a start sets those that are missing, and takes away others
    delete    removed from the core, then from what is stored: a start makes the queue again, empty

Changes are made one after the other; what is declared again as it is, and what is asked for, does not wait for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import trio

from trunkline.errors import BrokerClosing, TrunklineError
from trunkline.queues.dead_letters import stage_copies
from trunkline_amqp import stored
from trunkline_amqp.checks import check_name, check_queue, check_same_queue
from trunkline_amqp.dead_letters import HANDLER, DeadLetters
from trunkline_amqp.declared import AmqpQueue
from trunkline_amqp.errors import AmqpError, Reply
from trunkline_amqp.exchange import NO_ARGUMENTS
from trunkline_amqp.exchanges import Exchanges
from trunkline_amqp.lifetimes import Lifetimes
from trunkline_amqp.model import Vhost
from trunkline_amqp.naming import DEFAULT_VHOST
from trunkline_amqp.queue_entry import QueueEntry
from trunkline_amqp.restoring import restore

if TYPE_CHECKING:
    from trunkline.broker import Broker
    from trunkline.errors import QueueFull
    from trunkline.pending import AppendReceiver

__all__ = ["AmqpQueue", "Topology"]


class Topology(Exchanges):
    """All that can be declared. Belongs to the broker's thread. See :class:`~trunkline_amqp.declared.Declared`.

    Attributes:
      consumer_gone, touched: to be called when a queue loses a consumer, or is asked for a message; see
        :class:`~trunkline_amqp.lifetimes.Lifetimes`.
    """

    def __init__(
        self,
        broker: Broker,
        *,
        vhosts: Iterable[str] = (DEFAULT_VHOST,),
        mqtt_topic: str = "mqtt",
        max_message_bytes: int = 0,
    ) -> None:
        super().__init__(broker, vhosts=vhosts, mqtt_topic=mqtt_topic, max_message_bytes=max_message_bytes)
        self._dead_letters = DeadLetters(self, self._core.by_name.get)
        self._lifetimes = Lifetimes(self._delete_quietly, broker.start_soon)
        self.consumer_gone = self._lifetimes.consumer_gone
        self.touched = self._lifetimes.touched

    # -- start and end -----------------------------------------------------------------------------

    async def open(self) -> None:
        """Read what is stored; make in the core what a crash left unmade. Raises CorruptLog, OSError."""
        entries: dict[bytes, bytes] = {}

        def apply(key: bytes, value: bytes | None, offset: int) -> None:
            if value is None:
                entries.pop(key, None)
            else:
                entries[key] = value

        await self._stored.replay(apply)
        restore(entries, self._vhosts)
        core = self._core
        for vhost in self._vhosts.values():
            core.taken.update(exchange.topic for exchange in vhost.exchanges.values())
            core.taken.update(queue.core_name for queue in vhost.queues.values())
            core.by_name.update({queue.core_name: queue for queue in vhost.queues.values()})
        for vhost in self._vhosts.values():
            for exchange in vhost.exchanges.values():
                if not exchange.is_predeclared:
                    await core.ensure_topic(exchange.topic)
            for queue in vhost.queues.values():
                await core.make_queue(vhost, queue)
                self.touched(queue)
        catalog = self._broker.views.catalog
        catalog.on_change(lambda name, topic: self._topics_changed())
        catalog.on_growth(lambda topic, had: self._topics_changed())
        self._broker.start_soon(self._lifetimes.run)
        self._broker.queues.handle_dead_letters(HANDLER, self._dead_letters)  # now it is known where they go

    def connection_closed(self, owner: object) -> None:
        """Its exclusive queues go."""
        for vhost in self._vhosts.values():
            for queue in [one for one in vhost.queues.values() if one.owner is owner]:
                self._broker.start_soon(self._delete_quietly, queue)

    async def _delete_quietly(self, queue: QueueEntry) -> None:
        vhost = self._vhosts[queue.vhost]
        async with self._lock:
            if vhost.queues.get(queue.name) is queue:
                with trio.CancelScope(shield=True), suppress(BrokerClosing):
                    await self._remove_queue(vhost, queue)

    # -- queues ------------------------------------------------------------------------------------

    async def declare_queue(
        self,
        vhost: str,
        name: str,
        *,
        durable: bool = False,
        exclusive: bool = False,
        auto_delete: bool = False,
        arguments: Mapping[str, Any] = NO_ARGUMENTS,
        passive: bool = False,
        owner: object | None = None,
    ) -> AmqpQueue:
        """Make a queue, or see whether it is there. Durable on return, if it is to be.

        Args:
          name: empty: one that no other queue has.
          owner: the connection that asks.

        Raises AmqpError: 404 (passive), 403 (a reserved name), 405 (it is exclusive to another connection), 406 (it is
        there and another, or cannot be so). Cancellation: may have happened.
        """
        there = self._vhost(vhost)
        if passive:
            return self.queue(vhost, name, owner)
        if not name:
            name = self._new_name(there)
        elif name not in there.queues:
            check_name("queue", name)
        if name not in there.queues:
            parsed = check_queue(vhost, name, arguments, durable=durable, exclusive=exclusive, auto_delete=auto_delete)
            async with self._lock:
                if name not in there.queues:
                    is_own = exclusive or not durable or parsed.kind == "stream"
                    core_name = self._core.free_name(vhost, name, "_q", is_new_queue=is_own)
                    queue = QueueEntry(
                        vhost,
                        name,
                        core_name,
                        durable=durable,
                        auto_delete=auto_delete,
                        owner=owner if exclusive else None,
                        arguments=parsed,
                        raw_arguments=arguments,
                        adopted=self._core.has_queue(core_name) and not is_own,
                        owns_topic=not self._core.has_topic(core_name),
                    )
                    with trio.CancelScope(shield=True):
                        await self._make_queue(there, queue)
                    self.touched(queue)
                    return queue
        found = self.queue(vhost, name, owner)
        self.touched(found)
        check_same_queue(vhost, found, arguments, durable=durable, exclusive=exclusive, auto_delete=auto_delete)
        return found

    async def _make_queue(self, vhost: Vhost, queue: QueueEntry) -> None:
        self._core.taken.add(queue.core_name)
        try:
            if not queue.is_volatile:
                await self._stored.write_durable([stored.StoredQueue.entry(queue)])
            await self._core.make_queue(vhost, queue)
        except TrunklineError:
            self._core.taken.discard(queue.core_name)
            raise
        self._core.by_name[queue.core_name] = queue
        self._places.pop(queue.core_name, None)
        vhost.add_queue(queue)

    def _new_name(self, vhost: Vhost) -> str:
        while True:
            name = f"amq.gen-{self._broker.random.getrandbits(120):030x}"
            if name not in vhost.queues:
                return name

    async def delete_queue(
        self, vhost: str, name: str, *, if_unused: bool = False, if_empty: bool = False, owner: object | None = None
    ) -> int:
        """Remove a queue with what is in it; how many messages. Nothing happens if it is not there.

        Raises AmqpError: 405 (exclusive to another connection), 406 (used, or not empty). Cancellation: may have
        happened.
        """
        there = self._vhost(vhost)
        count = 0
        async with self._lock:
            if name in there.queues:
                queue = self.queue(vhost, name, owner)
                if if_unused and queue.consumer_count:
                    raise AmqpError(Reply.PRECONDITION_FAILED, f"queue '{name}' in vhost '{vhost}' in use")
                if if_empty and queue.message_count:
                    raise AmqpError(Reply.PRECONDITION_FAILED, f"queue '{name}' in vhost '{vhost}' not empty")
                with trio.CancelScope(shield=True):
                    count = await self._remove_queue(there, queue)
        return count

    async def _remove_queue(self, vhost: Vhost, queue: QueueEntry) -> int:
        ready = queue.message_count
        gone = vhost.remove_queue(queue.name)
        self._lifetimes.removed(queue)
        await self._core.remove_queue(queue)
        await self._forget_bindings(vhost, gone)
        if not queue.is_volatile:
            await self._stored.write_durable([(stored.queue_key(vhost.name, queue.name), None)])
        self._core.taken.discard(queue.core_name)
        self._core.by_name.pop(queue.core_name, None)
        self._places.pop(queue.core_name, None)
        await self._remove_unbound(vhost, gone)
        return ready

    # -- messages that are refused -----------------------------------------------------------------

    def refused(
        self,
        error: QueueFull,
        exchange: str,
        key: str,
        raw: bytes,
        body: bytes,
        receiver: AppendReceiver,
        token: object = None,
    ) -> bool:
        """A message was not taken because a queue was full: dead-letter it, if that queue asks for this.

        Returns:
          Whether ``receiver`` is going to be answered: not where the queue does not ask for it, or nobody wants it.

        Raises what staging raises.
        """
        queue = self._core.by_name.get(error.queue)
        if queue is None or queue.arguments.overflow != "reject-publish-dlx":
            return False
        now = self._broker.now_ms()
        copies = self._dead_letters.published(queue, "max-length", exchange, key, raw, body, now)
        if copies:
            stage_copies(copies, receiver, token)
        return bool(copies)
