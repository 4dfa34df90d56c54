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
from trunkline.links import ConnectionEnded, Journal, Link, LinkFailed, Pauses, one_failure
from trunkline_mqtt.packets import Puback, Pubcomp, Publish, Pubrec, Pubrel, Suback, Unsuback
from trunkline_mqtt_bridge.client import Client, open_client
from trunkline_mqtt_bridge.composing import Composer
from trunkline_mqtt_bridge.greeting import Greeter
from trunkline_mqtt_bridge.inbound import Inbound, InboundLink
from trunkline_mqtt_bridge.mapping import Mapping, covers
from trunkline_mqtt_bridge.outbound import OutboundLink
from trunkline_mqtt_bridge.packet_ids import MAX_PACKET_IDS, PacketIds
from trunkline_mqtt_bridge.places import Places
from trunkline_mqtt_bridge.protocol import Event, reason_text
from trunkline_mqtt_bridge.remembered import Kept, Remembered
from trunkline_mqtt_bridge.settings import LinkSettings, UpstreamSettings, wrong
from trunkline_mqtt_bridge.skipping import Oversized
from trunkline_mqtt_bridge.subscribing import Subscribing
from trunkline_mqtt_bridge.suspects import Suspects

__all__ = ["SESSION_PREFIX", "Upstream"]

SESSION_PREFIX: Final = "bridge.mqtt:"
"""The core's sessions that are the cursors of outbound links: then comes BROKER/LINK."""

_Ids: TypeAlias = "PacketIds[OutboundLink | None]"
"""Of messages by link; those of SUBSCRIBE are nobody's."""

_FAILURES: Final = 0x80


