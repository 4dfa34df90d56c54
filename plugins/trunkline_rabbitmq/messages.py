"""AMQP messages as records, and records as AMQP messages: as the AMQP door has it, and where a message came from.

What is stored for a message is what the AMQP door would have stored for it (:mod:`trunkline_amqp.bridge`), with the
exchange it was published to and the header :data:`ORIGIN`. So clients of that door get it with the very properties
that it had in RabbitMQ, clients of other doors see its headers, and a link sends it out as it came in.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from trunkline.records import Record
from trunkline_amqp.bridge import Place, message_of, prepare, record_of

__all__ = ["ORIGIN", "origin_of", "record_parts", "wire_parts"]

ORIGIN: Final = "trunkline.origin"
"""The header of a record that came through a bridge: which system it came from, as ``rabbitmq/SERVER``."""

_MAX_KEY_BYTES: Final = 255
_REMEMBERED_BYTES: Final = 256


def record_parts(
    exchange: bytes, routing_key: bytes, properties: bytes, body: bytes, *, origin: str, now_ms: int
) -> tuple[bytes, bytes, bytes]:
    """Key, value and encoded headers of the record for a message from ``origin``. Raises AmqpError."""
    if len(properties) <= _REMEMBERED_BYTES and prepare(properties).block is not None:
        return routing_key, body, _remembered_headers(exchange, properties, origin)
    return routing_key, body, _headers(exchange, properties, origin, now_ms)


def _headers(exchange: bytes, properties: bytes, origin: str, now_ms: int) -> bytes:
    shown = exchange.decode("utf-8", "surrogateescape")
    _, _, block = record_of("", properties, b"", now_ms=now_ms, exchange=shown, more=((ORIGIN, origin.encode()),))
    return block


@lru_cache(1000)
def _remembered_headers(exchange: bytes, properties: bytes, origin: str) -> bytes:
    """Of properties that do not depend on the time; many messages have the same."""
    return _headers(exchange, properties, origin, 0)


def wire_parts(record: Record, *, is_slashed: bool) -> tuple[bytes, bytes, bytes]:
    """Routing key, raw properties and body of the message for a record.

    Args:
      is_slashed: keys of its topic are MQTT's, with ``/`` where routing keys have ``.``.

    A key that is too long for a routing key is given as it is.
    """
    _, routing_key, properties = message_of(record, Place(b"", is_slashed))
    if record.key is not None and len(record.key) > _MAX_KEY_BYTES:
        routing_key = record.key
    return routing_key, properties, record.value or b""


def origin_of(record: Record) -> str:
    """Where a record came from through a bridge; empty: from nowhere else."""
    for name, value in record.headers:
        if name == ORIGIN and value is not None:
            return value.decode("utf-8", "replace")
    return ""
