"""What all AMQP connections of a door share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from trunkline.config import is_loopback
from trunkline_amqp.blocking import Blocking
from trunkline_amqp.heartbeats import Heartbeats
from trunkline_amqp.topology import Topology

if TYPE_CHECKING:
    from trunkline.broker import Broker
    from trunkline.records import Header
    from trunkline_amqp.connection import AmqpConnection
    from trunkline_amqp.publishing import Message, Way
    from trunkline_amqp.replies import Replies
    from trunkline_amqp.settings import AmqpSettings

__all__ = ["AmqpServer"]


MAX_ORIGINS: Final = 100
"""Exchanges without a topic, whose names go into the records' headers."""


class AmqpServer:
    """Made by the door.

    Attributes:
      topology: what is declared.
      blocking: publishers that wait for room.
      heartbeats: who is sent one when.
      connections: those that are open.
      replies: who listens for direct replies, by address.
      ways: for each virtual host: where a publish goes, by the payload of its method.
      published, delivered, returned: messages since the start.
      consumers: there are now.
    """

    def __init__(self, broker: Broker, settings: AmqpSettings) -> None:
        self.settings = settings
        self.topology = Topology(
            broker,
            vhosts=settings.vhosts,
            mqtt_topic=settings.mqtt_topic,
            max_message_bytes=settings.max_message_bytes,
        )
        self.spawn: Callable[..., Any] = broker.start_soon
        self.now_ms = broker.now_ms
        self.call_last = broker.views.rounds.call_last
        self.blocking = Blocking(broker.start_soon)
        self.heartbeats = Heartbeats()
        self.connections: dict[AmqpConnection, None] = {}
        self.replies: dict[bytes, Replies] = {}
        self.ways: dict[str, dict[bytes, Way]] = {name: {} for name in settings.vhosts}
        self._known: dict[tuple[tuple[Header, ...], bool], dict[bytes, tuple[bytes, bool]]] = {}
        self.published = self.delivered = self.returned = self.consumers = 0
        self._broker = broker
        self._version = -1

    def new_name(self, prefix: str) -> str:
        """A name that nobody else has, and nobody guesses."""
        return f"{prefix}{self._broker.random.getrandbits(120):030x}"

    def may_be_guest(self, local_address: str) -> bool:
        """Whether who came to this address of ours may be guest: over loopback, or where all may come in."""
        return is_loopback(local_address) or self._broker.config.insecure

    def look_around(self) -> None:
        """Called before frames are read: forget ways that are no more."""
        version = self.topology.version
        if version != self._version:
            self._version = version
            self._forget_ways()

    def _forget_ways(self) -> None:
        self._known.clear()
        for ways in self.ways.values():
            ways.clear()

    def known(self, origin: tuple[Header, ...], *, is_for_mqtt: bool) -> dict[bytes, tuple[bytes, bool]]:
        """Headers of the record, and whether the message is persistent, by raw properties; on ways that are alike."""
        found = self._known.get((origin, is_for_mqtt))
        if found is None:
            if len(self._known) >= MAX_ORIGINS:
                self._forget_ways()
            found = self._known[origin, is_for_mqtt] = {}
        return found

    def reply(self, key: bytes, content: Message) -> bool:
        """A direct reply; False if nobody is there to take it."""
        replies = self.replies.get(key)
        return replies is not None and replies.receive(key, *content[1:])

    def opened(self, connection: AmqpConnection) -> None:
        """It has come in."""
        self.connections[connection] = None
        if connection.terms.heartbeat_s:
            self.heartbeats.add(connection, connection.terms.heartbeat_s / 2)

    def gone(self, connection: AmqpConnection) -> None:
        """It is over."""
        self.connections.pop(connection, None)
        self.topology.connection_closed(connection)

    def statistics(self) -> dict[str, int | float]:
        return {
            "connections": len(self.connections),
            "channels": sum(len(connection.channels) for connection in self.connections),
            "consumers": self.consumers,
            "published": self.published,
            "delivered": self.delivered,
            "returned": self.returned,
            "blocked": sum(connection.intake.is_blocked for connection in self.connections),
        }
