"""Malformed batches are refused as such, at a bounded price, and nothing else happens."""

from __future__ import annotations

import contextlib
import struct
import tracemalloc

import pytest
from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st

from trunkline.compression import compress
from trunkline.errors import CorruptBatch, DecompressionLimitExceeded, UnsupportedCompression
from trunkline.records import (
    DEFAULT_MAX_DECODED_BYTES,
    HEADER_BYTES,
    HEADER_OVERHEAD_BYTES,
    RECORD_OVERHEAD_BYTES,
    Compression,
    Record,
    assign,
    check_batch,
    decode,
    decode_all,
    decode_readable,
    encode,
    iter_headers,
)
from trunkline.varint import encode_varint

PACKED = [kind for kind in Compression if kind is not Compression.NONE]
SMALLEST = bytes.fromhex("0c 00 00 00 01 01 00")  # a record at offset delta 0: no key, no value, no headers
BATCH = encode(
    [(1000, b"key", b"value" * 20, [("name", b"text"), ("none", None)]), (900, None, b"", []), (99_999, b"", None, [])],
    base_offset=7,
)
MIB = 1 << 20


def batch_of(
    records: bytes,
    count: int = 1,
    *,
    last_offset_delta: int | None = None,
    attributes: int = 0,
    base_offset: int = 0,
    base_timestamp: int = 0,
) -> bytes:
    """A batch whose header and CRC are right, around any bytes."""
    last = count - 1 if last_offset_delta is None else last_offset_delta
    checked = struct.pack(">hiqqqhii", attributes, last, base_timestamp, 0, -1, -1, -1, count) + records
    return struct.pack(">qiibI", base_offset, 9 + len(checked), 0, 2, crc32c(checked)) + checked


def record(
    *,
    length: int | None = None,
    timestamp_delta: bytes = b"\x00",
    offset_delta: int = 0,
    key: bytes = b"\x01",
    value: bytes = b"\x01",
    headers: bytes = b"\x00",
) -> bytes:
    """A record of already encoded fields."""
    body = b"\x00" + timestamp_delta + encode_varint(offset_delta) + key + value + headers
    return encode_varint(len(body) if length is None else length) + body


def field(content: bytes, length: int | None = None) -> bytes:
    return encode_varint(len(content) if length is None else length) + content


def decodes_or_refuses(batch: bytes | bytearray) -> None:
    with contextlib.suppress(CorruptBatch, UnsupportedCompression, DecompressionLimitExceeded):
        records = decode(batch, max_bytes=MIB)
        assert all(isinstance(found, Record) for found in records)
        assert encode(records) if records else True
        offsets = [found.offset for found in records]
        assert offsets == sorted(set(offsets))


def peak_of_decoding(batch: bytes, max_bytes: int) -> int:
    tracemalloc.start()
    try:
        with contextlib.suppress(DecompressionLimitExceeded, CorruptBatch):
            decode(batch, max_bytes=max_bytes)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# The helper itself


def test_the_smallest_record_is_read() -> None:
    assert record() == SMALLEST
    assert decode(batch_of(SMALLEST)) == [Record(0, 0, None, None)]


def test_a_batch_without_records_is_read() -> None:
    """Compaction leaves such a batch to keep a producer's sequence."""
    assert decode(batch_of(b"", 0, last_offset_delta=4)) == []


def test_fields_may_take_more_bytes_than_they_need() -> None:
    """Java's reader takes them so; some encoders reserve five bytes for a length."""
    longer = b"\x8e\x80\x80\x80\x00" + bytes.fromhex("00 00 00 01 01 80 00")

    assert decode(batch_of(longer)) == [Record(0, 0, None, None)]


# Malformed records


