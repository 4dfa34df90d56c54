"""The table ``[door.mqtt]`` of the configuration."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

__all__ = ["MqttSettings", "RouteSettings"]


class RouteSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One rule by which messages go to a log topic; see :mod:`trunkline_mqtt.routes`."""

    filter: str
    topic: str = ""
    partitions: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 1
    partition_by: str = ""
    log: Literal["always", "qos>0", "never"] = "always"


class MqttSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What can be set of the MQTT door; ``docs/door-mqtt.md`` explains each.

    Attributes:
      topic: the log topic that holds all MQTT messages; made if it is missing.
      routes: rules by which messages go to other log topics (:mod:`~trunkline_mqtt.routes`).
      partitions: how many it gets when it is made. One keeps the order of all messages, as a single broker does.
      max_packet_bytes: largest packet taken; the log topics take records of that size. As much as the AMQP and native
        doors take: home automation retains a description of all devices in one message of some megabytes.
      max_inflight: QoS 1 and 2 messages sent to a client and not yet acknowledged; then it waits, and reads the log
        later.
      receive_maximum: likewise from a client of MQTT 5.0; one more ends its connection.
      max_topic_aliases: how many a client of MQTT 5.0 may use, and how many are used towards it.
      max_subscriptions: filters of one client; more are refused in SUBACK. Home Assistant has one for each state.
      max_sessions: that outlive their connections; a client that would need one more is refused.
      max_retained: topics with a retained message, of some 180 bytes each; who would retain on one more is refused.
      sys_interval_s: seconds between two looks at what has changed of ``$SYS``; 0: there are no such topics.
      refused_filters: that nobody may subscribe to, exactly as written here.
      max_keep_alive_s: silence allowed to a client that asks for more or for none, times 1.5 as the standard
        has it; 0: as the client wishes.
      max_session_expiry_s: how long a session is kept at most after its connection ended, and how long those of clients
        before MQTT 5.0 are; 0: as the client wishes, without end before 5.0.
    """

    topic: Annotated[str, msgspec.Meta(min_length=1)] = "mqtt"
    routes: tuple[RouteSettings, ...] = ()
    partitions: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 1
    max_packet_bytes: Annotated[int, msgspec.Meta(ge=1024, le=64 * 1024 * 1024)] = 16 * 1024 * 1024
    max_inflight: Annotated[int, msgspec.Meta(ge=1, le=32_768)] = 1000
    receive_maximum: Annotated[int, msgspec.Meta(ge=1, le=65_535)] = 1000
    max_topic_aliases: Annotated[int, msgspec.Meta(ge=0, le=65_535)] = 32
    max_subscriptions: Annotated[int, msgspec.Meta(ge=1)] = 10_000
    max_sessions: Annotated[int, msgspec.Meta(ge=1)] = 1_000_000
    max_retained: Annotated[int, msgspec.Meta(ge=1)] = 5_000_000
    max_session_expiry_s: Annotated[int, msgspec.Meta(ge=0)] = 604_800
    max_keep_alive_s: Annotated[int, msgspec.Meta(ge=0, le=65_535)] = 0
    refused_filters: list[str] = []
    sys_interval_s: Annotated[int, msgspec.Meta(ge=0)] = 10
