"""The greeting: what follows from a CONNECT. Sans-I/O.

Terms are agreed, whoever has the client identifier is taken over, the session is found or made, and what must outlive
connection and broker (the session, the will, QoS 2 in progress) is given to be stored; a gate holds CONNACK and all
answers behind it back until it is.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, cast

from trunkline.door import Transport
from trunkline.errors import TrunklineError
from trunkline_mqtt.decoder import Decoder
from trunkline_mqtt.encoder import encode
from trunkline_mqtt.fields import is_reserved, malformed
from trunkline_mqtt.gate import Gate
from trunkline_mqtt.packets import MQTT_3_1, MQTT_5, Connack, Connect, Will
from trunkline_mqtt.publishing import PublishingConnection
from trunkline_mqtt.reasons import Reason
from trunkline_mqtt.releasing import NO_LIMIT
from trunkline_mqtt.session import Session
from trunkline_mqtt.shares import session_name
from trunkline_mqtt.stored_session import StoredSession
from trunkline_mqtt.terms import Terms, agree
from trunkline_mqtt.wills import PendingWill

if TYPE_CHECKING:
    from trunkline_mqtt.connection import MqttConnection
    from trunkline_mqtt.server import MqttServer

__all__ = ["AnySession", "ConnectingConnection"]

CONNECT_BYTES: Final = 16 * 1024
"""Largest CONNECT: who is not known yet gets little memory. The largest part of a real one is a password or a will."""

AnySession = Session | StoredSession


class ConnectingConnection(PublishingConnection):
    """The part of a connection that greets its client."""

    __slots__ = ("_decoder", "_max_answer_bytes", "_session", "_session_expiry_s", "_will")

    def __init__(self, server: MqttServer, transport: Transport) -> None:
        super().__init__(server, transport)
        self._decoder = Decoder(min(CONNECT_BYTES, server.settings.max_packet_bytes), server.topic_names)
        self._session: AnySession | None = None
        self._session_expiry_s: float = 0
        self._max_answer_bytes = NO_LIMIT
        self._will: PendingWill | None = None

    def _connect(self, packet: Connect) -> None:
        server = self._server
        self._max_answer_bytes = packet.properties.maximum_packet_size or NO_LIMIT
        terms = agree(packet, server.settings, server.new_client_id)
        self._check_will(packet.will, terms.level)
        self._check_size(encode(Connack(Reason.SUCCESS, False, terms.properties), terms.level), "CONNECT")
        self._check_quota(packet, terms)
        older = server.clients.get(terms.client_id)
        if older is not None:
            older.taken_over(self._transport.peer)
        gate = self._gate(packet, terms)
        try:
            session = self._open_session(packet, terms)
        except TrunklineError as error:  # sessions are not known, or no more; or what is stored of this one is damaged
            if gate is not None:
                gate.give_up()
            raise malformed("CONNECT", str(error), "3.1.4", "3.1.4", Reason.SERVER_UNAVAILABLE) from error
        is_present = isinstance(session, StoredSession) and session.is_resumed
        if is_present:
            server.wills.session_resumed(terms.client_id)
        else:
            server.wills.session_ended(terms.client_id)
        server.clients[terms.client_id] = cast("MqttConnection", self)  # there is no other kind
        server.most_clients = max(server.most_clients, len(server.clients))
        self._greeted(terms)
        self._session = session
        self._session_expiry_s = math.inf if terms.session_expiry_s is None else terms.session_expiry_s
        is_stored = isinstance(session, StoredSession) and session.is_defined
        self._keep_what_lasts(packet.will, gate, is_present=is_present, is_stored=is_stored)
        self._decoder.gives_runs = True
        self._decoder.max_packet_bytes = server.settings.max_packet_bytes
        self._transport.idle_timeout_s = terms.idle_timeout_s
        self._transport.established()
        is_told = is_present and terms.level != MQTT_3_1  # there the byte is reserved
        self._transport.write(encode(Connack(Reason.SUCCESS, is_told, terms.properties), terms.level))
        if gate is None:
            session.resume()
        elif is_stored:  # it waits for the will, if for anything
            gate.append_done(None, -1)

    def _gate(self, packet: Connect, terms: Terms) -> Gate | None:
        """What holds the answers back until everything that this CONNECT leaves behind is stored, if anything."""
        server = self._server
        keeps_session = self._is_stored(packet, terms)
        keeps_will = server.ledger is not None and packet.will is not None and not is_reserved(packet.will.topic)
        if not keeps_session and not keeps_will:
            return None
        self._transport = gate = Gate(self._transport, keeps_session + keeps_will, self.writable)
        return gate

    def _is_stored(self, packet: Connect, terms: Terms) -> bool:
        sessions = self._server.sessions
        if sessions is None:
            return False
        return terms.session_expiry_s != 0 or (not packet.clean_start and session_name(terms.client_id) in sessions)

    def _check_quota(self, packet: Connect, terms: Terms) -> None:
        """Refuse a new session if there are too many: clients that call themselves anew each time leave one behind."""
        sessions, limit = self._server.sessions, self._server.settings.max_sessions
        if sessions is None or len(sessions) < limit or not self._is_stored(packet, terms):
            return
        if session_name(terms.client_id) not in sessions:
            problem = (
                f"asks for a session that is kept, and there are {len(sessions)}; the limit is max_sessions={limit}"
            )
            raise malformed(f"CONNECT of {terms.client_id[:100]!r}", problem, "3.1.4", "3.1.4", Reason.QUOTA_EXCEEDED)

    def _open_session(self, packet: Connect, terms: Terms) -> AnySession:
        """The client's session: what is stored of it, a new one that will be, or one for this connection."""
        sessions, name = self._server.sessions, session_name(terms.client_id)
        if self._is_stored(packet, terms):
            expires_s = None if terms.session_expiry_s is None else float(terms.session_expiry_s)
            return StoredSession(self._server, self._transport, terms, fresh=packet.clean_start, expires_s=expires_s)
        if sessions is not None:
            sessions.delete(name)
        return Session(self._server, self._transport, terms)

    def _keep_what_lasts(self, will: Will | None, gate: Gate | None, *, is_present: bool, is_stored: bool) -> None:
        """See to it that the will, and QoS 2 in progress, outlive connection and broker as they must."""
        server, expiry_s = self._server, self._terms.session_expiry_s
        if will is not None and not is_reserved(will.topic):
            delay_s = will.properties.will_delay_s or 0
            self._will = PendingWill(
                will.topic,
                will.payload,
                will.qos,
                will.retain,
                will.properties,
                delay_s,
                server.new_will_id(),
                expiry_s,
            )
        if isinstance(self._session, StoredSession) and not is_stored:
            assert gate is not None
            self._session.store(gate)
        ledger = server.ledger
        if ledger is None:
            return
        if self._will is not None:
            assert gate is not None
            ledger.keep_will(self.client_id, self._will, gate)
        else:
            ledger.forget_will(self.client_id)
        if isinstance(self._session, StoredSession):
            self._keep(ledger.attach(self, self.client_id, fresh=not is_present))
        else:
            ledger.forget(self.client_id)

    def _check_size(self, answer: bytes, request: str) -> bytes:
        """The answer, if it may be sent: there is no other one, so a client that cannot take it is closed."""
        if len(answer) > self._max_answer_bytes:
            problem = f"needs an answer of {len(answer)} bytes, but the client takes {self._max_answer_bytes}"
            raise malformed(request, problem, None, "3.1.2.11.4", Reason.PACKET_TOO_LARGE)
        return answer

    def _check_will(self, will: Will | None, level: int) -> None:
        if will is None:
            return
        if is_reserved(will.topic) and level == MQTT_5:  # before, there is no word for it, and it is dropped
            problem = f"is {will.topic[:40]!r}, which is the server's own"
            raise malformed("CONNECT, will topic", problem, None, "3.2.2.2", Reason.TOPIC_NAME_INVALID)
        if will.properties.payload_format:
            try:
                will.payload.decode()
            except UnicodeDecodeError:
                problem = "is not UTF-8, as the payload format says"
                raise malformed(
                    "CONNECT, will message", problem, None, "3.1.3.2.3", Reason.PAYLOAD_FORMAT_INVALID
                ) from None
