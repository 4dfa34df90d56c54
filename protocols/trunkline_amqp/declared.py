"""What is declared in all virtual hosts, and what can be asked of it. How it changes is built on this:

:mod:`~trunkline_amqp.bindings`, :mod:`~trunkline_amqp.exchanges`, :mod:`~trunkline_amqp.topology`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

import trio

from trunkline_amqp.bridge import Place
from trunkline_amqp.checks import locked, not_found
from trunkline_amqp.core_side import CoreSide
from trunkline_amqp.errors import Reply, hard
from trunkline_amqp.exchange import Exchange
from trunkline_amqp.model import Vhost
from trunkline_amqp.naming import DEFAULT_VHOST, plain_name, topic_name
from trunkline_amqp.queue_entry import QueueEntry
from trunkline_amqp.routing import Route, Router

if TYPE_CHECKING:
    from trunkline.broker import Broker

__all__ = ["AmqpQueue", "Declared"]

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


class Declared:
    """Belongs to the broker's thread.

    Args:
      vhosts: the virtual hosts that there are.
      mqtt_topic: the topic that exchange ``amq.topic`` of virtual host ``/`` shares with MQTT.
      max_message_bytes: see :class:`~trunkline_amqp.core_side.CoreSide`.

    Attributes:
      version: changes with everything that can change a route.
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
        self._stored = broker.views.state_topic(STATE_TOPIC)
        self._mqtt_topic = mqtt_topic
        self._lock = trio.Lock()
        self._core = CoreSide(broker, self.place, max_message_bytes)
        self.version = 0
        self._vhosts = {name: Vhost(name, self._changed) for name in vhosts}
        self._routers = {name: Router(vhost, broker.topics) for name, vhost in self._vhosts.items()}
        self._places: dict[str, Place] = {}
        for vhost in self._vhosts.values():
            self._predeclare(vhost)

    def _predeclare(self, vhost: Vhost) -> None:
        for name, kind in _PREDECLARED:
            is_slashed = name == "amq.topic" and vhost.name == DEFAULT_VHOST and bool(self._mqtt_topic)
            topic = self._mqtt_topic if is_slashed else topic_name(vhost.name, name)
            exchange = Exchange(name, kind, durable=True, topic=topic, predeclared=True, slashed=is_slashed)
            self._core.taken.add(topic)
            vhost.add_exchange(exchange)

    def _changed(self) -> None:
        self.version += 1

    def _topics_changed(self) -> None:
        self._changed()
        for router in self._routers.values():
            router.forget()

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
                    return Place(exchange.name.encode(), is_slashed=exchange.is_slashed)
        if topic in self._core.by_name:
            return Place(b"", is_slashed=False)
        named = plain_name(topic)  # of an exchange that was deleted, or another door's
        return Place((topic if named is None else named[1]).encode("utf-8", "replace")[:255], is_slashed=False)
