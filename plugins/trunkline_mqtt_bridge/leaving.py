"""Ends the session at a broker that is to keep nothing for this one any more: its links were taken out."""

from __future__ import annotations

import trio

from trunkline.broker import Broker
from trunkline.links import Link, Pauses
from trunkline_mqtt_bridge.client import open_client
from trunkline_mqtt_bridge.greeting import Greeter
from trunkline_mqtt_bridge.remembered import Remembered
from trunkline_mqtt_bridge.settings import UpstreamSettings

__all__ = ["Leaving"]


class Leaving(Link):
    """Connects once in a way that leaves nothing behind (MQTT 5.0, 3.1.2.4 and 3.1.2.11.2), and is done."""

    def __init__(self, broker: Broker, name: str, client_id: str, settings: UpstreamSettings, kept: Remembered) -> None:
        super().__init__(broker, f"mqtt {name}", [], Pauses(settings.first_pause_s, settings.last_pause_s))
        self._settings = settings
        self._greeter = Greeter(settings, client_id)
        self._client_id = client_id
        self._kept = kept
        self._connecting = trio.CancelScope()

    async def converse(self) -> None:
        """See :class:`Link`."""
        self._connecting = trio.CancelScope()
        async with open_client(
            self._greeter.where,
            self._settings,
            await self._greeter.packet(leaves=True),
            timeout_s=self._settings.connect_timeout_s,
            max_packet_bytes=self._settings.max_packet_bytes,
            connecting=self._connecting,
        ):
            pass
        self._kept.forget(self._client_id)
        self.is_draining = True  # there is nothing more to do

    def drain_soon(self) -> None:
        """See :class:`Link`."""
        self._connecting.cancel()
