"""A segment's key index: which records have which key. Made when somebody asks, in blocks, one after another::

    00000000000000005000.keys       big-endian
      4s   magic            "TLKI"
      u16  version          1
      u16  flags            1: too many different keys; none are listed, the records must be read
      i64  base_offset      the block is about the records of [base_offset, end_offset), all of them;
      i64  end_offset       the next block goes on there
      u64  position         their batches are the bytes [position, end_position) of the .log
      u64  end_position
      u32  key_count        different keys
      u32  keys_bytes
      u32  postings_bytes
      u32  keys_crc         CRC-32C of the keys
      u32  crc              CRC-32C of all above
           keys             for each key, in the order of their first records:
             varint length; key; varint length of its postings in bytes; u32 CRC-32C of these
           postings         for each key, in the same order:
             varint for each record: the first one's offset less base_offset, then the difference to the one before

Varints are those of the records (:mod:`trunkline.varint`). A block ends with the batch that makes it BLOCK_RECORDS or
BLOCK_BYTES, or with its finished segment; so making or reading one takes bounded memory, and the segment that is being
written has an index too, but for its last block. Where more than half of a block's records have keys of their own an
index would be as long as a walk, and little shorter than the log.

**Nothing here is ever synced, and nothing trusts it.** Each block says what it is about and has checksums; one that
is damaged, torn or about something else is cut off with all that follow, and made anew from the log. What must be
right is that no block survives a change of what it is about: an index is made only of what lies below the recovery
point, goes before a segment is cut or replaced, and goes with a segment that is removed.

Writing it when a segment closes was rejected: it costs as much as reading the segment once, and most topics are
never asked. Who asks first reads, as without an index, and leaves one.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import NamedTuple

from crc32c import crc32c

from trunkline.errors import CorruptBatch
from trunkline.keys import keys_of
from trunkline.records import read_header
from trunkline.varint import encode_varint, read_varint
from trunkline_segments.batches import whole_batches
from trunkline_segments.segment import Segment, corrupt

__all__ = ["DamagedIndex", "KeyBlock", "Place", "SegmentEnd", "collect", "may_be_full", "read_place"]

BLOCK_RECORDS = 131_072
"""Their keys take some 20 MB while a block is made, if half of them differ and are short."""

BLOCK_BYTES = 32 * 1024 * 1024
"""Of log, also where records are large: reading it takes a tenth of a second or so."""

_MAX_KEYS_BYTES = 4 * 1024 * 1024
"""Of listed keys in a block; they are read in one go."""

_HEADER = Struct(">4sHHqqQQIIIII")
_CRC = Struct(">I")
_MAGIC = b"TLKI"
_VERSION = 1
_UNLISTED = 1


SegmentEnd = tuple[int, int]
"""A place in a segment where a batch ends: offset, byte."""


class DamagedIndex(Exception):
    """A block is not what was written; the message says how."""


class Place(NamedTuple):
    """A block in the file, as its header says."""

    file_position: int
    is_listed: bool
    base_offset: int
    end_offset: int
    position: int
    end_position: int
    key_count: int
    keys_bytes: int
    postings_bytes: int
    keys_crc: int

    @property
    def end(self) -> int:
        """Where the next block lies in the file."""
        return self.file_position + _HEADER.size + self.keys_bytes + self.postings_bytes

    def keys(self, segment: Segment) -> Iterator[tuple[bytes, int, int, int]]:
        """Each key with position, length and CRC of its postings. Raises DamagedIndex."""
        start = self.file_position + _HEADER.size
        data = segment.keys.read(start, self.keys_bytes)
        if len(data) < self.keys_bytes or crc32c(data) != self.keys_crc:
            raise DamagedIndex("the keys' checksum does not match")
        unpack_from = _CRC.unpack_from
        position, postings = 0, start + self.keys_bytes
        for _ in range(self.key_count):
            folded = data[position]  # lengths of one byte are read in place, as in records
            if folded < 128:
                position += 1
            else:
                folded, position = read_varint(data, position)
            key = data[position : position + (folded >> 1)]
            position += folded >> 1
            folded = data[position]
            if folded < 128:
                position += 1
            else:
                folded, position = read_varint(data, position)
            (crc,) = unpack_from(data, position)
            position += 4
            yield key, postings, folded >> 1, crc
            postings += folded >> 1

    def offsets(self, segment: Segment, position: int, size: int, crc: int) -> list[int]:
        """The offsets in a key's postings. Raises DamagedIndex."""
        data = segment.keys.read(position, size)
        if len(data) < size or crc32c(data) != crc:
            raise DamagedIndex("the checksum of a key's offsets does not match")
        offsets = []
        offset, at = self.base_offset, 0
        while at < size:
            folded, at = read_varint(data, at)
            offset += folded >> 1
            offsets.append(offset)
        return offsets