class Upstream(Link):
    """One table ``[bridge.mqtt.brokers.NAME]``, with the links that name it.

    Args:
      name: NAME.
      node: this broker's name.
      client_id: under which it is connected.
      places: where messages are put and found in the log.
      remembered: what is subscribed to.
    """

    def __init__(
        self,
        broker: Broker,
        name: str,
        settings: UpstreamSettings,
        *,
        node: str,
        client_id: str,
        max_hops: int,
        places: Places,
        remembered: Remembered,
    ) -> None:
        super().__init__(broker, f"mqtt {name}", [], Pauses(settings.first_pause_s, settings.last_pause_s))
        self._settings = settings
        self._node = node
        self._max_hops = max_hops
        self._places = places
        self._broker_name = name
        self._origin = f"mqtt/{name}"
        self._client_id = client_id
        self._remembered = remembered
        self._inbound = Inbound(node, client_id, self._origin, broker.now_ms, self._fail, self._settled)
        self._outbound: deque[OutboundLink] = deque()
        self._subscribing: Subscribing | None = None
        self._greeter = Greeter(settings, client_id)
        self._topics: set[str] = set()  # of the log, that links name
        self._failure: TrunklineError | None = None
        self._suspects = Suspects()
        self._aside = trio.Event()  # some link has something to set aside
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
        mapping = Mapping(link)
        composer = Composer(
            link,
            mapping,
            journal,
            node=self._node,
            max_hops=self._max_hops,
            origin=self._origin,
            now_ms=self.broker.now_ms,
        )
        outbound = OutboundLink(
            self.broker,
            link,
            mapping,
            journal,
            composer,
            self._places,
            session_name=f"{SESSION_PREFIX}{self._broker_name}/{name}",
            window=self._settings.window,
            suspects=self._suspects,
            fail=self._fail,
            set_aside=self._set_aside,
        )
        if outbound.aside.topic in self._places.topics_of(link.topic):
            raise wrong(f"links.{name}.dead_letter_topic", "the link itself sends what is in it")
        self._outbound.append(outbound)

    @property
    def session_names(self) -> set[str]:
        """Of all outbound links."""
        return {link.session_name for link in self._outbound}

    def links(self) -> list[LinkStatus]:
        """How each goes."""
        for link in self._outbound:
            link.journal.lag = self._places.lag_of(link.session_name)
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

    async def run(self) -> None:
        """See :class:`Link`."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._set_aside_forever)
            await super().run()
            nursery.cancel_scope.cancel()

    async def _set_aside_forever(self) -> None:
        while True:
            await self._aside.wait()
            self._aside = trio.Event()
            try:
                for link in list(self._outbound):
                    await link.aside.keep()
            except TrunklineError as error:
                self._aside.set()
                self._fail(error)
                await trio.sleep(self._settings.last_pause_s)
            self._go_on()

    def _set_aside(self) -> None:
        self._aside.set()

    def _fail(self, error: TrunklineError) -> None:
        self._failure = self._failure or error
        self._wake.set()

    # -- one connection ----------------------------------------------------------------------------

    async def converse(self) -> None:
        """See :class:`Link`."""
        self._failure = None
        is_ended = False
        try:
            with one_failure():
                await self._converse()
        except ConnectionEnded:
            is_ended = True
            raise
        finally:
            self._suspects.ended(by_other_side=is_ended)

    async def _converse(self) -> None:
        settings = self._settings
        packet = await self._greeter.packet()
        self._connecting = trio.CancelScope()
        if self.is_draining:
            self._connecting.cancel()
        async with open_client(
            self._greeter.where,
            settings,
            packet,
            timeout_s=settings.connect_timeout_s,
            max_packet_bytes=settings.max_packet_bytes,
            connecting=self._connecting,
        ) as client:
            for journal in self.journals:
                journal.counters["connections"] += 1
            ids: _Ids = PacketIds()
            try:
                await self._begin(client, ids)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._receive, client, ids)
                    await self._until_drained()
                    nursery.cancel_scope.cancel()
            finally:
                for link in self._outbound:
                    link.detach()

    async def _begin(self, client: Client, ids: _Ids) -> None:
        """Subscribe there, and attach to the log here."""
        await self._places.make(sorted(self._topics))
        self._inbound.connected(session_present=client.limits.session_present)
        self._limit(client, ids)
        limit = min(client.limits.max_packet_bytes, self._settings.max_sent_packet_bytes or 2**31)
        for link in self._outbound:
            link.attach(client, ids, limit)
        client.on_room = self._go_on
        await self._subscribe(client, ids)

    def _limit(self, client: Client, ids: _Ids) -> None:
        allowed = min(client.limits.receive_maximum, MAX_PACKET_IDS - 2 * len(self.journals))
        ids.limit = 1 if self._suspects.is_careful else allowed

    async def _subscribe(self, client: Client, ids: _Ids) -> None:
        qos: dict[str, int] = {}
        for link in self._inbound.links:
            qos[link.mapping.remote_filter] = max(qos.get(link.mapping.remote_filter, 0), link.settings.qos)
        known = self._remembered.filters(self._client_id)
        subscribing = self._subscribing = Subscribing(
            qos, known, is_5=client.protocol.is_5, take_id=lambda: ids.take(None), release_id=ids.release
        )
        await self._remembered.keep(self._client_id, Kept.of(self._settings, subscribing.filters))
        for packet in subscribing.packets():
            client.write_packet(packet)
        if subscribing.is_subscribed:
            self.became("running")

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
            for event in await client.receive():
                self._received(client, ids, event)
            self._limit(client, ids)
            self._go_on()
            if self.is_draining:
                self._wake.set()
            while self._inbound.unacknowledged_bytes > self._settings.max_unacknowledged_bytes:
                await self._inbound.fewer.wait()

    def _received(self, client: Client, ids: _Ids, event: Event) -> None:
        if isinstance(event, Publish | Oversized) and self.is_draining:
            return
        if isinstance(event, Publish):
            self._inbound.publish(client, event)
        elif isinstance(event, Oversized):
            self._inbound.oversized(client, event, self._settings.max_packet_bytes)
        elif isinstance(event, Suback):
            self._subscribed(event)
        elif isinstance(event, Unsuback):
            assert self._subscribing is not None
            self._subscribing.unsubscribed(event)
            self._remembered.keep_soon(self._client_id, Kept.of(self._settings, self._subscribing.filters))
        elif isinstance(event, Pubrel):
            self._inbound.released(client, event)
        elif isinstance(event, Puback | Pubrec | Pubcomp):
            link = ids.user(event.packet_id)
            if link is not None:
                link.acknowledged(event)
                self.went_well()

    def _subscribed(self, packet: Suback) -> None:
        assert self._subscribing is not None
        found = self._subscribing.subscribed(packet)
        if found is None:
            return
        topic_filter, code = found
        where = self._greeter.where.name
        if code >= _FAILURES:
            said = reason_text(code, packet.properties)
            raise LinkFailed(f"{where} refuses the subscription to {topic_filter}: {said}", code)
        for link in self._inbound.links:
            if code < link.settings.qos and covers(topic_filter, link.mapping.remote_filter):
                link.journal.note(f"{where} gives QoS {code}, not {link.settings.qos}", self.broker.now_ms())
        if self._subscribing.is_subscribed:
            self.became("running")
