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

import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import msgspec
import trio

from trunkline.errors import BrokerClosing, TopicExists, TrunklineError, UnknownQueue
from trunkline.filters import RecordFilter
from trunkline.queues import QueueConsumer, QueueSource
from trunkline.queues.dead_letters import stage_copies
from trunkline.settings import TOPIC_SETTINGS
from trunkline_amqp import stored
from trunkline_amqp.arguments import parse_queue_arguments
from trunkline_amqp.bridge import Place
from trunkline_amqp.checks import (
    check_binding,
    check_exchange,
    check_name,
    check_queue,
    check_same_exchange,
    check_same_queue,
    locked,
    not_found,
    refuse_default,
)
from trunkline_amqp.dead_letters import HANDLER, DeadLetters
from trunkline_amqp.errors import AmqpError, Reply, hard
from trunkline_amqp.expiry import Expiries
from trunkline_amqp.fields import decode_table
from trunkline_amqp.model import NO_ARGUMENTS, STREAM_SUFFIX, Binding, Exchange, QueueEntry, Vhost
from trunkline_amqp.naming import DEFAULT_VHOST, free_name, topic_name
from trunkline_amqp.queue_config import queue_config, sources_of
from trunkline_amqp.routing import Route, Router
from trunkline_amqp.streams import PUMPED_RECORDS, Pump, Start, StreamReader, find_start, parse_start

if TYPE_CHECKING:
    from trunkline.broker import Broker
    from trunkline.errors import QueueFull
    from trunkline.pending import AppendReceiver
    from trunkline.topic import Topic

__all__ = ["AmqpQueue", "Topology"]

STATE_TOPIC: Final = "__amqp"

AmqpQueue = QueueEntry
"""A queue as AMQP knows it; ``core`` is what it is consumed through."""

_PREDECLARED: Final = (
    ("amq.direct", "direct"),
    ("amq.fanout", "fanout"),
    ("amq.topic", "topic"),
    ("amq.headers", "headers"),
    ("amq.match", "headers"),
)


