"""What a rewritten batch changes in the tables: only the rows that differ."""

from __future__ import annotations

import sqlite3

from trunkline.log import TopicPartition
from trunkline.records import Record, read_header
from trunkline_sqlite.rows import ROW_BYTES, StoredBatch, add_rows, records_of, stored
from trunkline_sqlite.statements import insert_batches, insert_records

__all__ = ["Change"]

_DELETE_RECORD = 'DELETE FROM records WHERE topic = ? AND partition = ? AND "offset" = ?'
_DELETE_BATCH = "DELETE FROM batches WHERE topic = ? AND partition = ? AND last_offset = ?"


class Change:
    """One batch in its old and its new form.

    Args:
      batch: the row of the old form.
      old: the batch that was given to ``transform``.
      new: what came back; None if it is to go.

    Attributes:
      growth_bytes: what it adds to the log's size; seldom above 0.

    Raises ValueError if the new form has other offsets than the old one.
    """

    def __init__(self, name: TopicPartition, batch: StoredBatch, old: bytes, new: bytes | None) -> None:
        self._name = name
        self._last_offset = batch.last_offset
        before = _records_by_offset(old)
        after: dict[int, Record] = {}
        self._row: StoredBatch | None = None
        raw_bytes = 0
        if new is not None:
            header = read_header(new)
            if (header.base_offset, header.last_offset) != (batch.base_offset, batch.last_offset):
                raise ValueError(f"{name}: a batch must keep its offsets, {batch.base_offset} to {batch.last_offset}")
            records = records_of(new, header)
            # The highest timestamp stays: it bounds that of the batches that follow, too
            self._row = stored(new, header, records, batch.highest_timestamp)
            if records is None:
                raw_bytes = ROW_BYTES + len(new)
            else:
                after = {record.offset: record for record in records}
        same = {offset for offset, record in after.items() if before.get(offset) == record}
        self._gone = [(*name, offset) for offset in before if offset not in same]
        self._added: list[object] = []
        self.growth_bytes = add_rows(name, [after[offset] for offset in after if offset not in same], self._added)
        self.growth_bytes -= add_rows(name, [before[offset] for _, _, offset in self._gone], [])
        self.growth_bytes += raw_bytes - (0 if batch.raw is None else ROW_BYTES + len(batch.raw))

    def apply(self, connection: sqlite3.Connection) -> None:
        """Make the change, inside a transaction."""
        connection.executemany(_DELETE_RECORD, self._gone)
        insert_records(connection, self._added)
        connection.execute(_DELETE_BATCH, (*self._name, self._last_offset))
        if self._row is not None:
            insert_batches(connection, self._name, [self._row])


def _records_by_offset(batch: bytes) -> dict[int, Record]:
    return {record.offset: record for record in records_of(batch, read_header(batch)) or ()}
