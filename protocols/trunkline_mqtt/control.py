"""Reads the packets that are not PUBLISH: few of them come, so they are read plainly, field by field."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from trunkline.filters import filter_problem
from trunkline_mqtt.fields import Fields, malformed, topic_name_problem
from trunkline_mqtt.packets import (
    MQTT_3_1_1,
    SUBSCRIBE_REFUSED,
    Connack,
    Connect,
    ConnectReturnCode,
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
    Unsuback,
    Unsubscribe,
    Will,
)

__all__ = ["check_first_byte", "decode_control"]

_Reader = Callable[[Fields], Packet]

CLEAN_SESSION, WILL, WILL_QOS, WILL_RETAIN, PASSWORD, USER_NAME = 0x02, 0x04, 0x18, 0x20, 0x40, 0x80
"""The connect flags, MQTT 3.1.1, figure 3.4. Bit 0 is reserved."""


def check_first_byte(first: int) -> tuple[str, _Reader]:
    """The name of a packet that is not PUBLISH, and what reads it; RemoteProtocolError for a wrong type or flags."""
    kind = first >> 4
    entry = _PACKETS.get(kind)
    if entry is None:
        raise malformed(f"packet type {kind}", "is reserved", "2.2.1")
    name, flags, read = entry
    if first & 0x0F != flags:
        raise malformed(f"{name}, fixed header", f"flags are {first & 0x0F:#06b}, must be {flags:#06b}", "2.2.2")
    return name, read


def decode_control(first: int, data: bytes, position: int, end: int) -> Packet:
    """Read one packet.

    Args:
      first: byte 1 of its fixed header: type and flags.
      data: holds what follows the fixed header in ``[position, end)``.

    Raises RemoteProtocolError for a reserved type, wrong flags, and anything that is not as it must be.
    """
    name, read = check_first_byte(first)
    fields = Fields(name, data, position, end)
    packet = read(fields)
    fields.end()
    return packet


def _connect(fields: Fields) -> Connect:
    name = fields.string("protocol name")
    if name not in ("MQTT", "MQIsdp"):
        raise fields.malformed("protocol name", f"is {name[:20]!r}, must be 'MQTT'", "3.1.2.1")
    level = fields.byte("protocol level")
    if name != "MQTT" or level != MQTT_3_1_1:
        raise fields.malformed(
            "protocol level",
            f"is {level} of {name!r}; this server speaks 3.1.1, level {MQTT_3_1_1} of 'MQTT'",
            "3.1.2.2",
            return_code=ConnectReturnCode.UNACCEPTABLE_PROTOCOL_VERSION,
        )
    flags = fields.byte("connect flags")
    _check_connect_flags(fields, flags)
    keep_alive = fields.integer("keep alive")
    client_id = fields.string("client identifier")
    will = None
    if flags & WILL:
        topic = fields.string("will topic")
        problem = topic_name_problem(topic)
        if problem is not None:
            raise fields.malformed("will topic", problem, "4.7.3" if not topic else "4.7.1")
        will = Will(topic, fields.binary("will message"), (flags & WILL_QOS) >> 3, bool(flags & WILL_RETAIN))
    user_name = fields.string("user name") if flags & USER_NAME else None
    password = fields.binary("password") if flags & PASSWORD else None
    return Connect(client_id, bool(flags & CLEAN_SESSION), keep_alive, will, user_name, password, level)


def _check_connect_flags(fields: Fields, flags: int) -> None:
    if flags & 1:
        raise fields.malformed("connect flags", "the reserved bit 0 is set", "3.1.2.3")
    if flags & WILL_QOS == WILL_QOS:
        raise fields.malformed("connect flags", "will QoS is 3", "3.1.2.6")
    if not flags & WILL and flags & WILL_QOS:
        raise fields.malformed("connect flags", "will QoS is set without the will flag", "3.1.2.6")
    if not flags & WILL and flags & WILL_RETAIN:
        raise fields.malformed("connect flags", "will retain is set without the will flag", "3.1.2.7")
    if flags & PASSWORD and not flags & USER_NAME:
        raise fields.malformed("connect flags", "the password flag is set without the user name flag", "3.1.2.9")


def _connack(fields: Fields) -> Connack:
    flags = fields.byte("acknowledge flags")
    if flags > 1:
        raise fields.malformed("acknowledge flags", f"reserved bits are set ({flags:#010b})", "3.2.2.1")
    return_code = fields.byte("return code")
    if return_code > ConnectReturnCode.NOT_AUTHORIZED:
        raise fields.malformed("return code", f"{return_code} is reserved", "3.2.2.3")
    if flags and return_code:
        raise fields.malformed("acknowledge flags", f"session present with return code {return_code}", "3.2.2.2")
    return Connack(return_code, bool(flags))


def _subscribe(fields: Fields) -> Subscribe:
    packet_id = fields.packet_id()
    filters = []
    while not fields.is_at_end:
        topic_filter = _filter(fields)
        qos = fields.byte("requested QoS")
        if qos > 2:
            raise fields.malformed("requested QoS", f"is {qos:#04x}, must be 0, 1 or 2", "3.8.3.1")
        filters.append((topic_filter, qos))
    if not filters:
        raise malformed(fields.packet, "has no topic filter", "3.8.3")
    return Subscribe(packet_id, tuple(filters))


def _suback(fields: Fields) -> Suback:
    packet_id = fields.packet_id()
    return_codes = tuple(fields.rest())
    for code in return_codes:
        if code > 2 and code != SUBSCRIBE_REFUSED:
            raise fields.malformed("return code", f"{code:#04x} is reserved", "3.9.3")
    return Suback(packet_id, return_codes)


def _unsubscribe(fields: Fields) -> Unsubscribe:
    packet_id = fields.packet_id()
    filters = []
    while not fields.is_at_end:
        filters.append(_filter(fields))
    if not filters:
        raise malformed(fields.packet, "has no topic filter", "3.10.3")
    return Unsubscribe(packet_id, tuple(filters))


def _filter(fields: Fields) -> str:
    topic_filter = fields.string("topic filter")
    problem = filter_problem(topic_filter)
    if problem is not None:
        raise fields.malformed("topic filter", f"{topic_filter[:100]!r}: {problem}", "4.7")
    return topic_filter


_PACKETS: Final[dict[int, tuple[str, int, _Reader]]] = {
    1: ("CONNECT", 0, _connect),
    2: ("CONNACK", 0, _connack),
    4: ("PUBACK", 0, lambda fields: Puback(fields.packet_id())),
    5: ("PUBREC", 0, lambda fields: Pubrec(fields.packet_id())),
    6: ("PUBREL", 2, lambda fields: Pubrel(fields.packet_id())),
    7: ("PUBCOMP", 0, lambda fields: Pubcomp(fields.packet_id())),
    8: ("SUBSCRIBE", 2, _subscribe),
    9: ("SUBACK", 0, _suback),
    10: ("UNSUBSCRIBE", 2, _unsubscribe),
    11: ("UNSUBACK", 0, lambda fields: Unsuback(fields.packet_id())),
    12: ("PINGREQ", 0, lambda fields: Pingreq()),
    13: ("PINGRESP", 0, lambda fields: Pingresp()),
    14: ("DISCONNECT", 0, lambda fields: Disconnect()),
}
"""Packet type (table 2.1) -> its name, the flags its fixed header must have (table 2.2), and what reads it."""