@pytest.mark.parametrize(
    "records",
    [
        pytest.param(b"", id="none at all"),
        pytest.param(SMALLEST[:-1], id="one byte short"),
        pytest.param(SMALLEST + b"\x00", id="garbage after the last"),
        pytest.param(SMALLEST * 2, id="one more than counted"),
        pytest.param(record(length=-1), id="negative length"),
        pytest.param(record(length=0), id="length of nothing"),
        pytest.param(record(length=5), id="length too small"),
        pytest.param(record(length=7), id="length too large"),
        pytest.param(record(length=7) + b"\x00", id="length beyond its fields"),
        pytest.param(record(length=0x7FFFFFFF), id="length of 2 GiB"),
        pytest.param(b"\xff" * 20, id="length without an end"),
        pytest.param(record(key=field(b"abc", -2)), id="key of length -2"),
        pytest.param(record(key=field(b"abc", 4)), id="key too long"),
        pytest.param(record(key=field(b"abc", 2)), id="key too short"),
        pytest.param(record(key=field(b"abc", 0x7FFFFFFF)), id="key of 2 GiB"),
        pytest.param(record(key=b"\xff" * 6), id="key length without an end"),
        pytest.param(record(value=field(b"abc", -2)), id="value of length -2"),
        pytest.param(record(value=field(b"abc", -100)), id="value of length -100"),
        pytest.param(record(value=field(b"abc", 4)), id="value too long"),
        pytest.param(record(value=field(b"abc", 0x7FFFFFFF)), id="value of 2 GiB"),
        pytest.param(record(value=b"\xff" * 6), id="value length without an end"),
        pytest.param(record(offset_delta=-1), id="negative offset delta"),
        pytest.param(record(offset_delta=1), id="offset past the last"),
        pytest.param(record(offset_delta=0x7FFFFFFF), id="offset far past the last"),
        pytest.param(record(timestamp_delta=b"\xff" * 10), id="timestamp without an end"),
        pytest.param(record(timestamp_delta=encode_varint((1 << 63) - 1)), id="timestamp of 63 bits"),
        pytest.param(record(timestamp_delta=encode_varint(-(1 << 63))), id="timestamp of -2**63"),
        pytest.param(record(headers=encode_varint(-1)), id="negative header count"),
        pytest.param(record(headers=encode_varint(1)), id="a header that is not there"),
        pytest.param(record(headers=encode_varint(0x7FFFFFFF)), id="2**31 headers"),
        pytest.param(record(headers=b"\x80\x80\x80\x80\x80\x80"), id="header count without an end"),
        pytest.param(record(headers=b"\x02" + field(b"", -1) + b"\x01\x00"), id="header without a name"),
        pytest.param(record(headers=b"\x02" + field(b"abc", 100) + b"\x01"), id="header name too long"),
        pytest.param(record(headers=b"\x02" + field(b"\xff\xfe") + b"\x01"), id="header name not UTF-8"),
        pytest.param(record(headers=b"\x02" + field(b"\xed\xa0\x80") + b"\x01"), id="header name a surrogate"),
        pytest.param(record(headers=b"\x02" + field(b"a") + field(b"abc", -2)), id="header value of length -2"),
        pytest.param(record(headers=b"\x02" + field(b"a") + field(b"abc", 4)), id="header value too long"),
        pytest.param(record(headers=b"\x02" + field(b"a") + field(b"abc", 2)), id="header value too short"),
    ],
)
@pytest.mark.parametrize("compression", [Compression.NONE, Compression.ZSTD])
def test_malformed_records_are_corrupt(compression: Compression, records: bytes) -> None:
    batch = batch_of(compress(compression, records), attributes=compression)

    with pytest.raises(CorruptBatch):
        decode(batch)
    with pytest.raises(CorruptBatch):
        decode_all(encode([(0, None, b"before", [])]) + batch + BATCH)


@pytest.mark.parametrize("count", [2, 3, 1000, 0x7FFFFFFF])
def test_a_count_that_lies_is_corrupt(count: int) -> None:
    with pytest.raises(CorruptBatch):
        decode(batch_of(SMALLEST, count))


@pytest.mark.parametrize("count", [-1, -(1 << 31)])
def test_a_negative_count_is_corrupt(count: int) -> None:
    with pytest.raises(CorruptBatch):
        decode(batch_of(b"", count, last_offset_delta=0))


def test_more_records_than_offsets_are_corrupt() -> None:
    with pytest.raises(CorruptBatch):
        decode(batch_of(SMALLEST + record(offset_delta=1), 2, last_offset_delta=0))


