"""One record of a batch, found alone."""

from __future__ import annotations

import pytest
from tests.records.test_malformed import batch_of, field, record

from trunkline.errors import CorruptBatch
from trunkline.records import Compression, Header, assign, decode, decode_all, decode_single, encode
from trunkline.varint import encode_varint

BATCH = encode(
    [(number, b"k%d" % number, bytes(number * 30), [("a", b"1"), ("b", b"%d" % number)]) for number in range(20)],
    base_offset=100,
)


def test_it_is_the_one_that_decoding_all_gives() -> None:
    run = BATCH + assign(BATCH, 120, 0)
    assert [decode_single(run, offset) for offset in range(100, 120)] == decode(BATCH)


@pytest.mark.parametrize("offset", [99, 120])
def test_it_is_looked_for_in_the_first_batch(offset: int) -> None:
    assert decode_single(BATCH + assign(BATCH, 120, 0), offset) is None
    assert decode_single(b"", offset) is None


def test_one_of_a_batch_that_is_compressed_or_was_compacted_is_not_found() -> None:
    packed = encode([(0, b"k", bytes(1000), [])] * 3, compression=Compression.GZIP)
    gap = batch_of(record() + record(offset_delta=2), 2, last_offset_delta=2)
    assert [decode_single(batch, 0) for batch in (packed, gap)] == [None, None]
    assert len(decode_all(gap)) == 2


@pytest.mark.parametrize(
    "batch",
    [
        encode([(0, b"k", b"v", [])])[:-1] + b"\xff",
        batch_of(record(length=99)),
        batch_of(b"\xff" * 20),
        batch_of(record(key=field(b"k", 9))),
    ],
)
def test_one_that_cannot_be_read_is_refused(batch: bytes) -> None:
    with pytest.raises(CorruptBatch):
        decode_single(batch, 0)


def headers(value: bytes, length: bytes) -> bytes:
    return encode_varint(1) + field(b"name") + length + value


@pytest.mark.parametrize("size", [0, 1, 5, 63, 64, 65, 200])
def test_headers_that_end_otherwise_than_those_before_are_read(size: int) -> None:
    values = [b"before", bytes(size), b"after", None, b"again"]
    batch = encode([(0, None, None, [("first", b"1"), ("last", value)]) for value in values])
    assert [found.headers[1][1] for found in decode(batch)] == values


def test_those_of_other_names_between_them_are_read() -> None:
    rows: list[list[Header]] = [[("a", b"1")], [("b", bytes(100))], [("a", b"2")], [("c", None)], [("a", b"3")]]
    batch = encode([(0, None, None, row) for row in rows])
    assert [[*found.headers] for found in decode(batch)] == rows


@pytest.mark.parametrize(
    ("length", "value"),
    [
        (b"\x8a\x00", b"short"),  # 5 in two bytes, which it does not take
        (b"\x80\x01", bytes(64)),
        (b"\x80", bytes(64)),
        (b"\x0a", b"long one"),
        (b"\x0b", b"short"),
        (b"", b""),
        (b"\x00", b""),
    ],
)
def test_what_comes_before_changes_nothing_in_what_is_refused(length: bytes, value: bytes) -> None:
    block = headers(value, length)
    before = record(headers=headers(b"known", b"\x0a"))
    outcomes: list[tuple[Header, ...]] = []
    for batch in (batch_of(record(headers=block)), batch_of(before + record(offset_delta=1, headers=block), 2)):
        try:
            outcomes.append(decode(batch)[-1].headers)
        except CorruptBatch:
            outcomes.append(())
    assert outcomes[0] == outcomes[1]
