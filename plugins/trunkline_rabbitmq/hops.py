"""Where a message has been: the header ``x-trunkline-hops``, an array with the name of each broker that sent it out.

A broker that sends a message out adds its name behind the others. What comes in with the broker's own name in it has
been here before, and is dropped, as is what has passed too many. Nothing else in the properties is touched: the entry
is put into the raw table, every other byte stays as it is (:func:`with_hop`).

    properties: flags u16 | content_type? | content_encoding? | headers? | ...
    headers:    size u32 | entries; ours goes last, or replaces the one that is there
"""

from __future__ import annotations

from functools import lru_cache
from struct import Struct
from struct import error as struct_error
from typing import Final

from trunkline_amqp.errors import AmqpError
from trunkline_amqp.fields import decode_table, encode_short_string, encode_value, table_spans

__all__ = ["HOPS", "hops_of", "with_hop"]

HOPS: Final = "x-trunkline-hops"

_NAME: Final = HOPS.encode()
_SHORT: Final = Struct(">H")
_LONG: Final = Struct(">I")
_CONTENT_TYPE: Final = 1 << 15
_CONTENT_ENCODING: Final = 1 << 14
_HEADERS: Final = 1 << 13


def hops_of(properties: bytes) -> list[str]:
    """The brokers that have sent a message with these raw properties out; empty if that cannot be read."""
    if _NAME not in properties:
        return []  # of nearly every message
    try:
        start, end = _find_table(properties)
        headers = decode_table(properties[start:end]) if end > start else {}
    except (AmqpError, IndexError, struct_error):
        return []
    found = headers.get(HOPS)
    return [name for name in found if isinstance(name, str)] if isinstance(found, list) else []


def with_hop(properties: bytes, node: str) -> bytes:
    """The same raw properties with ``node`` as the last hop. Raises AmqpError for properties that cannot be read."""
    entry = _entry((*hops_of(properties), node))
    (flags,) = _SHORT.unpack_from(properties)
    start, end = _find_table(properties)
    if start == end:  # there is no table
        return _SHORT.pack(flags | _HEADERS) + properties[2:start] + _LONG.pack(len(entry)) + entry + properties[start:]
    table = properties[start:end]
    if _NAME in table:
        entries = b"".join(table[first:last] for name, first, last in table_spans(table) if name != HOPS) + entry
    else:
        entries = table[4:] + entry
    return properties[:start] + _LONG.pack(len(entries)) + entries + properties[end:]


@lru_cache(256)
def _entry(hops: tuple[str, ...]) -> bytes:
    return encode_short_string(HOPS) + encode_value(hops)


def _find_table(properties: bytes) -> tuple[int, int]:
    """Where the header table begins (with its size) and ends; twice where it would be, if there is none."""
    (flags,) = _SHORT.unpack_from(properties)
    position = 2
    for flag in (_CONTENT_TYPE, _CONTENT_ENCODING):
        if flags & flag:
            position += 1 + properties[position]
    if not flags & _HEADERS:
        return position, position
    (size,) = _LONG.unpack_from(properties, position)
    return position, position + 4 + size
