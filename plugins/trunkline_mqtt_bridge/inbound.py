"""From another broker into the log: a PUBLISH is acknowledged when its record is durable.

    QoS 0    PUBLISH -> record
    QoS 1    PUBLISH -> record -> PUBACK
    QoS 2    PUBLISH -> record -> PUBREC, PUBREL -> PUBCOMP; what comes again in between is known by its identifier

The identifiers of QoS 2 are remembered over connections, not over a restart of this broker, after which a message
may be stored twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from trunkline.changes import Changes
from trunkline.errors import RecordTooLarge, TrunklineError
from trunkline.links import ORIGIN, Journal
from trunkline.partition import Partition
from trunkline.records import encode_headers
from trunkline_mqtt.bridge import headers_of
from trunkline_mqtt.packets import Puback, Pubcomp, Publish, Pubrec, Pubrel
from trunkline_mqtt.properties import NO_PROPERTIES
from trunkline_mqtt_bridge.client import Client
from trunkline_mqtt_bridge.mapping import Mapping as TopicMapping
from trunkline_mqtt_bridge.mapping import hops_of
from trunkline_mqtt_bridge.settings import LinkSettings
from trunkline_mqtt_bridge.skipping import Oversized

__all__ = ["Inbound", "InboundLink"]


class InboundLink:
    """One link.

    Args:
      partition_of: where a message goes, by its topic here.
    """

    def __init__(self, settings: LinkSettings, journal: Journal, partition_of: Callable[[str], Partition]) -> None:
        self.settings = settings
        self.journal = journal
        self.mapping = TopicMapping(settings)
        self.partition_of = partition_of


class _Taken(NamedTuple):
    """A message that is being stored."""

    client: Client
    received: dict[int, Client | None]  # those of its session at the other broker
    link: InboundLink
    packet_id: int
    qos: int
    size_bytes: int


class Inbound:
    """What comes from one broker, for all links with it; an AppendReceiver.

    Args:
      node: this broker's name.
      client_id: under which it is connected.
      origin: of the records, see :mod:`trunkline.links.origin`.
      fail: called when the log does not take messages.
      settled: called when less is unacknowledged; with whether the log has it.

    Attributes:
      unacknowledged_bytes: taken and not stored yet.
      fewer: tells when there are.
    """

    def __init__(
        self,
        node: str,
        client_id: str,
        origin: str,
        now_ms: Callable[[], int],
        fail: Callable[[TrunklineError], None],
        settled: Callable[[bool], None],
    ) -> None:
        self.links: list[InboundLink] = []
        self.unacknowledged_bytes = 0
        self.fewer = Changes()
        self._fail = fail
        self._tell_settled = settled
        self._node = node
        self._client_id = client_id
        self._origin = ORIGIN, origin.encode()
        self._now_ms = now_ms
        self._plain: Mapping[int, bytes] = {
            qos: encode_headers(headers_of(client_id, qos, more=(self._origin,))) for qos in (0, 1, 2)
        }
        # Identifiers with QoS 2 -> where PUBREC goes once the record is durable; None: it is durable.
        self._received: dict[int, Client | None] = {}

    def connected(self, *, session_present: bool) -> None:
        """A new connection; without the old session identifiers mean new messages."""
        if not session_present:
            self._received = {}  # what is being stored now knows the old one

    def publish(self, client: Client, packet: Publish) -> None:
        """A message came."""
        if packet.qos == 2:
            if packet.packet_id in self._received:
                if self._received[packet.packet_id] is None:
                    client.write_packet(Pubrec(packet.packet_id))
                else:
                    self._received[packet.packet_id] = client
                return
            self._received[packet.packet_id] = client
        for link in self.links:
            topic = link.mapping.to_local(packet.topic)
            if topic is not None:
                self._store(client, link, topic, packet)
                return
        self._acknowledge(client, self._received, packet.qos, packet.packet_id)  # nobody wants it any more

    def oversized(self, client: Client, packet: Oversized, limit: int) -> None:
        """A message came that is larger than this side takes, so it was read over: it would come again and again."""
        for link in self.links:
            if link.mapping.to_local(packet.topic) is not None:
                link.journal.counters["oversized"] += 1
                what = f"a message of {packet.size_bytes} bytes to {packet.topic[:200]!r}"
                link.journal.note(f"{what} is dropped: max_packet_bytes is {limit}", self._now_ms())
                break
        self._acknowledge(client, self._received, packet.qos, packet.packet_id)

    def _store(self, client: Client, link: InboundLink, topic: str, packet: Publish) -> None:
        if packet.properties is not NO_PROPERTIES and self._node in hops_of(packet.properties.user):
            link.journal.counters["looped"] += 1
            self._acknowledge(client, self._received, packet.qos, packet.packet_id)
            return
        size = len(packet.payload) + len(packet.topic)
        taken = _Taken(client, self._received, link, packet.packet_id, packet.qos, size)
        self.unacknowledged_bytes += size
        now_ms = self._now_ms()
        try:
            partition = link.partition_of(topic)
            partition.stage_record(
                now_ms, topic.encode(), packet.payload, self._headers(link, packet, now_ms), self, taken
            )
        except TrunklineError as error:
            self.append_failed(taken, error)

    def _headers(self, link: InboundLink, packet: Publish, now_ms: int) -> bytes:
        is_retained = packet.retain and link.settings.retain
        if not is_retained and packet.properties is NO_PROPERTIES:
            return self._plain[min(packet.qos, link.settings.qos)]
        headers = headers_of(
            self._client_id,
            min(packet.qos, link.settings.qos),  # the subscription may be that of a wider link
            is_retained=is_retained,
            properties=packet.properties,
            now_ms=now_ms,
            more=(self._origin,),
        )
        return encode_headers(headers)

    def released(self, client: Client, packet: Pubrel) -> None:
        """The broker has heard PUBREC, and forgets the message."""
        self._received.pop(packet.packet_id, None)
        client.write_packet(Pubcomp(packet.packet_id))

    def append_done(self, token: object, offset: int) -> None:
        """The record is durable."""
        assert isinstance(token, _Taken)
        counters = token.link.journal.counters
        counters["messages"] += 1
        counters["bytes"] += token.size_bytes
        self._settled(token, is_stored=True)
        self._acknowledge(token.client, token.received, token.qos, token.packet_id)

    def append_failed(self, token: object, error: TrunklineError) -> None:
        """The record cannot be stored, ever, or for now; then the broker has to send the message again."""
        assert isinstance(token, _Taken)
        self._settled(token, is_stored=False)
        journal = token.link.journal
        if isinstance(error, RecordTooLarge):
            journal.counters["oversized"] += 1
            journal.note(f"a message is dropped: {error}", self._now_ms())
            self._acknowledge(token.client, token.received, token.qos, token.packet_id)
            return
        if token.qos == 2:
            token.received.pop(token.packet_id, None)
        elif token.qos == 0:
            journal.counters["lost"] += 1  # nobody will send it again
        self._fail(error)

    def _settled(self, token: _Taken, *, is_stored: bool) -> None:
        self.unacknowledged_bytes -= token.size_bytes
        self.fewer.tell()
        self._tell_settled(is_stored)

    def _acknowledge(self, client: Client, received: dict[int, Client | None], qos: int, packet_id: int) -> None:
        """To a connection that is over nothing is sent, and the broker sends the message again.

        With QoS 2 it may have done that already: the answer goes to the connection that it came with last.
        """
        if qos == 1:
            client.write_packet(Puback(packet_id))
        elif qos == 2:
            last = received.get(packet_id) or client
            received[packet_id] = None
            last.write_packet(Pubrec(packet_id))
