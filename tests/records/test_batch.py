"""What a broker does with a batch: look at its header, check it, give it its place."""

from __future__ import annotations

import struct
import tracemalloc

import pytest
from crc32c import crc32c

from trunkline.errors import CorruptBatch, UnsupportedCompression
from trunkline.records import (
    HEADER_BYTES,
    Buffer,
    Compression,
    assign,
    check_batch,
    decode,
    encode,
    iter_headers,
    read_header,
)

RECORDS = [(1000, b"key", b"value", [("name", b"text"), ("none", None)]), (1005, None, None, [])]

# The fields in the order and with the widths of Kafka's documentation ("Record Batch")
GOLDEN = bytes.fromhex(
    "0000000000000007"  # base offset
    "00000057"  # batch length: what follows, 87
    "00000003"  # partition leader epoch
    "02"  # magic
    "00000000"  # CRC, put in below
    "0010"  # attributes: transactional
    "00000001"  # last offset delta
    "00000000000003e8"  # base timestamp 1000
    "00000000000003ed"  # max timestamp 1005
    "0000000000000063"  # producer id 99
    "0004"  # producer epoch
    "0000000c"  # base sequence 12
    "00000002"  # record count
    "3c 00 00 00 06 6b6579 0a 76616c7565 04 08 6e616d65 08 74657874 08 6e6f6e65 01"
    "0c 00 0a 02 01 01 00"
)
GOLDEN = GOLDEN[:17] + struct.pack(">I", crc32c(GOLDEN[21:])) + GOLDEN[21:]


def with_field(batch: bytes, position: int, form: str, number: int) -> bytes:
    """The batch with one header field changed and its CRC right again."""
    changed = bytearray(batch)
    struct.pack_into(form, changed, position, number)
    struct.pack_into(">I", changed, 17, crc32c(memoryview(changed)[21:]))
    return bytes(changed)


def peak_bytes(call: object, *arguments: object) -> int:
    assert callable(call)
    tracemalloc.start()
    try:
        call(*arguments)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# The stored form


def test_a_batch_is_encoded_as_kafka_documents_it() -> None:
    encoded = encode(
        RECORDS,
        base_offset=7,
        leader_epoch=3,
        producer_id=99,
        producer_epoch=4,
        base_sequence=12,
        is_transactional=True,
    )

    assert encoded == GOLDEN


def test_every_header_field_is_read() -> None:
    header = read_header(GOLDEN)

    assert header == (7, 87, 3, 2, crc32c(GOLDEN[21:]), 0x10, 1, 1000, 1005, 99, 4, 12, 2)
    assert (header.size_bytes, header.last_offset, header.next_offset) == (len(GOLDEN), 8, 9)
    assert (header.compression, header.is_transactional) == (Compression.NONE, True)
    assert not header.is_control
    assert not header.is_append_time


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview])
def test_a_header_is_read_at_any_position_of_any_buffer(wrap: type) -> None:
    assert read_header(wrap(b"before" + GOLDEN), 6) == read_header(GOLDEN)


def test_reading_and_checking_copy_nothing() -> None:
    batch = memoryview(bytearray(encode([(0, None, bytes(1 << 20), [])])))

    assert peak_bytes(read_header, batch) < 4096
    assert peak_bytes(check_batch, batch) < 4096


# Checking


@pytest.mark.parametrize("compression", list(Compression))
@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview])
def test_an_intact_batch_passes(compression: Compression, wrap: type) -> None:
    batch = encode([(1, b"k", b"v" * 500, [])], compression=compression)

    assert check_batch(wrap(batch)).compression == compression


def test_a_batch_inside_a_buffer_is_checked_in_place() -> None:
    assert check_batch(b"before" + GOLDEN + b"after", 6).base_offset == 7


def test_a_batch_must_end_where_it_was_told() -> None:
    buffer = GOLDEN + b"after"

    assert check_batch(buffer, 0, len(GOLDEN))
    with pytest.raises(CorruptBatch, match="cut short"):
        check_batch(buffer, 0, len(GOLDEN) - 1)


def test_no_prefix_of_a_batch_passes() -> None:
    for end in range(len(GOLDEN)):
        with pytest.raises(CorruptBatch):
            check_batch(GOLDEN[:end])


