"""All brokers of MQTT that this one is bridged with."""

from __future__ import annotations

import logging
from typing import Final

import trio

from trunkline.bridge import Bridge, BridgeContext, LinkStatus
from trunkline_mqtt_bridge.leaving import Leaving
from trunkline_mqtt_bridge.places import Places
from trunkline_mqtt_bridge.remembered import Remembered
from trunkline_mqtt_bridge.settings import MqttBridgeSettings, UpstreamSettings
from trunkline_mqtt_bridge.upstream import SESSION_PREFIX, Upstream

__all__ = ["MqttBridge"]

logger = logging.getLogger("trunkline.links")

_LEFT_BEHIND: Final = (
    "%s keeps messages for client %s, whose links are gone; to end that, configure it without links:"
    " a table [bridge.mqtt.brokers.NAME] with url %s, the user, and client_id %s"
)


class MqttBridge(Bridge):
    """Made once by a broker; see :class:`trunkline.bridge.Bridge`. Raises ConfigurationError."""

    def __init__(self, context: BridgeContext) -> None:
        settings: MqttBridgeSettings = context.settings or MqttBridgeSettings()
        settings.check()
        self._broker = context.broker
        self._remembered = Remembered(context.broker)
        self._tables = settings.brokers
        self._client_ids = {
            name: table.client_id or f"trunkline-{settings.node or context.node}-{name}"
            for name, table in settings.brokers.items()
        }
        places = Places(context.broker)
        used = {settings.broker_of(name) for name in settings.links}
        self._upstreams = {
            name: Upstream(
                context.broker,
                name,
                upstream,
                node=settings.node or context.node,
                client_id=self._client_ids[name],
                max_hops=settings.max_hops,
                places=places,
                remembered=self._remembered,
            )
            for name, upstream in settings.brokers.items()
            if name in used
        }
        self._leaving: list[Leaving] = []
        for name, link in settings.links.items():
            upstream = self._upstreams[settings.broker_of(name)]
            is_both = link.direction == "both"
            if link.direction != "out":
                upstream.add_inbound(f"{name}.in" if is_both else name, link)
            if link.direction != "in":
                upstream.add_outbound(f"{name}.out" if is_both else name, link)

    async def run(self) -> None:
        """Run all links; each connection sees to its own failures."""
        self._forget_links_that_went()
        await self._remembered.load()
        self._leaving = self._leave()
        async with trio.open_nursery() as nursery:
            for link in (*self._upstreams.values(), *self._leaving):
                nursery.start_soon(link.run)
            nursery.start_soon(trio.sleep_forever)  # also without links it goes on

    def _leave(self) -> list[Leaving]:
        """What ends the sessions at brokers that have no link any more."""
        leaving: list[Leaving] = []
        for name, table in self._tables.items():
            client_id = self._client_ids[name]
            if name not in self._upstreams and self._remembered.get(client_id) is not None:
                leaving.append(Leaving(self._broker, name, client_id, table, self._remembered))
        for client_id, kept in self._remembered.take_gone(set(self._client_ids.values())).items():
            if kept.has_user:
                logger.warning(_LEFT_BEHIND, kept.url, client_id, kept.url, client_id)
                continue
            settings = UpstreamSettings(url=kept.url, version="5" if kept.version == "5" else "3.1.1")
            leaving.append(Leaving(self._broker, kept.url, client_id, settings, self._remembered))
        return leaving

    def _forget_links_that_went(self) -> None:
        """Cursors of links that the configuration names no more: retention need not wait for them."""
        known = {name for upstream in self._upstreams.values() for name in upstream.session_names}
        for name in self._broker.sessions.names():
            if name.startswith(SESSION_PREFIX) and name not in known:
                self._broker.sessions.delete(name)

    async def drain(self) -> None:
        """See :class:`trunkline.bridge.Bridge`."""
        async with trio.open_nursery() as nursery:
            for link in (*self._upstreams.values(), *self._leaving):
                nursery.start_soon(link.drain)

    def links(self) -> list[LinkStatus]:
        """See :class:`trunkline.bridge.Bridge`."""
        return [status for upstream in self._upstreams.values() for status in upstream.links()]
