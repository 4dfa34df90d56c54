"""Messages on the wire: a method that has content, a header with size and properties, the body in pieces.

The header's payload (AMQP 0-9-1, 4.2.6.1):

    class u16 | weight u16 = 0 | body size u64 | flags u16 | the properties that are there, in the order of their flags

*Raw properties* are the part from the flags on. They are passed on as they came; :class:`Properties` is what they
say. The functions for publish, deliver and ack are written out, because they run once for each message.
"""

from __future__ import annotations

from collections.abc import Mapping
from struct import Struct
from struct import error as struct_error
from typing import Any, Final, NamedTuple

import msgspec

from trunkline_amqp.errors import AmqpError, Reply, hard
from trunkline_amqp.fields import (
    Reader,
    Table,
    encode_long_string,
    encode_short_string,
    encode_table,
    encode_value,
    syntax_error,
)
from trunkline_amqp.frames import BODY, FRAME_HEAD, FRAME_OVERHEAD, HEADER, METHOD

__all__ = [
    "BASIC",
    "NO_PROPERTIES",
    "Content",
    "ContentAssembler",
    "Delivery",
    "Properties",
    "Publication",
    "decode_ack",
    "decode_deliver",
    "decode_header",
    "decode_properties",
    "decode_publish",
    "edit_properties",
    "raw_field",
    "encode_ack",
    "encode_body",
    "encode_content",
    "encode_deliver",
    "encode_header",
    "encode_nack",
    "encode_properties",
    "encode_publish",
    "replace_reply_to",
    "too_large",
    "with_header",
]

BASIC: Final = 60
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
_HEADER: Final = Struct(">HHQ")
_ACK: Final = Struct(">QB")


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


def raw_field(raw: bytes, wanted: str) -> bytes:
    """One field of raw properties, as it is encoded; empty if it is not there. Raises AmqpError (502)."""
    reader = Reader(raw)
    flags = reader.short()
    for flag, name, kind in _FIELDS:
        start = reader.position
        if flags & flag:
            getattr(reader, kind)()
        if name == wanted:
            return raw[start : reader.position]
    return b""


def edit_properties(raw: bytes, replace: Mapping[str, bytes | None]) -> bytes:
    """Raw properties with some fields replaced by what is given, encoded, or left out (None).

    The others stay byte for byte. Raises AmqpError (502).
    """
    reader = Reader(raw)
    flags = reader.short()
    parts = []
    for flag, name, kind in _FIELDS:
        start = reader.position
        if flags & flag:
            getattr(reader, kind)()
        data = replace.get(name, b"") if name in replace else raw[start : reader.position]
        flags = flags | flag if data else flags & ~flag
        parts.append(data or b"")
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


def _spans(raw: bytes) -> dict[str, tuple[int, int]]:
    """Where each property is in raw properties."""
    reader = Reader(raw)
    flags = reader.short()
    found: dict[str, tuple[int, int]] = {}
    for flag, name, kind in _FIELDS:
        if flags & flag:
            start = reader.position
            getattr(reader, kind)()
            found[name] = start, reader.position
    return found


def replace_reply_to(raw: bytes, address: str) -> bytes:
    """Raw properties with another reply_to than they have; everything else byte for byte."""
    start, end = _spans(raw)["reply_to"]
    return raw[:start] + encode_short_string(address) + raw[end:]


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


def decode_header(payload: bytes) -> tuple[int, int, bytes]:
    """Class, body size and raw properties of a header frame. Raises AmqpError (501)."""
    if len(payload) < 14:
        raise hard(Reply.FRAME_ERROR, f"a content header of {len(payload)} bytes; it has 14 at least")
    class_id, _, body_size = _HEADER.unpack_from(payload)
    return class_id, body_size, payload[12:]


def encode_header(body_size: int, properties: bytes) -> bytes:
    """The payload of a header frame."""
    return _HEADER.pack(BASIC, 0, body_size) + properties


# -- whole messages --------------------------------------------------------------------------------


class Content(NamedTuple):
    """A message that has arrived: the payload of its method, raw properties, body."""

    method: bytes
    properties: bytes
    body: bytes