@pytest.mark.parametrize("second", [0, 1])
def test_offsets_that_do_not_grow_are_corrupt(second: int) -> None:
    records = record(offset_delta=1) + record(offset_delta=second)

    with pytest.raises(CorruptBatch, match="offset delta"):
        decode(batch_of(records, 2, last_offset_delta=5))


@pytest.mark.parametrize("base_offset", [-1, -(1 << 63), (1 << 63) - 1])
def test_offsets_out_of_range_are_corrupt(base_offset: int) -> None:
    with pytest.raises(CorruptBatch):
        decode(batch_of(SMALLEST, base_offset=base_offset))


@pytest.mark.parametrize("base_timestamp", [1 << 61, -(1 << 63)])
def test_a_base_timestamp_out_of_range_is_corrupt(base_timestamp: int) -> None:
    with pytest.raises(CorruptBatch, match="timestamp"):
        decode(batch_of(SMALLEST, base_timestamp=base_timestamp))


@pytest.mark.parametrize("compression", [5, 6, 7])
def test_an_undefined_compression_is_named(compression: int) -> None:
    with pytest.raises(UnsupportedCompression):
        decode(batch_of(SMALLEST, attributes=compression))


# The batch around them


def test_no_prefix_of_a_batch_decodes() -> None:
    for end in range(len(BATCH)):
        with pytest.raises(CorruptBatch):
            decode(BATCH[:end])


def test_bytes_after_a_batch_are_corrupt() -> None:
    with pytest.raises(CorruptBatch, match="bytes"):
        decode(BATCH + b"\x00")


def test_a_damaged_bit_is_never_read_over() -> None:
    for position in range(16, len(BATCH)):
        damaged = bytearray(BATCH)
        damaged[position] ^= 0x10
        with pytest.raises(CorruptBatch):
            decode(damaged)


def test_records_do_not_reach_into_the_next_batch() -> None:
    """Its last record claims bytes that are there, but belong to the batch that follows."""
    run = batch_of(record(value=field(b"abc", 30), length=36)) + BATCH

    with pytest.raises(CorruptBatch):
        decode_all(run)


def test_a_cut_inside_the_records_is_corrupt_wherever_it_is() -> None:
    records = BATCH[HEADER_BYTES:]

    for end in range(len(records)):
        with pytest.raises(CorruptBatch):
            decode(batch_of(records[:end], 3))


# Arbitrary content


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_no_batch(data: bytes) -> None:
    for read in (decode, check_batch, decode_all, lambda data: list(iter_headers(data))):
        with contextlib.suppress(CorruptBatch):
            assert read(data) == []


@given(st.binary(max_size=200), st.integers(0, 20), st.integers(0, 0x7F))
def test_arbitrary_bytes_with_a_right_crc_decode_or_are_refused(records: bytes, count: int, attributes: int) -> None:
    decodes_or_refuses(batch_of(records, count, attributes=attributes))


@given(st.integers(0), st.integers(1, 255), st.integers(0), st.integers(1, 255))
def test_damage_with_a_right_crc_decodes_or_is_refused(first: int, bits: int, second: int, more_bits: int) -> None:
    records = bytearray(BATCH[HEADER_BYTES:])
    records[first % len(records)] ^= bits
    records[second % len(records)] ^= more_bits

    decodes_or_refuses(batch_of(bytes(records), 3))


def test_any_other_byte_anywhere_decodes_or_is_refused() -> None:
    for position in range(len(BATCH) - HEADER_BYTES):
        for value in (0x00, 0x01, 0x02, 0x7F, 0x80, 0xFE, 0xFF):
            records = bytearray(BATCH[HEADER_BYTES:])
            records[position] = value
            decodes_or_refuses(batch_of(bytes(records), 3))


@given(position=st.integers(16, HEADER_BYTES - 1), value=st.integers(0, 255))
def test_any_header_with_a_right_crc_is_handled(position: int, value: int) -> None:
    batch = bytearray(BATCH)
    batch[position] = value
    struct.pack_into(">I", batch, 17, crc32c(memoryview(batch)[21:]))

    decodes_or_refuses(batch)
    with contextlib.suppress(CorruptBatch, UnsupportedCompression):
        check_batch(batch)
        assert len(assign(batch, 1, 1, 1)) == len(batch)


