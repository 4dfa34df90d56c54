"""A batch as a whole: Kafka's RecordBatch v2, byte for byte, seen from its header.

This one form is appended, checksummed, stored, replicated and, where a protocol allows, sent. All
integers are big-endian, offsets in bytes::

     0  i64  base_offset         of the first record; the broker assigns it
     8  i32  batch_length        bytes after this field: the size of the batch less 12
    12  i32  leader_epoch        of the leader that appended it; -1 unknown
    16  i8   magic               2
    17  u32  crc                 CRC-32C of everything after this field
    21  i16  attributes          bits 0-2 compression, 3 timestamps are append time, 4 transactional,
                                 5 control batch, 6 delete horizon set (Kafka KIP-534); others 0
    23  i32  last_offset_delta   last offset less base_offset
    27  i64  base_timestamp      of the first record as created, ms since the epoch; -1 unknown; with bit 6
                                 the time after which compaction removes the batch's tombstones
    35  i64  max_timestamp       largest timestamp in it, or the time of append (bit 3)
    43  i64  producer_id         -1: not idempotent
    51  i16  producer_epoch
    53  i32  base_sequence       of the first record
    57  i32  record_count        less than the offsets it spans, or 0, once compaction has taken some out
    61       records, one after another (drawn in :mod:`trunkline.records.encoding`),
             compressed as one piece (:mod:`trunkline.compression`)

Offset and epoch lie before the CRC's range, so :func:`assign` need not compute it again. A broker does
no more for a batch than what is here: its work is per batch, not per record. So a batch whose
header is right can still hold records that are malformed; whoever decodes it finds out.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from struct import error as StructError
from typing import NamedTuple

from trunkline.compression import Buffer, Compression
from trunkline.errors import CorruptBatch, UnsupportedCompression
from trunkline.records import checksum

__all__ = [
    "BatchHeader",
    "HEADER_BYTES",
    "assign",
    "assign_in_place",
    "check_batch",
    "check_crc",
    "check_timestamps",
    "iter_headers",
    "pack_batch",
    "read_header",
    "with_records",
]

HEADER_BYTES = 61
"""Size of a batch's header, and of the smallest batch."""

MIN_RECORD_BYTES = 7
"""One byte for each of a record's length, attributes, two deltas, key, value and header count."""

TIMESTAMP_LIMIT = 1 << 61
"""Timestamps lie between this and its negative, so that differences of two fit in 64 bits, folded too."""

DELETE_HORIZON = 0x40
CONTROL = 0x20
TRANSACTIONAL = 0x10
APPEND_TIME = 0x08
COMPRESSION_MASK = 0x07

_HEADER = Struct(">qiibIhiqqqhii")
_PREFIX = Struct(">qii")  # base_offset, batch_length, leader_epoch
_MAGIC_AND_CRC = Struct(">bI")
_CHECKED = Struct(">hiqqqhii")  # attributes to record_count
_LENGTH_END = 12  # batch_length counts from here
_MAGIC_AT = 16
_CHECKED_AT = 21  # the CRC covers all from here
_EMPTY_BATCH_LENGTH = HEADER_BYTES - _LENGTH_END
_MAGIC = 2
_LAST_COMPRESSION = int(max(Compression))

_unpack_header = _HEADER.unpack_from
_new_tuple = tuple.__new__  # quicker than a NamedTuple's own constructor


