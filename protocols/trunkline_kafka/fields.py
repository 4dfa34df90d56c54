"""The fields that Kafka's messages are made of: reading them with every length checked, and writing them.

Integers are big-endian. A *compact* length is a varint of one more than the length, so that 0 stands for null; the
others are integers, with -1 for null (KIP-482). Tagged fields end a structure of a flexible version: a varint of
how many there are, then for each its tag, its size and its bytes.

Lengths are compared with the bytes that are left before anything is made of them, and the number of entries of an
array with what that many entries must have at the least. Memory for entries is bounded besides by
:data:`MAX_ENTRIES`: an entry of one byte becomes an object of a hundred.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from struct import Struct, unpack_from
from typing import Any, Final, NoReturn, TypeVar

from trunkline.errors import RemoteProtocolError

__all__ = [
    "MAX_ENTRIES",
    "NO_TAGS",
    "NO_UUID",
    "Buffer",
    "Put",
    "Reader",
    "compact_length",
    "compact_string",
    "numbers",
    "put_array",
    "put_bytes",
    "put_compact_array",
    "put_compact_bytes",
    "put_compact_string",
    "put_string",
    "put_tagged",
    "put_uuid",
    "string",
    "uvarint",
]

Buffer = bytes | memoryview
Put = Callable[[Buffer], object]
"""Where written fields go: the ``append`` of a list."""

_T = TypeVar("_T")

MAX_ENTRIES: Final = 100_000
"""Of all arrays of one message together; a request for each partition of ten full topics has as many."""

NO_UUID: Final = bytes(16)
NO_TAGS: Final = b"\x00"

_I16: Final = Struct(">h")
_I32: Final = Struct(">i")
_MAX_UVARINT_BITS: Final = 28  # five bytes hold 35 bits, of which 32 may be used


class Reader:
    """Reads one message from ``data[at:end]``. Everything raises RemoteProtocolError for what cannot be.

    Reads of numbers may run past ``end`` into what follows in the buffer; :meth:`finish` tells.
    """

    __slots__ = ("_entries", "at", "data", "end")

    def __init__(self, data: bytes, at: int = 0, end: int | None = None) -> None:
        self.data = data
        self.at = at
        self.end = len(data) if end is None else end
        self._entries = MAX_ENTRIES

    def finish(self) -> None:
        """The message must have ended in its frame. What may follow it is ignored, as Kafka does.

        librdkafka (2.16 still) asks for all topics with a count of four bytes where it should have one: what is read
        then happens to be right, and three bytes are left.
        """
        if self.at > self.end:
            raise RemoteProtocolError(f"it ends {self.at - self.end} bytes too early")

    def unpack(self, form: Struct) -> tuple[Any, ...]:
        """Some numbers. Raises struct.error past the end of the buffer; whoever decodes sees to that."""
        at = self.at
        self.at = at + form.size
        return form.unpack_from(self.data, at)

    def uvarint(self) -> int:
        """An unsigned integer of up to 32 bits, seven to a byte, the low ones first."""
        data, at = self.data, self.at
        byte = data[at]
        at += 1
        if byte < 0x80:
            self.at = at
            return byte
        value = byte & 0x7F
        shift = 7
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
            if shift > _MAX_UVARINT_BITS:
                raise RemoteProtocolError("a varint has more than five bytes")
        self.at = at
        return value

    def _take(self, length: int) -> bytes:
        at = self.at
        stop = self.at = at + length
        if stop > self.end:
            raise RemoteProtocolError(f"a field of {length} bytes begins {self.end - at} bytes before the end")
        return self.data[at:stop]

    def _length(self, form: Struct) -> int:
        at = self.at
        self.at = at + form.size
        length: int = form.unpack_from(self.data, at)[0]
        if length < -1:
            raise RemoteProtocolError(f"a length of {length}")
        return length

    def is_there(self) -> bool:
        """Whether a structure follows that may be null."""
        byte = self.data[self.at]
        self.at += 1
        return byte < 0x80

    # -- strings and bytes -------------------------------------------------------------------------

    def string(self) -> str:
        length = self._length(_I16)
        if length < 0:
            _refuse_null()
        return self._take(length).decode()

    def nullable_string(self) -> str | None:
        length = self._length(_I16)
        return None if length < 0 else self._take(length).decode()

    def compact_string(self) -> str:
        at = self.at
        length = self.data[at]
        if 0 < length < 0x80:  # nearly all of them
            start = at + 1
            stop = self.at = at + length
            if stop <= self.end:
                return self.data[start:stop].decode()
            self.at = at
        length = self.uvarint() - 1
        if length < 0:
            _refuse_null()
        return self._take(length).decode()

    def compact_nullable_string(self) -> str | None:
        if not self.data[self.at]:
            self.at += 1
            return None
        return self.compact_string()

    def binary(self) -> bytes:
        length = self._length(_I32)
        if length < 0:
            _refuse_null()
        return self._take(length)

    def nullable_binary(self) -> bytes | None:
        length = self._length(_I32)
        return None if length < 0 else self._take(length)

    def compact_binary(self) -> bytes:
        length = self.uvarint() - 1
        if length < 0:
            _refuse_null()
        return self._take(length)

    def compact_nullable_binary(self) -> bytes | None:
        length = self.uvarint() - 1
        return None if length < 0 else self._take(length)

    def nullable_records(self) -> memoryview | None:
        """Record batches: not copied, a view of the buffer. Of a bytearray it can be written to."""
        return self._view(self._length(_I32))

    def compact_nullable_records(self) -> memoryview | None:
        return self._view(self.uvarint() - 1)

    def _view(self, length: int) -> memoryview | None:
        if length < 0:
            return None
        at = self.at
        stop = self.at = at + length
        if stop > self.end:
            raise RemoteProtocolError(f"records of {length} bytes begin {self.end - at} bytes before the end")
        return memoryview(self.data)[at:stop]

    # -- arrays ------------------------------------------------------------------------------------

    def array(self, least: int) -> int:
        """How many entries follow, each of at least ``least`` bytes."""
        count = self.nullable_array(least)
        return _refuse_null() if count is None else count

    def nullable_array(self, least: int) -> int | None:
        return self._count(self._length(_I32), least)

    def compact_array(self, least: int) -> int:
        at = self.at
        count = self.data[at] - 1
        if 0 <= count < 0x7F and count * least < self.end - at:  # nearly all of them
            self.at = at + 1
            self._entries -= count
            if self._entries < 0:
                _refuse_entries()
            return count
        found = self._count(self.uvarint() - 1, least)
        return _refuse_null() if found is None else found

    def compact_nullable_array(self, least: int) -> int | None:
        return self._count(self.uvarint() - 1, least)

    def _count(self, count: int, least: int) -> int | None:
        if count < 0:
            return None
        if count * least > self.end - self.at:
            raise RemoteProtocolError(f"an array of {count} entries begins {self.end - self.at} bytes before the end")
        self._entries -= count
        if self._entries < 0:
            _refuse_entries()
        return count

    def numbers(self, count: int, code: str) -> list[int]:
        """``count`` numbers of a struct code."""
        found = unpack_from(f">{count}{code}", self.data, self.at)
        self.at += count * _SIZES[code]
        return list(found)

    # -- tagged fields -----------------------------------------------------------------------------

    def tags(self) -> None:
        """Pass over the tagged fields of a structure that has none we know."""
        if self.at < self.end and not self.data[self.at]:
            self.at += 1
            return
        for _ in range(self.uvarint()):
            self.at = self.tag()[1]

    def tag(self) -> tuple[int, int]:
        """The next tag, and where its field ends."""
        tag = self.uvarint()
        stop = self.uvarint() + self.at
        if stop > self.end:
            raise RemoteProtocolError(f"tagged field {tag} ends {stop - self.end} bytes after the message")
        return tag, stop

    def end_tag(self, stop: int) -> None:
        """A tagged field must be over here."""
        if self.at != stop:
            raise RemoteProtocolError(f"a tagged field has {self.at - stop} bytes more than it says")


def _refuse_null() -> NoReturn:
    raise RemoteProtocolError("null where there must be a value")


def _refuse_entries() -> NoReturn:
    raise RemoteProtocolError(f"a message has more than {MAX_ENTRIES} entries in its arrays")


_SIZES: Final = {"h": 2, "i": 4, "q": 8}

# -- writing ---------------------------------------------------------------------------------------


_SHORT: Final = tuple([bytes([value]) for value in range(0x80)])


def uvarint(value: int) -> bytes:
    if value < 0x80:
        return _SHORT[value]
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def compact_length(length: int) -> bytes:
    """The length or count before compact strings, bytes, records and arrays."""
    return uvarint(length + 1)


def string(value: str | None) -> bytes:
    if value is None:
        return b"\xff\xff"
    encoded = value.encode()
    return _I16.pack(len(encoded)) + encoded


def compact_string(value: str | None) -> bytes:
    if value is None:
        return b"\x00"
    encoded = value.encode()
    length = len(encoded) + 1
    return (_SHORT[length] if length < 0x80 else uvarint(length)) + encoded


def put_bytes(put: Put, value: Buffer | None) -> None:
    """The length, then the value itself, not copied."""
    if value is None:
        put(b"\xff\xff\xff\xff")
        return
    put(_I32.pack(len(value)))
    put(value)


def put_compact_bytes(put: Put, value: Buffer | None) -> None:
    if value is None:
        put(b"\x00")
        return
    put(uvarint(len(value) + 1))
    put(value)


def put_array(put: Put, values: Sequence[_T] | None, write: Callable[[Put, _T], None]) -> None:
    if values is None:
        put(b"\xff\xff\xff\xff")
        return
    put(_I32.pack(len(values)))
    for value in values:
        write(put, value)


def put_compact_array(put: Put, values: Sequence[_T] | None, write: Callable[[Put, _T], None]) -> None:
    if not values:
        put(b"\x00" if values is None else b"\x01")
        return
    put(uvarint(len(values) + 1))
    for value in values:
        write(put, value)


def put_string(put: Put, value: str) -> None:
    put(string(value))


def put_compact_string(put: Put, value: str) -> None:
    put(compact_string(value))


def put_uuid(put: Put, value: bytes) -> None:
    put(value)


def numbers(values: Sequence[int], code: str) -> bytes:
    """Numbers one after another, each as a struct code says."""
    return Struct(f">{len(values)}{code}").pack(*values)


def put_tagged(put: Put, fields: Sequence[tuple[int, list[Buffer]]]) -> None:
    """The tagged fields that are not at their defaults, in the order of their tags."""
    put(uvarint(len(fields)))
    for tag, parts in fields:
        put(uvarint(tag) + uvarint(sum(map(len, parts))))
        for part in parts:
            put(part)
