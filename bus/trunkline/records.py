"""Records and the batches that hold them: Kafka's RecordBatch v2, byte for byte.

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
    27  i64  base_timestamp      of the first record as created, ms since the epoch
    35  i64  max_timestamp       largest timestamp in it, or the time of append (bit 3)
    43  i64  producer_id         -1: not idempotent
    51  i16  producer_epoch
    53  i32  base_sequence       of the first record
    57  i32  record_count
    61       records, one after another, compressed as one piece (:mod:`trunkline.compression`)

A record; lengths and deltas are zigzag varints (:mod:`trunkline.varint`), a length of -1 is None::

    varint   length              bytes after this field
    i8       attributes          0
    varlong  timestamp_delta     from base_timestamp
    varint   offset_delta        from base_offset
    varint   key length, key
    varint   value length, value
    varint   header count        then for each header:
               varint  name length (no None), name in UTF-8
               varint  value length, value

Offset and epoch lie before the CRC's range, so :func:`assign` need not compute it again. In a control batch
(a transaction's end) keys are ``i16 version, i16 type``; :func:`decode_all` leaves these out.

**What is checked where.** :func:`check_batch` looks only at the header and the CRC; it is what a
broker does for each batch it is given. The records themselves are read by :func:`decode`, for which every length
is a claim to be checked. An IndexError (the batch ends inside a number) is
caught once around the loop instead of comparing at each byte; a slice past the end cannot hide,
because the position after each record must be the one its length announced, and that lies in the batch.

**What a batch can cost.** Unpacked records of 7 bytes become objects of over 100, so beside its bytes
each record is charged :data:`RECORD_OVERHEAD_BYTES` and each header :data:`HEADER_OVERHEAD_BYTES`, and
``max_bytes`` bounds the sum.

**Speed.** Encoding is the hot path of protocols that bring single records. Tried and slower: a
bytearray that grows in place, struct for the varints, memoryview instead of bytes (indexing it costs double).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from struct import Struct
from struct import error as StructError
from typing import NamedTuple, NoReturn

import msgspec
from crc32c import crc32c

from trunkline.compression import Compression, compress, decompress
from trunkline.errors import CorruptBatch, DecompressionLimitExceeded, UnsupportedCompression
from trunkline.varint import SMALL, encode_varint, read_varint, read_varlong

__all__ = [
    "BatchBuilder",
    "BatchHeader",
    "Buffer",
    "ConsumerRecord",
    "DEFAULT_MAX_DECODED_BYTES",
    "EMPTY_HEADERS",
    "HEADER_BYTES",
    "HEADER_OVERHEAD_BYTES",
    "Header",
    "RECORD_OVERHEAD_BYTES",
    "Record",
    "assign",
    "check_batch",
    "decode",
    "decode_all",
    "encode",
    "encode_headers",
    "iter_headers",
    "read_header",
]

Buffer = bytes | bytearray | memoryview
Header = tuple[str, bytes | None]

HEADER_BYTES = 61
"""Size of a batch's header, and of the smallest batch."""

DEFAULT_MAX_DECODED_BYTES = 128 * 1024 * 1024
"""Room for the densest honest batch of 1 MiB (Kafka's default limit) compressed a hundredfold."""

RECORD_OVERHEAD_BYTES = 128
"""What a record costs in memory beside its key and value."""

HEADER_OVERHEAD_BYTES = 96
"""What a header costs in memory beside its value."""

EMPTY_HEADERS = b"\x00"
"""What :func:`encode_headers` makes of no headers."""

