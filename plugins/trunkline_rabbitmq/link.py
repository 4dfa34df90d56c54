"""A link with RabbitMQ: a connection of its own, inside of which it converses."""

from __future__ import annotations

from abc import abstractmethod

from trunkline.bridge import BridgeContext
from trunkline.links import Journal, Link, Pauses
from trunkline_rabbitmq.client import Session, open_session
from trunkline_rabbitmq.settings import ServerSettings

__all__ = ["RabbitmqLink"]


class RabbitmqLink(Link):
    """One link.

    Attributes:
      journal: how it goes.
      node: this broker's name in the hop header.
    """

    def __init__(self, context: BridgeContext, node: str, server: ServerSettings, journal: Journal) -> None:
        super().__init__(context.broker, journal.name, [journal], Pauses(server.first_pause_s, server.last_pause_s))
        self.journal = journal
        self.node = node
        self._server = server
        self._mqtt_topic: str = context.broker.config.door.get("mqtt", {}).get("topic", "mqtt")

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
        async with open_session(self._server, name=name, max_body_bytes=self.max_body_bytes) as session:
            self.journal.counters["connections"] += 1
            await self.converse_over(session)

    def moved(self, messages: int, size_bytes: int) -> None:
        """So many are done with."""
        if messages:
            self.journal.counters["messages"] += messages
            self.journal.counters["bytes"] += size_bytes
            self.went_well()
