"""A connection to another MQTT broker, as its client: bytes in, packets out. No I/O, no clock.

The first packet has to be CONNACK, which says what the broker takes; after it come those that a broker may send. What
is wrong with it, and an end that the broker declares, is a LinkFailed.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec

from trunkline.errors import RemoteProtocolError
from trunkline.links import ConnectionEnded, LinkFailed
from trunkline_mqtt.decoder import Decoder
from trunkline_mqtt.encoder import encode
from trunkline_mqtt.packets import (
    MQTT_3_1_1,
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

__all__ = ["ClientProtocol", "Limits", "connect_packet", "reason_text"]

_EXPECTED: Final = (Publish, Puback, Pubrec, Pubrel, Pubcomp, Suback, Unsuback, Pingresp)
_OLD_REASONS: Final = {code: reason for reason, code in reversed(RETURN_CODES.items())}
_LARGEST_PACKET: Final = 268_435_455 + 5
_SILENCE: Final = 1.5  # times the keep-alive: MQTT 5.0, 3.1.2.10, turned round


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
        self._decoder = Decoder(max_packet_bytes)
        self._decoder.protocol_level = self._level
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

    def receive_data(self, data: bytes) -> list[Packet]:
        """Packets that are complete now, without CONNACK. Raises LinkFailed."""
        packets: list[Packet] = []
        self._decoder.receive_data(data)
        try:
            while (packet := self._decoder.next_event()) is not None:
                if self.limits is None:
                    self.limits = self._greeted(packet)
                elif isinstance(packet, Disconnect):
                    reason = reason_text(packet.reason_code, packet.properties)
                    raise ConnectionEnded(f"it ended the connection: {reason}", packet.reason_code)
                elif isinstance(packet, _EXPECTED):
                    packets.append(packet)
                else:
                    raise LinkFailed(f"it sent {type(packet).__name__}, which is for clients to send")
        except RemoteProtocolError as error:
            raise LinkFailed(f"it does not speak MQTT as we do: {error}") from None
        return packets

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


def reason_text(code: int, properties: Properties = NO_PROPERTIES) -> str:
    """A reason code in words, with those that the broker added."""
    try:
        text = Reason(code).name.lower().replace("_", " ")
    except ValueError:
        text = "a reason unknown to us"
    return f"{text} (0x{code:02X}{', ' + properties.reason if properties.reason else ''})"


def connect_packet(
    *,
    version: str,
    client_id: str,
    user: str | None,
    password: str | None,
    keep_alive_s: int,
    session_expiry_s: int,
    receive_maximum: int,
    max_packet_bytes: int,
) -> Connect:
    """The CONNECT of a link: the broker keeps its session while it is away."""
    properties = NO_PROPERTIES
    if version == "5":
        properties = Properties(
            session_expiry_s=session_expiry_s, receive_maximum=receive_maximum, maximum_packet_size=max_packet_bytes
        )
    return Connect(
        client_id,
        clean_start=False,
        keep_alive=keep_alive_s,
        user_name=user,
        password=None if password is None else password.encode(),
        protocol_level=MQTT_5 if version == "5" else MQTT_3_1_1,
        properties=properties,
    )
