"""A record on its way to subscribers, as PUBLISH packets: each form is encoded once, when it is first wanted.

A form is what all subscribers of one version, QoS and RETAIN flag get alike: the whole packet with QoS 0, and with
QoS 1 and 2 what comes before the packet identifier and what comes after it. What differs from subscriber to
subscriber in MQTT 5.0 (subscription identifiers, topic alias), or from second to second (message expiry), makes a
form of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from trunkline_mqtt.encoder import (
    PUBLISH_QOS_0,
    PUBLISH_QOS_1,
    encode_publish_properties,
    publish_head,
    variable_integer,
)
from trunkline_mqtt.fields import Fields
from trunkline_mqtt.packets import MQTT_5
from trunkline_mqtt.properties import NO_PROPERTIES, Properties

__all__ = ["OutgoingMessage", "RichMessage"]

_NO_BLOCK: Final = b"\0"


class OutgoingMessage:
    """What a record says in MQTT's terms.

    Attributes:
      topic: its name in UTF-8.
      qos: the highest it may be delivered with.
      client: the identifier of the client that published it, or None.
      is_retained: it was published with RETAIN.
      expires_ms: when it is of no more use, ms since the epoch; 0: never.
    """

    __slots__ = ("_forms", "_head", "_packet", "_packet_5", "client", "expires_ms", "payload", "qos", "topic")

    is_retained: bool = False

    def __init__(self, topic: bytes, payload: bytes, qos: int, client: bytes | None) -> None:
        self.topic = topic
        self.payload = payload
        self.qos = qos
        self.client = client
        self.expires_ms = 0
        self._packet: bytes | None = None
        self._packet_5: bytes | None = None
        self._head: bytes | None = None
        self._forms: dict[int, tuple[bytes, bytes]] | None = None

    @property
    def properties(self) -> Properties:
        """Those of the PUBLISH, apart from what differs from subscriber to subscriber."""
        return NO_PROPERTIES

    def qos_0(self) -> bytes:
        """The whole packet for QoS 0 before MQTT 5.0."""
        packet = self._packet
        if packet is None:
            packet = self._packet = publish_head(PUBLISH_QOS_0, self.topic, len(self.payload)) + self.payload
        return packet

    def qos_1_head(self) -> bytes:
        """The packet for QoS 1 before MQTT 5.0, up to the packet identifier; the payload follows that."""
        head = self._head
        if head is None:
            head = self._head = publish_head(PUBLISH_QOS_1, self.topic, len(self.payload))
        return head

    def qos_0_v5(self) -> bytes:
        """The whole packet for QoS 0 in MQTT 5.0."""
        packet = self._packet_5
        if packet is None:
            packet = self._packet_5 = b"".join(self.form(PUBLISH_QOS_0))
        return packet

    def singly(self) -> Sequence[OutgoingMessage]:
        """The messages that it stands for."""
        return (self,)

    def form(self, first: int) -> tuple[bytes, bytes]:
        """In MQTT 5.0, what comes before the packet identifier and what comes after it.

        Args:
          first: byte 1 of the packet.
        """
        forms = self._forms
        if forms is None:
            forms = self._forms = {}
        form = forms.get(first)
        if form is None:
            block = self.packed()
            form = forms[first] = publish_head(first, self.topic, len(block) + len(self.payload)), block + self.payload
        return form

    def packed(self) -> bytes:
        """The properties with their length in front."""
        return _NO_BLOCK

    def form_with(self, first: int, topic: bytes, extra: bytes) -> tuple[bytes, bytes]:
        """Like ``form``, with ``topic`` (empty: an alias stands for it) and some more encoded properties."""
        _, tail = self.form(first)
        block = tail[: len(tail) - len(self.payload)]
        at = 1
        while block[at - 1] > 127:
            at += 1
        properties = extra + block[at:]
        size = variable_integer(len(properties))
        head = publish_head(first, topic, len(size) + len(properties) + len(self.payload))
        return head, size + properties + self.payload

    def seconds_left(self, now_ms: int) -> int:
        """How long it is of use yet, rounded up; 0: it has expired. Only if it expires at all. MQTT 5.0, 3.3.2.3.3."""
        return max(0, -((now_ms - self.expires_ms) // 1000))


class RichMessage(OutgoingMessage):
    """One of the few that say more than topic and payload; the others are smaller and quicker to make without.

    Args:
      properties, packed: the same, and as ``packed()`` gives it; at least one of them.
    """

    __slots__ = ("_packed", "_properties", "is_retained")

    def __init__(
        self,
        topic: bytes,
        payload: bytes,
        qos: int,
        client: bytes | None,
        *,
        is_retained: bool = False,
        expires_ms: int = 0,
        properties: Properties | None = None,
        packed: bytes | None = None,
    ) -> None:
        super().__init__(topic, payload, qos, client)
        self.is_retained = is_retained
        self.expires_ms = expires_ms
        self._properties = properties
        self._packed = packed

    @property
    def properties(self) -> Properties:
        if self._properties is None:
            assert self._packed is not None
            self._properties = Fields("PUBLISH", self._packed, 0, len(self._packed), MQTT_5).properties()
        return self._properties

    def packed(self) -> bytes:
        if self._packed is None:
            self._packed = encode_publish_properties(self.properties)
        return self._packed

    def like(self, topic: bytes, payload: bytes) -> RichMessage:
        """Another message that says the same besides."""
        return RichMessage(
            topic,
            payload,
            self.qos,
            self.client,
            is_retained=self.is_retained,
            expires_ms=self.expires_ms,
            properties=self.properties,
            packed=self.packed(),
        )
