"""Files that are open only while they are wanted.

A broker with thousands of partitions has far more segment files than it may have open at a time. So a
segment keeps a :class:`StoredFile`, which opens itself when it is used; :class:`OpenFiles` closes the
ones that were not used lately (a clock: each gets a second chance when its turn comes). The log file that
is appended to is pinned and does not count.

Readers in other threads share these files without a lock: a file that is put aside is closed by whoever
lets go of it last, so no reader finds its descriptor closed, or worse, belonging to another file.
A removed file is never opened again, because :class:`trunkline.disk.Disk` would make a new one.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from trunkline.disk import Disk, DiskFile
from trunkline.records import Buffer

__all__ = ["FileGone", "OpenFiles", "StoredFile", "WouldWait"]

MAX_OPEN_FILES = 256
"""Unpinned files open at a time in one store: a quarter of the 1024 descriptors many systems give a process."""


class WouldWait(Exception):
    """A read that must not wait would have to."""


class FileGone(Exception):
    """The file was removed after the caller had found it."""


class _OpenFile:
    """Closes the file when the last one who uses it is done."""

    __slots__ = ("file",)

    def __init__(self, file: DiskFile) -> None:
        self.file = file

    def __del__(self) -> None:
        self.file.close()


class OpenFiles:
    """The unpinned open files of one store."""

    def __init__(self, disk: Disk, max_open: int = MAX_OPEN_FILES) -> None:
        self.disk = disk
        self.lock = threading.Lock()
        self._max_open = max_open
        self._clock: deque[StoredFile] = deque()

    def opened(self, file: StoredFile) -> list[_OpenFile]:
        """Count ``file`` in; return what had to make room, for the caller to drop outside the lock. Lock held."""
        self._clock.append(file)
        dropped = []
        while len(self._clock) > self._max_open:
            oldest = self._clock.popleft()
            if oldest.was_used:
                oldest.was_used = False
                self._clock.append(oldest)
            elif (handle := oldest.put_aside()) is not None:
                dropped.append(handle)
        return dropped

    def closed(self, file: StoredFile) -> None:
        """Count ``file`` out. Lock held."""
        if file in self._clock:
            self._clock.remove(file)


class StoredFile:
    """One file of a segment. Opened on first use, made if it is missing."""

    __slots__ = ("_handle", "_is_pinned", "_is_removed", "_open_files", "path", "was_used")

    def __init__(self, open_files: OpenFiles, path: Path) -> None:
        self.path = path
        self.was_used = False
        self._open_files = open_files
        self._handle: _OpenFile | None = None
        self._is_pinned = False
        self._is_removed = False

    def pin(self) -> DiskFile:
        """Keep it open until :meth:`unpin` or :meth:`close`."""
        with self._open_files.lock:
            self._open_files.closed(self)
            self._is_pinned = True
        return self._open(nowait=False).file

    def unpin(self) -> None:
        """From now on it may be closed when it is not used."""
        with self._open_files.lock:
            if not self._is_pinned:
                return
            self._is_pinned = False
            dropped = self._open_files.opened(self)
        dropped.clear()

    def close(self) -> None:
        """Close it; the next use opens it again."""
        with self._open_files.lock:
            self._open_files.closed(self)
            self._is_pinned = False
            handle = self.put_aside()
        del handle

    def remove(self) -> None:
        """Remove the file. Readers that are in it finish; later ones get FileGone."""
        with self._open_files.lock:
            self._is_removed = True
        self.close()
        self._open_files.disk.remove(self.path)

    def retire(self) -> None:
        """As :meth:`remove`, but what is there under its name is another file's business."""
        with self._open_files.lock:
            self._is_removed = True
        self.close()

    def rename(self, path: Path) -> None:
        """Give the file another name, in place of whatever has it; readers do not notice. Raises OSError."""
        with self._open_files.lock:  # so that nobody opens it under the old name
            self._open_files.disk.rename(self.path, path)
            self.path = path

    def put_aside(self) -> _OpenFile | None:
        """Forget the open file, and return it so that it is closed outside the lock. Lock held."""
        handle, self._handle = self._handle, None
        return handle

    def read(self, position: int, size: int, nowait: bool = False) -> bytes:
        """Up to ``size`` bytes from ``position``; fewer at the end. With ``nowait``, WouldWait if it would wait."""
        handle = self._open(nowait)
        if not nowait:
            return handle.file.read(position, size)
        found = handle.file.read_nowait(position, size)
        if found is None:
            raise WouldWait
        return found

    def append(self, buffers: Sequence[Buffer]) -> None:
        handle = self._open(nowait=False)  # kept, as above: who removes the file must not close it now
        handle.file.append(buffers)

    def sync(self) -> None:
        handle = self._open(nowait=False)
        handle.file.sync()

    def truncate(self, size: int) -> None:
        handle = self._open(nowait=False)
        handle.file.truncate(size)

    def size(self) -> int:
        handle = self._open(nowait=False)
        return handle.file.size()

    def _open(self, nowait: bool) -> _OpenFile:
        self.was_used = True
        handle = self._handle
        if handle is not None:
            return handle
        if nowait:
            raise WouldWait
        with self._open_files.lock:
            if self._is_removed:
                raise FileGone(str(self.path))
            handle = self._handle
            if handle is not None:
                return handle
            handle = self._handle = _OpenFile(self._open_files.disk.open(self.path))
            dropped = [] if self._is_pinned else self._open_files.opened(self)
        dropped.clear()  # closing may wait; not under the lock
        return handle
