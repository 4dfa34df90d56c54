"""The small file that says what of a log is certain."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec
from trunkline.disk import Disk
from trunkline.errors import CorruptLog

__all__ = ["Manifest"]

_NAME: Final = "manifest"


class Manifest(msgspec.Struct, frozen=True):
    """What is certain, in JSON.

    Attributes:
      file: number of the file with the batches.
      start_offset, end_offset: of the log when this was written.
      durable_bytes: so much of the file is on the disk; it holds the offsets up to ``end_offset``.
    """

    file: int = 0
    start_offset: int = 0
    end_offset: int = 0
    durable_bytes: int = 0

    @classmethod
    def load(cls, disk: Disk, directory: Path) -> Manifest:
        """The manifest in a log's directory, that of an empty log if there is none. Raises CorruptLog."""
        path = directory / _NAME
        contents = disk.read_file(path)
        if contents is None:
            return cls()
        try:
            return msgspec.json.decode(contents, type=cls)
        except msgspec.MsgspecError as error:
            raise CorruptLog(f"{path} is damaged: {error}; restore it", file=str(path), position=0) from None

    def save(self, disk: Disk, directory: Path) -> None:
        """Put it in place of the one before, durably and in one step."""
        disk.replace_file(directory / _NAME, msgspec.json.encode(self))
