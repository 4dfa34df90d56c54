"""What a record and a batch are in the tables, and that they come back as they were."""

from __future__ import annotations

import json
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from trunkline.disk import RealDisk
from trunkline.log import Chunk, Log, StoreContext, TopicPartition
from trunkline.records import (
    HEADER_BYTES,
    check_batch,
    decode,
    encode,
    iter_headers,
    read_header,
    with_records,
)
from trunkline.settings import TopicSettings
from trunkline.testing import make_batch
from trunkline.testing.batches import unreadable_batch
from trunkline_sqlite.reading import SIZE_OF_ROW
from trunkline_sqlite.rows import StoredBatch, add_rows, build, records_of, stored
from trunkline_sqlite.store import DATABASE, SqliteStore

NAME = TopicPartition("orders", 0)
POISON = unreadable_batch(b"a", b"b")

CONTENTS = st.none() | st.binary(max_size=40) | st.text(max_size=20).map(str.encode)
HEADERS = st.lists(st.tuples(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), CONTENTS), max_size=4)
RECORDS = st.lists(st.tuples(st.integers(-1, 2**41), CONTENTS, CONTENTS, HEADERS.map(tuple)), min_size=1, max_size=6)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(StoreContext(tmp_path, RealDisk()))
    yield store
    store.close()


@pytest.fixture
def log(store: SqliteStore) -> Log:
    return store.open(NAME, TopicSettings())


@pytest.fixture
def query(store: SqliteStore, tmp_path: Path) -> Iterator[Any]:
    """Runs a query as another program would; gives all rows."""
    connection = sqlite3.connect(tmp_path / DATABASE)
    yield lambda sql: connection.execute(sql).fetchall()
    connection.close()


def read_all(log: Log) -> bytes:
    return log.read(log.start_offset, 1 << 30, log.end_offset)


def identity(batch: bytes) -> tuple[Any, ...]:
    """All that a batch's header says, but for what depends on how its records are packed."""
    header = read_header(batch)
    return header._replace(batch_length=0, crc=0, attributes=header.attributes & ~7)


# -- columns ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (None, "null"),
        (b"", "text"),
        (b"21.5", "text"),
        ("Zürich 🚆".encode(), "text"),
        (b"a\x00b", "blob"),
        (b"\xff", "blob"),
        (b"\xed\xa0\x80", "blob"),  # a surrogate, which UTF-8 excludes
    ],
)
def test_text_is_text_and_all_else_is_not(log: Log, query: Any, content: bytes | None, kind: str) -> None:
    batch = encode([(1, content, content, ())])
    log.append([batch])
    assert query("SELECT typeof(key), typeof(value) FROM records") == [(kind, kind)]
    assert read_all(log) == batch


def test_headers_are_one_json_object_in_their_order(log: Log, query: Any) -> None:
    headers = (("b", b"2"), ("a", None), ("b", "ü\n".encode()), ("bin", b"\xff\x00"), ("", b""))
    batch = encode([(1, None, b"x", headers), (1, None, b"y", ())])
    log.append([batch])
    text = '{"b": "2", "a": null, "b": "ü\\n", "bin": {"base64": "/wA="}, "": ""}'
    assert query('SELECT headers FROM records ORDER BY "offset"') == [(text,), (None,)]
    assert query("SELECT headers ->> 'b' FROM records WHERE headers IS NOT NULL") == [("2",)]
    assert read_all(log) == batch


def test_a_value_that_looks_like_the_mark_of_a_binary_one_stays_itself(log: Log) -> None:
    batch = encode([(1, None, None, (("h", b'{"base64": "/wA="}'),))])
    log.append([batch])
    assert read_all(log) == batch


@settings(deadline=None, max_examples=300)
@given(records=RECORDS, compression=st.integers(0, 4), marks=st.booleans())
def test_any_records_become_rows_and_the_same_records_again(records: Any, compression: int, marks: bool) -> None:
    batch = encode(
        records, base_offset=7, leader_epoch=3, compression=compression, producer_id=5, producer_epoch=1,
        base_sequence=9, is_transactional=marks, append_time=77 if marks else None,
    )  # fmt: skip
    header = read_header(batch)
    found = records_of(batch, header)
    assert found is not None
    row = stored(batch, header, found, -1)
    parameters: list[Any] = []
    add_rows(NAME, found, parameters)
    as_bytes = [part.encode() if isinstance(part, str) else part for part in parameters]
    rows: Any = [tuple(as_bytes[first + 2 : first + 7]) for first in range(0, len(parameters), 7)]
    again = build(row, rows, "here")
    assert (identity(again), decode(again)) == (identity(batch), decode(batch))
    assert len(again) <= row.size_bytes


# -- batches ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "batch",
    [
        encode([(5, b"k", b"v", ())] * 3, leader_epoch=4, producer_id=8, producer_epoch=2, base_sequence=11),
        encode([(5, b"k", b"v", ())], is_transactional=True, producer_id=8, producer_epoch=2, base_sequence=0),
        encode([(5, b"k", b"v", ()), (4, b"k", b"v", ())], append_time=9_999),
        encode([(1, b"\0\0\0\1", b"\0\0\0\0\0\0", ())], is_control=True, is_transactional=True, producer_id=8),
        encode([(1, None, b"a" * 5_000, ())] * 3),
        encode([(1, None, b"a" * 20_000, ())] * 100, compression=4),  # large without compression
        with_records(
            read_header(encode([(1, b"k", None, ())]))._replace(attributes=0x40, base_timestamp=50, record_count=0), b""
        ),
        POISON,
    ],
    ids=["producer", "transaction", "append time", "control", "large", "packed", "horizon", "poison"],
)
def test_a_batch_keeps_its_header(log: Log, batch: bytes) -> None:
    log.append([batch])
    found = read_all(log)
    check_batch(found, is_compacted=True)
    assert identity(found) == identity(batch)


