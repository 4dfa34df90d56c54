"""Zigzag varints, as Kafka's records hold them.

A signed integer is first folded so that small magnitudes of either sign become small
(0, -1, 1, -2 -> 0, 1, 2, 3) and then written in groups of seven bits, least significant group
first; every byte but the last has its top bit set. Lengths and offset deltas are 32 bits wide
(at most 5 bytes), timestamp deltas 64 bits (at most 10 bytes).

Most varints of a record take one or two bytes. :data:`SMALL` holds all of these ready made, so that
an encoder pays one list look-up, and decoders read one and two bytes in place and come here for the rest.
"""

from __future__ import annotations

from trunkline.errors import CorruptBatch

__all__ = ["SMALL", "encode_varint", "read_varint", "read_varlong"]

_U32_MAX = (1 << 32) - 1
_U64_MAX = (1 << 64) - 1


def encode_varint(number: int) -> bytes:
    """Encode any integer of up to 64 bits, signed."""
    rest = number << 1 if number >= 0 else (-number << 1) - 1
    if rest < 0x80:
        return bytes((rest,))
    if 0x3FFF < rest < 0x20_0000:  # three bytes: lengths from 8 KiB to 1 MiB
        return bytes((rest & 0x7F | 0x80, rest >> 7 & 0x7F | 0x80, rest >> 14))
    encoded = bytearray()
    while rest > 0x7F:
        encoded.append(rest & 0x7F | 0x80)
        rest >>= 7
    encoded.append(rest)
    return bytes(encoded)


SMALL = [bytes((folded,)) for folded in range(0, 0x80, 2)]
SMALL += [bytes((low, high)) for high in range(1, 0x80) for low in range(0x80, 0x100, 2)]
"""The encoding of 0 to 8191: one byte below 64, two from there on. Not by :func:`encode_varint`: that takes 3 ms."""


def read_varint(data: bytes, position: int) -> tuple[int, int]:
    """Read 32 bits at ``position``: the number still folded (odd means negative), and where it ends.

    Raises:
      CorruptBatch: it has more than 5 bytes or 32 bits.
      IndexError: ``data`` ends before it does. Callers catch this once around a whole batch.
    """
    folded = data[position] & 0x7F
    for shift in (7, 14, 21, 28):
        if data[position] < 0x80:
            break
        position += 1
        folded |= (data[position] & 0x7F) << shift
    if data[position] > 0x7F or folded > _U32_MAX:
        raise CorruptBatch("a varint is longer than its field allows")
    return folded, position + 1


def read_varlong(data: bytes, position: int) -> tuple[int, int]:
    """Read 64 bits at ``position``: otherwise as :func:`read_varint`."""
    folded = data[position] & 0x7F
    for shift in range(7, 70, 7):
        if data[position] < 0x80:
            break
        position += 1
        folded |= (data[position] & 0x7F) << shift
    if data[position] > 0x7F or folded > _U64_MAX:
        raise CorruptBatch("a varint is longer than its field allows")
    return folded, position + 1
