"""Numbers, tables and sets as bytes: what the stored formats of queues are made of.

They are drawn in :mod:`trunkline.queues.stored`. Every length is checked before it is believed; what does not fit
raises CorruptLog.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence
from typing import Final

from trunkline.errors import CorruptLog
from trunkline.queues.index import Range
from trunkline.queues.ranges import joined

__all__ = ["Reader", "put_set", "put_table", "put_varint", "take_set", "take_table"]

MAX_ROWS: Final = 1 << 32
_WIDTHS: Final = {0: "", 1: "B", 2: "H", 4: "I", 8: "Q"}


# Numbers


def put_varint(out: bytearray, number: int) -> None:
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)


def put_varints(out: bytearray, numbers: Sequence[int]) -> None:
    if not numbers or max(numbers) < 0x80:
        out += bytes(numbers)
        return
    for number in numbers:
        put_varint(out, number)


class Reader:
    """Takes values off the front of bytes. Raises CorruptLog rather than read past their end."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0

    @property
    def left(self) -> int:
        return len(self.data) - self.position

    def wrong(self, what: str) -> CorruptLog:
        return CorruptLog(f"the stored state of a queue is damaged: {what} at byte {self.position}")

    def u8(self) -> int:
        if not self.left:
            raise self.wrong("it ends")
        self.position += 1
        return self.data[self.position - 1]

    def varint(self, bits: int = 63) -> int:
        number = shift = 0
        while True:
            byte = self.u8()
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
            if shift > 63:
                raise self.wrong("a number is too long")
        if number >> bits:
            raise self.wrong("a number is too large")
        return number

    def zigzag(self) -> int:
        folded = self.varint(64)
        return -(folded >> 1) - 1 if folded & 1 else folded >> 1

    def take(self, length: int) -> bytes:
        if length > self.left:
            raise self.wrong(f"{length} bytes should follow but {self.left} do")
        self.position += length
        return self.data[self.position - length : self.position]

    def end(self) -> None:
        if self.left:
            raise self.wrong("more follows than should")


# Tables


def put_table(out: bytearray, columns: Sequence[Sequence[int]]) -> None:
    rows = len(columns[0])
    put_varint(out, rows)
    if not rows:
        return
    for column in columns:
        base, high = min(column), max(column)
        put_varint(out, base << 1 if base >= 0 else (-base << 1) - 1)
        spread = high - base
        width = 0 if not spread else 1 if spread < 1 << 8 else 2 if spread < 1 << 16 else 4 if spread < 1 << 32 else 8
        out.append(width)
        if width:
            values = array(_WIDTHS[width], [value - base for value in column] if base else column)
            if sys.byteorder == "big":
                values.byteswap()
            out += values.tobytes()


def take_table(reader: Reader, columns: int) -> list[list[int]]:
    rows = reader.varint()
    if not rows:
        return [[] for _ in range(columns)]
    if rows > MAX_ROWS:
        raise reader.wrong("a table is too long")
    found: list[list[int]] = []
    is_plausible = False  # a table of constants only could claim any number of rows
    for _ in range(columns):
        base, width = reader.zigzag(), reader.u8()
        if width not in _WIDTHS:
            raise reader.wrong("a column has no width that there is")
        if not width:
            found.append([base])
            continue
        values = array(_WIDTHS[width])
        values.frombytes(reader.take(rows * width))
        if sys.byteorder == "big":
            values.byteswap()
        is_plausible = True
        found.append([base + value for value in values] if base else list(values))
    if not is_plausible and rows > MAX_CONSTANT_ROWS:
        raise reader.wrong("a table is too long")
    if any(not -(1 << 63) <= number < 1 << 63 for column in found for number in (min(column), max(column))):
        raise reader.wrong("a number is too large")
    return [column * rows if len(column) != rows else column for column in found]


MAX_CONSTANT_ROWS: Final = 1 << 20
"""Rows that differ in nothing take no bytes. More of them than this are not written: see :func:`put_table`."""


# Sets


def put_set(out: bytearray, ranges: Sequence[Range]) -> None:
    as_ranges, last = bytearray(), 0
    numbers: list[int] = []
    for first, end in ranges:
        numbers += (first - last, end - first)
        last = end
    put_varints(as_ranges, numbers)
    base = ranges[0][0] if ranges else 0
    is_bitmap = (last - base + 7) // 8 + 10 < len(as_ranges)
    if is_bitmap:
        as_ranges = bytearray()
        put_varint(as_ranges, base)
        as_ranges += _bitmap(ranges, base, last)
    out.append(is_bitmap)
    put_varint(out, len(as_ranges))
    out += as_ranges


def _bitmap(ranges: Sequence[Range], base: int, end: int) -> bytearray:
    bits = bytearray((end - base + 7) // 8)
    for first, stop in ranges:
        low, high = first - base, stop - base
        if low >> 3 == (high - 1) >> 3:
            bits[low >> 3] |= ((1 << high - low) - 1) << (low & 7)
            continue
        bits[low >> 3] |= 0xFF << (low & 7) & 0xFF
        bits[(low >> 3) + 1 : high >> 3] = b"\xff" * ((high >> 3) - (low >> 3) - 1)
        if high & 7:
            bits[high >> 3] |= (1 << (high & 7)) - 1
    return bits


def take_set(reader: Reader) -> list[Range]:
    kind = reader.u8()
    rest = Reader(reader.take(reader.varint()))
    if kind > 1:
        raise reader.wrong("a set is of a kind that there is not")
    found: list[Range] = []
    if kind == 0:
        last = 0
        while rest.left:
            first = last + rest.varint()
            last = first + rest.varint()
            if last >= 1 << 63 or first == last:
                raise reader.wrong("a range is too long or empty")
            found.append((first, last))
        return joined(found)
    base = rest.varint()
    for at, byte in enumerate(rest.take(rest.left)):
        for first, end in _RUNS_OF_BITS[byte]:
            found.append((base + at * 8 + first, base + at * 8 + end))
    return joined(found)


def _runs_of_bits(byte: int) -> list[Range]:
    return joined((bit, bit + 1) for bit in range(8) if byte >> bit & 1)


_RUNS_OF_BITS: Final = [_runs_of_bits(byte) for byte in range(256)]
