"""A disk as it would be: what is changed stays in memory, and the files below are only read.

Whoever wants to look at a store without touching it opens it on an :class:`OverlayDisk`. Recovery may then cut
torn tails, finish what a crash cut off and make indexes anew, and all of it is gone with the object. Files
only grow and are cut (:class:`trunkline.disk.DiskFile` can do nothing else), so a changed file is the
beginning of the one below, and some bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trunkline.compression import Buffer
from trunkline.disk import Disk, DiskFile

__all__ = ["OverlayDisk"]


class _Contents:
    """What a file holds: the first ``kept`` bytes of the file below, then ``added``."""

    def __init__(self, below: Path | None, kept: int, added: bytes = b"") -> None:
        self.below = below
        self.kept = kept
        self.added = bytearray(added)


class _OverlayFile(DiskFile):
    def __init__(self, disk: Disk, contents: _Contents) -> None:
        self._contents = contents
        self._below = None if contents.below is None else disk.open(contents.below)

    def append(self, buffers: Sequence[Buffer]) -> int:
        data = b"".join(buffers)
        self._contents.added += data
        return len(data)

    def read(self, position: int, size: int) -> bytes:
        kept, added = self._contents.kept, self._contents.added
        found = b""
        if position < kept and self._below is not None:
            found = self._below.read(position, min(size, kept - position))
        if position + size > kept:
            found += added[max(position - kept, 0) : position + size - kept]
        return found

    def read_nowait(self, position: int, size: int) -> bytes | None:
        return self.read(position, size)

    def sync(self) -> None:
        """There is nothing to be durable."""

    def truncate(self, size: int) -> None:
        contents = self._contents
        del contents.added[max(size - contents.kept, 0) :]
        contents.kept = min(contents.kept, size)

    def size(self) -> int:
        return self._contents.kept + len(self._contents.added)

    def close(self) -> None:
        if self._below is not None:
            self._below.close()


class OverlayDisk(Disk):
    """The files of another disk, which it never changes; see the module's docstring. For one thread at a time."""

    def __init__(self, below: Disk) -> None:
        self._below = below
        self._files: dict[Path, _Contents | None] = {}  # those looked at or changed; None: removed
        self._made: set[Path] = set()  # directories
        self._hidden: set[Path] = set()  # directories of which nothing below shows any more

    def open(self, path: Path) -> DiskFile:
        contents = self._find(path)
        if contents is None:
            contents = self._files[path] = _Contents(None, 0)
        return _OverlayFile(self._below, contents)

    def read_file(self, path: Path) -> bytes | None:
        contents = self._find(path)
        if contents is None:
            return None
        file = _OverlayFile(self._below, contents)
        try:
            return file.read(0, file.size())
        finally:
            file.close()

    def replace_file(self, path: Path, contents: bytes) -> None:
        self._files[path] = _Contents(None, 0, contents)

    def list(self, directory: Path) -> list[str]:
        names = set() if self._is_hidden(directory) else set(self._below.list(directory))
        names -= {path.name for path in self._hidden if path.parent == directory}
        names -= {path.name for path in self._files if path.parent == directory}
        names |= {path.name for path, contents in self._files.items() if path.parent == directory and contents}
        names |= {path.name for path in self._made if path.parent == directory}
        return sorted(names)

    def make_directory(self, directory: Path) -> None:
        self._made.add(directory)

    def remove(self, path: Path) -> None:
        self._files[path] = None

    def remove_directory(self, directory: Path) -> None:
        for name in self.list(directory):
            self.remove(directory / name)
        self._made.discard(directory)
        self._hidden.add(directory)

    def rename(self, old: Path, new: Path) -> None:
        contents = self._find(old)
        if contents is not None:
            self._files[old], self._files[new] = None, contents
            return
        for name in self.list(old):
            self._files[new / name] = self._find(old / name)
        self.make_directory(new)
        self._hidden.add(new)
        self.remove_directory(old)

    def sync_directory(self, directory: Path) -> None:
        """There is nothing to be durable."""

    def _is_hidden(self, path: Path) -> bool:
        return any(part in self._hidden for part in (path, *path.parents))

    def _find(self, path: Path) -> _Contents | None:
        """What a file holds now; None if there is none."""
        if path not in self._files:
            if self._is_hidden(path) or path.name not in self._below.list(path.parent):
                return None
            try:
                file = self._below.open(path)
            except IsADirectoryError:
                return None
            self._files[path] = _Contents(path, file.size())
            file.close()
        return self._files[path]
