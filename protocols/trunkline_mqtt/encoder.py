"""Packets to bytes: the other way of :mod:`trunkline_mqtt.decoder`, and the parts a fan-out puts together itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from trunkline.errors import LocalProtocolError
from trunkline_mqtt.decoder import MAX_REMAINING_LENGTH
from trunkline_mqtt.greeting import BRIDGE, CLEAN_START, PASSWORD, PROTOCOL_NAMES, USER_NAME, WILL, WILL_RETAIN
from trunkline_mqtt.packets import (
    MQTT_3_1_1,
    MQTT_5,
    Auth,
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
    Subscription,
    Unsuback,
    Unsubscribe,
)
from trunkline_mqtt.properties import MAX_STRING_BYTES, NO_PROPERTIES, PROPERTIES, Kind, Properties

__all__ = [
    "PINGRESP", "PUBLISH_QOS_0", "PUBLISH_QOS_1", "PUBLISH_QOS_2", "encode", "encode_properties",
    "encode_publish_properties", "publish_head",
    "variable_integer",
]  # fmt: skip


PUBLISH_QOS_0: Final = 0x30
PUBLISH_QOS_1: Final = 0x32
PUBLISH_QOS_2: Final = 0x34
"""First bytes of a PUBLISH without DUP and RETAIN."""

PINGRESP: Final = b"\xd0\x00"

_NO_PROPERTIES: Final = b"\0"


def encode(packet: Packet, level: int = MQTT_3_1_1) -> bytes:
    """The packet's bytes at a protocol level. A CONNECT brings its own.

    Raises LocalProtocolError if it cannot be said; what a level has no place for (a reason, a property) is left out.
    """
    try:
        write = _WRITERS[type(packet)]
    except KeyError:
        raise LocalProtocolError(f"{type(packet).__name__} is not a control packet") from None
    return write(packet, level)


def publish_head(first: int, topic: bytes, rest_bytes: int) -> bytes:
    """A PUBLISH up to its topic name.

    With QoS 0 the rest follows; with QoS 1 and 2 the packet identifier (two bytes) and the rest. The rest is the
    payload, in MQTT 5.0 with the properties in front. So one head serves all subscribers of a message.

    Args:
      first: PUBLISH_QOS_0, PUBLISH_QOS_1 or PUBLISH_QOS_2, with DUP (8) or RETAIN (1) if need be.
      topic: the topic name in UTF-8, at most 65,535 bytes.
      rest_bytes: how many follow, not counting the packet identifier.
    """
    length = 2 + len(topic) + rest_bytes
    if first & 6:
        length += 2
    if length < 128:
        return b"%c%c\0%c%b" % (first, length, len(topic), topic)  # a short packet has a short topic
    if length < 16_384:
        size = len(topic)
        return b"%c%c%c%c%c%b" % (first, length & 127 | 128, length >> 7, size >> 8, size & 255, topic)
    return bytes((first,)) + variable_integer(length) + len(topic).to_bytes(2) + topic


def variable_integer(value: int) -> bytes:
    """MQTT 3.1.1, 2.2.3; 5.0, 1.5.5."""
    if 0 <= value < 128:
        return bytes((value,))
    if value > MAX_REMAINING_LENGTH:
        raise LocalProtocolError(f"{value} is over MQTT's limit of {MAX_REMAINING_LENGTH} for a length")
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _packet(first: int, body: bytes) -> bytes:
    return bytes((first,)) + variable_integer(len(body)) + body


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


# -- properties ------------------------------------------------------------------------------------


def encode_properties(properties: Properties) -> bytes:
    """The properties with their length in front. MQTT 5.0, 2.2.2."""
    return _NO_PROPERTIES if properties is NO_PROPERTIES else _encode(properties, _ROWS)


def encode_publish_properties(properties: Properties) -> bytes:
    """As ``encode_properties``, for those that a PUBLISH may have; quicker, as these are few."""
    return _NO_PROPERTIES if properties is NO_PROPERTIES else _encode(properties, _PUBLISH_ROWS)


def _encode(properties: Properties, rows: Sequence[_Row]) -> bytes:
    parts = []
    for attribute, identifier, write, is_repeated in rows:
        value = getattr(properties, attribute)
        if value is None:
            continue
        if is_repeated:
            parts += [identifier + write(each) for each in value]
        else:
            parts.append(identifier + write(value))
    joined = b"".join(parts)
    return variable_integer(len(joined)) + joined


_VALUES: Final[dict[Kind, Callable[[Any], bytes]]] = {
    Kind.FLAG: lambda value: bytes((value,)),
    Kind.TWO: lambda value: value.to_bytes(2),
    Kind.TWO_NOT_0: lambda value: value.to_bytes(2),
    Kind.FOUR: lambda value: value.to_bytes(4),
    Kind.FOUR_NOT_0: lambda value: value.to_bytes(4),
    Kind.VARIABLE_NOT_0: variable_integer,
    Kind.STRING: _string,
    Kind.TOPIC: _string,
    Kind.BINARY: _binary,
    Kind.PAIR: lambda pair: _string(pair[0]) + _string(pair[1]),
}


_Row = tuple[str, bytes, Callable[[Any], bytes], bool]

_ROWS: Final[Sequence[_Row]] = [
    (entry.attribute, bytes((entry.identifier,)), _VALUES[entry.kind], entry.is_repeated) for entry in PROPERTIES
]
_PUBLISH_ROWS: Final[Sequence[_Row]] = [
    row for row, entry in zip(_ROWS, PROPERTIES, strict=True) if "PUBLISH" in entry.packets
]


def _properties(properties: Properties, level: int) -> bytes:
    return encode_properties(properties) if level == MQTT_5 else b""


# -- packets ---------------------------------------------------------------------------------------


def _connect(packet: Connect, level: int) -> bytes:
    level = packet.protocol_level
    flags = CLEAN_START if packet.clean_start else 0
    tail = b""
    will = packet.will
    if will is not None:
        flags |= WILL | will.qos << 3 | (WILL_RETAIN if will.retain else 0)
        tail = _properties(will.properties, level) + _string(will.topic) + _binary(will.payload)
    if packet.user_name is not None:
        flags |= USER_NAME
        tail += _string(packet.user_name)
    if packet.password is not None:
        if packet.user_name is None and level != MQTT_5:
            raise LocalProtocolError("CONNECT with a password needs a user name [MQTT 3.1.1, 3.1.2.9]")
        flags |= PASSWORD
        tail += _binary(packet.password)
    name = PROTOCOL_NAMES.get(level, "MQTT")
    head = (
        _string(name)
        + bytes((level | BRIDGE * packet.is_bridge, flags))
        + packet.keep_alive.to_bytes(2)
        + _properties(packet.properties, level)
    )
    return _packet(0x10, head + _string(packet.client_id) + tail)


def _connack(packet: Connack, level: int) -> bytes:
    body = bytes((packet.session_present, packet.reason_code))
    return _packet(0x20, body + _properties(packet.properties, level))


def _publish(packet: Publish, level: int) -> bytes:
    topic = _string(packet.topic)[2:]
    if not topic and (level != MQTT_5 or packet.properties.topic_alias is None):
        raise LocalProtocolError("PUBLISH with an empty topic name [MQTT 3.1.1, 4.7.3]")
    if packet.qos not in (0, 1, 2) or (packet.dup and not packet.qos):
        raise LocalProtocolError(f"PUBLISH with QoS {packet.qos} and DUP {packet.dup} [MQTT 3.1.1, 3.3.1]")
    rest = _properties(packet.properties, level) + packet.payload
    head = publish_head(0x30 | packet.dup << 3 | packet.qos << 1 | packet.retain, topic, len(rest))
    return head + (_packet_id(packet.packet_id) if packet.qos else b"") + rest


def _acknowledgement(first: int) -> Callable[[Any, int], bytes]:
    def write(packet: Puback, level: int) -> bytes:
        packet_id = _packet_id(packet.packet_id)
        if level != MQTT_5 or (not packet.reason_code and packet.properties is NO_PROPERTIES):
            return bytes((first, 2)) + packet_id
        code = bytes((packet.reason_code,))
        if packet.properties is NO_PROPERTIES:
            return bytes((first, 3)) + packet_id + code
        return _packet(first, packet_id + code + encode_properties(packet.properties))

    return write


def _subscribe(packet: Subscribe, level: int) -> bytes:
    parts = [_packet_id(packet.packet_id), _properties(packet.properties, level)]
    for entry in packet.filters:
        topic_filter, options, no_local, retain_as_published, retain_handling = Subscription(*entry)
        if level == MQTT_5:
            options |= no_local << 2 | retain_as_published << 3 | retain_handling << 4
        parts.append(_string(topic_filter) + bytes((options,)))
    return _packet(0x82, b"".join(parts))


def _suback(packet: Suback, level: int) -> bytes:
    head = _packet_id(packet.packet_id) + _properties(packet.properties, level)
    return _packet(0x90, head + bytes(packet.reason_codes))


def _unsubscribe(packet: Unsubscribe, level: int) -> bytes:
    head = _packet_id(packet.packet_id) + _properties(packet.properties, level)
    return _packet(0xA2, head + b"".join(map(_string, packet.filters)))


def _unsuback(packet: Unsuback, level: int) -> bytes:
    body = _packet_id(packet.packet_id)
    if level == MQTT_5:
        body += encode_properties(packet.properties) + bytes(packet.reason_codes)
    return _packet(0xB0, body)


def _ending(first: int) -> Callable[[Any, int], bytes]:
    """DISCONNECT and AUTH: reason code 0 without properties need not be written. MQTT 5.0, 3.14.2.1, 3.15.2.1."""

    def write(packet: Disconnect, level: int) -> bytes:
        if level != MQTT_5:
            return bytes((first, 0))
        if packet.properties is not NO_PROPERTIES:
            return _packet(first, bytes((packet.reason_code,)) + encode_properties(packet.properties))
        return bytes((first, 1, packet.reason_code)) if packet.reason_code else bytes((first, 0))

    return write


_WRITERS: Final[dict[type[Packet], Callable[[Any, int], bytes]]] = {
    Connect: _connect,
    Connack: _connack,
    Publish: _publish,
    Puback: _acknowledgement(0x40),
    Pubrec: _acknowledgement(0x50),
    Pubrel: _acknowledgement(0x62),
    Pubcomp: _acknowledgement(0x70),
    Subscribe: _subscribe,
    Suback: _suback,
    Unsubscribe: _unsubscribe,
    Unsuback: _unsuback,
    Pingreq: lambda packet, level: b"\xc0\x00",
    Pingresp: lambda packet, level: PINGRESP,
    Disconnect: _ending(0xE0),
    Auth: _ending(0xF0),
}
