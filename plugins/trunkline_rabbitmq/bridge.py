"""All links of a broker with RabbitMQ."""

from __future__ import annotations

import trio

from trunkline.bridge import Bridge, BridgeContext, LinkStatus
from trunkline_rabbitmq.inbound_link import InboundLink
from trunkline_rabbitmq.link import RabbitmqLink, Surroundings
from trunkline_rabbitmq.outbound_link import OutboundLink
from trunkline_rabbitmq.settings import RabbitmqSettings

__all__ = ["RabbitmqBridge"]


class RabbitmqBridge(Bridge):
    """Made once by a broker; see :class:`trunkline.bridge.Bridge`. Raises ConfigurationError."""

    def __init__(self, context: BridgeContext) -> None:
        settings: RabbitmqSettings = context.settings or RabbitmqSettings()
        settings.check()
        node = settings.node or context.node

        def around(where: str, server: str) -> Surroundings:
            name = settings.server_of(where, server)
            return Surroundings(context.broker, node, settings.max_hops, name, settings.servers[name])

        self._links: list[RabbitmqLink] = [
            *(
                InboundLink(around(f"inbound.{name}", link.server), name, link)
                for name, link in settings.inbound.items()
            ),
            *(
                OutboundLink(around(f"outbound.{name}", link.server), name, link)
                for name, link in settings.outbound.items()
            ),
        ]

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