@pytest.mark.parametrize("compression", PACKED)
@given(position=st.integers(0), bits=st.integers(1, 255))
def test_damaged_compressed_records_decode_or_are_refused(compression: Compression, position: int, bits: int) -> None:
    packed = bytearray(compress(compression, BATCH[HEADER_BYTES:]))
    packed[position % len(packed)] ^= bits

    decodes_or_refuses(batch_of(bytes(packed), 3, attributes=compression))


# What a batch may cost


@pytest.mark.parametrize("compression", PACKED)
def test_a_bomb_is_refused_within_the_limit(compression: Compression) -> None:
    batch = encode([(0, None, bytes(64 * MIB), [])], compression=compression)

    with pytest.raises(DecompressionLimitExceeded):
        decode(batch, max_bytes=MIB)
    with pytest.raises(DecompressionLimitExceeded):
        decode_all(batch, max_bytes=MIB)
    assert peak_of_decoding(batch, MIB) < len(batch) + 3 * MIB


def test_records_are_charged_for_more_than_their_bytes() -> None:
    count = 20_000
    records = b"".join(record(offset_delta=number) for number in range(count))
    batch = batch_of(compress(Compression.ZSTD, records), count, attributes=Compression.ZSTD)
    price = len(records) + count * RECORD_OVERHEAD_BYTES

    assert len(decode(batch, max_bytes=price)) == count
    assert peak_of_decoding(batch, price) < price + MIB
    with pytest.raises(DecompressionLimitExceeded):
        decode(batch, max_bytes=price - 1)


def test_headers_are_charged_for_more_than_their_bytes() -> None:
    count = 20_000
    records = record(headers=encode_varint(count) + b"\x02a\x01" * count)
    batch = batch_of(compress(Compression.ZSTD, records), attributes=Compression.ZSTD)
    price = len(records) + RECORD_OVERHEAD_BYTES + count * HEADER_OVERHEAD_BYTES

    assert len(decode(batch, max_bytes=price)[0].headers) == count
    assert peak_of_decoding(batch, price) < price + MIB
    with pytest.raises(DecompressionLimitExceeded):
        decode(batch, max_bytes=price - 1)


def test_a_false_count_of_headers_takes_no_memory() -> None:
    batch = batch_of(record(headers=encode_varint(0x7FFFFFFF)))

    assert peak_of_decoding(batch, DEFAULT_MAX_DECODED_BYTES) < 64 * 1024


def test_a_false_count_of_records_takes_no_memory() -> None:
    batch = batch_of(compress(Compression.GZIP, SMALLEST), 0x7FFFFFFF, attributes=Compression.GZIP)

    assert peak_of_decoding(batch, DEFAULT_MAX_DECODED_BYTES) < 64 * 1024


def test_the_limit_of_decode_all_is_for_the_whole_run() -> None:
    batch = encode([(0, None, bytes(1000), [])])
    run = b"".join(assign(batch, number, 0) for number in range(10))

    assert len(decode_all(run, max_bytes=12_000)) == 10
    with pytest.raises(DecompressionLimitExceeded):
        decode_all(run, max_bytes=11_000)


def test_what_cannot_be_read_is_left_out_and_told_and_its_neighbours_are_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    good, bad = encode([(0, b"a", None, []), (0, b"b", None, [])]), batch_of(b"\xff" * 20)
    run = assign(good, 0, 0) + assign(bad, 2, 0) + assign(good, 3, 0)

    assert [found.offset for found in decode_readable("orders/0", run, from_offset=1)] == [1, 3, 4]
    assert [line.startswith("orders/0: records from offset 2 cannot be read:") for line in caplog.messages] == [True]


def test_nothing_is_left_out_that_is_too_large_only_together(caplog: pytest.LogCaptureFixture) -> None:
    large = batch_of(compress(Compression.ZSTD, record(value=field(bytes(50 * MIB)))), attributes=Compression.ZSTD)
    run = b"".join(assign(large, number, 0) for number in range(3))

    assert [found.offset for found in decode_readable("orders/0", run)] == [0, 1, 2]
    assert caplog.messages == []
