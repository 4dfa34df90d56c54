"""Packets to bytes: the other way of :mod:`trunkline_mqtt.decoder`, and the parts a fan-out puts together itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from trunkline.errors import LocalProtocolError
from trunkline_mqtt.control import CLEAN_SESSION, PASSWORD, USER_NAME, WILL, WILL_RETAIN
from trunkline_mqtt.decoder import MAX_REMAINING_LENGTH
from trunkline_mqtt.packets import (
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
    Subscribe,
    Unsuback,
    Unsubscribe,
)

__all__ = ["PINGRESP", "PUBLISH_QOS_0", "PUBLISH_QOS_1", "encode", "publish_head"]

MAX_STRING_BYTES: Final = 65_535  # MQTT 3.1.1, 1.5.3

PUBLISH_QOS_0: Final = 0x30
PUBLISH_QOS_1: Final = 0x32
"""First bytes of a PUBLISH without DUP and RETAIN."""

PINGRESP: Final = b"\xd0\x00"


def encode(packet: Packet) -> bytes:
    """The packet's bytes. Raises LocalProtocolError if it cannot be said in MQTT 3.1.1."""
    try:
        write = _WRITERS[type(packet)]
    except KeyError:
        raise LocalProtocolError(f"{type(packet).__name__} is not a control packet") from None
    return write(packet)


def publish_head(first: int, topic: bytes, payload_bytes: int) -> bytes:
    """A PUBLISH up to its topic name.

    With QoS 0 the payload follows; with QoS 1 the packet identifier (two bytes) and the payload. So one
    head serves all subscribers of a message.

    Args:
      first: PUBLISH_QOS_0 or PUBLISH_QOS_1.
      topic: the topic name in UTF-8, 1 to 65,535 bytes.
    """
    length = 2 + len(topic) + payload_bytes
    if first & 6:
        length += 2
    if length < 128:
        return b"%c%c\0%c%b" % (first, length, len(topic), topic)  # a short packet has a short topic
    return bytes((first,)) + _remaining_length(length) + len(topic).to_bytes(2) + topic


def _remaining_length(length: int) -> bytes:
    if length > MAX_REMAINING_LENGTH:
        raise LocalProtocolError(f"a packet of {length} bytes is over MQTT's limit of {MAX_REMAINING_LENGTH}")
    encoded = bytearray()
    while length > 127:
        encoded.append(length & 0x7F | 0x80)
        length >>= 7
    encoded.append(length)
    return bytes(encoded)


def _packet(first: int, body: bytes) -> bytes:
    return bytes((first,)) + _remaining_length(len(body)) + body


def _packet_id(packet_id: int) -> bytes:
    if not 1 <= packet_id <= 65_535:
        raise LocalProtocolError(f"packet identifier {packet_id} is outside 1 to 65535 [MQTT 3.1.1, 2.3.1]")
    return packet_id.to_bytes(2)


def _binary(value: bytes) -> bytes:
    if len(value) > MAX_STRING_BYTES:
        raise LocalProtocolError(f"a field of {len(value)} bytes is over MQTT's limit of {MAX_STRING_BYTES}")
    return len(value).to_bytes(2) + value


def _string(text: str) -> bytes:
    try:
        return _binary(text.encode())
    except UnicodeEncodeError:
        raise LocalProtocolError(
            f"{text[:100]!r} holds a surrogate, which UTF-8 cannot say [MQTT 3.1.1, 1.5.3]"
        ) from None


def _connect(packet: Connect) -> bytes:
    flags = CLEAN_SESSION if packet.clean_session else 0
    tail = b""
    if packet.will is not None:
        flags |= WILL | packet.will.qos << 3 | (WILL_RETAIN if packet.will.retain else 0)
        tail = _string(packet.will.topic) + _binary(packet.will.payload)
    if packet.user_name is not None:
        flags |= USER_NAME
        tail += _string(packet.user_name)
    if packet.password is not None:
        if packet.user_name is None:
            raise LocalProtocolError("CONNECT with a password needs a user name [MQTT 3.1.1, 3.1.2.9]")
        flags |= PASSWORD
        tail += _binary(packet.password)
    head = _string("MQTT") + bytes((packet.protocol_level, flags)) + packet.keep_alive.to_bytes(2)
    return _packet(0x10, head + _string(packet.client_id) + tail)


def _publish(packet: Publish) -> bytes:
    topic = _string(packet.topic)[2:]
    if not topic:
        raise LocalProtocolError("PUBLISH with an empty topic name [MQTT 3.1.1, 4.7.3]")
    if packet.qos not in (0, 1, 2) or (packet.dup and not packet.qos):
        raise LocalProtocolError(f"PUBLISH with QoS {packet.qos} and DUP {packet.dup} [MQTT 3.1.1, 3.3.1]")
    head = publish_head(0x30 | packet.dup << 3 | packet.qos << 1 | packet.retain, topic, len(packet.payload))
    return head + (_packet_id(packet.packet_id) if packet.qos else b"") + packet.payload


def _subscribe(packet: Subscribe) -> bytes:
    filters = b"".join(_string(topic_filter) + bytes((qos,)) for topic_filter, qos in packet.filters)
    return _packet(0x82, _packet_id(packet.packet_id) + filters)


_WRITERS: Final[dict[type[Packet], Callable[[Any], bytes]]] = {
    Connect: _connect,
    Connack: lambda packet: bytes((0x20, 2, packet.session_present, packet.return_code)),
    Publish: _publish,
    Puback: lambda packet: b"\x40\x02" + _packet_id(packet.packet_id),
    Pubrec: lambda packet: b"\x50\x02" + _packet_id(packet.packet_id),
    Pubrel: lambda packet: b"\x62\x02" + _packet_id(packet.packet_id),
    Pubcomp: lambda packet: b"\x70\x02" + _packet_id(packet.packet_id),
    Subscribe: _subscribe,
    Suback: lambda packet: _packet(0x90, _packet_id(packet.packet_id) + bytes(packet.return_codes)),
    Unsubscribe: lambda packet: _packet(0xA2, _packet_id(packet.packet_id) + b"".join(map(_string, packet.filters))),
    Unsuback: lambda packet: b"\xb0\x02" + _packet_id(packet.packet_id),
    Pingreq: lambda packet: b"\xc0\x00",
    Pingresp: lambda packet: PINGRESP,
    Disconnect: lambda packet: b"\xe0\x00",
}
