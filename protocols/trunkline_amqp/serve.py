"""The AMQP door: a connection for each client."""

from __future__ import annotations

from trunkline.door import Connection, Door, DoorContext, Transport
from trunkline_amqp.connection import AmqpConnection
from trunkline_amqp.server import AmqpServer
from trunkline_amqp.settings import AmqpSettings

__all__ = ["AmqpDoor"]


class AmqpDoor(Door):
    """Opened once by a broker; see :class:`trunkline.door.Door`."""

    def __init__(self, context: DoorContext) -> None:
        self._broker = context.broker
        self._server = AmqpServer(context.broker, context.settings or AmqpSettings())

    async def open(self) -> None:
        """Read what is declared. Raises CorruptLog, OSError."""
        await self._server.topology.open()
        self._broker.start_soon(self._server.heartbeats.run)

    def connect(self, transport: Transport) -> Connection:
        """A client has connected; it speaks first."""
        return AmqpConnection(self._server, transport)

    def statistics(self) -> dict[str, int | float]:
        """Since the start, and now."""
        return self._server.statistics()
