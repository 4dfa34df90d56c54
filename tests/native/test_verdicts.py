"""What is said about records is joined to ranges, in order; and what a worker decides after a failure."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline_native.client.queue import queue_headers
from trunkline_native.client.retries import exponential_backoff, retry_delay_s
from trunkline_native.client.verdicts import Verdicts, join_ranges
from trunkline_native.queue_frames import Release, Settle

SEQUENCES = st.lists(st.integers(0, 40))


@given(SEQUENCES)
def test_ranges_hold_exactly_the_sequences_and_do_not_touch(sequences: list[int]) -> None:
    ranges = join_ranges(sequences)
    covered = [sequence for first, end in ranges for sequence in range(first, end)]
    assert covered == sorted(set(sequences))
    assert all(end < following for (_, end), (following, _) in pairwise(ranges))


def test_equal_words_in_a_row_share_a_frame_and_different_ones_keep_their_order() -> None:
    said = Verdicts()
    for sequence in (5, 3, 4):
        said.add(Settle(1), sequence)
    said.add(Release(1, 100), 6)
    said.add(Release(1, 200), 7)
    said.add(Settle(1), 9)
    assert said
    assert list(said.take(10)) == [
        (Settle(1), [(3, 6)]),
        (Release(1, 100), [(6, 7)]),
        (Release(1, 200), [(7, 8)]),
        (Settle(1), [(9, 10)]),
    ]
    assert not said
    assert list(said.take(10)) == []


def test_no_frame_has_more_ranges_than_allowed() -> None:
    said = Verdicts()
    for sequence in range(0, 10, 2):
        said.add(Settle(1), sequence)
    assert [len(ranges) for _, ranges in said.take(2)] == [2, 2, 1]


# -- retries --------------------------------------------------------------------------------------


def test_pauses_double_up_to_the_longest() -> None:
    backoff = exponential_backoff(1, max_s=10, random_number=lambda: 0.0)
    assert [backoff(failures) for failures in range(1, 7)] == [1, 2, 4, 8, 10, 10]
    assert backoff(10_000) == 10


def test_the_last_part_of_a_pause_is_left_to_chance() -> None:
    assert exponential_backoff(8, jitter=0.25, random_number=lambda: 0.5)(1) == 7
    lowest = exponential_backoff(8, jitter=1, random_number=lambda: math.nextafter(1, 0))(1)
    assert 0 <= lowest < 1e-9


@pytest.mark.parametrize("arguments", [{"first_s": -1}, {"factor": 0.5}, {"jitter": 2}, {"max_s": -1}])
def test_pauses_that_make_no_sense_are_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=str(next(iter(arguments)))):
        exponential_backoff(**arguments)  # type: ignore[arg-type]  # their types are right, their values are not


def test_a_record_is_tried_once_and_then_again_as_often_as_allowed() -> None:
    delays = [retry_delay_s(deliveries, 3, lambda failures: failures * 10.0) for deliveries in range(5)]
    assert delays == [10, 20, 30, None, None]
    assert retry_delay_s(0, 0, lambda failures: 1.0) is None
    assert retry_delay_s(0, 1, lambda failures: -1.0) == 0


# -- headers --------------------------------------------------------------------------------------


def test_what_a_queue_obeys_is_in_headers() -> None:
    pairs = queue_headers({"a": "b"}, 1000.0, priority=7, delay=1.5, expires=60)
    assert pairs == [
        ("a", "b"),
        ("trunkline.priority", "7"),
        ("trunkline.deliver-at", "1001500"),
        ("trunkline.expires-at", "1060000"),
    ]
    assert queue_headers(None, 1000.0) == []
    assert queue_headers([("a", None)], 1000.0) == [("a", None)]
    with pytest.raises(ValueError, match="0 to 255"):
        queue_headers(None, 1000.0, priority=256)
