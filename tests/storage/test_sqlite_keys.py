"""Finding records by their keys through the index, and getting the index in an older file."""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path

import pytest

from trunkline.disk import RealDisk
from trunkline.keys import find_keys_by_reading
from trunkline.log import Log, StoreContext, TopicPartition
from trunkline.records import HEADER_BYTES, Compression, encode, read_header, with_records
from trunkline.settings import TopicSettings
from trunkline_sqlite import keys, rows
from trunkline_sqlite.store import DATABASE, SqliteStore

NAME = TopicPartition("orders", 0)
KEYS = [None, b"", b"a", b"ab", b"\xff\x00", b"a\x00b", "ä".encode(), b"\xfe", b"z"]


def open_log(directory: Path) -> tuple[SqliteStore, Log]:
    store = SqliteStore(StoreContext(directory, RealDisk()))
    return store, store.open(NAME, TopicSettings())


def fill(store: SqliteStore, rng: random.Random) -> Log:
    """Two partitions with the same keys, as text and as bytes; some batches are kept without rows."""
    for partition in (1, 0):
        log = store.open(TopicPartition("orders", partition), TopicSettings())
        for offset in range(0, 400, 4):
            records = [(1, rng.choice(KEYS), b"value", ()) for _ in range(4)]
            batch = encode(records, base_offset=offset, compression=rng.choice([Compression.NONE, Compression.GZIP]))
            if offset % 60 == 0:
                batch = with_records(read_header(batch)._replace(attributes=0x20), batch[HEADER_BYTES:])
            log.append([batch])
    return log


@pytest.mark.parametrize("few", [0, 100, 10_000])
def test_the_index_finds_what_reading_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few: int) -> None:
    monkeypatch.setattr(keys, "_FEW_OFFSETS", few)
    monkeypatch.setattr(keys, "_MOST_OFFSETS", 70)
    monkeypatch.setattr(rows, "MAX_UNPACKED_BYTES", 400)  # so that some compressed batches have no rows
    rng = random.Random(few)
    store = SqliteStore(StoreContext(tmp_path, RealDisk()))
    log = fill(store, rng)

    for _ in range(100):
        wanted = set(rng.sample(KEYS, rng.randint(0, 4)))
        offset = start = rng.randrange(0, 400, 4)
        end = rng.randrange(start, 401, 4)
        found: list[int] = []
        while offset < end:
            some, following = log.find_keys(offset, end, wanted.__contains__, rng.randint(1, 20))
            assert all(offset <= at < following for at in some)
            found += some
            assert following > offset
            offset = following
        assert found == find_keys_by_reading(log, start, end, wanted.__contains__, 1000)[0]
    log.close()


def test_an_older_file_gets_the_index(tmp_path: Path) -> None:
    store, log = open_log(tmp_path)
    log.append([encode([(1, b"key %d" % (at % 3), b"value", ()) for at in range(30)], base_offset=0)])
    log.close()
    store.close()
    connection = sqlite3.connect(tmp_path / DATABASE)  # as version 1 was
    connection.executescript(
        """
        DROP INDEX records_by_key;
        DROP INDEX batches_without_rows;
        CREATE INDEX records_by_key ON records (topic, key) WHERE key IS NOT NULL;
        DELETE FROM _sqlite_migrations WHERE name LIKE '2:%';
        PRAGMA user_version = 1;
        """
    )
    connection.close()

    store, log = open_log(tmp_path)

    assert log.find_keys(0, 30, lambda key: key == b"key 2", 100) == ([*range(2, 30, 3)], 30)
    log.close()
    store.close()
    connection = sqlite3.connect(tmp_path / DATABASE)
    (index,) = connection.execute("SELECT sql FROM sqlite_schema WHERE name = 'records_by_key'").fetchone()
    assert "partition" in index
    connection.close()
