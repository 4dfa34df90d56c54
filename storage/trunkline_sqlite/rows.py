"""Batches into rows, and rows into batches.

**Keys and values** are TEXT where they are text: UTF-8 without a NUL, which would end them for the ``sqlite3`` shell.
All else is a BLOB; ``typeof(value)`` tells. Either way the bytes are those that came, NULL is None, and an
empty key is not NULL. (Reading, the connection gives TEXT as bytes, so there is nothing to undo.)

**Headers** are JSON, one object, NULL if there are none: ``{"trace": "7f3a", "flag": null}``. A value that is not
text is an object of its own, ``{"base64": "AP8="}``. Order is kept, and a name that came twice is there
twice: JSON allows it, ``headers ->> 'name'`` gives the first and ``json_each(headers)`` all of them.

**Batches without rows.** Some are kept as they came, in ``batches.raw``, and given back verbatim: control batches, as
what they hold is not for users; what cannot be decoded, since a producer's nonsense with a right CRC was
acknowledged like all else; and what would unpack to more than :data:`MAX_UNPACKED_BYTES`.

**Built again,** a batch has the header that it had: offsets, epoch, times, producer, marks. Compression is left
out, for those who read in the same machine, but for batches that are large without it: readers have limits.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from json.encoder import encode_basestring
from typing import NamedTuple

from trunkline.compression import compress
from trunkline.errors import CorruptBatch, CorruptLog, DecompressionLimitExceeded, UnsupportedCompression
from trunkline.log import TopicPartition
from trunkline.records import (
    DEFAULT_MAX_DECODED_BYTES,
    EMPTY_HEADERS,
    HEADER_BYTES,
    BatchHeader,
    Header,
    Record,
    decode,
    encode_headers,
    with_records,
)
from trunkline.varint import SMALL, encode_varint

__all__ = ["MAX_UNPACKED_BYTES", "ROW_BYTES", "Row", "StoredBatch", "add_rows", "build", "records_of", "stored"]

MAX_UNPACKED_BYTES = 32 * 1024 * 1024
"""A batch may take so much memory and room when it is decompressed; a batch of the usual 1 MiB seldom does."""

ROW_BYTES = 16
"""Counted for each record beside its key, value and headers: about what its offset and time take."""

_PLAIN_BYTES = 1024 * 1024
"""A larger batch is compressed again: it may have come within max.message.bytes only because it was."""

_VARINTS_BYTES = 40  # around one record, at most
_NULL = encode_varint(-1)

Row = tuple[int, int, bytes | None, bytes | None, bytes | None]
"""offset, timestamp, key, value, headers, as a connection gives them."""


class StoredBatch(NamedTuple):
    """A row of ``batches``, without the topic and partition, in the order of its columns."""

    last_offset: int
    base_offset: int
    size_bytes: int
    highest_timestamp: int
    leader_epoch: int
    attributes: int
    base_timestamp: int
    max_timestamp: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    raw: bytes | None


# -- into rows -------------------------------------------------------------------------------------


def records_of(batch: bytes, header: BatchHeader) -> list[Record] | None:
    """The records that become rows; None if the batch is kept as it is."""
    if header.is_control:
        return None
    # What came uncompressed takes no more room than its producer sent, only the objects of the moment
    limit_bytes = MAX_UNPACKED_BYTES if header.compression else max(DEFAULT_MAX_DECODED_BYTES, 4 * len(batch))
    try:
        return decode(batch, max_bytes=limit_bytes)
    except (CorruptBatch, DecompressionLimitExceeded, UnsupportedCompression):
        return None


def stored(batch: bytes, header: BatchHeader, records: list[Record] | None, highest_timestamp: int) -> StoredBatch:
    """The row for a batch.

    Args:
      records: from :func:`records_of`.
      highest_timestamp: of the batches before it.
    """
    size_bytes = len(batch)
    if records is not None and header.compression:
        size_bytes = HEADER_BYTES + sum(_VARINTS_BYTES + _content_bytes(record) for record in records)
    return StoredBatch(
        header.last_offset,
        header.base_offset,
        size_bytes,
        max(highest_timestamp, header.max_timestamp),
        header.leader_epoch,
        header.attributes,
        header.base_timestamp,
        header.max_timestamp,
        header.producer_id,
        header.producer_epoch,
        header.base_sequence,
        batch if records is None else None,
    )


def _content_bytes(record: Record) -> int:
    headers = len(encode_headers(record.headers)) if record.headers else 0
    return len(record.key or b"") + len(record.value or b"") + headers


def add_rows(name: TopicPartition, records: Sequence[Record], parameters: list[object]) -> int:
    """Add the columns of each record's row to ``parameters``, one after another; return what the rows count for."""
    topic, partition = name
    size = ROW_BYTES * len(records)
    for record in records:
        key = record.key
        if key is not None:
            size += len(key)
        value = record.value
        if value is not None:
            size += len(value)
        headers = None
        if record.headers:
            headers = _headers_text(record.headers)
            size += len(headers.encode())
        parameters += (
            topic,
            partition,
            record.offset,
            record.timestamp,
            None if key is None else _column(key),
            None if value is None else _column(value),
            headers,
        )
    return size


