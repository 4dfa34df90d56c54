"""All brokers of MQTT that this one is bridged with."""

from __future__ import annotations

import trio

from trunkline.bridge import Bridge, BridgeContext, LinkStatus
from trunkline_mqtt_bridge.places import Places
from trunkline_mqtt_bridge.settings import MqttBridgeSettings
from trunkline_mqtt_bridge.upstream import SESSION_PREFIX, Upstream

__all__ = ["MqttBridge"]


class MqttBridge(Bridge):
    """Made once by a broker; see :class:`trunkline.bridge.Bridge`. Raises ConfigurationError."""

    def __init__(self, context: BridgeContext) -> None:
        settings: MqttBridgeSettings = context.settings or MqttBridgeSettings()
        settings.check()
        self._broker = context.broker
        places = Places(context.broker)
        self._upstreams = {
            name: Upstream(
                context.broker,
                name,
                upstream,
                node=settings.node or context.node,
                max_hops=settings.max_hops,
                places=places,
            )
            for name, upstream in settings.brokers.items()
        }
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
        async with trio.open_nursery() as nursery:
            for upstream in self._upstreams.values():
                nursery.start_soon(upstream.run)
            nursery.start_soon(trio.sleep_forever)  # also without links it goes on

    def _forget_links_that_went(self) -> None:
        """Cursors of links that the configuration names no more: retention need not wait for them."""
        known = {name for upstream in self._upstreams.values() for name in upstream.session_names}
        for name in self._broker.sessions.names():
            if name.startswith(SESSION_PREFIX) and name not in known:
                self._broker.sessions.delete(name)

    async def drain(self) -> None:
        """See :class:`trunkline.bridge.Bridge`."""
        async with trio.open_nursery() as nursery:
            for upstream in self._upstreams.values():
                nursery.start_soon(upstream.drain)

    def links(self) -> list[LinkStatus]:
        """See :class:`trunkline.bridge.Bridge`."""
        return [status for upstream in self._upstreams.values() for status in upstream.links()]
