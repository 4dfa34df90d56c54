"""Headers of messages as headers of records, and the filters of headers exchanges on them.

A record's headers are bytes; a message's have types. As text they are: strings themselves, booleans ``true`` and
``false``, numbers in decimal, times as seconds since the epoch, nothing as a header without value, tables and arrays as
JSON. So a binding that asks for the number 5 also matches the string ``5``: it has to, for a record that came through
another door has only text.

x-match (RabbitMQ): ``all`` and ``any`` leave headers out that begin with ``x-``; ``all-with-x`` and ``any-with-x`` do
not.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

import msgspec

from trunkline.filters import RecordFilter
from trunkline_amqp.errors import AmqpError, Reply

__all__ = ["header_bytes", "headers_filter"]

_MATCHES: Final = ("all", "any", "all-with-x", "any-with-x")


def header_bytes(value: Any) -> bytes | None:
    """A header's value as a record has it."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape")
    if isinstance(value, bytes):
        return value
    if value is None:
        return None
    if isinstance(value, bool):
        return b"true" if value else b"false"
    if isinstance(value, int):
        return b"%d" % value
    if isinstance(value, (float, Decimal)):
        return str(value).encode()
    return msgspec.json.encode(_plain(value))


def _plain(value: Any) -> Any:
    """What JSON can hold of it."""
    if isinstance(value, Mapping):
        return {_plain(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value)  # a time is a kind of int
    return value


def headers_filter(arguments: Mapping[str, Any]) -> RecordFilter | None:
    """What a binding with these arguments lets through; None: nothing. Raises AmqpError (406)."""
    match = arguments.get("x-match", "all")
    if match not in _MATCHES:
        raise AmqpError(
            Reply.PRECONDITION_FAILED, f"invalid x-match value {str(match)[:60]!r}: use {', '.join(_MATCHES)}"
        )
    with_x = match.endswith("-with-x")
    wanted: dict[str, str | None] = {}
    for name, value in arguments.items():
        if name == "x-match" or (name.startswith("x-") and not with_x):
            continue
        data = header_bytes(value)
        wanted[name] = None if data is None else data.decode("utf-8", "surrogateescape")
    if match.startswith("any"):
        return RecordFilter(headers=wanted, match="any") if wanted else None
    return RecordFilter(headers=wanted)
