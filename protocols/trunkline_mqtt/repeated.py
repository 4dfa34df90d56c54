"""What a device sends again and again: a plain message with QoS 1 to the topic of its last one, alone in what arrives.

Then all that is new is packet identifier and payload, so nothing else is decoded, checked or looked up a second time::

    u8      0x32              PUBLISH, QoS 1, neither DUP nor RETAIN
    1 or 2  remaining length  up to the end of what has arrived
    u16, n  topic name        as the last time
    u16     packet identifier not 0
    u8      0                 no properties; with MQTT 5.0 only
            payload

What differs from this is no error here: the decoder reads it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trunkline_mqtt.packets import MQTT_5

if TYPE_CHECKING:
    from trunkline.partition import Partition
    from trunkline_mqtt.routes import Destination

__all__ = ["RepeatedPublish"]

_QOS_1: Final = 0x32


class RepeatedPublish:
    """A topic that was published to, and what is made of a message to it.

    Args:
      headers: of the record, encoded.
      level: of the connection.
      max_packet_bytes: largest packet taken.

    Attributes:
      key, partition: of the record.
      to_payload: bytes from where the packet identifier is to the payload.
    """

    __slots__ = ("_max_packet_bytes", "headers", "key", "partition", "to_payload")

    def __init__(self, destination: Destination, headers: bytes, level: int, max_packet_bytes: int) -> None:
        self.partition: Partition = destination.partition
        self.key = destination.key
        self.headers = headers
        self.to_payload = 3 if level == MQTT_5 else 2
        self._max_packet_bytes = max_packet_bytes

    def find_id(self, data: bytes) -> int:
        """Where the packet identifier is, if ``data`` is such a packet and nothing else; else 0."""
        size = len(data)
        if size < 6 or data[0] != _QOS_1 or size > self._max_packet_bytes:
            return 0
        length = data[1]
        name_at = 4
        if length > 127:
            if not 0 < data[2] < 128:
                return 0
            length += (data[2] << 7) - 128
            name_at = 5
        key = self.key
        name_bytes = data[name_at - 2] << 8 | data[name_at - 1]
        id_at = name_at + name_bytes
        if name_at - 2 + length != size or id_at + 2 > size:
            return 0
        if name_bytes != len(key) or not data.startswith(key, name_at):
            return 0
        if not data[id_at + 1] and not data[id_at]:
            return 0
        if self.to_payload == 3 and (id_at + 2 == size or data[id_at + 2]):
            return 0
        return id_at
