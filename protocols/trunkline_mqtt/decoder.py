"""Bytes to packets, as they arrive.

    byte 1            type (4 bits, table 2.1) and flags (4 bits)
    bytes 2 to 5      remaining length: 7 bits a byte, low ones first, bit 7 set if another byte follows
    then              variable header and payload, as long as that says

:class:`Decoder` is given bytes cut anywhere and gives whole packets. The length is checked against
``max_packet_bytes`` as soon as it is known, so memory is only ever taken for a packet that may come.

PUBLISH is read right here, in line, because nearly every packet is one: indexing and slicing ``bytes``
is what CPython does fastest. (A ``memoryview`` and ``struct.unpack_from`` measured 1.5 to 2 times slower.)
Those that come in a row with QoS 0, as a busy device or a gateway sends them, may be had as one
:class:`~trunkline_mqtt.packets.PublishRun`: a packet that begins like the one before is known by one comparison.
What has arrived of an unfinished packet waits in a ``bytearray`` and is not looked at
again before the packet is whole; between packets a decoder holds no buffer.
"""

from __future__ import annotations

from typing import Final

from trunkline.errors import RemoteProtocolError
from trunkline_mqtt.control import check_first_byte, decode_control
from trunkline_mqtt.fields import Fields, TopicNames, malformed
from trunkline_mqtt.greeting import read_connect
from trunkline_mqtt.packets import MQTT_3_1_1, MQTT_5, Packet, Puback, Publish, PublishRun
from trunkline_mqtt.properties import NO_PROPERTIES, Properties
from trunkline_mqtt.reasons import Reason

__all__ = ["MAX_REMAINING_LENGTH", "Decoder"]

MAX_REMAINING_LENGTH: Final = 268_435_455
"""What four bytes can say. MQTT 3.1.1, 2.2.3; 5.0, 1.5.5."""

MAX_LENGTH_BYTES: Final = 4

_CONNECT: Final = 0x10
_PUBLISH: Final = 3
_NO_NAMES: Final = TopicNames()
_NONE_YET: Final = b"", NO_PROPERTIES
_QOS_0: Final = 0x30  # a PUBLISH without DUP and RETAIN


