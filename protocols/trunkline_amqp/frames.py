"""Frames: what everything on a connection is packed in (AMQP 0-9-1, 2.3, 4.2.3).

    0       1         3             7            7 + size   8 + size
    +-------+---------+-------------+--------------+---------+
    | kind  | channel | size        | payload      | 0xCE    |      integers are big endian
    +-------+---------+-------------+--------------+---------+
      1: a method     0: the connection itself
      2: a content's header (size and properties)
      3: a piece of a content's body
      8: a heartbeat, on channel 0, empty

A connection begins with 8 bytes from the client, ``AMQP`` 0 0 9 1. *frame_max* counts whole frames, payload and 8.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import Final

from trunkline_amqp.errors import Reply, hard

__all__ = [
    "BODY",
    "FRAME_END",
    "FRAME_MIN",
    "FRAME_OVERHEAD",
    "HEADER",
    "HEARTBEAT",
    "HEARTBEAT_FRAME",
    "METHOD",
    "PROTOCOL_HEADER",
    "Frame",
    "FrameSplitter",
    "encode_frame",
]

PROTOCOL_HEADER: Final = b"AMQP\x00\x00\x09\x01"

METHOD: Final = 1
HEADER: Final = 2
BODY: Final = 3
HEARTBEAT: Final = 8

FRAME_END: Final = b"\xce"
FRAME_OVERHEAD: Final = 8
FRAME_MIN: Final = 4096
"""What everybody has to take, before tuning and after."""

HEARTBEAT_FRAME: Final = b"\x08\x00\x00\x00\x00\x00\x00\xce"

FRAME_HEAD: Final = Struct(">BHI")
_END: Final = 0xCE

Frame = tuple[int, int, bytes]
"""Kind, channel, payload."""


def encode_frame(kind: int, channel: int, payload: bytes) -> bytes:
    return b"%b%b\xce" % (FRAME_HEAD.pack(kind, channel, len(payload)), payload)


class FrameSplitter:
    """Cuts what arrives into frames.

    Attributes:
      max_frame_bytes: the largest frame that is taken; what is announced larger is refused before it is waited for.
    """

    __slots__ = ("_needed", "_size", "_waiting", "max_frame_bytes")

    def __init__(self, max_frame_bytes: int) -> None:
        self.max_frame_bytes = max_frame_bytes
        self._waiting: list[bytes] = []  # the beginning of a frame, as it came
        self._size = 0
        self._needed = 0

    def receive_data(self, data: bytes) -> Iterator[Frame]:
        """The frames that are complete now; take them all before the next call.

        Raises AmqpError (501) at the first one that is none, once those before it were taken.
        """
        if self._waiting:
            self._waiting.append(data)
            self._size += len(data)
            if self._size < self._needed:
                return  # joining at each piece would take quadratic time
            data = b"".join(self._waiting)
            self._waiting.clear()
        position, end = 0, len(data)
        needed = FRAME_OVERHEAD
        unpack = FRAME_HEAD.unpack_from
        while end - position >= FRAME_OVERHEAD:
            kind, channel, size = unpack(data, position)
            if size > self.max_frame_bytes - FRAME_OVERHEAD:
                raise hard(
                    Reply.FRAME_ERROR,
                    f"a frame of {size + FRAME_OVERHEAD} bytes, where {self.max_frame_bytes} are agreed on",
                )
            stop = position + 7 + size
            if stop >= end:
                needed = size + FRAME_OVERHEAD
                break
            if data[stop] != _END:
                raise hard(Reply.FRAME_ERROR, f"a frame ends with {data[stop]:#04x}, not 0xce")
            payload = data[position + 7 : stop]
            position = stop + 1
            yield kind, channel, payload
        if position < end:
            self._waiting.append(data[position:])
            self._size = end - position
            self._needed = needed