_HEADER = Struct(">qiibIhiqqqhii")
_PREFIX = Struct(">qii")  # base_offset, batch_length, leader_epoch
_MAGIC_AND_CRC = Struct(">bI")
_CHECKED = Struct(">hiqqqhii")  # attributes to record_count
_unpack_header = _HEADER.unpack_from
_new_tuple = tuple.__new__  # quicker than a NamedTuple's own constructor
_LENGTH_END = 12  # batch_length counts from here
_MAGIC_AT = 16
_CHECKED_AT = 21  # the CRC covers all from here
_MAGIC = 2
_RECORDS_AT_LENGTH = HEADER_BYTES - _LENGTH_END  # the batch_length of a batch without records
_COMPRESSION_MASK = 0x07
_APPEND_TIME = 0x08
_TRANSACTIONAL = 0x10
_CONTROL = 0x20
_LAST_COMPRESSION = int(max(Compression))
_MIN_RECORD_BYTES = 7  # one byte for each of length, attributes, deltas, key, value and header count
_MIN_HEADER_BYTES = 2
_FIELD_BYTES = [len(length) + size for size, length in enumerate(SMALL)]  # of a field of that size with its length
_NULL = encode_varint(-1)
_NULL_FOLDED = 1  # -1 as a varint reader gives it
_OFFSET_LIMIT = 1 << 63
_TIMESTAMP_LIMIT = 1 << 62  # beyond this a difference of two might not fit in 64 bits


class Record(msgspec.Struct, frozen=True, gc=False):
    """One message as stored.

    Attributes:
      offset: its position in the partition.
      timestamp: ms since the epoch; of creation or of append, as the topic is set. -1: unknown.
      key: None is not the same as empty; it decides the partition, and what compaction keeps.
      value: None is a tombstone: it deletes the key when the topic is compacted.
      headers: in the order given; names may repeat.
    """

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[Header, ...] = ()


class ConsumerRecord(Record, frozen=True, gc=False, kw_only=True):
    """A record with the place it was read from."""

    topic: str
    partition: int


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
        return self.attributes & _COMPRESSION_MASK

    @property
    def is_control(self) -> bool:
        """Whether it ends a transaction; its records are not for users."""
        return self.attributes & _CONTROL != 0

    @property
    def is_transactional(self) -> bool:
        return self.attributes & _TRANSACTIONAL != 0

    @property
    def is_append_time(self) -> bool:
        """Whether every record's timestamp is ``max_timestamp``, the time of append."""
        return self.attributes & _APPEND_TIME != 0


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
    if fields[1] < _RECORDS_AT_LENGTH:
        raise CorruptBatch(f"a batch length of {header.batch_length} cannot be: the header alone has 49")
    return header


def check_batch(buffer: Buffer, position: int = 0, end: int | None = None) -> BatchHeader:
    """Check that an intact batch that may be appended starts at ``position``, and read its header.

    Checks length, CRC, counts, timestamps and kind of compression; not the records.

    Args:
      buffer: may hold more, before and after.
      end: where the batch must end at the latest; the end of the buffer if None.

    Raises:
      CorruptBatch: it is not intact.
      UnsupportedCompression: it names a compression that Kafka does not define.
    """
    header = read_header(buffer, position)
    _, length, _, _, crc, attributes, last_offset_delta, base_timestamp, max_timestamp, _, _, _, count = header
    stop = position + length + _LENGTH_END
    if stop > (len(buffer) if end is None else end):
        raise CorruptBatch(f"the batch is cut short: it should have {header.size_bytes} bytes")
    _check_crc(buffer, position, stop, crc)
    if count < 1 or count != last_offset_delta + 1:
        raise CorruptBatch(f"the batch counts {count} records, but its last offset delta is {last_offset_delta}")
    if attributes & _COMPRESSION_MASK > _LAST_COMPRESSION:
        raise UnsupportedCompression(f"compression {header.compression} is not known", compression=header.compression)
    if not attributes & _COMPRESSION_MASK and length - _RECORDS_AT_LENGTH < count * _MIN_RECORD_BYTES:
        raise CorruptBatch(f"the batch counts {count} records, more than its {header.size_bytes} bytes can hold")
    if not (
        -_TIMESTAMP_LIMIT < base_timestamp < _TIMESTAMP_LIMIT and -_TIMESTAMP_LIMIT < max_timestamp < _TIMESTAMP_LIMIT
    ):
        raise CorruptBatch(f"a timestamp of the batch is out of range: {base_timestamp} or {max_timestamp}")
    return header