def test_every_bit_of_what_is_checked_counts() -> None:
    for position in range(16, len(GOLDEN)):
        for bit in range(8):
            damaged = bytearray(GOLDEN)
            damaged[position] ^= 1 << bit
            with pytest.raises(CorruptBatch):
                check_batch(damaged)


@pytest.mark.parametrize(
    ("position", "form", "number"),
    [
        (8, ">i", 48),
        (8, ">i", -1),
        (8, ">i", 0x7FFFFFFF),
        (16, ">b", 1),
        (23, ">i", 0),
        (23, ">i", 2),
        (23, ">i", -1),
        (27, ">q", 1 << 62),
        (35, ">q", -(1 << 63)),
        (57, ">i", 0),
        (57, ">i", -1),
        (57, ">i", 3),
        (57, ">i", 0x7FFFFFFF),
    ],
)
def test_a_header_that_cannot_be_is_corrupt(position: int, form: str, number: int) -> None:
    with pytest.raises(CorruptBatch):
        check_batch(with_field(GOLDEN, position, form, number))


def test_a_count_beyond_what_the_bytes_can_hold_is_corrupt() -> None:
    million = with_field(with_field(GOLDEN, 57, ">i", 1_000_000), 23, ">i", 999_999)

    with pytest.raises(CorruptBatch, match="more than its 99 bytes can hold"):
        check_batch(million)


@pytest.mark.parametrize("compression", [5, 6, 7])
def test_an_undefined_compression_is_told_apart_from_damage(compression: int) -> None:
    with pytest.raises(UnsupportedCompression):
        check_batch(with_field(GOLDEN, 21, ">h", compression))


def test_a_failed_check_leaves_the_buffer_free_to_be_changed() -> None:
    buffer = bytearray(GOLDEN[:-1] + b"?")

    with pytest.raises(CorruptBatch) as caught:
        check_batch(buffer)

    assert caught.value.__traceback__ is not None
    buffer.clear()  # BufferError if a view of it were still alive in the traceback


# Runs of batches


def test_the_headers_of_a_run_come_with_their_positions() -> None:
    other = encode([(1, None, b"x", [])], base_offset=9)

    assert [(at, header.base_offset) for at, header in iter_headers(GOLDEN + other)] == [(0, 7), (len(GOLDEN), 9)]


def test_a_run_may_be_cut_anywhere() -> None:
    for end in range(len(GOLDEN)):
        assert [at for at, _ in iter_headers(GOLDEN + GOLDEN[:end])] == [0]


def test_an_empty_run_has_no_headers() -> None:
    assert list(iter_headers(b"")) == []


def test_a_run_with_nonsense_in_the_middle_is_corrupt() -> None:
    headers = iter_headers(GOLDEN + bytes(HEADER_BYTES))
    next(headers)

    with pytest.raises(CorruptBatch):
        next(headers)


# Giving a batch its place


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview])
def test_assign_sets_offset_and_epoch_and_nothing_else(wrap: type) -> None:
    assigned = assign(wrap(GOLDEN), 1 << 40, 12)

    assert type(assigned) is bytes
    assert check_batch(assigned) == read_header(GOLDEN)._replace(base_offset=1 << 40, leader_epoch=12)
    assert assigned[16:] == GOLDEN[16:]


def test_assign_leaves_the_original_alone() -> None:
    original = bytearray(GOLDEN)
    assign(original, 5, 5, 5)

    assert original == GOLDEN


@pytest.mark.parametrize("append_time", [None, 5])
def test_assign_makes_one_copy(append_time: int | None) -> None:
    batch: Buffer = encode([(0, None, bytes(1 << 20), [])])

    assert peak_bytes(assign, batch, 1, 1, append_time) < len(batch) + 4096


@pytest.mark.parametrize("compression", list(Compression))
def test_assign_with_an_append_time_stamps_all_records(compression: Compression) -> None:
    batch = encode([(1, None, b"v" * 100, []), (9, None, b"w", [])], compression=compression)

    assigned = assign(batch, 70, 2, 5000)

    header = check_batch(assigned)
    assert header.is_append_time
    assert (header.base_timestamp, header.max_timestamp, header.compression) == (1, 5000, compression)
    assert [(record.offset, record.timestamp) for record in decode(assigned)] == [(70, 5000), (71, 5000)]
