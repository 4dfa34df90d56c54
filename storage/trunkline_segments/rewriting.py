"""Writing a segment anew, without what compaction has dropped.

Neighbours that together fit into one segment become one, so that the segments of a compacted log do not get
ever smaller and more; which ones is decided by their old sizes, before anything is read. A segment that stays
alone is copied only from the moment its first batch changes: where nothing does, nothing is written.

The new files are synced every SYNC_BYTES, not only at their end: an fsync of a gigabyte would hold up the
appends of every log on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from struct import Struct

from trunkline_segments.batches import whole_batches
from trunkline_segments.files import OpenFiles
from trunkline_segments.names import CLEANED
from trunkline_segments.segment import MAX_INDEX_ENTRIES, MAX_RELATIVE_OFFSET, Segment
from trunkline_segments.swap import remove_leftovers

__all__ = ["SYNC_BYTES", "Transform", "groups_to_rewrite", "rewrite_group"]

SYNC_BYTES = 8 * 1024 * 1024
"""Written between two syncs; at 500 MB/s an append waits 16 ms for it at worst."""

_WINDOW_BYTES = 1024 * 1024
_PLACE = Struct(">q15xi8xq")  # base_offset, last_offset_delta, max_timestamp

Transform = Callable[[bytes], bytes | None]


def groups_to_rewrite(segments: Sequence[Segment], end_offset: int, segment_bytes: int) -> list[list[Segment]]:
    """The segments that begin below ``end_offset``, in order; those in a group fit into one.

    Args:
      segments: all are finished but the last, which says where the one before it ends and is in no group.
    """
    groups: list[list[Segment]] = []
    size = entries = 0
    for segment, following in pairwise(segments):
        if segment.base_offset >= end_offset:
            break
        size += segment.size
        entries += max(len(segment.index), len(segment.times))
        is_whole = following.base_offset <= end_offset  # else the rest of it would be copied for nothing
        if (
            groups
            and is_whole
            and size <= segment_bytes
            and entries < MAX_INDEX_ENTRIES
            and following.base_offset - groups[-1][0].base_offset <= MAX_RELATIVE_OFFSET
        ):
            groups[-1].append(segment)
        else:
            groups.append([segment])
            size, entries = segment.size, max(len(segment.index), len(segment.times))
    return groups


def rewrite_group(
    open_files: OpenFiles,
    directory: Path,
    index_interval: int,
    group: list[Segment],
    end_offset: int,
    transform: Transform,
) -> Segment | None:
    """Write one segment in place of a group; its files are durable under names with CLEANED.

    Returns:
      The new segment, or None if it would be as the old one is; then there are no files.

    Raises OSError, CorruptLog, or what ``transform`` raises; no files are left.
    """
    new = Segment(open_files, directory, group[0].base_offset, index_interval, CLEANED)
    output = _Output(new, group[0])
    try:
        remove_leftovers(open_files.disk, directory, new.base_offset)
        if len(group) > 1:
            output.start()
        for segment in group:
            _rewrite(segment, output, end_offset, transform)
        if not output.is_started:
            return None
        output.finish()
        return new
    except BaseException:
        new.retire()
        with suppress(OSError):  # the first error is what the caller should hear of; recovery will remove them
            remove_leftovers(open_files.disk, directory, new.base_offset)
        raise


def _rewrite(segment: Segment, output: _Output, end_offset: int, transform: Transform) -> None:
    for batch in whole_batches(segment, 0, segment.size):
        base_offset, delta, timestamp = _PLACE.unpack_from(batch)
        kept: bytes | None = batch
        if base_offset < end_offset:
            kept = transform(batch)
        elif not output.is_started:
            return  # the rest stays as it is
        if kept is batch:
            output.add(batch, base_offset + delta, timestamp)
            continue
        output.start()
        if kept is not None:
            kept_base, kept_delta, timestamp = _PLACE.unpack_from(kept)
            assert (kept_base, kept_delta) == (base_offset, delta), "a batch keeps its base and last offset"
            output.add(kept, base_offset + delta, timestamp)


class _Output:
    """The new segment's files: from ``start`` on; until then all that was added is at the start of ``source``."""

    def __init__(self, new: Segment, source: Segment) -> None:
        self._new = new
        self._source = source
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._unsynced_bytes = 0
        self.is_started = False

    def start(self) -> None:
        """Write from now on, and first what was added before."""
        if self.is_started:
            return
        self.is_started = True
        for position in range(0, self._new.size, _WINDOW_BYTES):
            self._write(self._source.log.read(position, min(_WINDOW_BYTES, self._new.size - position)))

    def add(self, batch: bytes, last_offset: int, timestamp: int) -> None:
        self._new.note(len(batch), last_offset, timestamp)
        if self.is_started:
            self._write(batch)

    def _write(self, data: bytes) -> None:
        self._pending.append(data)
        self._pending_bytes += len(data)
        if self._pending_bytes >= _WINDOW_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._pending:
            self._new.log.append(self._pending)
            self._unsynced_bytes += self._pending_bytes
            self._pending, self._pending_bytes = [], 0
        if self._unsynced_bytes >= SYNC_BYTES:
            self._new.log.sync()
            self._unsynced_bytes = 0

    def finish(self) -> None:
        self._flush()
        self._new.log.sync()
        self._new.write_indexes(self._new.size, self._new.end_offset, is_finished=True)
