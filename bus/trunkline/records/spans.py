"""Where the records of a batch lie, without making objects of them. Compaction works on this.

What :func:`trunkline.records.decode` would refuse is refused here too, but for one thing: headers are
looked at only where a record has any.
"""

from __future__ import annotations

from typing import NamedTuple

from trunkline.compression import decompress
from trunkline.errors import CorruptBatch, DecompressionLimitExceeded
from trunkline.records.batch import HEADER_BYTES, BatchHeader, check_timestamps, read_header
from trunkline.records.decoding import (
    DEFAULT_MAX_DECODED_BYTES,
    MAX_FOLDED_TIMESTAMP_DELTA,
    RECORD_OVERHEAD_BYTES,
    read_record_headers,
)
from trunkline.varint import SMALL, encode_varint, read_varint, read_varlong

__all__ = ["Span", "Spans", "is_in_headers", "move_timestamps", "read_spans", "skip_records"]

Span = tuple[int, int, int, int, bytes | None, bool]
"""A record's first byte, the byte after it, offset delta, timestamp delta, key, and whether its value is None."""

_NULL_FOLDED = 1
_LARGE_RECORD_BYTES = 16 * 1024  # from here on stepping over key and value takes less time than searching them


class Spans(NamedTuple):
    """The records of a batch, unpacked, and where each of them lies."""

    data: bytes
    spans: list[Span]


def read_spans(batch: bytes, header: BatchHeader, *, max_bytes: int = DEFAULT_MAX_DECODED_BYTES) -> Spans:
    """Find the records of a batch whose CRC is right.

    Args:
      header: the batch's own.
      max_bytes: as for :func:`trunkline.records.decode`.

    Raises:
      CorruptBatch, UnsupportedCompression, DecompressionLimitExceeded: as ``decode``.
    """
    count = header.record_count
    if not 0 <= count <= header.last_offset_delta + 1:
        raise CorruptBatch(f"the batch counts {count} records from offset {header.base_offset} to {header.last_offset}")
    check_timestamps(header.base_timestamp, header.max_timestamp)
    room = max_bytes - count * RECORD_OVERHEAD_BYTES
    if room < 0:
        raise DecompressionLimitExceeded("the records would take more memory than the limit allows")
    data, position = batch, HEADER_BYTES
    if header.compression:
        data, position = decompress(header.compression, memoryview(batch)[HEADER_BYTES:], room), 0
    try:
        return Spans(data, _read(data, position, header, room))
    except IndexError:
        raise CorruptBatch(f"the batch at offset {header.base_offset} ends inside a record") from None


def skip_records(batch: bytes, position: int, count: int) -> int:
    """Where the record after ``count`` others begins, in a batch that is not compressed: only lengths are looked at.

    Raises CorruptBatch.
    """
    try:
        for _ in range(count):
            folded = batch[position]
            if folded < 128:
                position += 1
            elif (high := batch[position + 1]) < 128:
                folded += (high << 7) - 128
                position += 2
            else:
                folded, position = read_varint(batch, position)
            position += folded >> 1
    except IndexError:
        position = len(batch) + 1
    if position > len(batch):
        raise CorruptBatch("a batch ends inside a record")
    return position


def is_in_headers(mark: bytes, batch: bytes) -> bool:
    """Whether a batch that is not compressed may have headers with this in them; it may be elsewhere if True."""
    count = read_header(batch).record_count if len(batch) >= _LARGE_RECORD_BYTES else 0
    if not count or len(batch) < count * _LARGE_RECORD_BYTES:
        return mark in batch
    position = HEADER_BYTES
    try:
        for _ in range(count):
            folded, position = read_varint(batch, position)
            end = position + (folded >> 1)
            _, position = read_varlong(batch, position + 1)
            _, position = read_varint(batch, position)
            for _ in ("key", "value"):
                folded, position = read_varint(batch, position)
                if folded != _NULL_FOLDED:
                    position += folded >> 1
            if batch.find(mark, position, end) >= 0:
                return True
            position = end
    except (CorruptBatch, IndexError):  # for whoever decodes it to say
        return True
    return False


def _read(data: bytes, position: int, header: BatchHeader, room: int) -> list[Span]:
    """One and two bytes of a varint are read in place, as in decoding; a folded number is odd if it is negative."""
    stop = len(data)
    last_delta = header.last_offset_delta
    previous = -1
    spans: list[Span] = []
    for _ in range(header.record_count):
        start = position
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
            raise _malformed(header, previous)

        position += 1  # attributes
        folded = data[position]
        if folded < 128:
            position += 1
        else:
            folded, position = read_varlong(data, position)
            if folded > MAX_FOLDED_TIMESTAMP_DELTA:
                raise _malformed(header, previous)
        timestamp_delta = (folded >> 1) ^ -(folded & 1)

        folded = data[position]
        if folded < 128:
            position += 1
        else:
            folded, position = read_varint(data, position)
        delta = folded >> 1
        if folded & 1 or not previous < delta <= last_delta:
            raise _malformed(header, previous)
        previous = delta

        key = None
        folded = data[position]
        if folded < 128:
            position += 1
        else:
            folded, position = read_varint(data, position)
        if folded != _NULL_FOLDED:
            if folded & 1:
                raise _malformed(header, previous)
            key_start = position
            position += folded >> 1
            key = data[key_start:position]

        folded = data[position]
        if folded < 128:
            position += 1
        elif (high := data[position + 1]) < 128:
            folded += (high << 7) - 128
            position += 2
        else:
            folded, position = read_varint(data, position)
        is_null = folded == _NULL_FOLDED
        if not is_null:
            if folded & 1:
                raise _malformed(header, previous)
            position += folded >> 1

        if data[position]:
            position = read_record_headers(data, position, end, header.base_offset + delta, room)[1]
        else:
            position += 1
        if position != end:
            raise _malformed(header, previous)
        spans.append((start, end, delta, timestamp_delta, key, is_null))
    if position != stop:
        raise _malformed(header, previous)
    return spans


def _malformed(header: BatchHeader, previous: int) -> CorruptBatch:
    return CorruptBatch(f"a record at or after offset {header.base_offset + max(previous, 0)} is malformed")


def move_timestamps(data: bytes, spans: list[Span], by: int) -> list[bytes]:
    """The records with ``by`` added to each timestamp delta; each is made anew."""
    records: list[bytes] = []
    known, moved = None, b""
    for start, end, _, timestamp_delta, _, _ in spans:
        position = start + 1
        while data[position - 1] > 127:  # the record's length
            position += 1
        rest = position + 2
        while data[rest - 1] > 127:  # its timestamp delta
            rest += 1
        if timestamp_delta != known:
            known, moved = timestamp_delta, encode_varint(timestamp_delta + by)
        size = 1 + len(moved) + end - rest
        length = SMALL[size] if size < len(SMALL) else encode_varint(size)
        records += (length, data[position : position + 1], moved, data[rest:end])
    return records
