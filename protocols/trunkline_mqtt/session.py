"""What one client subscribes to, and what is on its way to it.

A message is written to the transport in the round that commits it. With QoS 1 it stays *in flight*
until its PUBACK: its packet identifier is taken, and at most ``max_inflight`` are. When the window is
full, or the transport congested, the session takes that message and says "stop" (see
:mod:`trunkline.live`); QoS 0 and 1 wait alike, because order is the same log order for both. Once half the
window is free and the transport has drained it goes on, reading from the log what it missed. It waits
for half, not for one, because each return costs a read of the log.

Sessions are clean: they end with the connection, and unacknowledged messages are not sent again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from trunkline.door import Transport
from trunkline.errors import TrunklineError
from trunkline.filters import MAX_FILTER_LEVELS
from trunkline.live import Delivery, LiveSubscriber, LiveTail
from trunkline.partition import Partition
from trunkline_mqtt.bridge import outgoing
from trunkline_mqtt.reasons import Reason

if TYPE_CHECKING:
    from trunkline_mqtt.server import MqttServer

__all__ = ["MAX_GRANTED_QOS", "Session"]

MAX_GRANTED_QOS: Final = 1

MAX_FILTER_BYTES: Final = 1024
"""So that max_subscriptions bounds a client's memory; the standard's 65,535 would allow 64 MiB for a thousand."""

MAX_PACKET_ID: Final = 65_535

_JOINED_PAYLOAD_BYTES: Final = 4096  # up to here a copy for each subscriber costs less than a second write


class Session(LiveSubscriber):
    """A client's subscriptions and delivery window. Lives as long as its connection."""

    __slots__ = ("_behind", "_in_flight", "_last_packet_id", "_server", "_transport", "filters")

    def __init__(self, server: MqttServer, transport: Transport) -> None:
        self._server = server
        self._transport = transport
        self._in_flight: set[int] = set()
        self._last_packet_id = 0
        self._behind: list[LiveTail] = []
        self.filters: dict[str, int] = {}

    def subscribe(self, topic_filter: str, qos: int) -> int:
        """Subscribe, or change the QoS of a filter; the return code for SUBACK."""
        if (
            topic_filter.startswith(
                "$share/"
            )  # an ordinary filter in 3.1.1, but meant otherwise, and would get nothing
            or len(topic_filter.encode()) > MAX_FILTER_BYTES
            or topic_filter.count("/") >= MAX_FILTER_LEVELS
            or (len(self.filters) >= self._server.settings.max_subscriptions and topic_filter not in self.filters)
        ):
            return Reason.UNSPECIFIED_ERROR
        qos = min(qos, MAX_GRANTED_QOS)
        self.filters[topic_filter] = qos
        for tail in self._server.tails:
            tail.subscribe(self, topic_filter, qos)
        return qos

    def unsubscribe(self, topic_filter: str) -> None:
        """Nothing more matches this filter from now on."""
        if self.filters.pop(topic_filter, None) is not None:
            for tail in self._server.tails:
                tail.unsubscribe(self, topic_filter)

    def close(self) -> None:
        """Forget all subscriptions."""
        if self.filters:
            for tail in self._server.tails:
                tail.remove(self)
            self.filters.clear()

    def deliver(self, delivery: Delivery, options: list[Any]) -> bool:
        """Send a record: one copy, whatever number of filters matched, at their highest QoS (3.3.5)."""
        message = outgoing(delivery, self._server.topic_names)
        if message is None:
            return True
        transport = self._transport
        self._server.delivered += 1
        if message.is_acknowledged and (options[0] if len(options) == 1 else max(options)):
            if (
                len(self._in_flight) == MAX_PACKET_ID
            ):  # a client that subscribes anew again and again, and never acknowledges
                transport.close()
                return False
            packet_id = self._take_packet_id().to_bytes(2)
            payload = message.payload
            if len(payload) <= _JOINED_PAYLOAD_BYTES:
                transport.write(message.qos_1_head() + packet_id + payload)
            else:
                transport.write(message.qos_1_head() + packet_id)
                transport.write(payload)
            if len(self._in_flight) >= self._server.settings.max_inflight:
                self._stop(delivery.partition)
                return False
        else:
            transport.write(message.qos_0())
        if transport.is_congested:
            self._stop(delivery.partition)
            return False
        return True

    def _take_packet_id(self) -> int:
        in_flight = self._in_flight
        assert len(in_flight) < MAX_PACKET_ID, "one is free"
        packet_id = self._last_packet_id
        while True:
            packet_id = packet_id % MAX_PACKET_ID + 1
            if packet_id not in in_flight:
                break
        in_flight.add(packet_id)
        self._last_packet_id = packet_id
        return packet_id

    def _stop(self, partition: Partition) -> None:
        self._behind.append(self._server.tails[partition.index])

    def acknowledge(self, packet_id: int) -> None:
        """The client has this message (PUBACK); one that is not in flight changes nothing."""
        self._in_flight.discard(packet_id)
        if self._behind:
            self.resume()

    def resume(self) -> None:
        """Go on after a stop, if there is room again."""
        if self._transport.is_congested or len(self._in_flight) > self._server.settings.max_inflight // 2:
            return
        behind, self._behind = self._behind, []
        for tail in behind:
            tail.resume(self)

    def missed(self, partition: Partition, records: int) -> None:
        """Retention was faster than this client; the core has logged it."""
        self._server.missed += records

    def live_closed(self, error: TrunklineError | None) -> None:
        """Its messages have ended; end the connection too, so that the client notices."""
        if error is not None:
            self._transport.close()
