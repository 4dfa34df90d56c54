"""QoS 2 and the receive maximum: how many messages of a client are on their way, and which of them came before.

QoS 2 is *method B* of the standard (4.3.3): a message is appended when it first arrives, and its packet identifier
remembered until PUBREL, so that the same message sent again is answered and not appended; with a stored session for
longer than the connection (:mod:`~trunkline_mqtt.ledger`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trunkline.door import Transport
from trunkline_mqtt.answering import PUBACK, PUBREC, AnsweringConnection
from trunkline_mqtt.encoder import encode
from trunkline_mqtt.fields import malformed
from trunkline_mqtt.packets import MQTT_5, Puback, Pubcomp, Publish, Pubrec
from trunkline_mqtt.reasons import Reason
from trunkline_mqtt.terms import Terms

if TYPE_CHECKING:
    from trunkline_mqtt.ledger import ClientLedger
    from trunkline_mqtt.server import MqttServer

__all__ = ["NO_LIMIT", "ReleasingConnection"]

NO_LIMIT: Final = 1 << 30


class ReleasingConnection(AnsweringConnection):
    """The part of a connection that knows what its client has not released."""

    __slots__ = ("_durable", "_room", "_server", "_unreleased")

    def __init__(self, server: MqttServer, transport: Transport) -> None:
        super().__init__(transport)
        self._server = server
        self._room = NO_LIMIT  # how many may be promised behind the next before the receive maximum must be looked at
        self._unreleased: set[int] | None = None  # packet identifiers with QoS 2, until PUBREL
        self._durable: ClientLedger | None = None  # where those are kept that outlive this connection

    def _greeted(self, terms: Terms) -> None:
        self._terms = terms
        self.client_id = terms.client_id
        self._count_room()

    def _keep(self, durable: ClientLedger) -> None:
        """The client's session outlives this connection, and so does what it did not release."""
        self._durable = durable
        self._unreleased = durable.unreleased
        self._count_room()

    def _is_first(self, packet_id: int) -> bool:
        """Whether this packet identifier is not that of a message whose PUBREL is due; if it is, answer again."""
        unreleased = self._unreleased
        if unreleased is None:
            unreleased = self._unreleased = set()
        if packet_id not in unreleased:
            unreleased.add(packet_id)
            self._count_room()
            return True
        ack = PUBREC + packet_id.to_bytes(2)
        if ack not in self._promised() and not (self._durable is not None and self._durable.is_pending(packet_id)):
            self._transport.write(ack)
        return False

    def _pubrel(self, packet_id: int) -> None:
        if not self._unreleased or packet_id not in self._unreleased:
            self._transport.write(encode(Pubcomp(packet_id, Reason.PACKET_IDENTIFIER_NOT_FOUND), self._terms.level))
            return
        answer = encode(Pubcomp(packet_id), self._terms.level)
        if self._durable is not None:
            self._durable.release(packet_id, answer)
        else:
            self._unreleased.remove(packet_id)
            self._transport.write(answer)
        self._count_room()

    def write_late(self, data: bytes) -> None:
        """An answer that had to wait for the disk."""
        self._transport.write(data)

    # -- the receive maximum: MQTT 5.0, 4.9 --------------------------------------------------------

    def _count_room(self) -> None:
        if self._terms.level == MQTT_5:
            self._room = self._server.settings.receive_maximum - len(self._unreleased or ()) - 1

    def _check_receive_maximum(self, is_another: bool = True) -> None:
        """Is there room for ``is_another`` message? Those with QoS 2 count from PUBLISH to PUBCOMP."""
        if len(self._behind or ()) < self._room:
            return
        held = len(self._unreleased or ()) + sum(answer[0] != PUBREC[0] for answer in self._promised())
        limit = self._server.settings.receive_maximum
        if held + is_another > limit:
            problem = f"is one of more than {limit} that are not acknowledged"
            raise malformed("PUBLISH", problem, None, "3.3.4", Reason.RECEIVE_MAXIMUM_EXCEEDED)

    # -- what is not stored ------------------------------------------------------------------------

    def _promise_refusal(self, packet: Publish, code: int) -> None:
        ack = self._refusal(packet, code)
        self._promise(ack)
        self.append_done(ack, -1)

    def _refusal(self, packet: Publish, code: int) -> bytes:
        """The answer to a message with QoS 1 or 2 that is not stored; MQTT 3 has no words for that."""
        is_qos_2 = packet.qos == 2
        if self._terms.level != MQTT_5:
            return (PUBREC if is_qos_2 else PUBACK) + packet.packet_id.to_bytes(2)
        if is_qos_2 and self._unreleased:
            self._unreleased.discard(packet.packet_id)  # a failure ends the exchange: 4.3.3
            self._count_room()
        return encode((Pubrec if is_qos_2 else Puback)(packet.packet_id, code), MQTT_5)
