"""Records found in a batch without decoding it."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from trunkline.errors import TrunklineError
from trunkline.records import decode, encode, is_in_headers, read_header, with_records
from trunkline.records.batch import HEADER_BYTES
from trunkline.records.spans import move_timestamps, read_spans

ROWS = st.lists(
    st.tuples(
        st.integers(-1, 1 << 45),
        st.none() | st.binary(max_size=200),
        st.none() | st.binary(max_size=300),
        st.lists(st.tuples(st.text(max_size=5), st.none() | st.binary(max_size=5)), max_size=2),
    ),
    min_size=1,
    max_size=80,
)


@given(ROWS, st.integers(0, 4))
def test_spans_are_where_the_records_are(
    rows: list[tuple[int, bytes | None, bytes | None, list[object]]], kind: int
) -> None:
    batch = encode(rows, base_offset=7, compression=kind)  # type: ignore[arg-type]  # headers as lists
    header = read_header(batch)
    data, spans = read_spans(batch, header)

    found = [(7 + delta, header.base_timestamp + time, key, null) for _, _, delta, time, key, null in spans]
    assert found == [(r.offset, r.timestamp, r.key, r.value is None) for r in decode(batch)]
    pieces = b"".join(data[start:end] for start, end, *_ in spans)
    plain = header._replace(attributes=0)
    assert decode(with_records(plain, pieces)) == decode(batch)


@given(ROWS, st.integers(-(1 << 50), 1 << 50))
def test_moved_timestamps_count_from_another_base(
    rows: list[tuple[int, bytes | None, bytes | None, list[object]]], by: int
) -> None:
    batch = encode(rows)  # type: ignore[arg-type]  # headers as lists
    header = read_header(batch)
    data, spans = read_spans(batch, header)
    moved = header._replace(base_timestamp=header.base_timestamp - by)

    assert decode(with_records(moved, b"".join(move_timestamps(data, spans, by)))) == decode(batch)


@given(ROWS, st.data())
def test_what_cannot_be_decoded_has_no_spans(
    rows: list[tuple[int, bytes | None, bytes | None, list[object]]], data: st.DataObject
) -> None:
    batch = encode(rows)  # type: ignore[arg-type]  # headers as lists
    records = bytearray(batch[HEADER_BYTES:])
    position = data.draw(st.integers(0, len(records) - 1))
    records[position] ^= data.draw(st.integers(1, 255))
    damaged = with_records(read_header(batch), bytes(records))

    assert is_refused(decode, damaged) == is_refused(lambda b: read_spans(b, read_header(b)), damaged)


def is_refused(read: object, batch: bytes) -> bool:
    try:
        read(batch)  # type: ignore[operator]
    except TrunklineError:
        return True
    return False


MARK = b"mqtt.retain"
LARGE = 40_000


def test_a_mark_in_the_headers_of_a_large_record_is_found() -> None:
    batch = encode([(0, b"k", b"v" * LARGE, []), (1, None, b"v" * LARGE, [("mqtt.retain", b"1")])])
    assert is_in_headers(MARK, batch)


def test_a_mark_in_a_large_payload_is_not_taken_for_a_header() -> None:
    assert not is_in_headers(MARK, encode([(0, MARK, MARK * LARGE, [("other", None)]), (0, None, b"v" * LARGE, [])]))


def test_small_records_are_searched_as_a_whole() -> None:
    assert is_in_headers(MARK, encode([(0, b"k", MARK, [])]))
    assert not is_in_headers(MARK, encode([(0, b"k", b"v", [("name", b"x")])] * 3000))


def test_what_cannot_be_stepped_through_may_have_the_mark() -> None:
    batch = bytearray(encode([(0, b"k", b"v" * LARGE, [])]))
    batch[HEADER_BYTES : HEADER_BYTES + 9] = b"\xff" * 9
    assert is_in_headers(MARK, bytes(batch))
