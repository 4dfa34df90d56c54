"""Kafka's protocol for Trunkline: unmodified Kafka clients write to the log and read from it.

    codec        apis, fields, messages, codec: bytes and messages, nothing else
    connection   one client: requests begun in turn, answers in order; exchange: one of them; server: what all share;
                 timers
    handlers     which function answers which request; they are in versions, metadata, produce (repeated_produce: what
                 need not be read again; held_produce: what waits for its transaction), fetch (fetched: one partition;
                 fetch_sessions, repeated_fetch: what need not be said, or read, again), offsets, epochs,
                 topics, topic_partitions, configs, storage, replicas, acls, groups, group_offsets, group_admin,
                 transactions and transaction_admin
    bridge       Kafka's words and the core's; error_codes
    admin        what ``trunkline transactions`` (commands) asks
    serve        the door

The messages are generated from Kafka's own specifications: :mod:`trunkline_kafka.generate`.
``docs/door-kafka.md`` says what it does and what it does not do yet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trunkline.hookspecs import RegisterDoor, hookimpl
from trunkline_kafka.settings import DEFAULT_PORT, KafkaSettings

if TYPE_CHECKING:
    from trunkline.door import Door, DoorContext


def _open(context: DoorContext) -> Door:
    from trunkline_kafka.serve import KafkaDoor

    return KafkaDoor(context)


@hookimpl
def register_doors(register: RegisterDoor) -> None:
    """Offer the door ``kafka``."""
    register("kafka", _open, default_port=DEFAULT_PORT, settings=KafkaSettings)
