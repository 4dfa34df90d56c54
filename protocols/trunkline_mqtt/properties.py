"""Properties of MQTT 5.0 packets: one table says what there is, how it is written, and where it may stand.

    variable byte integer   length of all properties in bytes
    then each:
      variable byte integer   identifier (all of them are under 128, so one byte)
      by type                 value

MQTT 5.0, 2.2.2. A packet without properties has :data:`NO_PROPERTIES`, so that nobody needs to ask first.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Any, Final, NamedTuple

import msgspec

__all__ = [
    "BY_IDENTIFIER", "MAX_STRING_BYTES", "NO_PROPERTIES", "PROPERTIES", "Kind", "Properties", "Property",
    "UserProperties",
]  # fmt: skip

MAX_STRING_BYTES: Final = 65_535
"""Of any text or binary data in a packet. MQTT 3.1.1, 1.5.3; 5.0, 1.5.4 and 1.5.6."""

UserProperties = tuple[tuple[str, str], ...]


class Properties(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What a packet's properties say; None: not said. Each is explained in the packet's section of the standard."""

    payload_format: int | None = None
    message_expiry_s: int | None = None
    content_type: str | None = None
    response_topic: str | None = None
    correlation: bytes | None = None
    subscription_identifiers: tuple[int, ...] = ()
    session_expiry_s: int | None = None
    assigned_client_id: str | None = None
    server_keep_alive_s: int | None = None
    authentication_method: str | None = None
    authentication_data: bytes | None = None
    request_problem_information: int | None = None
    will_delay_s: int | None = None
    request_response_information: int | None = None
    response_information: str | None = None
    server_reference: str | None = None
    reason: str | None = None
    receive_maximum: int | None = None
    topic_alias_maximum: int | None = None
    topic_alias: int | None = None
    maximum_qos: int | None = None
    retain_available: int | None = None
    user: UserProperties = ()
    maximum_packet_size: int | None = None
    wildcards_available: int | None = None
    subscription_identifiers_available: int | None = None
    shared_available: int | None = None


NO_PROPERTIES: Final = Properties()


class Kind(Enum):
    """How a value is written. MQTT 5.0, 1.5."""

    FLAG = auto()  # a byte that is 0 or 1
    TWO = auto()  # bytes, big-endian
    TWO_NOT_0 = auto()
    FOUR = auto()
    FOUR_NOT_0 = auto()
    VARIABLE_NOT_0 = auto()
    STRING = auto()
    TOPIC = auto()  # a string that is a topic name
    BINARY = auto()
    PAIR = auto()  # of strings


class Property(NamedTuple):
    """A row of table 2-4.

    Attributes:
      attribute: of :class:`Properties`.
      packets: where it may stand, WILL being a part of CONNECT.
      section: of MQTT 5.0, where it is described for one of them.
      is_repeated: it may stand there more than once.
    """

    identifier: int
    attribute: str
    kind: Kind
    packets: frozenset[str]
    section: str
    is_repeated: bool = False


def _row(identifier: int, attribute: str, kind: Kind, packets: str, section: str, **options: Any) -> Property:
    return Property(identifier, attribute, kind, frozenset(packets.split()), section, **options)


_ANSWERS: Final = "CONNACK PUBACK PUBREC PUBREL PUBCOMP SUBACK UNSUBACK DISCONNECT AUTH"

PROPERTIES: Final = (
    _row(0x01, "payload_format", Kind.FLAG, "PUBLISH WILL", "3.3.2.3.2"),
    _row(0x02, "message_expiry_s", Kind.FOUR, "PUBLISH WILL", "3.3.2.3.3"),
    _row(0x03, "content_type", Kind.STRING, "PUBLISH WILL", "3.3.2.3.9"),
    _row(0x08, "response_topic", Kind.TOPIC, "PUBLISH WILL", "3.3.2.3.5"),
    _row(0x09, "correlation", Kind.BINARY, "PUBLISH WILL", "3.3.2.3.6"),
    _row(0x0B, "subscription_identifiers", Kind.VARIABLE_NOT_0, "PUBLISH SUBSCRIBE", "3.8.2.1.2", is_repeated=True),
    _row(0x11, "session_expiry_s", Kind.FOUR, "CONNECT CONNACK DISCONNECT", "3.1.2.11.2"),
    _row(0x12, "assigned_client_id", Kind.STRING, "CONNACK", "3.2.2.3.7"),
    _row(0x13, "server_keep_alive_s", Kind.TWO, "CONNACK", "3.2.2.3.14"),
    _row(0x15, "authentication_method", Kind.STRING, "CONNECT CONNACK AUTH", "3.1.2.11.9"),
    _row(0x16, "authentication_data", Kind.BINARY, "CONNECT CONNACK AUTH", "3.1.2.11.10"),
    _row(0x17, "request_problem_information", Kind.FLAG, "CONNECT", "3.1.2.11.7"),
    _row(0x18, "will_delay_s", Kind.FOUR, "WILL", "3.1.3.2.2"),
    _row(0x19, "request_response_information", Kind.FLAG, "CONNECT", "3.1.2.11.6"),
    _row(0x1A, "response_information", Kind.STRING, "CONNACK", "3.2.2.3.15"),
    _row(0x1C, "server_reference", Kind.STRING, "CONNACK DISCONNECT", "3.2.2.3.16"),
    _row(0x1F, "reason", Kind.STRING, _ANSWERS, "3.2.2.3.9"),
    _row(0x21, "receive_maximum", Kind.TWO_NOT_0, "CONNECT CONNACK", "3.1.2.11.3"),
    _row(0x22, "topic_alias_maximum", Kind.TWO, "CONNECT CONNACK", "3.1.2.11.5"),
    _row(0x23, "topic_alias", Kind.TWO_NOT_0, "PUBLISH", "3.3.2.3.4"),
    _row(0x24, "maximum_qos", Kind.FLAG, "CONNACK", "3.2.2.3.4"),
    _row(0x25, "retain_available", Kind.FLAG, "CONNACK", "3.2.2.3.5"),
    _row(
        0x26,
        "user",
        Kind.PAIR,
        _ANSWERS + " CONNECT WILL PUBLISH SUBSCRIBE UNSUBSCRIBE",
        "3.1.2.11.8",
        is_repeated=True,
    ),
    _row(0x27, "maximum_packet_size", Kind.FOUR_NOT_0, "CONNECT CONNACK", "3.1.2.11.4"),
    _row(0x28, "wildcards_available", Kind.FLAG, "CONNACK", "3.2.2.3.11"),
    _row(0x29, "subscription_identifiers_available", Kind.FLAG, "CONNACK", "3.2.2.3.12"),
    _row(0x2A, "shared_available", Kind.FLAG, "CONNACK", "3.2.2.3.13"),
)
"""Table 2-4, by identifier."""

BY_IDENTIFIER: Final = {entry.identifier: entry for entry in PROPERTIES}