class Topology:
    """What is declared in all virtual hosts. Belongs to the broker's thread.

    Args:
      vhosts: the virtual hosts that there are.
      mqtt_topic: the topic that exchange ``amq.topic`` of virtual host ``/`` shares with MQTT.
      max_message_bytes: body of the largest message; topics that are made here take records of that size.
    """

    def __init__(
        self,
        broker: Broker,
        *,
        vhosts: Iterable[str] = (DEFAULT_VHOST,),
        mqtt_topic: str = "mqtt",
        max_message_bytes: int = 0,
    ) -> None:
        self._broker = broker
        self._queues = broker.queues
        self._stored = broker.views.state_topic(STATE_TOPIC)
        self._mqtt_topic = mqtt_topic
        self._max_record_bytes = max_message_bytes + RECORD_OVERHEAD_BYTES if max_message_bytes else 0
        self._lock = trio.Lock()
        self._vhosts = {name: Vhost(name) for name in vhosts}
        self._routers = {name: Router(vhost, broker.topics) for name, vhost in self._vhosts.items()}
        self._places: dict[str, Place] = {}
        self._taken: dict[str, str] = {}  # names of topics and queues of the core -> "exchange", "queue"
        self._topic_changes = 0
        self._by_core: dict[str, QueueEntry] = {}
        self._dead_letters = DeadLetters(self, self._by_core.get)
        self._expiries = Expiries()
        self._expiries_changed = trio.Event()
        for vhost in self._vhosts.values():
            self._predeclare(vhost)

    def _predeclare(self, vhost: Vhost) -> None:
        for name, kind in _PREDECLARED:
            is_slashed = name == "amq.topic" and vhost.name == DEFAULT_VHOST and bool(self._mqtt_topic)
            topic = self._mqtt_topic if is_slashed else topic_name(vhost.name, name)
            exchange = Exchange(name, kind, durable=True, topic=topic, predeclared=True, slashed=is_slashed)
            self._taken[topic] = "exchange"
            vhost.add_exchange(exchange)

    # -- start -------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Read what is stored; make in the core what a crash left unmade. Raises CorruptLog, OSError."""
        entries: dict[bytes, bytes] = {}

        def apply(key: bytes, value: bytes | None, offset: int) -> None:
            if value is None:
                entries.pop(key, None)
            else:
                entries[key] = value

        self._queues.handle_dead_letters(HANDLER, self._dead_letters)
        await self._stored.replay(apply)
        found = [(*stored.read_key(key), value) for key, value in entries.items()]
        for kind, names, value in sorted(found, key=lambda entry: _ORDER[entry[0]]):
            if names[0] in self._vhosts:
                self._restore(self._vhosts[names[0]], kind, names[1:], value)
        for vhost in self._vhosts.values():
            for exchange in vhost.exchanges.values():
                if not exchange.is_predeclared:
                    await self._ensure_topic(exchange.topic)
            for queue in vhost.queues.values():
                await self._make_core(queue)
                self.touched(queue)
        self._broker.views.catalog.on_change(lambda name, topic: self._topics_changed())
        self._broker.views.catalog.on_growth(lambda topic, had: self._topics_changed())
        self._broker.start_soon(self._run_expiries)

    def _restore(self, vhost: Vhost, kind: bytes, names: list[Any], value: bytes) -> None:
        if kind == stored.EXCHANGE:
            exchange = stored.StoredExchange.decode(value).exchange(names[0])
            self._taken[exchange.topic] = "exchange"
            vhost.add_exchange(exchange)
        elif kind == stored.QUEUE:
            kept = stored.StoredQueue.decode(value)
            arguments = decode_table(kept.arguments)
            queue = QueueEntry(
                vhost.name,
                names[0],
                kept.core_name,
                durable=True,
                auto_delete=kept.auto_delete,
                owner=None,
                arguments=parse_queue_arguments(arguments, f"queue '{names[0]}'"),
                raw_arguments=arguments,
                adopted=kept.is_adopted,
                owns_topic=kept.owns_topic,
            )
            self._taken[kept.core_name] = "queue"
            self._by_core[kept.core_name] = queue
            vhost.add_queue(queue)
        else:
            source, destination, to_exchange, key, arguments = names
            there = vhost.exchanges if to_exchange else vhost.queues
            if source in vhost.exchanges and destination in there:  # else a crash came between two deletions
                table = decode_table(arguments) if arguments else NO_ARGUMENTS
                vhost.bind(vhost.binding(source, destination, key, table, to_exchange=to_exchange))

    def _topics_changed(self) -> None:
        self._topic_changes += 1
        for router in self._routers.values():
            router.forget()

    # -- questions ---------------------------------------------------------------------------------

    @property
    def version(self) -> int:
        """Changes with everything that can change a route."""
        return self._topic_changes + sum(vhost.version for vhost in self._vhosts.values())

    def has_vhost(self, name: str) -> bool:
        return name in self._vhosts

    def _vhost(self, name: str) -> Vhost:
        found = self._vhosts.get(name)
        if found is None:
            raise hard(Reply.NOT_ALLOWED, f"vhost {name} not found")
        return found

    def queue(self, vhost: str, name: str, owner: object | None) -> AmqpQueue:
        """The queue. Raises AmqpError: 404, 405 (it is exclusive to another connection)."""
        found = self._vhost(vhost).queues.get(name)
        if found is None:
            raise not_found("queue", name, vhost)
        if found.owner is not None and found.owner is not owner:
            raise locked(name, vhost)
        return found

    def router(self, vhost: str) -> Router:
        """Finds the routes in a virtual host."""
        return self._routers[vhost]

    def route(self, vhost: str, exchange: str, key: str, headers: Mapping[str, Any] | None = None) -> Route:
        """Where a message goes; remembered where it can be.

        Args:
          headers: of the message, if it has any.

        Raises AmqpError: 404 (no such exchange), 403 (it is internal), 406 (CC or BCC make no sense).
        """
        return self._routers[vhost].route(exchange, key, headers)

    def place(self, topic: str) -> Place:
        """How the records of a topic are read as messages."""
        found = self._places.get(topic)
        if found is None:
            found = self._places[topic] = self._find_place(topic)
        return found

    def _find_place(self, topic: str) -> Place:
        for vhost in self._vhosts.values():
            for exchange in vhost.exchanges.values():
                if exchange.topic == topic:
                    return Place(exchange.name.encode("utf-8"), is_slashed=exchange.is_slashed)
        return Place(b"", is_slashed=False)

    # -- exchanges ---------------------------------------------------------------------------------

    async def declare_exchange(
        self,
        vhost: str,
        name: str,
        kind: str,
        *,
        durable: bool = False,
        auto_delete: bool = False,
        internal: bool = False,
        arguments: Mapping[str, Any] = NO_ARGUMENTS,
        passive: bool = False,
    ) -> None:
        """Make an exchange, or see whether it is there. Durable on return, if it is to be.

        Raises AmqpError: 404 (passive), 403 (a reserved name), 406 (it is there and another, or cannot be so), 503 (no
        such kind). Cancellation: may have happened.
        """
        there = self._vhost(vhost)
        refuse_default(name)
        found = there.exchanges.get(name)
        if passive:
            if found is None:
                raise not_found("exchange", name, vhost)
            return
        wanted = {"durable": durable, "auto_delete": auto_delete, "internal": internal}
        if found is None:
            check_exchange(vhost, name, kind, arguments)
            async with self._lock:
                found = there.exchanges.get(name)
                if found is None:
                    topic = self._free_name(vhost, name, "_e") if durable else ""
                    exchange = Exchange(name, kind, topic=topic, arguments=arguments, **wanted)
                    with trio.CancelScope(shield=True):
                        await self._make_exchange(there, exchange)
                    return
        check_same_exchange(vhost, found, kind, wanted, arguments)

    async def _make_exchange(self, vhost: Vhost, exchange: Exchange) -> None:
        if exchange.topic:
            self._taken[exchange.topic] = "exchange"
            try:
                await self._stored.write_durable([stored.StoredExchange.entry(vhost.name, exchange)])
                await self._ensure_topic(exchange.topic)
            except TrunklineError:
                del self._taken[exchange.topic]
                raise
        self._places.pop(exchange.topic, None)
        vhost.add_exchange(exchange)

    async def delete_exchange(self, vhost: str, name: str, *, if_unused: bool = False) -> None:
        """Remove an exchange; its topic stays. Nothing happens if it is not there.

        Raises AmqpError: 403 (one that every virtual host has), 406 (``if_unused``, and it has bindings). Cancellation:
        may have happened.
        """
        there = self._vhost(vhost)
        refuse_default(name)
        async with self._lock:
            if name.startswith("amq."):
                problem = f"deletion of system exchange '{name}' in vhost '{vhost}' not allowed"
                raise AmqpError(Reply.ACCESS_REFUSED, problem)
            exchange = there.exchanges.get(name)
            if exchange is None:
                return
            if if_unused and exchange.bindings:
                raise AmqpError(Reply.PRECONDITION_FAILED, f"exchange '{name}' in vhost '{vhost}' in use")
            with trio.CancelScope(shield=True):
                await self._remove_exchange(there, exchange)

    async def _remove_exchange(self, vhost: Vhost, exchange: Exchange) -> None:
        affected = vhost.reachable(exchange.name)
        gone = vhost.remove_exchange(exchange.name)
        self._places.pop(exchange.topic, None)
        if exchange.topic:
            self._taken.pop(exchange.topic, None)
        await self._forget_bindings(vhost, gone, exchange.name)
        for queue in affected:
            await self._set_sources(vhost, queue)
        if exchange.is_durable:
            await self._stored.write_durable([(stored.exchange_key(vhost.name, exchange.name), None)])
        await self._remove_unbound(vhost, gone)

    async def _remove_unbound(self, vhost: Vhost, gone: Iterable[Binding]) -> None:
        """Auto-delete exchanges go with their last binding."""
        for name in {binding.source for binding in gone}:
            exchange = vhost.exchanges.get(name)
            if exchange is not None and exchange.is_auto_delete and not exchange.bindings:
                await self._remove_exchange(vhost, exchange)

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
                    core_name = self._free_name(vhost, name, "_q", is_new_queue=is_own)
                    queue = QueueEntry(
                        vhost,
                        name,
                        core_name,
                        durable=durable,
                        auto_delete=auto_delete,
                        owner=owner if exclusive else None,
                        arguments=parsed,
                        raw_arguments=arguments,
                        adopted=core_name in self._queues and not is_own,
                        owns_topic=core_name not in self._broker.topics,
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
        self._taken[queue.core_name] = "queue"
        try:
            if not queue.is_volatile:
                await self._stored.write_durable([stored.StoredQueue.entry(queue)])
            await self._make_core(queue)
        except TrunklineError:
            del self._taken[queue.core_name]
            raise
        self._by_core[queue.core_name] = queue
        vhost.add_queue(queue)

    async def _make_core(self, queue: QueueEntry) -> None:
        """See to it that the core has the queue, with the filters it is to have."""
        queue.read_log = self._read_log
        if queue.is_volatile:
            queue.core = self._queues.declare_volatile(queue.core_name, queue_config(queue.arguments, ()))
            queue.core.origin = _origin(queue)
            return
        home = await self._ensure_topic(queue.core_name, _stream_settings(queue))
        if queue.queue_name in self._queues:
            queue.core = self._queues.get(queue.queue_name)
        else:
            sources = () if queue.kind == "stream" else (self._beginning_now(QueueSource(queue.core_name)),)
            config = queue_config(queue.arguments, sources)
            queue.core = await self._queues.declare(queue.queue_name, config)
        queue.core.origin = _origin(queue)
        vhost = self._vhosts[queue.vhost]
        if queue.name in vhost.queues:  # it was there at the last start, and so may have bindings
            await self._set_sources(vhost, queue.name)
        if queue.kind == "stream":
            pump = Pump(home.partitions[0], self.place, self._broker.now_ms)
            pump.consumption = queue.core.consume(pump, prefetch=PUMPED_RECORDS, name="stream")

    def _beginning_now(self, source: QueueSource) -> QueueSource:
        """It takes what is published from now on, not what is on its way."""
        topic = self._broker.topics[source.topic]
        start = {partition.index: partition.staged_end_offset for partition in topic.partitions}
        return msgspec.structs.replace(source, start=start, topic_id=topic.id)

    async def _set_sources(self, vhost: Vhost, name: str) -> None:
        """Give the core's queue the filters that follow from its bindings."""
        queue = vhost.queues.get(name)
        if queue is None:
            return
        wanted = sources_of(vhost, queue)
        for topic in {source.topic for source in wanted}:
            await self._ensure_topic(topic)
        had = {source.wanted: source for source in queue.core.config.sources}
        if queue.is_adopted:
            wanted = [*(source for source in had.values() if source.wanted not in queue.bound_sources), *wanted]
        sources = {source.wanted: had.get(source.wanted) or self._beginning_now(source) for source in wanted}
        if sources.keys() != had.keys():
            queue.core = await self._queues.alter(queue.queue_name, sources=tuple(sources.values()))
        queue.bound_sources = {source.wanted for source in wanted}

    def _read_log(
        self,
        queue: QueueEntry,
        consumer: QueueConsumer,
        prefetch: int,
        auto_settle: bool,
        arguments: Mapping[str, Any],
    ) -> StreamReader:
        """See :meth:`QueueEntry.consume`."""
        start = parse_start(arguments.get("x-stream-offset"), self._broker.now_ms())

        def ended(reader: StreamReader) -> None:
            queue.readers.pop(reader, None)

        reader = StreamReader(consumer, prefetch=prefetch, auto_settle=auto_settle, ended=ended)
        queue.readers[reader] = None
        self._broker.start_soon(self._begin_reading, queue, reader, start)
        return reader

    async def _begin_reading(self, queue: QueueEntry, reader: StreamReader, start: Start) -> None:
        """Find where a reader begins, and let it."""
        sources = (QueueSource(queue.core_name),) if queue.kind == "stream" else queue.core.config.sources
        by_topic: dict[str, list[RecordFilter]] = {}
        for source in sources:
            by_topic.setdefault(source.topic, []).append(source.filter)
        try:
            for name, filters in by_topic.items():
                topic = self._broker.topics.get(name)
                for partition in () if topic is None else topic.partitions:
                    offset = await find_start(partition, start)
                    reader.begin(partition, self._broker.live(partition), filters, offset)
        except TrunklineError as error:
            reader.ended(error)

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
        self._expiries.remove(queue)
        with suppress(UnknownQueue):  # somebody else was quicker
            await self._queues.delete(queue.queue_name)
        gone_error = UnknownQueue(f"queue {queue.name} was deleted", queue=queue.name)
        for reader in tuple(queue.readers):
            reader.ended(gone_error)
        entries: list[stored.Entry] = [(stored.binding_key(vhost.name, binding), None) for binding in gone]
        if not queue.is_volatile:
            entries.append((stored.queue_key(vhost.name, queue.name), None))
            await self._stored.write_durable(entries)
        if not queue.is_volatile and queue.owns_topic and queue.core_name in self._broker.topics:
            await self._broker.delete_topic(queue.core_name)
        self._taken.pop(queue.core_name, None)
        self._by_core.pop(queue.core_name, None)
        await self._remove_unbound(vhost, gone)
        return ready

    # -- bindings ----------------------------------------------------------------------------------

    async def bind_queue(
        self,
        vhost: str,
        queue: str,
        exchange: str,
        key: str,
        arguments: Mapping[str, Any] = NO_ARGUMENTS,
        *,
        owner: object | None = None,
    ) -> None:
        """Bind a queue to an exchange: what is published from now on reaches it. Durable on return, if both are.

        Raises AmqpError: 404, 405, 403 (the default exchange), 406. Cancellation: may have happened.
        """
        self.queue(vhost, queue, owner)
        await self._bind(self._vhost(vhost), exchange, queue, key, arguments, to_exchange=False)

    async def unbind_queue(
        self,
        vhost: str,
        queue: str,
        exchange: str,
        key: str,
        arguments: Mapping[str, Any] = NO_ARGUMENTS,
        *,
        owner: object | None = None,
    ) -> None:
        """Take a binding away; what it brought stays. Nothing happens if there is none, or no such queue or exchange.

        Raises AmqpError: 405, 403 (the default exchange). Cancellation: may have happened.
        """
        if queue in self._vhost(vhost).queues:
            self.queue(vhost, queue, owner)
        await self._unbind(self._vhost(vhost), exchange, queue, key, arguments, to_exchange=False)

    async def bind_exchange(
        self, vhost: str, destination: str, source: str, key: str, arguments: Mapping[str, Any] = NO_ARGUMENTS
    ) -> None:
        """Have messages of one exchange go to another too. As ``bind_queue``."""
        await self._bind(self._vhost(vhost), source, destination, key, arguments, to_exchange=True)

    async def unbind_exchange(
        self, vhost: str, destination: str, source: str, key: str, arguments: Mapping[str, Any] = NO_ARGUMENTS
    ) -> None:
        """Take that away. As ``unbind_queue``."""
        await self._unbind(self._vhost(vhost), source, destination, key, arguments, to_exchange=True)

    def _checked(
        self, vhost: Vhost, source: str, destination: str, key: str, arguments: Mapping[str, Any], to_exchange: bool
    ) -> Binding:
        refuse_default(source)
        if to_exchange:
            refuse_default(destination)
        if source not in vhost.exchanges:
            raise not_found("exchange", source, vhost.name)
        if to_exchange and destination not in vhost.exchanges:
            raise not_found("exchange", destination, vhost.name)
        if not to_exchange and destination not in vhost.queues:
            raise not_found("queue", destination, vhost.name)
        check_binding(key, arguments)
        return vhost.binding(source, destination, key, arguments, to_exchange=to_exchange)

    async def _bind(
        self, vhost: Vhost, source: str, destination: str, key: str, arguments: Mapping[str, Any], *, to_exchange: bool
    ) -> None:
        binding = self._checked(vhost, source, destination, key, arguments, to_exchange)
        if vhost.has_binding(binding):
            return
        async with self._lock:
            binding = self._checked(vhost, source, destination, key, arguments, to_exchange)  # it may be gone by now
            if vhost.has_binding(binding):
                return
            with trio.CancelScope(shield=True):
                if vhost.is_durable(binding):
                    await self._stored.write_durable([(stored.binding_key(vhost.name, binding), stored.PRESENT)])
                vhost.bind(binding)
                await self._set_reached(vhost, binding)

    async def _unbind(
        self, vhost: Vhost, source: str, destination: str, key: str, arguments: Mapping[str, Any], *, to_exchange: bool
    ) -> None:
        refuse_default(source)
        async with self._lock:
            there = vhost.exchanges if to_exchange else vhost.queues
            if source not in vhost.exchanges or destination not in there:
                return
            binding = vhost.binding(source, destination, key, arguments, to_exchange=to_exchange)
            if not vhost.has_binding(binding):
                return
            with trio.CancelScope(shield=True):
                vhost.unbind(binding)
                await self._set_reached(vhost, binding)
                if vhost.is_durable(binding):
                    await self._stored.write_durable([(stored.binding_key(vhost.name, binding), None)])
                await self._remove_unbound(vhost, [binding])

    async def _set_reached(self, vhost: Vhost, binding: Binding) -> None:
        """Set the filters of the queues that a binding leads to."""
        queues = vhost.reachable(binding.destination) if binding.to_exchange else {binding.destination}
        for queue in sorted(queues):
            await self._set_sources(vhost, queue)

    async def _forget_bindings(self, vhost: Vhost, gone: Iterable[Binding], exchange: str) -> None:
        entries: list[stored.Entry] = [(stored.binding_key(vhost.name, binding), None) for binding in gone]
        if entries:
            await self._stored.write_durable(entries)

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
        queue = self._by_core.get(error.queue)
        if queue is None or queue.arguments.overflow != "reject-publish-dlx":
            return False
        now = self._broker.now_ms()
        copies = self._dead_letters.published(queue, "max-length", exchange, key, raw, body, now)
        if copies:
            stage_copies(copies, receiver, token)
        return bool(copies)

    # -- ends --------------------------------------------------------------------------------------

    def connection_closed(self, owner: object) -> None:
        """Its exclusive queues go."""
        for vhost in self._vhosts.values():
            for queue in [one for one in vhost.queues.values() if one.owner is owner]:
                self._broker.start_soon(self._delete_quietly, vhost, queue)

    def consumer_gone(self, queue: AmqpQueue) -> None:
        """A consumer of a queue is gone: with the last one an auto-delete queue goes."""
        self.touched(queue)
        if queue.is_auto_delete and not queue.consumer_count:
            self._broker.start_soon(self._delete_quietly, self._vhosts[queue.vhost], queue)

    def touched(self, queue: AmqpQueue) -> None:
        """A queue is used now, as far as its ``x-expires`` goes: somebody asks for a message."""
        if self._expiries.used(queue, trio.current_time()):
            self._expiries_changed.set()

    async def _run_expiries(self) -> None:
        """Delete queues that nobody uses when their time is over. Runs as long as the broker."""
        while True:
            self._expiries_changed = trio.Event()
            due_s = self._expiries.next_due_s
            with trio.move_on_at(math.inf if due_s is None else due_s):
                await self._expiries_changed.wait()
            for queue in self._expiries.due(trio.current_time()):
                await self._delete_quietly(self._vhosts[queue.vhost], queue)

    async def _delete_quietly(self, vhost: Vhost, queue: QueueEntry) -> None:
        async with self._lock:
            if vhost.queues.get(queue.name) is queue:
                with trio.CancelScope(shield=True), suppress(BrokerClosing):
                    await self._remove_queue(vhost, queue)

    # -- topics ------------------------------------------------------------------------------------

    def _free_name(self, vhost: str, name: str, suffix: str, *, is_new_queue: bool = False) -> str:
        """A name for a topic or queue of the core that nothing else of AMQP's has.

        Args:
          is_new_queue: nor a queue that is already there.
        """
        return free_name(
            topic_name(vhost, name),
            suffix,
            lambda found: found in self._taken or (is_new_queue and self._is_queue(found)),
        )

    def _is_queue(self, name: str) -> bool:
        return name in self._queues or f"{name}{STREAM_SUFFIX}" in self._queues

    async def _ensure_topic(self, name: str, settings: Mapping[str, str] = MappingProxyType({})) -> Topic:
        """The topic; made now with these settings if it is missing."""
        topics = self._broker.topics
        if name in topics:
            return topics[name]
        needed = self._max_record_bytes
        default = int(TOPIC_SETTINGS["max.message.bytes"].default)
        try:
            return await self._broker.create_topic(
                name,
                partitions=1,
                settings={**settings, **({"max.message.bytes": str(needed)} if needed > default else {})},
            )
        except TopicExists:
            return topics[name]


def _origin(queue: QueueEntry) -> str:
    """What people are told about a queue of the core."""
    what = "what bindings bring to AMQP's stream" if queue.kind == "stream" else f"AMQP's {queue.kind} queue"
    return f"{what} {queue.name!r} in virtual host {queue.vhost!r}"


def _stream_settings(queue: QueueEntry) -> dict[str, str]:
    """How long a stream keeps its messages: for ever, unless it is told otherwise."""
    if queue.kind != "stream":
        return {}
    arguments = queue.arguments
    return {"retention.ms": str(arguments.max_age_ms), "retention.bytes": str(arguments.max_length_bytes)}


_ORDER: Final = {stored.EXCHANGE: 0, stored.QUEUE: 1, stored.BINDING: 2}
"""What is restored first: a binding needs its ends."""

RECORD_OVERHEAD_BYTES: Final = 64 * 1024
"""For the properties of a message, which come once as they are and once as headers."""