def _column(content: bytes) -> str | bytes:
    if 0 in content:
        return content
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content


def _headers_text(headers: Sequence[Header]) -> str:
    return "{" + ", ".join(f"{encode_basestring(name)}: {_value_text(value)}" for name, value in headers) + "}"


def _value_text(value: bytes | None) -> str:
    if value is None:
        return "null"
    column = _column(value)
    if isinstance(column, str):
        return encode_basestring(column)
    return f'{{"base64": "{base64.b64encode(column).decode()}"}}'


# -- into batches ----------------------------------------------------------------------------------


def build(batch: StoredBatch, rows: Sequence[Row], place: str) -> bytes:
    """The batch that these rows are of, which may be fewer than it once had.

    Args:
      place: names file and log, for CorruptLog, which is raised if the rows cannot be a batch's.
    """
    if batch.raw is not None:
        return batch.raw
    header = _header(batch, len(rows))
    # In a batch stamped on append all have one time, and deltas from another one would only make it longer
    zero = batch.max_timestamp if header.is_append_time else batch.base_timestamp
    try:
        records = _encode_rows(rows, batch.base_offset, zero)
    except (ValueError, TypeError, AttributeError) as error:
        raise CorruptLog(
            f"{place}: a row from offset {batch.base_offset} on was changed into what no record can be ({error})",
            file=place,
            position=None,
        ) from error
    if header.compression and len(records) > _PLAIN_BYTES:
        return with_records(header, compress(header.compression, records))
    return with_records(header._replace(attributes=header.attributes - header.compression), records)


def _header(batch: StoredBatch, record_count: int) -> BatchHeader:
    """What is known of a batch's header before its records are."""
    return BatchHeader(
        base_offset=batch.base_offset,
        batch_length=0,
        leader_epoch=batch.leader_epoch,
        magic=2,
        crc=0,
        attributes=batch.attributes,
        last_offset_delta=batch.last_offset - batch.base_offset,
        base_timestamp=batch.base_timestamp,
        max_timestamp=batch.max_timestamp,
        producer_id=batch.producer_id,
        producer_epoch=batch.producer_epoch,
        base_sequence=batch.base_sequence,
        record_count=record_count,
    )


def _encode_rows(rows: Sequence[Row], base_offset: int, base_timestamp: int) -> bytes:
    parts: list[bytes] = []
    last_timestamp: int | None = None
    stamp = b""  # a record's attributes and timestamp delta
    for offset, timestamp, key, value, headers in rows:
        if timestamp != last_timestamp:
            stamp = b"\x00" + encode_varint(timestamp - base_timestamp)
            last_timestamp = timestamp
        key_bytes = key or b""
        value_bytes = value or b""
        block = EMPTY_HEADERS if headers is None else _headers_block(headers)
        try:
            delta = SMALL[offset - base_offset]
            key_length = _NULL if key is None else SMALL[len(key_bytes)]
            value_length = _NULL if value is None else SMALL[len(value_bytes)]
            sizes = len(stamp) + len(delta) + len(key_length) + len(value_length)
            length = SMALL[sizes + len(key_bytes) + len(value_bytes) + len(block)]
        except IndexError:  # something is too large for the ready-made varints
            delta = encode_varint(offset - base_offset)
            key_length = _NULL if key is None else encode_varint(len(key_bytes))
            value_length = _NULL if value is None else encode_varint(len(value_bytes))
            sizes = len(stamp) + len(delta) + len(key_length) + len(value_length)
            length = encode_varint(sizes + len(key_bytes) + len(value_bytes) + len(block))
        parts += (length, stamp, delta, key_length, key_bytes, value_length, value_bytes, block)
    return b"".join(parts)


def _headers_block(text: bytes) -> bytes:
    return encode_headers((name, _value(found)) for name, found in json.loads(text, object_pairs_hook=list))


def _value(found: object) -> bytes | None:
    match found:
        case None:
            return None
        case str():
            return found.encode()
        case [("base64", str(encoded))]:
            return base64.b64decode(encoded)
    raise ValueError(f"{found!r} is not a header's value")
