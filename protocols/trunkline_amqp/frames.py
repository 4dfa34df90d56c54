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

from trunkline_amqp.errors import AmqpError, Reply, hard

__all__ = [
    "ACKS",
    "BODY",
    "FRAME_END",
    "FRAME_MIN",
    "FRAME_OVERHEAD",
    "HEADER",
    "HEARTBEAT",
    "HEARTBEAT_FRAME",
    "MESSAGE",
    "METHOD",
    "PROTOCOL_HEADER",
    "AckRun",
    "Frame",
    "FrameSplitter",
    "MessageSplitter",
    "WholeMessage",
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
HEAD_BYTES: Final = 7
_END: Final = 0xCE
_CONTENT_HEAD: Final = Struct(">BHIHHQ")  # of a header frame, with the beginning of its payload
_BASIC: Final = 60
_PUBLISH: Final = b"\x00\x3c\x00\x28"
_ACK: Final = b"\x00\x3c\x00\x50"
_ACK_FRAME: Final = Struct(">11sQ2s")  # head, class and method; tag; no bits and the end
_ACK_TAIL: Final = b"\x00\xce"
_ACK_SIZE: Final = 13

Frame = tuple[int, int, bytes]
"""Kind, channel, payload."""

MESSAGE: Final = -2
"""No kind of frame: a whole message that was published, found in one piece."""

ACKS: Final = -1
"""No kind of frame either: several basic.ack behind each other, each for the delivery after the one before."""

AckRun = tuple[int, int, tuple[int, int]]
"""``ACKS``, channel, and the delivery tags: the first, the one after the last."""

WholeMessage = tuple[int, int, tuple[bytes, bytes, bytes]]
"""``MESSAGE``, channel, and of the message: payload of its method, raw properties, body."""


def encode_frame(kind: int, channel: int, payload: bytes) -> bytes:
    return b"%b%b\xce" % (FRAME_HEAD.pack(kind, channel, len(payload)), payload)


class _Buffer:
    """What has arrived of a frame that is not complete."""

    __slots__ = ("_needed", "_size", "_waiting", "max_frame_bytes")

    def __init__(self, max_frame_bytes: int) -> None:
        self.max_frame_bytes = max_frame_bytes
        self._waiting: list[bytes] = []
        self._size = 0
        self._needed = 0

    def _join(self, data: bytes) -> bytes | None:
        """What waits and ``data``; None: that is no whole frame yet."""
        if self._waiting:
            self._waiting.append(data)
            self._size += len(data)
            if self._size < self._needed:
                return None  # joining at each piece would take quadratic time
            data = b"".join(self._waiting)
            self._waiting.clear()
        return data

    def _keep(self, data: bytes, position: int) -> None:
        """From there on no frame is complete; it begins with a head that was checked, or is shorter than that."""
        self._size = len(data) - position
        if self._size:
            self._waiting.append(data[position:])
            self._needed = HEAD_BYTES
            if self._size >= HEAD_BYTES:
                self._needed = FRAME_OVERHEAD + FRAME_HEAD.unpack_from(data, position)[2]

    def _too_large(self, size: int) -> AmqpError:
        return hard(
            Reply.FRAME_ERROR, f"a frame of {size + FRAME_OVERHEAD} bytes, where {self.max_frame_bytes} are agreed on"
        )


class FrameSplitter(_Buffer):
    """Cuts what arrives into frames.

    Attributes:
      max_frame_bytes: the largest frame that is taken; what is announced larger is refused before it is waited for.
    """

    __slots__ = ()

    def receive_data(self, data: bytes) -> Iterator[Frame]:
        """The frames that are complete now; take them all before the next call.

        Raises AmqpError (501) at the first one that is none, once those before it were taken.
        """
        joined = self._join(data)
        if joined is None:
            return
        position, end = 0, len(joined)
        unpack = FRAME_HEAD.unpack_from
        while end - position >= HEAD_BYTES:
            kind, channel, size = unpack(joined, position)
            if size > self.max_frame_bytes - FRAME_OVERHEAD:
                raise self._too_large(size)
            stop = position + 7 + size
            if stop >= end:
                break
            if joined[stop] != _END:
                raise _no_end(joined[stop])
            payload = joined[position + 7 : stop]
            position = stop + 1
            yield kind, channel, payload
        self._keep(joined, position)


class MessageSplitter(_Buffer):
    """The same for a server: a message that has arrived whole comes as one, and so do acknowledgements in order.

    Nearly all are of this form: method, header and one body frame, one behind the other; basic.ack for one delivery
    after the other. Taking them apart in one go costs a third of what single frames do. Whatever is not of exactly this
    form comes frame by frame, to be judged elsewhere.
    """

    __slots__ = ()

    def receive_data(self, data: bytes) -> Iterator[Frame | WholeMessage | AckRun]:
        """As :meth:`FrameSplitter.receive_data`."""
        joined = self._join(data)
        if joined is None:
            return
        position, end = 0, len(joined)
        unpack, unpack_content = FRAME_HEAD.unpack_from, _CONTENT_HEAD.unpack_from
        most = self.max_frame_bytes - FRAME_OVERHEAD
        while end - position >= HEAD_BYTES:
            kind, channel, size = unpack(joined, position)
            if size > most:
                raise self._too_large(size)
            stop = position + 7 + size
            if stop >= end:
                break
            if joined[stop] != _END:
                raise _no_end(joined[stop])
            if kind == METHOD and end - stop > 29 and joined[position + 7 : position + 11] == _PUBLISH:
                is_header, number, header_size, class_id, _, body_size = unpack_content(joined, stop + 1)
                header_stop = stop + 8 + header_size
                if (
                    is_header == HEADER
                    and number == channel
                    and 14 <= header_size <= most
                    and class_id == _BASIC
                    and end - header_stop > FRAME_OVERHEAD
                    and joined[header_stop] == _END
                ):
                    is_body, number, size = unpack(joined, header_stop + 1)
                    body_stop = header_stop + 8 + size
                    if (
                        is_body == BODY
                        and number == channel
                        and 0 < size == body_size <= most
                        and body_stop < end
                        and joined[body_stop] == _END
                    ):
                        message = (
                            joined[position + 7 : stop],
                            joined[stop + 20 : header_stop],
                            joined[header_stop + 8 : body_stop],
                        )
                        position = body_stop + 1
                        yield MESSAGE, channel, message
                        continue
            elif kind == METHOD and size == _ACK_SIZE and joined[position + 7 : position + 11] == _ACK:
                tag, count = _ack_run(joined, position, end)
                if count > 1:
                    position += count * _ACK_FRAME.size
                    yield ACKS, channel, (tag, tag + count)
                    continue
            payload = joined[position + 7 : stop]
            position = stop + 1
            yield kind, channel, payload
        self._keep(joined, position)


def _ack_run(data: bytes, position: int, end: int) -> tuple[int, int]:
    """The tag of the first, and how many there are; 0: it is none that is so simple."""
    stop = position + (end - position) // _ACK_FRAME.size * _ACK_FRAME.size
    first, tag, _ = _ACK_FRAME.unpack_from(data, position)
    expected = tag
    for head, found, tail in _ACK_FRAME.iter_unpack(memoryview(data)[position:stop]):
        if head != first or found != expected or tail != _ACK_TAIL:
            break
        expected += 1
    return tag, expected - tag


def _no_end(found: int) -> AmqpError:
    return hard(Reply.FRAME_ERROR, f"a frame ends with {found:#04x}, not 0xce")
