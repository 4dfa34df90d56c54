"""Putting a rewritten segment in the place of old ones, so that a crash leaves the one or the others.

The names are Kafka's. All three files of the new segment are written as ``.cleaned`` and synced. Then, each
step durable before the next:

1. ``N.log.cleaned`` is renamed to ``N.log.swap``. From here on the new segment is in force.
2. Its indexes get their names, and the key index of N and the old segments that it replaces besides N are removed.
3. ``N.log.swap`` is renamed to ``N.log``, in place of the old segment N.

A crash before step 1 is durable leaves ``.cleaned`` files, which recovery removes. After it there is a ``.swap``, and
recovery does steps 2 and 3. It knows the replaced segments by their offsets: those that begin inside the new
one. An old segment of which the new one holds nothing, because all its batches were dropped, may so come
back, as it was.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from trunkline.disk import Disk
from trunkline_segments.files import OpenFiles
from trunkline_segments.names import CLEANED, INDEX, KEYS, LOG, SWAP, TIME_INDEX, file_name, offsets_of
from trunkline_segments.segment import Segment

__all__ = ["commit_swap", "finish_swap", "recover_swaps", "remove_leftovers"]


def commit_swap(disk: Disk, directory: Path, new: Segment) -> None:
    """Step 1, but for its sync. Raises OSError with nothing changed; the new files are gone then."""
    try:
        disk.sync_directory(directory)
        new.log.rename(directory / file_name(new.base_offset, LOG + SWAP))
    except OSError:
        new.retire()
        with suppress(OSError):  # the first error is what the caller should hear of; recovery will remove them
            remove_leftovers(disk, directory, new.base_offset)
        raise


def finish_swap(disk: Disk, directory: Path, new: Segment, replaced: list[Segment]) -> None:
    """The rest. ``replaced`` are the old segments, the one with the new one's base offset first."""
    disk.sync_directory(directory)
    new.index.file.rename(directory / file_name(new.base_offset, INDEX))
    new.times.file.rename(directory / file_name(new.base_offset, TIME_INDEX))
    for segment in replaced[1:]:
        segment.remove()
    disk.sync_directory(directory)
    new.log.rename(directory / file_name(new.base_offset, LOG))
    disk.sync_directory(directory)


def recover_swaps(open_files: OpenFiles, directory: Path, names: list[str]) -> bool:
    """Finish the swaps that a crash cut off; whether there were any. Raises CorruptLog if a new segment is damaged."""
    disk = open_files.disk
    swaps = offsets_of(names, LOG + SWAP)
    for base_offset in swaps:
        end_offset = _end_offset(open_files, directory, base_offset)
        for suffix in (INDEX, TIME_INDEX):
            cleaned = file_name(base_offset, suffix + CLEANED)
            if cleaned in names:
                disk.rename(directory / cleaned, directory / file_name(base_offset, suffix))
        disk.remove(directory / file_name(base_offset, KEYS))
        for suffix in (KEYS, INDEX, TIME_INDEX, LOG):
            for other in offsets_of(names, suffix):
                if base_offset < other < end_offset:
                    disk.remove(directory / file_name(other, suffix))
        disk.sync_directory(directory)
        disk.rename(directory / file_name(base_offset, LOG + SWAP), directory / file_name(base_offset, LOG))
        disk.sync_directory(directory)
    return bool(swaps)


def _end_offset(open_files: OpenFiles, directory: Path, base_offset: int) -> int:
    segment = Segment(open_files, directory, base_offset, 0)
    segment.log.path = directory / file_name(base_offset, LOG + SWAP)
    end_offset = base_offset
    try:
        for placed in segment.walk(0, segment.log.size()):
            end_offset = placed.last_offset + 1
    finally:
        segment.close()
    return end_offset


def remove_leftovers(disk: Disk, directory: Path, base_offset: int) -> None:
    """Remove the files of a new segment that never came into force."""
    for suffix in (LOG, INDEX, TIME_INDEX):
        disk.remove(directory / file_name(base_offset, suffix + CLEANED))
