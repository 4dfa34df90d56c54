"""Reads over a PUBLISH that is larger than this side takes, and says which one it was. No I/O.

MQTT 3.1.1 has no way to tell a broker how much is taken; if the connection were ended, the same message would come
again with the next one, for ever. Only what names it is kept, at most :data:`MAX_HEAD_BYTES`.

    byte 0 type and flags | 1 to 4 bytes remaining length | u16 size, topic | u16 packet identifier, QoS 1 and 2 | ...
"""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["Oversized", "Skipping"]

MAX_HEAD_BYTES: Final = 5 + 2 + 65_535 + 2


class Oversized(NamedTuple):
    """A PUBLISH that was not kept. ``packet_id``: 0 with QoS 0."""

    topic: str
    qos: int
    packet_id: int
    size_bytes: int


class Skipping:
    """One such packet."""

    def __init__(self) -> None:
        self._head = bytearray()
        self._body = 0
        self._size = 0  # not known yet
        self._seen = 0

    def receive_data(self, data: bytes) -> bytes | None:
        """Take more of it. The first time its whole remaining length has to be there.

        Returns what follows it; None: there is more to come.
        """
        if not self._size:
            self._measure(data)
        ours = data[: self._size - self._seen]
        self._seen += len(ours)
        self._head += ours[: MAX_HEAD_BYTES - len(self._head)]
        return data[len(ours) :] if self._seen == self._size else None

    def _measure(self, data: bytes) -> None:
        length = shift = 0
        position = 1
        while True:
            length |= (data[position] & 0x7F) << shift
            position += 1
            shift += 7
            if data[position - 1] < 0x80:
                break
        self._body, self._size = position, position + length

    def packet(self) -> Oversized | None:
        """Which one it was; None: it is no PUBLISH as it should be."""
        head = self._head
        topic_at = self._body + 2
        end = topic_at + int.from_bytes(head[self._body : topic_at], "big")
        qos = (head[0] & 6) >> 1
        if head[0] >> 4 != 3 or qos == 3 or end + 2 > len(head):
            return None
        try:
            topic = head[topic_at:end].decode()
        except UnicodeDecodeError:
            return None
        packet_id = int.from_bytes(head[end : end + 2], "big") if qos else 0
        return Oversized(topic, qos, packet_id, self._size) if topic and bool(packet_id) == bool(qos) else None
