"""A link with RabbitMQ: a connection of its own, inside of which it converses."""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple

from trunkline.broker import Broker
from trunkline.links import Journal, Link, Pauses
from trunkline_rabbitmq.client import Session, open_session
from trunkline_rabbitmq.settings import ServerSettings

__all__ = ["RabbitmqLink", "Surroundings"]


class Surroundings(NamedTuple):
    """Of a link.

    Attributes:
      node: this broker's name in the hop header.
      max_hops: brokers that a message may have passed.
      server_name, server: the RabbitMQ that it is with.
    """

    broker: Broker
    node: str
    max_hops: int
    server_name: str
    server: ServerSettings

    @property
    def origin(self) -> str:
        """What records from there have in their header."""
        return f"rabbitmq/{self.server_name}"


class RabbitmqLink(Link):
    """One link.

    Attributes:
      journal: how it goes.
      around: what it shares with others.
    """

    def __init__(self, around: Surroundings, journal: Journal) -> None:
        server = around.server
        super().__init__(around.broker, journal.name, [journal], Pauses(server.first_pause_s, server.last_pause_s))
        self.journal = journal
        self.around = around
        self._mqtt_topic: str = around.broker.config.door.get("mqtt", {}).get("topic", "mqtt")

    def is_slashed(self, topic: str) -> bool:
        """Keys of this topic are MQTT's: they have ``/`` where routing keys have ``.``, and the reverse."""
        return topic == self._mqtt_topic

    @property
    @abstractmethod
    def max_body_bytes(self) -> int:
        """The largest message that is kept when it comes from RabbitMQ."""

    @abstractmethod
    async def converse_over(self, session: Session) -> None:
        """Move messages until that fails; return when it is drained. Raises LinkFailed, TrunklineError."""

    async def converse(self) -> None:
        """See :class:`trunkline.links.Link`."""
        name = f"trunkline {self.name}"
        async with open_session(self.around.server, name=name, max_body_bytes=self.max_body_bytes) as session:
            self.journal.counters["connections"] += 1
            await self.converse_over(session)

    def moved(self, messages: int, size_bytes: int) -> None:
        """So many are done with."""
        if messages:
            self.journal.counters["messages"] += messages
            self.journal.counters["bytes"] += size_bytes
            self.went_well()
