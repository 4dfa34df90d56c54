"""Where a message is to be stored so that it reaches the queues it is for.

There are two ways for a record to get into a queue:

* *by filter*: it is stored once, in the topic of its exchange, and every queue that is bound there takes it after the
  commit, because its filters want it. So do records that come to this topic through other doors.
* *by address*: a copy is stored in the queue's home topic, with the name of the exchange in a header. That is the
  default exchange's way (there it is no copy), and that of exchanges without a topic (not durable). And it is for those
  queues that a message reaches by what a filter cannot say: a second routing key (CC, BCC), an alternate exchange
  behind another one.

A message that none of its exchange's bindings wants, where that has an alternate exchange, is stored as if it had been
published there, with the name of the first.

Routes are remembered by exchange and routing key, as long as nothing changes; where headers decide, they are found
anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from trunkline_amqp.errors import AmqpError, Reply
from trunkline_amqp.exchange import DEFAULT_EXCHANGE, Exchange, Headers
from trunkline_amqp.header_matching import header_bytes
from trunkline_amqp.model import Vhost

if TYPE_CHECKING:
    from trunkline.partition import Partition
    from trunkline.records import Header
    from trunkline.topic import Topic

__all__ = ["EXCHANGE_HEADER", "SWAP", "Route", "Router", "Target", "record_key", "routing_key"]

EXCHANGE_HEADER: Final = "amqp.exchange"
"""On records in a topic that is not their exchange's own: which exchange they were published to."""

REMEMBERED: Final = 10_000
"""Routes; a publisher may use ever new routing keys."""

SWAP: Final = str.maketrans("./", "/.")


class Target(NamedTuple):
    """A place for the record, and the key that it has there."""

    partition: Partition
    key: bytes


class Route:
    """Where a message goes. Made by :class:`Router`; shared and never changed.

    Attributes:
      targets: stage the record in each of these; usually one. Empty: there is nothing to store.
      queues: how many take it; 0: a *mandatory* message is returned.
      origin: headers that the record needs besides.
      is_delayed: it waits in its queues for as long as its header ``x-delay`` says.
      is_for_mqtt: its topic is the one that MQTT's clients share.
      is_cacheable: it is the same for any message with this exchange and routing key.
    """

    __slots__ = ("is_cacheable", "is_delayed", "is_for_mqtt", "memory", "origin", "queues", "targets")

    def __init__(
        self,
        targets: tuple[Target, ...],
        queues: int,
        *,
        origin: tuple[Header, ...] = (),
        is_cacheable: bool = True,
        is_delayed: bool = False,
        is_for_mqtt: bool = False,
        memory: Route | None = None,
    ) -> None:
        self.targets = targets
        self.queues = queues
        self.origin = origin
        self.is_cacheable = is_cacheable
        self.is_delayed = is_delayed
        self.is_for_mqtt = is_for_mqtt
        self.memory = memory  # the way that writes nothing, where there is one

    def when_transient(self) -> Route:
        """The way of a message that need not outlive the broker.

        It is another one if all its queues are lost with the broker too. Not while others are on their way to the disk:
        it would overtake them.
        """
        memory = self.memory
        if memory is None:
            return self
        for partition, _ in self.targets:
            if partition.high_watermark < partition.staged_end_offset:
                return self
        return memory


