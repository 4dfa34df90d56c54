"""Reads CONNECT and CONNACK, by which both ends learn what the other is.

protocol name, level      "MQIsdp", 3: MQTT 3.1;  "MQTT", 4: 3.1.1;  "MQTT", 5: 5.0
                          bit 7 with 3 and 4: the client is a bridge. In no standard, but Mosquitto's bridges try it
                          first, and expect their subscriptions to be no local and retain as published then, which
                          MQTT 5.0 has words for
connect flags             below; bit 0 is reserved
keep alive                two bytes, seconds
properties                only in 5.0
client identifier
will: properties (5.0), topic, payload;  user name;  password      each if its flag is set
"""

from __future__ import annotations

from typing import Final

from trunkline.errors import RemoteProtocolError
from trunkline_mqtt.fields import Fields
from trunkline_mqtt.packets import MQTT_3_1, MQTT_3_1_1, MQTT_5, Connack, Connect, Will
from trunkline_mqtt.properties import NO_PROPERTIES
from trunkline_mqtt.reasons import Reason

__all__ = [
    "BRIDGE", "CLEAN_START", "PASSWORD", "PROTOCOL_NAMES", "USER_NAME", "WILL", "WILL_QOS", "WILL_RETAIN",
    "read_connack", "read_connect",
]  # fmt: skip

CLEAN_START, WILL, WILL_QOS, WILL_RETAIN, PASSWORD, USER_NAME = 0x02, 0x04, 0x18, 0x20, 0x40, 0x80
"""The connect flags, figure 3.4 of MQTT 3.1.1."""

BRIDGE: Final = 0x80
"""In the protocol level."""

PROTOCOL_NAMES: Final = {MQTT_3_1: "MQIsdp", MQTT_3_1_1: "MQTT", MQTT_5: "MQTT"}

_LAST_RETURN_CODE: Final = 5  # 3.2.2.3 of MQTT 3.1.1


def read_connect(fields: Fields) -> Connect:
    """3.1. Sets ``fields.level``."""
    said = _protocol(fields)
    fields.level = level = said & ~BRIDGE
    flags = fields.byte("connect flags")
    _check_flags(fields, flags)
    keep_alive = fields.integer("keep alive")
    properties = NO_PROPERTIES
    if level == MQTT_5:
        properties = fields.properties()
        if properties.authentication_data is not None and properties.authentication_method is None:
            raise fields.wrong("authentication data", "comes without authentication method", "3.1.2.11.10")
    client_id = fields.string("client identifier")
    will = _will(fields, flags) if flags & WILL else None
    user_name = password = None
    # MQTT 3.1, 3.1: flags may promise what does not come.
    if flags & USER_NAME and not (level == MQTT_3_1 and fields.is_at_end()):
        user_name = fields.string("user name")
    if flags & PASSWORD and not (level == MQTT_3_1 and fields.is_at_end()):
        password = fields.binary("password")
    return Connect(
        client_id,
        bool(flags & CLEAN_START),
        keep_alive,
        will,
        user_name,
        password,
        level,
        properties,
        said != level,
    )


def _protocol(fields: Fields) -> int:
    name = fields.string("protocol name")
    if name not in ("MQTT", "MQIsdp"):
        raise fields.malformed("protocol name", f"is {name[:20]!r}, must be 'MQTT'", "3.1.2.1", "3.1.2.1")
    level = fields.byte("protocol level")
    plain = level & ~BRIDGE
    if PROTOCOL_NAMES.get(plain if plain != MQTT_5 else level) != name:
        raise fields.malformed(
            "protocol level",
            f"is {level} of {name!r}; this server speaks 3.1 (level 3 of 'MQIsdp'), 3.1.1 and 5.0 (4 and 5 of 'MQTT')",
            "3.1.2.2",
            "3.1.2.2",
            Reason.UNSUPPORTED_PROTOCOL_VERSION,
        )
    return level


def _check_flags(fields: Fields, flags: int) -> None:
    wrong = _flags_problem(flags, fields.level)
    if wrong is not None:
        problem, section_3, section_5 = wrong
        raise fields.malformed("connect flags", problem, section_3, section_5)


def _flags_problem(flags: int, level: int) -> tuple[str, str, str | None] | None:
    if flags & 1 and level != MQTT_3_1:
        return "the reserved bit 0 is set", "3.1.2.3", "3.1.2.3"
    if flags & WILL_QOS == WILL_QOS:
        return "will QoS is 3", "3.1.2.6", "3.1.2.6"
    if not flags & WILL and flags & WILL_QOS:
        return "will QoS is set without the will flag", "3.1.2.6", "3.1.2.6"
    if not flags & WILL and flags & WILL_RETAIN:
        return "will retain is set without the will flag", "3.1.2.7", "3.1.2.7"
    if flags & PASSWORD and not flags & USER_NAME and level != MQTT_5:
        return "the password flag is set without the user name flag", "3.1.2.9", None
    return None


def _will(fields: Fields, flags: int) -> Will:
    properties = fields.properties("WILL") if fields.level == MQTT_5 else NO_PROPERTIES
    topic = fields.topic_name("will topic", "4.7")
    payload = fields.binary("will message")
    return Will(topic, payload, (flags & WILL_QOS) >> 3, bool(flags & WILL_RETAIN), properties)


def read_connack(fields: Fields) -> Connack:
    """3.2."""
    flags = fields.byte("acknowledge flags")
    if flags > 1:
        raise fields.malformed("acknowledge flags", f"reserved bits are set ({flags:#010b})", "3.2.2.1", "3.2.2.1")
    if fields.level == MQTT_5:
        code = fields.reason_code()
        properties = fields.properties()
    else:
        code = fields.byte("return code")
        properties = NO_PROPERTIES
        if code > _LAST_RETURN_CODE:
            raise fields.malformed("return code", f"{code} is reserved", "3.2.2.3", None)
    if flags and code:
        raise _present_though_refused(fields, code)
    return Connack(code, bool(flags), properties)


def _present_though_refused(fields: Fields, code: int) -> RemoteProtocolError:
    return fields.malformed("acknowledge flags", f"session present with code {code:#04x}", "3.2.2.2", "3.2.2.1.1")
