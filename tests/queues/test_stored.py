"""How the state of a queue is stored."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.errors import CorruptLog
from trunkline.queues.index import Chunk
from trunkline.queues.packing import Reader, put_set, put_table, take_set, take_table
from trunkline.queues.ranges import joined
from trunkline.queues.state import QueueState
from trunkline.queues.stored import (
    decode_change,
    decode_chunk,
    decode_chunk_head,
    decode_part,
    encode_chunk,
    encode_parts,
)

numbers = st.integers(-(1 << 63), (1 << 63) - 1) | st.integers(-3, 300)


def chunk_of(*runs: tuple[int, int, int, int, int, int]) -> Chunk:
    chunk = Chunk(7)
    assert chunk.runs is not None
    for run in runs:
        chunk.runs.extend(run)
    chunk.seal()
    return chunk


SOME_CHUNK = encode_chunk(chunk_of((10, 1, 500, 3, 90, 0), (13, 2, 8, 1, 20, 77), (20, 1, 503, 2, 60, 0)))


def some_state() -> QueueState:
    state = QueueState()
    state.append(1, 500, 9, 90)
    state.append(2, 8, 1, 20, priority=3, expires_ms=77)
    state.append(1, 509, 2, 60, due_ms=99)
    state.acquire(5, 1, 0)
    state.settle([(9, 10), (1, 2)], 1)
    state.release([(2, 3)], 1, count=False)
    return state


@given(
    columns=st.integers(1, 5).flatmap(
        lambda rows: st.lists(st.lists(numbers, min_size=rows, max_size=rows), max_size=4)
    )
)
def test_tables_are_read_as_written(columns: list[list[int]]) -> None:
    out = bytearray()
    put_table(out, columns or [[]])
    reader = Reader(bytes(out))
    assert take_table(reader, len(columns or [[]])) == (columns or [[]])
    reader.end()


@given(ranges=st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 5000)), max_size=60))
def test_sets_are_read_as_written(ranges: list[tuple[int, int]]) -> None:
    out = bytearray()
    put_set(out, joined(ranges))
    assert take_set(Reader(bytes(out))) == joined(ranges)


def test_a_set_takes_as_little_as_its_holes_allow() -> None:
    sparse, dense, whole = bytearray(), bytearray(), bytearray()
    put_set(sparse, [(at, at + 1) for at in range(0, 1_000_000, 10_000)])
    put_set(dense, [(at, at + 1) for at in range(0, 1_000_000, 2)])
    put_set(whole, [(0, 1_000_000)])
    assert len(sparse) < 320
    assert len(dense) < 125_020
    assert len(whole) < 8


def test_a_chunk_is_read_as_written() -> None:
    chunk, head = decode_chunk(SOME_CHUNK), decode_chunk_head(SOME_CHUNK)
    assert list(chunk) == [(10, 1, 500, 3, 90, 0), (13, 2, 8, 1, 20, 77), (20, 1, 503, 2, 60, 0)]
    for one in (chunk, head):
        assert (one.priority, one.first, one.end, one.entries, one.size_bytes) == (7, 10, 22, 6, 170)
        assert [one.extent(source) for source in (1, 2, 3)] == [(500, 505), (8, 9), None]
    assert head.runs is None


def test_a_stored_chunk_is_byte_for_byte_as_drawn() -> None:
    stored = "01 07 0a 0c 02 14  01 02 00 10 00 1400"  # head; one extent: source 1, offsets 8 to 10
    stored += " 01 02 00 1000  0a  01 0000 0200 0000 0400 2800 0000"  # its lowest offset; first sequence; one run
    assert encode_chunk(chunk_of((10, 1, 8, 2, 20, 0))) == bytes.fromhex(stored)


@pytest.mark.parametrize("end", range(len(SOME_CHUNK)))
def test_a_chunk_that_is_cut_is_refused(end: int) -> None:
    with pytest.raises(CorruptLog):
        decode_chunk(SOME_CHUNK[:end])


def test_a_snapshot_that_is_cut_is_refused() -> None:
    (stored,) = some_state().snapshot()
    for end in range(len(stored)):
        with pytest.raises(CorruptLog):
            QueueState.restore([stored[:end]])


def test_a_delta_that_is_cut_is_refused() -> None:
    delta = some_state().take_delta()
    assert delta is not None
    for end in range(len(delta)):
        with pytest.raises(CorruptLog):
            QueueState().apply_delta(delta[:end])


@pytest.mark.parametrize("stored", [SOME_CHUNK, some_state().snapshot()[0]], ids=["chunk", "snapshot"])
@given(at=st.integers(0, 1 << 20), value=st.integers(0, 255))
def test_damage_is_refused_or_harmless(stored: bytes, at: int, value: int) -> None:
    damaged = bytearray(stored)
    damaged[at % len(stored)] = value
    with contextlib.suppress(CorruptLog):
        decode_chunk(bytes(damaged))
    with contextlib.suppress(CorruptLog):
        decode_change(decode_part(bytes(damaged)).body)


@given(data=st.binary(max_size=60))
def test_arbitrary_bytes_are_refused_or_harmless(data: bytes) -> None:
    for decode in (decode_chunk, decode_change, decode_part):
        with contextlib.suppress(CorruptLog):
            decode(b"\x01" + data)


def test_a_version_that_is_not_known_is_named() -> None:
    with pytest.raises(CorruptLog, match="version 9; this is version 1"):
        decode_part(b"\x09\x03\x00\x00")


def test_a_table_of_constants_cannot_claim_to_be_huge() -> None:
    with pytest.raises(CorruptLog, match="too long"):
        take_table(Reader(bytes.fromhex("ffffffff0f 00 00")), 1)


@given(body=st.binary(max_size=300), max_bytes=st.integers(24, 100))
def test_parts_are_never_longer_than_asked_for(body: bytes, max_bytes: int) -> None:
    stored = encode_parts(5, body, max_bytes)
    parts = [decode_part(part) for part in stored]
    assert all(len(part) <= max_bytes for part in stored)
    assert b"".join(part.body for part in parts) == body
    assert [part.number for part in parts] == list(range(len(parts)))
    assert [part.is_first for part in parts] == [True] + [False] * (len(parts) - 1)
    assert [part.is_last for part in parts] == [False] * (len(parts) - 1) + [True]