class Router:
    """Finds the routes in one virtual host.

    Args:
      topics: all topics by name, as they are at each moment.
    """

    def __init__(self, vhost: Vhost, topics: Mapping[str, Topic]) -> None:
        self._vhost = vhost
        self._topics = topics
        self._known: dict[tuple[str, str], Route] = {}
        self._known_version = -1

    def route(
        self,
        exchange: str,
        key: str,
        headers: Mapping[str, Any] | None,
        *,
        as_broker: bool = False,
        refuses: Callable[[str], bool] | None = None,
    ) -> Route:
        """Where a message goes.

        Args:
          as_broker: the broker publishes, which may do so to internal exchanges.
          refuses: says of a queue that it is not to get it.

        Raises AmqpError: 404 (there is no such exchange), 403 (it is internal), 406 (CC or BCC make no sense).
        """
        if self._known_version != self._vhost.version:
            self._known = {}
            self._known_version = self._vhost.version
        more_keys = _more_keys(headers) if headers else ()
        if refuses is not None:
            return self._find(exchange, key, more_keys, headers, as_broker, refuses)
        if not more_keys:
            found = self._known.get((exchange, key))
            if found is not None:
                return found
        route = self._find(exchange, key, more_keys, headers, as_broker, None)
        if route.is_cacheable:
            if len(self._known) >= REMEMBERED:
                self._known = {}
            self._known[exchange, key] = route
        return route

    def forget(self) -> None:
        """Topics have changed."""
        self._known = {}

    def _find(
        self,
        name: str,
        key: str,
        more_keys: tuple[str, ...],
        headers: Mapping[str, Any] | None,
        as_broker: bool,
        refuses: Callable[[str], bool] | None,
    ) -> Route:
        vhost = self._vhost
        if name == DEFAULT_EXCHANGE:
            named = [queue for queue in (key, *more_keys) if refuses is None or not refuses(queue)]
            return self._to_queues(name, key, dict.fromkeys(named), is_cacheable=not more_keys)
        exchange = vhost.exchanges.get(name)
        if exchange is None:
            raise AmqpError(Reply.NOT_FOUND, f"no exchange '{name}' in vhost '{vhost.name}'")
        if exchange.is_internal and not as_broker:
            raise AmqpError(
                Reply.ACCESS_REFUSED, f"cannot publish to internal exchange '{name}' in vhost '{vhost.name}'"
            )
        is_cacheable = not more_keys and not vhost.depends_on_headers(name)
        texts: Headers = ()
        if headers and not is_cacheable:
            texts = tuple([(name, header_bytes(value)) for name, value in headers.items()])
        keys = (key, *more_keys)
        stored_in = self._that_matches(exchange, keys, texts)
        queues = vhost.resolve(stored_in.name, keys, texts)
        if refuses is not None and any(map(refuses, queues)):
            allowed = {queue: None for queue in queues if not refuses(queue)}
            return self._to_queues(name, key, allowed, is_cacheable=False, is_delayed=exchange.is_delayed)
        filtered = queues
        if more_keys or vhost.has_alternates:
            filtered = vhost.resolve(stored_in.name, keys[:1], texts, alternates=False)
        return self._by_filter(exchange, stored_in, key, queues, filtered, is_cacheable=is_cacheable)

    def _that_matches(self, exchange: Exchange, keys: tuple[str, ...], headers: Headers) -> Exchange:
        """The exchange itself, or the alternate one that takes its place, or the place of that."""
        seen = {exchange.name}
        found = exchange
        while not self._vhost.is_matched(found, keys, headers):
            alternate = self._vhost.exchanges.get(found.alternate or "")
            if alternate is None or alternate.name in seen:
                return exchange
            seen.add(alternate.name)
            found = alternate
        return found

    def _by_filter(
        self,
        published: Exchange,
        exchange: Exchange,
        key: str,
        queues: dict[str, None],
        filtered: dict[str, None],
        *,
        is_cacheable: bool,
    ) -> Route:
        topic = self._topics.get(exchange.topic)
        if topic is None:
            return self._to_queues(
                published.name, key, queues, is_cacheable=is_cacheable, is_delayed=published.is_delayed
            )
        stored_key = record_key(exchange, key)
        others = [name for name in queues if name not in filtered]
        targets = (Target(topic.partition_for(stored_key), stored_key), *self._homes(others, key))
        origin: tuple[Header, ...] = ()
        if published is not exchange or others:
            origin = ((EXCHANGE_HEADER, published.name.encode()),)
        memory = None  # MQTT's subscribers are nobody's queues: they get all of it
        if queues and not exchange.is_slashed and all(self._vhost.queues[name].is_volatile for name in queues):
            memory = self._to_queues(
                published.name, key, queues, is_cacheable=is_cacheable, is_delayed=published.is_delayed
            )
        return Route(
            targets,
            len(queues),
            origin=origin,
            is_cacheable=is_cacheable,
            is_delayed=published.is_delayed,
            is_for_mqtt=exchange.is_slashed,
            memory=memory,
        )

    def _to_queues(
        self, exchange: str, key: str, queues: Mapping[str, None], *, is_cacheable: bool, is_delayed: bool = False
    ) -> Route:
        there = [name for name in queues if name in self._vhost.queues]
        origin: tuple[Header, ...] = ()
        if exchange != DEFAULT_EXCHANGE:
            origin = ((EXCHANGE_HEADER, exchange.encode()),)
        targets = tuple(self._homes(there, key))
        return Route(targets, len(there), origin=origin, is_cacheable=is_cacheable, is_delayed=is_delayed)

    def _homes(self, queues: list[str], key: str) -> list[Target]:
        """The home topics of these queues."""
        stored_key = _encoded(key)
        found = []
        for name in queues:
            queue = self._vhost.queues[name]
            topic = queue.core.home if queue.is_volatile else self._topics.get(queue.core_name)
            if topic is not None:
                found.append(Target(topic.partition_for(stored_key), stored_key))
        return found


def _more_keys(headers: Mapping[str, Any]) -> tuple[str, ...]:
    """The routing keys in CC and BCC. Raises AmqpError (406) if these are no arrays of strings."""
    if "CC" not in headers and "BCC" not in headers:
        return ()
    found: list[str] = []
    for name in ("CC", "BCC"):
        keys = headers.get(name, ())
        if not isinstance(keys, (list, tuple)) or not all(isinstance(key, str) for key in keys):
            raise AmqpError(Reply.PRECONDITION_FAILED, f"invalid header '{name}': it has to be an array of strings")
        found += keys
    return tuple(found)


def _encoded(key: str) -> bytes:
    return key.encode("utf-8", "surrogateescape")


def record_key(exchange: Exchange, key: str) -> bytes:
    """The key of the record for a message with this routing key."""
    return _encoded(key.translate(SWAP) if exchange.is_slashed else key)


def routing_key(key: bytes | None, is_slashed: bool) -> bytes:
    """The routing key of a record: the way back."""
    if key is None:
        return b""
    return key.translate(_SWAPPED_BYTES) if is_slashed else key


_SWAPPED_BYTES: Final = bytes.maketrans(b"./", b"/.")
