"""The fifteen MQTT control packets as events, for MQTT 3.1, 3.1.1 and 5.0. Table 2.1 of the standards lists them.

What only MQTT 5.0 can say has a default that stands for "not said", so one class serves all versions.
What a packet says is checked where its bytes are read or written (:mod:`~trunkline_mqtt.decoder`,
:mod:`~trunkline_mqtt.encoder`), not here.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from trunkline_mqtt.properties import NO_PROPERTIES, Properties

__all__ = [
    "MQTT_3_1",
    "MQTT_3_1_1",
    "MQTT_5",
    "Auth",
    "Connack",
    "Connect",
    "Disconnect",
    "Packet",
    "Pingreq",
    "Pingresp",
    "Puback",
    "Pubcomp",
    "Publish",
    "PublishRun",
    "Pubrec",
    "Pubrel",
    "Suback",
    "Subscribe",
    "Subscription",
    "Unsuback",
    "Unsubscribe",
    "Will",
]

MQTT_3_1: Final = 3
MQTT_3_1_1: Final = 4
MQTT_5: Final = 5
"""Protocol levels (5.0: protocol versions), 3.1.2.2."""


class Packet(msgspec.Struct, frozen=True, gc=False):
    """Any control packet. (``gc=False``: packets hold no cycles, and there may be very many.)"""


class Will(msgspec.Struct, frozen=True, gc=False):
    """What to publish when the connection ends without DISCONNECT. MQTT 3.1.1, 3.1.2.5; 5.0, 3.1.3.2."""

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    properties: Properties = NO_PROPERTIES


class Connect(Packet, frozen=True, gc=False):
    """3.1. ``keep_alive`` in seconds, 0: none. ``clean_start`` is called clean session before 5.0.

    ``is_bridge``: it says before 5.0 that it is one; see :mod:`trunkline_mqtt.greeting`.
    """

    client_id: str
    clean_start: bool = True
    keep_alive: int = 0
    will: Will | None = None
    user_name: str | None = None
    password: bytes | None = None
    protocol_level: int = MQTT_3_1_1
    properties: Properties = NO_PROPERTIES
    is_bridge: bool = False


class Connack(Packet, frozen=True, gc=False):
    """3.2. ``reason_code`` is a return code before 5.0: :data:`~trunkline_mqtt.reasons.RETURN_CODES`."""

    reason_code: int = 0
    session_present: bool = False
    properties: Properties = NO_PROPERTIES


class Publish(Packet, frozen=True, gc=False):
    """3.3. ``packet_id`` is 0 with QoS 0, which has none. ``topic`` is empty where a topic alias stands for it."""

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    dup: bool = False
    packet_id: int = 0
    properties: Properties = NO_PROPERTIES


class PublishRun(Packet, frozen=True, gc=False):
    """PUBLISH packets in a row with QoS 0, no RETAIN and the same properties.

    ``topics`` is one for all, or one for each. ``data`` are their bytes, as they came, where they end at ``ends``; the
    encoder would write them so too, but for the order of properties. With a topic alias there is one topic.
    """

    topics: list[str]
    payloads: list[bytes]
    ends: list[int]
    data: bytes
    properties: Properties = NO_PROPERTIES


class Puback(Packet, frozen=True, gc=False):
    """3.4: the answer to a PUBLISH with QoS 1."""

    packet_id: int
    reason_code: int = 0
    properties: Properties = NO_PROPERTIES


class Pubrec(Packet, frozen=True, gc=False):
    """3.5: the first answer to a PUBLISH with QoS 2."""

    packet_id: int
    reason_code: int = 0
    properties: Properties = NO_PROPERTIES


class Pubrel(Packet, frozen=True, gc=False):
    """3.6: the answer to a PUBREC."""

    packet_id: int
    reason_code: int = 0
    properties: Properties = NO_PROPERTIES


class Pubcomp(Packet, frozen=True, gc=False):
    """3.7: the answer to a PUBREL."""

    packet_id: int
    reason_code: int = 0
    properties: Properties = NO_PROPERTIES


class Subscription(NamedTuple):
    """One line of a SUBSCRIBE; all but the first two are MQTT 5.0's, 3.8.3.1."""

    topic_filter: str
    qos: int = 0
    no_local: bool = False
    retain_as_published: bool = False
    retain_handling: int = 0


class Subscribe(Packet, frozen=True, gc=False):
    """3.8. ``filters``: one or more; as :class:`Subscription` when read."""

    packet_id: int
    filters: tuple[Subscription, ...]
    properties: Properties = NO_PROPERTIES


class Suback(Packet, frozen=True, gc=False):
    """3.9. ``reason_codes``: for each filter the QoS granted, or why not; MQTT 3.1.1 only knows 0x80 for that."""

    packet_id: int
    reason_codes: tuple[int, ...]
    properties: Properties = NO_PROPERTIES


class Unsubscribe(Packet, frozen=True, gc=False):
    """3.10."""

    packet_id: int
    filters: tuple[str, ...]
    properties: Properties = NO_PROPERTIES


class Unsuback(Packet, frozen=True, gc=False):
    """3.11. ``reason_codes``: one for each filter; none before MQTT 5.0."""

    packet_id: int
    reason_codes: tuple[int, ...] = ()
    properties: Properties = NO_PROPERTIES


class Pingreq(Packet, frozen=True, gc=False):
    """3.12."""


class Pingresp(Packet, frozen=True, gc=False):
    """3.13."""


class Disconnect(Packet, frozen=True, gc=False):
    """3.14: the end. From a client with reason code 0 (before 5.0: any) the will is forgotten."""

    reason_code: int = 0
    properties: Properties = NO_PROPERTIES


class Auth(Packet, frozen=True, gc=False):
    """MQTT 5.0, 3.15."""

    reason_code: int = 0
    properties: Properties = NO_PROPERTIES
