"""What SQLite's errors mean to the core."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trunkline.errors import CorruptLog, StoreFull

__all__ = ["explain", "explained", "is_of_one_write", "is_of_the_disk"]

_FULL = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE)  # the second: no room for the index of the -wal file
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_OF_THE_FILE = (*_DAMAGED, *_BUSY, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)


def _codes(error: BaseException) -> tuple[int, int]:
    """The extended and the primary result code."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    return code, code & 0xFF


def explain(error: sqlite3.Error, path: Path) -> Exception:
    """The error to raise instead: StoreFull, CorruptLog, or an OSError that says what to do."""
    code, primary = _codes(error)
    if code in _FULL:
        return StoreFull(f"{path}: there is no room for more ({error}); free some, or add some")
    if primary in _DAMAGED:
        return CorruptLog(
            f"{path}: {error}; see what `PRAGMA integrity_check` says in the sqlite3 shell, and restore a copy",
            file=str(path),
            position=None,
        )
    if primary in _BUSY:
        return OSError(
            errno.EBUSY, f"another program keeps the database locked ({error}); end its transaction", str(path)
        )
    if primary == sqlite3.SQLITE_READONLY:
        return OSError(errno.EROFS, f"the database cannot be written to ({error})", str(path))
    return OSError(errno.EIO, str(error), str(path))


def is_of_the_disk(error: BaseException) -> bool:
    """Whether a read, write or sync went wrong, after which it is unknown what the file holds."""
    code, primary = _codes(error)
    return primary == sqlite3.SQLITE_IOERR and code not in _FULL


def is_of_one_write(error: BaseException) -> bool:
    """Whether other writes of the same transaction may do well without the one that failed."""
    code, primary = _codes(error)
    return code in _FULL or primary not in _OF_THE_FILE


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Raise what :func:`explain` says in place of SQLite's errors."""
    try:
        yield
    except sqlite3.Error as error:
        raise explain(error, path) from error
