"""Finding records by their keys.

The index ``records_by_key`` is on topic, key, partition, offset. So the different keys of a topic are found by
jumping from one to the next, one look-up each, however many records they have; and the records of a wanted one
lie together. Where the range has few records, or the topic more different keys than are worth a look-up each, the
rows of the range are read instead.

Batches without rows (:mod:`trunkline_sqlite.rows`) are few, and have an index of their own. Of these the ones that can
be decoded after all, because they only were too large to unpack when they came, have keys.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from typing import Final

from trunkline.errors import CorruptBatch, CorruptLog
from trunkline.keys import keys_of
from trunkline.log import TopicPartition
from trunkline.records import read_header

__all__ = ["KeySearch"]

_FEW_OFFSETS: Final = 2_000
"""Reading so many rows takes a few milliseconds."""

_MOST_OFFSETS: Final = 200_000
"""Rows read in one search; it takes some 0.2 s."""

_KEY_WORTH: Final = 4
"""A jump to the next key costs about as much as reading so many rows."""

_THIS_LOG = "topic = ? AND partition = ?"

# Keys may be TEXT or BLOB; every BLOB is greater than every TEXT, so one walk finds both
_SELECT_KEYS = """
    WITH RECURSIVE keys(key) AS (
        SELECT min(key) FROM records INDEXED BY records_by_key WHERE topic = ?1 AND key IS NOT NULL
        UNION ALL
        SELECT (SELECT min(key) FROM records INDEXED BY records_by_key WHERE topic = ?1 AND key > keys.key)
        FROM keys WHERE keys.key IS NOT NULL
    )
    SELECT key, typeof(key) FROM keys WHERE key IS NOT NULL LIMIT ?2"""

_SELECT_OFFSETS = """
    SELECT "offset" FROM records INDEXED BY records_by_key
    WHERE topic = ? AND key = ? AND partition = ? AND "offset" >= ? AND "offset" < ? ORDER BY "offset" LIMIT ?"""

_SELECT_ROWS = f"""
    SELECT "offset", key FROM records
    WHERE {_THIS_LOG} AND "offset" >= ? AND "offset" < ? AND key IS NOT NULL ORDER BY "offset\""""

_SELECT_RAW = f"""
    SELECT raw FROM batches INDEXED BY batches_without_rows
    WHERE {_THIS_LOG} AND last_offset >= ? AND base_offset < ? AND raw IS NOT NULL ORDER BY last_offset"""


class KeySearch:
    """One call of ``find_keys``, in one snapshot of the database."""

    def __init__(self, connection: sqlite3.Connection, name: TopicPartition, wants: Callable[[bytes], bool]) -> None:
        self._connection = connection
        self._name = name
        self._wants = wants

    def find(self, offset: int, end_offset: int, max_offsets: int) -> tuple[list[int], int]:
        """What ``find_keys`` gives."""
        keys = None
        if end_offset - offset > _FEW_OFFSETS:
            keys = self._wanted_keys((end_offset - offset) // _KEY_WORTH)
        if keys is None:
            end_offset = min(end_offset, offset + _MOST_OFFSETS)
            found = self._read_rows(offset, end_offset, max_offsets)
        else:
            found = self._look_up(keys, offset, end_offset, max_offsets)
        found = sorted([*found, *self._in_batches(offset, end_offset)])
        if len(found) < max_offsets:
            return found, end_offset
        return found[:max_offsets], found[max_offsets - 1] + 1

    def _wanted_keys(self, limit: int) -> list[str | bytes] | None:
        """Those of the topic that are wanted; None if it has more than ``limit`` different ones."""
        wanted: list[str | bytes] = []
        count = 0
        for key, kind in self._connection.execute(_SELECT_KEYS, (self._name.topic, limit + 1)):
            count += 1
            if self._wants(key):
                wanted.append(key.decode() if kind == b"text" else key)
        return wanted if count <= limit else None

    def _look_up(self, keys: list[str | bytes], offset: int, end_offset: int, max_offsets: int) -> list[int]:
        """The first ``max_offsets`` offsets of these keys."""
        topic, partition = self._name
        found: list[int] = []
        for key in keys:
            parameters = (topic, key, partition, offset, end_offset, max_offsets)
            found += (at for (at,) in self._connection.execute(_SELECT_OFFSETS, parameters))
            if len(found) > 2 * max_offsets:
                found = sorted(found)[:max_offsets]
                end_offset = found[-1]  # what follows would be left out again
        return found

    def _read_rows(self, offset: int, end_offset: int, max_offsets: int) -> list[int]:
        found: list[int] = []
        for at, key in self._connection.execute(_SELECT_ROWS, (*self._name, offset, end_offset)):
            if self._wants(key):
                found.append(at)
                if len(found) == max_offsets:
                    break
        return found

    def _in_batches(self, offset: int, end_offset: int) -> Iterator[int]:
        """Those in batches without rows."""
        for (raw,) in self._connection.execute(_SELECT_RAW, (*self._name, offset, end_offset)):
            header = read_header(raw)
            try:
                keys = keys_of(raw, header)
            except CorruptBatch as error:
                place = f"{self._name}: the batch at offset {header.base_offset}"
                raise CorruptLog(f"{place} is damaged: {error}", file=str(self._name), position=None) from None
            yield from (at for at, key in keys if offset <= at < end_offset and self._wants(key))
