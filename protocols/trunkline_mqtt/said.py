"""What a PUBLISH says besides its topic and payload, made ready once for all messages of a client that say the same.

A device says the same of each message, as a rule: its QoS, its content type, a topic alias. So the record's headers,
and the properties as subscribers get them, are made for the first message and kept with the connection until one says
something else.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from trunkline.records import Header, encode_headers
from trunkline_mqtt.bridge import RETAINED, expiry_of, property_headers
from trunkline_mqtt.encoder import PUBLISH_QOS_0, encode_publish_properties, publish_head
from trunkline_mqtt.message import OutgoingMessage, RichMessage
from trunkline_mqtt.packets import MQTT_5
from trunkline_mqtt.properties import NO_PROPERTIES, Properties

__all__ = ["OutgoingRun", "Said"]


class Said:
    """Of messages of one client.

    Args:
      plain, plain_block: headers of a plain message of this client and QoS, and the same as the log stores them.
      properties: of the PUBLISH.
      now_ms: when it came, from which its expiry is counted.

    Attributes:
      of: the properties it was made from.
      headers: of the record, and ``block``: the same as the log stores them.
      properties: what subscribers get of them, apart from the expiry.
      is_passed_on: subscribers of MQTT 5.0 get all of it as it came.
      expires_ms: as :class:`~trunkline_mqtt.message.OutgoingMessage` has it.
    """

    __slots__ = (
        "_now_ms", "_packed", "block", "client", "expires_ms", "headers", "is_passed_on", "is_retained", "of",
        "properties", "qos",
    )  # fmt: skip

    def __init__(
        self,
        plain: tuple[Header, ...],
        plain_block: bytes,
        qos: int,
        properties: Properties,
        now_ms: int,
        *,
        is_retained: bool,
    ) -> None:
        self.of = properties
        self.qos = qos
        self.is_retained = is_retained
        self._now_ms = now_ms
        more = [*((RETAINED,) if is_retained else ()), *property_headers(properties, now_ms)]
        self.headers: tuple[Header, ...] = (*plain, *more)
        self.block = encode_headers(more, plain_block)
        self.client = plain[0][1]
        self.expires_ms = expiry_of(properties, now_ms)
        self.is_passed_on = properties.topic_alias is None and properties.message_expiry_s is None
        if not self.is_passed_on:
            properties = msgspec.structs.replace(properties, topic_alias=None, message_expiry_s=None)
            properties = NO_PROPERTIES if properties == NO_PROPERTIES else properties
        self.properties = properties
        self._packed: bytes | None = None

    def is_of(self, qos: int, properties: Properties, now_ms: int, *, is_retained: bool) -> bool:
        """Whether it is what such a message says; never mind if it is not seen to be."""
        is_same = properties is self.of and qos == self.qos and is_retained == self.is_retained
        return is_same and (not self.expires_ms or now_ms == self._now_ms)

    @property
    def packed(self) -> bytes:
        """The properties with their length in front, as MQTT 5.0 writes them."""
        if self._packed is None:
            self._packed = encode_publish_properties(self.properties)
        return self._packed

    def message(self, topic: bytes, payload: bytes) -> OutgoingMessage:
        """One of the messages, as the log would give it."""
        if self.properties is NO_PROPERTIES and not self.is_retained and not self.expires_ms:
            return OutgoingMessage(topic, payload, self.qos, self.client)
        return RichMessage(
            topic,
            payload,
            self.qos,
            self.client,
            is_retained=self.is_retained,
            expires_ms=self.expires_ms,
            properties=self.properties,
            packed=self.packed,
        )


class OutgoingRun(OutgoingMessage):
    """Messages in a row that a client published with QoS 0; its forms for QoS 0 are all their packets.

    Args:
      topics, payloads: of each.
      packets: as they came in the version ``level``, if that is what a subscriber with this version gets; or None.
    """

    __slots__ = ("_said", "payloads", "topics")

    def __init__(
        self, topics: list[bytes], payloads: list[bytes], said: Said, packets: bytes | None, level: int
    ) -> None:
        super().__init__(topics[0], payloads[0], 0, said.client)
        self.expires_ms = said.expires_ms
        self.topics = topics
        self.payloads = payloads
        self._said = said
        if level == MQTT_5:
            self._packet_5 = packets
        else:
            self._packet = packets

    def qos_0(self) -> bytes:
        if self._packet is None:
            self._packet = self._joined(b"")
        return self._packet

    def qos_0_v5(self) -> bytes:
        if self._packet_5 is None:
            self._packet_5 = self._joined(self._said.packed)
        return self._packet_5

    def _joined(self, packed: bytes) -> bytes:
        size = len(packed)
        return b"".join(
            [
                publish_head(PUBLISH_QOS_0, topic, size + len(payload)) + packed + payload
                for topic, payload in zip(self.topics, self.payloads, strict=True)
            ]
        )

    def singly(self) -> Sequence[OutgoingMessage]:
        message = self._said.message
        return [message(topic, payload) for topic, payload in zip(self.topics, self.payloads, strict=True)]
