"""What a client and this server agree on when the client connects. Decided here, kept by connection and session.

A client of MQTT 5.0 says what it can take, and is told what it gets; older ones are told nothing, and get the
server's limits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import msgspec

from trunkline.errors import RemoteProtocolError
from trunkline_mqtt.bridge import MAX_CLIENT_ID_BYTES
from trunkline_mqtt.decoder import MAX_REMAINING_LENGTH
from trunkline_mqtt.fields import malformed
from trunkline_mqtt.packets import MQTT_3_1, MQTT_5, Connect
from trunkline_mqtt.properties import Properties
from trunkline_mqtt.reasons import Reason
from trunkline_mqtt.settings import MqttSettings

__all__ = ["Terms", "agree", "limit_expiry"]

KEEP_ALIVE_FACTOR: Final = 1.5  # MQTT 3.1.1, 3.1.2.10; 5.0, 3.1.2.10

FOR_EVER: Final = 0xFFFFFFFF  # as a session expiry interval, MQTT 5.0, 3.1.2.11.2

_NO_LIMIT: Final = MAX_REMAINING_LENGTH + 5


class Terms(msgspec.Struct, frozen=True):
    """The outcome.

    Attributes:
      idle_timeout_s: silence after which the connection is closed.
      max_inflight: QoS 1 and 2 messages on their way to the client.
      max_packet_bytes: largest packet for the client.
      topic_alias_maximum: aliases we may use towards it.
      session_expiry_s: how long the session outlives its connection; 0: not at all, None: for ever.
      is_bridge: its subscriptions are no local and retain as published.
      tells_problems: reason strings may be sent with every packet.
      properties: of the CONNACK.
    """

    level: int
    client_id: str
    idle_timeout_s: float = math.inf
    max_inflight: int = 1
    max_packet_bytes: int = _NO_LIMIT
    topic_alias_maximum: int = 0
    session_expiry_s: int | None = 0
    is_bridge: bool = False
    tells_problems: bool = False
    properties: Properties = Properties()


def agree(connect: Connect, settings: MqttSettings, new_client_id: Callable[[], str]) -> Terms:
    """Raises RemoteProtocolError with the reason code for CONNACK if the client cannot be served."""
    client_id = connect.client_id or _client_id_for(connect, new_client_id)
    if len(client_id.encode()) > MAX_CLIENT_ID_BYTES:
        raise _bad_client_id(f"has more than {MAX_CLIENT_ID_BYTES} bytes")
    keep_alive, limit = connect.keep_alive, settings.max_keep_alive_s
    is_shortened = bool(limit) and (keep_alive == 0 or keep_alive > limit)
    if is_shortened:
        keep_alive = limit
    idle_timeout_s = keep_alive * KEEP_ALIVE_FACTOR if keep_alive else math.inf
    if connect.protocol_level != MQTT_5:
        expiry_s = 0 if connect.clean_start else settings.max_session_expiry_s or None
        return Terms(
            connect.protocol_level,
            client_id,
            idle_timeout_s,
            settings.max_inflight,
            session_expiry_s=expiry_s,
            is_bridge=connect.is_bridge,
        )
    asked = connect.properties
    if asked.authentication_method is not None:
        raise malformed(
            "CONNECT, authentication method",
            f"{asked.authentication_method[:40]!r} is not known here",
            None,
            "4.12",
            Reason.BAD_AUTHENTICATION_METHOD,
        )
    answer: dict[str, Any] = {
        "receive_maximum": settings.receive_maximum,
        "maximum_packet_size": settings.max_packet_bytes,
        "topic_alias_maximum": settings.max_topic_aliases,
    }
    if is_shortened:
        answer["server_keep_alive_s"] = keep_alive
    if not connect.client_id:
        answer["assigned_client_id"] = client_id
    expiry_s = limit_expiry(asked.session_expiry_s or 0, settings)
    if expiry_s is not None and expiry_s != (asked.session_expiry_s or 0):
        answer["session_expiry_s"] = expiry_s
    return Terms(
        level=MQTT_5,
        client_id=client_id,
        idle_timeout_s=idle_timeout_s,
        max_inflight=min(settings.max_inflight, asked.receive_maximum or settings.max_inflight),
        max_packet_bytes=asked.maximum_packet_size or _NO_LIMIT,
        topic_alias_maximum=min(asked.topic_alias_maximum or 0, settings.max_topic_aliases),
        session_expiry_s=expiry_s,
        tells_problems=asked.request_problem_information != 0,
        properties=Properties(**answer),
    )


def limit_expiry(asked_s: int, settings: MqttSettings) -> int | None:
    """What a client gets that asks for this session expiry interval; None: for ever. MQTT 5.0, 3.1.2.11.2."""
    limit = settings.max_session_expiry_s
    if asked_s == FOR_EVER:
        return limit or None
    return min(asked_s, limit) if limit else asked_s


def _client_id_for(connect: Connect, new_client_id: Callable[[], str]) -> str:
    if connect.protocol_level == MQTT_3_1:
        raise _bad_client_id("is empty, which MQTT 3.1 does not allow")
    if connect.protocol_level != MQTT_5 and not connect.clean_start:
        raise _bad_client_id("is empty with clean session 0")
    return new_client_id()


def _bad_client_id(problem: str) -> RemoteProtocolError:
    reason = Reason.CLIENT_IDENTIFIER_NOT_VALID
    return malformed("CONNECT, client identifier", problem, "3.1.3.1", "3.1.3.1", reason)