class ContentAssembler:
    """Puts the frames of one channel's messages together.

    Args:
      max_body_bytes: what may be announced; more is refused before anything of it is kept.

    Attributes:
      is_idle: no message is under way, so any method may come.
    """

    __slots__ = ("_left", "_max_body_bytes", "_method", "_parts", "_properties", "is_idle")

    def __init__(self, max_body_bytes: int) -> None:
        self._max_body_bytes = max_body_bytes
        self._method = self._properties = b""
        self._parts: list[bytes] = []
        self._left = -1  # of the body; -1: the header is missing
        self.is_idle = True

    @property
    def left(self) -> int:
        """Bytes of the body that are still to come."""
        return max(self._left, 0)

    def begin(self, method: bytes) -> None:
        """A method that has content; raises AmqpError (505) in the middle of another message."""
        self.expect_method()
        self._method = method
        self._left = -1
        self.is_idle = False

    def expect_method(self) -> None:
        """Raises AmqpError (505) if a header or a body is due."""
        if not self.is_idle:
            what = "header" if self._left < 0 else "body"
            raise hard(Reply.UNEXPECTED_FRAME, f"expected a content {what}, got a method")

    def receive_header(self, payload: bytes) -> Content | None:
        """A header frame: the message, if it has no body. Raises AmqpError: 501, 505, 406 (of the channel)."""
        if self.is_idle or self._left >= 0:
            raise hard(Reply.UNEXPECTED_FRAME, "a content header where none is due")
        class_id, size, self._properties = decode_header(payload)
        if class_id != BASIC:
            raise hard(Reply.FRAME_ERROR, f"a content header of class {class_id}; messages are of class {BASIC}")
        if size > self._max_body_bytes:
            raise too_large(size, self._max_body_bytes)
        self._left = size
        return None if size else self._finish()

    def receive_body(self, payload: bytes) -> Content | None:
        """A piece of a body: the message, once it is complete. Raises AmqpError: 501, 505."""
        if self.is_idle or self._left < 0:
            raise hard(Reply.UNEXPECTED_FRAME, "a content body where none is due")
        left = self._left - len(payload)
        if left < 0:
            raise hard(Reply.FRAME_ERROR, f"a body that is {-left} bytes longer than announced")
        self._parts.append(payload)
        self._left = left
        return None if left else self._finish()

    def _finish(self) -> Content:
        self.is_idle = True
        parts, self._parts = self._parts, []
        return Content(self._method, self._properties, parts[0] if len(parts) == 1 else b"".join(parts))


def too_large(size: int, limit: int) -> AmqpError:
    """What to tell who sends a body of this size."""
    return AmqpError(Reply.PRECONDITION_FAILED, f"a message of {size} bytes, and {limit} are the limit here")


def encode_body(channel: int, body: bytes, max_payload_bytes: int) -> bytes:
    """The body frames of a message; none if it is empty."""
    size = len(body)
    if size <= max_payload_bytes:
        return b"%b%b\xce" % (FRAME_HEAD.pack(BODY, channel, size), body) if size else b""
    parts: list[bytes] = []
    for start in range(0, size, max_payload_bytes):
        piece = body[start : start + max_payload_bytes]
        parts += (FRAME_HEAD.pack(BODY, channel, len(piece)), piece, b"\xce")
    return b"".join(parts)


def encode_content(channel: int, method: bytes, properties: bytes, body: bytes, frame_max: int) -> bytes:
    """All frames of a message.

    Args:
      method: the payload of the method's frame.
      frame_max: as agreed on; the body is cut for it.
    """
    size = len(body)
    if not size or size > frame_max - FRAME_OVERHEAD:
        head = b"%b%b\xce%b%b%b\xce" % (
            FRAME_HEAD.pack(METHOD, channel, len(method)),
            method,
            FRAME_HEAD.pack(HEADER, channel, 12 + len(properties)),
            _HEADER.pack(BASIC, 0, size),
            properties,
        )
        return head + encode_body(channel, body, frame_max - FRAME_OVERHEAD)
    return b"%b%b\xce%b%b%b\xce%b%b\xce" % (
        FRAME_HEAD.pack(METHOD, channel, len(method)),
        method,
        FRAME_HEAD.pack(HEADER, channel, 12 + len(properties)),
        _HEADER.pack(BASIC, 0, size),
        properties,
        FRAME_HEAD.pack(BODY, channel, size),
        body,
    )


# -- methods that come once for each message -------------------------------------------------------

