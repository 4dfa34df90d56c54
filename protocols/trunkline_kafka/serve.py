"""The Kafka door: a connection for each client."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trunkline.door import Connection, Door, DoorContext, Transport
from trunkline_kafka.admin import answer
from trunkline_kafka.connection import KafkaConnection
from trunkline_kafka.handlers import HANDLERS
from trunkline_kafka.server import KafkaServer
from trunkline_kafka.settings import KafkaSettings

__all__ = ["KafkaDoor"]


class KafkaDoor(Door):
    """Opened once by a broker; see :class:`trunkline.door.Door`."""

    def __init__(self, context: DoorContext) -> None:
        self._broker = context.broker
        self._server = KafkaServer(context.broker, context.settings or KafkaSettings())

    async def open(self) -> None:
        """Start the timers."""
        self._broker.start_soon(self._server.timers.run)

    def connect(self, transport: Transport) -> Connection:
        """A client has connected; any request may come first."""
        return KafkaConnection(self._server, transport, HANDLERS)

    async def ask(self, request: str, arguments: Mapping[str, Any]) -> Any:
        """What ``trunkline transactions`` asks, see docs/transactions.md."""
        return await answer(self._broker, request, arguments)

    def statistics(self) -> dict[str, int | float]:
        """Since the start, and now."""
        server = self._server
        return {
            "requests": server.requests,
            "waiting_fetches": server.waiting_fetches,
            "session_partitions": server.settings.max_session_partitions - server.session_room,
        }
