"""Short ways to batches for tests."""

from __future__ import annotations

from trunkline.records import Record, decode_all, encode, iter_headers, read_header, with_records

__all__ = ["content", "make_batch", "next_offset", "unreadable_batch"]


def make_batch(base_offset: int, *values: bytes | None, timestamp: int = 1_000, size: int = 0) -> bytes:
    """An encoded batch with a record for each value.

    Args:
      base_offset: of the first record.
      values: if there are none, one value that names the offset.
      timestamp: ms; of all records.
      size: pad the last value so that the batch has at least so many bytes.
    """
    records: list[bytes | None] = list(values) or [b"record %d" % base_offset]
    batch = _encode(base_offset, records, timestamp)
    if len(batch) < size:
        records[-1] = (records[-1] or b"") + bytes(size - len(batch))
        batch = _encode(base_offset, records, timestamp)
    return batch


def _encode(base_offset: int, values: list[bytes | None], timestamp: int) -> bytes:
    return encode([(timestamp, None, value, ()) for value in values], base_offset=base_offset)


def unreadable_batch(*values: bytes | None) -> bytes:
    """A batch that counts a record for each value, with an intact CRC around nonsense."""
    return with_records(read_header(make_batch(0, *values)), b"\xff" * 40)


def content(batches: bytes) -> list[Record]:
    """The records of a run of whole batches."""
    return decode_all(batches)


def next_offset(batches: bytes) -> int:
    """The offset after a run of whole batches that is not empty."""
    *_, (_, last) = iter_headers(batches)
    return last.next_offset
