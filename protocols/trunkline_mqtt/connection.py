"""One MQTT client: what it may say, and what follows. Sans-I/O.

    before CONNECT   CONNECT, within a small limit     -> CONNACK
    after it         PUBLISH QoS 0                     -> staged, nobody waits
                     PUBLISH QoS 1, 2                  -> staged; PUBACK, PUBREC when it is committed
                     PUBREL                            -> PUBCOMP
                     SUBSCRIBE, UNSUBSCRIBE, PINGREQ   -> SUBACK, UNSUBACK, PINGRESP
                     PUBACK, PUBREC, PUBCOMP           -> room in the delivery window
                     DISCONNECT                        -> the end, usually without a will
    anything else    is an error: the connection is closed, the will published

A client of MQTT 5.0 is told why the connection ends: in CONNACK if it was not accepted, else in DISCONNECT.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from trunkline.door import Transport
from trunkline.errors import RemoteProtocolError, UnknownTopic
from trunkline_mqtt.answering import reason_properties
from trunkline_mqtt.connecting import AnySession, ConnectingConnection
from trunkline_mqtt.encoder import PINGRESP, encode
from trunkline_mqtt.fields import malformed
from trunkline_mqtt.packets import (
    MQTT_3_1,
    MQTT_5,
    Auth,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Puback,
    Pubcomp,
    Publish,
    PublishRun,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    Subscription,
    Unsuback,
    Unsubscribe,
)
from trunkline_mqtt.reasons import RETURN_CODES, Reason
from trunkline_mqtt.shares import SHARE
from trunkline_mqtt.stored_session import StoredSession
from trunkline_mqtt.streams import START_PROPERTY, InvalidStream
from trunkline_mqtt.terms import limit_expiry

if TYPE_CHECKING:
    from trunkline_mqtt.server import MqttServer

__all__ = ["MqttConnection"]

logger = logging.getLogger("trunkline.mqtt")

_CALLED: Final = 100
"""Characters of a client identifier, or of a filter, in the log."""

_NAMED: Final = 3
"""Filters in a line of the log."""


class MqttConnection(ConnectingConnection):
    """The server's side of one connection."""

    __slots__ = ("_waiting",)

    def __init__(self, server: MqttServer, transport: Transport) -> None:
        super().__init__(server, transport)
        self._waiting: Subscribe | None = None  # with all that comes behind it

    @property
    def held_bytes(self) -> int:
        return self._decoder.held_bytes

    def receive_data(self, data: bytes) -> None:
        repeated = self._repeated
        if repeated is not None and self._publish_again(repeated, data):
            return
        self._decoder.receive_data(data)
        if self._waiting is None:
            self._go_on()

    def _go_on(self) -> None:
        decoder = self._decoder
        now = 0
        try:
            while decoder.has_more and (packet := decoder.next_event()) is not None:
                session = self._session
                if type(packet) is Publish and session is not None:
                    now = now or self._server.now_ms()
                    self._publish(packet, now)
                elif type(packet) is PublishRun:
                    now = now or self._server.now_ms()
                    self._publish_run(packet, now)
                elif type(packet) is Puback and session is not None:
                    session.acknowledge(packet.packet_id)
                else:
                    self._handle(packet)
                if self._transport.is_closing or self._waiting is not None:
                    return
        except RemoteProtocolError as error:
            self._tell(error)
            raise
        if self._repeated is not None and not decoder.is_at_rest:
            self._repeated = None

    def _tell(self, error: RemoteProtocolError) -> None:
        """Tell the client what it did wrong, as far as its version can say so."""
        code = error.details.get("reason_code", Reason.PROTOCOL_ERROR)
        if self._session is not None:
            self._close(code, str(error))
        elif self._decoder.protocol_level == MQTT_5:
            answer = encode(Connack(code, False, reason_properties(str(error))), MQTT_5)
            if len(answer) > self._max_answer_bytes:
                answer = encode(Connack(code), MQTT_5)
            self._transport.write(answer)
        elif (return_code := RETURN_CODES.get(code)) is not None:
            self._transport.write(encode(Connack(return_code)))

    def _handle(self, packet: Packet) -> None:
        if self._session is None:
            if type(packet) is not Connect:
                raise malformed(type(packet).__name__.upper(), "came before CONNECT", "3.1", "3.1")
            self._connect(packet)
            return
        if type(packet) is Connect:
            raise malformed("CONNECT", "came a second time", "3.1", "3.1", Reason.PROTOCOL_ERROR)
        handler = _HANDLERS.get(type(packet))
        if handler is None:
            name = type(packet).__name__.upper()
            raise malformed(name, "is not for a client to send here", "2.2.1", "2.1.2", Reason.PROTOCOL_ERROR)
        handler(self, self._session, packet)

    @property
    def called(self) -> str:
        """See :attr:`trunkline.door.Connection.called`."""
        return self.client_id[:_CALLED]

    @property
    def peer(self) -> str:
        """The address it comes from."""
        return self._transport.peer

    @property
    def protocol_level(self) -> int:
        """3, 4 or 5: MQTT 3.1, 3.1.1, 5.0."""
        return self._terms.level

    @property
    def filters(self) -> list[str]:
        """What the client subscribes to."""
        return [] if self._session is None else [*self._session.filters]

    # -- requests ----------------------------------------------------------------------------------

    def _subscribe(self, session: AnySession, packet: Subscribe) -> None:
        settling, is_kept = self._server.settling, isinstance(session, StoredSession)
        if settling is None or settling.is_settled(with_copies=is_kept):
            self._subscribe_now(session, packet)
            return
        self._waiting = packet
        self._repeated = None  # what comes now waits behind it
        self._transport.pause()
        settling.wait(self._settled, with_copies=is_kept)

    def _settled(self) -> None:
        """The log has what was published before the SUBSCRIBE that waits."""
        packet, self._waiting = self._waiting, None
        session = self._session
        if packet is None or session is None or self._transport.is_closing:
            return
        self._transport.resume()
        try:
            self._subscribe_now(session, packet)
            self._go_on()
        except RemoteProtocolError as error:
            logger.warning("mqtt %s %r: closed: %s", self._transport.peer, self.called, error)
            self._transport.close()
            self._end()
        except Exception:  # the boundary: a bug ends this connection, as it would in receive_data
            logger.exception("mqtt %s: closed after an internal error", self._transport.peer)
            self._transport.abort()

    def _subscribe_now(self, session: AnySession, packet: Subscribe) -> None:
        identifiers = packet.properties.subscription_identifiers
        identifier = identifiers[0] if identifiers else 0
        start = next((value for name, value in packet.properties.user if name == START_PROPERTY), None)
        problems: list[str] = []
        filters = [_of_bridge(entry) for entry in packet.filters] if self._terms.is_bridge else packet.filters
        codes = tuple([_subscribe_to(session, entry, identifier, start, problems) for entry in filters])
        level = self._terms.level
        if max(codes) >= Reason.UNSPECIFIED_ERROR:
            self._note_refusals(packet, codes)
        if level != MQTT_5 and max(codes) >= Reason.UNSPECIFIED_ERROR:
            if level == MQTT_3_1:
                raise malformed("SUBSCRIBE", "is refused, which MQTT 3.1 has no words for", "3.9.3", None)
            codes = tuple([min(code, Reason.UNSPECIFIED_ERROR) for code in codes])
        answer = encode(Suback(packet.packet_id, codes), level)
        if problems and self._terms.tells_problems:
            told = encode(Suback(packet.packet_id, codes, reason_properties("; ".join(problems))), level)
            answer = told if len(told) <= self._max_answer_bytes else answer
        session.answer(self._check_size(answer, "SUBSCRIBE"))
        session.resume()  # with what is retained

    def _note_refusals(self, packet: Subscribe, codes: tuple[int, ...]) -> None:
        """Many clients do not look at what SUBACK says; and before MQTT 5.0 it does not say why."""
        refused = [
            f"{entry.topic_filter[:_CALLED]!r} ({Reason(code).name.lower()})"
            for entry, code in zip(packet.filters, codes, strict=True)
            if code >= Reason.UNSPECIFIED_ERROR
        ]
        logger.warning(
            "%s: client %r has %d subscriptions, and got none to %s%s",
            self._transport.peer,
            self.called,
            len(self.filters),
            ", ".join(refused[:_NAMED]),
            f" and {len(refused) - _NAMED} others" if len(refused) > _NAMED else "",
        )

    def _unsubscribe(self, session: AnySession, packet: Unsubscribe) -> None:
        codes = tuple([session.unsubscribe(topic_filter) for topic_filter in packet.filters])
        answer = encode(Unsuback(packet.packet_id, codes), self._terms.level)
        session.answer(self._check_size(answer, "UNSUBSCRIBE"))

    def _pubrec(self, session: AnySession, packet: Pubrec) -> None:
        session.received(packet.packet_id, packet.reason_code)

    def _released(self, session: AnySession, packet: Pubrel) -> None:
        self._pubrel(packet.packet_id)

    def _pubcomp(self, session: AnySession, packet: Pubcomp) -> None:
        session.completed(packet.packet_id)

    def _pingreq(self, session: AnySession, packet: Pingreq) -> None:
        self._transport.write(PINGRESP)

    def _auth(self, session: AnySession, packet: Auth) -> None:
        raise self._wrong("AUTH", "came, but CONNECT named no authentication method", "4.12")

    def _disconnect(self, session: AnySession, packet: Disconnect) -> None:
        expiry = packet.properties.session_expiry_s
        if expiry and not self._session_expiry_s:
            raise self._wrong("DISCONNECT, session expiry interval", "is set, but was 0 in CONNECT", "3.14.2.2.2")
        if expiry is not None and isinstance(session, StoredSession):
            limited = limit_expiry(expiry, self._server.settings)
            self._session_expiry_s = math.inf if limited is None else limited
            session.set_expiry(limited)
        if packet.reason_code == Reason.SUCCESS:
            self._will = None
            if self._server.ledger is not None:
                self._server.ledger.forget_will(self.client_id)
        self._end()
        self._transport.close()

    # -- the core's other calls, and the end -------------------------------------------------------

    def writable(self) -> None:
        if self._session is not None:
            self._session.resume()

    def timed_out(self) -> None:
        logger.info("%s: client %r was silent for longer than its keep-alive", self._transport.peer, self.client_id)
        if self._session is not None:
            self._close(Reason.KEEP_ALIVE_TIMEOUT)
        self._end()

    def taken_over(self, by: str) -> None:
        """The same client has connected again: this connection ends (3.1.4)."""
        logger.info(
            "%s: client %r connected again from %s; closing this connection", self._transport.peer, self.client_id, by
        )
        self._end()
        self._close(Reason.SESSION_TAKEN_OVER)

    def kicked(self) -> None:
        """An administrator wants this connection to end."""
        logger.info("%s: client %r is disconnected by an administrator", self._transport.peer, self.client_id)
        self._end()
        self._close(Reason.ADMINISTRATIVE_ACTION)

    def shutting_down(self) -> None:
        if self._session is not None and self._terms.level == MQTT_5:
            self._is_leaving = True
            if self._next_answer is None:
                self._close(Reason.SERVER_SHUTTING_DOWN)

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
        if self._durable is not None and self._server.ledger is not None:
            self._server.ledger.detach(self, self._durable)
        will, self._will = self._will, None
        if will is not None:
            self._server.wills.leave(self.client_id, will, self._session_expiry_s)


