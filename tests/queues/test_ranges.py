"""Sets of sequences."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.queues.ranges import Ranges, joined

some_ranges = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=30)


def members(ranges: list[tuple[int, int]]) -> set[int]:
    return {number for first, end in ranges for number in range(first, end)}


@given(ranges=some_ranges)
def test_ranges_are_joined_where_they_touch_or_overlap(ranges: list[tuple[int, int]]) -> None:
    found = joined(ranges)
    assert members(found) == members(ranges)
    assert all(end < first for (_, end), (first, _) in pairwise(found))
    assert all(first < end for first, end in found)


@given(ranges=some_ranges, is_at_once=st.booleans())
def test_a_set_has_what_was_added_to_it(ranges: list[tuple[int, int]], is_at_once: bool) -> None:
    found = Ranges(ranges) if is_at_once else Ranges()
    for first, end in ranges:
        found.add(first, end)
    assert list(found) == joined(ranges)


@given(ranges=some_ranges, first=st.integers(0, 60), count=st.integers(1, 20))
def test_a_set_is_asked_about_a_range(ranges: list[tuple[int, int]], first: int, count: int) -> None:
    found, here = Ranges(ranges), members(ranges)
    asked = set(range(first, first + count))
    assert found.covers(first, first + count) == (asked <= here)
    assert found.touches(first, first + count) == bool(asked & here)
    assert members(list(found.above(first))) == {number for number in here if number >= first}
    found.forget_below(first)
    assert {number for number in members(list(found)) if number >= first} == {n for n in here if n >= first}


@pytest.mark.parametrize(("sequence", "expected"), [(0, (2, 4)), (2, (2, 4)), (3, (2, 4)), (4, (6, 9)), (9, None)])
def test_the_next_range_is_the_first_that_ends_later(sequence: int, expected: tuple[int, int] | None) -> None:
    assert Ranges([(6, 9), (2, 4)]).find(sequence) == expected
