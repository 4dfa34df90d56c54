"""A file that is full, locked, read-only, damaged, another program's or a newer version's."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from trunkline.disk import RealDisk
from trunkline.errors import CorruptLog, PluginError, StoreFull
from trunkline.log import Log, StoreContext, TopicPartition
from trunkline.records import decode_all
from trunkline.settings import TopicSettings
from trunkline.testing import make_batch
from trunkline_sqlite.connections import connect
from trunkline_sqlite.schema import APPLICATION_ID, SCHEMA_VERSION
from trunkline_sqlite.settings import SqliteSettings
from trunkline_sqlite.store import DATABASE, SqliteStore
from trunkline_sqlite.writer import Writer

NAME = TopicPartition("orders", 0)
OTHER = TopicPartition("orders", 1)


def make_store(directory: Path) -> SqliteStore:
    return SqliteStore(StoreContext(directory, RealDisk(), SqliteSettings(busy_timeout_s=0)))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    store = make_store(tmp_path)
    yield store
    store.close()


@pytest.fixture
def log(store: SqliteStore) -> Log:
    return store.open(NAME, TopicSettings())


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / DATABASE


def offsets(log: Log) -> list[int]:
    return [record.offset for record in decode_all(log.read(log.start_offset, 1 << 30, log.end_offset))]


def limit(store: SqliteStore, pages: int) -> None:
    """SQLite's own limit on the size of the file; it answers as it does when the disk is full."""
    store._connection.execute(f"PRAGMA max_page_count = {pages}")


# -- full ------------------------------------------------------------------------------------------


def test_a_full_file_refuses_whole_appends_and_takes_them_when_there_is_room(store: SqliteStore, log: Log) -> None:
    log.append([make_batch(0)])
    limit(store, 1)  # as small as it can be: what it has now
    big = [make_batch(1), make_batch(2, size=100_000), make_batch(3)]
    with pytest.raises(StoreFull, match=r"trunkline\.db: there is no room for more"):
        log.append(big)
    assert (log.end_offset, offsets(log)) == (1, [0])
    assert log.flush() == 1
    size_bytes = log.size_bytes()
    limit(store, 1 << 30)
    log.append(big)
    assert offsets(log) == [0, 1, 2, 3]
    assert log.size_bytes() > size_bytes + 100_000 - 1000


def test_what_does_not_fit_takes_no_other_with_it(tmp_path: Path) -> None:
    connection = connect(tmp_path / DATABASE, 0)
    connection.execute("CREATE TABLE t (x)")
    writer = Writer(connection, tmp_path / DATABASE)
    connection.execute("PRAGMA max_page_count = 20")
    outcomes = run_in_one_group(writer, ["small", "x" * 1_000_000, "also small"])
    assert [type(outcome) for outcome in outcomes] == [int, StoreFull, int]
    assert connection.execute("SELECT x FROM t ORDER BY x").fetchall() == [(b"also small",), (b"small",)]
    connection.close()


def run_in_one_group(writer: Writer, texts: list[str]) -> list[object]:
    """Insert each text from a thread of its own while the writer is busy; what became of each."""
    outcomes: dict[str, object] = {}

    def insert(text: str) -> None:
        try:
            outcomes[text] = writer.run(lambda c: c.execute("INSERT INTO t VALUES (?)", [text]), is_durable=True)
        except (StoreFull, OSError) as error:
            outcomes[text] = error

    threads = [threading.Thread(target=insert, args=(text,)) for text in texts]

    def work_until_all_wait(connection: sqlite3.Connection) -> None:
        for thread in threads:
            thread.start()
        while len(writer._queue) < len(texts):
            pass

    writer.run(work_until_all_wait, is_durable=False)
    for thread in threads:
        thread.join()
    return [outcomes[text] for text in texts]


