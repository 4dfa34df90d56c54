"""Varints are Kafka's, and no longer than their fields."""

from __future__ import annotations

import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.errors import CorruptBatch
from trunkline.varint import SMALL, encode_varint, read_varint, read_varlong

with warnings.catch_warnings():  # kafka-python uses a deprecated call of importlib
    warnings.simplefilter("ignore", DeprecationWarning)
    from kafka.record.util import decode_varint as kafka_decode
    from kafka.record.util import encode_varint as kafka_encode

i32 = st.integers(-(1 << 31), (1 << 31) - 1)
i64 = st.integers(-(1 << 63), (1 << 63) - 1)


def unfold(folded: int) -> int:
    return (folded >> 1) ^ -(folded & 1)


@given(i64)
def test_numbers_are_written_and_read_as_by_kafka_python(number: int) -> None:
    by_kafka = bytearray()
    kafka_encode(number, by_kafka.append)

    assert encode_varint(number) == by_kafka
    assert kafka_decode(bytearray(encode_varint(number))) == (number, len(by_kafka))


@given(i32, st.binary(max_size=3))
def test_32_bits_come_back_from_any_position(number: int, before: bytes) -> None:
    folded, end = read_varint(before + encode_varint(number) + b"\xff", len(before))

    assert (unfold(folded), end) == (number, len(before) + len(encode_varint(number)))


@given(i64, st.binary(max_size=3))
def test_64_bits_come_back_from_any_position(number: int, before: bytes) -> None:
    folded, end = read_varlong(before + encode_varint(number) + b"\xff", len(before))

    assert (unfold(folded), end) == (number, len(before) + len(encode_varint(number)))


@pytest.mark.parametrize("number", [0, 63, 64, 8191])
def test_small_numbers_are_ready_made(number: int) -> None:
    assert SMALL[number] == encode_varint(number)


@pytest.mark.parametrize(
    "encoded",
    ["ffffffff10", "ffffffff7f", "808080808000", "ffffffffffffffff"],
    ids=["33 bits", "35 bits", "6 bytes", "no end in sight"],
)
def test_more_than_32_bits_are_corrupt(encoded: str) -> None:
    with pytest.raises(CorruptBatch):
        read_varint(bytes.fromhex(encoded), 0)


@pytest.mark.parametrize(
    "encoded",
    ["ffffffffffffffffff02", "8080808080808080808000", "ff" * 12],
    ids=["65 bits", "11 bytes", "no end in sight"],
)
def test_more_than_64_bits_are_corrupt(encoded: str) -> None:
    with pytest.raises(CorruptBatch):
        read_varlong(bytes.fromhex(encoded), 0)


@pytest.mark.parametrize("read", [read_varint, read_varlong])
def test_a_number_that_is_cut_short_is_an_index_error(read: type) -> None:
    with pytest.raises(IndexError):
        read(b"\xff\xff", 0)
