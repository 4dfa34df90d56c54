"""A batch into records. The format is drawn in :mod:`trunkline.records.encoding`.

Every length is a claim to be checked. An IndexError (the batch ends inside a number) is caught once around the loop
instead of comparing at each byte; a slice past the end cannot hide, because the position after
each record must be the one its length announced, and that lies in the batch.

**What a batch can cost.** Unpacked records of 7 bytes become objects of over 100, so beside its bytes
each record is charged :data:`RECORD_OVERHEAD_BYTES` and each header :data:`HEADER_OVERHEAD_BYTES`, and
``max_bytes`` bounds the sum.

**Speed.** Varints of one and two bytes are read in place, which makes the loop long: a call
would double its time. It runs over bytes, since indexing a memoryview costs twice as much.
"""

from __future__ import annotations

from typing import NoReturn

from trunkline.compression import Buffer, decompress
from trunkline.errors import CorruptBatch, DecompressionLimitExceeded
from trunkline.records.batch import (
    HEADER_BYTES,
    MIN_RECORD_BYTES,
    TIMESTAMP_LIMIT,
    BatchHeader,
    check_crc,
    check_timestamps,
    iter_headers,
    read_header,
)
from trunkline.records.record import Header, Record
from trunkline.varint import read_varint, read_varlong

__all__ = ["DEFAULT_MAX_DECODED_BYTES", "HEADER_OVERHEAD_BYTES", "RECORD_OVERHEAD_BYTES", "decode", "decode_all"]

DEFAULT_MAX_DECODED_BYTES = 128 * 1024 * 1024
"""Room for a batch of 1 MiB (Kafka's default limit) that compressed a hundredfold."""

RECORD_OVERHEAD_BYTES = 128
"""What a record costs in memory beside its key and value."""

HEADER_OVERHEAD_BYTES = 96
"""What a header costs in memory beside its value."""

KNOWN_BLOCKS = 4096
KNOWN_BLOCK_BYTES = 128
"""One client's records repeat their headers. So many of its size are remembered with what they say, 3 MB at most."""

_known_headers: dict[bytes, tuple[Header, ...]] = {}  # what comes from worker threads too: each step is atomic
_MIN_HEADER_BYTES = 2
_ONE_BYTE = 64  # a length below has one byte
_NULL_FOLDED = 1  # -1 as a varint reader gives it
_OFFSET_LIMIT = 1 << 63
MAX_FOLDED_TIMESTAMP_DELTA = 4 * TIMESTAMP_LIMIT


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
        found += records
    return found


def _decode_at(
    buffer: Buffer, position: int, header: BatchHeader, from_offset: int, max_bytes: int
) -> tuple[list[Record], int]:
    """The records of one whole batch at or past ``from_offset``, and what they were charged of ``max_bytes``."""
    stop = position + header.size_bytes
    check_crc(buffer, position, stop, header.crc)
    count = header.record_count
    if not (0 <= count <= header.last_offset_delta + 1 and 0 <= header.base_offset < _OFFSET_LIMIT - (1 << 31)):
        raise CorruptBatch(f"the batch counts {count} records from offset {header.base_offset} to {header.last_offset}")
    check_timestamps(header.base_timestamp, header.max_timestamp)
    start = position + HEADER_BYTES
    if header.compression:
        room = max_bytes - count * RECORD_OVERHEAD_BYTES
        if room < 0:
            _refuse()
        data = decompress(header.compression, memoryview(buffer)[start:stop], room)
        start, stop = 0, len(data)
    elif isinstance(buffer, bytes):
        data = buffer
    else:
        data = bytes(buffer[start:stop])
        start, stop = 0, len(data)
    size = stop - start
    if size < count * MIN_RECORD_BYTES:
        raise CorruptBatch(f"the batch counts {count} records, but they have {size} bytes in all")
    cost = size + count * RECORD_OVERHEAD_BYTES
    if cost > max_bytes:
        _refuse()
    try:
        records, header_count = read_records(data, start, stop, header, from_offset, max_bytes - cost)
    except IndexError:
        raise CorruptBatch(f"the batch at offset {header.base_offset} ends inside a record") from None
    return records, cost + header_count * HEADER_OVERHEAD_BYTES


def _refuse() -> NoReturn:
    raise DecompressionLimitExceeded(
        "the records would take more memory than the limit allows; raise it if they are meant to"
    )


def read_records(
    data: bytes, position: int, stop: int, header: BatchHeader, from_offset: int, room: int
) -> tuple[list[Record], int]:
    """Read all records in ``[position, stop)``. IndexError means the data end inside a number.

    One and two bytes of a varint are read in place; a folded number is odd if it is negative.
    """
    base_offset = header.base_offset
    last_delta = header.last_offset_delta
    first_delta = from_offset - base_offset
    is_append_time = header.is_append_time
    base_timestamp = header.max_timestamp if is_append_time else header.base_timestamp
    previous = -1
    header_count = 0
    headers: tuple[Header, ...]
    alike = b""  # how headers begin that differ from those before in the value of the last one alone, up to its length
    first_headers: tuple[Header, ...] = ()
    last_name = ""
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
        timestamp = base_timestamp
        folded = data[position]
        if folded < 128:
            position += 1
        elif (high := data[position + 1]) < 128:
            folded += (high << 7) - 128
            position += 2
        else:
            folded, position = read_varlong(data, position)
            if folded > MAX_FOLDED_TIMESTAMP_DELTA:
                raise CorruptBatch(f"the record after offset {base_offset + previous} has no possible timestamp")
        if folded and not is_append_time:
            timestamp += (folded >> 1) ^ -(folded & 1)

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
            block = data[position:end]
            headers = _known_headers.get(block, ())
            if not headers and alike and block.startswith(alike):
                size = len(block) - len(alike) - 1
                if size < _ONE_BYTE and block[-1 - size] == 2 * size:
                    headers = (*first_headers, (last_name, block[len(block) - size :]))
            if headers:
                position = end
                if len(headers) * HEADER_OVERHEAD_BYTES > room:
                    _refuse()
            else:
                headers, position = read_record_headers(data, position, end, base_offset + delta, room)
                if position == end and len(block) <= KNOWN_BLOCK_BYTES:
                    if len(_known_headers) >= KNOWN_BLOCKS:
                        _known_headers.clear()
                    _known_headers[block] = headers
                if headers and (last := headers[-1][1]) is not None:
                    size = len(last)
                    if size < _ONE_BYTE and block[-1 - size] == 2 * size:  # not written in more bytes than it takes
                        alike, first_headers, last_name = block[: -1 - size], headers[:-1], headers[-1][0]
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


def read_record_headers(data: bytes, position: int, end: int, offset: int, room: int) -> tuple[tuple[Header, ...], int]:
    folded = data[position]
    if folded < 128:
        position += 1
    else:
        folded, position = read_varint(data, position)
    count = folded >> 1
    if folded & 1 or count * _MIN_HEADER_BYTES > end - position:
        raise CorruptBatch(f"the record at offset {offset} has no room for the {count} headers it counts")
    if count * HEADER_OVERHEAD_BYTES > room:
        _refuse()
    headers: list[Header] = []
    for _ in range(count):
        folded = data[position]
        if folded < 128:
            start = position + 1
        else:
            folded, start = read_varint(data, position)
        position = start + (folded >> 1)
        if folded & 1:
            _refuse_length(offset, "header name")
        try:
            name = data[start:position].decode()
        except UnicodeDecodeError:
            raise CorruptBatch(f"the record at offset {offset} has a header name that is not UTF-8") from None
        folded = data[position]
        if folded < 128:
            position += 1
        else:
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
