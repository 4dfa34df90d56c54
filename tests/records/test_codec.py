"""Records survive encoding and decoding, and kafka-python reads and writes the same bytes."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Sequence

import pytest
from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st

from trunkline.errors import UnsupportedCompression
from trunkline.records import (
    EMPTY_HEADERS,
    BatchBuilder,
    Compression,
    ConsumerRecord,
    Header,
    Record,
    check_batch,
    decode,
    decode_all,
    encode,
    encode_headers,
    read_header,
)

with warnings.catch_warnings():  # kafka-python uses a deprecated call of importlib
    warnings.simplefilter("ignore", DeprecationWarning)
    from kafka import codec as kafka_codec
    from kafka.record import MemoryRecords
    from kafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder

Row = tuple[int, bytes | None, bytes | None, list[Header]]

KINDS = list(Compression)
KAFKA_KINDS = [
    pytest.param(kind, marks=pytest.mark.skipif(not present, reason=f"kafka-python lacks {kind.name.lower()} here"))
    for kind, present in [
        (Compression.NONE, True),
        (Compression.GZIP, kafka_codec.has_gzip()),
        (Compression.SNAPPY, kafka_codec.has_snappy()),
        (Compression.LZ4, kafka_codec.has_lz4()),
        (Compression.ZSTD, kafka_codec.has_zstd()),
    ]
]

contents = st.none() | st.binary(max_size=100) | st.sampled_from([b"", b"a" * 63, b"a" * 64, b"a" * 8191, b"a" * 8192])
headers = st.lists(st.tuples(st.text(max_size=10), contents), max_size=3)
timestamps = st.integers(-1, 1 << 60) | st.integers(1_700_000_000_000, 1_700_000_010_000)
rows = st.tuples(timestamps, contents, contents, headers)
batches = st.lists(rows, min_size=1, max_size=20)


def as_rows(records: Sequence[Record]) -> list[Row]:
    return [(record.timestamp, record.key, record.value, list(record.headers)) for record in records]


def kafka_reads(batch: bytes) -> DefaultRecordBatch:
    judge = DefaultRecordBatch(batch)
    assert judge.validate_crc()
    return judge


def kafka_writes(rows: Sequence[Row], compression: int = 0) -> bytes:
    builder = DefaultRecordBatchBuilder(2, compression, False, -1, -1, -1, 1 << 30)
    for number, row in enumerate(rows):
        builder.append(number, *row)
    return bytes(builder.build())


# Round trips


@pytest.mark.parametrize("compression", KINDS)
@given(rows=batches, base_offset=st.integers(0, 1 << 60))
def test_records_come_back(compression: Compression, rows: list[Row], base_offset: int) -> None:
    batch = encode(rows, compression=compression, base_offset=base_offset)

    records = decode(batch)

    assert as_rows(records) == rows
    assert [record.offset for record in records] == list(range(base_offset, base_offset + len(rows)))
    assert check_batch(batch).max_timestamp == max(timestamp for timestamp, *_ in rows)


@given(rows=batches)
def test_decoded_records_encode_to_the_same_batch(rows: list[Row]) -> None:
    batch = encode(rows)

    assert encode(decode(batch)) == batch


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("compression", KINDS)
def test_any_buffer_decodes_to_bytes(wrap: type, compression: Compression) -> None:
    batch = encode([(1, b"key", b"value" * 50, [("name", b"text")])], compression=compression)

    (record,) = decode(wrap(batch))

    assert record == Record(0, 1, b"key", b"value" * 50, (("name", b"text"),))
    assert type(record.key) is type(record.value) is type(record.headers[0][1]) is bytes


def test_a_batch_longer_than_the_ready_made_varints() -> None:
    rows: list[Row] = [(number, b"%d" % number, None, []) for number in range(10_000)]

    batch = encode(rows, base_offset=3)

    assert as_rows(decode(batch)) == rows == as_rows(list(kafka_reads(batch)))
    assert decode(batch)[-1].offset == 10_002


def test_timestamps_may_go_back() -> None:
    rows: list[Row] = [(5000, None, None, []), (4000, None, None, []), (6000, None, None, []), (1, None, None, [])]

    batch = encode(rows)

    assert as_rows(decode(batch)) == rows
    assert (read_header(batch).base_timestamp, read_header(batch).max_timestamp) == (5000, 6000)


def test_null_and_empty_are_told_apart() -> None:
    rows: list[Row] = [(0, None, b"", [("a", None), ("b", b"")]), (0, b"", None, [])]

    assert as_rows(decode(encode(rows))) == rows


def test_compression_that_gains_nothing_is_left_out() -> None:
    assert read_header(encode([(0, None, b"x", [])], compression=Compression.ZSTD)).compression == Compression.NONE


# kafka-python as a judge


@given(rows=batches)
def test_an_uncompressed_batch_is_equal_to_that_of_kafka_python(rows: list[Row]) -> None:
    assert encode(rows) == kafka_writes(rows)


@pytest.mark.parametrize("compression", KAFKA_KINDS)
@given(rows=batches)
def test_kafka_python_reads_our_batches(compression: Compression, rows: list[Row]) -> None:
    judge = kafka_reads(encode(rows, compression=compression))

    assert as_rows(list(judge)) == rows


@pytest.mark.parametrize("compression", KAFKA_KINDS)
@given(rows=batches)
def test_we_read_the_batches_of_kafka_python(compression: Compression, rows: list[Row]) -> None:
    batch = kafka_writes(rows, compression)

    assert check_batch(batch).record_count == len(rows)
    assert as_rows(decode(batch)) == rows


@pytest.mark.parametrize("compression", KAFKA_KINDS)
def test_large_values_pass_in_both_directions(compression: Compression) -> None:
    rows: list[Row] = [(0, b"k" * 70_000, b"0123456789" * 100_000, []), (0, None, bytes(300_000), [])]

    assert as_rows(list(kafka_reads(encode(rows, compression=compression)))) == rows
    assert as_rows(decode(kafka_writes(rows, compression))) == rows


def test_kafka_python_sees_every_header_field() -> None:
    judge = kafka_reads(
        encode(
            [(1000, None, b"a", []), (900, None, b"b", [])],
            base_offset=40,
            leader_epoch=3,
            producer_id=99,
            producer_epoch=4,
            base_sequence=12,
            is_transactional=True,
        )
    )

    assert (judge.base_offset, judge.last_offset, judge.next_offset, judge.leader_epoch) == (40, 41, 42, 3)
    assert (judge.first_timestamp, judge.max_timestamp, judge.timestamp_type) == (1000, 1000, 0)
    assert (judge.producer_id, judge.producer_epoch, judge.base_sequence, judge.last_sequence) == (99, 4, 12, 13)
    assert (judge.is_transactional, judge.is_control_batch, judge.records_count) == (True, False, 2)


@pytest.mark.parametrize("compression", KAFKA_KINDS)
def test_append_time_replaces_every_timestamp(compression: Compression) -> None:
    rows: list[Row] = [(1, None, b"a" * 100, []), (9_999_999, None, b"b" * 100, [])]

    batch = encode(rows, append_time=5000, compression=compression)

    judge = kafka_reads(batch)
    assert judge.timestamp_type == 1
    assert [record.timestamp for record in judge] == [5000, 5000]
    assert [record.timestamp for record in decode(batch)] == [5000, 5000]
    assert (judge.first_timestamp, judge.max_timestamp) == (1, 5000)


def test_kafka_python_reads_a_run_of_batches() -> None:
    run = encode([(0, None, b"a", [])]) + encode([(0, None, b"b", []), (0, None, b"c", [])], base_offset=1)

    judge = MemoryRecords(run)

    values = []
    while (batch := judge.next_batch()) is not None:
        values += [(record.offset, record.value) for record in batch]
    assert values == [(0, b"a"), (1, b"b"), (2, b"c")]


# Control batches

COMMIT = struct.pack(">hh", 0, 1)


def test_a_control_batch_is_recognised() -> None:
    batch = encode([(5, COMMIT, bytes(6), [])], is_control=True, is_transactional=True, producer_id=9, producer_epoch=0)

    (judged,) = kafka_reads(batch)
    assert judged.commit
    assert check_batch(batch).is_control
    assert [record.key for record in decode(batch)] == [COMMIT]


def test_decode_all_leaves_control_batches_out() -> None:
    run = (
        encode([(0, None, b"a", [])])
        + encode([(0, COMMIT, None, [])], base_offset=1, is_control=True)
        + encode([(0, None, b"b", [])], base_offset=2)
    )

    assert [record.value for record in decode_all(run)] == [b"a", b"b"]


# Runs of batches


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("compression", KINDS)
def test_decode_all_begins_inside_a_batch(wrap: type, compression: Compression) -> None:
    first = encode([(0, None, b"%d" % n * 50, []) for n in range(5)], base_offset=10, compression=compression)
    second = encode([(0, None, b"%d" % n * 50, []) for n in range(5)], base_offset=15, compression=compression)

    assert [r.offset for r in decode_all(wrap(first + second), from_offset=13)] == [13, 14, 15, 16, 17, 18, 19]
    assert [r.offset for r in decode_all(wrap(first + second), from_offset=15)] == [15, 16, 17, 18, 19]
    assert decode_all(wrap(first + second), from_offset=20) == []


def test_decode_all_ignores_a_batch_that_is_cut_short() -> None:
    batch = encode([(0, None, b"a", [("name", None)])])

    for end in range(len(batch)):
        assert len(decode_all(batch + batch[:end])) == 1


def test_a_compacted_batch_keeps_its_gaps() -> None:
    batch = bytearray(encode([(0, None, b"a", []), (0, None, b"b", [])], base_offset=10))
    batch[-5] = 10  # the last record's offset delta, zigzag: 5
    struct.pack_into(">i", batch, 23, 6)  # and the batch goes on to 6
    struct.pack_into(">I", batch, 17, crc32c(memoryview(batch)[21:]))

    assert [record.offset for record in decode(batch)] == [10, 15]
    assert read_header(batch).next_offset == 17


# The builder


@given(rows=batches)
def test_the_builder_knows_the_size_of_the_batch(rows: list[Row]) -> None:
    builder = BatchBuilder()

    for number, (timestamp, key, value, headers) in enumerate(rows, start=1):
        builder.append(timestamp, key, value, encode_headers(headers))
        assert (builder.count, builder.size_bytes) == (number, len(builder.build()))


def test_the_size_is_exact_where_offsets_grow_by_a_byte() -> None:
    builder = BatchBuilder()

    for _ in range(130):
        builder.append(7, b"key", b"value")
        assert builder.size_bytes == len(builder.build())


@pytest.mark.parametrize("field_bytes", [56, 57, 58, 63, 64, 8183, 8184, 8185, 8191, 8192, 20_000])
def test_the_size_is_exact_where_lengths_grow_by_a_byte(field_bytes: int) -> None:
    builder = BatchBuilder()

    builder.append(7, bytes(field_bytes), None)
    builder.append(7, None, bytes(field_bytes))
    builder.append(7, b"", b"", encode_headers([("name", bytes(field_bytes))]))

    assert builder.size_bytes == len(builder.build())
    assert as_rows(decode(builder.build())) == [
        (7, bytes(field_bytes), None, []),
        (7, None, bytes(field_bytes), []),
        (7, b"", b"", [("name", bytes(field_bytes))]),
    ]


def test_building_keeps_the_records() -> None:
    builder = BatchBuilder()
    builder.append(1, None, b"a")
    first = builder.build()
    builder.append(2, None, b"b")

    assert [record.value for record in decode(first)] == [b"a"]
    assert [record.value for record in decode(builder.build())] == [b"a", b"b"]


def test_equal_timestamps_need_not_be_the_same_object() -> None:
    builder = BatchBuilder()
    for _ in range(3):
        builder.append(int("1700000000000"), None, b"")

    assert {record.timestamp for record in decode(builder.build())} == {1_700_000_000_000}


def test_an_empty_builder_builds_nothing() -> None:
    with pytest.raises(ValueError, match="at least one record"):
        BatchBuilder().build()


@pytest.mark.parametrize("timestamp", [1 << 61, -(1 << 61), 1 << 80])
def test_a_timestamp_out_of_range_is_refused_and_not_kept(timestamp: int) -> None:
    builder = BatchBuilder()

    with pytest.raises(ValueError, match="milliseconds"):
        builder.append(timestamp, None, b"")

    assert builder.count == 0


def test_an_unknown_compression_is_refused() -> None:
    with pytest.raises(UnsupportedCompression):
        encode([(0, None, b"", [])], compression=5)


# Records and headers


def test_no_headers_are_one_byte() -> None:
    assert encode_headers([]) == EMPTY_HEADERS


def test_headers_may_repeat_and_keep_their_order() -> None:
    headers: list[Header] = [("b", b"1"), ("a", None), ("b", b"2"), ("größe", b"\xff")]

    (record,) = decode(encode([(0, None, None, headers)]))

    assert list(record.headers) == headers


def test_a_consumer_record_is_a_record_with_its_place() -> None:
    record = ConsumerRecord(topic="orders", partition=3, offset=7, timestamp=1, key=None, value=b"v")

    assert isinstance(record, Record)
    assert (record.topic, record.partition, record.headers) == ("orders", 3, ())
    assert as_rows(decode(encode([record]))) == [(1, None, b"v", [])]
