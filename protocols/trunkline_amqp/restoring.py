"""From what ``__amqp`` keeps to the model. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from trunkline_amqp import stored
from trunkline_amqp.arguments import parse_queue_arguments
from trunkline_amqp.exchange import NO_ARGUMENTS
from trunkline_amqp.fields import decode_table
from trunkline_amqp.model import Vhost
from trunkline_amqp.queue_entry import QueueEntry

__all__ = ["restore"]

_ORDER: Final = {stored.EXCHANGE: 0, stored.QUEUE: 1, stored.BINDING: 2}
"""What is restored first: a binding needs its ends."""


def restore(entries: Mapping[bytes, bytes], vhosts: Mapping[str, Vhost]) -> None:
    """Declare what the records say. What is in a virtual host that there is not any more is left alone."""
    found = [(*stored.read_key(key), value) for key, value in entries.items()]
    for kind, names, value in sorted(found, key=lambda entry: _ORDER[entry[0]]):
        if names[0] in vhosts:
            _restore(vhosts[names[0]], kind, names[1:], value)


def _restore(vhost: Vhost, kind: bytes, names: list[Any], value: bytes) -> None:
    if kind == stored.EXCHANGE:
        exchange = stored.StoredExchange.decode(value).exchange(names[0])
        vhost.add_exchange(exchange)
    elif kind == stored.QUEUE:
        kept = stored.StoredQueue.decode(value)
        arguments = decode_table(kept.arguments)
        queue = QueueEntry(
            vhost.name,
            names[0],
            kept.core_name,
            durable=True,
            auto_delete=kept.auto_delete,
            owner=None,
            arguments=parse_queue_arguments(arguments, f"queue '{names[0]}'"),
            raw_arguments=arguments,
            adopted=kept.is_adopted,
            owns_topic=kept.owns_topic,
        )
        vhost.add_queue(queue)
    else:
        source, destination, to_exchange, key, arguments = names
        there = vhost.exchanges if to_exchange else vhost.queues
        if source in vhost.exchanges and destination in there:  # else a crash came between two deletions
            table = decode_table(arguments) if arguments else NO_ARGUMENTS
            vhost.bind(vhost.binding(source, destination, key, table, to_exchange=to_exchange))
