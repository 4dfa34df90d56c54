"""One MQTT client: what it may say, and what follows. Sans-I/O.

    before CONNECT   CONNECT, within a small limit     -> CONNACK
    after it         PUBLISH QoS 0                     -> staged, nobody waits
                     PUBLISH QoS 1                     -> staged; PUBACK when it is committed
                     SUBSCRIBE, UNSUBSCRIBE, PINGREQ   -> SUBACK, UNSUBACK, PINGRESP
                     PUBACK                            -> room in the delivery window
                     DISCONNECT                        -> the end, without a will
    anything else    is an error: the connection is closed, the will published

PUBACKs leave in the order of their PUBLISHes (4.6.0-2). With one partition commits come in that order
anyway; the queue of promised acknowledgements keeps it with several too. The token of an append is
its PUBACK, ready to be written.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from trunkline.door import Connection, Transport
from trunkline.errors import BrokerClosing, RemoteProtocolError, TrunklineError
from trunkline_mqtt.bridge import MAX_CLIENT_ID_BYTES, headers_block
from trunkline_mqtt.decoder import Decoder
from trunkline_mqtt.encoder import PINGRESP, encode
from trunkline_mqtt.fields import malformed
from trunkline_mqtt.packets import (
    MQTT_3_1_1,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Puback,
    Publish,
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
    Will,
)
from trunkline_mqtt.reasons import RETURN_CODES, Reason
from trunkline_mqtt.session import Session

if TYPE_CHECKING:
    from trunkline_mqtt.server import MqttServer

__all__ = ["MqttConnection"]

logger = logging.getLogger("trunkline.mqtt")

CONNECT_BYTES: Final = 16 * 1024
"""Largest CONNECT: who is not known yet gets little memory. The largest part of a real one is a password or a will."""

KEEP_ALIVE_FACTOR: Final = 1.5  # MQTT 3.1.1, 3.1.2.10

_PUBACK: Final = b"\x40\x02"


class MqttConnection(Connection):
    """The server's side of one connection; also who is told what became of its appends."""

    __slots__ = ("_acks", "_decoder", "_early", "_headers", "_server", "_session", "_transport", "_will", "client_id")

    def __init__(self, server: MqttServer, transport: Transport) -> None:
        self._server = server
        self._transport = transport
        self._decoder = Decoder(min(CONNECT_BYTES, server.settings.max_packet_bytes), server.topic_names)
        self._session: Session | None = None
        self._will: Will | None = None
        self._headers: tuple[bytes, bytes] = (b"", b"")  # of messages with QoS 0 and 1
        self._acks: deque[bytes] | None = None  # PUBACKs promised, in the order they must leave
        self._early: set[int] | None = None  # ids of those that are due but not at their turn
        self.client_id = ""

    def receive_data(self, data: bytes) -> None:
        self._decoder.receive_data(data)
        next_event = self._decoder.next_event
        now = 0
        try:
            while (packet := next_event()) is not None:
                session = self._session
                if type(packet) is Publish and session is not None:
                    now = now or self._server.now_ms()
                    self._publish(packet, now)
                elif type(packet) is Puback and session is not None:
                    session.acknowledge(packet.packet_id)
                else:
                    self._handle(packet)
                if self._transport.is_closing:
                    return
        except RemoteProtocolError as error:
            return_code = RETURN_CODES.get(error.details.get("reason_code", 0))
            if self._session is None and return_code is not None:
                self._transport.write(encode(Connack(return_code)))
            raise

    # -- publishing --------------------------------------------------------------------------------

    def _publish(self, packet: Publish, now: int) -> None:
        server = self._server
        server.received += 1
        qos = packet.qos
        if qos == 2:
            raise RemoteProtocolError(
                f"client {self.client_id!r} published to {packet.topic!r} with QoS 2, which this server does not "
                "offer yet; publish with QoS 1"
            )
        key = packet.topic.encode()
        is_stored = key[0] != 0x24  # "$": not for clients to publish to
        partition = server.only_partition or server.partition_for(key)
        try:
            if not qos:
                if is_stored:
                    partition.stage_record(now, key, packet.payload, self._headers[0])
                return
            ack = _PUBACK + packet.packet_id.to_bytes(2)
            if is_stored:
                partition.stage_record(now, key, packet.payload, self._headers[1], self, ack)
        except TrunklineError as error:
            self._give_up(error)
            return
        if self._acks is None:
            self._acks = deque()
        self._acks.append(ack)
        if not is_stored:
            self.append_done(ack, -1)

    def append_done(self, token: object, offset: int) -> None:
        """A message of this client is committed: acknowledge it, and those behind it that were waiting for it."""
        acks = self._acks
        assert acks, "nothing is committed that was not staged"
        if acks[0] is not token:
            if self._early is None:
                self._early = set()
            self._early.add(id(token))
            return
        self._transport.write(acks.popleft())
        early = self._early
        if early:
            while acks and id(acks[0]) in early:
                early.remove(id(acks[0]))
                self._transport.write(acks.popleft())

    def append_failed(self, token: object, error: TrunklineError) -> None:
        """A message may be lost: end the connection without PUBACK, so that the client sends it again."""
        if not self._transport.is_closing:
            self._give_up(error)

    def _give_up(self, error: TrunklineError) -> None:
        level = logging.DEBUG if isinstance(error, BrokerClosing) else logging.WARNING
        logger.log(
            level, "%s: closing client %r: its message was not taken: %s", self._transport.peer, self.client_id, error
        )
        self._transport.close()

    # -- everything else ---------------------------------------------------------------------------

    def _handle(self, packet: Packet) -> None:
        if self._session is None:
            if type(packet) is not Connect:
                raise malformed(type(packet).__name__.upper(), "came before CONNECT", "3.1", "3.1")
            self._connect(packet)
            return
        if type(packet) is Connect:
            raise malformed("CONNECT", "came a second time", "3.1", "3.1")
        handler = _HANDLERS.get(type(packet))
        if handler is None:
            raise malformed(type(packet).__name__.upper(), "is not for a client to send here", "2.2.1", "2.1.2")
        handler(self, self._session, packet)

    def _connect(self, packet: Connect) -> None:
        if packet.protocol_level != MQTT_3_1_1:
            raise malformed(
                "CONNECT, protocol level",
                f"is {packet.protocol_level}; this server speaks 3.1.1, level {MQTT_3_1_1}",
                "3.1.2.2",
                "3.1.2.2",
                Reason.UNSUPPORTED_PROTOCOL_VERSION,
            )
        client_id = packet.client_id
        if not client_id:
            if not packet.clean_start:
                raise self._refused("is empty with clean session 0")
            client_id = self._server.new_client_id()
        elif len(client_id.encode()) > MAX_CLIENT_ID_BYTES:
            raise self._refused(f"has more than {MAX_CLIENT_ID_BYTES} bytes")
        older = self._server.clients.get(client_id)
        if older is not None:
            older.taken_over(self._transport.peer)
        self._server.clients[client_id] = self
        self.client_id = client_id
        self._session = Session(self._server, self._transport)
        self._will = packet.will
        self._headers = headers_block(client_id, 0), headers_block(client_id, 1)
        self._decoder.max_packet_bytes = self._server.settings.max_packet_bytes
        self._transport.idle_timeout_s = self._idle_timeout_s(packet.keep_alive)
        self._transport.established()
        self._transport.write(encode(Connack()))

    def _refused(self, problem: str) -> RemoteProtocolError:
        return malformed(
            "CONNECT, client identifier", problem, "3.1.3.1", "3.1.3.1", Reason.CLIENT_IDENTIFIER_NOT_VALID
        )

    def _idle_timeout_s(self, keep_alive: int) -> float:
        limit = self._server.settings.max_keep_alive_s
        if limit and (keep_alive == 0 or keep_alive > limit):
            keep_alive = limit
        return keep_alive * KEEP_ALIVE_FACTOR if keep_alive else math.inf

    def _subscribe(self, session: Session, packet: Subscribe) -> None:
        codes = tuple([session.subscribe(topic_filter, qos) for topic_filter, qos, *_ in packet.filters])
        self._transport.write(encode(Suback(packet.packet_id, codes)))

    def _unsubscribe(self, session: Session, packet: Unsubscribe) -> None:
        for topic_filter in packet.filters:
            session.unsubscribe(topic_filter)
        self._transport.write(encode(Unsuback(packet.packet_id)))

    def _pingreq(self, session: Session, packet: Pingreq) -> None:
        self._transport.write(PINGRESP)

    def _disconnect(self, session: Session, packet: Disconnect) -> None:
        self._will = None
        self._end()
        self._transport.close()

    # -- the core's other calls, and the end -------------------------------------------------------

    def writable(self) -> None:
        if self._session is not None:
            self._session.resume()

    def timed_out(self) -> None:
        logger.info("%s: client %r was silent for longer than its keep-alive", self._transport.peer, self.client_id)
        self._end()

    def taken_over(self, by: str) -> None:
        """The same client has connected again: this connection ends (3.1.4-2)."""
        logger.info(
            "%s: client %r connected again from %s; closing this connection", self._transport.peer, self.client_id, by
        )
        self._end()
        self._transport.close()

    def closed(self, error: Exception | None) -> None:
        self._end()

    def _end(self) -> None:
        """Release what the client held and publish its will; the second call does nothing."""
        session, self._session = self._session, None
        if session is None:
            return
        session.close()
        if self._server.clients.get(self.client_id) is self:
            del self._server.clients[self.client_id]
        will, self._will = self._will, None
        if will is None or will.topic.startswith("$"):
            return
        key = will.topic.encode()
        try:
            self._server.partition_for(key).stage_record(
                self._server.now_ms(), key, will.payload, self._headers[min(will.qos, 1)]
            )
        except TrunklineError as error:
            self._give_up(error)


_HANDLERS: Final[dict[type[Packet], Callable[[MqttConnection, Session, Any], None]]] = {
    Subscribe: MqttConnection._subscribe,
    Unsubscribe: MqttConnection._unsubscribe,
    Pingreq: MqttConnection._pingreq,
    Disconnect: MqttConnection._disconnect,
}
"""What a client may send once it is connected, apart from PUBLISH and PUBACK, which receive_data sees to."""
