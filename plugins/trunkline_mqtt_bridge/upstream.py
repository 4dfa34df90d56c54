"""All links with one broker: they share a connection, so that it knows what came from here and sends none of it back.

One task receives, and stops where too much is not durable yet; what there is to send is written by the core's rounds,
and one task sends it.
"""

from __future__ import annotations

from collections import deque
from typing import Final, TypeAlias

import trio

from trunkline.bridge import LinkStatus
from trunkline.broker import Broker
from trunkline.errors import TrunklineError
from trunkline.links import Journal, Link, LinkFailed, Pauses, WhereTo, read_password
from trunkline_mqtt.packets import (
    Connect,
    Packet,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    Subscription,
    Unsuback,
    Unsubscribe,
)
from trunkline_mqtt_bridge.addresses import parse_url
from trunkline_mqtt_bridge.client import Client, open_client
from trunkline_mqtt_bridge.inbound import Inbound, InboundLink
from trunkline_mqtt_bridge.mapping import covers, needed
from trunkline_mqtt_bridge.outbound import OutboundLink
from trunkline_mqtt_bridge.packet_ids import MAX_PACKET_IDS, PacketIds
from trunkline_mqtt_bridge.places import Places
from trunkline_mqtt_bridge.protocol import connect_packet, reason_text
from trunkline_mqtt_bridge.settings import LinkSettings, UpstreamSettings

__all__ = ["SESSION_PREFIX", "Upstream"]

SESSION_PREFIX: Final = "bridge.mqtt:"
"""The core's sessions that are the cursors of outbound links: then comes BROKER/LINK."""

_Ids: TypeAlias = "PacketIds[OutboundLink | None]"
"""Of messages by link; those of SUBSCRIBE are nobody's."""

_FAILURES: Final = 0x80
_ONLY_IF_NEW: Final = 1  # retain handling: MQTT 5.0, 3.8.3.1