PUBLISH_IDS: Final = b"\x00\x3c\x00\x28"
RETURN_IDS: Final = b"\x00\x3c\x00\x32"
DELIVER_IDS: Final = b"\x00\x3c\x00\x3c"
GET_OK_IDS: Final = b"\x00\x3c\x00\x47"
ACK_IDS: Final = b"\x00\x3c\x00\x50"
NACK_IDS: Final = b"\x00\x3c\x00\x78"
"""Class and method, as the payload of a frame begins."""


class Publication(NamedTuple):
    """basic.publish, 1.8.3.7."""

    exchange: bytes
    routing_key: bytes
    mandatory: bool
    immediate: bool


class Delivery(NamedTuple):
    """basic.deliver, 1.8.3.9."""

    consumer_tag: bytes
    delivery_tag: int
    redelivered: bool
    exchange: bytes
    routing_key: bytes


def decode_publish(payload: bytes) -> Publication:
    """basic.publish, its payload from the class on. Raises AmqpError (502)."""
    try:
        start = 7 + payload[6]
        end = start + 1 + payload[start]
        bits = payload[end]
    except IndexError:
        raise syntax_error("a basic.publish that is too short") from None
    if len(payload) != end + 1:
        raise syntax_error(f"{len(payload) - end - 1} bytes too many in a basic.publish")
    return Publication(payload[7:start], payload[start + 1 : end], bool(bits & 1), bool(bits & 2))


def encode_publish(
    channel: int,
    exchange: bytes,
    routing_key: bytes,
    properties: bytes,
    body: bytes,
    frame_max: int,
    *,
    mandatory: bool = False,
) -> bytes:
    """All frames of a message to publish. Names have 255 bytes at most."""
    method = b"\x00\x3c\x00\x28\x00\x00%c%b%c%b%c" % (
        len(exchange),
        exchange,
        len(routing_key),
        routing_key,
        mandatory,
    )
    return encode_content(channel, method, properties, body, frame_max)


def decode_deliver(payload: bytes) -> Delivery:
    """basic.deliver, its payload from the class on. Raises AmqpError (502)."""
    try:
        tag_end = 5 + payload[4]
        delivery_tag, redelivered = _ACK.unpack_from(payload, tag_end)
        start = tag_end + 10 + payload[tag_end + 9]
        end = start + 1 + payload[start]
    except (IndexError, struct_error):
        raise syntax_error("a basic.deliver that is too short") from None
    if len(payload) != end:
        raise syntax_error(f"a basic.deliver of {len(payload)} bytes, where its fields have {end}")
    return Delivery(
        payload[5:tag_end], delivery_tag, bool(redelivered & 1), payload[tag_end + 10 : start], payload[start + 1 : end]
    )


def encode_deliver(channel: int, delivery: Delivery, properties: bytes, body: bytes, frame_max: int) -> bytes:
    """All frames of a delivery. Names have 255 bytes at most."""
    tag, delivery_tag, redelivered, exchange, routing_key = delivery
    method = b"\x00\x3c\x00\x3c%c%b%b%c%b%c%b" % (
        len(tag),
        tag,
        _ACK.pack(delivery_tag, redelivered),
        len(exchange),
        exchange,
        len(routing_key),
        routing_key,
    )
    return encode_content(channel, method, properties, body, frame_max)


def decode_ack(payload: bytes) -> tuple[int, int]:
    """Delivery tag and bits of basic.ack, nack or reject, from the class on. Raises AmqpError (502).

    The lowest bit is *multiple* (ack, nack) or *requeue* (reject), the next one *requeue* of a nack.
    """
    if len(payload) != 13:
        raise syntax_error(f"an acknowledgement of {len(payload)} bytes; it has 13")
    return _ACK.unpack_from(payload, 4)


def encode_ack(channel: int, delivery_tag: int, multiple: bool = False) -> bytes:
    """A frame with basic.ack."""
    return _ACK_FRAME.pack(METHOD, channel, 13, ACK_IDS, delivery_tag, multiple, 0xCE)


def encode_nack(channel: int, delivery_tag: int, *, multiple: bool = False, requeue: bool = True) -> bytes:
    """A frame with basic.nack."""
    return _ACK_FRAME.pack(METHOD, channel, 13, NACK_IDS, delivery_tag, multiple | requeue << 1, 0xCE)


_ACK_FRAME: Final = Struct(">BHI4sQBB")
