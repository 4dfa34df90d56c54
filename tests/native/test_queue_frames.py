"""The frames of queues, and the numbers in their bodies."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.errors import RemoteProtocolError
from trunkline_native import frames as f
from trunkline_native import queue_frames as q
from trunkline_native.codec import FrameDecoder, encode, encode_deliver_head, encode_head

NUMBERS = st.integers(0, 2**63 - 1)
SMALL_NUMBERS = st.integers(0, 2**32 - 1)
RANGES = st.lists(st.tuples(NUMBERS, st.integers(1, 2**20)).map(lambda pair: (pair[0], min(sum(pair), 2**63))))


def decode(data: bytes, *, from_client: bool) -> list[f.Frame]:
    decoder = FrameDecoder(f.CLIENT_FRAMES if from_client else f.SERVER_FRAMES, 2**20)
    decoder.receive_data(data)
    found = []
    while isinstance(event := decoder.next_event(), f.Frame):
        found.append(event)
    return found


@given(RANGES)
def test_ranges_are_read_as_they_were_written(ranges: list[tuple[int, int]]) -> None:
    assert q.decode_ranges(q.encode_ranges(ranges)) == ranges


@pytest.mark.parametrize(
    "body",
    [
        b"\0" * 15,
        b"\0" * 17,
        (5).to_bytes(8, "big") * 2,  # empty
        (6).to_bytes(8, "big") + (5).to_bytes(8, "big"),
        (0).to_bytes(8, "big") + (2**63 + 1).to_bytes(8, "big"),
    ],
)
def test_what_are_no_ranges_is_refused(body: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        q.decode_ranges(body)


@given(st.lists(st.tuples(SMALL_NUMBERS, SMALL_NUMBERS, NUMBERS, NUMBERS, SMALL_NUMBERS)), st.binary(max_size=100))
def test_runs_are_read_as_they_were_written(runs: list[tuple[int, int, int, int, int]], batches: bytes) -> None:
    body = b"".join(q.encode_run(*run) for run in runs) + batches
    assert q.decode_runs(body, len(runs)) == (runs, batches)
    with pytest.raises(RemoteProtocolError):
        q.decode_runs(body, len(body) // 28 + 1)


@given(consumption=NUMBERS, runs=st.integers(0, 2**31 - 1), size=st.integers(0, 2**31))
def test_the_hand_written_encoder_agrees_with_the_general_one(consumption: int, runs: int, size: int) -> None:
    assert encode_deliver_head(consumption, runs, size) == encode_head(q.Deliver(consumption, runs), size)


def test_a_header_that_comes_again_is_decoded_once_and_never_taken_for_another() -> None:
    headers = [q.Settle(number % 100) for number in range(300)] + [q.Release(1), q.Release(1, 1), q.Settle(1, 5)]
    data = b"".join(encode(header, q.encode_ranges([(number, number + 1)])) for number, header in enumerate(headers))
    frames = decode(data, from_client=True)
    assert [frame.header for frame in frames] == headers
    assert [q.decode_ranges(frame.body)[0][0] for frame in frames] == list(range(303))
    first, second = decode(encode(q.Settle(7)) * 2, from_client=True)
    assert first.header is second.header
