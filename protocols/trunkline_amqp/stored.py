"""What the internal topic ``__amqp`` keeps: durable exchanges, durable queues, and bindings between durable things.

Each is a record of its own, so a change writes what has changed. Keys are a letter and an array in CBOR, values a map::

    "e" [vhost, name]                                           kind, auto_delete, internal, arguments, topic
    "q" [vhost, name]                                           core_name, is_adopted, owns_topic, auto_delete,
                                                                arguments
    "b" [vhost, source, destination, to_exchange, key, args]    {}

Arguments are AMQP tables as bytes. A record without value takes the thing away.
"""

from __future__ import annotations

from typing import Any, Final

import cbor2
import msgspec

from trunkline_amqp.exchange import Binding, Exchange
from trunkline_amqp.fields import decode_table, encode_table
from trunkline_amqp.queue_entry import QueueEntry

__all__ = [
    "BINDING",
    "EXCHANGE",
    "QUEUE",
    "StoredExchange",
    "StoredQueue",
    "binding_key",
    "exchange_key",
    "queue_key",
    "read_key",
]

EXCHANGE: Final = b"e"
QUEUE: Final = b"q"
BINDING: Final = b"b"

PRESENT: Final = cbor2.dumps({})
"""The value of a binding: all there is to know is in its key."""

Entry = tuple[bytes, bytes | None]


class StoredExchange(msgspec.Struct, frozen=True, kw_only=True):
    """See the module's docstring; ``arguments`` is a table as bytes."""

    kind: str
    auto_delete: bool
    internal: bool
    arguments: bytes
    topic: str

    @classmethod
    def entry(cls, vhost: str, exchange: Exchange) -> Entry:
        """The record that keeps an exchange."""
        stored = cls(
            kind=exchange.declared_kind,
            auto_delete=exchange.is_auto_delete,
            internal=exchange.is_internal,
            arguments=encode_table(exchange.arguments),
            topic=exchange.topic,
        )
        return exchange_key(vhost, exchange.name), _encode(stored)

    @classmethod
    def decode(cls, data: bytes) -> StoredExchange:
        return msgspec.convert(cbor2.loads(data), cls)

    def exchange(self, name: str) -> Exchange:
        return Exchange(
            name,
            self.kind,
            durable=True,
            auto_delete=self.auto_delete,
            internal=self.internal,
            arguments=decode_table(self.arguments),
            topic=self.topic,
        )


class StoredQueue(msgspec.Struct, frozen=True, kw_only=True):
    """See the module's docstring. ``is_adopted``: the core had it before AMQP knew of it; ``owns_topic``: its home
    topic was made for it."""

    core_name: str
    is_adopted: bool
    owns_topic: bool
    auto_delete: bool
    arguments: bytes

    @classmethod
    def entry(cls, queue: QueueEntry) -> Entry:
        """The record that keeps a queue."""
        stored = cls(
            core_name=queue.core_name,
            is_adopted=queue.is_adopted,
            owns_topic=queue.owns_topic,
            auto_delete=queue.is_auto_delete,
            arguments=encode_table(queue.raw_arguments),
        )
        return queue_key(queue.vhost, queue.name), _encode(stored)

    @classmethod
    def decode(cls, data: bytes) -> StoredQueue:
        return msgspec.convert(cbor2.loads(data), cls)


def exchange_key(vhost: str, name: str) -> bytes:
    return EXCHANGE + cbor2.dumps([vhost, name])


def queue_key(vhost: str, name: str) -> bytes:
    return QUEUE + cbor2.dumps([vhost, name])


def binding_key(vhost: str, binding: Binding) -> bytes:
    return BINDING + cbor2.dumps([vhost, *binding.identity])


def read_key(key: bytes) -> tuple[bytes, list[Any]]:
    """Which of the three, and the array."""
    return key[:1], cbor2.loads(key[1:])


def _encode(stored: msgspec.Struct) -> bytes:
    data: bytes = cbor2.dumps(msgspec.structs.asdict(stored))
    return data
