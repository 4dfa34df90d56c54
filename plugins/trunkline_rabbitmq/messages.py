"""AMQP messages as records, and records as AMQP messages: as the AMQP door has it, and where a message came from.

What is stored for a message is what the AMQP door would have stored for it (:mod:`trunkline_amqp.bridge`), with the
exchange it was published to and where it came from. So clients of that door get it with the very properties
that it had in RabbitMQ, clients of other doors see its headers, and a link sends it out as it came in.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from trunkline.links import ORIGIN
from trunkline.records import Header, Record
from trunkline_amqp.bridge import PROPERTIES_HEADER, Place, message_of, prepare, record_of
from trunkline_amqp.properties import NO_PROPERTIES

__all__ = ["record_headers", "wire_parts"]

_MAX_KEY_BYTES: Final = 255
_PERSISTENT: Final = b"\x10\x00\x02"
"""Raw properties that say delivery_mode 2 and nothing else."""

_REMEMBERED_BYTES: Final = 256


def record_headers(exchange: bytes, properties: bytes, *, origin: str, now_ms: int) -> bytes:
    """The encoded headers of the record for a message from ``origin``; its key and value are as they are there.

    Raises AmqpError.
    """
    if len(properties) <= _REMEMBERED_BYTES and prepare(properties).block is not None:
        return _remembered_headers(exchange, properties, origin)
    return _headers(exchange, properties, origin, now_ms)


def _headers(exchange: bytes, properties: bytes, origin: str, now_ms: int) -> bytes:
    more: list[Header] = [(ORIGIN, origin.encode())]
    if properties == NO_PROPERTIES:  # the door leaves these out
        more.append((PROPERTIES_HEADER, properties))
    shown = exchange.decode("utf-8", "surrogateescape")
    _, _, block = record_of("", properties, b"", now_ms=now_ms, exchange=shown, more=more)
    return block


@lru_cache(1000)
def _remembered_headers(exchange: bytes, properties: bytes, origin: str) -> bytes:
    """Of properties that do not depend on the time; many messages have the same."""
    return _headers(exchange, properties, origin, 0)


def wire_parts(record: Record, *, is_slashed: bool) -> tuple[bytes, bytes, bytes]:
    """Routing key, raw properties and body of the message for a record.

    Args:
      is_slashed: keys of its topic are MQTT's, with ``/`` where routing keys have ``.``.

    A key that is too long for a routing key is given as it is. A record without headers becomes a persistent message.
    """
    _, routing_key, properties = message_of(record, Place(b"", is_slashed))
    if not record.headers:
        properties = _PERSISTENT
    if record.key is not None and len(record.key) > _MAX_KEY_BYTES:
        routing_key = record.key
    return routing_key, properties, record.value or b""
