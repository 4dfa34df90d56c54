"""Messages on the wire: a method that has content, a header with size and properties, the body in pieces.

The header's payload (AMQP 0-9-1, 4.2.6.1):

    class u16 | weight u16 = 0 | body size u64 | raw properties (:mod:`~trunkline_amqp.properties`)
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple

from trunkline_amqp.errors import AmqpError, Reply, hard
from trunkline_amqp.frames import BODY, FRAME_HEAD, FRAME_OVERHEAD, HEADER, METHOD

__all__ = [
    "BASIC",
    "Content",
    "ContentAssembler",
    "decode_header",
    "encode_body",
    "encode_content",
    "encode_header",
    "too_large",
]

BASIC: Final = 60
_HEADER: Final = Struct(">HHQ")


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
