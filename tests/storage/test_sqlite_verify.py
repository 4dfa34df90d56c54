"""What ``verify`` finds in a database that somebody has been at."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from trunkline.disk import RealDisk
from trunkline.log import Fault, StoreContext, TopicPartition
from trunkline.settings import TopicSettings
from trunkline.testing.batches import make_batch
from trunkline_sqlite.store import DATABASE, SqliteStore

NAME = TopicPartition("orders", 0)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    store = SqliteStore(StoreContext(tmp_path, RealDisk()))
    for name in (NAME, TopicPartition("orders", 1)):
        log = store.open(name, TopicSettings())
        log.append([make_batch(offset, b"a" * 500, b"b", timestamp=100 + offset) for offset in range(0, 100, 2)])
        log.trim(11)
        log.close()
    store.close()
    return tmp_path / DATABASE


def verify(database: Path) -> list[Fault]:
    store = SqliteStore(StoreContext(database.parent, RealDisk()))
    try:
        return [fault for name in store.list() for fault in store.verify(name)]
    finally:
        store.close()


def test_a_good_database_has_no_faults(database: Path) -> None:
    assert verify(database) == []


@pytest.mark.parametrize(
    ("change", "offset", "reason"),
    [
        ("UPDATE batches SET base_offset = 19 WHERE last_offset = 21", 19, "the one before it ends at 19"),
        ("UPDATE logs SET end_offset = 95", 94, "outside the log, 11 to 95"),
        ("UPDATE batches SET highest_timestamp = 5 WHERE last_offset = 41", 40, "highest_timestamp 5"),
        ("DELETE FROM batches WHERE last_offset = 51", 50, "the row of offset 50 belongs to no batch"),
    ],
)
def test_rows_that_contradict_each_other_are_found(database: Path, change: str, offset: int, reason: str) -> None:
    connection = sqlite3.connect(database)
    connection.execute(f"{change} {'WHERE' if 'WHERE' not in change else 'AND'} partition = 0")
    connection.commit()
    connection.close()
    faults = verify(database)
    assert (faults[0].file, faults[0].offset) == (str(database), offset)
    assert reason in faults[0].reason
    assert not faults[0].is_torn_tail


def test_a_damaged_page_is_found(database: Path) -> None:
    contents = bytearray(database.read_bytes())
    page = len(contents) // 2 // 4096 * 4096
    contents[page : page + 16] = bytes(byte ^ 0xFF for byte in contents[page : page + 16])
    database.write_bytes(contents)
    assert verify(database)