class KeyBlock(NamedTuple):
    """What a block is made of, in memory.

    Attributes:
      offsets: by key, in the order of their first records.
      records: how many the batches have, those without a key too.
    """

    base_offset: int
    end_offset: int
    position: int
    end_position: int
    offsets: dict[bytes, list[int]]
    records: int

    @property
    def is_full(self) -> bool:
        """No batch may be added to it."""
        return _is_full(self.records, self.end_position - self.position)

    def encode(self) -> list[bytes]:
        """The bytes of it in the file."""
        keys: list[bytes] = []
        postings: list[bytes] = []
        if 2 * len(self.offsets) <= self.records and sum(map(len, self.offsets)) <= _MAX_KEYS_BYTES:
            for key, offsets in self.offsets.items():
                posting = _posting(self.base_offset, offsets)
                keys += (encode_varint(len(key)), key, encode_varint(len(posting)), _CRC.pack(crc32c(posting)))
                postings.append(posting)
        listed, postings_bytes = b"".join(keys), b"".join(postings)
        header = _HEADER.pack(
            _MAGIC,
            _VERSION,
            0 if postings or not self.offsets else _UNLISTED,
            self.base_offset,
            self.end_offset,
            self.position,
            self.end_position,
            len(postings),
            len(listed),
            len(postings_bytes),
            crc32c(listed),
            0,
        )[: -_CRC.size]
        return [header + _CRC.pack(crc32c(header)), listed, postings_bytes]


def _posting(base_offset: int, offsets: list[int]) -> bytes:
    parts = []
    for offset in offsets:
        parts.append(encode_varint(offset - base_offset))
        base_offset = offset
    return b"".join(parts)


def may_be_full(start: SegmentEnd, end: SegmentEnd) -> bool:
    """Whether what lies between can be enough for a block, though its segment grows; False for certain."""
    return _is_full(end[0] - start[0], end[1] - start[1])


def _is_full(records: int, size_bytes: int) -> bool:
    return records >= BLOCK_RECORDS or size_bytes >= BLOCK_BYTES


def read_place(segment: Segment, file_position: int, base_offset: int, position: int) -> Place | None:
    """The block at ``file_position`` of the index; None if the file ends there.

    Args:
      base_offset, position: what it must be about: where the one before it ends.

    Raises DamagedIndex.
    """
    data = segment.keys.read(file_position, _HEADER.size)
    if not data:
        return None
    if len(data) < _HEADER.size:
        raise DamagedIndex("the file ends inside a block")
    magic, version, flags, *values, crc = _HEADER.unpack(data)
    if magic != _MAGIC or version != _VERSION or crc != crc32c(data[: -_CRC.size]):
        raise DamagedIndex("this is not the header of a block")
    place = Place(file_position, not flags & _UNLISTED, *values)
    if (place.base_offset, place.position) != (base_offset, position):
        raise DamagedIndex(f"the block is about offset {place.base_offset}, but should be about {base_offset}")
    return place


def collect(segment: Segment, base_offset: int, position: int, limit: int, end_offset: int) -> KeyBlock:
    """Read the log from ``position`` to ``limit``, or until the block is full.

    Args:
      end_offset: of ``limit``: if that is reached, the block ends there.

    Raises CorruptLog.
    """
    offsets: dict[bytes, list[int]] = {}
    records, start, following = 0, position, base_offset
    for batch in whole_batches(segment, position, limit):
        header = read_header(batch)
        try:
            keys = keys_of(batch, header)
        except CorruptBatch as error:
            raise corrupt(segment.log.path, position, str(error)) from None
        for offset, key in keys:
            known = offsets.get(key)
            if known is None:
                offsets[key] = [offset]
            else:
                known.append(offset)
        position += len(batch)
        records += header.record_count
        following = header.next_offset
        if _is_full(records, position - start):
            break
    if position >= limit:
        following = end_offset
    return KeyBlock(base_offset, following, start, position, offsets, records)
