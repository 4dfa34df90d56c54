"""An MQTT message as a record of the log, and a record as an MQTT message.

    MQTT                    record
    topic name              key, in UTF-8
    payload                 value, untouched
    client identifier       header mqtt.client, in UTF-8
    QoS it was sent with    header mqtt.qos: "0" or "1"
    -                       timestamp: when the broker received it

The other way: the topic name is the key, if it may be one; records with another key, or none, are not
for MQTT. The QoS of a delivery is the lower of the record's ``mqtt.qos`` and the subscription's; a
record without that header came through another door and counts as QoS 1, since all of those acknowledge.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Final

from trunkline.live import Delivery
from trunkline.records import Record, encode_headers
from trunkline_mqtt.encoder import PUBLISH_QOS_0, PUBLISH_QOS_1, publish_head
from trunkline_mqtt.fields import topic_name_problem

__all__ = ["RECORD_OVERHEAD_BYTES", "OutgoingMessage", "headers_block", "outgoing"]

CLIENT_HEADER: Final = "mqtt.client"
QOS_HEADER: Final = "mqtt.qos"

MAX_CLIENT_ID_BYTES: Final = 1024
"""It is stored with every message; real ones have under a hundred bytes."""

RECORD_OVERHEAD_BYTES: Final = MAX_CLIENT_ID_BYTES + 256
"""How much larger than its PUBLISH packet a record batch with one message can be: batch header 61, headers, lengths."""

_MAX_TOPIC_BYTES: Final = 65_535


def headers_block(client_id: str, qos: int) -> bytes:
    """The headers of every message that this client publishes with this QoS, as the log stores them."""
    return encode_headers(((CLIENT_HEADER, client_id.encode()), (QOS_HEADER, b"%d" % qos)))


class OutgoingMessage:
    """A record as PUBLISH packets, for all subscribers of it: each form is encoded once, when first wanted."""

    __slots__ = ("_head", "_packet", "is_acknowledged", "payload", "topic")

    def __init__(self, topic: bytes, payload: bytes, is_acknowledged: bool) -> None:
        self.topic = topic
        self.payload = payload
        self.is_acknowledged = is_acknowledged  # QoS 1 to those who asked for it
        self._packet: bytes | None = None
        self._head: bytes | None = None

    def qos_0(self) -> bytes:
        """The whole packet for QoS 0."""
        packet = self._packet
        if packet is None:
            packet = self._packet = publish_head(PUBLISH_QOS_0, self.topic, len(self.payload)) + self.payload
        return packet

    def qos_1_head(self) -> bytes:
        """The packet for QoS 1 up to the packet identifier; the payload follows that."""
        head = self._head
        if head is None:
            head = self._head = publish_head(PUBLISH_QOS_1, self.topic, len(self.payload))
        return head


def outgoing(delivery: Delivery, known: Container[bytes]) -> OutgoingMessage | None:
    """The message a record stands for, or None if its key is not a topic name. Shared through ``delivery.cache``.

    Keys in ``known`` are topic names, which saves checking them.
    """
    try:
        message: OutgoingMessage | None = delivery.cache["mqtt"]
    except KeyError:
        message = delivery.cache["mqtt"] = _convert(delivery.record, delivery.text, known)
    return message


def _convert(record: Record, text: str, known: Container[bytes]) -> OutgoingMessage | None:
    key = record.key
    if key is None or (key not in known and (len(key) > _MAX_TOPIC_BYTES or topic_name_problem(text) is not None)):
        return None
    is_acknowledged = True
    for name, value in record.headers:
        if name == QOS_HEADER:
            is_acknowledged = value != b"0"
    return OutgoingMessage(key, record.value or b"", is_acknowledged)
