"""The file operations that stores use, behind one small interface.

Stores reach files only through a :class:`Disk`, so that a simulated one can lose unsynced writes,
tear the last one, fail or fill up. :class:`RealDisk` maps each call to one system call.
"""

from __future__ import annotations

import contextlib
import errno
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trunkline.compression import Buffer

__all__ = ["Disk", "DiskFile", "RealDisk"]

_IOV_MAX = 1024  # Linux UIO_MAXIOV: the most buffers one writev takes
_NOT_CACHED = (errno.EAGAIN, errno.EOPNOTSUPP)  # RWF_NOWAIT: not in the page cache, or not supported here


class DiskFile(ABC):
    """An open file. Appends go to its end; reads are positional and may run in other threads."""

    @abstractmethod
    def append(self, buffers: Sequence[Buffer]) -> int:
        """Write all buffers at the end of the file; return how many bytes.

        Raises OSError if not all went. A part may be there then, as ``size`` tells; the next append overwrites it.
        """

    @abstractmethod
    def read(self, position: int, size: int) -> bytes:
        """Up to ``size`` bytes from ``position``; fewer only at the end of the file."""

    @abstractmethod
    def read_nowait(self, position: int, size: int) -> bytes | None:
        """Like ``read``, or None if it would wait for the device."""

    @abstractmethod
    def sync(self) -> None:
        """Make the contents durable (fdatasync)."""

    @abstractmethod
    def truncate(self, size: int) -> None:
        """Cut the file to ``size`` bytes; the next append goes there."""

    @abstractmethod
    def size(self) -> int:
        """Bytes in the file now."""

    @abstractmethod
    def close(self) -> None:
        """Close without syncing."""


class Disk(ABC):
    """A file system, as far as a store needs one."""

    @abstractmethod
    def open(self, path: Path) -> DiskFile:
        """Open for reading and appending, making an empty file if there is none."""

    @abstractmethod
    def read_file(self, path: Path) -> bytes | None:
        """The whole contents of a small file, or None if it is missing."""

    @abstractmethod
    def replace_file(self, path: Path, contents: bytes) -> None:
        """Put ``contents`` in place of the file, durably and in one step: after a crash the old or the new is there."""

    @abstractmethod
    def list(self, directory: Path) -> list[str]:
        """Names in a directory; empty if it is missing."""

    @abstractmethod
    def make_directory(self, directory: Path) -> None:
        """Make it and its parents, durably; fine if it is there."""

    @abstractmethod
    def remove(self, path: Path) -> None:
        """Remove a file if it is there. Durable only after ``sync_directory``."""

    @abstractmethod
    def remove_directory(self, directory: Path) -> None:
        """Remove a directory and the files in it, if it is there."""

    @abstractmethod
    def rename(self, old: Path, new: Path) -> None:
        """Rename a file or directory, replacing a file. Durable only after ``sync_directory``."""

    @abstractmethod
    def sync_directory(self, directory: Path) -> None:
        """Make creations, renames and removals in ``directory`` durable."""


class _RealFile(DiskFile):
    """A file; while its file system is read-only it can be opened for reading all the same."""

    __slots__ = ("_fd", "_is_read_only", "_path", "_size")

    def __init__(self, path: Path) -> None:
        self._path = path
        self._is_read_only = False
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            if error.errno != errno.EROFS:
                raise
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            self._is_read_only = True
        self._size = os.fstat(self._fd).st_size

    def _open_for_writing(self) -> None:
        """Under the same number, because readers in other threads may be using it. Raises OSError."""
        fd = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        try:
            if not os.path.samestat(os.fstat(fd), os.fstat(self._fd)):
                raise OSError(errno.ESTALE, "the file was replaced while it was open for reading", str(self._path))
            os.dup2(fd, self._fd, inheritable=False)
        finally:
            os.close(fd)
        self._is_read_only = False

    def append(self, buffers: Sequence[Buffer]) -> int:
        if self._is_read_only:
            self._open_for_writing()
        total = 0
        for first in range(0, len(buffers), _IOV_MAX):
            total += self._append_some(buffers[first : first + _IOV_MAX])
        return total

    def _append_some(self, buffers: Sequence[Buffer]) -> int:
        want = sum(map(len, buffers))
        done = os.pwritev(self._fd, buffers, self._size)
        if done < want:  # a nearly full disk, or a signal: write the rest, or learn the reason
            rest = memoryview(b"".join(buffers))
            while done < want:
                done += os.pwrite(self._fd, rest[done:], self._size + done)
        self._size += want
        return want

    def read(self, position: int, size: int) -> bytes:
        return os.pread(self._fd, size, position)

    def read_nowait(self, position: int, size: int) -> bytes | None:
        size = min(size, self._size - position)
        if size <= 0:
            return b""
        buffer = bytearray(size)
        try:
            got = os.preadv(self._fd, [buffer], position, os.RWF_NOWAIT)
        except OSError as error:
            if error.errno in _NOT_CACHED:
                return None
            raise
        return bytes(buffer) if got == size else None

    def sync(self) -> None:
        os.fdatasync(self._fd)

    def truncate(self, size: int) -> None:
        if self._is_read_only:
            self._open_for_writing()
        os.ftruncate(self._fd, size)
        self._size = size

    def size(self) -> int:
        return os.fstat(self._fd).st_size  # not _size: an append that failed may have left a part of it

    def close(self) -> None:
        os.close(self._fd)


class RealDisk(Disk):
    """The operating system's files."""

    def open(self, path: Path) -> DiskFile:
        return _RealFile(path)

    def read_file(self, path: Path) -> bytes | None:
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None

    def replace_file(self, path: Path, contents: bytes) -> None:
        temporary = path.with_name(path.name + ".tmp")
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            try:
                rest = memoryview(contents)
                while rest:  # on a nearly full disk a part is written, and only the next write says why
                    rest = rest[os.write(fd, rest) :]
                os.fsync(fd)
            finally:
                os.close(fd)
            os.replace(temporary, path)
        except OSError:
            with contextlib.suppress(OSError):  # the first one is what the caller should hear of
                os.unlink(temporary)
            raise
        self.sync_directory(path.parent)

    def list(self, directory: Path) -> list[str]:
        try:
            return os.listdir(directory)
        except FileNotFoundError:
            return []

    def make_directory(self, directory: Path) -> None:
        if directory.is_dir():
            return
        self.make_directory(directory.parent)
        with contextlib.suppress(FileExistsError):
            directory.mkdir()
        self.sync_directory(directory.parent)

    def remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def remove_directory(self, directory: Path) -> None:
        for name in self.list(directory):
            self.remove(directory / name)
        with contextlib.suppress(FileNotFoundError):
            directory.rmdir()

    def rename(self, old: Path, new: Path) -> None:
        os.replace(old, new)

    def sync_directory(self, directory: Path) -> None:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
