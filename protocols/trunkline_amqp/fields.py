"""Values on the wire: integers, strings, tables (AMQP 0-9-1, 4.2.5, with RabbitMQ's types where that differs).

All integers are big endian. A *short string* is a length of 1 byte and so many bytes, a *long string* the same with 4.
A table is a long string of pairs: the name as a short string, one byte for the type, the value. An array is a long
string of types and values.

| type | value | in Python |
|---|---|---|
| t | boolean, 1 byte | bool |
| b B | 8 bits, signed, unsigned | int |
| s u | 16 bits, signed, unsigned | int |
| I i | 32 bits, signed, unsigned | int |
| l L | 64 bits, signed | int |
| f d | IEEE 754, 32 and 64 bits | float |
| D | 1 byte of scale, 32 bits signed | Decimal |
| S | long string | str |
| x | long string of bytes | bytes |
| A | array | list |
| F | table | dict |
| T | seconds since the epoch, 64 bits | Timestamp |
| V | nothing | None |

Bytes that are no UTF-8 survive in a ``str`` as surrogates, so that what is read and written again is the same.
What is written takes the type of its Python value (int: I, or l where that is too small), so a table that must keep
its types is kept as bytes; :func:`table_spans` says where its entries are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from struct import Struct, pack
from typing import Any, Final

from trunkline_amqp.errors import AmqpError, Reply, hard

__all__ = [
    "MAX_DEPTH",
    "Reader",
    "Table",
    "Timestamp",
    "decode_table",
    "encode_long_string",
    "encode_short_string",
    "encode_table",
    "encode_value",
    "syntax_error",
    "table_spans",
]

Table = Mapping[str, Any]

MAX_DEPTH: Final = 64
"""Of tables and arrays within each other: far more than anybody means, far less than Python's stack."""

_OCTET: Final = Struct(">B")
_SHORT: Final = Struct(">H")
_LONG: Final = Struct(">I")
_LONG_LONG: Final = Struct(">Q")
_SIMPLE: Final = {
    ord("b"): Struct(">b"),
    ord("B"): Struct(">B"),
    ord("s"): Struct(">h"),
    ord("u"): Struct(">H"),
    ord("I"): Struct(">i"),
    ord("i"): Struct(">I"),
    ord("l"): Struct(">q"),
    ord("L"): Struct(">q"),
    ord("f"): Struct(">f"),
    ord("d"): Struct(">d"),
}


