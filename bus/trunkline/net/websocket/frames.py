"""WebSocket's frames, from a client to this server and back: bytes only. RFC 6455, 5.2.

    byte 0      FIN (0x80), three reserved bits, opcode: 0 continuation, 1 text, 2 binary, 8 close, 9 ping, 10 pong
    byte 1      MASK (0x80; set by clients, never by servers), then the length: 0 to 125 itself,
                126: the next 2 bytes hold it, 127: the next 8 do; big-endian, in the shortest form
    4 bytes     the masking key, if MASK is set
    the payload XORed with the key, if MASK is set

wsproto does this and more, but takes 14 microseconds for a frame of 110 bytes in and 3 to 5 for one out, more than
decoding the MQTT packet in it and encoding it again; this takes 1.1 to 1.9 and 0.2 (the same loop on one machine).
"""

from __future__ import annotations

from typing import Final

import msgspec

from trunkline.errors import RemoteProtocolError

__all__ = ["CloseCode", "Closing", "FrameDecoder", "Ping", "binary", "closing", "pong"]


class CloseCode:
    """RFC 6455, 7.4.1."""

    NORMAL: Final = 1000
    PROTOCOL_ERROR: Final = 1002
    UNSUPPORTED_DATA: Final = 1003
    INTERNAL_ERROR: Final = 1011


class Ping(msgspec.Struct, frozen=True):
    """RFC 6455, 5.5.2. To be answered with a pong of the same payload."""

    payload: bytes = b""


class Closing(msgspec.Struct, frozen=True):
    """RFC 6455, 5.5.1. Nothing comes after it. ``code`` is None if the peer gave none."""

    code: int | None = None


_FINAL: Final = 0x80
_RESERVED: Final = 0x70
_MASKED: Final = 0x80
_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0, 1, 2, 8, 9, 10
_MAX_CONTROL_BYTES: Final = 125
_WHOLE_BINARY: Final = _FINAL | _BINARY
_SMALL_BINARY: Final = tuple([bytes((_WHOLE_BINARY, size)) for size in range(126)])


class FrameDecoder:
    """Reads what a client sends. Data comes out as soon as it is there, also of a frame that is not complete yet."""

    __slots__ = ("_data", "_is_in_message", "_key", "_position", "_remaining")

    def __init__(self) -> None:
        self._data = b""  # not read yet from _position on: at most the beginning of a frame, or a control frame
        self._position = 0
        self._remaining = 0  # payload bytes of the current data frame that are still to come
        self._key = b""  # that the next of them is XORed with, rotated as needed
        self._is_in_message = False  # the last data frame was not its message's last

    def receive_data(self, data: bytes) -> None:
        """Take bytes as they come; ``next_event`` must have said None before."""
        self._data = self._data[self._position :] + data if self._position < len(self._data) else data
        self._position = 0

    def next_event(self) -> bytes | Ping | Closing | None:
        """What is next: data (possibly none), a ping, the peer's close; None if more must arrive first.

        Raises RemoteProtocolError with ``close_code`` for what RFC 6455 or MQTT does not allow, text among it.
        """
        while True:
            data, start = self._data, self._position
            available = len(data) - start
            if self._remaining:
                return self._more_of_the_frame(data, start, available) if available else None
            if available < 2:
                return None
            first, size = data[start], data[start + 1] - _MASKED
            if size < 0:
                raise _wrong("a frame is not masked", "5.1")
            if available < 6:
                return None
            start += 2
            if size >= 126:
                width = 2 if size == 126 else 8
                if available < 6 + width:
                    return None
                size = _long_size(data[start : start + width])
                start += width
            opcode = _BINARY  # the usual case, quicker
            if first != _WHOLE_BINARY or self._is_in_message:
                opcode = self._check_kind(first, size)
            key = data[start : start + 4]
            start += 4
            end = start + size
            if end <= len(data):
                payload = _unmask(data[start:end], key)
                self._position = end
            elif opcode >= _CLOSE:
                return None
            else:
                payload = _unmask(data[start:], key)
                self._remaining = end - len(data)
                self._key = _rotated(key, len(payload))
                self._position = len(data)
            if opcode < _CLOSE:
                self._is_in_message = not first & _FINAL
                return payload
            if opcode == _PING:
                return Ping(payload)
            if opcode == _CLOSE:
                return _closing(payload)
            # a pong that nobody asked for means nothing: 5.5.3

    def _more_of_the_frame(self, data: bytes, start: int, available: int) -> bytes:
        size = min(self._remaining, available)
        payload = _unmask(data[start : start + size], self._key)
        self._remaining -= size
        self._key = _rotated(self._key, size)
        self._position = start + size
        return payload

    def _check_kind(self, first: int, size: int) -> int:
        """The opcode, if a frame that begins so may come now."""
        opcode = first & 0x0F
        if first & _RESERVED:
            raise _wrong(f"reserved bits of a frame are set ({first:#04x}); no extension was agreed on", "5.2")
        if opcode in (_BINARY, _TEXT):
            if self._is_in_message:
                raise _wrong("a message begins before the one before it has ended", "5.4")
            if opcode == _TEXT:
                problem = "WebSocket: a text message came; only binary ones are taken here"
                raise RemoteProtocolError(problem, close_code=CloseCode.UNSUPPORTED_DATA)
        elif opcode == _CONTINUATION:
            if not self._is_in_message:
                raise _wrong("a continuation came where no message had begun", "5.4")
        elif opcode not in (_CLOSE, _PING, _PONG):
            raise _wrong(f"opcode {opcode} is reserved", "5.2")
        elif size > _MAX_CONTROL_BYTES or not first & _FINAL:
            raise _wrong("a control frame is fragmented or has more than 125 bytes", "5.5")
        return opcode


