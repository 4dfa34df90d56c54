"""The core's saved states, as ``00000000000000000042.snapshot`` beside the segments (42: the state's offset).

Big-endian::

    i16  version     1
    u32  crc         CRC-32C of what follows
    u32  length      of the state, in bytes
         state       opaque

The name is Kafka's; the contents are not.
"""

from __future__ import annotations

import logging
from pathlib import Path
from struct import Struct

from crc32c import crc32c

from trunkline.disk import Disk
from trunkline.log import SavedState
from trunkline_segments.names import SNAPSHOT, file_name, offsets_of

__all__ = ["forget_states", "is_intact", "load_state", "save_state"]

logger = logging.getLogger("trunkline.segments")

KEPT = 2
"""If the newest is damaged, the one before it still spares reading the log from the start."""

_VERSION = 1
_HEADER = Struct(">hII")
_CRC_FROM = 6


def save_state(disk: Disk, directory: Path, state: SavedState) -> None:
    """Write a state; durable when it returns. Older ones beyond the last two are removed."""
    length = len(state.state).to_bytes(4, "big")
    crc = crc32c(state.state, crc32c(length))
    contents = _HEADER.pack(_VERSION, crc, len(state.state)) + state.state
    disk.replace_file(directory / file_name(state.offset, SNAPSHOT), contents)
    for offset in offsets_of(disk.list(directory), SNAPSHOT)[:-KEPT]:
        disk.remove(directory / file_name(offset, SNAPSHOT))


def load_state(disk: Disk, directory: Path, end_offset: int) -> SavedState | None:
    """The intact state with the largest offset at or below ``end_offset``; a damaged one is reported and left."""
    for offset in reversed(offsets_of(disk.list(directory), SNAPSHOT)):
        path = directory / file_name(offset, SNAPSHOT)
        contents = disk.read_file(path) if offset <= end_offset else None
        if contents is None:
            continue
        if is_intact(contents):
            return SavedState(offset, contents[_HEADER.size :])
        logger.warning("%s is damaged and is not used; an older saved state or the log itself stands in", path)
    return None


def is_intact(contents: bytes) -> bool:
    """Whether these are the contents of a state's file, whole and unchanged."""
    if len(contents) < _HEADER.size:
        return False
    version, crc, length = _HEADER.unpack_from(contents)
    body = contents[_CRC_FROM:]
    return bool(version == _VERSION and length == len(contents) - _HEADER.size and crc == crc32c(body))


def forget_states(disk: Disk, directory: Path, offset: int) -> None:
    """Remove the states past ``offset``; durable when it returns."""
    doomed = [found for found in offsets_of(disk.list(directory), SNAPSHOT) if found > offset]
    for found in doomed:
        disk.remove(directory / file_name(found, SNAPSHOT))
    if doomed:
        disk.sync_directory(directory)
