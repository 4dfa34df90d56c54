"""The door: a connection for each client."""

from __future__ import annotations

from trunkline.door import Connection, Door, DoorContext, Transport

from trunkline_teletype.connection import TeletypeConnection
from trunkline_teletype.settings import TeletypeSettings

__all__ = ["TeletypeDoor"]


class TeletypeDoor(Door):
    """Opened once by a broker."""

    def __init__(self, context: DoorContext) -> None:
        self._broker = context.broker
        self._settings: TeletypeSettings = context.settings or TeletypeSettings()
        self._accepted = 0

    def connect(self, transport: Transport) -> Connection:
        self._accepted += 1
        return TeletypeConnection(self._broker, self._settings, transport)

    def statistics(self) -> dict[str, int | float]:
        return {"accepted": self._accepted}
