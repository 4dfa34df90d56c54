"""One record of a batch, by its offset, without making anything of those before and behind it."""

from __future__ import annotations

from trunkline.errors import CorruptBatch
from trunkline.records.batch import HEADER_BYTES, check_crc, check_timestamps, iter_headers
from trunkline.records.decoding import DEFAULT_MAX_DECODED_BYTES, read_records
from trunkline.records.record import Record
from trunkline.records.spans import skip_records

__all__ = ["decode_single"]


def decode_single(batches: bytes, offset: int) -> Record | None:
    """The record with this offset in the first of some batches, as a read from the log gives them.

    None: that takes decoding the batch, as it is compressed or was compacted, or the offset is not in it.

    Raises CorruptBatch.
    """
    _, header = next(iter_headers(batches), (0, None))
    if header is None or header.is_control or header.compression:
        return None
    index = offset - header.base_offset
    if not 0 <= index < header.record_count == header.last_offset_delta + 1:
        return None
    check_crc(batches, 0, header.size_bytes, header.crc)
    check_timestamps(header.base_timestamp, header.max_timestamp)
    start = skip_records(batches, HEADER_BYTES, index)
    stop = skip_records(batches, start, 1)
    alone = header._replace(record_count=1)
    try:
        records, _ = read_records(batches, start, stop, alone, offset, DEFAULT_MAX_DECODED_BYTES)
    except IndexError:
        raise CorruptBatch(f"the record at offset {offset} ends inside a number") from None
    return records[0] if records and records[0].offset == offset else None
