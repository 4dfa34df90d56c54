"""Looking for records by their keys: what :meth:`trunkline.log.Log.find_keys` does where a store has no index."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from trunkline.errors import CorruptBatch, CorruptLog, DecompressionLimitExceeded, UnsupportedCompression
from trunkline.records import BatchHeader, iter_headers
from trunkline.records.batch import check_crc
from trunkline.records.spans import read_spans

if TYPE_CHECKING:
    from trunkline.log import Log

__all__ = ["WantsKey", "find_keys_by_reading", "keys_of"]

WantsKey = Callable[[bytes], bool]
"""Says whether records with this key are looked for. Always the same answer to the same key."""

_READ_BYTES: Final = 1024 * 1024
_MOST_BYTES: Final = 16 * 1024 * 1024
"""Read in one call, so that whoever waits for it can stop."""


def keys_of(batch: bytes, header: BatchHeader) -> list[tuple[int, bytes]]:
    """Offset and key of each record of one batch that has a key.

    Control batches have none that are a user's; of a batch that nobody can read nothing is known, so it has none.

    Raises CorruptBatch if its CRC is wrong.
    """
    if header.is_control:
        return []
    check_crc(batch, 0, len(batch), header.crc)
    try:
        spans = read_spans(batch, header).spans
    except (CorruptBatch, DecompressionLimitExceeded, UnsupportedCompression):
        return []
    base_offset = header.base_offset
    return [(base_offset + delta, key) for _, _, delta, _, key, _ in spans if key is not None]


def find_keys_by_reading(
    log: Log, offset: int, end_offset: int, wants: WantsKey, max_offsets: int
) -> tuple[list[int], int]:
    """As ``find_keys``: by reading every batch."""
    found: list[int] = []
    room = _MOST_BYTES
    while offset < end_offset and room > 0:
        data = log.read(offset, _READ_BYTES, end_offset)
        if not data:
            return found, end_offset  # a gap reaches up to there
        room -= len(data)
        first = offset
        for position, header in iter_headers(data):
            try:
                keys = keys_of(data[position : position + header.size_bytes], header)
            except CorruptBatch as error:
                raise CorruptLog(f"the batch at offset {header.base_offset} is damaged: {error}") from None
            for at, key in keys:
                if at >= first and wants(key):
                    found.append(at)
                    if len(found) == max_offsets:
                        return found, at + 1
            offset = header.next_offset
    return found, min(offset, end_offset)