class BatchHeader(NamedTuple):
    """The fields of a batch before its records, in their stored order; see the module's docstring."""

    base_offset: int
    batch_length: int
    leader_epoch: int
    magic: int
    crc: int
    attributes: int
    last_offset_delta: int
    base_timestamp: int
    max_timestamp: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    record_count: int

    @property
    def size_bytes(self) -> int:
        """Of the whole batch, header included."""
        return self.batch_length + _LENGTH_END

    @property
    def last_offset(self) -> int:
        return self.base_offset + self.last_offset_delta

    @property
    def next_offset(self) -> int:
        """The offset that follows the batch."""
        return self.base_offset + self.last_offset_delta + 1

    @property
    def compression(self) -> int:
        """0 to 4 are a :class:`~trunkline.compression.Compression`, 5 to 7 are not defined."""
        return self.attributes & COMPRESSION_MASK

    @property
    def is_control(self) -> bool:
        """Whether it ends a transaction; its records are not for users."""
        return self.attributes & CONTROL != 0

    @property
    def is_transactional(self) -> bool:
        return self.attributes & TRANSACTIONAL != 0

    @property
    def is_append_time(self) -> bool:
        """Whether every record's timestamp is ``max_timestamp``, the time of append."""
        return self.attributes & APPEND_TIME != 0

    @property
    def delete_horizon(self) -> int | None:
        """When (ms) compaction may remove its tombstones or its transaction marker; None until it has seen them."""
        return self.base_timestamp if self.attributes & DELETE_HORIZON else None


def read_header(buffer: Buffer, position: int = 0) -> BatchHeader:
    """Read the header of the batch at ``position``. Copies nothing; looks at no byte after the header.

    Raises:
      CorruptBatch: the buffer ends inside it, the magic is not 2, or the length cannot hold a header.
    """
    try:
        fields = _unpack_header(buffer, position)
    except StructError:
        have = max(len(buffer) - position, 0)
        raise CorruptBatch(f"a batch has at least {HEADER_BYTES} bytes, these are {have}") from None
    header = _new_tuple(BatchHeader, fields)
    if fields[3] != _MAGIC:
        raise CorruptBatch(f"batch format {header.magic} is not supported; only format 2 is (Kafka 0.11 and later)")
    if fields[1] < _EMPTY_BATCH_LENGTH:
        raise CorruptBatch(f"a batch length of {header.batch_length} cannot be: the header alone has 49")
    return header


def check_batch(
    buffer: Buffer, position: int = 0, end: int | None = None, *, is_compacted: bool = False
) -> BatchHeader:
    """Check that an intact batch that may be appended starts at ``position``, and read its header.

    Checks length, CRC, counts, timestamps and kind of compression; not the records.

    Args:
      buffer: may hold more, before and after.
      end: where the batch must end at the latest; the end of the buffer if None.
      is_compacted: it may be one that compaction has taken records from, as a store holds them; none need be left.

    Raises:
      CorruptBatch: it is not intact.
      UnsupportedCompression: it names a compression that Kafka does not define.
    """
    header = read_header(buffer, position)
    _, length, _, _, crc, attributes, last_offset_delta, base_timestamp, max_timestamp, _, _, _, count = header
    stop = position + length + _LENGTH_END
    if stop > (len(buffer) if end is None else end):
        raise CorruptBatch(f"the batch is cut short: it should have {header.size_bytes} bytes")
    check_crc(buffer, position, stop, crc)
    if (count != last_offset_delta + 1 or count < 1) and not (is_compacted and 0 <= count <= last_offset_delta):
        raise CorruptBatch(f"the batch counts {count} records, but its last offset delta is {last_offset_delta}")
    if attributes & COMPRESSION_MASK > _LAST_COMPRESSION:
        raise UnsupportedCompression(f"compression {header.compression} is not known", compression=header.compression)
    if not attributes & COMPRESSION_MASK and length - _EMPTY_BATCH_LENGTH < count * MIN_RECORD_BYTES:
        raise CorruptBatch(f"the batch counts {count} records, more than its {header.size_bytes} bytes can hold")
    check_timestamps(base_timestamp, max_timestamp)
    return header


def check_timestamps(base: int, largest: int) -> None:
    """Raise CorruptBatch if one of a batch's timestamps is beyond :data:`TIMESTAMP_LIMIT`."""
    if not (-TIMESTAMP_LIMIT < base < TIMESTAMP_LIMIT and -TIMESTAMP_LIMIT < largest < TIMESTAMP_LIMIT):
        raise CorruptBatch(f"a timestamp of the batch is out of range: {base} or {largest}")