def _check_crc(buffer: Buffer, position: int, stop: int, crc: int) -> None:
    # A function of its own: while a view lives (a traceback keeps it) a bytearray cannot be resized
    found = crc32c(memoryview(buffer)[position + _CHECKED_AT : stop])
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
    prefix = _PREFIX.pack(base_offset, len(batch) - _LENGTH_END, leader_epoch)
    if append_time is None:
        return b"".join((prefix, memoryview(batch)[_MAGIC_AT:]))
    header = read_header(batch)
    checked = _CHECKED.pack(
        header.attributes | _APPEND_TIME,
        header.last_offset_delta,
        header.base_timestamp,
        append_time,
        header.producer_id,
        header.producer_epoch,
        header.base_sequence,
        header.record_count,
    )
    records = memoryview(batch)[HEADER_BYTES:]
    crc = crc32c(records, crc32c(checked))
    return b"".join((prefix, _MAGIC_AND_CRC.pack(_MAGIC, crc), checked, records))


# Encoding


def encode_headers(headers: Iterable[Header]) -> bytes:
    """Encode a record's headers with their count in front, as :meth:`BatchBuilder.append` takes them."""
    headers = tuple(headers)
    parts = [encode_varint(len(headers))]
    for name, value in headers:
        encoded = name.encode()
        parts += (encode_varint(len(encoded)), encoded)
        if value is None:
            parts.append(_NULL)
        else:
            parts += (encode_varint(len(value)), value)
    return b"".join(parts)


class BatchBuilder:
    """Collects records and encodes them as one batch.

    Attributes:
      count: records so far.
      size_bytes: of the batch as it would be built now without compression; exact.
      max_timestamp: the largest so far; -1 if there are no records.
    """

    __slots__ = (
        "_base_timestamp",
        "_fixed_bytes",
        "_parts",
        "_stamp",
        "_timestamp",
        "count",
        "max_timestamp",
        "size_bytes",
    )

    def __init__(self) -> None:
        self.count = 0
        self.size_bytes = HEADER_BYTES
        self.max_timestamp = -1
        self._base_timestamp = -1
        self._timestamp: int | None = None  # of the last record; most records of a round share it
        self._stamp = b""  # a record's attributes and timestamp delta for it
        self._fixed_bytes = 0  # of a record with it: stamp, one byte of offset delta, an empty header block
        self._parts: list[bytes] = []

    def append(
        self, timestamp: int, key: bytes | None, value: bytes | None, headers_block: bytes = EMPTY_HEADERS
    ) -> None:
        """Add a record. Its offset is ``count`` (before the call) above the batch's base offset.

        Args:
          timestamp: ms since the epoch; may go back. Not beyond +-2**62.
          headers_block: from :func:`encode_headers`.
        """
        if timestamp is not self._timestamp:  # identity: equal but not identical costs time, no more
            self._set_timestamp(timestamp)
        number = self.count
        size = self._fixed_bytes + (number > 63)
        try:
            if key is None:
                key_length = _NULL
                key_bytes = b""
                size += 1
            else:
                length = len(key)
                key_length = SMALL[length]
                key_bytes = key
                size += _FIELD_BYTES[length]
            if value is None:
                value_length = _NULL
                value_bytes = b""
                size += 1
            else:
                length = len(value)
                value_length = SMALL[length]
                value_bytes = value
                size += _FIELD_BYTES[length]
            if headers_block is not EMPTY_HEADERS:
                size += len(headers_block) - 1
            parts = self._parts
            parts += (
                SMALL[size],
                self._stamp,
                SMALL[number],
                key_length,
                key_bytes,
                value_length,
                value_bytes,
                headers_block,
            )
            self.count = number + 1
            self.size_bytes += _FIELD_BYTES[size]
        except IndexError:
            self._append_large(key, value, headers_block)

    def _append_large(self, key: bytes | None, value: bytes | None, headers_block: bytes) -> None:
        body = [self._stamp, encode_varint(self.count)]
        body += (_NULL,) if key is None else (encode_varint(len(key)), key)
        body += (_NULL,) if value is None else (encode_varint(len(value)), value)
        body.append(headers_block)
        size = sum(map(len, body))
        length = encode_varint(size)
        self._parts.append(length)
        self._parts += body
        self.count += 1
        self.size_bytes += len(length) + size

    def _set_timestamp(self, timestamp: int) -> None:
        if not -_TIMESTAMP_LIMIT < timestamp < _TIMESTAMP_LIMIT:
            raise ValueError(f"a timestamp is in milliseconds since the epoch, below 2**62: {timestamp}")
        if self._timestamp is None:
            self._base_timestamp = self.max_timestamp = timestamp
        elif timestamp > self.max_timestamp:
            self.max_timestamp = timestamp
        delta = timestamp - self._base_timestamp
        self._timestamp = timestamp
        self._stamp = b"\x00" + (SMALL[delta] if 0 <= delta < len(SMALL) else encode_varint(delta))
        self._fixed_bytes = len(self._stamp) + 2

    def build(
        self,
        *,
        base_offset: int = 0,
        leader_epoch: int = 0,
        compression: int = Compression.NONE,
        producer_id: int = -1,
        producer_epoch: int = -1,
        base_sequence: int = -1,
        append_time: int | None = None,
        is_transactional: bool = False,
        is_control: bool = False,
    ) -> bytes:
        """Encode the batch. The builder keeps its records.

        Args:
          compression: left out if it would make the batch no smaller.
          append_time: if given, the timestamp (ms) of all records, instead of their own.

        Raises:
          ValueError: there are no records.
          UnsupportedCompression: ``compression`` is not a :class:`~trunkline.compression.Compression`.
        """
        if not self.count:
            raise ValueError("a batch has at least one record")
        records = b"".join(self._parts)
        attributes = (_TRANSACTIONAL if is_transactional else 0) | (_CONTROL if is_control else 0)
        if compression:
            compressed = compress(compression, records)
            if len(compressed) < len(records):
                records = compressed
                attributes |= compression
        max_timestamp = self.max_timestamp
        if append_time is not None:
            attributes |= _APPEND_TIME
            max_timestamp = append_time
        checked = _CHECKED.pack(
            attributes,
            self.count - 1,
            self._base_timestamp,
            max_timestamp,
            producer_id,
            producer_epoch,
            base_sequence,
            self.count,
        )
        prefix = _PREFIX.pack(base_offset, _RECORDS_AT_LENGTH + len(records), leader_epoch)
        crc = crc32c(records, crc32c(checked))
        return b"".join((prefix, _MAGIC_AND_CRC.pack(_MAGIC, crc), checked, records))


