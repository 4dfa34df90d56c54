"""Cluster metadata (topics, their settings, replicas, leaders, epochs) behind one small interface.

Keys are paths (``topics/orders``), values are JSON objects, every write is a compare-and-set against
the revision that the writer read. That is what etcd offers, so a cluster swaps the implementation and
nothing else. A single broker keeps all of it in one file.

File ``metadata.json``, UTF-8 JSON, where R is the revision at which an entry was written::

    {"version": 1, "revision": N, "entries": {key: {"revision": R, "value": {...}}}}

It is replaced as a whole on every change: there are thousands of keys at most, and changes are rare.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import trio

from trunkline.disk import Disk
from trunkline.errors import CorruptLog, TrunklineError

__all__ = ["FileMetadata", "MetadataConflict", "MetadataEntry", "MetadataStore"]

_VERSION: Final = 1


class MetadataConflict(TrunklineError):
    """The entry has changed since it was read; nothing was written. Read it again and decide anew."""

    retriable = True


class MetadataEntry(msgspec.Struct, frozen=True):
    """A value and the revision at which it was written. Revisions grow over the whole store."""

    revision: int
    value: dict[str, Any]


class MetadataStore(ABC):
    """What the core asks of a coordination engine."""

    @abstractmethod
    async def get(self, key: str) -> MetadataEntry | None:
        """The entry, or None."""

    @abstractmethod
    async def list(self, prefix: str) -> dict[str, MetadataEntry]:
        """All entries whose key starts with ``prefix``, by key, sorted."""

    @abstractmethod
    async def compare_and_set(self, key: str, value: dict[str, Any] | None, revision: int) -> int:
        """Write (``None``: delete) if the entry is still at ``revision`` (0: if there is none).

        Returns the new revision; durable when it returns. Raises MetadataConflict.
        Cancellation: may have happened.
        """

    @abstractmethod
    def watch(self, prefix: str) -> AbstractAsyncContextManager[AsyncIterator[tuple[str, MetadataEntry | None]]]:
        """Inside the block, iterate over changes below ``prefix`` made after it was entered; None is a deletion."""


class _File(msgspec.Struct):
    version: int
    revision: int
    entries: dict[str, MetadataEntry]


class FileMetadata(MetadataStore):
    """Metadata of a single broker, in one file."""

    def __init__(self, path: Path, disk: Disk) -> None:
        self._path = path
        self._disk = disk
        self._lock = trio.Lock()
        self._watchers: list[tuple[str, trio.MemorySendChannel[tuple[str, MetadataEntry | None]]]] = []
        self._file = self._load()

    def _load(self) -> _File:
        contents = self._disk.read_file(self._path)
        if contents is None:
            return _File(_VERSION, 0, {})
        try:
            file = msgspec.json.decode(contents, type=_File)
        except msgspec.DecodeError as error:
            raise CorruptLog(f"{self._path}: not readable as metadata ({error})", file=str(self._path)) from None
        if file.version != _VERSION:
            raise CorruptLog(
                f"{self._path}: metadata version {file.version}; this release reads version {_VERSION}",
                file=str(self._path),
            )
        return file

    async def get(self, key: str) -> MetadataEntry | None:
        return self._file.entries.get(key)

    async def list(self, prefix: str) -> dict[str, MetadataEntry]:
        return {key: entry for key, entry in sorted(self._file.entries.items()) if key.startswith(prefix)}

    async def compare_and_set(self, key: str, value: dict[str, Any] | None, revision: int) -> int:
        async with self._lock:
            present = self._file.entries.get(key)
            if (present.revision if present is not None else 0) != revision:
                raise MetadataConflict(f"metadata entry {key} has changed since revision {revision}", key=key)
            entries = dict(self._file.entries)
            entry = None if value is None else MetadataEntry(self._file.revision + 1, value)
            if entry is None:
                entries.pop(key, None)
            else:
                entries[key] = entry
            file = _File(_VERSION, self._file.revision + 1, entries)
            await trio.to_thread.run_sync(self._disk.replace_file, self._path, msgspec.json.encode(file))
            self._file = file
        for prefix, channel in self._watchers:
            if key.startswith(prefix):
                channel.send_nowait((key, entry))
        return file.revision

    @asynccontextmanager
    async def watch(self, prefix: str) -> AsyncIterator[AsyncIterator[tuple[str, MetadataEntry | None]]]:
        # Unbounded: the only writers are this broker's own administrative calls, and the watcher is its own task.
        send, receive = trio.open_memory_channel[tuple[str, MetadataEntry | None]](math.inf)
        watcher = (prefix, send)
        self._watchers.append(watcher)
        async with receive:
            try:
                yield receive
            finally:
                self._watchers.remove(watcher)  # before it is closed: sending to a closed channel raises
