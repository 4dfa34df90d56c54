"""A connection to another MQTT broker, as its client: bytes in, packets out. No I/O, no clock.

The first packet has to be CONNACK, which says what the broker takes; after it come those that a broker may send. What
is wrong with it, and an end that the broker declares, is a LinkFailed. A message that is larger than this side takes
is read over.
"""

from __future__ import annotations

import math
from typing import Final, TypeAlias

import msgspec

from trunkline.errors import RemoteProtocolError
from trunkline.links import ConnectionEnded, LinkFailed
from trunkline_mqtt.decoder import Decoder
from trunkline_mqtt.encoder import encode
from trunkline_mqtt.packets import (
    MQTT_5,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Unsuback,
)
from trunkline_mqtt.properties import NO_PROPERTIES, Properties
from trunkline_mqtt.reasons import RETURN_CODES, Reason
from trunkline_mqtt_bridge.skipping import Oversized, Skipping

__all__ = ["ClientProtocol", "Event", "Limits", "reason_text"]

_EXPECTED: Final = (Publish, Puback, Pubrec, Pubrel, Pubcomp, Suback, Unsuback, Pingresp)
_OLD_REASONS: Final = {code: reason for reason, code in reversed(RETURN_CODES.items())}
_ABOUT_A_MESSAGE: Final = frozenset((
    Reason.UNSPECIFIED_ERROR, Reason.MALFORMED_PACKET, Reason.PROTOCOL_ERROR, Reason.IMPLEMENTATION_SPECIFIC_ERROR,
    Reason.TOPIC_NAME_INVALID, Reason.PACKET_TOO_LARGE, Reason.PAYLOAD_FORMAT_INVALID, Reason.RETAIN_NOT_SUPPORTED,
    Reason.QOS_NOT_SUPPORTED,
))  # fmt: skip
"""Of DISCONNECT: what would be so again if the same message were sent again."""

_LARGEST_PACKET: Final = 268_435_455 + 5
_SILENCE: Final = 1.5  # times the keep-alive: MQTT 5.0, 3.1.2.10, turned round


Event: TypeAlias = Packet | Oversized


class Limits(msgspec.Struct, frozen=True):
    """What the broker takes, as CONNACK says it; MQTT 3.1.1 does not say, so it takes all."""

    session_present: bool
    receive_maximum: int = 65_535
    maximum_qos: int = 2
    retain_available: bool = True
    max_packet_bytes: int = _LARGEST_PACKET
    keep_alive_s: int = 0


class ClientProtocol:
    """One connection.

    Args:
      connect: the CONNECT to begin with.
      max_packet_bytes: the largest packet taken.

    Attributes:
      limits: None until the broker has accepted the connection.
    """

    def __init__(self, connect: Connect, max_packet_bytes: int) -> None:
        self._connect = connect
        self._level = connect.protocol_level
        self._max_packet_bytes = max_packet_bytes
        self._decoder = self._new_decoder()
        self._skipping: Skipping | None = None
        self.limits: Limits | None = None

    @property
    def is_5(self) -> bool:
        """It speaks MQTT 5.0."""
        return self._level == MQTT_5

    @property
    def is_ready(self) -> bool:
        """CONNACK came."""
        return self.limits is not None

    @property
    def doing(self) -> str:
        """See :class:`trunkline.links.PeerProtocol`."""
        return "connected" if self.is_ready else "waiting for CONNACK"

    @property
    def pulse_s(self) -> float:
        """MQTT 5.0, 3.1.2.10: more often than the keep-alive asks for."""
        return self._keep_alive_s / 2 or math.inf

    @property
    def silence_s(self) -> float:
        """At least the pulse is answered."""
        return _SILENCE * self._keep_alive_s or math.inf

    @property
    def _keep_alive_s(self) -> int:
        return 0 if self.limits is None else self.limits.keep_alive_s

    def begin(self) -> bytes:
        """What to send first."""
        return encode(self._connect, self._level)

    def pulse(self) -> bytes:
        """PINGREQ."""
        return encode(Pingreq(), self._level)

    def goodbye(self) -> bytes:
        """DISCONNECT."""
        return encode(Disconnect(), self._level)

    def data_to_send(self) -> bytes:
        """Nothing has to be answered that is not an event."""
        return b""

    def encode(self, packet: Packet) -> bytes:
        """A packet as bytes."""
        return encode(packet, self._level)

    def _new_decoder(self) -> Decoder:
        decoder = Decoder(self._max_packet_bytes)
        decoder.protocol_level = self._level
        return decoder

    def receive_data(self, data: bytes) -> list[Event]:
        """What is complete now, without CONNACK. Raises LinkFailed, ConnectionEnded."""
        events: list[Event] = []
        rest: bytes | None = data
        while rest is not None:
            rest = self._skip(rest, events) if self._skipping is not None else self._decode(rest, events)
        return events

    def _decode(self, data: bytes, events: list[Event]) -> bytes | None:
        """Returns what is left when a message is to be read over; else None."""
        self._decoder.receive_data(data)
        try:
            while (packet := self._decoder.next_event()) is not None:
                if self.limits is None:
                    self.limits = self._greeted(packet)
                elif isinstance(packet, Disconnect):
                    raise _end(packet)
                elif isinstance(packet, _EXPECTED):
                    events.append(packet)
                else:
                    raise LinkFailed(f"it sent {type(packet).__name__}, which is for clients to send")
        except RemoteProtocolError as error:
            begun = self._decoder.unread
            if error.reason_code == Reason.PACKET_TOO_LARGE and self.limits is not None and begun[0] >> 4 == 3:
                self._skipping = Skipping()
                return begun
            raise LinkFailed(f"it does not speak MQTT as we do: {error}") from None
        return None

    def _skip(self, data: bytes, events: list[Event]) -> bytes | None:
        """Returns what follows the message that is read over; None: there is more of it to come."""
        assert self._skipping is not None
        rest = self._skipping.receive_data(data)
        if rest is not None:
            packet = self._skipping.packet()
            if packet is None:
                raise LinkFailed(f"it sent a malformed PUBLISH of more than {self._max_packet_bytes} bytes")
            events.append(packet)
            self._decoder, self._skipping = self._new_decoder(), None
        return rest

    def _greeted(self, packet: Packet) -> Limits:
        if not isinstance(packet, Connack):
            raise LinkFailed(f"it greeted with {type(packet).__name__}, not CONNACK")
        code, said = packet.reason_code, packet.properties
        if code:
            code = code if self.is_5 else _OLD_REASONS.get(code, code)
            raise LinkFailed(f"it refused the connection: {reason_text(code, said)}", code)
        return Limits(
            packet.session_present,
            said.receive_maximum or 65_535,
            2 if said.maximum_qos is None else said.maximum_qos,
            said.retain_available != 0,
            said.maximum_packet_size or _LARGEST_PACKET,
            self._connect.keep_alive if said.server_keep_alive_s is None else said.server_keep_alive_s,
        )


def _end(packet: Disconnect) -> LinkFailed:
    reason = f"it ended the connection: {reason_text(packet.reason_code, packet.properties)}"
    kind = ConnectionEnded if packet.reason_code in _ABOUT_A_MESSAGE else LinkFailed
    return kind(reason, packet.reason_code)


def reason_text(code: int, properties: Properties = NO_PROPERTIES) -> str:
    """A reason code in words, with those that the broker added."""
    try:
        text = Reason(code).name.lower().replace("_", " ")
    except ValueError:
        text = "a reason unknown to us"
    return f"{text} (0x{code:02X}{', ' + properties.reason if properties.reason else ''})"
