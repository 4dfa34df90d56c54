"""Records into a batch.

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

:meth:`BatchBuilder.append` is the hot path of protocols that bring single records: it looks up ready-made varints,
adds eight pieces to a list, and one join makes the batch. Anything that
takes more than two bytes of varint goes the slow way round. Tried and slower: a bytearray that grows in
place, struct, a look-up of attributes, timestamp and offset in one piece.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from trunkline.compression import Compression, compress
from trunkline.records.batch import APPEND_TIME, CONTROL, HEADER_BYTES, TIMESTAMP_LIMIT, TRANSACTIONAL, pack_batch
from trunkline.records.record import Header, Record
from trunkline.varint import SMALL, encode_varint

__all__ = ["BatchBuilder", "EMPTY_HEADERS", "NewRecord", "encode", "encode_headers"]

EMPTY_HEADERS = b"\x00"
"""What :func:`encode_headers` makes of no headers."""

_NO_LIMIT = 1 << 62
_NULL = encode_varint(-1)
_SMALL_END = len(SMALL)
_LARGE_PART_BYTES = 8 * 1024  # on average: a CRC of each part costs less than another copy of all
_RUN_OVERHEAD = 24  # varints and attributes of one record: at most so many bytes
_FIELD_BYTES = [len(length) + size for size, length in enumerate(SMALL)]  # of a field of that size with its length


def encode_headers(headers: Iterable[Header], begun: bytes = EMPTY_HEADERS) -> bytes:
    """Encode a record's headers with their count in front, as :meth:`BatchBuilder.append` takes them.

    Args:
      begun: what this made of the headers before, fewer than 64.
    """
    headers = tuple(headers)
    assert begun[0] < 128, "a count of 64 headers has two bytes"
    count = (begun[0] >> 1) + len(headers)
    parts = [SMALL[count] if count < _SMALL_END else encode_varint(count), begun[1:]]
    for name, value in headers:
        encoded = name.encode()
        length = len(encoded)
        parts += (SMALL[length] if length < _SMALL_END else encode_varint(length), encoded)
        if value is None:
            parts.append(_NULL)
        else:
            length = len(value)
            parts += (SMALL[length] if length < _SMALL_END else encode_varint(length), value)
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
        self,
        timestamp: int,
        key: bytes | None,
        value: bytes | None,
        headers_block: bytes = EMPTY_HEADERS,
        limit_bytes: int = _NO_LIMIT,
    ) -> bool:
        """Add a record. Its offset is ``count`` (before the call) above the batch's base offset.

        Args:
          timestamp: ms since the epoch; may go back. Between -2**61 and 2**61.
          headers_block: from :func:`encode_headers`.
          limit_bytes: of ``size_bytes``.

        Returns: False if it would pass the limit; it was not added then.
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
            size_bytes = self.size_bytes + _FIELD_BYTES[size]
            if size_bytes > limit_bytes:
                return False
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
        except IndexError:
            return self._append_large(key, value, headers_block, limit_bytes)
        self.count = number + 1
        self.size_bytes = size_bytes
        return True

    def append_run(self, timestamp: int, keys: Sequence[bytes], values: Sequence[bytes], headers_block: bytes) -> None:
        """Add records with the same headers, as ``append`` for each would; one at least, as many keys as values."""
        largest = max(map(len, keys)) + max(map(len, values)) + len(headers_block) + _RUN_OVERHEAD
        if largest > len(SMALL) or self.count + len(values) > len(SMALL):
            for key, value in zip(keys, values, strict=True):
                self.append(timestamp, key, value, headers_block)
            return
        if timestamp is not self._timestamp:
            self._set_timestamp(timestamp)
        fixed = self._fixed_bytes + len(headers_block) - 1
        stamp, parts, number, size_bytes = self._stamp, self._parts, self.count, self.size_bytes
        for key, value in zip(keys, values, strict=True):
            key_length, length = len(key), len(value)
            size = fixed + (number > 63) + _FIELD_BYTES[key_length] + _FIELD_BYTES[length]
            parts += (SMALL[size], stamp, SMALL[number], SMALL[key_length], key, SMALL[length], value, headers_block)
            size_bytes += _FIELD_BYTES[size]
            number += 1
        self.count = number
        self.size_bytes = size_bytes

    def _append_large(self, key: bytes | None, value: bytes | None, headers_block: bytes, limit_bytes: int) -> bool:
        body = [self._stamp, encode_varint(self.count)]
        body += (_NULL,) if key is None else (encode_varint(len(key)), key)
        body += (_NULL,) if value is None else (encode_varint(len(value)), value)
        body.append(headers_block)
        size = sum(map(len, body))
        length = encode_varint(size)
        size_bytes = self.size_bytes + len(length) + size
        if size_bytes > limit_bytes:
            return False
        self._parts.append(length)
        self._parts += body
        self.count += 1
        self.size_bytes = size_bytes
        return True

    def _set_timestamp(self, timestamp: int) -> None:
        if not -TIMESTAMP_LIMIT < timestamp < TIMESTAMP_LIMIT:
            raise ValueError(f"a timestamp is in milliseconds since the epoch, below 2**61: {timestamp}")
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
        attributes = (TRANSACTIONAL if is_transactional else 0) | (CONTROL if is_control else 0)
        records = self._parts
        if compression or self.size_bytes < len(records) * _LARGE_PART_BYTES:
            records = [b"".join(records)]
        if compression:
            compressed = compress(compression, records[0])
            if len(compressed) < len(records[0]):
                records = [compressed]
                attributes |= compression
        max_timestamp = self.max_timestamp
        if append_time is not None:
            attributes |= APPEND_TIME
            max_timestamp = append_time
        return pack_batch(
            base_offset,
            leader_epoch,
            attributes,
            self.count - 1,
            self._base_timestamp,
            max_timestamp,
            producer_id,
            producer_epoch,
            base_sequence,
            self.count,
            *records,
        )


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
