"""The core's snapshots, a small file each: four bytes of CRC-32 (big-endian), then the state."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Final

from trunkline.disk import Disk
from trunkline.log import SavedState

__all__ = ["SavedStates"]

_PREFIX: Final = "state."
_KEPT: Final = 2  # if the newest is damaged there is another one


class SavedStates:
    """Those of one log, in its directory."""

    def __init__(self, disk: Disk, directory: Path) -> None:
        self._disk = disk
        self._directory = directory

    def _offsets(self) -> list[int]:
        names = [name.removeprefix(_PREFIX) for name in self._disk.list(self._directory) if name.startswith(_PREFIX)]
        return sorted(int(name) for name in names if name.isdecimal())

    def _path(self, offset: int) -> Path:
        return self._directory / f"{_PREFIX}{offset}"

    def save(self, state: SavedState) -> None:
        """Keep a state, in one step, and drop old ones."""
        self._disk.replace_file(self._path(state.offset), zlib.crc32(state.state).to_bytes(4, "big") + state.state)
        for offset in self._offsets()[:-_KEPT]:
            self._disk.remove(self._path(offset))

    def load(self, end_offset: int) -> SavedState | None:
        """The newest intact one at or below ``end_offset``."""
        for offset in reversed(self._offsets()):
            contents = self._disk.read_file(self._path(offset)) or b""
            crc, state = contents[:4], contents[4:]
            if offset <= end_offset and crc == zlib.crc32(state).to_bytes(4, "big"):
                return SavedState(offset, state)
        return None

    def forget_after(self, offset: int) -> None:
        """Remove those past ``offset``, durably."""
        for found in self._offsets():
            if found > offset:
                self._disk.remove(self._path(found))
        self._disk.sync_directory(self._directory)