def test_a_compressed_batch_is_unpacked_unless_it_is_large(log: Log) -> None:
    small = encode([(1, None, b"a" * 1_000, ())] * 10, compression=4)
    large = encode([(1, None, b"a" * 20_000, ())] * 100, base_offset=10, compression=4)
    log.append([small, large])
    headers = [header for _, header in iter_headers(read_all(log))]
    assert [header.compression for header in headers] == [0, 4]
    assert headers[1].size_bytes < 20_000


def test_nonsense_with_a_right_crc_comes_back_as_it_was(store: SqliteStore, log: Log, query: Any) -> None:
    after = make_batch(2, b"c")
    log.append([POISON, after])
    log.close()
    again = store.open(NAME, TopicSettings())
    assert read_all(again) == POISON + after
    assert query('SELECT "offset" FROM records') == [(2,)]
    assert again.find_timestamp(0, 3) == (0, 1_000)
    assert next(iter(again.chunks())) == Chunk(0, 2, 16 + len(POISON), 1_000)
    again.trim(2)
    assert read_all(again) == after


def test_a_bomb_is_kept_packed(log: Log, query: Any) -> None:
    bomb = encode([(1, None, bytes(1 << 20), ())] * 40, compression=4)
    log.append([bomb])
    assert len(bomb) < 100_000
    assert query("SELECT count(*) FROM records") == [(0,)]
    assert read_all(log) == bomb


def test_control_records_are_no_rows(log: Log, query: Any) -> None:
    control = encode([(1, b"\0\0\0\1", b"\0\0\0\0\0\0", ())], is_control=True, producer_id=3, producer_epoch=0)
    log.append([control])
    assert query("SELECT count(*) FROM records") == [(0,)]
    assert read_all(log) == control
    assert log.find_timestamp(1, 1) == (0, 1)


def test_a_row_deleted_by_hand_is_a_gap(log: Log, query: Any, store: SqliteStore, tmp_path: Path) -> None:
    log.append([make_batch(0, b"a", b"b", b"c"), make_batch(3)])
    with sqlite3.connect(tmp_path / DATABASE) as connection:
        connection.execute('DELETE FROM records WHERE "offset" = 1')
    connection.close()
    found = read_all(log)
    assert [record.offset for record in decode(found[: read_header(found).size_bytes])] == [0, 2]
    assert read_header(found).last_offset == 2


# -- retention -------------------------------------------------------------------------------------


def test_retention_can_remove_single_records(log: Log) -> None:
    log.append([encode([(t, None, b"x" * t, ()) for t in (10, 20, 30)])])
    chunks = [Chunk(0, 1, 26, 10), Chunk(1, 2, 36, 20), Chunk(2, 3, 46, 30)]
    assert [*log.chunks()] == chunks
    assert log.size_bytes() == sum(chunk.size_bytes for chunk in chunks)
    log.trim(1)
    assert [*log.chunks()] == chunks[1:]
    assert log.size_bytes() == 36 + 46


@settings(deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_the_size_is_that_of_the_rows(tmp_path: Path, data: Any) -> None:
    directory = Path(tempfile.mkdtemp(dir=tmp_path))
    store = SqliteStore(StoreContext(directory, RealDisk()))
    log = store.open(NAME, TopicSettings())
    for _ in range(3):
        batches = []
        end = log.end_offset
        for records in data.draw(st.lists(RECORDS, max_size=3)):
            batches.append(encode(records, base_offset=end))
            end += len(records)
        log.append(batches)
        log.trim(data.draw(st.integers(log.start_offset, log.end_offset)))
        log.rewrite(log.end_offset, _fewer)
    connection = sqlite3.connect(directory / DATABASE)
    ((wanted,),) = connection.execute(f"SELECT coalesce(sum({SIZE_OF_ROW}), 0) FROM records").fetchall()
    connection.close()
    assert log.size_bytes() == sum(chunk.size_bytes for chunk in log.chunks()) == wanted
    assert store.open(NAME, TopicSettings()).size_bytes() == wanted
    store.close()


def _fewer(batch: bytes) -> bytes | None:
    """The batch, none, one without records, or one without its last record."""
    header = read_header(batch)
    records = decode(batch)
    match header.base_offset % 4:
        case 1:
            return None
        case 2:
            return with_records(header._replace(record_count=0), b"")
        case 3 if len(records) > 1 and records[0].offset == header.base_offset:
            kept = encode(records[:-1])
            return with_records(header._replace(record_count=len(records) - 1), kept[HEADER_BYTES:])
    return batch


def test_the_columns_of_batches_are_in_the_order_of_the_struct(log: Log, query: Any) -> None:
    columns = [row[1] for row in query("PRAGMA table_info(batches)")]
    assert columns == ["topic", "partition", *StoredBatch._fields]


def test_json_readers_take_the_headers(log: Log, query: Any) -> None:
    log.append([encode([(1, None, None, (("name", b"value"),))])])
    assert json.loads(query("SELECT headers FROM records")[0][0]) == {"name": "value"}
