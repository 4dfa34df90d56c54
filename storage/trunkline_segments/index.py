"""A sparse index: entries of a fixed size in a file, and the latest ones in memory.

New entries stay in memory until what they point at is durable; then :meth:`SparseIndex.write` puts them into
the file and lets go of them. So a log's indexes cost memory for the last few megabytes of it only, however long the
segment is; look-ups further back bisect the file, where the page cache does the caching. A memory map would do
the same, but not through :class:`trunkline.disk.Disk`.

One thread adds, another one writes, and any number look up. Look-ups take no lock: ``write`` first counts the new
entries as stored and only then forgets them in memory, so each is found in at least one of the two.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from struct import Struct

from trunkline_segments.files import StoredFile

__all__ = ["Entry", "Holds", "SparseIndex"]

Entry = tuple[int, int]
Holds = Callable[[int, int], bool]
"""A condition on an entry that holds for the first so many entries and for none after them."""


class SparseIndex:
    """Entries of two growing numbers, in the order they were added."""

    __slots__ = ("_entry", "_fresh", "_lock", "_size", "_stored", "file")

    def __init__(self, file: StoredFile, entry: Struct) -> None:
        self.file = file
        self._entry = entry
        self._size = entry.size
        self._stored = 0
        self._fresh = bytearray()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._stored + len(self._fresh) // self._size

    @property
    def has_fresh(self) -> bool:
        """Whether some entries are in memory only."""
        return bool(self._fresh)

    def add(self, first: int, second: int) -> None:
        """Add an entry, in memory."""
        with self._lock:
            self._fresh += self._entry.pack(first, second)

    def last(self) -> Entry | None:
        """The entry added last."""
        return self.find_last(lambda first, second: True)

    def find_last(self, holds: Holds, nowait: bool = False) -> Entry | None:
        """The last entry for which ``holds``."""
        fresh = self._fresh
        if fresh:
            found = self._count(
                lambda i: self._entry.unpack_from(fresh, i * self._size), len(fresh) // self._size, holds
            )
            if found:
                first, second = self._entry.unpack_from(fresh, (found - 1) * self._size)
                return first, second
        stored = self._stored
        found = self._count(lambda i: self._read(i, nowait), stored, holds)
        return self._read(found - 1, nowait) if found else None

    def _count(self, entry_at: Callable[[int], tuple[int, ...]], count: int, holds: Holds) -> int:
        """How many of the first ``count`` entries hold."""
        low, high = 0, count
        while low < high:
            middle = (low + high) // 2
            first, second = entry_at(middle)
            if holds(first, second):
                low = middle + 1
            else:
                high = middle
        return low

    def _read(self, number: int, nowait: bool) -> Entry:
        data = self.file.read(number * self._size, self._size, nowait)
        if len(data) < self._size:  # shortened by someone else: an impossible entry makes the caller distrust it
            return (1 << 62, 1 << 62)
        first, second = self._entry.unpack(data)
        return first, second

    def load(self, holds: Holds) -> None:
        """Take the entries in the file for which ``holds``; forget all others, those in memory too."""
        self._fresh = bytearray()
        count = self.file.size() // self._size
        self._stored = self._count(lambda i: self._read(i, False), count, holds)

    def take_back(self, holds: Holds) -> None:
        """Forget the entries added last, for which ``holds`` does not; none of them is in the file."""
        with self._lock:
            fresh = self._fresh
            count = self._count(
                lambda i: self._entry.unpack_from(fresh, i * self._size), len(fresh) // self._size, holds
            )
            self._fresh = fresh[: count * self._size]  # a new one: a look-up may be in the old

    def clear(self) -> None:
        """Forget all entries, in order to add them anew."""
        self._fresh = bytearray()
        self._stored = 0

    def write(self, holds: Holds) -> None:
        """Put the entries for which ``holds`` into the file, durably; it may not hold for fewer than before.

        What they point at is durable already: recovery trusts an entry that it finds below the recovery point.
        """
        fresh = bytes(self._fresh)
        count = self._count(lambda i: self._entry.unpack_from(fresh, i * self._size), len(fresh) // self._size, holds)
        stored_bytes = self._stored * self._size
        is_longer = self.file.size() != stored_bytes
        if is_longer:  # entries of records that are gone
            self.file.truncate(stored_bytes)
        if count:
            self.file.append([fresh[: count * self._size]])
        if count or is_longer:
            self.file.sync()
        with self._lock:
            self._stored += count
            self._fresh = self._fresh[count * self._size :]
