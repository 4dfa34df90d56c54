"""All logs in one SQLite file, ``trunkline.db`` in the store's directory, readable by anyone at any time.

WAL mode: those who read see a state of the file as of their first look and are in nobody's way. Beside the file lie
``trunkline.db-wal`` (what was committed lately) and ``trunkline.db-shm`` (an index of it, worthless after a
crash); the three belong together while the broker runs. **Recovery is SQLite's**: what was committed is there, what
was not is not, and a torn end of the -wal file is ignored. There is nothing to scan and nothing to cut.

Threads: the core calls from many. One connection writes, by turns and in groups (:mod:`trunkline_sqlite.writer`);
the others read (:mod:`trunkline_sqlite.connections`). All calls wait for the disk, hence ``blocking``.

SQLite opens its files itself, so this store cannot go through :class:`trunkline.disk.Disk` and be driven through a
simulated one. Its tests kill processes and copy and cut the files instead.
"""

from __future__ import annotations

import builtins
import sqlite3
from collections.abc import Iterator

from trunkline.errors import CorruptLog
from trunkline.log import Fault, Log, Store, StoreContext, TopicPartition
from trunkline.settings import TopicSettings
from trunkline_sqlite.connections import ReadPool, connect
from trunkline_sqlite.failures import explained
from trunkline_sqlite.log import SqliteLog
from trunkline_sqlite.schema import prepare
from trunkline_sqlite.settings import SqliteSettings
from trunkline_sqlite.verify import verify_file, verify_rows
from trunkline_sqlite.writer import Writer

__all__ = ["DATABASE", "SqliteStore"]

DATABASE = "trunkline.db"

_DELETED_ROWS = 5000
"""Removed in one transaction, so that appends to other logs get in between."""

_TABLES = ("records", "batches", "states", "logs")  # logs last: whoever is in it will be removed again after a crash
_THIS_LOG = "topic = ? AND partition = ?"


class SqliteStore(Store):
    """The database; see the module's docstring.

    Raises CorruptLog, PluginError (the file is a newer version's) and OSError when it is made.
    """

    blocking = True

    def __init__(self, context: StoreContext) -> None:
        settings = context.settings if isinstance(context.settings, SqliteSettings) else SqliteSettings()
        self._path = context.directory / DATABASE
        with explained(self._path):
            self._connection = connect(self._path, settings.busy_timeout_s)
            try:
                prepare(self._connection, self._path)
                context.disk.sync_directory(context.directory)  # the file's name is as durable as what is in it
                self._writer = Writer(self._connection, self._path)
            except BaseException:
                self._connection.close()
                raise
        self._readers = ReadPool(self._path, settings.busy_timeout_s)
        self._is_verified = False
        for name in self._names(is_deleted=True):  # a crash cut the removal off
            self._remove_rows(name)

    def list(self) -> list[TopicPartition]:
        return self._names(is_deleted=False)

    def _names(self, *, is_deleted: bool) -> builtins.list[TopicPartition]:
        with self._readers.snapshot() as connection:
            rows = connection.execute("SELECT topic, partition FROM logs WHERE is_deleted = ?", (is_deleted,))
            return [TopicPartition(topic.decode(), partition) for topic, partition in rows]

    def open(self, name: TopicPartition, settings: TopicSettings) -> Log:
        if self._is_deleted(name):  # its removal failed
            self._remove_rows(name)
        if self._is_deleted(name) is None:
            self._writer.run(
                lambda connection: connection.execute("INSERT INTO logs VALUES (?, ?, 0, 0, 0, 0, 0)", name),
                is_durable=False,  # what makes its first records durable does it for the log, too
            )
        return SqliteLog(name, settings, self._path, self._writer, self._readers)

    def _is_deleted(self, name: TopicPartition) -> bool | None:
        """None if it is not there at all."""
        with self._readers.snapshot() as connection:
            row = connection.execute(f"SELECT is_deleted FROM logs WHERE {_THIS_LOG}", name).fetchone()
        return None if row is None else bool(row[0])

    def verify(self, name: TopicPartition) -> Iterator[Fault]:
        """The file as a whole is checked, and its faults told, with the first log."""
        try:
            with self._readers.snapshot() as connection:
                if not self._is_verified:
                    self._is_verified = True
                    yield from verify_file(connection, self._path)
                yield from verify_rows(connection, self._path, name)
        except CorruptLog as error:
            yield Fault(str(self._path), None, None, str(error))
            return
        yield from super().verify(name)

    def delete(self, name: TopicPartition) -> None:
        self._writer.run(
            lambda connection: connection.execute(f"UPDATE logs SET is_deleted = 1 WHERE {_THIS_LOG}", name),
            is_durable=True,
        )
        self._remove_rows(name)

    def _remove_rows(self, name: TopicPartition) -> None:
        for table in _TABLES:
            while self._remove_some(table, name):
                pass

    def _remove_some(self, table: str, name: TopicPartition) -> bool:
        removed = 0

        def work(connection: sqlite3.Connection) -> None:
            nonlocal removed
            some = f"SELECT rowid FROM {table} WHERE {_THIS_LOG} LIMIT {_DELETED_ROWS}"
            removed = connection.execute(f"DELETE FROM {table} WHERE rowid IN ({some})", name).rowcount

        self._writer.run(work, is_durable=False)
        return removed == _DELETED_ROWS

    def close(self) -> None:
        self._readers.close()
        with explained(self._path):
            self._connection.close()  # the last one moves what is in the -wal file into the database
