"""Connections to the file: how each is set up, and the ones that read.

A connection is used by one thread at a time. Readers take one from the pool, see one state of the file
for as long as they have it (WAL: nobody waits for them, and they wait for nobody), and give it back soon: the -wal
file can only be started anew when no reader needs what is in it.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trunkline_sqlite.failures import explained

__all__ = ["ReadPool", "connect"]

_KEPT_READERS = 8
"""Connections that stay open while nobody reads; each has up to 2 MiB of cached pages."""

_CHECKPOINT_PAGES = 4000
"""16 MiB of changes before they move from the -wal file into the database. Fewer cost a fifth more CPU, as a page
that records are being added to moves each time; more would have to be read after a crash."""

_MAX_IDLE_WAL_BYTES = 64 * 1024 * 1024
"""A -wal file that a long query made grow is cut down to this."""


def connect(path: Path, busy_timeout_s: float) -> sqlite3.Connection:
    """Open the file, made if it is missing, with transactions left to the caller."""
    connection = sqlite3.connect(
        path, timeout=busy_timeout_s, isolation_level=None, check_same_thread=False, cached_statements=64
    )
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
        connection.execute(f"PRAGMA journal_size_limit = {_MAX_IDLE_WAL_BYTES}")
        connection.execute("PRAGMA temp_store = MEMORY")
    except BaseException:
        connection.close()
        raise
    connection.text_factory = bytes  # text is stored as it came: as bytes
    return connection


class ReadPool:
    """Connections for reading. All methods may be called from any thread."""

    def __init__(self, path: Path, busy_timeout_s: float) -> None:
        self._path = path
        self._busy_timeout_s = busy_timeout_s
        self._idle: deque[sqlite3.Connection] = deque()
        self._is_closed = False

    @contextmanager
    def snapshot(self) -> Iterator[sqlite3.Connection]:
        """A connection that sees what is committed now, until the block ends. SQLite's errors come out explained."""
        with explained(self._path):
            connection = self._take()
            try:
                connection.execute("BEGIN")
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                connection.close()  # whatever state it is in
                raise
            self._give_back(connection)

    def _take(self) -> sqlite3.Connection:
        try:
            return self._idle.pop()
        except IndexError:
            connection = connect(self._path, self._busy_timeout_s)
            connection.execute("PRAGMA query_only = ON")
            return connection

    def _give_back(self, connection: sqlite3.Connection) -> None:
        if self._is_closed or len(self._idle) >= _KEPT_READERS:
            connection.close()
        else:
            self._idle.append(connection)

    def close(self) -> None:
        """Close those that are idle, and the others when they are given back."""
        self._is_closed = True
        while self._idle:
            self._idle.pop().close()
