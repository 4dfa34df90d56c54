"""The native door: makes a connection for each client, and counts."""

from __future__ import annotations

import weakref

from trunkline.door import Connection, Door, DoorContext, Transport
from trunkline_native.connection import NativeConnection
from trunkline_native.settings import NativeSettings

__all__ = ["NativeDoor"]


class NativeDoor(Door):
    """Opened once by a broker; see :class:`trunkline.door.Door`."""

    def __init__(self, context: DoorContext) -> None:
        self._broker = context.broker
        self._settings: NativeSettings = context.settings or NativeSettings()
        self._connections: weakref.WeakSet[NativeConnection] = weakref.WeakSet()

    def connect(self, transport: Transport) -> Connection:
        """A client has connected; it has to say hello first."""
        connection = NativeConnection(self._broker, self._settings, transport)
        self._connections.add(connection)
        return connection

    def statistics(self) -> dict[str, int | float]:
        """Of the connections that are open now."""
        connections = list(self._connections)
        return {
            "connections": len(connections),
            "streams": sum(len(connection.streams) for connection in connections),
            "inflight_requests": sum(connection.inflight_requests for connection in connections),
            "inflight_bytes": sum(connection.inflight_bytes for connection in connections),
        }
