"""All links of a broker with RabbitMQ."""

from __future__ import annotations

import trio

from trunkline.bridge import Bridge, BridgeContext, LinkStatus
from trunkline_rabbitmq.inbound_link import InboundLink
from trunkline_rabbitmq.link import RabbitmqLink
from trunkline_rabbitmq.outbound_link import OutboundLink
from trunkline_rabbitmq.settings import RabbitmqSettings

__all__ = ["RabbitmqBridge"]


class RabbitmqBridge(Bridge):
    """Made once by a broker; see :class:`trunkline.bridge.Bridge`. Raises ConfigurationError."""

    def __init__(self, context: BridgeContext) -> None:
        settings: RabbitmqSettings = context.settings or RabbitmqSettings()
        settings.check()
        node = settings.node or context.node
        self._links: list[RabbitmqLink] = []
        for name, inbound in settings.inbound.items():
            server = settings.server_of(f"inbound.{name}", inbound.server)
            self._links.append(
                InboundLink(context, node, name, server, settings.servers[server], inbound, settings.max_hops)
            )
        for name, outbound in settings.outbound.items():
            server = settings.server_of(f"outbound.{name}", outbound.server)
            self._links.append(
                OutboundLink(context, node, name, server, settings.servers[server], outbound, settings.max_hops)
            )

    async def run(self) -> None:
        """Run all links; each sees to its own failures."""
        async with trio.open_nursery() as nursery:
            for link in self._links:
                nursery.start_soon(link.run)
            nursery.start_soon(trio.sleep_forever)  # also without links it goes on

    async def drain(self) -> None:
        """See :class:`trunkline.bridge.Bridge`."""
        async with trio.open_nursery() as nursery:
            for link in self._links:
                nursery.start_soon(link.drain)

    def links(self) -> list[LinkStatus]:
        """See :class:`trunkline.bridge.Bridge`."""
        return [link.journal.status() for link in self._links]
