"""Going through a segment batch by batch, a window of the file at a time."""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct

from trunkline.records import HEADER_BYTES
from trunkline_segments.segment import Segment, corrupt

__all__ = ["whole_batches"]

_WINDOW_BYTES = 1024 * 1024
_PLACE = Struct(">qi4xb6xi")  # base_offset, batch_length, magic, last_offset_delta
_LENGTH_END = 12
_MAGIC = 2


def whole_batches(segment: Segment, position: int, limit: int) -> Iterator[bytes]:
    """Every batch from ``position``, a batch boundary, to ``limit``, up to where it is written.

    Raises CorruptLog at a header that makes no sense. CRCs are not looked at.
    """
    window, start = b"", position
    offset = segment.base_offset
    while position < limit:
        size = HEADER_BYTES
        at = position - start
        if at + size <= len(window):
            base_offset, length, magic, delta = _PLACE.unpack_from(window, at)
            size = length + _LENGTH_END
            if magic != _MAGIC or size < HEADER_BYTES or delta < 0 or base_offset < offset:
                raise corrupt(segment.log.path, position, "this is not the header of a batch that can be here")
        if at + size > len(window):
            window, start = segment.log.read(position, min(max(size, _WINDOW_BYTES), limit - position)), position
            if len(window) < size:
                raise corrupt(segment.log.path, position, "the file ends inside a batch")
            continue
        yield window[at : at + size]
        position += size
        offset = base_offset + delta + 1