def test_work_that_waits_together_is_committed_together(tmp_path: Path) -> None:
    connection = connect(tmp_path / DATABASE, 0)
    connection.execute("CREATE TABLE t (x)")
    outcomes = run_in_one_group(Writer(connection, tmp_path / DATABASE), ["a", "b", "c", "d"])
    assert outcomes == [2, 2, 2, 2]  # the number of the commit
    connection.close()


# -- durability ------------------------------------------------------------------------------------


def test_a_synced_commit_makes_those_before_it_durable(tmp_path: Path) -> None:
    connection = connect(tmp_path / DATABASE, 0)
    connection.execute("CREATE TABLE t (x)")
    writer = Writer(connection, tmp_path / DATABASE)

    def insert(*, is_durable: bool) -> int:
        return writer.run(lambda c: c.execute("INSERT INTO t VALUES (1)"), is_durable=is_durable)

    first = insert(is_durable=False)
    assert not writer.is_durable(first)
    second = insert(is_durable=True)
    assert writer.is_durable(first)
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    third = insert(is_durable=False)
    assert (writer.is_durable(second), writer.is_durable(third)) == (True, False)
    assert connection.execute("PRAGMA synchronous").fetchone() == (1,)  # NORMAL
    connection.close()


@pytest.mark.parametrize(("durability", "commits"), [("fsync", 1), ("os", 2)])
def test_a_flush_commits_only_what_an_append_has_left_to_it(store: SqliteStore, durability: str, commits: int) -> None:
    log = store.open(NAME, TopicSettings.parse({"durability": durability}))
    before = store._writer._commits
    log.append([make_batch(0)])
    log.flush()
    log.flush()
    assert store._writer._commits - before == commits
    assert store._writer.is_durable(store._writer._commits)


# -- failing ---------------------------------------------------------------------------------------


