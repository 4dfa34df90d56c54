"""Every rule of MQTT 3.1.1 and 5.0 about the form of packets, broken: what the broker says, and whether it closes.

A row of MQTT 3: what is wrong, the bytes, the section that says so, part of the message. There is nothing to tell
a client but a return code in CONNACK, so the connection is just closed. A row of MQTT 5.0 has the reason code besides.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from trunkline.errors import RemoteProtocolError
from trunkline_mqtt.connection import MqttConnection
from trunkline_mqtt.decoder import Decoder
from trunkline_mqtt.encoder import encode
from trunkline_mqtt.packets import MQTT_3_1, MQTT_3_1_1, MQTT_5, Connack, Connect, Disconnect, Packet
from trunkline_mqtt.server import MqttServer
from trunkline_mqtt.settings import MqttSettings

if TYPE_CHECKING:
    from tests.mqtt.conftest import RememberingTransport

LIMIT = 1024 * 1024


def connect(flags: int, rest: bytes = b"", *, name: bytes = b"MQTT", level: int = 4) -> bytes:
    """A CONNECT of MQTT 3."""
    body = len(name).to_bytes(2) + name + bytes((level, flags)) + b"\x00\x00\x00\x01c" + rest
    return bytes((0x10, len(body))) + body


# what is wrong, the bytes, the section that says so, and part of the message
MALFORMED_3: list[tuple[str, bytes, str, str]] = [
    ("type 0", b"\x00\x00", "2.2.1", "packet type 0: is reserved"),
    ("type 15", b"\xf0\x00", "2.2.1", "packet type 15: is reserved"),
    ("flags of CONNECT", b"\x11\x00", "2.2.2", "CONNECT, fixed header: flags are 0b0001, must be 0b0000"),
    ("flags of CONNACK", b"\x22\x02\x00\x00", "2.2.2", "CONNACK"),
    ("TLS", b"\x16\x03\x01\x02\x00\x01", "2.2.2", "0b0000; TLS begins so"),
    ("HTTP", b"GET /mqtt HTTP/1.1\r\n", "2.2.2", "an HTTP request begins so: WebSocket is spoken"),
    ("flags of PUBACK", b"\x42\x02\x00\x01", "2.2.2", "PUBACK"),
    ("flags of PUBREC", b"\x52\x02\x00\x01", "2.2.2", "PUBREC"),
    ("flags of PUBREL", b"\x60\x02\x00\x01", "2.2.2", "PUBREL, fixed header: flags are 0b0000, must be 0b0010"),
    ("flags of PUBCOMP", b"\x71\x02\x00\x01", "2.2.2", "PUBCOMP"),
    ("flags of SUBSCRIBE", b"\x80\x06\x00\x01\x00\x01a\x00", "2.2.2", "SUBSCRIBE"),
    ("flags of SUBACK", b"\x92\x03\x00\x01\x00", "2.2.2", "SUBACK"),
    ("flags of UNSUBSCRIBE", b"\xa0\x05\x00\x01\x00\x01a", "2.2.2", "UNSUBSCRIBE"),
    ("flags of UNSUBACK", b"\xb2\x02\x00\x01", "2.2.2", "UNSUBACK"),
    ("flags of PINGREQ", b"\xc8\x00", "2.2.2", "PINGREQ"),
    ("flags of PINGRESP", b"\xd8\x00", "2.2.2", "PINGRESP"),
    ("flags of DISCONNECT", b"\xe1\x00", "2.2.2", "DISCONNECT"),
    ("remaining length of five bytes", b"\x30\xff\xff\xff\xff", "2.2.3", "has more than 4 bytes"),
    ("packet over the limit", b"\x30\x80\x80\x80\x01", "2.2.3", "has 2097157 bytes, the limit here is 1048576"),
    ("PINGREQ with a body", b"\xc0\x01\x00", "2.2.3", "PINGREQ: has 1 bytes after its last field"),
    ("DISCONNECT with a body", b"\xe0\x01\x00", "2.2.3", "DISCONNECT: has 1 bytes"),
    ("PUBACK too long", b"\x40\x03\x00\x01\x00", "2.2.3", "PUBACK: has 1 bytes"),
    ("PUBACK too short", b"\x40\x01\x01", "2.2.3", "PUBACK, packet identifier: needs 2 bytes, but 1 are left"),
    ("PUBACK with id 0", b"\x40\x02\x00\x00", "2.3.1", "PUBACK, packet identifier: is 0"),
    ("PUBREL with id 0", b"\x62\x02\x00\x00", "2.3.1", "PUBREL"),
    # CONNECT
    ("CONNECT empty", b"\x10\x00", "2.2.3", "CONNECT, length of protocol name"),
    ("protocol name", connect(2, name=b"MQTX"), "3.1.2.1", "is 'MQTX'"),
    ("protocol name not UTF-8", connect(2, name=b"\xff"), "1.5.3", "protocol name"),
    ("protocol level 3", connect(2, level=3), "3.1.2.2", "is 3 of 'MQTT'"),
    ("protocol level 6", connect(2, level=6), "3.1.2.2", "is 6 of 'MQTT'"),
    ("protocol level of a bridge of 5.0", connect(2, level=0x85), "3.1.2.2", "is 133"),
    ("MQIsdp at level 4", connect(2, name=b"MQIsdp", level=4), "3.1.2.2", "is 4 of 'MQIsdp'"),
    ("reserved connect flag", connect(3), "3.1.2.3", "the reserved bit 0 is set"),
    ("will QoS 3", connect(0x1E, b"\x00\x01w\x00\x00"), "3.1.2.6", "will QoS is 3"),
    ("will QoS without will", connect(0x0A), "3.1.2.6", "without the will flag"),
    ("will retain without will", connect(0x22), "3.1.2.7", "without the will flag"),
    ("password without user name", connect(0x42, b"\x00\x01p"), "3.1.2.9", "without the user name flag"),
    ("will topic missing", connect(0x06), "2.2.3", "length of will topic"),
    ("will topic empty", connect(0x06, b"\x00\x00\x00\x00"), "4.7", "will topic: is empty"),
    ("will topic with a wildcard", connect(0x06, b"\x00\x01#\x00\x00"), "4.7", "wildcard '#'"),
    ("will message missing", connect(0x06, b"\x00\x01w"), "2.2.3", "length of will message"),
    ("user name missing", connect(0x82), "2.2.3", "length of user name"),
    ("user name not UTF-8", connect(0x82, b"\x00\x01\x80"), "1.5.3", "CONNECT, user name: is not UTF-8 at byte 0"),
    ("password cut", connect(0xC2, b"\x00\x01u\x00\x05p"), "2.2.3", "password: needs 5 bytes, but 1 are left"),
    ("CONNECT too long", connect(2, b"\x00"), "2.2.3", "CONNECT: has 1 bytes after its last field"),
    ("client id with U+0000", b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01\x00", "1.5.3", "U+0000 at character 0"),
    # CONNACK
    ("CONNACK flags", b"\x20\x02\x02\x00", "3.2.2.1", "reserved bits"),
    ("CONNACK return code", b"\x20\x02\x00\x06", "3.2.2.3", "6 is reserved"),
    ("CONNACK refusing a present session", b"\x20\x02\x01\x02", "3.2.2.2", "session present"),
    # PUBLISH
    ("QoS 3", b"\x36\x05\x00\x01a\x00\x01", "3.3.1.2", "QoS is 3"),
    ("DUP with QoS 0", b"\x38\x03\x00\x01a", "3.3.1.1", "DUP is set with QoS 0"),
    ("PUBLISH empty", b"\x30\x00", "2.2.3", "length of topic name"),
    ("PUBLISH with half a length", b"\x30\x01\x00\xc0\x00", "2.2.3", "length of topic name"),
    ("topic longer than the packet", b"\x30\x03\x00\x02a\xc0\x00", "2.2.3", "topic name: ends after the packet"),
    ("packet id cut", b"\x32\x04\x00\x01a\x00\xc0\x00", "2.2.3", "packet identifier: ends after the packet"),
    ("packet id 0", b"\x32\x05\x00\x01a\x00\x00", "2.3.1", "PUBLISH, packet identifier: is 0"),
    ("topic empty", b"\x30\x02\x00\x00", "4.7.3", "topic name: is empty"),
    ("topic with +", b"\x30\x05\x00\x03a/+", "3.3.2.1", "wildcard '+' in 'a/+'"),
    ("topic with #", b"\x30\x03\x00\x01#", "3.3.2.1", "wildcard '#'"),
    ("topic with U+0000", b"\x30\x04\x00\x02a\x00", "1.5.3", "U+0000 at character 1"),
    ("topic not UTF-8", b"\x30\x04\x00\x02a\xff", "1.5.3", "is not UTF-8 at byte 1"),
    ("topic with a surrogate", b"\x30\x05\x00\x03\xed\xa0\x80", "1.5.3", "is not UTF-8 at byte 0"),
    ("topic in overlong form", b"\x30\x04\x00\x02\xc0\xaf", "1.5.3", "is not UTF-8 at byte 0"),
    # SUBSCRIBE, SUBACK, UNSUBSCRIBE
    ("SUBSCRIBE of nothing", b"\x82\x02\x00\x01", "3.8.3", "SUBSCRIBE: has no topic filter"),
    ("SUBSCRIBE with id 0", b"\x82\x06\x00\x00\x00\x01a\x00", "2.3.1", "SUBSCRIBE"),
    ("SUBSCRIBE with QoS 3", b"\x82\x06\x00\x01\x00\x01a\x03", "3.8.3.1", "is 0x03"),
    ("SUBSCRIBE with reserved bits", b"\x82\x06\x00\x01\x00\x01a\x81", "3.8.3.1", "is 0x81"),
    ("SUBSCRIBE without QoS", b"\x82\x05\x00\x01\x00\x01a", "2.2.3", "requested QoS: needs 1 bytes"),
    ("SUBSCRIBE to an empty filter", b"\x82\x05\x00\x01\x00\x00\x00", "4.7", "it is empty"),
    ("SUBSCRIBE with # inside", b"\x82\x08\x00\x01\x00\x03#/a\x00", "4.7", "# is allowed as the last level only"),
    ("SUBSCRIBE with + in a level", b"\x82\x07\x00\x01\x00\x02a+\x00", "4.7", "+ and # stand alone"),
    ("SUBSCRIBE not UTF-8", b"\x82\x06\x00\x01\x00\x01\xff\x00", "1.5.3", "SUBSCRIBE, topic filter"),
    ("SUBACK with a reserved code", b"\x90\x03\x00\x01\x03", "3.9.3", "0x03 is reserved"),
    ("UNSUBSCRIBE of nothing", b"\xa2\x02\x00\x01", "3.10.3", "UNSUBSCRIBE: has no topic filter"),
    ("UNSUBSCRIBE of a bad filter", b"\xa2\x06\x00\x01\x00\x02##", "4.7", "UNSUBSCRIBE, topic filter"),
    ("UNSUBSCRIBE with id 0", b"\xa2\x05\x00\x00\x00\x01a", "2.3.1", "UNSUBSCRIBE"),
    # the same rules in the other places where they hold
    ("will topic not UTF-8", connect(0x06, b"\x00\x01\xff\x00\x00"), "1.5.3", "is not UTF-8 at byte 0"),
    ("will topic with U+0000", connect(0x06, b"\x00\x01\x00\x00\x00"), "1.5.3", "contains U+0000 at character 0"),
    ("user name with U+0000", connect(0x82, b"\x00\x01\x00"), "1.5.3", "contains U+0000 at character 0"),
    ("client id not UTF-8", b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01\xff", "1.5.3", "is not UTF-8 at byte 0"),
    ("client id missing", b"\x10\x0a\x00\x04MQTT\x04\x02\x00\x00", "2.2.3", "needs 2 bytes, but 0 are left"),
    ("PUBREC with id 0", b"\x50\x02\x00\x00", "2.3.1", "PUBREC, packet identifier: is 0"),
    ("PUBCOMP with id 0", b"\x70\x02\x00\x00", "2.3.1", "PUBCOMP, packet identifier: is 0"),
    ("PUBREC too short", b"\x50\x01\x00", "2.2.3", "needs 2 bytes, but 1 are left in the packet"),
    ("PUBREL too short", b"\x62\x01\x00", "2.2.3", "needs 2 bytes, but 1 are left in the packet"),
    ("PUBCOMP too short", b"\x70\x01\x00", "2.2.3", "needs 2 bytes, but 1 are left in the packet"),
    ("PUBREC too long", b"\x50\x03\x00\x01\x00", "2.2.3", "PUBREC: has 1 bytes after its last field"),
    ("PUBREL too long", b"\x62\x03\x00\x01\x00", "2.2.3", "PUBREL: has 1 bytes after its last field"),
    ("PUBCOMP too long", b"\x70\x03\x00\x01\x00", "2.2.3", "PUBCOMP: has 1 bytes after its last field"),
    ("SUBSCRIBE with U+0000", b"\x82\x06\x00\x01\x00\x01\x00\x00", "1.5.3", "contains U+0000 at character 0"),
    ("SUBSCRIBE without an identifier", b"\x82\x00", "2.2.3", "needs 2 bytes, but 0 are left in the packet"),
    ("SUBSCRIBE with a filter cut", b"\x82\x05\x00\x01\x00\x05a", "2.2.3", "needs 5 bytes, but 1 are left"),
    ("UNSUBSCRIBE of an empty filter", b"\xa2\x04\x00\x01\x00\x00", "4.7", "it is empty"),
    ("UNSUBSCRIBE not UTF-8", b"\xa2\x05\x00\x01\x00\x01\xff", "1.5.3", "is not UTF-8 at byte 0"),
    ("UNSUBSCRIBE with U+0000", b"\xa2\x05\x00\x01\x00\x01\x00", "1.5.3", "contains U+0000 at character 0"),
    ("UNSUBSCRIBE without an identifier", b"\xa2\x00", "2.2.3", "needs 2 bytes, but 0 are left in the packet"),
    ("PINGRESP with a body", b"\xd0\x01\x00", "2.2.3", "PINGRESP: has 1 bytes after its last field"),
    ("will message cut", connect(0x06, b"\x00\x01w\x00\x05a"), "2.2.3", "needs 5 bytes, but 1 are left"),
]


def connect_5(
    flags: int = 2, properties: bytes = b"", rest: bytes = b"", *, client_id: bytes = b"\x00\x01c", length: bytes = b""
) -> bytes:
    """A CONNECT of MQTT 5.0; ``length`` of the properties if it is to be a wrong one."""
    length = length or bytes((len(properties),))
    body = b"\x00\x04MQTT\x05" + bytes((flags,)) + b"\x00\x00" + length + properties + client_id + rest
    return bytes((0x10, len(body))) + body


def publish_5(properties: bytes, topic: bytes = b"\x00\x01a", payload: bytes = b"") -> bytes:
    body = topic + bytes((len(properties),)) + properties + payload
    return bytes((0x30, len(body))) + body


def subscribe_5(options: int = 0, topic_filter: bytes = b"a", properties: bytes = b"") -> bytes:
    head = b"\x00\x01" + bytes((len(properties),)) + properties
    body = head + len(topic_filter).to_bytes(2) + topic_filter + bytes((options,))
    return bytes((0x82, len(body))) + body


def will_5(properties: bytes, flags: int = 0x06) -> bytes:
    return connect_5(flags, rest=bytes((len(properties),)) + properties + b"\x00\x01w\x00\x00")


M, P, TOO_LARGE, ALIAS, TOPIC, VERSION = 0x81, 0x82, 0x95, 0x94, 0x90, 0x84
USER = b"\x26\x00\x01k\x00\x01v"

# what is wrong, the bytes, the reason code, the section that says so, part of the message
MALFORMED_5: list[tuple[str, bytes, int, str, str]] = [
    # the fixed header, 2.1
    ("type 0", b"\x00\x00", M, "2.1.2", "packet type 0: is reserved"),
    ("flags of CONNECT", b"\x11\x00", M, "2.1.3", "CONNECT, fixed header: flags are 0b0001"),
    ("flags of PUBACK", b"\x41\x02\x00\x01", M, "2.1.3", "PUBACK"),
    ("flags of PUBREC", b"\x51\x02\x00\x01", M, "2.1.3", "PUBREC"),
    ("flags of PUBREL", b"\x60\x02\x00\x01", M, "2.1.3", "PUBREL, fixed header: flags are 0b0000"),
    ("DUP on PUBREL, as in 3.1", b"\x6a\x02\x00\x01", M, "2.1.3", "PUBREL"),
    ("flags of PUBCOMP", b"\x71\x02\x00\x01", M, "2.1.3", "PUBCOMP"),
    ("flags of SUBSCRIBE", b"\x80\x07\x00\x01\x00\x00\x01a\x00", M, "2.1.3", "SUBSCRIBE"),
    ("flags of UNSUBSCRIBE", b"\xa0\x06\x00\x01\x00\x00\x01a", M, "2.1.3", "UNSUBSCRIBE"),
    ("flags of PINGREQ", b"\xc1\x00", M, "2.1.3", "PINGREQ"),
    ("flags of DISCONNECT", b"\xe1\x00", M, "2.1.3", "DISCONNECT"),
    ("flags of AUTH", b"\xf1\x00", M, "2.1.3", "AUTH"),
    ("remaining length of five bytes", b"\x30\xff\xff\xff\xff", M, "1.5.5", "has more than 4 bytes"),
    ("remaining length longer than needed", b"\xc0\x80\x00", M, "1.5.5", "more bytes than it needs"),
    ("packet over the limit", b"\x30\x80\x80\x80\x01", TOO_LARGE, "3.2.2.3.6", "the limit here is 1048576"),
    ("PINGREQ with a body", b"\xc0\x01\x00", M, "2.1.4", "PINGREQ: has 1 bytes after its last field"),
    # properties in general, 2.2.2
    ("property length cut", b"\x30\x04\x00\x01a\x80", M, "2.1.4", "property length"),
    ("property length of five bytes", b"\x30\x08\x00\x01a\xff\xff\xff\xff\x01", M, "1.5.5", "property length"),
    ("property length longer than needed", b"\x30\x05\x00\x01a\x80\x00", M, "1.5.5", "property length"),
    ("no property length", b"\x30\x03\x00\x01a", M, "2.1.4", "PUBLISH, property length"),
    ("properties longer than the packet", b"\x30\x04\x00\x01a\x05", M, "2.2.2", "need 5 bytes, but 0 are left"),
    ("property cut", publish_5(b"\x02\x00\x00"), M, "2.1.4", "message expiry s: needs 4 bytes, but 2 are left"),
    ("property identifier alone", publish_5(b"\x01"), M, "2.1.4", "payload format"),
    ("property identifier unknown", publish_5(b"\x04\x00"), M, "2.2.2.2", "property 0x04: is not one of PUBLISH"),
    ("property of another packet", publish_5(b"\x21\x00\x01"), M, "2.2.2.2", "property 0x21: is not one of PUBLISH"),
    ("user property not UTF-8", publish_5(b"\x26\x00\x01\xff\x00\x00"), M, "1.5.4", "name of a user property"),
    ("user property with U+0000", publish_5(b"\x26\x00\x01k\x00\x01\x00"), M, "1.5.4", "value of a user property"),
    ("user property cut", publish_5(USER[:-2]), M, "2.1.4", "value of a user property"),
    # CONNECT, 3.1
    ("protocol name", b"\x10\x0d\x00\x04MQTX\x05\x02\x00\x00\x00\x00\x00", M, "3.1.2.1", "is 'MQTX'"),
    ("reserved connect flag", connect_5(3), M, "3.1.2.3", "reserved bit 0"),
    ("will QoS 3", connect_5(0x1E), M, "3.1.2.6", "will QoS is 3"),
    ("will QoS without will", connect_5(0x0A), M, "3.1.2.6", "without the will flag"),
    ("will retain without will", connect_5(0x22), M, "3.1.2.7", "without the will flag"),
    ("session expiry twice", connect_5(2, b"\x11\x00\x00\x00\x01" * 2), P, "3.1.2.11.2", "comes twice"),
    ("receive maximum 0", connect_5(2, b"\x21\x00\x00"), P, "3.1.2.11.3", "receive maximum: is 0"),
    ("receive maximum twice", connect_5(2, b"\x21\x00\x01" * 2), P, "3.1.2.11.3", "comes twice"),
    ("maximum packet size 0", connect_5(2, b"\x27\x00\x00\x00\x00"), P, "3.1.2.11.4", "is 0"),
    ("maximum packet size twice", connect_5(2, b"\x27\x00\x00\x01\x00" * 2), P, "3.1.2.11.4", "comes twice"),
    ("topic alias maximum twice", connect_5(2, b"\x22\x00\x01" * 2), P, "3.1.2.11.5", "comes twice"),
    ("request response information 2", connect_5(2, b"\x19\x02"), P, "3.1.2.11.6", "is 2, must be 0 or 1"),
    ("request problem information 2", connect_5(2, b"\x17\x02"), P, "3.1.2.11.7", "is 2, must be 0 or 1"),
    ("request problem information twice", connect_5(2, b"\x17\x01" * 2), P, "3.1.2.11.7", "comes twice"),
    ("authentication method twice", connect_5(2, b"\x15\x00\x01x" * 2), P, "3.1.2.11.9", "comes twice"),
    ("authentication data alone", connect_5(2, b"\x16\x00\x01x"), P, "3.1.2.11.10", "without authentication method"),
    ("a property of the will in CONNECT", connect_5(2, b"\x18\x00\x00\x00\x01"), M, "2.2.2.2", "0x18: is not one of"),
    ("client id missing", connect_5(client_id=b""), M, "2.1.4", "length of client identifier"),
    ("client id not UTF-8", connect_5(client_id=b"\x00\x01\xff"), M, "1.5.4", "client identifier"),
    ("client id with a surrogate", connect_5(client_id=b"\x00\x03\xed\xa0\x80"), M, "1.5.4", "is not UTF-8 at byte 0"),
    ("a property of CONNECT in the will", will_5(b"\x21\x00\x01"), M, "2.2.2.2", "property 0x21: is not one of WILL"),
    ("will delay twice", will_5(b"\x18\x00\x00\x00\x01" * 2), P, "3.1.3.2.2", "comes twice"),
    ("will payload format 2", will_5(b"\x01\x02"), P, "3.3.2.3.2", "is 2, must be 0 or 1"),
    ("will topic empty", connect_5(0x06, rest=b"\x00\x00\x00\x00\x00"), TOPIC, "4.7", "will topic: is empty"),
    ("will topic wild", connect_5(0x06, rest=b"\x00\x00\x01+\x00\x00"), TOPIC, "4.7", "wildcard '+'"),
    ("will payload missing", connect_5(0x06, rest=b"\x00\x00\x01w"), M, "2.1.4", "length of will message"),
    ("user name missing", connect_5(0x82), M, "2.1.4", "length of user name"),
    ("password missing", connect_5(0x42), M, "2.1.4", "length of password"),
    ("CONNECT too long", connect_5(rest=b"\x00"), M, "2.1.4", "CONNECT: has 1 bytes after its last field"),
    # PUBLISH, 3.3
    ("QoS 3", b"\x36\x06\x00\x01a\x00\x01\x00", M, "3.3.1.2", "QoS is 3"),
    ("DUP with QoS 0", b"\x38\x04\x00\x01a\x00", M, "3.3.1.1", "DUP is set with QoS 0"),
    ("packet id 0", b"\x32\x06\x00\x01a\x00\x00\x00", P, "2.2.1", "is 0"),
    ("packet id cut", b"\x32\x04\x00\x01a\x00", M, "2.1.4", "packet identifier: ends after the packet"),
    ("topic longer than the packet", b"\x30\x03\x00\x02a", M, "2.1.4", "topic name: ends after the packet"),
    ("topic with a wildcard", publish_5(b"", b"\x00\x01#"), TOPIC, "3.3.2.1", "wildcard '#'"),
    ("topic with U+0000", publish_5(b"", b"\x00\x01\x00"), M, "1.5.4", "U+0000"),
    ("topic not UTF-8", publish_5(b"", b"\x00\x01\xff"), M, "1.5.4", "is not UTF-8"),
    ("no topic and no alias", publish_5(b"", b"\x00\x00"), P, "3.3.2.1", "is empty, without a topic alias"),
    ("topic alias 0", publish_5(b"\x23\x00\x00"), ALIAS, "3.3.2.3.4", "topic alias: is 0"),
    ("topic alias twice", publish_5(b"\x23\x00\x01" * 2), P, "3.3.2.3.4", "comes twice"),
    ("payload format 2", publish_5(b"\x01\x02"), P, "3.3.2.3.2", "is 2, must be 0 or 1"),
    ("payload format twice", publish_5(b"\x01\x00" * 2), P, "3.3.2.3.2", "comes twice"),
    ("message expiry twice", publish_5(b"\x02\x00\x00\x00\x01" * 2), P, "3.3.2.3.3", "comes twice"),
    ("response topic wild", publish_5(b"\x08\x00\x01+"), P, "3.3.2.3.5", "response topic: contains the wildcard"),
    ("response topic twice", publish_5(b"\x08\x00\x01a" * 2), P, "3.3.2.3.5", "comes twice"),
    ("correlation data twice", publish_5(b"\x09\x00\x01a" * 2), P, "3.3.2.3.6", "comes twice"),
    ("subscription identifier 0", publish_5(b"\x0b\x00"), P, "3.8.2.1.2", "is 0"),
    ("content type twice", publish_5(b"\x03\x00\x01a" * 2), P, "3.3.2.3.9", "comes twice"),
    # PUBACK, PUBREC, PUBREL, PUBCOMP, 3.4 to 3.7
    ("PUBACK with id 0", b"\x40\x02\x00\x00", P, "2.2.1", "PUBACK, packet identifier: is 0"),
    ("PUBACK too short", b"\x40\x01\x01", M, "2.1.4", "PUBACK, packet identifier"),
    ("PUBACK with a reserved reason", b"\x40\x03\x00\x01\x01", P, "2.4", "reason code: 0x01 is not for this packet"),
    ("PUBREC with a reserved reason", b"\x50\x03\x00\x01\x92", P, "2.4", "0x92"),
    ("PUBREL with a reserved reason", b"\x62\x03\x00\x01\x80", P, "2.4", "0x80"),
    ("PUBCOMP with a reserved reason", b"\x70\x03\x00\x01\x80", P, "2.4", "0x80"),
    ("PUBACK with a foreign property", b"\x40\x06\x00\x01\x00\x02\x01\x00", M, "2.2.2.2", "0x01: is not one of PUBACK"),
    ("PUBACK with two reasons", b"\x40\x0c\x00\x01\x00\x08" + b"\x1f\x00\x01x" * 2, P, "3.2.2.3.9", "comes twice"),
    ("PUBREL too long", b"\x62\x05\x00\x01\x00\x00\x00", M, "2.1.4", "PUBREL: has 1 bytes"),
    # SUBSCRIBE, UNSUBSCRIBE, 3.8, 3.10
    ("SUBSCRIBE of nothing", b"\x82\x03\x00\x01\x00", P, "3.8.3", "has no topic filter"),
    ("SUBSCRIBE with id 0", b"\x82\x07\x00\x00\x00\x00\x01a\x00", P, "2.2.1", "SUBSCRIBE"),
    ("SUBSCRIBE without options", b"\x82\x06\x00\x01\x00\x00\x01a", M, "2.1.4", "subscription options: needs 1"),
    ("reserved subscription options", subscribe_5(0x40), M, "3.8.3.1", "reserved bits are set"),
    ("maximum QoS 3", subscribe_5(3), P, "3.8.3.1", "maximum QoS is 3"),
    ("retain handling 3", subscribe_5(0x30), P, "3.8.3.1", "retain handling is 3"),
    ("no local, shared", subscribe_5(4, b"$share/g/a"), P, "3.8.3.1", "no local is set on a shared"),
    ("share name empty", subscribe_5(0, b"$share//a"), M, "4.8.2", "neither of them empty"),
    ("share without a filter", subscribe_5(0, b"$share/g"), M, "4.8.2", "neither of them empty"),
    ("share name wild", subscribe_5(0, b"$share/+/a"), M, "4.8.2", "holds a wildcard"),
    ("filter empty", subscribe_5(0, b""), M, "4.7", "it is empty"),
    ("filter with # inside", subscribe_5(0, b"#/a"), M, "4.7", "as the last level only"),
    ("filter with + in a level", subscribe_5(0, b"a+"), M, "4.7", "stand alone"),
    ("filter not UTF-8", subscribe_5(0, b"\xff"), M, "1.5.4", "SUBSCRIBE, topic filter"),
    ("subscription identifier twice", subscribe_5(properties=b"\x0b\x01\x0b\x02"), P, "3.8.2.1.2", "comes twice"),
    ("subscription identifier 0 asked for", subscribe_5(properties=b"\x0b\x00"), P, "3.8.2.1.2", "is 0"),
    ("UNSUBSCRIBE of nothing", b"\xa2\x03\x00\x01\x00", P, "3.10.3", "has no topic filter"),
    ("UNSUBSCRIBE of a bad filter", b"\xa2\x07\x00\x01\x00\x00\x02##", M, "4.7", "UNSUBSCRIBE, topic filter"),
    ("UNSUBSCRIBE with id 0", b"\xa2\x06\x00\x00\x00\x00\x01a", P, "2.2.1", "UNSUBSCRIBE"),
    # DISCONNECT, AUTH, 3.14, 3.15
    ("DISCONNECT with a reserved reason", b"\xe0\x01\x01", P, "2.4", "0x01 is not for this packet"),
    ("DISCONNECT too long", b"\xe0\x03\x00\x00\x00", M, "2.1.4", "DISCONNECT: has 1 bytes"),
    (
        "session expiry twice at the end",
        b"\xe0\x0c\x00\x0a" + b"\x11\x00\x00\x00\x00" * 2,
        P,
        "3.1.2.11.2",
        "comes twice",
    ),
    ("AUTH with a reserved reason", b"\xf0\x01\x01", P, "2.4", "0x01 is not for this packet"),
    # the same rules in the other places where they hold
    ("flags of CONNACK", b"\x21\x03\x00\x00\x00", M, "2.1.3", "flags are 0b0001, must be 0b0000"),
    ("flags of SUBACK", b"\x91\x04\x00\x01\x00\x00", M, "2.1.3", "flags are 0b0001, must be 0b0000"),
    ("flags of UNSUBACK", b"\xb1\x04\x00\x01\x00\x00", M, "2.1.3", "flags are 0b0001, must be 0b0000"),
    ("flags of PINGRESP", b"\xd1\x00", M, "2.1.3", "PINGRESP, fixed header: flags are 0b0001, must be 0b0000"),
    ("PINGRESP with a body", b"\xd0\x01\x00", M, "2.1.4", "PINGRESP: has 1 bytes after its last field"),
    ("protocol name not UTF-8", b"\x10\x0d\x00\x04MQT\xff\x05\x02\x00\x00\x00\x00\x00", M, "1.5.4", "is not UTF-8"),
    ("CONNECT empty", b"\x10\x00", M, "2.1.4", "needs 2 bytes, but 0 are left in the packet"),
    ("keep-alive cut", b"\x10\x09\x00\x04MQTT\x05\x02\x00", M, "2.1.4", "needs 2 bytes, but 1 are left"),
    ("request response information twice", connect_5(2, b"\x19\x01" * 2), P, "3.1.2.11.6", "comes twice"),
    ("authentication data twice", connect_5(2, b"\x15\x00\x01x" + b"\x16\x00\x01x" * 2), P, "3.1.2.11.10", "twice"),
    ("client id with U+0000", connect_5(client_id=b"\x00\x01\x00"), M, "1.5.4", "contains U+0000 at character 0"),
    ("properties of CONNECT longer than it", connect_5(length=b"\x7f"), M, "2.2.2", "need 127 bytes, but 3 are"),
    ("will properties missing", connect_5(0x06), M, "2.1.4", "needs 1 bytes, but 0 are left in the packet"),
    ("will payload format twice", will_5(b"\x01\x00" * 2), P, "3.3.2.3.2", "CONNECT, payload format: comes twice"),
    ("will expiry twice", will_5(b"\x02\x00\x00\x00\x01" * 2), P, "3.3.2.3.3", "comes twice"),
    ("will content type twice", will_5(b"\x03\x00\x01a" * 2), P, "3.3.2.3.9", "CONNECT, content type: comes twice"),
    ("will response topic twice", will_5(b"\x08\x00\x01a" * 2), P, "3.3.2.3.5", "comes twice"),
    ("will response topic wild", will_5(b"\x08\x00\x01#"), P, "3.3.2.3.5", "contains the wildcard '#' in '#'"),
    ("will correlation data twice", will_5(b"\x09\x00\x01a" * 2), P, "3.3.2.3.6", "comes twice"),
    ("will content type not UTF-8", will_5(b"\x03\x00\x01\xff"), M, "1.5.4", "is not UTF-8 at byte 0"),
    ("will topic not UTF-8", connect_5(0x06, rest=b"\x00\x00\x01\xff\x00\x00"), M, "1.5.4", "is not UTF-8 at byte 0"),
    ("will topic with U+0000", connect_5(0x06, rest=b"\x00\x00\x01\x00\x00\x00"), M, "1.5.4", "contains U+0000"),
    ("user name not UTF-8", connect_5(0x82, rest=b"\x00\x01\xff"), M, "1.5.4", "is not UTF-8 at byte 0"),
    ("user name with U+0000", connect_5(0x82, rest=b"\x00\x01\x00"), M, "1.5.4", "contains U+0000 at character 0"),
    ("password cut", connect_5(0x42, rest=b"\x00\x05p"), M, "2.1.4", "needs 5 bytes, but 1 are left in the packet"),
    ("response topic not UTF-8", publish_5(b"\x08\x00\x01\xff"), M, "1.5.4", "is not UTF-8 at byte 0"),
    ("response topic with U+0000", publish_5(b"\x08\x00\x01\x00"), M, "1.5.4", "contains U+0000 at character 0"),
    ("response topic empty", publish_5(b"\x08\x00\x00"), P, "3.3.2.3.5", "PUBLISH, response topic: is empty"),
    ("content type not UTF-8", publish_5(b"\x03\x00\x01\xff"), M, "1.5.4", "is not UTF-8 at byte 0"),
    ("subscription identifier of five bytes", publish_5(b"\x0b\xff\xff\xff\xff\x01"), M, "1.5.5", "has more than 4"),
    ("PUBREC with id 0", b"\x50\x02\x00\x00", P, "2.2.1", "PUBREC, packet identifier: is 0"),
    ("PUBREL with id 0", b"\x62\x02\x00\x00", P, "2.2.1", "PUBREL, packet identifier: is 0"),
    ("PUBCOMP with id 0", b"\x70\x02\x00\x00", P, "2.2.1", "PUBCOMP, packet identifier: is 0"),
    ("PUBREC too short", b"\x50\x01\x01", M, "2.1.4", "needs 2 bytes, but 1 are left in the packet"),
    ("PUBREC with two reasons", b"\x50\x0c\x00\x01\x00\x08" + b"\x1f\x00\x01x" * 2, P, "3.2.2.3.9", "comes twice"),
    ("PUBREL with two reasons", b"\x62\x0c\x00\x01\x00\x08" + b"\x1f\x00\x01x" * 2, P, "3.2.2.3.9", "comes twice"),
    ("PUBCOMP with two reasons", b"\x70\x0c\x00\x01\x00\x08" + b"\x1f\x00\x01x" * 2, P, "3.2.2.3.9", "comes twice"),
    ("PUBREC with a foreign property", b"\x50\x06\x00\x01\x00\x02\x01\x00", M, "2.2.2.2", "is not one of PUBREC"),
    ("PUBREL with a foreign property", b"\x62\x06\x00\x01\x00\x02\x01\x00", M, "2.2.2.2", "is not one of PUBREL"),
    ("PUBCOMP with a foreign property", b"\x70\x06\x00\x01\x00\x02\x01\x00", M, "2.2.2.2", "is not one of PUBCOMP"),
    ("reason string not UTF-8", b"\x40\x08\x00\x01\x00\x04\x1f\x00\x01\xff", M, "1.5.4", "is not UTF-8 at byte 0"),
    ("SUBSCRIBE without a property length", b"\x82\x02\x00\x01", M, "2.1.4", "needs 1 bytes, but 0 are left"),
    ("SUBSCRIBE with a foreign property", subscribe_5(properties=b"\x01\x00"), M, "2.2.2.2", "is not one of"),
    ("filter with U+0000", subscribe_5(0, b"\x00"), M, "1.5.4", "contains U+0000 at character 0"),
    (
        "subscription identifier longer than needed",
        subscribe_5(properties=b"\x0b\x81\x00"),
        M,
        "1.5.5",
        "than it needs",
    ),
    ("UNSUBSCRIBE not UTF-8", b"\xa2\x06\x00\x01\x00\x00\x01\xff", M, "1.5.4", "is not UTF-8 at byte 0"),
    ("UNSUBSCRIBE with U+0000", b"\xa2\x06\x00\x01\x00\x00\x01\x00", M, "1.5.4", "contains U+0000 at character 0"),
    ("UNSUBSCRIBE of an empty filter", b"\xa2\x05\x00\x01\x00\x00\x00", M, "4.7", "it is empty"),
    ("UNSUBSCRIBE with a foreign property", b"\xa2\x08\x00\x01\x02\x01\x00\x00\x01a", M, "2.2.2.2", "is not one of"),
    ("DISCONNECT with a foreign property", b"\xe0\x04\x00\x02\x01\x00", M, "2.2.2.2", "is not one of DISCONNECT"),
    ("DISCONNECT with two reasons", b"\xe0\x0a\x00\x08" + b"\x1f\x00\x01x" * 2, P, "3.2.2.3.9", "comes twice"),
    ("AUTH with a foreign property", b"\xf0\x04\x18\x02\x01\x00", M, "2.2.2.2", "is not one of AUTH"),
    ("AUTH method twice", b"\xf0\x0a\x18\x08" + b"\x15\x00\x01x" * 2, P, "3.1.2.11.9", "comes twice"),
    ("AUTH too long", b"\xf0\x03\x00\x00\x00", M, "2.1.4", "AUTH: has 1 bytes after its last field"),
]


def decode(data: bytes, level: int) -> list[Packet]:
    decoder = Decoder(LIMIT)
    decoder.protocol_level = level
    decoder.receive_data(data)
    found = []
    while (packet := decoder.next_event()) is not None:
        found.append(packet)
    return found


@pytest.mark.parametrize(
    ("data", "section", "message"), [row[1:] for row in MALFORMED_3], ids=[r[0] for r in MALFORMED_3]
)
def test_what_breaks_a_rule_of_mqtt_3_names_the_section(data: bytes, section: str, message: str) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        decode(data, MQTT_3_1_1)

    assert f"3.1.1, {section}" in caught.value.section.split("; ")
    assert message in str(caught.value)
    assert str(caught.value).endswith(f" [MQTT {caught.value.section}]")


@pytest.mark.parametrize(
    ("data", "code", "section", "message"), [r[1:] for r in MALFORMED_5], ids=[r[0] for r in MALFORMED_5]
)
def test_what_breaks_a_rule_of_mqtt_5_names_section_and_reason(
    data: bytes, code: int, section: str, message: str
) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        decode(data, MQTT_5)

    assert f"5.0, {section}" in caught.value.section.split("; ")
    assert message in str(caught.value)
    assert caught.value.reason_code == code


@pytest.mark.parametrize("level", [3, 6, 0x83, 0x85])
def test_another_version_is_refused_with_the_code_for_it(level: int) -> None:
    """MQTT 3.1.1, 3.1.2.2: [MQTT-3.1.2-2]."""
    with pytest.raises(RemoteProtocolError) as caught:
        decode(connect(2, level=level), MQTT_3_1_1)

    assert caught.value.reason_code == VERSION


def test_mqtt_3_1_may_mark_what_is_sent_again_with_dup() -> None:
    """MQTT 3.1, 2.1; from 3.1.1 on it is malformed."""
    assert decode(b"\x6a\x02\x00\x01\x8a\x06\x00\x01\x00\x01a\x00\xaa\x05\x00\x01\x00\x01a", MQTT_3_1)
    with pytest.raises(RemoteProtocolError, match="PUBREL, fixed header"):
        decode(b"\x6a\x02\x00\x01", MQTT_3_1_1)


def test_mqtt_3_1_may_promise_a_user_name_and_not_send_it() -> None:
    """MQTT 3.1, 3.1: the remaining length takes precedence over the flags."""
    (packet,) = decode(connect(0xC2, name=b"MQIsdp", level=3), MQTT_3_1)

    assert (packet.user_name, packet.password) == (None, None)  # type: ignore[attr-defined]  # it is a Connect


def connection(transport: RememberingTransport) -> MqttConnection:
    """One that never gets as far as the log."""
    topic: Any = SimpleNamespace(name="mqtt", partitions=(None,), partition_for=None)
    settings = MqttSettings(max_packet_bytes=LIMIT)
    return MqttConnection(MqttServer(settings, topic, (), now_ms=lambda: 1, new_client_id=lambda: "made-up"), transport)


@pytest.mark.parametrize("data", [row[1] for row in MALFORMED_3], ids=[row[0] for row in MALFORMED_3])
def test_a_client_of_mqtt_3_is_just_closed(transport: RememberingTransport, data: bytes) -> None:
    """The core closes the connection when it raises; only a CONNECT may be answered, 3.2.2.3."""
    is_greeting = data[0] >> 4 == 1
    subject = connection(transport)
    if not is_greeting:
        subject.receive_data(encode(Connect("c")))
        transport.take()

    with pytest.raises(RemoteProtocolError):
        subject.receive_data(data)
    subject.closed(None)

    said = transport.take()
    assert said == [] or (is_greeting and said == [Connack(1)])


@pytest.mark.parametrize(("data", "code"), [row[1:3] for row in MALFORMED_5], ids=[row[0] for row in MALFORMED_5])
def test_a_client_of_mqtt_5_is_told_why_and_closed(transport: RememberingTransport, data: bytes, code: int) -> None:
    """MQTT 5.0, 4.13.1: in CONNACK if it was not accepted yet, else in DISCONNECT."""
    is_greeting = data[0] == 0x10
    subject = connection(transport)
    if not is_greeting:
        subject.receive_data(encode(Connect("c", protocol_level=MQTT_5)))
        transport.take(MQTT_5)

    with pytest.raises(RemoteProtocolError):
        subject.receive_data(data)
    subject.closed(None)

    if is_greeting and b"MQTT\x05" not in data:
        assert transport.take() == []  # who does not speak MQTT is not answered
        return
    (last,) = transport.take(MQTT_5)
    assert isinstance(last, Connack if is_greeting else Disconnect)
    assert last.reason_code == code
    assert last.properties.reason
