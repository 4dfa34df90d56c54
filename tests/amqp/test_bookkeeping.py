"""What a channel keeps count of: its confirms, and its unacknowledged deliveries. Compared with the obvious way."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trunkline_amqp.confirms import Confirmation, Confirms
from trunkline_amqp.unacked import Held, Unacked

FEW = settings(max_examples=150, deadline=None)


def numbered(count: int) -> Confirms:
    confirms = Confirms()
    assert [confirms.next() for _ in range(count)] == list(range(1, count + 1))
    return confirms


class TestConfirms:
    def test_those_that_follow_each_other_are_one_frame(self) -> None:
        confirms = numbered(5)
        for number in (1, 2, 3):
            confirms.done(number)
        assert confirms.take() == [Confirmation(3, True)]
        assert confirms.take() == []
        confirms.done(4)
        assert confirms.take() == [Confirmation(4, False)]

    def test_what_comes_too_early_is_told_by_itself_and_not_again(self) -> None:
        confirms = numbered(4)
        confirms.done(3)
        assert confirms.take() == [Confirmation(3, False)]
        confirms.done(1)
        confirms.done(2)
        assert confirms.take() == [Confirmation(2, True)]
        confirms.done(4)
        assert confirms.take() == [Confirmation(4, False)]

    def test_a_refusal_leaves_before_the_frame_that_would_cover_it(self) -> None:
        confirms = numbered(3)
        confirms.done(1)
        confirms.refuse(2)
        confirms.done(3)
        assert confirms.take() == [Confirmation(2, False, True), Confirmation(3, True)]

    @FEW
    @given(st.data())
    def test_every_number_is_told_once_and_rightly(self, data: st.DataObject) -> None:
        count = data.draw(st.integers(1, 12))
        order = data.draw(st.permutations(range(1, count + 1)))
        refused = data.draw(st.sets(st.integers(1, count)))
        confirms = numbered(count)
        outstanding = set(range(1, count + 1))
        known: set[int] = set()
        for number in order:
            (confirms.refuse if number in refused else confirms.done)(number)
            known.add(number)
            if data.draw(st.booleans()):
                continue
            for told in confirms.take():
                numbers = {one for one in outstanding if one == told.number or (told.multiple and one < told.number)}
                assert numbers <= known
                assert {number in refused for number in numbers} == {told.is_refused}
                outstanding -= numbers
            assert outstanding.isdisjoint(known)


class TestUnacked:
    def test_a_run_is_one_span(self) -> None:
        unacked: Unacked[str] = Unacked()
        assert unacked.add("a", 10, 3) == 1
        assert unacked.add("a", 13, 2) == 4
        assert unacked.skip(4) == 6
        assert unacked.add("a", 15, 1) == 10
        assert unacked.take_through(4) == [("a", 10, 14)]
        assert unacked.take_all() == [("a", 14, 15), ("a", 15, 16)]
        assert len(unacked) == 0

    @pytest.mark.parametrize("tag", [0, 3, 5, 9, 2**63])
    def test_a_tag_that_nobody_holds_is_not_there(self, tag: int) -> None:
        unacked: Unacked[str] = Unacked()
        assert unacked.take(tag) is None
        unacked.add("a", 0, 4)
        assert unacked.take(3) == ("a", 2, 3)
        assert unacked.take(tag) is None
        assert unacked.take_through(tag) is None
        assert len(unacked) == 3

    @FEW
    @given(st.data())
    def test_it_holds_what_a_dictionary_would(self, data: st.DataObject) -> None:
        unacked: Unacked[str] = Unacked()
        held: dict[int, tuple[str, int]] = {}
        following = {"a": 0, "b": 100}
        for _ in range(data.draw(st.integers(1, 30))):
            action = data.draw(st.sampled_from(["add", "add", "take", "take", "through", "run", "skip"]))
            tag = data.draw(st.integers(0, unacked.last_tag + 1))
            if action == "skip":
                unacked.skip(1)
            elif action == "add":
                holder = data.draw(st.sampled_from("ab"))
                count = data.draw(st.integers(1, 4))
                first = unacked.add(holder, following[holder], count)
                held |= {first + number: (holder, following[holder] + number) for number in range(count)}
                following[holder] += count + data.draw(st.integers(0, 1))
            elif action == "run":
                end = data.draw(st.integers(tag, unacked.last_tag + 2))
                run = unacked.take_run(tag, end)
                if run is not None:
                    assert tag == min(held)
                    assert singly([run]) == [held.pop(number) for number in range(tag, end)]
            elif action == "take":
                taken = unacked.take(tag)
                expected = held.pop(tag, None)
                assert taken == (expected and (*expected, expected[1] + 1))
            else:
                found = unacked.take_through(tag)
                wanted = [held.pop(number) for number in sorted(held) if number <= tag] if tag in held else None
                spread = None if found is None else singly(found)
                assert spread == wanted
            assert len(unacked) == len(held)
        assert singly(unacked.take_all()) == [held[number] for number in sorted(held)]


def singly(found: list[Held[str]]) -> list[tuple[str, int]]:
    return [(holder, number) for holder, first, end in found for number in range(first, end)]
