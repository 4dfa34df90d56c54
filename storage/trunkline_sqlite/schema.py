"""The tables, and how a file gets them.

``records``, one row a record, is what people query::

    topic, partition, offset     where it is; the primary key
    timestamp                    ms since the epoch, of creation or of append as the topic is set; -1 unknown
    key, value, headers          see :mod:`trunkline_sqlite.rows`

``batches`` has what records came in together and all that a batch's header says beside them, so that the batch can
be built again. Its key is the *last* offset: the batch that holds an offset is then the first one from there on, and
what compaction left out needs no case of its own::

    topic, partition, last_offset, base_offset
    size_bytes                   at most so many when it is built again without compression
    highest_timestamp            the largest max_timestamp of this batch and those before it
    leader_epoch .. base_sequence  as in the header; attributes with the compression that it came with
    raw                          the batch itself where it has no rows: see :mod:`trunkline_sqlite.rows`

``records_by_key`` has the offsets too, so that the different keys of a topic, and the records of one, are found in it
alone (:mod:`trunkline_sqlite.keys`).

``highest_timestamp`` never goes back, though clocks do, so an index on it finds the first batch of at least some time.

``logs`` has the ends and the size of each partition, ``states`` the core's snapshots. The size counts keys, values
and headers with :data:`trunkline_sqlite.rows.ROW_BYTES` for each record. ``flushes`` counts the flushes that found
something to sync: SQLite syncs what it commits, and commits only what changes a page. A log with ``is_deleted`` is not
there any more, its rows are on their way out.

All tables are ordinary ones with a rowid. Without one, a record of 1 to 4 KiB would take an overflow page of its own.

sqlite-utils makes the tables and keeps note of the migrations. ``user_version`` is the number of the last one, so that
a file that is up to date, the usual case, is known by one look, without the time it takes to import sqlite-utils.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

from trunkline.errors import CorruptLog, PluginError

if TYPE_CHECKING:
    from sqlite_utils import Database, Migrations

__all__ = ["APPLICATION_ID", "SCHEMA_VERSION", "prepare"]

SCHEMA_VERSION = 2
"""Of the newest migration below."""

APPLICATION_ID = 0x54724C6E
"""In the file's header, where ``file`` and others look for it: "TrLn"."""


def prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Give the file the tables that this version works with; it may be empty, or have older ones.

    Raises:
      PluginError: a newer Trunkline has made them; nothing was changed.
      CorruptLog: it is some other program's database; nothing was changed.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if tables and application != APPLICATION_ID:
        raise CorruptLog(f"{path} is a database of another program; move it out of the way", file=str(path), position=0)
    if version > SCHEMA_VERSION:
        reason = f"{path} has tables of version {version}, this Trunkline knows them up to version {SCHEMA_VERSION}"
        raise PluginError(
            f"{reason}; use the Trunkline that wrote them, or a newer one", plugin="sqlite", reason=reason
        )
    if version < SCHEMA_VERSION:
        _migrate(connection)


def _migrate(connection: sqlite3.Connection) -> None:
    from sqlite_utils import Database

    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    as_rows_need_it = connection.text_factory
    connection.text_factory = str
    try:
        _migrations().apply(Database(connection, execute_plugins=False))
    finally:
        connection.text_factory = as_rows_need_it


def _migrations() -> Migrations:
    """Every step from an empty file on. A step is never changed once it was released; each sets ``user_version``."""
    from sqlite_utils import Migrations

    migrations = Migrations("trunkline")

    @migrations(name="1: logs, batches, records, states")
    def first(database: Database) -> None:
        names = {"topic": str, "partition": int}
        database.table("logs").create(
            {**names, "start_offset": int, "end_offset": int, "size_bytes": int, "flushes": int, "is_deleted": int},
            pk=("topic", "partition"),
        )
        numbers = ("leader_epoch", "attributes", "base_timestamp", "max_timestamp")
        producer = ("producer_id", "producer_epoch", "base_sequence")
        batches = ("last_offset", "base_offset", "size_bytes", "highest_timestamp", *numbers, *producer)
        database.table("batches").create(
            {**names, **dict.fromkeys(batches, int), "raw": bytes}, pk=("topic", "partition", "last_offset")
        )
        # With the last offset, so that the index has the order and the key it leads to
        database.table("batches").create_index(
            ["topic", "partition", "highest_timestamp", "last_offset"], "batches_by_time"
        )
        database.table("records").create(
            {**names, "offset": int, "timestamp": int, "key": str, "value": str, "headers": str},
            pk=("topic", "partition", "offset"),
        )
        database.table("records").create_index(["topic", "timestamp"], "records_by_time")
        # sqlite-utils has no partial indexes. Records without a key, often all of a topic's, cost nothing in this one
        database.execute("CREATE INDEX records_by_key ON records (topic, key) WHERE key IS NOT NULL")
        database.table("states").create({**names, "offset": int, "state": bytes}, pk=("topic", "partition", "offset"))
        database.execute("PRAGMA user_version = 1")

    @migrations(name="2: records by key are found with their offsets")
    def second(database: Database) -> None:
        database.execute("DROP INDEX records_by_key")
        database.execute(
            'CREATE INDEX records_by_key ON records (topic, key, partition, "offset") WHERE key IS NOT NULL'
        )
        # Empty but for control batches and nonsense: the batches whose keys are in no row
        database.execute(
            "CREATE INDEX batches_without_rows ON batches (topic, partition, last_offset, base_offset) "
            "WHERE raw IS NOT NULL"
        )
        database.execute("PRAGMA user_version = 2")

    return migrations
