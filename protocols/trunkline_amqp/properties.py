"""The properties of a message, as they are on the wire and as what they say (AMQP 0-9-1, 4.2.6.1).

    flags u16 | the properties that are there, in the order of their flags

*Raw properties* are these bytes, with which the payload of a content header ends. They are passed on as they came;
:class:`Properties` is what they say.
"""

from __future__ import annotations

from collections.abc import Mapping
from struct import Struct
from typing import Any, Final

import msgspec

from trunkline_amqp.fields import (
    Reader,
    Table,
    encode_long_string,
    encode_short_string,
    encode_table,
    encode_value,
    syntax_error,
)

__all__ = [
    "NO_PROPERTIES",
    "Properties",
    "decode_properties",
    "edit_properties",
    "encode_properties",
    "raw_field",
    "replace_reply_to",
    "with_header",
]

NO_PROPERTIES: Final = b"\x00\x00"
"""Raw properties that say nothing."""


class Properties(msgspec.Struct, frozen=True, kw_only=True):
    """1.8.3. ``None``: not said. ``timestamp`` in seconds since the epoch; ``expiration`` is decimal text, in ms."""

    content_type: str | None = None
    content_encoding: str | None = None
    headers: Table | None = None
    delivery_mode: int | None = None
    priority: int | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    expiration: str | None = None
    message_id: str | None = None
    timestamp: int | None = None
    type: str | None = None
    user_id: str | None = None
    app_id: str | None = None
    cluster_id: str | None = None


_KINDS: Final = {"headers": "table", "delivery_mode": "octet", "priority": "octet", "timestamp": "long_long"}
_FIELDS: Final = tuple(
    (1 << (15 - number), name, _KINDS.get(name, "short_string"))
    for number, name in enumerate(Properties.__struct_fields__)
)
_HEADERS_FLAG: Final = 1 << 13
_UNKNOWN_FLAGS: Final = 0b11  # the last one would announce more flags, which no version has

_OCTET: Final = Struct(">B")
_LONG_LONG: Final = Struct(">Q")
_FLAGS: Final = Struct(">H")


def decode_properties(raw: bytes) -> Properties:
    """What raw properties say. Raises AmqpError (502)."""
    reader = Reader(raw)
    flags = reader.short()
    if flags & _UNKNOWN_FLAGS:
        raise syntax_error(f"property flags {flags:#06x} name properties that there are not")
    values: dict[str, Any] = {}
    for flag, name, kind in _FIELDS:
        if flags & flag:
            values[name] = getattr(reader, kind)()
    if not reader.is_at_end:
        raise syntax_error(f"{reader.end - reader.position} bytes follow the properties")
    return Properties(**values)


def _spans(raw: bytes) -> dict[str, tuple[int, int]]:
    """Where each property that is there is in raw properties, in their order. Raises AmqpError (502)."""
    reader = Reader(raw)
    flags = reader.short()
    found: dict[str, tuple[int, int]] = {}
    for flag, name, kind in _FIELDS:
        if flags & flag:
            start = reader.position
            getattr(reader, kind)()
            found[name] = start, reader.position
    return found


def raw_field(raw: bytes, wanted: str) -> bytes:
    """One field of raw properties, as it is encoded; empty if it is not there. Raises AmqpError (502)."""
    start, end = _spans(raw).get(wanted, (0, 0))
    return raw[start:end]


def edit_properties(raw: bytes, replace: Mapping[str, bytes | None]) -> bytes:
    """Raw properties with some fields replaced by what is given, encoded, or left out (None).

    The others stay byte for byte. Raises AmqpError (502).
    """
    fields: dict[str, bytes | None] = {name: raw[start:end] for name, (start, end) in _spans(raw).items()}
    fields.update(replace)
    flags = 0
    parts = []
    for flag, name, _ in _FIELDS:
        if data := fields.get(name):
            flags |= flag
            parts.append(data)
    return _FLAGS.pack(flags) + b"".join(parts)


def encode_properties(properties: Properties) -> bytes:
    """Raw properties. Raises ValueError, TypeError or struct.error for what they cannot hold."""
    flags = 0
    parts = []
    for flag, name, kind in _FIELDS:
        value = getattr(properties, name)
        if value is None:
            continue
        flags |= flag
        if kind == "short_string":
            parts.append(encode_short_string(value))
        elif kind == "table":
            parts.append(encode_table(value))
        else:
            parts.append((_OCTET if kind == "octet" else _LONG_LONG).pack(value))
    return _FLAGS.pack(flags) + b"".join(parts)


def replace_reply_to(raw: bytes, address: str) -> bytes:
    """Raw properties with another reply_to; everything else byte for byte."""
    return edit_properties(raw, {"reply_to": encode_short_string(address)})


def with_header(raw: bytes, name: str, value: object) -> bytes:
    """Raw properties with one more entry, the first, in the headers; everything else byte for byte."""
    entry = encode_short_string(name) + encode_value(value)
    (flags,) = _FLAGS.unpack_from(raw)
    spans = _spans(raw)
    found = spans.get("headers")
    if found is not None:
        start, end = found
        return raw[:start] + encode_long_string(entry + raw[start + 4 : end]) + raw[end:]
    start = max(
        (end for before, (_, end) in spans.items() if before in ("content_type", "content_encoding")), default=2
    )
    return _FLAGS.pack(flags | _HEADERS_FLAG) + raw[2:start] + encode_long_string(entry) + raw[start:]