def test_after_an_i_o_error_nothing_is_written_any_more(
    store: SqliteStore, log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    other = store.open(OTHER, TopicSettings())
    log.append([make_batch(0)])

    def fail(connection: sqlite3.Connection) -> None:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
        raise error

    with caplog.at_level(logging.CRITICAL), pytest.raises(OSError, match="disk I/O error"):
        store._writer.run(fail, is_durable=True)
    assert "nothing is written any more (disk I/O error); restart the broker" in caplog.text
    with pytest.raises(OSError, match="writing stopped after an error: disk I/O error"):
        other.append([make_batch(0)])
    assert offsets(log) == [0]  # reading goes on


def test_another_program_s_lock_is_named_and_writing_goes_on_after_it(
    store: SqliteStore, log: Log, database: Path
) -> None:
    with sqlite3.connect(database, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(OSError, match="another program keeps the database locked"):
            log.append([make_batch(0)])
        assert log.end_offset == 0
        other.execute("ROLLBACK")
    other.close()
    log.append([make_batch(0)])
    assert offsets(log) == [0]


def test_readers_of_other_programs_hold_up_nobody(log: Log, database: Path) -> None:
    log.append([make_batch(0)])
    other = sqlite3.connect(database, isolation_level=None)
    other.execute("BEGIN")
    assert other.execute("SELECT count(*) FROM records").fetchone() == (1,)
    log.append([make_batch(1)])
    log.flush()
    assert other.execute("SELECT count(*) FROM records").fetchone() == (1,)  # as of its start
    other.execute("COMMIT")
    assert other.execute("SELECT count(*) FROM records").fetchone() == (2,)
    other.close()


def test_a_database_that_cannot_be_written_to_says_so(store: SqliteStore, log: Log) -> None:
    store._connection.execute("PRAGMA query_only = ON")  # SQLite answers as for a read-only file
    with pytest.raises(OSError, match="cannot be written to") as caught:
        log.append([make_batch(0)])
    assert caught.value.filename.endswith(DATABASE)
    store._connection.execute("PRAGMA query_only = OFF")
    assert log.end_offset == 0


# -- the wrong file --------------------------------------------------------------------------------


def test_a_newer_schema_is_refused_and_left_alone(tmp_path: Path, database: Path) -> None:
    make_store(tmp_path).close()
    change(database, f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    before = database.read_bytes()
    with pytest.raises(PluginError, match=f"tables of version {SCHEMA_VERSION + 1}.*up to version {SCHEMA_VERSION}"):
        make_store(tmp_path)
    assert database.read_bytes() == before


def test_a_database_of_another_program_is_left_alone(tmp_path: Path, database: Path) -> None:
    change(database, "CREATE TABLE recipes (name)")
    with pytest.raises(CorruptLog, match="a database of another program"):
        make_store(tmp_path)
    connection = sqlite3.connect(database)
    assert connection.execute("SELECT name FROM sqlite_schema").fetchall() == [("recipes",)]
    connection.close()


def change(database: Path, statement: str) -> None:
    connection = sqlite3.connect(database, isolation_level=None)
    connection.execute(statement)
    connection.close()


def test_a_file_that_is_no_database_is_named(tmp_path: Path, database: Path) -> None:
    database.write_bytes(b"not a database at all" * 100)
    with pytest.raises(CorruptLog, match=r"trunkline\.db: file is not a database") as caught:
        make_store(tmp_path)
    assert caught.value.file == str(database)


def test_damage_inside_is_an_error_and_not_other_records(tmp_path: Path, database: Path) -> None:
    store = make_store(tmp_path)
    log = store.open(NAME, TopicSettings())
    log.append([make_batch(0, size=500_000), make_batch(1, size=500_000)])
    store.close()
    contents = bytearray(database.read_bytes())
    for page in range(1, len(contents) // 4096):  # all pages but the one with the schema
        contents[page * 4096 : page * 4096 + 8] = b"\xee" * 8
    database.write_bytes(contents)
    with pytest.raises(CorruptLog, match=r"trunkline\.db: database disk image is malformed"):
        make_store(tmp_path).list()


def test_the_file_says_what_it_is(tmp_path: Path, store: SqliteStore, database: Path) -> None:
    connection = sqlite3.connect(database)
    assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("SELECT name FROM _sqlite_migrations").fetchall()
    connection.close()


# -- removing --------------------------------------------------------------------------------------


def test_a_removal_that_was_cut_off_is_finished_at_the_next_start(
    tmp_path: Path, database: Path, count: Callable[[str], int]
) -> None:
    store = make_store(tmp_path)
    store.open(NAME, TopicSettings()).append([make_batch(0)])
    store.open(OTHER, TopicSettings()).append([make_batch(0)])
    store.close()
    change(database, "UPDATE logs SET is_deleted = 1 WHERE partition = 0")
    store = make_store(tmp_path)
    assert store.list() == [OTHER]
    assert [count(table) for table in ("records", "batches", "logs")] == [1, 1, 1]
    assert offsets(store.open(NAME, TopicSettings())) == []
    store.close()


@pytest.fixture
def count(database: Path) -> Callable[[str], int]:
    def count_rows(table: str) -> int:
        connection = sqlite3.connect(database)
        (found,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
        connection.close()
        return int(found)

    return count_rows


def test_much_is_removed_in_small_transactions(store: SqliteStore, log: Log, count: Callable[[str], int]) -> None:
    for base_offset in range(0, 12_000, 1_000):
        log.append([make_batch(base_offset, *[b"v"] * 1_000)])
    before = store._writer._commits
    log.trim(11_500)
    assert store._writer._commits - before == 3
    assert offsets(log) == [*range(11_500, 12_000)]
    assert count("records") == 500


def test_a_trim_that_fails_moves_nothing(store: SqliteStore, log: Log) -> None:
    log.append([make_batch(0), make_batch(1)])
    store._connection.execute("PRAGMA query_only = ON")
    with pytest.raises(OSError, match="cannot be written to"):
        log.trim(1)
    with pytest.raises(OSError, match="cannot be written to"):
        log.truncate(1)
    store._connection.execute("PRAGMA query_only = OFF")
    assert (log.start_offset, log.end_offset, offsets(log)) == (0, 2, [0, 1])