class Timestamp(int):
    """Seconds since the epoch, to be told from a number in a table."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"Timestamp({int(self)})"


def syntax_error(problem: str) -> AmqpError:
    """What was sent cannot be read; it ends the connection."""
    return hard(Reply.SYNTAX_ERROR, problem)


class Reader:
    """Takes values from bytes, one after the other. Raises AmqpError (502) where there are too few, or wrong ones."""

    __slots__ = ("data", "end", "position")

    def __init__(self, data: bytes, position: int = 0, end: int | None = None) -> None:
        self.data = data
        self.position = position
        self.end = len(data) if end is None else end

    @property
    def is_at_end(self) -> bool:
        return self.position >= self.end

    def _advance(self, size: int) -> int:
        """Where the next ``size`` bytes begin."""
        start = self.position
        if size > self.end - start:
            raise syntax_error(f"a field of {size} bytes begins at {start}, and there are {self.end - start}")
        self.position = start + size
        return start

    def _integer(self, form: Struct) -> int:
        value: int = form.unpack_from(self.data, self._advance(form.size))[0]
        return value

    def octet(self) -> int:
        return self._integer(_OCTET)

    def short(self) -> int:
        return self._integer(_SHORT)

    def long(self) -> int:
        return self._integer(_LONG)

    def long_long(self) -> int:
        return self._integer(_LONG_LONG)

    def raw(self, size: int) -> bytes:
        start = self._advance(size)
        return self.data[start : start + size]

    def short_string(self) -> str:
        return self.raw(self.octet()).decode("utf-8", "surrogateescape")

    def long_string(self) -> bytes:
        return self.raw(self.long())

    def table(self, depth: int = 0) -> dict[str, Any]:
        """A table; of entries with the same name the last one counts."""
        found: dict[str, Any] = {}
        inside = self._inside(depth)
        while not inside.is_at_end:
            name = inside.short_string()
            found[name] = inside.value(depth + 1)
        return found

    def array(self, depth: int) -> list[Any]:
        found: list[Any] = []
        inside = self._inside(depth)
        while not inside.is_at_end:
            found.append(inside.value(depth + 1))
        return found

    def _inside(self, depth: int) -> Reader:
        if depth > MAX_DEPTH:
            raise syntax_error(f"tables and arrays may be nested {MAX_DEPTH} deep")
        size = self.long()
        start = self._advance(size)
        return Reader(self.data, start, start + size)

    def value(self, depth: int = 0) -> Any:
        """One value with its type before it."""
        kind = self.octet()
        form = _SIMPLE.get(kind)
        if form is not None:
            return form.unpack_from(self.data, self._advance(form.size))[0]
        read = _READ.get(kind)
        if read is None:
            raise syntax_error(f"a table has a value of type {bytes([kind])!r}, which there is not")
        return read(self, depth)

    def _decimal(self) -> Decimal:
        scale = self.octet()
        number: int = _SIMPLE[ord("I")].unpack_from(self.data, self._advance(4))[0]
        return Decimal(number).scaleb(-scale)


_READ: Final[Mapping[int, Callable[[Reader, int], Any]]] = {
    ord("t"): lambda reader, depth: reader.octet() != 0,
    ord("D"): lambda reader, depth: reader._decimal(),
    ord("S"): lambda reader, depth: reader.long_string().decode("utf-8", "surrogateescape"),
    ord("x"): lambda reader, depth: reader.long_string(),
    ord("A"): Reader.array,
    ord("F"): Reader.table,
    ord("T"): lambda reader, depth: Timestamp(reader.long_long()),
    ord("V"): lambda reader, depth: None,
}


def decode_table(data: bytes) -> dict[str, Any]:
    """A whole table with its length before it. Raises AmqpError."""
    reader = Reader(data)
    found = reader.table()
    if not reader.is_at_end:
        raise syntax_error(f"{len(data) - reader.position} bytes follow a table")
    return found


def table_spans(data: bytes) -> Iterator[tuple[str, int, int]]:
    """Name, start and end of each entry (its name included) of an encoded table, to keep them as they are."""
    reader = Reader(data)._inside(0)
    while not reader.is_at_end:
        start = reader.position
        name = reader.short_string()
        reader.value(1)
        yield name, start, reader.position


# -- writing ---------------------------------------------------------------------------------------


def encode_short_string(value: str | bytes) -> bytes:
    """Raises ValueError if it has more than 255 bytes."""
    data = value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape")
    if len(data) > 255:
        raise ValueError(f"a short string holds 255 bytes, and {data[:40]!r}... has {len(data)}")
    return bytes((len(data),)) + data


def encode_long_string(value: str | bytes) -> bytes:
    data = value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape")
    return _LONG.pack(len(data)) + data


def encode_table(table: Table) -> bytes:
    """A table with its length before it. Raises ValueError or TypeError for what no table can hold."""
    return encode_long_string(
        b"".join([encode_short_string(name) + encode_value(value) for name, value in table.items()])
    )


def encode_value(value: Any) -> bytes:
    """A value with its type before it."""
    for kind, encode in _WRITE:
        if isinstance(value, kind):
            return encode(value)
    raise TypeError(f"a table cannot hold a {type(value).__name__}")


def _encode_integer(value: int) -> bytes:
    if -(2**31) <= value < 2**31:
        return b"I" + pack(">i", value)
    if -(2**63) <= value < 2**63:
        return b"l" + pack(">q", value)
    raise ValueError(f"a table holds integers of 64 bits, not {value}")


def _encode_decimal(value: Decimal) -> bytes:
    _, digits, exponent = value.as_tuple()
    scale = -exponent if isinstance(exponent, int) else -1
    number = int(value.scaleb(scale))
    if not (0 <= scale <= 255 and len(digits) <= 10 and -(2**31) <= number < 2**31):
        raise ValueError(f"a table holds decimals of 32 bits with 0 to 255 places, not {value}")
    return b"D" + pack(">Bi", scale, number)


def _encode_array(value: Sequence[Any]) -> bytes:
    return b"A" + encode_long_string(b"".join([encode_value(entry) for entry in value]))


_WRITE: Final[Sequence[tuple[type | tuple[type, ...], Callable[[Any], bytes]]]] = (
    (str, lambda value: b"S" + encode_long_string(value)),
    (bool, lambda value: b"t\1" if value else b"t\0"),
    (Timestamp, lambda value: b"T" + pack(">Q", value)),
    (int, _encode_integer),
    ((bytes, bytearray), lambda value: b"x" + encode_long_string(bytes(value))),
    (float, lambda value: b"d" + pack(">d", value)),
    (Mapping, lambda value: b"F" + encode_table(value)),
    ((list, tuple), _encode_array),
    (Decimal, _encode_decimal),
    (type(None), lambda value: b"V"),
)
