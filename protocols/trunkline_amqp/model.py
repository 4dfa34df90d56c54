"""Exchanges, queues and bindings of one virtual host, and where a message goes. State only: no I/O, no clock.

A message that comes to an exchange goes to all queues that can be reached over bindings that match it, each once
(AMQP 0-9-1, 3.1.3, and RabbitMQ's bindings between exchanges). Where none of an exchange's bindings matches, its
alternate exchange takes its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec

from trunkline.filters import RecordFilter
from trunkline.queues import Consumption, QueueConsumer, SharedPrefetch
from trunkline.subscriptions import SubscriptionIndex
from trunkline_amqp.arguments import QueueArguments
from trunkline_amqp.errors import AmqpError, Reply
from trunkline_amqp.fields import encode_table
from trunkline_amqp.header_matching import headers_filter

if TYPE_CHECKING:
    from trunkline.queues import Queue
    from trunkline_amqp.streams import StreamReader

    ReadLog = Callable[["QueueEntry", QueueConsumer, int, bool, Mapping[str, Any]], StreamReader]

__all__ = ["DEFAULT_EXCHANGE", "Binding", "Exchange", "KINDS", "QueueEntry", "Vhost"]

DEFAULT_EXCHANGE: Final = ""
KINDS: Final = ("direct", "fanout", "topic", "headers", "x-delayed-message")
NO_ARGUMENTS: Final[Mapping[str, Any]] = {}

STREAM_SUFFIX: Final = "_s"
"""Behind the name of a stream's home topic: the core's queue that its bindings come through."""

Headers = tuple[tuple[str, bytes | None], ...]


class Binding(msgspec.Struct, frozen=True, eq=False):
    """From an exchange to a queue or another exchange.

    Attributes:
      arguments: as an encoded table, which tells bindings of the same key apart.
      filter: which messages go that way; None: none ever does.
    """

    source: str
    destination: str
    to_exchange: bool
    key: str
    arguments: bytes
    filter: RecordFilter | None

    @property
    def identity(self) -> tuple[str, str, bool, str, bytes]:
        return self.source, self.destination, self.to_exchange, self.key, self.arguments


class Exchange:
    """One exchange and the bindings that begin there.

    Attributes:
      kind: how it looks at bindings; of a delayed one its ``x-delayed-type``.
      topic: where its messages are stored; empty: nowhere.
      is_slashed: its topic holds MQTT's names: keys there have ``/`` where routing keys have ``.``, and the reverse.
    """

    __slots__ = (
        "_by_key",
        "_patterns",
        "arguments",
        "bindings",
        "is_auto_delete",
        "is_delayed",
        "is_durable",
        "is_internal",
        "is_predeclared",
        "is_slashed",
        "kind",
        "name",
        "topic",
    )

    def __init__(
        self,
        name: str,
        kind: str,
        *,
        durable: bool,
        auto_delete: bool = False,
        internal: bool = False,
        arguments: Mapping[str, Any] = NO_ARGUMENTS,
        topic: str = "",
        predeclared: bool = False,
        slashed: bool = False,
    ) -> None:
        self.name = name
        self.is_delayed = kind == "x-delayed-message"
        self.kind = arguments["x-delayed-type"] if self.is_delayed else kind
        self.is_durable = durable
        self.is_auto_delete = auto_delete
        self.is_internal = internal
        self.is_predeclared = predeclared
        self.is_slashed = slashed
        self.arguments = arguments
        self.topic = topic
        self.bindings: dict[tuple[str, str, bool, str, bytes], Binding] = {}
        self._by_key: dict[str, dict[Binding, None]] = {}  # direct
        self._patterns: SubscriptionIndex[Binding, None] | None = SubscriptionIndex("amqp") if kind == "topic" else None
        if self.is_delayed and self.kind == "topic":
            self._patterns = SubscriptionIndex("amqp")

    @property
    def declared_kind(self) -> str:
        return "x-delayed-message" if self.is_delayed else self.kind

    @property
    def alternate(self) -> str | None:
        found = self.arguments.get("alternate-exchange")
        return found if isinstance(found, str) else None

    def filter_of(self, key: str, arguments: Mapping[str, Any]) -> RecordFilter | None:
        """What a binding from here lets through. Raises AmqpError (406)."""
        if self.kind == "fanout":
            return RecordFilter()
        if self.kind == "headers":
            return headers_filter(arguments)
        if self.kind == "direct":
            return RecordFilter(key, "exact")
        found = RecordFilter(key, "amqp")
        if (problem := found.problem()) is not None:
            raise AmqpError(Reply.PRECONDITION_FAILED, f"binding key {key[:60]!r}: {problem}")
        return found

    def add(self, binding: Binding) -> None:
        self.bindings[binding.identity] = binding
        if self._patterns is not None:
            self._patterns.add(binding.key, binding, None)
        elif self.kind == "direct":
            self._by_key.setdefault(binding.key, {})[binding] = None

    def remove(self, binding: Binding) -> None:
        del self.bindings[binding.identity]
        if self._patterns is not None:
            self._patterns.remove(binding.key, binding)
        elif self.kind == "direct":
            found = self._by_key[binding.key]
            del found[binding]
            if not found:
                del self._by_key[binding.key]

    def matching(self, keys: Iterable[str], headers: Headers) -> Iterator[Binding]:
        """The bindings that let a message through; one may come twice."""
        if self.kind == "direct":
            for key in keys:
                yield from self._by_key.get(key, ())
        elif self._patterns is not None:
            for key in keys:
                for binding, _ in self._patterns.match(key):
                    yield binding
        elif self.kind == "fanout":
            yield from self.bindings.values()
        else:
            for binding in self.bindings.values():
                if binding.filter is not None and binding.filter.matches_rest(b"", headers):
                    yield binding


class QueueEntry:
    """What the model knows of a queue.

    Attributes:
      core_name: of its home topic, and of the core's queue if it is no stream.
      is_adopted: the core had this queue before AMQP knew of it, with sources of its own.
      owns_topic: the home topic was made for it, and goes with it.
      owner: the connection whose queue it is alone (*exclusive*).
      had_consumer: it has had one, so that it goes with the last one if it is ``auto_delete``.
      core: the core's queue, once it is there.
      readers: those who consume its log by offset.
      read_log: lets one more do so; set by the topology.
      bound_sources: the sources that the core's queue was given for its bindings, without where they begin.
    """

    __slots__ = (
        "arguments",
        "bound_sources",
        "core",
        "core_name",
        "had_consumer",
        "is_adopted",
        "is_auto_delete",
        "is_durable",
        "name",
        "owner",
        "owns_topic",
        "raw_arguments",
        "read_log",
        "readers",
        "vhost",
    )

    def __init__(
        self,
        vhost: str,
        name: str,
        core_name: str,
        *,
        durable: bool,
        auto_delete: bool,
        owner: object | None,
        arguments: QueueArguments,
        raw_arguments: Mapping[str, Any] = NO_ARGUMENTS,
        adopted: bool = False,
        owns_topic: bool = True,
    ) -> None:
        self.vhost = vhost
        self.name = name
        self.core_name = core_name
        self.is_durable = durable
        self.is_auto_delete = auto_delete
        self.owner = owner
        self.arguments = arguments
        self.raw_arguments = raw_arguments
        self.is_adopted = adopted
        self.owns_topic = owns_topic
        self.had_consumer = False
        self.core: Any = None
        self.bound_sources: set[object] = set()
        self.readers: dict[StreamReader, None] = {}
        self.read_log: ReadLog | None = None

    @property
    def is_exclusive(self) -> bool:
        return self.owner is not None

    @property
    def is_volatile(self) -> bool:
        return self.owner is not None or not self.is_durable

    @property
    def queue_name(self) -> str:
        """Of the core's queue. That of a stream is only what its bindings come through."""
        return f"{self.core_name}{STREAM_SUFFIX}" if self.kind == "stream" else self.core_name

    @property
    def message_count(self) -> int:
        """Messages that are ready; of a stream, all there are."""
        core: Queue = self.core
        if self.kind != "stream":
            return core.state.ready
        home = core.context.services.catalog.topics.get(self.core_name)
        return 0 if home is None else sum(one.high_watermark - one.log_start_offset for one in home.partitions)

    @property
    def consumer_count(self) -> int:
        """Those who consume it, or read its log."""
        return len(self.readers) + (len(self.core.consumers) if self.kind != "stream" else 0)

    @property
    def kind(self) -> str:
        """``classic``, ``quorum`` or ``stream``: as declared."""
        return self.arguments.kind

    def consume(
        self,
        consumer: QueueConsumer,
        *,
        prefetch: int = 0,
        priority: int = 0,
        exclusive: bool = False,
        auto_settle: bool = False,
        shared: SharedPrefetch | None = None,
        name: str = "",
        arguments: Mapping[str, Any] = NO_ARGUMENTS,
    ) -> Consumption | StreamReader:
        """Attach a consumer, as :meth:`trunkline.queues.queue.Queue.consume` does.

        Args:
          arguments: of basic.consume. With ``x-stream-offset`` it reads the queue's log and takes nothing; of a stream
            all do.

        Raises QueueInUse; AmqpError (406): the arguments make no sense, or a stream's consumer has no prefetch.
        """
        self.had_consumer = True
        if self.kind == "stream" or "x-stream-offset" in arguments:
            assert self.read_log is not None
            if not prefetch and not auto_settle:
                raise AmqpError(
                    Reply.PRECONDITION_FAILED,
                    f"consumer prefetch count is not set for queue '{self.name}' in vhost '{self.vhost}'",
                )
            return self.read_log(self, consumer, prefetch, auto_settle, arguments)
        consumption: Consumption = self.core.consume(
            consumer,
            prefetch=prefetch,
            priority=priority,
            exclusive=exclusive,
            auto_settle=auto_settle,
            shared=shared,
            name=name,
        )
        return consumption

    def __repr__(self) -> str:
        return f"<AMQP queue {self.name!r} in {self.vhost!r}>"


