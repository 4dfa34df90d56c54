"""Bytes to frames and back. No I/O.

A frame, integers big-endian::

    u32 length          of all that follows; 2 + header_length <= length <= the receiver's limit
    u16 header_length
    header              one CBOR array [kind, ...], see trunkline_native.frames
    body                the rest: record batches, untouched

A frame that does not arrive as a whole is put together where it will stay (:mod:`trunkline.partial`), so that the rest
of a large one can be received right there. The body of a large frame is a view; of a small one a copy: that is cheaper.

CBOR is limited to what the protocol needs: definite lengths, no tags, text keys, eight levels. (Tags would make
the decoder run dates, big numbers and regular expressions of a stranger's choice.)
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from enum import Enum
from functools import partial
from typing import Any, Final, NoReturn

import cbor2
import msgspec

from trunkline.errors import LocalProtocolError, RemoteProtocolError
from trunkline.partial import PartialFrame
from trunkline_native.frames import Frame, Header, Unknown
from trunkline_native.queue_frames import Deliver, Extend, Reject, Release, Settle

__all__ = [
    "CLOSED",
    "MAX_HEADER_BYTES",
    "NEED_DATA",
    "FrameDecoder",
    "decode_cbor",
    "encode",
    "encode_data_head",
    "encode_deliver_head",
    "encode_head",
    "encode_produced",
]

_HEAD: Final = struct.Struct(">IH")
_LENGTH_BYTES: Final = 4
_HEAD_BYTES: Final = _HEAD.size
MAX_HEADER_BYTES: Final = 65_535
_VIEW_BYTES: Final = 2048  # below this a copy of the body is cheaper than a view of it
_MAX_CBOR_DEPTH: Final = 8


class Sentinel(Enum):
    """What ``next_event`` returns when there is no frame."""

    NEED_DATA = "need data"
    CLOSED = "closed"


NEED_DATA: Final = Sentinel.NEED_DATA
"""No whole frame is there yet."""
CLOSED: Final = Sentinel.CLOSED
"""The peer has closed, between two frames."""


def _refuse_tag(*_: Any) -> None:
    raise ValueError("tags are not allowed")


# Every tag that cbor2 would act on by itself; the others end in tag_hook.
_ACTING_TAGS: Final = (*range(6), 25, *range(28, 31), 35, 36, 37, 52, 54, 100, 256, 258, 260, 261, 1004, 43000, 55799)
decode_cbor: Final = partial(
    cbor2.loads,
    max_depth=_MAX_CBOR_DEPTH,
    allow_indefinite=False,
    strict_hashable_types=True,
    tag_hook=_refuse_tag,
    semantic_decoders=dict.fromkeys(_ACTING_TAGS, _refuse_tag),
)
"""One CBOR item from bytes, within the limits above; raises cbor2.CBORDecodeError."""


def encode_head(header: Header, body_bytes: int) -> bytes:
    """The frame up to its body, which the caller writes next; it has ``body_bytes`` bytes.

    Raises LocalProtocolError if the header would be too long.
    """
    encoded = cbor2.dumps(msgspec.to_builtins(header))
    if len(encoded) > MAX_HEADER_BYTES:
        raise LocalProtocolError(f"a header of {len(encoded)} bytes is over {MAX_HEADER_BYTES}; ask for less at a time")
    return _HEAD.pack(2 + len(encoded) + body_bytes, len(encoded)) + encoded


def encode(header: Header, body: bytes = b"") -> bytes:
    """One whole frame."""
    return encode_head(header, len(body)) + body


def _uint(value: int) -> bytes:
    """A CBOR unsigned integer (RFC 8949, 3.1), as short as can be."""
    if value < 24:
        return value.to_bytes(1, "big")
    if value < 0x100:
        return b"\x18" + value.to_bytes(1, "big")
    if value < 0x10000:
        return b"\x19" + value.to_bytes(2, "big")
    if value < 0x100000000:
        return b"\x1a" + value.to_bytes(4, "big")
    return b"\x1b" + value.to_bytes(8, "big")


_PRODUCED: Final = b"\x83" + _uint(67)
_DATA: Final = b"\x84" + _uint(80)
_DELIVER: Final = b"\x83" + _uint(117)


def encode_produced(request_id: int, base_offset: int) -> bytes:
    """``encode(Produced(request_id, base_offset))``, three times faster."""
    header = b"".join((_PRODUCED, _uint(request_id), _uint(base_offset)))
    return _HEAD.pack(2 + len(header), len(header)) + header


def encode_data_head(stream: int, next_offset: int, high_watermark: int, body_bytes: int) -> bytes:
    """``encode_head(Data(stream, next_offset, high_watermark), body_bytes)``, three times faster."""
    header = b"".join((_DATA, _uint(stream), _uint(next_offset), _uint(high_watermark)))
    return _HEAD.pack(2 + len(header) + body_bytes, len(header)) + header


def encode_deliver_head(consumption: int, runs: int, body_bytes: int) -> bytes:
    """``encode_head(Deliver(consumption, runs), body_bytes)``, three times faster."""
    header = b"".join((_DELIVER, _uint(consumption), _uint(runs)))
    return _HEAD.pack(2 + len(header) + body_bytes, len(header)) + header


_REPEATED: Final = frozenset((Deliver, Settle, Release, Reject, Extend))
_MAX_KNOWN: Final = 64
"""Headers that are kept decoded: those of a connection's few consumptions come again and again, byte for byte."""
_MAX_KNOWN_BYTES: Final = 64