def binary(payload: bytes) -> bytes:
    """A binary message in one frame."""
    size = len(payload)
    if size < 126:
        return _SMALL_BINARY[size] + payload
    if size < 1 << 16:
        return b"\x82\x7e" + size.to_bytes(2) + payload
    return b"\x82\x7f" + size.to_bytes(8) + payload


def pong(payload: bytes) -> bytes:
    """The answer to a ping: RFC 6455, 5.5.3."""
    return bytes((_FINAL | _PONG, len(payload))) + payload


def closing(code: int) -> bytes:
    """The last frame. RFC 6455, 5.5.1."""
    return bytes((_FINAL | _CLOSE, 2)) + code.to_bytes(2)


def _long_size(digits: bytes) -> int:
    size = int.from_bytes(digits)
    if size < (126 if len(digits) == 2 else 1 << 16):
        raise _wrong(f"a length of {size} is not in its shortest form", "5.2")
    if size >> 63:
        raise _wrong("a length has its highest bit set", "5.2")
    return size


def _closing(payload: bytes) -> Closing:
    if not payload:
        return Closing()
    code = int.from_bytes(payload[:2])
    if len(payload) == 1 or not (1000 <= code < 5000) or code in (1004, 1005, 1006, 1015):
        raise _wrong(f"a close frame has the code {payload[:2].hex()}", "7.4")
    try:
        payload[2:].decode()
    except UnicodeDecodeError:
        raise _wrong("the reason in a close frame is not UTF-8", "5.5.1") from None
    return Closing(code)


def _unmask(data: bytes, key: bytes) -> bytes:
    """XOR with the key, over and over: as two large numbers, which is Python's quickest way for usual sizes."""
    size = len(data)
    mask = (key * ((size >> 2) + 1))[:size]
    return (int.from_bytes(data, "little") ^ int.from_bytes(mask, "little")).to_bytes(size, "little")


def _rotated(key: bytes, done: int) -> bytes:
    """The key for what comes after ``done`` more bytes."""
    done &= 3
    return key[done:] + key[:done]


def _wrong(problem: str, section: str) -> RemoteProtocolError:
    return RemoteProtocolError(f"WebSocket: {problem} (RFC 6455, {section})", close_code=CloseCode.PROTOCOL_ERROR)
