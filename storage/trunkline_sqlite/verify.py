"""Looking for what is wrong in the tables, beyond what reading a log shows.

SQLite checks its own pages and indexes (``PRAGMA integrity_check``). Here it is checked that the rows of a log fit
together. A record row that somebody has deleted is no fault that could be seen: compaction does the same.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

from trunkline.log import Fault, TopicPartition

__all__ = ["verify_file", "verify_rows"]

_THIS_LOG = "topic = ? AND partition = ?"

_RECORDS_WITHOUT_BATCH = f"""
    SELECT "offset" FROM records AS r WHERE {_THIS_LOG} AND (
        SELECT base_offset <= r."offset" AND raw IS NULL FROM batches AS b
        WHERE b.topic = r.topic AND b.partition = r.partition AND b.last_offset >= r."offset"
        ORDER BY b.last_offset LIMIT 1
    ) IS NOT 1 ORDER BY "offset\""""

_MAX_TOLD = 100
"""Of records that are in no batch; there may be millions."""


def verify_file(connection: sqlite3.Connection, path: Path) -> Iterator[Fault]:
    """What SQLite finds wrong with the file; reads all of it."""
    for (message,) in connection.execute("PRAGMA integrity_check"):
        text = message.decode(errors="replace")
        if text != "ok":
            yield Fault(str(path), None, None, " ".join(text.split()))


def verify_rows(connection: sqlite3.Connection, path: Path, name: TopicPartition) -> Iterator[Fault]:
    """Where the rows of a log contradict each other."""
    start, end = connection.execute(f"SELECT start_offset, end_offset FROM logs WHERE {_THIS_LOG}", name).fetchone()
    if start > end:
        yield Fault(str(path), None, start, f"logs: {name} starts at offset {start} and ends at {end}")
    previous_last, previous_highest = -1, None
    for base, last, largest, highest in connection.execute(
        f"""SELECT base_offset, last_offset, max_timestamp, highest_timestamp FROM batches
        WHERE {_THIS_LOG} ORDER BY last_offset""",
        name,
    ):
        place = f"batches: the row with last_offset {last}"
        if not previous_last < base <= last:
            reason = f"{place} has base_offset {base}, but the one before it ends at {previous_last}"
            yield Fault(str(path), None, base, reason)
        if not start <= last < end:
            yield Fault(str(path), None, base, f"{place} is outside the log, {start} to {end}")
        if highest < largest or (previous_highest is not None and highest < previous_highest):
            reason = f"{place} has highest_timestamp {highest}, less than it or one before it has"
            yield Fault(str(path), None, base, reason)
        previous_last, previous_highest = last, highest
    for (offset,) in connection.execute(_RECORDS_WITHOUT_BATCH, name).fetchmany(_MAX_TOLD):
        yield Fault(str(path), None, offset, f"records: the row of offset {offset} belongs to no batch")
