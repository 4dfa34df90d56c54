"""Reads the packets that are not PUBLISH: few of them come, so they are read plainly, field by field."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from trunkline.filters import filter_problem
from trunkline_mqtt.fields import Fields, malformed
from trunkline_mqtt.greeting import read_connack, read_connect
from trunkline_mqtt.packets import (
    MQTT_3_1,
    MQTT_5,
    Auth,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Puback,
    Pubcomp,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    Subscription,
    Unsuback,
    Unsubscribe,
)
from trunkline_mqtt.properties import NO_PROPERTIES
from trunkline_mqtt.reasons import Reason

__all__ = ["MAX_FILTERS", "check_first_byte", "decode_control", "shared_problem"]

_Reader = Callable[[Fields], Packet]

MAX_FILTERS: Final = 10_000
"""In one packet. A packet of a megabyte could hold 250,000, which are seconds of work; real ones have a few."""

_OTHERS: Final = {
    0x16: "; TLS begins so: it is spoken at another address",
    0x47: "; an HTTP request begins so: WebSocket is spoken at another address (listen.mqtt-ws)",
}
"""What else begins with a byte that no packet begins with."""

_DUP: Final = 8
_QOS, _NO_LOCAL, _RETAIN_AS_PUBLISHED, _RETAIN_HANDLING, _RESERVED = 0x03, 0x04, 0x08, 0x30, 0xC0
"""The subscription options, MQTT 5.0, 3.8.3.1."""


def check_first_byte(first: int, level: int) -> tuple[str, _Reader]:
    """The name of a packet that is not PUBLISH, and what reads it; RemoteProtocolError for a wrong type or flags."""
    kind = first >> 4
    entry = _PACKETS.get(kind)
    if entry is None or (kind == _AUTH and level != MQTT_5):
        raise malformed(f"packet type {kind}", "is reserved", "2.2.1", "2.1.2")
    name, flags, read = entry
    found = first & 0x0F
    # MQTT 3.1, 2.1: DUP marks a PUBREL, SUBSCRIBE or UNSUBSCRIBE that is sent again.
    if found != flags and not (level == MQTT_3_1 and flags and found == flags | _DUP):
        problem = f"flags are {found:#06b}, must be {flags:#06b}{_OTHERS.get(first, '')}"
        raise malformed(f"{name}, fixed header", problem, "2.2.2", "2.1.3")
    return name, read


def decode_control(first: int, data: bytes, position: int, end: int, level: int) -> Packet:
    """Read one packet.

    Args:
      first: byte 1 of its fixed header: type and flags.
      data: holds what follows the fixed header in ``[position, end)``.
      level: of the protocol, as the CONNECT said.

    Raises RemoteProtocolError for a reserved type, wrong flags, and anything that is not as it must be.
    """
    name, read = check_first_byte(first, level)
    fields = Fields(name, data, position, end, level)
    packet = read(fields)
    fields.end()
    return packet


def _acknowledgement(packet: Callable[[int, int, Any], Packet]) -> _Reader:
    """PUBACK, PUBREC, PUBREL and PUBCOMP: in 5.0 reason code and properties may be left out. 3.4.2.1."""

    def read(fields: Fields) -> Packet:
        packet_id = fields.packet_id()
        if fields.level != MQTT_5 or fields.is_at_end():
            return packet(packet_id, 0, NO_PROPERTIES)
        code = fields.reason_code()
        return packet(packet_id, code, NO_PROPERTIES if fields.is_at_end() else fields.properties())

    return read


def _subscribe(fields: Fields) -> Subscribe:
    packet_id = fields.packet_id()
    properties = NO_PROPERTIES
    if fields.level == MQTT_5:
        properties = fields.properties()
        if len(properties.subscription_identifiers) > 1:
            raise fields.wrong("subscription identifier", "comes twice", "3.8.2.1.2")
    filters = []
    while not fields.is_at_end():
        topic_filter = _filter(fields)
        options = fields.byte("subscription options" if fields.level == MQTT_5 else "requested QoS")
        filters.append(_subscription(fields, topic_filter, options))
        _check_count(fields, len(filters))
    if not filters:
        raise malformed(fields.packet, "has no topic filter", "3.8.3", "3.8.3", Reason.PROTOCOL_ERROR)
    return Subscribe(packet_id, tuple(filters), properties)


def _subscription(fields: Fields, topic_filter: str, options: int) -> Subscription:
    if fields.level != MQTT_5:
        if options > 2:
            raise fields.malformed("requested QoS", f"is {options:#04x}, must be 0, 1 or 2", "3.8.3.1", None)
        return Subscription(topic_filter, options)
    if options & _RESERVED:
        raise fields.malformed("subscription options", f"reserved bits are set ({options:#010b})", None, "3.8.3.1")
    qos = options & _QOS
    if qos == 3:
        raise fields.wrong("subscription options", "maximum QoS is 3", "3.8.3.1")
    retain_handling = (options & _RETAIN_HANDLING) >> 4
    if retain_handling == 3:
        raise fields.wrong("subscription options", "retain handling is 3", "3.8.3.1")
    no_local = bool(options & _NO_LOCAL)
    if no_local and topic_filter.startswith("$share/"):
        raise fields.wrong("subscription options", "no local is set on a shared subscription", "3.8.3.1")
    return Subscription(topic_filter, qos, no_local, bool(options & _RETAIN_AS_PUBLISHED), retain_handling)


def _suback(fields: Fields) -> Suback:
    packet_id = fields.packet_id()
    properties = fields.properties() if fields.level == MQTT_5 else NO_PROPERTIES
    codes = []
    while not fields.is_at_end():
        if fields.level == MQTT_5:
            codes.append(fields.reason_code())
            continue
        code = fields.byte("return code")
        if code > 2 and code != Reason.UNSPECIFIED_ERROR:
            raise fields.malformed("return code", f"{code:#04x} is reserved", "3.9.3", None)
        codes.append(code)
    return Suback(packet_id, tuple(codes), properties)


def _unsubscribe(fields: Fields) -> Unsubscribe:
    packet_id = fields.packet_id()
    properties = fields.properties() if fields.level == MQTT_5 else NO_PROPERTIES
    filters = []
    while not fields.is_at_end():
        filters.append(_filter(fields))
        _check_count(fields, len(filters))
    if not filters:
        raise malformed(fields.packet, "has no topic filter", "3.10.3", "3.10.3", Reason.PROTOCOL_ERROR)
    return Unsubscribe(packet_id, tuple(filters), properties)


def _unsuback(fields: Fields) -> Unsuback:
    packet_id = fields.packet_id()
    if fields.level != MQTT_5:
        return Unsuback(packet_id)
    properties = fields.properties()
    codes = []
    while not fields.is_at_end():
        codes.append(fields.reason_code())
    return Unsuback(packet_id, tuple(codes), properties)


def _check_count(fields: Fields, count: int) -> None:
    if count > MAX_FILTERS:
        problem = f"has more than {MAX_FILTERS} topic filters"
        raise malformed(fields.packet, problem, "4.8", "4.13.1", Reason.QUOTA_EXCEEDED)


def _filter(fields: Fields) -> str:
    topic_filter = fields.string("topic filter")
    problem = filter_problem(topic_filter)
    if problem is not None:
        raise fields.malformed("topic filter", f"{topic_filter[:100]!r}: {problem}", "4.7", "4.7")
    if fields.level == MQTT_5:
        problem = shared_problem(topic_filter)
        if problem is not None:
            raise fields.malformed("topic filter", f"{topic_filter[:100]!r}: {problem}", None, "4.8.2")
    return topic_filter


def shared_problem(topic_filter: str) -> str | None:
    """Why a filter that begins with ``$share/`` cannot be a shared one, or None. MQTT 5.0, 4.8.2."""
    if not topic_filter.startswith("$share/"):
        return None
    name, slash, rest = topic_filter[7:].partition("/")
    if not name or not slash or not rest:
        return "a shared subscription is $share/NAME/FILTER, neither of them empty"
    if "+" in name or "#" in name:
        return f"the share name {name[:40]!r} holds a wildcard"
    return None


def _disconnect(fields: Fields) -> Disconnect:
    if fields.level != MQTT_5 or fields.is_at_end():
        return Disconnect()
    code = fields.reason_code()
    return Disconnect(code, NO_PROPERTIES if fields.is_at_end() else fields.properties())


def _auth(fields: Fields) -> Auth:
    if fields.is_at_end():
        return Auth()
    code = fields.reason_code()
    return Auth(code, NO_PROPERTIES if fields.is_at_end() else fields.properties())


_AUTH: Final = 15

_PACKETS: Final[dict[int, tuple[str, int, _Reader]]] = {
    1: ("CONNECT", 0, read_connect),
    2: ("CONNACK", 0, read_connack),
    4: ("PUBACK", 0, _acknowledgement(Puback)),
    5: ("PUBREC", 0, _acknowledgement(Pubrec)),
    6: ("PUBREL", 2, _acknowledgement(Pubrel)),
    7: ("PUBCOMP", 0, _acknowledgement(Pubcomp)),
    8: ("SUBSCRIBE", 2, _subscribe),
    9: ("SUBACK", 0, _suback),
    10: ("UNSUBSCRIBE", 2, _unsubscribe),
    11: ("UNSUBACK", 0, _unsuback),
    12: ("PINGREQ", 0, lambda fields: Pingreq()),
    13: ("PINGRESP", 0, lambda fields: Pingresp()),
    14: ("DISCONNECT", 0, _disconnect),
    _AUTH: ("AUTH", 0, _auth),
}
"""Packet type (table 2.1) -> its name, the flags its fixed header must have (table 2.2), and what reads it."""