NewRecord = tuple[int, bytes | None, bytes | None, Iterable[Header]]
"""timestamp, key, value, headers"""


def encode(
    records: Iterable[Record | NewRecord],
    *,
    base_offset: int = 0,
    leader_epoch: int = 0,
    compression: int = Compression.NONE,
    producer_id: int = -1,
    producer_epoch: int = -1,
    base_sequence: int = -1,
    append_time: int | None = None,
    is_transactional: bool = False,
    is_control: bool = False,
) -> bytes:
    """Encode records as one batch; see :meth:`BatchBuilder.build`. A Record's own offset is not looked at."""
    builder = BatchBuilder()
    for record in records:
        if isinstance(record, Record):
            builder.append(record.timestamp, record.key, record.value, encode_headers(record.headers))
        else:
            timestamp, key, value, headers = record
            builder.append(timestamp, key, value, encode_headers(headers))
    return builder.build(
        base_offset=base_offset,
        leader_epoch=leader_epoch,
        compression=compression,
        producer_id=producer_id,
        producer_epoch=producer_epoch,
        base_sequence=base_sequence,
        append_time=append_time,
        is_transactional=is_transactional,
        is_control=is_control,
    )


# Decoding


def decode(batch: Buffer, *, max_bytes: int = DEFAULT_MAX_DECODED_BYTES) -> list[Record]:
    """Check a batch and read its records, which may be compressed. A control batch's are given too.

    Args:
      batch: exactly one. A compacted one (offsets with gaps, perhaps no records) is fine.
      max_bytes: bounds the memory that the result may take.

    Raises:
      CorruptBatch: the batch or a record in it is malformed.
      UnsupportedCompression: it names a compression that Kafka does not define.
      DecompressionLimitExceeded: the records would need more than ``max_bytes``.
    """
    header = read_header(batch)
    if header.size_bytes != len(batch):
        raise CorruptBatch(f"the batch should have {header.size_bytes} bytes, but {len(batch)} are given")
    return _decode_at(batch, 0, header, 0, max_bytes)[0]