def _of_bridge(entry: Subscription) -> Subscription:
    """What a bridge of MQTT 3 means by a line of SUBSCRIBE; see :mod:`trunkline_mqtt.greeting`."""
    return entry._replace(no_local=not entry.topic_filter.startswith(SHARE), retain_as_published=True)


def _subscribe_to(
    session: AnySession, entry: Subscription, identifier: int, start: str | None, problems: list[str]
) -> int:
    """The reason code for one filter; ``problems`` gets what can be said in words."""
    try:
        return session.subscribe(entry, identifier, start)
    except (InvalidStream, UnknownTopic) as error:
        problems.append(str(error))
        return Reason.TOPIC_FILTER_INVALID


_HANDLERS: Final[dict[type[Packet], Callable[[MqttConnection, AnySession, Any], None]]] = {
    Subscribe: MqttConnection._subscribe,
    Unsubscribe: MqttConnection._unsubscribe,
    Pingreq: MqttConnection._pingreq,
    Disconnect: MqttConnection._disconnect,
    Pubrec: MqttConnection._pubrec,
    Pubrel: MqttConnection._released,
    Pubcomp: MqttConnection._pubcomp,
    Auth: MqttConnection._auth,
}
"""What a client may send once it is connected, apart from PUBLISH and PUBACK, which receive_data sees to."""