class Vhost:
    """A virtual host: what is in it, and how it hangs together.

    Attributes:
      has_alternates: some exchange has, or had, an alternate one.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.exchanges: dict[str, Exchange] = {}
        self.queues: dict[str, QueueEntry] = {}
        self._incoming: dict[tuple[bool, str], dict[Binding, None]] = {}
        self._depending: dict[str, bool] = {}  # answers of depends_on_headers, as of that version
        self._depending_version = -1
        self.has_alternates = False
        self.version = 0
        """Changes with everything that can change a route."""

    # -- changes -----------------------------------------------------------------------------------

    def add_exchange(self, exchange: Exchange) -> None:
        self.exchanges[exchange.name] = exchange
        self.has_alternates |= exchange.alternate is not None
        self.version += 1

    def add_queue(self, queue: QueueEntry) -> None:
        self.queues[queue.name] = queue
        self.version += 1

    def binding(
        self, source: str, destination: str, key: str, arguments: Mapping[str, Any], *, to_exchange: bool
    ) -> Binding:
        """As it would be, or is. Raises AmqpError for a key or arguments that the exchange cannot have."""
        exchange = self.exchanges[source]
        encoded = encode_table(arguments) if arguments else b""
        found = exchange.bindings.get((source, destination, to_exchange, key, encoded))
        if found is not None:
            return found
        return Binding(source, destination, to_exchange, key, encoded, exchange.filter_of(key, arguments))

    def has_binding(self, binding: Binding) -> bool:
        return binding.identity in self.exchanges[binding.source].bindings

    def bind(self, binding: Binding) -> None:
        self.exchanges[binding.source].add(binding)
        self._incoming.setdefault((binding.to_exchange, binding.destination), {})[binding] = None
        self.version += 1

    def unbind(self, binding: Binding) -> None:
        self.exchanges[binding.source].remove(binding)
        incoming = self._incoming[binding.to_exchange, binding.destination]
        del incoming[binding]
        if not incoming:
            del self._incoming[binding.to_exchange, binding.destination]
        self.version += 1

    def remove_exchange(self, name: str) -> list[Binding]:
        """The bindings that went with it."""
        gone = [*self.exchanges[name].bindings.values(), *self.incoming(name, to_exchange=True)]
        for binding in dict.fromkeys(gone):  # one from it to itself is in both
            self.unbind(binding)
        del self.exchanges[name]
        self.version += 1
        return list(dict.fromkeys(gone))

    def remove_queue(self, name: str) -> list[Binding]:
        """The bindings that went with it."""
        gone = self.incoming(name, to_exchange=False)
        for binding in gone:
            self.unbind(binding)
        del self.queues[name]
        self.version += 1
        return gone

    # -- questions ---------------------------------------------------------------------------------

    def incoming(self, name: str, *, to_exchange: bool) -> list[Binding]:
        """The bindings that end there."""
        return list(self._incoming.get((to_exchange, name), ()))

    def is_durable(self, binding: Binding) -> bool:
        """Whether a binding outlives the broker: both its ends do."""
        if not self.exchanges[binding.source].is_durable:
            return False
        if binding.to_exchange:
            return self.exchanges[binding.destination].is_durable
        return not self.queues[binding.destination].is_volatile

    def reachable(self, exchange: str) -> set[str]:
        """The queues that some message from an exchange can reach."""
        seen, waiting, queues = {exchange}, [exchange], set()
        while waiting:
            found = self.exchanges.get(waiting.pop())
            for binding in found.bindings.values() if found is not None else ():
                if not binding.to_exchange:
                    queues.add(binding.destination)
                elif binding.destination not in seen:
                    seen.add(binding.destination)
                    waiting.append(binding.destination)
        return queues

    def depends_on_headers(self, exchange: str) -> bool:
        """Whether a message's headers can make a difference from there on."""
        if self._depending_version != self.version:
            self._depending, self._depending_version = {}, self.version
        found = self._depending.get(exchange)
        if found is None:
            found = self._depending[exchange] = self._depends_on_headers(exchange)
        return found

    def _depends_on_headers(self, exchange: str) -> bool:
        seen, waiting = {exchange}, [exchange]
        while waiting:
            found = self.exchanges.get(waiting.pop())
            if found is None:
                continue
            if found.kind == "headers":
                return True
            following = [binding.destination for binding in found.bindings.values() if binding.to_exchange]
            for name in (*following, found.alternate):
                if name is not None and name not in seen:
                    seen.add(name)
                    waiting.append(name)
        return False

    def resolve(
        self, exchange: str, keys: tuple[str, ...], headers: Headers, *, alternates: bool = True
    ) -> dict[str, None]:
        """The queues that a message goes to, in the order they are found.

        Args:
          keys: its routing key, and those in CC and BCC.
          alternates: whether alternate exchanges count.
        """
        seen, waiting = {exchange}, [exchange]
        queues: dict[str, None] = {}
        while waiting:
            name = waiting.pop()
            found = self.exchanges.get(name)
            if found is None:
                continue
            is_matched = False
            for binding in found.matching(keys, headers):
                is_matched = True
                if not binding.to_exchange:
                    queues[binding.destination] = None
                elif binding.destination not in seen:
                    seen.add(binding.destination)
                    waiting.append(binding.destination)
            alternate = found.alternate
            if alternates and not is_matched and alternate is not None and alternate not in seen:
                seen.add(alternate)
                waiting.append(alternate)
        return queues

    def is_matched(self, exchange: Exchange, keys: tuple[str, ...], headers: Headers) -> bool:
        """Whether any of an exchange's own bindings lets a message through."""
        return next(exchange.matching(keys, headers), None) is not None

    def filters_of(self, queue: str) -> list[tuple[Exchange, RecordFilter]]:
        """What has to match for a message of an exchange to reach a queue: any of these. Alternates are left out."""
        found: dict[object, tuple[Exchange, RecordFilter]] = {}
        waiting: list[tuple[Binding, RecordFilter, tuple[str, ...]]] = [
            (binding, binding.filter, ())
            for binding in self.incoming(queue, to_exchange=False)
            if binding.filter is not None
        ]
        while waiting:
            binding, wanted, passed = waiting.pop()
            source = self.exchanges[binding.source]
            identity = source.name, wanted.identity
            if identity in found:
                continue
            found[identity] = source, wanted
            for earlier in self.incoming(source.name, to_exchange=True):
                if earlier.filter is not None and earlier.source not in (*passed, source.name):
                    waiting.append((earlier, both(earlier.filter, wanted), (*passed, source.name)))
        return list(found.values())


def both(first: RecordFilter, second: RecordFilter) -> RecordFilter:
    """What both of two filters want."""
    if first.is_everything or first.identity == second.identity:
        return second
    if second.is_everything:
        return first
    return msgspec.structs.replace(first, also=(*first.also, second))
