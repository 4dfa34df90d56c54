"""Filters in the syntax of AMQP, filters on headers, and the index that must agree with the rule."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from trunkline.errors import InvalidFilter
from trunkline.filters import MAX_FILTER_LEVELS, RecordFilter, matches
from trunkline.subscriptions import SubscriptionIndex

WORDS = st.sampled_from(["a", "b", "c", ""])
KEYS = st.lists(WORDS, max_size=5).map(".".join)
PATTERNS = st.lists(st.one_of(WORDS, st.sampled_from(["*", "#", "a*"])), max_size=5).map(".".join)


@pytest.mark.parametrize(
    ("pattern", "key", "expected"),
    [
        # AMQP 0-9-1, 3.1.3.3: the examples of the text
        ("*.stock.#", "usd.stock", True),
        ("*.stock.#", "eur.stock.db", True),
        ("*.stock.#", "stock.nasdaq", False),
        # # is any number of words, also none, anywhere
        ("#", "", True),
        ("#", "a.b.c", True),
        ("mail.#", "mail", True),
        ("mail.#", "mail.new.fast", True),
        ("mail.#", "mails.new", False),
        ("#.error", "error", True),
        ("#.error", "a.b.error", True),
        ("#.error", "a.error.b", False),
        ("a.#.b.#.c", "a.b.c", True),
        ("a.#.b.#.c", "a.x.b.y.z.c", True),
        ("a.#.b.#.c", "a.c.b", False),
        ("#.#", "", True),
        # * is one word, and an empty word is one; the empty key has none
        ("*", "", False),
        ("*", "a", True),
        ("*.*", "a.", True),
        ("a.*", "a", False),
        ("a.*", "a.b.c", False),
        # beside other characters they are plain
        ("a*", "ab", False),
        ("a*", "a*", True),
        ("a.b", "a.b", True),
        ("", "", True),
        # and in a key always
        ("a.b", "a.*", False),
        ("a.*", "a.#", True),
    ],
)
def test_amqp_patterns(pattern: str, key: str, expected: bool) -> None:
    index: SubscriptionIndex[str, int] = SubscriptionIndex("amqp")
    index.add(pattern, "s", 1)
    assert matches(pattern, key, "amqp") == expected
    assert index.match(key) == ([("s", [1])] if expected else [])


class AmqpIndexMachine(RuleBasedStateMachine):
    """An index beside a plain dict of filters."""

    def __init__(self) -> None:
        super().__init__()
        self.index: SubscriptionIndex[int, str] = SubscriptionIndex("amqp")
        self.filters: set[tuple[int, str]] = set()

    @rule(subscriber=st.integers(0, 3), pattern=PATTERNS)
    def add(self, subscriber: int, pattern: str) -> None:
        assert self.index.add(pattern, subscriber, pattern) == ((subscriber, pattern) not in self.filters)
        self.filters.add((subscriber, pattern))

    @rule(data=st.data(), subscriber=st.integers(0, 3), pattern=PATTERNS)
    def remove(self, data: Any, subscriber: int, pattern: str) -> None:
        if self.filters and data.draw(st.booleans()):
            subscriber, pattern = data.draw(st.sampled_from(sorted(self.filters)))
        assert self.index.remove(pattern, subscriber) == ((subscriber, pattern) in self.filters)
        self.filters.discard((subscriber, pattern))

    @rule(key=KEYS)
    def match(self, key: str) -> None:
        expected: dict[int, list[str]] = {}
        for subscriber, pattern in self.filters:
            if matches(pattern, key, "amqp"):
                expected.setdefault(subscriber, []).append(pattern)
        found = {subscriber: sorted(options) for subscriber, options in self.index.match(key)}
        assert found == {subscriber: sorted(options) for subscriber, options in expected.items()}

    @invariant()
    def nothing_is_left_of_what_was_removed(self) -> None:
        if not self.filters:
            statistics = self.index.statistics()
            assert (statistics.filters, statistics.exact_filters, statistics.trie_nodes) == (0, 0, 0)


TestAmqpIndex = AmqpIndexMachine.TestCase
TestAmqpIndex.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)


@given(pattern=PATTERNS, key=KEYS)
def test_a_pattern_with_hashes_added_still_matches(pattern: str, key: str) -> None:
    if matches(pattern, key, "amqp"):
        assert matches(f"{pattern}.#" if pattern else "#", key, "amqp")


def test_a_filter_sees_keys_that_are_missing_or_no_text() -> None:
    everything, words, levels = RecordFilter(), RecordFilter("*"), RecordFilter("#", "mqtt")
    assert [found.matches(None, ()) for found in (everything, words, levels)] == [True, False, False]
    assert [found.matches(b"\xff", ()) for found in (everything, words, levels)] == [True, True, False]
    assert everything.is_everything
    assert not words.is_everything
    assert not RecordFilter(headers={"a": "1"}).is_everything


def test_a_filter_can_ask_for_headers() -> None:
    both = RecordFilter("a.*", headers={"x": "1", "y": "2"})
    either = RecordFilter("a.*", headers={"x": "1", "y": "2"}, match="any")
    headers = [("x", b"1"), ("z", None)]
    assert (both.matches(b"a.b", headers), either.matches(b"a.b", headers)) == (False, True)
    assert both.matches(b"a.b", [*headers, ("y", b"0"), ("y", b"2")])
    assert not either.matches(b"b", headers)
    assert not either.matches(b"a.b", [("x", b"2"), ("y", None)])


@pytest.mark.parametrize(
    ("pattern", "key", "expected"),
    [("a/*", "a/b", True), ("a/*", "a.b", False), ("#/c", "a/b/c", True), ("a/+", "a/b", False), ("a.b", "a.b", True)],
)
def test_amqp_wildcards_on_keys_with_slashes(pattern: str, key: str, expected: bool) -> None:
    index: SubscriptionIndex[str, int] = SubscriptionIndex("amqp/")
    index.add(pattern, "s", 1)
    assert matches(pattern, key, "amqp/") == expected
    assert index.match(key) == ([("s", [1])] if expected else [])


@pytest.mark.parametrize("pattern", ["", "a", "#", "a.*", "+/b", "a" + ".a" * 200])
def test_an_exact_filter_has_no_wildcards(pattern: str) -> None:
    index: SubscriptionIndex[str, int] = SubscriptionIndex("exact")
    index.add(pattern, "s", 1)
    assert index.match(pattern) == [("s", [1])]
    assert index.match(f"{pattern}b") == []
    assert RecordFilter(pattern, "exact").check().matches(pattern.encode(), ())
    assert not RecordFilter(pattern, "exact").is_everything


def test_a_filter_can_ask_for_a_header_of_any_value() -> None:
    wanted = RecordFilter(headers={"x": None, "y": "1"})
    assert wanted.matches(None, [("x", None), ("y", b"1")])
    assert not wanted.matches(None, [("y", b"1")])


def test_a_filter_can_ask_for_what_others_want_too() -> None:
    wanted = RecordFilter("a.#", also=(RecordFilter("a.b", "exact"), RecordFilter(headers={"x": "1"})))
    assert wanted.matches(b"a.b", [("x", b"1")])
    assert not wanted.matches(b"a.b", [])
    assert not wanted.matches(b"a.c", [("x", b"1")])
    assert not RecordFilter(also=(RecordFilter("a"),)).is_everything
    assert RecordFilter(also=(RecordFilter(),)).is_everything
    with pytest.raises(InvalidFilter, match="128 levels"):
        RecordFilter(also=(RecordFilter("a" + ".a" * 128),)).check()


def test_a_filter_that_breaks_the_rules_is_refused() -> None:
    with pytest.raises(InvalidFilter, match="last level"):
        RecordFilter("a/#/b", "mqtt").check()
    with pytest.raises(InvalidFilter, match="more than 128 levels"):
        RecordFilter("." * MAX_FILTER_LEVELS).check()
    assert RecordFilter("a.#.b").check() == RecordFilter("a.#.b")


def test_a_key_of_very_many_words_costs_no_more_than_one_of_many() -> None:
    index: SubscriptionIndex[str, str] = SubscriptionIndex("amqp")
    for pattern in ("#", "a.#", "#.z", "a.*.#.*"):
        index.add(pattern, "s", pattern)
    key = "a" + "." * 1_000_000 + "z"
    assert index.match(key) == [("s", ["#", "a.#", "a.*.#.*"])]
    assert [matches(pattern, key, "amqp") for pattern in ("#", "a.#", "#.z")] == [True, True, False]