def check_crc(buffer: Buffer, position: int, stop: int, crc: int) -> None:
    """Raise CorruptBatch unless the batch in ``[position, stop)`` has this CRC."""
    # A function of its own: while a view lives (a traceback keeps it) a bytearray cannot be resized
    found = checksum.crc32c(memoryview(buffer)[position + _CHECKED_AT : stop])
    if found != crc:
        raise CorruptBatch(f"the batch's CRC is {found:08x}, but it says {crc:08x}")


def iter_headers(buffer: Buffer) -> Iterator[tuple[int, BatchHeader]]:
    """Give the position and header of each whole batch in a run of them, first to last.

    A batch that the buffer cuts short ends it without an error: a read may end inside a batch.

    Raises:
      CorruptBatch: a header in the middle cannot be one (magic, length).
    """
    position = 0
    while len(buffer) - position >= HEADER_BYTES:
        header = read_header(buffer, position)
        stop = position + header.size_bytes
        if stop > len(buffer):
            return
        yield position, header
        position = stop


def assign(batch: Buffer, base_offset: int, leader_epoch: int, append_time: int | None = None) -> bytes:
    """Give a batch its place in the log: the same batch with offset and epoch set, copied once.

    Args:
      batch: exactly one, checked by :func:`check_batch`. It is not changed.
      append_time: if given, the timestamp (ms) of all its records from now on; costs a CRC.
    """
    if append_time is None:
        prefix = _PREFIX.pack(base_offset, len(batch) - _LENGTH_END, leader_epoch)
        return b"".join((prefix, memoryview(batch)[_MAGIC_AT:]))
    header = read_header(batch)
    return pack_batch(
        base_offset,
        leader_epoch,
        header.attributes | APPEND_TIME,
        header.last_offset_delta,
        header.base_timestamp,
        append_time,
        header.producer_id,
        header.producer_epoch,
        header.base_sequence,
        header.record_count,
        memoryview(batch)[HEADER_BYTES:],
    )


def assign_in_place(batch: memoryview, base_offset: int, leader_epoch: int) -> memoryview:
    """As :func:`assign`, in the memory that the batch lies in: nothing is copied."""
    _PREFIX.pack_into(batch, 0, base_offset, len(batch) - _LENGTH_END, leader_epoch)
    return batch


def with_records(header: BatchHeader, records: Buffer) -> bytes:
    """A batch with the fields of ``header``, counts included, before these records; length and CRC are made anew."""
    return pack_batch(
        header.base_offset,
        header.leader_epoch,
        header.attributes,
        header.last_offset_delta,
        header.base_timestamp,
        header.max_timestamp,
        header.producer_id,
        header.producer_epoch,
        header.base_sequence,
        header.record_count,
        records,
    )


def pack_batch(
    base_offset: int,
    leader_epoch: int,
    attributes: int,
    last_offset_delta: int,
    base_timestamp: int,
    max_timestamp: int,
    producer_id: int,
    producer_epoch: int,
    base_sequence: int,
    record_count: int,
    *records: Buffer,
) -> bytes:
    """Put a header with length and CRC before encoded (and compressed) records, which may be in pieces."""
    checked = _CHECKED.pack(
        attributes,
        last_offset_delta,
        base_timestamp,
        max_timestamp,
        producer_id,
        producer_epoch,
        base_sequence,
        record_count,
    )
    prefix = _PREFIX.pack(base_offset, _EMPTY_BATCH_LENGTH + sum(map(len, records)), leader_epoch)
    crc = checksum.crc32c(checked)
    for piece in records:
        crc = checksum.crc32c(piece, crc)
    return b"".join((prefix, _MAGIC_AND_CRC.pack(_MAGIC, crc), checked, *records))
