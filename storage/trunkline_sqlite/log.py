"""One log in the database: what changes it.

Batches become rows in the caller's thread; the writer then commits them, with what other logs have
(:mod:`trunkline_sqlite.writer`). **With durability=fsync a commit is synced**, so ``append`` returns what is durable
already and ``flush`` finds nothing to do: one fsync for both, which is why it is not left to ``flush``.
With durability=os the commit is left to the operating system, and ``flush`` asks for a synced one.

What is long (trimming, deleting, rewriting) is done in transactions of bounded size, so that the
other logs' appends get in between, the -wal file stays small, and a crash leaves work half done but nothing half there.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

from trunkline.errors import CorruptLog
from trunkline.log import SavedState, TopicPartition
from trunkline.records import read_header
from trunkline.settings import TopicSettings
from trunkline_sqlite.connections import ReadPool
from trunkline_sqlite.reading import SIZE_OF_ROW, ReadableLog
from trunkline_sqlite.rewriting import Change
from trunkline_sqlite.rows import ROW_BYTES, StoredBatch, add_rows, records_of, stored
from trunkline_sqlite.statements import insert_batches, insert_records
from trunkline_sqlite.writer import Writer

__all__ = ["SqliteLog"]

_TRIM_ROWS = 5000
"""Removed in one transaction: tens of milliseconds."""

_REWRITE_BYTES = 1024 * 1024
"""Read, changed and committed in one go by ``rewrite``."""

_KEPT_STATES = 2
_THIS_LOG = "topic = ? AND partition = ?"


class SqliteLog(ReadableLog):
    """Made by :class:`trunkline_sqlite.store.SqliteStore`; see the module's docstring."""

    def __init__(
        self, name: TopicPartition, settings: TopicSettings, path: Path, writer: Writer, readers: ReadPool
    ) -> None:
        super().__init__(name, path, readers)
        self._writer = writer
        self._is_durable = settings.durability == "fsync"
        self._size_bytes = 0
        self._highest_timestamp = -1
        self._commit = 0  # the number of the last one that changed this log
        self._load()

    def _load(self) -> None:
        with self._readers.snapshot() as connection:
            self._start_offset, self._end_offset, self._size_bytes = connection.execute(
                f"SELECT start_offset, end_offset, size_bytes FROM logs WHERE {_THIS_LOG}", self._name
            ).fetchone()
            last = connection.execute(
                f"""SELECT last_offset, highest_timestamp FROM batches WHERE {_THIS_LOG}
                ORDER BY last_offset DESC LIMIT 1""",
                self._name,
            ).fetchone()
        if last is None:
            last = (-1, -1)
        if last[0] >= self._end_offset:
            raise CorruptLog(
                f"{self._path}: {self._name} ends at offset {self._end_offset}, but has a batch up to {last[0]}",
                file=str(self._path),
                position=None,
            )
        self._highest_timestamp = last[1]

    def size_bytes(self) -> int:
        return self._size_bytes

    # -- appending ---------------------------------------------------------------------------------

    def append(self, batches: Sequence[bytes]) -> None:
        if not batches:
            return
        rows: list[StoredBatch] = []
        parameters: list[object] = []
        highest = self._highest_timestamp
        size_bytes = 0
        for batch in batches:
            header = read_header(batch)
            records = records_of(batch, header)
            rows.append(stored(batch, header, records, highest))
            highest = rows[-1].highest_timestamp
            size_bytes += ROW_BYTES + len(batch) if records is None else add_rows(self._name, records, parameters)
        end_offset = rows[-1].last_offset + 1

        def work(connection: sqlite3.Connection) -> None:
            insert_records(connection, parameters)
            insert_batches(connection, self._name, rows)
            connection.execute(
                f"UPDATE logs SET end_offset = ?, size_bytes = size_bytes + ? WHERE {_THIS_LOG}",
                (end_offset, size_bytes, *self._name),
            )

        def then() -> None:
            self._size_bytes += size_bytes
            self._end_offset = end_offset

        self._commit = self._writer.run(work, is_durable=self._is_durable, then=then)
        self._highest_timestamp = highest

    def flush(self) -> int:
        end_offset, commit = self._end_offset, self._commit
        if not self._writer.is_durable(commit):

            def work(connection: sqlite3.Connection) -> None:  # any change, to have a commit that is synced
                connection.execute(f"UPDATE logs SET flushes = flushes + 1 WHERE {_THIS_LOG}", self._name)

            self._writer.run(work, is_durable=True)
        return end_offset

    def close(self) -> None:
        self.flush()

    # -- removing ----------------------------------------------------------------------------------

    def trim(self, offset: int) -> None:
        while self._start_offset < offset:
            before = self._start_offset
            step = self._next_step(offset)
            self._start_offset = step  # before the rows go: readers look at it last
            try:
                self._remove("<", step, start_offset=step, end_offset=self._end_offset)
            except BaseException:
                self._start_offset = before
                raise

    def _next_step(self, offset: int) -> int:
        with self._readers.snapshot() as connection:
            row = connection.execute(
                f'SELECT "offset" FROM records WHERE {_THIS_LOG} AND "offset" >= ? ORDER BY "offset" LIMIT 1 OFFSET ?',
                (*self._name, self._start_offset, _TRIM_ROWS),
            ).fetchone()
        return offset if row is None else min(offset, row[0])

    def truncate(self, offset: int) -> None:
        with self._readers.snapshot() as connection:
            row = connection.execute(
                f"SELECT base_offset FROM batches WHERE {_THIS_LOG} AND last_offset >= ? ORDER BY last_offset LIMIT 1",
                (*self._name, offset),
            ).fetchone()
        if row is not None and row[0] < offset and self._start_offset < offset:
            raise ValueError(f"{self._name}: offset {offset} is inside the batch that starts at {row[0]}")
        before, self._end_offset = self._end_offset, offset
        try:
            self._remove(">=", offset, start_offset=self._start_offset, end_offset=offset)
        except BaseException:
            self._end_offset = before
            raise
        self._load()

    def _remove(self, side: str, offset: int, *, start_offset: int, end_offset: int) -> None:
        """Remove what lies on one side of an offset, durably, and with it the log's new ends."""
        records = f'FROM records WHERE {_THIS_LOG} AND "offset" {side} ?'
        batches = f"FROM batches WHERE {_THIS_LOG} AND last_offset {side} ?"
        sizes = [
            f"SELECT coalesce(sum({SIZE_OF_ROW}), 0) {records}",
            f"SELECT coalesce(sum({ROW_BYTES} + length(raw)), 0) {batches} AND raw IS NOT NULL",
        ]
        this = (*self._name, offset)
        size_bytes = 0

        def work(connection: sqlite3.Connection) -> None:
            nonlocal size_bytes
            size_bytes = sum(connection.execute(select, this).fetchone()[0] for select in sizes)
            connection.execute(f"DELETE {records}", this)
            connection.execute(f"DELETE {batches}", this)
            connection.execute(f'DELETE FROM states WHERE {_THIS_LOG} AND "offset" > ?', (*self._name, end_offset))
            connection.execute(
                f"UPDATE logs SET start_offset = ?, end_offset = ?, size_bytes = size_bytes - ? WHERE {_THIS_LOG}",
                (start_offset, end_offset, size_bytes, *self._name),
            )

        def then() -> None:
            self._size_bytes -= size_bytes

        self._commit = self._writer.run(work, is_durable=True, then=then)

    # -- compaction --------------------------------------------------------------------------------

    @property
    def rewritable_end_offset(self) -> int:
        return self._end_offset

    def rewrite(self, end_offset: int, transform: Callable[[bytes], bytes | None]) -> None:
        position = self._start_offset
        while found := self._read_batches(position, _REWRITE_BYTES, end_offset):
            changes = []
            for batch, encoded in found:
                new = transform(encoded)
                if new is not encoded:
                    changes.append(Change(self._name, batch, encoded, new))
            if changes:
                self._apply(changes)
            position = found[-1][0].last_offset + 1

    def _apply(self, changes: list[Change]) -> None:
        growth_bytes = sum(change.growth_bytes for change in changes)

        def work(connection: sqlite3.Connection) -> None:
            for change in changes:
                change.apply(connection)
            connection.execute(
                f"UPDATE logs SET size_bytes = size_bytes + ? WHERE {_THIS_LOG}", (growth_bytes, *self._name)
            )

        def then() -> None:
            self._size_bytes += growth_bytes

        self._writer.run(work, is_durable=False, then=then)

    # -- the core's state --------------------------------------------------------------------------

    def save_state(self, state: SavedState) -> None:
        def work(connection: sqlite3.Connection) -> None:
            this = (*self._name, state.offset)
            connection.execute(f'DELETE FROM states WHERE {_THIS_LOG} AND "offset" = ?', this)
            connection.execute("INSERT INTO states VALUES (?, ?, ?, ?)", (*this, state.state))
            connection.execute(
                f"""DELETE FROM states WHERE {_THIS_LOG} AND "offset" <
                (SELECT min("offset") FROM
                    (SELECT "offset" FROM states WHERE {_THIS_LOG} ORDER BY "offset" DESC LIMIT {_KEPT_STATES}))""",
                (*self._name, *self._name),
            )

        self._writer.run(work, is_durable=False)

    def load_state(self) -> SavedState | None:
        with self._readers.snapshot() as connection:
            row = connection.execute(
                f"""SELECT "offset", state FROM states WHERE {_THIS_LOG} AND "offset" <= ?
                ORDER BY "offset" DESC LIMIT 1""",
                (*self._name, self._end_offset),
            ).fetchone()
        return None if row is None else SavedState(*row)
