"""The table ``[door.kafka]`` of the configuration."""

from __future__ import annotations

from typing import Annotated

import msgspec

__all__ = ["DEFAULT_PORT", "KafkaSettings"]

DEFAULT_PORT = 9092


class KafkaSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What can be set of the Kafka door; ``docs/door-kafka.md`` explains each.

    Attributes:
      advertised_address: where clients are told to connect, as ``HOST:PORT``; empty: where they came to.
      cluster_id: the cluster's name in Metadata.
      max_request_bytes: largest request taken (Kafka: socket.request.max.bytes).
      max_fetch_bytes: of records in one answer, unless the first batch alone is larger (Kafka: fetch.max.bytes).
      max_session_partitions: that fetch sessions remember, of all connections together; 0: there are no sessions.
      max_waiting_requests: of one connection; when so many have no answer yet, no more are read until half of them do.
      idle_timeout_s: a connection on which nothing arrives for so long is closed (Kafka: connections.max.idle.ms).
    """

    advertised_address: str = ""
    cluster_id: str = "trunkline"
    max_request_bytes: Annotated[int, msgspec.Meta(ge=1024, le=1024**3)] = 32 * 1024 * 1024
    max_fetch_bytes: Annotated[int, msgspec.Meta(ge=1024, le=1024**3)] = 8 * 1024 * 1024
    max_session_partitions: Annotated[int, msgspec.Meta(ge=0)] = 200_000
    max_waiting_requests: Annotated[int, msgspec.Meta(ge=1)] = 1000
    idle_timeout_s: Annotated[float, msgspec.Meta(ge=1)] = 600.0