class FrameDecoder:
    """Turns what arrives into frames.

    Args:
      kinds: the frames that the other side may send.
      max_frame_bytes: largest ``length`` taken; may be changed between two frames.

    Attributes:
      partial: a large frame that is not whole yet. Its memory is the body's, and belongs to whoever takes that.
    """

    __slots__ = ("_at", "_data", "_is_closed", "_kinds", "_known", "_largest", "max_frame_bytes", "partial")

    def __init__(self, kinds: Mapping[int, type[Header]], max_frame_bytes: int) -> None:
        self._kinds = kinds
        self._known: dict[bytes, Header] = {}
        self.max_frame_bytes = max_frame_bytes
        self.partial: PartialFrame | None = None
        self._data = b""
        self._at = 0  # in it the next frame begins
        self._largest = 0  # size of a partial frame that became whole
        self._is_closed = False

    @property
    def held_bytes(self) -> int:
        """Of a frame that is not whole."""
        return 0 if self.partial is None else self.partial.held_bytes

    def receive_data(self, data: bytes) -> None:
        """Bytes arrived; ``b""`` means that the peer has closed, or else that ``partial`` was made whole."""
        partial = self.partial
        if not data:
            self._is_closed = partial is None or not partial.is_whole
            return
        at = 0 if partial is None else partial.add(data)
        if self._at < len(self._data):
            data, at = self._data[self._at :] + data[at:], 0
        self._data, self._at = data, at

    def next_event(self) -> Frame | Sentinel:
        """The next frame, ``NEED_DATA``, or ``CLOSED``.

        Raises:
          RemoteProtocolError: the peer broke the rules; nothing more can be read from it.
        """
        partial = self.partial
        if partial is not None:
            if not partial.is_whole:
                return self._starved()
            self.partial = None
            self._largest = max(self._largest, partial.size)
            whole = partial.take()
            return self._frame(whole, 0, partial.size, _HEAD.unpack_from(whole)[1])
        data, at = self._data, self._at
        left = len(data) - at
        if left < _HEAD_BYTES:
            return self._starved()
        length, header_bytes = _HEAD.unpack_from(data, at)
        if length > self.max_frame_bytes or length < 2 + header_bytes:
            self._refuse_length(length, header_bytes)
        size = _LENGTH_BYTES + length
        if size > left:
            self.partial = PartialFrame(size, data, at, self._largest)
            self._data, self._at = b"", 0
            return self._starved()
        self._at = at + size
        return self._frame(data, at, size, header_bytes)

    def _frame(self, buffer: bytes | bytearray, at: int, size: int, header_bytes: int) -> Frame:
        """The frame that lies there."""
        body_at, end = at + _HEAD_BYTES + header_bytes, at + size
        data = bytes(buffer[at + _HEAD_BYTES : body_at])
        header = self._known.get(data)
        if header is None:
            header = self._decode(data)
            if type(header) in _REPEATED and len(data) <= _MAX_KNOWN_BYTES:
                self._remember(data, header)
        body = bytes(buffer[body_at:end]) if end - body_at < _VIEW_BYTES else memoryview(buffer)[body_at:end]
        return Frame(header, body)

    def _starved(self) -> Sentinel:
        if not self._is_closed:
            return NEED_DATA
        if self.partial is not None or self._at < len(self._data):
            raise RemoteProtocolError("the connection ended in the middle of a frame")
        return CLOSED

    def _refuse_length(self, length: int, header_bytes: int) -> NoReturn:
        if length > self.max_frame_bytes:
            raise RemoteProtocolError(f"a frame of {length} bytes is over the limit of {self.max_frame_bytes}")
        raise RemoteProtocolError(f"a header of {header_bytes} bytes does not fit a frame of {length} bytes")

    def _remember(self, data: bytes, header: Header) -> None:
        if len(self._known) >= _MAX_KNOWN:
            self._known.clear()
        self._known[data] = header

    def _decode(self, data: bytes) -> Header:
        try:
            fields = decode_cbor(data)
        except (cbor2.CBORDecodeError, RecursionError) as error:
            raise RemoteProtocolError(f"a header is not the CBOR it should be: {error}") from None
        if type(fields) is not list or not fields or type(fields[0]) is not int:
            raise RemoteProtocolError("a header is not an array that begins with a number")
        cls = self._kinds.get(fields[0])
        if cls is None:
            request_id = fields[1] if len(fields) > 1 and type(fields[1]) is int else None
            return Unknown(fields[0], request_id)
        try:
            return msgspec.convert(fields, cls)
        except msgspec.ValidationError as error:
            raise RemoteProtocolError(f"{cls.__name__}: {error}") from None