class Upstream(Link):
    """One table ``[bridge.mqtt.brokers.NAME]``, with the links that name it.

    Args:
      name: NAME.
      node: this broker's name.
      places: where messages are put and found in the log.
    """

    def __init__(
        self, broker: Broker, name: str, settings: UpstreamSettings, *, node: str, max_hops: int, places: Places
    ) -> None:
        super().__init__(broker, f"mqtt {name}", [], Pauses(settings.first_pause_s, settings.last_pause_s))
        self._settings = settings
        self._node = node
        self._max_hops = max_hops
        self._places = places
        self._broker_name = name
        self._origin = f"mqtt/{name}"
        self._client_id = settings.client_id or f"trunkline-{node}-{name}"
        self._inbound = Inbound(node, self._client_id, self._origin, broker.now_ms, self._fail, self._settled)
        self._outbound: deque[OutboundLink] = deque()
        self._awaited: dict[int, Subscription] = {}  # subscriptions without an answer, by packet identifier
        self._url = parse_url(settings.url)
        self._where = WhereTo(self._url.host, self._url.port, self._url.is_tls, str(self._url))
        self._topics: set[str] = set()  # of the log, that links name
        self._failure: TrunklineError | None = None
        self._wake = trio.Event()  # something of the above changed, or it is to be drained
        self._connecting = trio.CancelScope()

    def add_inbound(self, name: str, link: LinkSettings) -> None:
        """A link from there into the log."""
        self._topics |= {link.topic} - {""}
        local = link.topic or "MQTT topics"
        journal = Journal(name, "in", f"{self._broker_name} {link.remote_prefix}{link.filter}", local)
        self.journals = [*self.journals, journal]
        self._inbound.links.append(InboundLink(link, journal, self._places.partition_of(link.topic)))

    def add_outbound(self, name: str, link: LinkSettings) -> None:
        """A link from the log there."""
        self._topics |= {link.topic} - {""}
        journal = Journal(
            name, "out", f"{link.local_prefix}{link.filter}", f"{self._broker_name} {link.remote_prefix}#"
        )
        self.journals = [*self.journals, journal]
        self._outbound.append(
            OutboundLink(
                self.broker,
                link,
                journal,
                session_name=f"{SESSION_PREFIX}{self._broker_name}/{name}",
                node=self._node,
                max_hops=self._max_hops,
                origin=self._origin,
                window=self._settings.window,
                fail=self._fail,
            )
        )

    @property
    def session_names(self) -> set[str]:
        """Of all outbound links."""
        return {link.session_name for link in self._outbound}

    def links(self) -> list[LinkStatus]:
        """How each goes."""
        for link in self._outbound:
            link.journal.lag = link.lag
        return [journal.status() for journal in self.journals]

    def drain_soon(self) -> None:
        """See :class:`Link`."""
        self._connecting.cancel()
        for link in self._outbound:
            link.drain()
        self._wake.set()

    def _settled(self, is_stored: bool) -> None:
        if is_stored:
            self.went_well()
        if self.is_draining:
            self._wake.set()

    def _fail(self, error: TrunklineError) -> None:
        self._failure = self._failure or error
        self._wake.set()

    # -- one connection ----------------------------------------------------------------------------

    async def converse(self) -> None:
        """See :class:`Link`."""
        settings = self._settings
        self._failure = None
        packet = await self._greeting()
        self._connecting = trio.CancelScope()
        if self.is_draining:
            self._connecting.cancel()
        async with open_client(
            self._where,
            settings,
            packet,
            timeout_s=settings.connect_timeout_s,
            max_packet_bytes=settings.max_packet_bytes,
            connecting=self._connecting,
        ) as client:
            for journal in self.journals:
                journal.counters["connections"] += 1
            ids: _Ids = PacketIds(min(client.limits.receive_maximum, MAX_PACKET_IDS - 2 * len(self.journals)))
            try:
                await self._begin(client, ids)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._receive, client, ids)
                    await self._until_drained()
                    nursery.cancel_scope.cancel()
            finally:
                for link in self._outbound:
                    link.detach()

    async def _greeting(self) -> Connect:
        settings, url = self._settings, self._url
        password = url.password
        if settings.password_file:
            password = await read_password(settings.password_file)
        return connect_packet(
            version=settings.version,
            client_id=self._client_id,
            user=url.user,
            password=password,
            keep_alive_s=settings.keep_alive_s,
            session_expiry_s=settings.session_expiry_s,
            receive_maximum=settings.receive_maximum,
            max_packet_bytes=settings.max_packet_bytes,
        )

    async def _begin(self, client: Client, ids: _Ids) -> None:
        """Subscribe there, and attach to the log here."""
        await self._places.make(sorted(self._topics))
        self._inbound.connected(session_present=client.limits.session_present)
        self._awaited.clear()
        for link in self._outbound:
            link.attach(client, ids, self._places.topics_of(link.settings.topic))
        client.on_room = self._go_on
        self._subscribe(client, ids)
        if not self._inbound.links:
            self.became("running")

    def _subscribe(self, client: Client, ids: _Ids) -> None:
        """To filters that no other one covers; what an earlier configuration subscribed to besides is given up."""
        qos: dict[str, int] = {}
        for link in self._inbound.links:
            qos[link.mapping.remote_filter] = max(qos.get(link.mapping.remote_filter, 0), link.settings.qos)
        wanted = needed(qos)
        for text in wanted:
            # The broker knows the filter from the last time; saying it again changes nothing but the options.
            subscription = Subscription(
                text,
                max(number for other, number in qos.items() if covers(text, other)),
                no_local=client.protocol.is_5,
                retain_as_published=client.protocol.is_5,
                retain_handling=_ONLY_IF_NEW if client.protocol.is_5 else 0,
            )
            packet_id = ids.take(None)
            self._awaited[packet_id] = subscription
            client.write_packet(Subscribe(packet_id, (subscription,)))
        if len(wanted) < len(qos):
            others = tuple(text for text in qos if text not in wanted)
            client.write_packet(Unsubscribe(ids.take(None), others))

    def _go_on(self) -> None:
        """They share what the broker allows, so each comes first in turn."""
        for link in self._outbound:
            link.go_on()
        self._outbound.rotate()

    async def _until_drained(self) -> None:
        """Wait for an end. Raises what failed."""
        while True:
            if self._failure is not None:
                raise self._failure
            if (
                self.is_draining
                and not self._inbound.unacknowledged_bytes
                and all(link.is_done for link in self._outbound)
            ):
                return
            await self._wake.wait()
            self._wake = trio.Event()

    async def _receive(self, client: Client, ids: _Ids) -> None:
        while True:
            for packet in await client.receive():
                if isinstance(packet, Suback):
                    self._subscribed(ids, packet)
                else:
                    self._received(client, ids, packet)
            self._go_on()
            if self.is_draining:
                self._wake.set()
            while self._inbound.unacknowledged_bytes > self._settings.max_unacknowledged_bytes:
                await self._inbound.changed.wait()

    def _subscribed(self, ids: _Ids, packet: Suback) -> None:
        asked = self._awaited.pop(packet.packet_id, None)
        if asked is None:
            return
        ids.release(packet.packet_id)
        code = packet.reason_codes[0] if packet.reason_codes else _FAILURES
        if code >= _FAILURES:
            said = reason_text(code, packet.properties)
            raise LinkFailed(f"{self._where.name} refuses the subscription to {asked.topic_filter}: {said}", code)
        for link in self._inbound.links:
            if code < link.settings.qos and covers(asked.topic_filter, link.mapping.remote_filter):
                link.journal.note(f"{self._where.name} gives QoS {code}, not {link.settings.qos}", self.broker.now_ms())
        if not self._awaited:
            self.became("running")

    def _received(self, client: Client, ids: _Ids, packet: Packet) -> None:
        if isinstance(packet, Publish) and not self.is_draining:
            self._inbound.publish(client, packet)
        elif isinstance(packet, Unsuback):
            ids.release(packet.packet_id)
        elif isinstance(packet, Pubrel):
            self._inbound.released(client, packet)
        elif isinstance(packet, Puback | Pubrec | Pubcomp):
            link = ids.user(packet.packet_id)
            if link is not None:
                link.acknowledged(packet)
                self.went_well()
