"""The fourteen MQTT control packets as events. Table 2.1 of MQTT 3.1.1 lists them.

What a packet says is checked where its bytes are read or written (:mod:`~trunkline_mqtt.decoder`,
:mod:`~trunkline_mqtt.encoder`), not here.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import msgspec

__all__ = [
    "MQTT_3_1_1",
    "SUBSCRIBE_REFUSED",
    "Connack",
    "Connect",
    "ConnectReturnCode",
    "Disconnect",
    "Packet",
    "Pingreq",
    "Pingresp",
    "Puback",
    "Pubcomp",
    "Publish",
    "Pubrec",
    "Pubrel",
    "Suback",
    "Subscribe",
    "Unsuback",
    "Unsubscribe",
    "Will",
]

MQTT_3_1_1: Final = 4
"""The protocol level of MQTT 3.1.1, 3.1.2.2."""

SUBSCRIBE_REFUSED: Final = 0x80
"""The SUBACK return code for a filter that is not subscribed, 3.9.3."""


class ConnectReturnCode(IntEnum):
    """MQTT 3.1.1, 3.2.2.3."""

    ACCEPTED = 0
    UNACCEPTABLE_PROTOCOL_VERSION = 1
    IDENTIFIER_REJECTED = 2
    SERVER_UNAVAILABLE = 3
    BAD_USER_NAME_OR_PASSWORD = 4
    NOT_AUTHORIZED = 5


class Packet(msgspec.Struct, frozen=True, gc=False):
    """Any control packet. (``gc=False``: packets hold no cycles, and there may be very many.)"""


class Will(msgspec.Struct, frozen=True, gc=False):
    """What to publish when the connection ends without DISCONNECT. MQTT 3.1.1, 3.1.2.5."""

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False


class Connect(Packet, frozen=True, gc=False):
    """MQTT 3.1.1, 3.1. ``keep_alive`` in seconds, 0: none."""

    client_id: str
    clean_session: bool = True
    keep_alive: int = 0
    will: Will | None = None
    user_name: str | None = None
    password: bytes | None = None
    protocol_level: int = MQTT_3_1_1


class Connack(Packet, frozen=True, gc=False):
    """MQTT 3.1.1, 3.2."""

    return_code: int = ConnectReturnCode.ACCEPTED
    session_present: bool = False


class Publish(Packet, frozen=True, gc=False):
    """MQTT 3.1.1, 3.3. ``packet_id`` is 0 with QoS 0, which has none."""

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    dup: bool = False
    packet_id: int = 0


class Puback(Packet, frozen=True, gc=False):
    """MQTT 3.1.1, 3.4: the answer to a PUBLISH with QoS 1."""

    packet_id: int


class Pubrec(Packet, frozen=True, gc=False):
    """MQTT 3.1.1, 3.5: the first answer to a PUBLISH with QoS 2."""

    packet_id: int


class Pubrel(Packet, frozen=True, gc=False):
    """MQTT 3.1.1, 3.6: the answer to a PUBREC."""

    packet_id: int


class Pubcomp(Packet, frozen=True, gc=False):
    """MQTT 3.1.1, 3.7: the answer to a PUBREL."""

    packet_id: int


class Subscribe(Packet, frozen=True, gc=False):
    """MQTT 3.1.1, 3.8. ``filters``: topic filter and requested QoS, one or more."""

    packet_id: int
    filters: tuple[tuple[str, int], ...]


class Suback(Packet, frozen=True, gc=False):
    """MQTT 3.1.1, 3.9. ``return_codes``: for each filter the QoS granted, or SUBSCRIBE_REFUSED."""

    packet_id: int
    return_codes: tuple[int, ...]


class Unsubscribe(Packet, frozen=True, gc=False):
    """MQTT 3.1.1, 3.10."""

    packet_id: int
    filters: tuple[str, ...]


class Unsuback(Packet, frozen=True, gc=False):
    """MQTT 3.1.1, 3.11."""

    packet_id: int


class Pingreq(Packet, frozen=True, gc=False):
    """MQTT 3.1.1, 3.12."""


class Pingresp(Packet, frozen=True, gc=False):
    """MQTT 3.1.1, 3.13."""


class Disconnect(Packet, frozen=True, gc=False):
    """MQTT 3.1.1, 3.14: a clean end; the will is forgotten."""