class Decoder:
    """Packets out of a stream of bytes; for either end of a connection.

    The server's end learns the protocol level from the CONNECT; the client's sets ``protocol_level``.
    After an error it is of no more use: where the next packet would begin is unknown.

    Args:
      max_packet_bytes: largest packet taken, with its fixed header. It may be changed between packets.
      topic_names: names that were checked before; share one among decoders.

    Attributes:
      gives_runs: whether a PUBLISH that can be one comes as a PublishRun, alone or with those behind it.
      has_more: something has arrived that ``next_event`` has not looked at; else it would give None.
    """

    __slots__ = (
        "_data", "_last_properties", "_needed", "_partial", "_position", "_topic_names", "gives_runs", "has_more",
        "max_packet_bytes", "protocol_level",
    )  # fmt: skip

    def __init__(self, max_packet_bytes: int = MAX_REMAINING_LENGTH + 5, topic_names: TopicNames | None = None) -> None:
        self.max_packet_bytes = max_packet_bytes
        self.protocol_level = MQTT_3_1_1
        self._topic_names = TopicNames() if topic_names is None else topic_names
        self._data = b""
        self._position = 0
        self._partial: bytearray | None = None
        self._needed = 0
        self._last_properties = _NONE_YET
        self.gives_runs = False
        self.has_more = False

    @property
    def is_at_rest(self) -> bool:
        """Everything that has arrived was given out as packets."""
        return not self.has_more and self._partial is None

    @property
    def held_bytes(self) -> int:
        """Of a packet that is not whole."""
        return 0 if self._partial is None else len(self._partial)

    def receive_data(self, data: bytes) -> None:
        """Take what has arrived; ``next_event`` then gives the packets in it."""
        partial = self._partial
        if partial is not None:
            partial += data
            if len(partial) >= self._needed:
                self._data = bytes(partial)
                self._partial = None
                self.has_more = True
        else:
            self._data = self._data[self._position :] + data if self._data else data
            self.has_more = True
        self._position = 0

    @property
    def unread(self) -> bytes:
        """After a packet that is too large: it, from its first byte on, and whatever has arrived behind that."""
        return self._data[self._position :]

    def next_event(self) -> Packet | None:
        """The next whole packet, or None: more data is needed.

        Raises:
          RemoteProtocolError: what arrived is not MQTT, for ``section`` of the standard; ``reason_code`` is
            what MQTT 5.0 calls it.
        """
        data = self._data
        position = self._position
        body = position + 2
        if body > len(data):
            if position < len(data):
                self._put_aside(2)
            return None
        first = data[position]
        length = data[position + 1]
        if length > 127:
            if body < len(data) and 0 < data[body] < 128:  # two bytes, nearly always
                length += data[body] - 1 << 7
                body += 1
            else:
                length, body = self._long_length(position)
                if length < 0:
                    self._put_aside(body - position)
                    return None
        end = body + length
        if end - position > self.max_packet_bytes:
            raise malformed(
                f"packet type {first >> 4}, remaining length",
                f"the packet has {end - position} bytes, the limit here is {self.max_packet_bytes}",
                "2.2.3",
                "3.2.2.3.6",
                Reason.PACKET_TOO_LARGE,
            )
        if end > len(data):
            if first >> 4 != _PUBLISH:
                check_first_byte(
                    first, self.protocol_level
                )  # now, not when the rest is there: HTTP on this port never sends it
            self._put_aside(end - position)
            return None
        if end == len(data):
            self._data = b""
            self._position = 0
            self.has_more = False
        else:
            self._position = end

        if 0x30 <= first < 0x40:
            # PUBLISH, 3.3. Flags: DUP 8, QoS 6, RETAIN 1. All indexes below are under `end`, or the packet is refused.
            if length < 2:
                raise _cut("length of topic name", f"needs 2 bytes, but {length} are left")
            payload_at = body + 2 + (data[body] << 8) + data[body + 1]
            if payload_at > end:
                raise _cut("topic name")
            if self.protocol_level == MQTT_5:
                return self._publish_5(data, position, first, body, payload_at, end)
            topic = self._topic_names[data[body + 2 : payload_at]]
            if first == _QOS_0 and self.gives_runs:
                return self._run(data, position, body, payload_at, end, topic, NO_PROPERTIES)
            qos = (first & 6) >> 1
            if not qos:
                if first & 8:
                    raise malformed("PUBLISH, fixed header", "DUP is set with QoS 0", "3.3.1.1", "3.3.1.1")
                return Publish(topic, data[payload_at:end], 0, first & 1 == 1)
            if qos == 3:
                raise malformed("PUBLISH, fixed header", "QoS is 3", "3.3.1.2", "3.3.1.2")
            payload_at += 2
            if payload_at > end:
                raise _cut("packet identifier")
            packet_id = data[payload_at - 2] << 8 | data[payload_at - 1]
            if not packet_id:
                raise malformed("PUBLISH, packet identifier", "is 0", "2.3.1", "2.2.1", Reason.PROTOCOL_ERROR)
            return Publish(topic, data[payload_at:end], qos, first & 1 == 1, first & 8 == 8, packet_id)

        if first == 0x40 and length == 2 and (packet_id := data[body] << 8 | data[body + 1]):
            return Puback(packet_id)
        if first == _CONNECT:
            return self._connect(data, body, end)
        return decode_control(first, data, body, end, self.protocol_level)

    def _run(
        self, data: bytes, position: int, body: int, payload_at: int, end: int, topic: str, properties: Properties
    ) -> Packet:
        """A PUBLISH with QoS 0, with those behind it that say the same but for topic and payload.

        Lengths must be written as the encoder would, so that the bytes can be passed on. Another topic's name must be
        known: what is wrong with a name is found out when its packet is the first.
        """
        if body - position > 2 and (body - position > 3 or end - body < 128):
            return Publish(topic, data[payload_at:end], properties=properties)
        topics, payloads, ends = [topic], [data[payload_at:end]], [end - position]
        size = len(data)
        if end + 2 >= size or data[end] != _QOS_0:
            return PublishRun(topics, payloads, ends, data[position:end], properties)
        known = self._topic_names if properties.topic_alias is None else _NO_NAMES
        head = data[body:payload_at]  # as it is with the same topic; ``said``: what follows any topic
        said = data[body + 2 + (data[body] << 8) + data[body + 1] : payload_at]
        is_mixed = False
        while end + 2 < size and data[end] == _QOS_0:
            start = end + 2
            length = data[end + 1]
            if length > 127:
                if not 0 < data[start] < 128:
                    break
                length += data[start] - 1 << 7
                start += 1
            stop = start + length
            if stop > size or stop - end > self.max_packet_bytes:
                break
            at = start + len(head)
            if at > stop or not data.startswith(head, start):
                if length < 2:
                    break
                topic_end = start + 2 + (data[start] << 8) + data[start + 1]
                at = topic_end + len(said)
                other = known.get(data[start + 2 : topic_end])
                if at > stop or other is None or not data.startswith(said, topic_end):
                    break
                if not is_mixed:
                    is_mixed = True
                    topics *= len(payloads)
                topic = other
                head = data[start:at]
            if is_mixed:
                topics.append(topic)
            payloads.append(data[at:stop])
            ends.append(stop - position)
            end = stop
        if end == size:
            self._data = b""
            self._position = 0
            self.has_more = False
        else:
            self._position = end
        return PublishRun(topics, payloads, ends, data[position:end], properties)

    def _publish_5(self, data: bytes, position: int, first: int, body: int, at: int, end: int) -> Packet:
        """A PUBLISH of MQTT 5.0 that begins at ``position`` and whose topic name is in ``[body + 2, at)``."""
        topic = self._topic_names[data[body + 2 : at]] if at > body + 2 else ""
        qos = (first & 6) >> 1
        packet_id = 0
        if qos:
            if qos == 3:
                raise malformed("PUBLISH, fixed header", "QoS is 3", "3.3.1.2", "3.3.1.2")
            at += 2
            if at > end:
                raise _cut("packet identifier")
            packet_id = data[at - 2] << 8 | data[at - 1]
            if not packet_id:
                raise malformed("PUBLISH, packet identifier", "is 0", "2.3.1", "2.2.1", Reason.PROTOCOL_ERROR)
        elif first & 8:
            raise malformed("PUBLISH, fixed header", "DUP is set with QoS 0", "3.3.1.1", "3.3.1.1")
        size = data[at] if at < end else 0xFF
        if not size:
            at += 1
            properties = NO_PROPERTIES
        elif size < 128 and data[at : at + 1 + size] == self._last_properties[0]:
            at += 1 + size
            properties = self._last_properties[1]
        else:
            start = at
            fields = Fields("PUBLISH", data, at, end, MQTT_5)
            properties = fields.properties()
            at = fields.position
            if size < 128:
                self._last_properties = data[start:at], properties
        if not topic and properties.topic_alias is None:
            raise malformed(
                "PUBLISH, topic name", "is empty, without a topic alias", None, "3.3.2.1", Reason.PROTOCOL_ERROR
            )
        if first == _QOS_0 and self.gives_runs:
            return self._run(data, position, body, at, end, topic, properties)
        return Publish(topic, data[at:end], qos, first & 1 == 1, first & 8 == 8, packet_id, properties)

    def _connect(self, data: bytes, body: int, end: int) -> Packet:
        """CONNECT, which says what level the rest is in; it has said so even if something after that is wrong."""
        fields = Fields("CONNECT", data, body, end, self.protocol_level)
        try:
            packet = read_connect(fields)
            fields.end()
        finally:
            self.protocol_level = fields.level
        return packet

    def _long_length(self, position: int) -> tuple[int, int]:
        """A remaining length of more than one byte, and where the body begins; (-1, next byte) if it is cut."""
        data = self._data
        length = 0
        for index in range(MAX_LENGTH_BYTES):
            at = position + 1 + index
            if at >= len(data):
                return -1, at + 1
            length |= (data[at] & 0x7F) << 7 * index
            if data[at] < 0x80:
                if not data[at] and self.protocol_level == MQTT_5:  # before 5.0 nothing forbids it
                    raise self._bad_length(position, "is written with more bytes than it needs", None)
                return length, at + 1
        raise self._bad_length(position, f"has more than {MAX_LENGTH_BYTES} bytes", "2.2.3")

    def _bad_length(self, position: int, problem: str, section_3: str | None) -> RemoteProtocolError:
        where = f"packet type {self._data[position] >> 4}, remaining length"
        return malformed(where, problem, section_3, "1.5.5")

    def _put_aside(self, size: int) -> None:
        """Keep the unfinished packet until ``size`` bytes of it are there."""
        self._partial = bytearray(self._data[self._position :])
        self._needed = size
        self._data = b""
        self._position = 0
        self.has_more = False


def _cut(field: str, problem: str = "ends after the packet") -> RemoteProtocolError:
    return malformed(f"PUBLISH, {field}", problem, "2.2.3", "2.1.4")
