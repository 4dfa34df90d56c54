"""What the core's queue is told to be, from a queue's arguments and bindings."""

from __future__ import annotations

import msgspec

from trunkline.filters import RecordFilter
from trunkline.queues import QueueConfig, QueueSource
from trunkline_amqp.arguments import QueueArguments
from trunkline_amqp.dead_letters import HANDLER
from trunkline_amqp.exchange import Exchange
from trunkline_amqp.model import Vhost
from trunkline_amqp.queue_entry import QueueEntry
from trunkline_amqp.routing import record_key

__all__ = ["queue_config", "sources_of"]


def queue_config(arguments: QueueArguments, sources: tuple[QueueSource, ...]) -> QueueConfig:
    """The settings of the core's queue."""
    return QueueConfig(
        sources=sources,
        max_length=arguments.max_length,
        max_length_bytes=arguments.max_length_bytes,
        overflow="drop-head" if arguments.overflow == "drop-head" else "reject",
        delivery_limit=arguments.delivery_limit,
        dead_letter_topic="",
        dead_letter_handler="" if arguments.dead_letter_exchange is None else HANDLER,
        ttl_ms=arguments.message_ttl_ms,
        max_priority=arguments.max_priority,
        single_active=arguments.single_active,
    )


def sources_of(vhost: Vhost, queue: QueueEntry) -> list[QueueSource]:
    """The topics that a queue takes from, and which of their records: its home topic, and what its bindings bring."""
    found = []
    if not queue.is_volatile and queue.kind != "stream":  # a topic in memory needs no mention
        found.append(QueueSource(queue.core_name))
    for exchange, wanted in vhost.filters_of(queue.name):
        if exchange.topic:
            found.append(QueueSource(exchange.topic, _as_stored(exchange, wanted)))
    return found


def _as_stored(exchange: Exchange, wanted: RecordFilter) -> RecordFilter:
    """A filter of routing keys as one of keys in the exchange's topic."""
    if not exchange.is_slashed:
        return wanted
    return msgspec.structs.replace(
        wanted,
        pattern=record_key(exchange, wanted.pattern).decode(),
        syntax="amqp/" if wanted.syntax == "amqp" else wanted.syntax,
        also=tuple([_as_stored(exchange, other) for other in wanted.also]),
    )
