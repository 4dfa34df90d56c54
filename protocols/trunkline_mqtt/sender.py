"""The way out to one client: packet identifiers, the window of unacknowledged messages, and each PUBLISH put together.

With QoS 1 a message is *in flight* until its PUBACK, with QoS 2 until its PUBCOMP: its packet identifier is taken,
and at most ``max_inflight`` are (the client's receive maximum, if that is less). Its phase, by packet identifier:

    1  sent with QoS 1          PUBACK -> done
    2  sent with QoS 2          PUBREC -> 3 and PUBREL, or done if the client refused it
    3  released                 PUBCOMP -> done

What a subscription asks for is an int, its *option*: the maximum QoS in bits 0 and 1, then NO_LOCAL and
RETAIN_AS_PUBLISHED, and from bit 8 on the subscription identifier, 0 for none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import msgspec

from trunkline.door import Transport
from trunkline.errors import RemoteProtocolError
from trunkline_mqtt.encoder import PUBLISH_QOS_0, encode, publish_head, variable_integer
from trunkline_mqtt.fields import malformed
from trunkline_mqtt.message import OutgoingMessage
from trunkline_mqtt.packets import MQTT_3_1_1, MQTT_5, Publish, Pubrel, Subscription
from trunkline_mqtt.reasons import Reason
from trunkline_mqtt.terms import Terms

if TYPE_CHECKING:
    from trunkline_mqtt.server import MqttServer

__all__ = [
    "FAILED", "IDENTIFIER", "JOINED_PAYLOAD_BYTES", "NO_LOCAL", "PHASES", "QOS", "RELEASED", "RETAIN_AS_PUBLISHED",
    "Sender", "option_of",
]  # fmt: skip

MAX_PACKET_ID: Final = 65_535

QOS: Final = 0x03
NO_LOCAL: Final = 0x04
RETAIN_AS_PUBLISHED: Final = 0x08
IDENTIFIER: Final = 8  # by how many bits the subscription identifier is shifted

RELEASED: Final = 3
PHASES: Final = 3
"""The bits that a phase has."""

JOINED_PAYLOAD_BYTES: Final = 4096  # up to here a copy for each subscriber costs less than a second write

FAILED: Final = 0x80  # reason codes from here on, MQTT 5.0, 2.4

_SHORTEST_ALIASED: Final = 4  # bytes of topic; an alias takes three


def option_of(subscription: Subscription, identifier: int) -> int:
    """What a subscription asks for, as one int."""
    option = subscription.qos | identifier << IDENTIFIER
    if subscription.no_local:
        option |= NO_LOCAL
    if subscription.retain_as_published:
        option |= RETAIN_AS_PUBLISHED
    return option


class Sender:
    """Sends messages to one client, and hears what becomes of them.

    Args:
      write: takes the packets; None: the transport.
    """

    __slots__ = (
        "_aliases", "_client", "_last_packet_id", "_max_aliases", "_max_inflight", "_max_packet_bytes", "_server",
        "_transport", "_write", "in_flight", "is_v5",
    )  # fmt: skip

    def __init__(
        self, server: MqttServer, transport: Transport, terms: Terms, write: Callable[[bytes], None] | None = None
    ) -> None:
        self._server = server
        self._transport = transport
        self._write = write or transport.write
        self._client = terms.client_id.encode()
        self._max_inflight = terms.max_inflight
        self._max_packet_bytes = terms.max_packet_bytes
        self._max_aliases = terms.topic_alias_maximum
        self._aliases: dict[bytes, int] = {}
        self._last_packet_id = 0
        self.in_flight: dict[int, int] = {}
        self.is_v5 = terms.level == MQTT_5

    @property
    def is_full(self) -> bool:
        """No more until something is acknowledged, or has left."""
        transport = self._transport
        return transport.is_congested or transport.is_closing or len(self.in_flight) >= self._max_inflight

    @property
    def has_room(self) -> bool:
        """Enough has been acknowledged that going on is worth a read of the log."""
        return not self._transport.is_congested and len(self.in_flight) <= self._max_inflight // 2

    # -- out ---------------------------------------------------------------------------------------

    def send_3(self, message: OutgoingMessage, qos: int) -> int:
        """Send a message to a client of MQTT 3; the packet identifier, 0 with QoS 0.

        One that never acknowledges, but subscribes anew again and again, is cut off.
        """
        if not qos:
            self._write(message.qos_0())
            return 0
        packet_id = self.take_packet_id(qos)
        payload = message.payload
        if not packet_id:
            return 0
        if qos == 2:
            publish = Publish(message.topic.decode(), payload, 2, packet_id=packet_id)
            self._write(encode(publish))
        elif len(payload) <= JOINED_PAYLOAD_BYTES:
            self._write(message.qos_1_head() + packet_id.to_bytes(2) + payload)
        else:
            self._write(message.qos_1_head() + packet_id.to_bytes(2))
            self._write(payload)
        return packet_id

    def send(self, message: OutgoingMessage, options: list[int], *, is_retained: bool = False, now_ms: int) -> int:
        """Send a message to a client of any version as its subscriptions want it; the packet identifier, 0 if none.

        Args:
          options: of the subscriptions that matched; one copy is sent, at the highest QoS, with all their identifiers
            (MQTT 5.0, 3.3.4).
          is_retained: it is sent because the subscription is new.
        """
        qos = -1
        is_flagged = is_retained
        extra = b""
        for option in sorted(options) if len(options) > 1 else options:  # identifiers in their order, as clients expect
            if option & NO_LOCAL and message.client == self._client:
                continue
            qos = max(qos, option & 3)
            if option & RETAIN_AS_PUBLISHED and message.is_retained:
                is_flagged = True
            if option >> IDENTIFIER:
                extra += b"\x0b" + variable_integer(option >> IDENTIFIER)
        if qos < 0:
            return 0
        if message.expires_ms:
            left = message.seconds_left(now_ms)
            if not left:
                self._server.expired += 1
                return 0
            extra += b"\x02" + left.to_bytes(4)
        qos = min(qos, message.qos)
        if self.is_v5:
            return self._send_5(message, qos, is_flagged, extra)
        if not is_flagged:
            return self.send_3(message, qos)
        packet_id = self.take_packet_id(qos) if qos else 0
        if packet_id or not qos:
            head = publish_head(PUBLISH_QOS_0 | qos << 1 | 1, message.topic, len(message.payload))
            self._write(head + (packet_id.to_bytes(2) if qos else b"") + message.payload)
        return packet_id

    def send_plain(self, message: OutgoingMessage, options: list[int]) -> bool:
        """Send what goes to subscribers of MQTT 5.0 alike, with QoS 0; False: this is not, see ``send``.

        What differs is made for each: subscription identifiers, no local, topic aliases, expiry.
        """
        option = max(options)
        if option > QOS or (option and message.qos) or message.expires_ms or self._max_aliases or not self.is_v5:
            return False
        packet = message.qos_0_v5()
        if len(packet) > self._max_packet_bytes:
            return False
        self._write(packet)
        return True

    def _send_5(self, message: OutgoingMessage, qos: int, is_flagged: bool, extra: bytes) -> int:
        first = 0x30 | qos << 1 | is_flagged
        topic = message.topic
        alias = self._alias_for(topic) if self._max_aliases else 0
        if alias:
            extra += b"\x23" + alias.to_bytes(2)
            head, tail = message.form_with(first, b"" if topic in self._aliases else topic, extra)
        elif extra:
            head, tail = message.form_with(first, topic, extra)
        else:
            head, tail = message.form(first)
        if len(head) + len(tail) + 2 * (qos > 0) > self._max_packet_bytes:
            self._server.oversized += 1  # it counts as delivered: MQTT 5.0, 3.1.2.11.4
            return 0
        packet_id = self.take_packet_id(qos) if qos else 0
        if qos and not packet_id:
            return 0
        if alias:
            self._aliases[topic] = alias
        if qos:
            self._write_parts(head, packet_id, tail)
        elif len(tail) <= JOINED_PAYLOAD_BYTES:
            self._write(head + tail)
        else:
            self._write(head)
            self._write(tail)
        return packet_id

    def _alias_for(self, topic: bytes) -> int:
        """The alias of a topic, or a new one for it while there are; 0: none. MQTT 5.0, 3.3.2.3.4."""
        alias = self._aliases.get(topic, 0)
        if not alias and len(topic) >= _SHORTEST_ALIASED and len(self._aliases) < self._max_aliases:
            return len(self._aliases) + 1
        return alias

    def _write_parts(self, head: bytes, packet_id: int, tail: bytes) -> None:
        if len(tail) <= JOINED_PAYLOAD_BYTES:
            self._write(head + packet_id.to_bytes(2) + tail)
        else:
            self._write(head + packet_id.to_bytes(2))
            self._write(tail)

    def take_packet_id(self, qos: int) -> int:
        """An identifier that is not in flight, which it is from now on; 0 if there is none, and the end."""
        in_flight = self.in_flight
        packet_id = self._last_packet_id % MAX_PACKET_ID + 1
        if packet_id in in_flight:
            if len(in_flight) == MAX_PACKET_ID:
                self._transport.close()
                return 0
            while packet_id in in_flight:
                packet_id = packet_id % MAX_PACKET_ID + 1
        in_flight[packet_id] = qos
        self._last_packet_id = packet_id
        return packet_id

    # -- answers -----------------------------------------------------------------------------------

    def acknowledged(self, packet_id: int) -> bool:
        """PUBACK; False if that message is not in flight, which changes nothing."""
        phase = self.in_flight.pop(packet_id, 0)
        if phase > 1:
            raise self._mixed_up("PUBACK", packet_id)
        return phase == 1

    def received(self, packet_id: int, code: int) -> int:
        """PUBREC: the message's phase now; 0: done with, as the client refused it, or never in flight.

        Whoever calls answers with ``release``, unless the client refused it.
        """
        phase = self.in_flight.get(packet_id, 0)
        if phase == 1:
            raise self._mixed_up("PUBREC", packet_id)
        if code >= FAILED:
            self.in_flight.pop(packet_id, None)
            return 0
        if phase:
            self.in_flight[packet_id] = RELEASED
        return RELEASED if phase else 0

    def release(self, packet_id: int) -> bytes:
        """The PUBREL for a message; MQTT 5.0 has a word for one that is not in flight, 3.6.2.1."""
        code = Reason.SUCCESS if packet_id in self.in_flight else Reason.PACKET_IDENTIFIER_NOT_FOUND
        return encode(Pubrel(packet_id, code), MQTT_5 if self.is_v5 else MQTT_3_1_1)

    def send_again(self, message: OutgoingMessage, packet_id: int, options: list[int], *, is_retained: bool) -> bool:
        """Send an unfinished message with its identifier and DUP; False: it is too large for this client now.

        Topic aliases are not used: those of the connection on which it was sent first are gone.
        """
        identifiers = tuple(option >> IDENTIFIER for option in sorted(options) if option >> IDENTIFIER)
        is_flagged = is_retained or (message.is_retained and any(option & RETAIN_AS_PUBLISHED for option in options))
        properties = message.properties
        if identifiers or message.expires_ms:
            left = message.seconds_left(self._server.now_ms()) if message.expires_ms else None
            changes = {"subscription_identifiers": identifiers, "message_expiry_s": left}
            properties = msgspec.structs.replace(properties, **changes)
        publish = Publish(
            message.topic.decode(), message.payload, self.in_flight[packet_id], is_flagged, True, packet_id, properties
        )
        packet = encode(publish, MQTT_5 if self.is_v5 else MQTT_3_1_1)
        if len(packet) > self._max_packet_bytes:
            self._server.oversized += 1
            return False
        self._write(packet)
        return True

    def completed(self, packet_id: int) -> bool:
        """PUBCOMP; False if that message is not in flight, which changes nothing."""
        phase = self.in_flight.pop(packet_id, 0)
        if phase in (1, 2):
            raise self._mixed_up("PUBCOMP", packet_id)
        return phase > 0

    def _mixed_up(self, packet: str, packet_id: int) -> RemoteProtocolError:
        problem = f"{packet_id} is of a message that is not to be answered so now"
        return malformed(f"{packet}, packet identifier", problem, "4.3", "4.3", Reason.PROTOCOL_ERROR)