def decode_all(buffer: Buffer, *, from_offset: int = 0, max_bytes: int = DEFAULT_MAX_DECODED_BYTES) -> list[Record]:
    """Read the records of a run of batches, as a read from the log gives them.

    Control batches are left out, and so are records below ``from_offset`` (a read begins with the
    whole batch that holds its offset). A batch that the buffer cuts short is ignored.

    Args:
      max_bytes: bounds the memory that the result may take, all batches together.

    Raises:
      As :func:`decode`. To get what comes before the bad batch, use :func:`iter_headers` and decode one by one.
    """
    data = buffer if isinstance(buffer, bytes) else bytes(buffer)
    found: list[Record] = []
    for position, header in iter_headers(data):
        if header.is_control or header.next_offset <= from_offset:
            continue
        records, cost = _decode_at(data, position, header, from_offset, max_bytes)
        max_bytes -= cost
        found = found + records if found else records
    return found


def _decode_at(
    buffer: Buffer, position: int, header: BatchHeader, from_offset: int, max_bytes: int
) -> tuple[list[Record], int]:
    """The records of one whole batch at or past ``from_offset``, and what they were charged of ``max_bytes``."""
    stop = position + header.size_bytes
    _check_crc(buffer, position, stop, header.crc)
    count = header.record_count
    if not (0 <= count <= header.last_offset_delta + 1 and 0 <= header.base_offset < _OFFSET_LIMIT - (1 << 31)):
        raise CorruptBatch(f"the batch counts {count} records from offset {header.base_offset} to {header.last_offset}")
    if not -_TIMESTAMP_LIMIT < header.base_timestamp < _TIMESTAMP_LIMIT:
        raise CorruptBatch(f"the batch's base timestamp {header.base_timestamp} is out of range")
    start = position + HEADER_BYTES
    if header.compression:
        room = max_bytes - count * RECORD_OVERHEAD_BYTES
        if room < 0:
            _refuse(max_bytes)
        data = decompress(header.compression, memoryview(buffer)[start:stop], room)
        start, stop = 0, len(data)
    elif isinstance(buffer, bytes):
        data = buffer
    else:
        data = bytes(buffer[start:stop])
        start, stop = 0, len(data)
    size = stop - start
    if size < count * _MIN_RECORD_BYTES:
        raise CorruptBatch(f"the batch counts {count} records, but they have {size} bytes in all")
    cost = size + count * RECORD_OVERHEAD_BYTES
    if cost > max_bytes:
        _refuse(max_bytes)
    try:
        records, header_count = _read_records(data, start, stop, header, from_offset, max_bytes - cost)
    except IndexError:
        raise CorruptBatch(f"the batch at offset {header.base_offset} ends inside a record") from None
    return records, cost + header_count * HEADER_OVERHEAD_BYTES


def _refuse(max_bytes: int) -> NoReturn:
    raise DecompressionLimitExceeded(
        f"the records would need more than {max_bytes} bytes of memory; raise the limit if they are meant to",
        limit_bytes=max_bytes,
    )


