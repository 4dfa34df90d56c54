"""What SQLite's errors mean to the core.

A write for which there is no room is refused and can be tried again: nothing of it is in the file. That is so when
the disk or a quota is full, and on a file system that has turned read-only, where SQLite cannot say what is wrong
("disk I/O error") and the file system is asked. Any other I/O error leaves it unknown what the file holds.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trunkline.errors import CorruptLog, StoreFull

__all__ = ["explain", "explained", "is_of_one_write", "is_of_the_disk"]

_FULL = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE)  # the second: no room for the index of the -wal file
_PERHAPS_READ_ONLY = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR_WRITE)  # not a sync: that must not be repeated
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_OF_THE_FILE = (*_DAMAGED, *_BUSY, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)


def _codes(error: BaseException) -> tuple[int, int]:
    """The extended and the primary result code."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    return code, code & 0xFF


def _why_no_room(error: BaseException, path: Path) -> str | None:
    """Why nothing could be written, if that is all."""
    code, _ = _codes(error)
    if code in _FULL:
        return f"there is no room for more ({error}); free some, or add some"
    if code in _PERHAPS_READ_ONLY and _is_read_only(path.parent):
        return "the file system is read-only; make it writable"
    return None


def _is_read_only(directory: Path) -> bool:
    """Tried, not looked up: one that turned so after an error need not show it among its mount flags."""
    try:
        os.utime(directory)
    except OSError as error:
        return error.errno == errno.EROFS
    return False


def explain(error: sqlite3.Error, path: Path) -> Exception:
    """The error to raise instead: StoreFull, CorruptLog, or an OSError that says what to do."""
    _, primary = _codes(error)
    reason = _why_no_room(error, path)
    if reason is not None:
        return StoreFull(f"{path}: {reason}")
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
    name = getattr(error, "sqlite_errorname", "no name")
    return OSError(errno.EIO, f"{error} ({name})", str(path))


def is_of_the_disk(error: BaseException, path: Path) -> bool:
    """Whether a write or sync went wrong, after which it is unknown what the file holds."""
    return _codes(error)[1] == sqlite3.SQLITE_IOERR and _why_no_room(error, path) is None


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
