"""The checkpoint: what a log must know before it reads its segments.

A small text file ``checkpoint`` in the log's directory, replaced in one step, in the manner of Kafka's
checkpoint files (a version, then values), with a checksum at its end::

    1                                 version of this format
    start_offset 1200                 first offset that may be read
    recovery_point 5310               every record below it is durable, and so are the index entries for them
    recovery_segment 5000             base offset of the segment where that offset lies
    recovery_position 40960           byte in that segment's .log where it lies
    gaps_end 0                        below this offset records may be missing, and whole batches: compaction
                                      took them. At and past it each batch follows the one before it
    crc32c 0a1b2c3d                   of all the lines above

It also says whether the log was closed: a last segment that ends at ``recovery_position`` has nothing after
the recovery point, so nothing need be scanned. A flag would have to be taken back, durably, before the first append.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from crc32c import crc32c

from trunkline.disk import Disk
from trunkline.errors import CorruptLog
from trunkline_segments.names import CHECKPOINT

__all__ = ["Checkpoint", "read_checkpoint", "write_checkpoint"]

_VERSION = "1"


class Checkpoint(NamedTuple):
    """The values of the file; see the module's docstring."""

    start_offset: int
    recovery_point: int
    recovery_segment: int
    recovery_position: int
    gaps_end: int = 0


def write_checkpoint(disk: Disk, directory: Path, checkpoint: Checkpoint) -> None:
    """Replace the log's checkpoint; durable when it returns, as is every name in the directory."""
    values = "".join(f"{name} {value}\n" for name, value in checkpoint._asdict().items())
    text = f"{_VERSION}\n{values}"
    disk.replace_file(directory / CHECKPOINT, f"{text}crc32c {crc32c(text.encode()):08x}\n".encode())


def read_checkpoint(disk: Disk, directory: Path) -> Checkpoint | None:
    """The log's checkpoint, or None if there is no file. Raises CorruptLog if it is damaged."""
    path = directory / CHECKPOINT
    contents = disk.read_file(path)
    if contents is None:
        return None
    body, mark, checksum = contents.rpartition(b"crc32c ")
    if not mark or checksum != b"%08x\n" % crc32c(body):
        raise _damaged(path, "its checksum does not match")
    version, *lines = body.decode().splitlines()
    if version != _VERSION:
        raise _damaged(path, f"version {version!r} is not known here")
    try:
        names, values = zip(*(line.split(" ") for line in lines), strict=True)
        assert names == Checkpoint._fields
        return Checkpoint(*map(int, values))
    except (ValueError, AssertionError):
        raise _damaged(path, "it has not the expected lines") from None


def _damaged(path: Path, reason: str) -> CorruptLog:
    return CorruptLog(
        f"{path}: {reason}; without it the start of the log is not known. Restore it, or remove it to have "
        "the whole log checked and readable from its first segment",
        file=str(path),
        position=0,
    )