def _read_records(
    data: bytes, position: int, stop: int, header: BatchHeader, from_offset: int, room: int
) -> tuple[list[Record], int]:
    """Read all records in ``[position, stop)``. IndexError means the data end inside a number.

    One and two bytes of a varint are read in place; a folded number is odd if it is negative.
    """
    base_offset = header.base_offset
    last_delta = header.last_offset_delta
    first_delta = from_offset - base_offset
    append_time = header.max_timestamp if header.is_append_time else None
    base_timestamp = header.base_timestamp if append_time is None else append_time
    previous = -1
    header_count = 0
    records: list[Record] = []
    add = records.append
    for _ in range(header.record_count):
        folded = data[position]
        if folded < 128:
            position += 1
        elif (high := data[position + 1]) < 128:
            folded += (high << 7) - 128
            position += 2
        else:
            folded, position = read_varint(data, position)
        end = position + (folded >> 1)
        if folded & 1 or end > stop:
            raise CorruptBatch(f"the record after offset {base_offset + previous} is longer than its batch")

        position += 1  # attributes: none are defined
        folded = data[position]
        if folded < 128:
            timestamp = base_timestamp
            if folded and append_time is None:
                timestamp += (folded >> 1) ^ -(folded & 1)
            position += 1
        else:
            delta, position = read_varlong(data, position)
            timestamp = base_timestamp
            if append_time is None:
                timestamp += delta
                if not -_TIMESTAMP_LIMIT < timestamp < _TIMESTAMP_LIMIT:
                    raise CorruptBatch(f"the record after offset {base_offset + previous} has timestamp {timestamp}")

        folded = data[position]
        if folded < 128:
            position += 1
        elif (high := data[position + 1]) < 128:
            folded += (high << 7) - 128
            position += 2
        else:
            folded, position = read_varint(data, position)
        delta = folded >> 1
        if folded & 1 or not previous < delta <= last_delta:
            raise CorruptBatch(f"offset delta {delta} follows {previous} in the batch at offset {base_offset}")
        previous = delta
        if delta < first_delta:
            position = end
            continue

        folded = data[position]
        if folded == _NULL_FOLDED:
            key = None
            position += 1
        else:
            if folded < 128:
                position += 1
            else:
                folded, position = read_varint(data, position)
            if folded & 1:
                _refuse_length(base_offset + delta, "key")
            start = position
            position += folded >> 1
            key = data[start:position]

        folded = data[position]
        if folded == _NULL_FOLDED:
            value = None
            position += 1
        else:
            if folded < 128:
                position += 1
            elif (high := data[position + 1]) < 128:
                folded += (high << 7) - 128
                position += 2
            else:
                folded, position = read_varint(data, position)
            if folded & 1:
                _refuse_length(base_offset + delta, "value")
            start = position
            position += folded >> 1
            value = data[start:position]

        if data[position]:
            headers, position = _read_headers(data, position, end, base_offset + delta, room)
            header_count += len(headers)
            room -= len(headers) * HEADER_OVERHEAD_BYTES
        else:
            headers = ()
            position += 1
        if position != end:
            raise CorruptBatch(f"the record at offset {base_offset + delta} is not as long as it says")
        add(Record(base_offset + delta, timestamp, key, value, headers))
    if position != stop:
        raise CorruptBatch(f"{stop - position} bytes follow the last record of the batch at offset {base_offset}")
    return records, header_count


def _read_headers(data: bytes, position: int, end: int, offset: int, room: int) -> tuple[tuple[Header, ...], int]:
    folded, position = read_varint(data, position)
    count = folded >> 1
    if folded & 1 or count * _MIN_HEADER_BYTES > end - position:
        raise CorruptBatch(f"the record at offset {offset} has no room for the {count} headers it counts")
    if count * HEADER_OVERHEAD_BYTES > room:
        _refuse(room)
    headers: list[Header] = []
    for _ in range(count):
        folded, position = read_varint(data, position)
        start = position
        position += folded >> 1
        if folded & 1:
            _refuse_length(offset, "header name")
        try:
            name = str(data[start:position], "utf-8")
        except UnicodeDecodeError:
            raise CorruptBatch(f"the record at offset {offset} has a header name that is not UTF-8") from None
        folded, position = read_varint(data, position)
        if folded == _NULL_FOLDED:
            headers.append((name, None))
            continue
        if folded & 1:
            _refuse_length(offset, "header value")
        start = position
        position += folded >> 1
        headers.append((name, data[start:position]))
    return tuple(headers), position


def _refuse_length(offset: int, field: str) -> NoReturn:
    raise CorruptBatch(f"the record at offset {offset} has a {field} of negative length")
