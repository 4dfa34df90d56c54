"""A disk in memory that fails in every way a real one does, as a seed decides.

Give it to whatever takes a :class:`trunkline.disk.Disk`: a store through its context, or a whole broker through
``open_broker(disk=...)``. Then, in any order::

    disk = SimulatedDisk(seed)
    disk.crash_after(40)              # power goes at the 40th change from now; every call raises PowerLost
    disk.crash()                      # ... and is back: what was not synced is there or not, whole or torn
    disk.fail("sync", errno.EIO)      # the next sync fails, and what it should have written is lost
    disk.capacity_bytes = disk.used_bytes + 1000      # nearly full
    disk.is_read_only = True
    disk.flip(path)                   # one bit, anywhere in a file

What outlives a crash is told in :mod:`trunkline.testing.simulated_files`. Everything that happens follows from the
seed and the order of calls, so a caller with one thread gets the same again from the same seed.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Final, TypeVar

from trunkline.compression import Buffer
from trunkline.disk import Disk, DiskFile
from trunkline.testing.simulated_files import Folder, NameChange, Node, SimulatedContents, survivors

__all__ = ["PowerLost", "SimulatedDisk"]

T = TypeVar("T")

OPERATIONS: Final = frozenset({"create", "append", "truncate", "sync", "remove", "rename", "sync_directory", "read"})
"""What :meth:`SimulatedDisk.fail` can be told to fail; all but reads are changes."""


class PowerLost(OSError):
    """The simulated power is off: the call may or may not have had its effect."""

    def __init__(self) -> None:
        super().__init__(errno.EIO, "simulated loss of power")


class _Failure:
    __slots__ = ("after", "code", "count", "name", "operation")

    def __init__(self, operation: str | None, code: int, after: int, count: int, name: str) -> None:
        self.operation, self.code, self.after, self.count, self.name = operation, code, after, count, name

    def strikes(self, operation: str, path: Path) -> bool:
        is_meant = operation != "read" if self.operation is None else operation == self.operation
        if not is_meant or self.name not in path.name or not self.count:
            return False
        if self.after:
            self.after -= 1
            return False
        self.count -= 1
        return True


class SimulatedDisk(Disk):
    """A file system in memory; see the module's docstring. Any number of threads may use it.

    Args:
      seed: of all chance; equal seeds and calls give equal disks.
      capacity_bytes: how much fits, in whole sectors for each file; None: anything. May be changed at any time.
      sector_bytes: what is written as a whole when a write is torn.
      nowait_misses: the share of ``read_nowait`` that says it would have to wait.

    Attributes:
      operations: changes so far (syncs included).
      is_read_only: every change raises EROFS; may be switched at any time.
    """

    def __init__(
        self, seed: int = 0, *, capacity_bytes: int | None = None, sector_bytes: int = 512, nowait_misses: float = 0.0
    ) -> None:
        self.capacity_bytes = capacity_bytes
        self.nowait_misses = nowait_misses
        self.is_read_only = False
        self.operations = 0
        self.lock = threading.RLock()
        self._sector_bytes = sector_bytes
        self._random = Random(seed)
        self._random_reads = Random(seed)  # of their own: how often is read says nothing about what a crash leaves
        self._root = Folder()
        self._pending: list[NameChange] = []
        self._files: list[SimulatedContents] = []
        self._failures: list[_Failure] = []
        self._power_for: int | None = None
        self._has_power = True
        self._starts = 0

    # -- what happens to it ------------------------------------------------------------------------

    def crash_after(self, operations: int) -> None:
        """Let the power go at the n-th change from now (1: the next one). What it would have done, it may have done."""
        self._power_for = operations

    def cut_power(self) -> None:
        """From now on every call raises PowerLost, until :meth:`crash`; for whoever is to have no chance to close."""
        with self.lock:
            self._has_power = False

    def crash(self) -> None:
        """Lose power, if it is not lost yet, and have it back. Open files are gone; planned failures too."""
        with self.lock:
            for change in survivors(self._pending, self._random):
                change.make_durable()
            self._pending.clear()
            self._root.lose_power(self._random, self._sector_bytes)
            self._files = [file for file in self._files if file.links]
            self._failures.clear()
            self._power_for = None
            self._has_power = True
            self._starts += 1

    def fail(
        self, operation: str | None = None, code: int = errno.EIO, *, after: int = 0, count: int = 1, name: str = ""
    ) -> None:
        """Let operations fail.

        Args:
          operation: one of OPERATIONS; None: any change.
          code: errno of the OSError. A write that fails may have written a part; a sync that fails loses what it
            should have written, and the next sync does not say so.
          after: let so many pass first.
          count: how many then fail.
          name: only of files with this in their names.
        """
        assert operation is None or operation in OPERATIONS
        self._failures.append(_Failure(operation, code, after, count, name))

    def forget_failures(self) -> None:
        """Let nothing fail of what :meth:`fail` has planned."""
        self._failures.clear()

    def flip(self, path: Path, position: int | None = None) -> int:
        """Flip a bit of a file, at ``position`` or anywhere; return the position."""
        with self.lock:
            contents = self._file(path)
            if position is None:
                position = self._random.randrange(len(contents.now))
            bits = 1 << self._random.randrange(8)
            for version in (contents.now, contents.durable):
                if position < len(version):
                    version[position] ^= bits
            return position

    @property
    def used_bytes(self) -> int:
        """Space taken by all files, as ``capacity_bytes`` counts it."""
        with self.lock:
            self._files = [file for file in self._files if file.links or file.handles]
            return sum(self._whole_sectors(len(file.now)) for file in self._files)

    # -- files -------------------------------------------------------------------------------------

    def open(self, path: Path) -> DiskFile:
        with self.lock:
            self._check_power()
            folder = self._folder(path.parent)
            node = folder.now.get(path.name)
            if node is None:
                node = self._change("create", path, lambda: self._create(folder, path.name))
            if isinstance(node, Folder):
                raise _error(errno.EISDIR, path)
            return _SimulatedFile(self, path, node, self._starts)

    def _create(self, folder: Folder, name: str) -> SimulatedContents:
        contents = SimulatedContents()
        self._rename(NameChange((folder, name, contents)))
        self._files.append(contents)
        return contents

    def read_file(self, path: Path) -> bytes | None:
        with self.lock:
            try:
                contents = self._file(path)
            except FileNotFoundError:
                return None
            self.check_read(path)
            return bytes(contents.now)

    def replace_file(self, path: Path, contents: bytes) -> None:
        temporary = path.with_name(path.name + ".tmp")
        file = self.open(temporary)
        try:
            try:
                if file.size():
                    file.truncate(0)
                file.append([contents])
                file.sync()
            finally:
                file.close()
            self.rename(temporary, path)
        except OSError:
            with suppress(OSError):
                self.remove(temporary)
            raise
        self.sync_directory(path.parent)

    # -- names -------------------------------------------------------------------------------------

    def list(self, directory: Path) -> list[str]:
        with self.lock:
            self._check_power()
            try:
                return [*self._folder(directory).now]
            except FileNotFoundError:
                return []

    def make_directory(self, directory: Path) -> None:
        with self.lock:
            self._check_power()
            folder = self._root
            for name in directory.parts[1:]:
                node = folder.now.get(name)
                if node is None:
                    node = Folder()
                    change = NameChange((folder, name, node))
                    self._change("create", directory, change.apply)
                    change.make_durable()
                if not isinstance(node, Folder):
                    raise _error(errno.ENOTDIR, directory)
                folder = node

    def remove(self, path: Path) -> None:
        with self.lock:
            self._check_power()
            with suppress(FileNotFoundError):
                self._file(path)
                change = NameChange((self._folder(path.parent), path.name, None))
                self._change("remove", path, lambda: self._rename(change))

    def remove_directory(self, directory: Path) -> None:
        with self.lock:
            for name in self.list(directory):
                self.remove(directory / name)
            with suppress(FileNotFoundError):
                self._folder(directory)
                change = NameChange((self._folder(directory.parent), directory.name, None))
                self._change("remove", directory, lambda: self._rename(change))

    def rename(self, old: Path, new: Path) -> None:
        with self.lock:
            self._check_power()
            source, target = self._folder(old.parent), self._folder(new.parent)
            node = source.now.get(old.name)
            if node is None:
                raise _error(errno.ENOENT, old)
            replaced = target.now.get(new.name)
            if isinstance(replaced, Folder) and replaced.now:
                raise _error(errno.ENOTEMPTY, new)
            change = NameChange((source, old.name, None), (target, new.name, node))
            self._change("rename", new, lambda: self._rename(change))

    def _rename(self, change: NameChange) -> None:
        change.apply()
        self._pending.append(change)

    def sync_directory(self, directory: Path) -> None:
        with self.lock:
            self._check_power()
            folder = self._folder(directory)
            self._change("sync_directory", directory, lambda: self._sync_names(folder), is_read_only_fine=True)

    def _sync_names(self, folder: Folder) -> None:
        for change in self._pending:
            if change.touches(folder):
                change.make_durable()
        self._pending = [change for change in self._pending if not change.touches(folder)]

    # -- finding -----------------------------------------------------------------------------------

    def _folder(self, path: Path) -> Folder:
        node: Node = self._root
        for name in path.parts[1:]:
            if not isinstance(node, Folder):
                raise _error(errno.ENOTDIR, path)
            if name not in node.now:
                raise _error(errno.ENOENT, path)
            node = node.now[name]
        if not isinstance(node, Folder):
            raise _error(errno.ENOTDIR, path)
        return node

    def _file(self, path: Path) -> SimulatedContents:
        self._check_power()
        node = self._folder(path.parent).now.get(path.name)
        if node is None:
            raise _error(errno.ENOENT, path)
        if isinstance(node, Folder):
            raise _error(errno.EISDIR, path)
        return node

    # -- every operation ---------------------------------------------------------------------------

    def _check_power(self) -> None:
        if not self._has_power:
            raise PowerLost

    def _failure(self, operation: str, path: Path) -> OSError | None:
        for failure in self._failures:
            if failure.strikes(operation, path):
                return _error(failure.code, path)
        return None

    def _change(
        self,
        operation: str,
        path: Path,
        effect: Callable[[], T],
        on_failure: Callable[[], object] | None = None,
        *,
        is_read_only_fine: bool = False,
    ) -> T:
        """Do it, unless it is to fail or to be cut off. Lock held."""
        self._check_power()
        self.operations += 1
        if self._power_for is not None:
            self._power_for -= 1
            if self._power_for <= 0:
                self._has_power = False
                if self._random.random() < 0.5:
                    with suppress(OSError):
                        effect()
                raise PowerLost
        failure = self._failure(operation, path)
        if failure is not None:
            if on_failure is not None:
                on_failure()
            raise failure
        if self.is_read_only and not is_read_only_fine:
            raise _error(errno.EROFS, path)
        return effect()

    def check_read(self, path: Path) -> None:
        """Raise if this read is to fail. Lock held."""
        self._check_power()
        failure = self._failure("read", path)
        if failure is not None:
            raise failure

    # -- for open files ----------------------------------------------------------------------------

    def append(self, path: Path, contents: SimulatedContents, position: int, data: bytes) -> None:
        """Write, or as much as there is room for. Lock held."""

        def write() -> None:
            room = self._room(contents, position)
            if room < len(data):
                contents.write(position, data[:room])
                raise _error(errno.ENOSPC, path)
            contents.write(position, data)

        def write_some() -> None:
            room = min(len(data), self._room(contents, position))
            contents.write(position, data[: self._random.randint(0, room)])

        self._change("append", path, write, write_some)

    def truncate(self, path: Path, contents: SimulatedContents, size: int) -> None:
        """Lock held."""
        self._change("truncate", path, lambda: contents.truncate(size))

    def sync(self, path: Path, contents: SimulatedContents) -> None:
        """Lock held."""

        def lose() -> None:
            contents.sync_fails(self._random, self._sector_bytes)

        self._change("sync", path, contents.sync, lose, is_read_only_fine=not contents.is_dirty)

    def read_would_wait(self) -> bool:
        """Lock held."""
        return self._random_reads.random() < self.nowait_misses

    def is_stale(self, starts: int) -> bool:
        """Whether a file opened at that start is gone. Lock held."""
        return starts != self._starts

    def _room(self, contents: SimulatedContents, position: int) -> int:
        if self.capacity_bytes is None:
            return 1 << 62
        free = max(0, self.capacity_bytes - self.used_bytes)
        free -= free % self._sector_bytes
        return max(0, self._whole_sectors(len(contents.now)) + free - position)

    def _whole_sectors(self, size: int) -> int:
        return size + -size % self._sector_bytes


class _SimulatedFile(DiskFile):
    def __init__(self, disk: SimulatedDisk, path: Path, contents: SimulatedContents, starts: int) -> None:
        self._disk = disk
        self._path = path
        self._contents = contents
        self._starts = starts
        self._size = len(contents.now)
        contents.handles += 1

    def _check(self) -> None:
        if self._disk.is_stale(self._starts):
            raise OSError(errno.EIO, "this file was open when power was lost", str(self._path))

    def append(self, buffers: Sequence[Buffer]) -> int:
        data = b"".join(buffers)
        with self._disk.lock:
            self._check()
            self._disk.append(self._path, self._contents, self._size, data)
            self._size += len(data)
            return len(data)

    def read(self, position: int, size: int) -> bytes:
        with self._disk.lock:
            self._check()
            self._disk.check_read(self._path)
            return bytes(self._contents.now[position : position + size])

    def read_nowait(self, position: int, size: int) -> bytes | None:
        with self._disk.lock:
            return None if self._disk.read_would_wait() else self.read(position, size)

    def sync(self) -> None:
        with self._disk.lock:
            self._check()
            self._disk.sync(self._path, self._contents)

    def truncate(self, size: int) -> None:
        with self._disk.lock:
            self._check()
            self._disk.truncate(self._path, self._contents, size)
            self._size = size

    def size(self) -> int:
        with self._disk.lock:
            self._check()
            return len(self._contents.now)

    def close(self) -> None:
        with self._disk.lock:
            if not self._disk.is_stale(self._starts):
                self._contents.handles -= 1


def _error(code: int, path: Path) -> OSError:
    return OSError(code, os.strerror(code), str(path))
