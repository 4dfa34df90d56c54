"""The subscription index gives the answer of the plain rule, whatever was changed before, in bounded memory."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from trunkline import subscriptions
from trunkline.filters import MAX_FILTER_LEVELS, filter_problem, matches
from trunkline.subscriptions import SubscriptionIndex

LEVELS = st.sampled_from(["", "a", "b", "c", "$SYS"])
TOPICS = st.lists(LEVELS, min_size=1, max_size=5).map("/".join).filter(bool)
FILTERS = (
    st.tuples(st.lists(st.one_of(LEVELS, st.just("+")), max_size=5), st.booleans())
    .map(lambda parts: "/".join([*parts[0], "#"] if parts[1] else parts[0]))
    .filter(bool)
)


def answer(index: SubscriptionIndex[Any, Any], topic: str) -> dict[Any, list[Any]]:
    return {subscriber: sorted(options) for subscriber, options in index.match(topic)}


@pytest.mark.parametrize(
    ("filter", "topic", "expected"),
    [
        # MQTT 3.1.1, 4.7.1.2
        ("sport/tennis/player1/#", "sport/tennis/player1", True),
        ("sport/tennis/player1/#", "sport/tennis/player1/ranking", True),
        ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", True),
        ("sport/#", "sport", True),
        ("#", "any/thing", True),
        ("sport/tennis/#", "sport", False),
        # 4.7.1.3
        ("sport/tennis/+", "sport/tennis/player1", True),
        ("sport/tennis/+", "sport/tennis/player1/ranking", False),
        ("sport/+", "sport", False),
        ("sport/+", "sport/", True),
        ("+/+", "/finance", True),
        ("/+", "/finance", True),
        ("+", "/finance", False),
        # 4.7.2
        ("#", "$SYS/uptime", False),
        ("+/uptime", "$SYS/uptime", False),
        ("$SYS/#", "$SYS/uptime", True),
        ("$SYS/+", "$SYS/uptime", True),
        ("a/+", "a/$SYS", True),
        # 4.7.3
        ("accounts", "Accounts", False),
        ("/a", "a", False),
        ("a//b", "a/b", False),
        ("a/+/b", "a//b", True),
        # a topic of another protocol may hold these characters: they are plain there
        ("a/+", "a/+", True),
        ("a/#", "a/#", True),
        ("a/b", "a/+", False),
    ],
)
def test_the_rule(filter: str, topic: str, expected: bool) -> None:
    index: SubscriptionIndex[str, int] = SubscriptionIndex()
    index.add(filter, "s", 1)

    assert matches(filter, topic) is expected
    assert answer(index, topic) == ({"s": [1]} if expected else {})


@pytest.mark.parametrize("filter", ["", "a+", "+a", "a/+b/c", "#/a", "a/#/b", "a#", "a/b#", "++", "##"])
def test_filters_that_are_not_allowed(filter: str) -> None:
    index: SubscriptionIndex[str, int] = SubscriptionIndex()

    assert filter_problem(filter) is not None
    with pytest.raises(ValueError, match="filter "):
        index.add(filter, "s", 1)
    assert len(index) == 0
    assert index.statistics().trie_nodes == 0


def test_a_filter_with_too_many_levels_is_refused() -> None:
    index: SubscriptionIndex[str, int] = SubscriptionIndex()

    with pytest.raises(ValueError, match="more than 128 levels"):
        index.add("/" * MAX_FILTER_LEVELS, "s", 1)

    assert len(index) == 0


def test_a_filter_with_the_most_levels_allowed_matches() -> None:
    index: SubscriptionIndex[str, int] = SubscriptionIndex()
    index.add("/".join(["+"] * MAX_FILTER_LEVELS), "s", 1)

    assert answer(index, "/" * (MAX_FILTER_LEVELS - 1)) == {"s": [1]}
    assert answer(index, "/" * MAX_FILTER_LEVELS) == {}
    assert answer(index, "/" * 65_535) == {}


def test_a_subscriber_with_overlapping_filters_comes_once_with_all_options() -> None:
    index: SubscriptionIndex[str, int] = SubscriptionIndex()
    for options, filter in enumerate(["a/#", "a/+", "a/b", "+/b", "#"]):
        index.add(filter, "s", options)

    assert answer(index, "a/b") == {"s": [0, 1, 2, 3, 4]}


def test_adding_a_filter_again_replaces_its_options() -> None:
    index: SubscriptionIndex[str, int] = SubscriptionIndex()
    assert index.add("a/+", "s", 0)
    assert answer(index, "a/b") == {"s": [0]}

    assert not index.add("a/+", "s", 1)

    assert answer(index, "a/b") == {"s": [1]}
    assert len(index) == 1


def test_removing_tells_whether_there_was_something() -> None:
    index: SubscriptionIndex[str, int] = SubscriptionIndex()
    index.add("a/+", "s", 0)

    assert not index.remove("a/+", "t")
    assert not index.remove("a/#", "s")
    assert index.remove("a/+", "s")
    assert not index.remove("a/+", "s")
    assert not index.remove("a", "s")
    assert index.statistics().trie_nodes == index.statistics().exact_filters == 0


def test_no_node_is_left_when_all_filters_are_gone() -> None:
    index: SubscriptionIndex[str, int] = SubscriptionIndex()
    filters = ["a/b/c/+", "a/b/#", "a/+/+/d", "+", "#", "a"]
    for filter in filters:
        index.add(filter, "s", 0)
        index.add(filter, "t", 0)
    assert len(index) == 12

    for filter in filters:
        assert index.remove(filter, "s")
        assert index.remove(filter, "t")

    statistics = index.statistics()
    assert (statistics.filters, statistics.exact_filters, statistics.trie_nodes) == (0,) * 3


def test_a_level_that_only_one_filter_has_is_the_last_that_takes_a_node() -> None:
    index: SubscriptionIndex[str, int] = SubscriptionIndex()
    index.add("a/b/c/+/d/#", "s", 0)
    assert index.statistics().trie_nodes == 1
    index.add("a/x/#", "s", 0)
    assert index.statistics().trie_nodes == 3, "a, and where they differ"
    index.add("a/b/c/+", "s", 0)
    assert index.statistics().trie_nodes == 6, "+ is where the first goes on, and the last ends"

    assert answer(index, "a/b/c/y/d") == {"s": [0]}
    assert answer(index, "a/b/c/y") == {"s": [0]}
    assert answer(index, "a/b/c/y/e") == answer(index, "a/b/c") == {}


def test_remembered_answers_are_bounded_by_the_subscribers_in_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscriptions, "CACHED_SUBSCRIBERS", 110)
    index: SubscriptionIndex[int, int] = SubscriptionIndex()
    for subscriber in range(10):
        index.add("#", subscriber, 0)

    for number in range(1000):
        assert len(index.match(str(number))) == 10

    assert index.statistics().cached_topics <= 20


def test_long_topics_count_for_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscriptions, "CACHED_SUBSCRIBERS", 1000)
    index: SubscriptionIndex[int, int] = SubscriptionIndex()

    for number in range(100):
        index.match(f"{number}" + "x" * 30_000)

    assert index.statistics().cached_topics <= 4


def test_a_topic_in_use_stays_remembered_while_others_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscriptions, "CACHED_SUBSCRIBERS", 10)
    index: SubscriptionIndex[int, int] = SubscriptionIndex()
    index.add("#", 1, 0)
    kept = index.match("busy")

    for number in range(100):
        index.match(str(number))
        assert index.match("busy") is kept


@given(st.dictionaries(FILTERS, st.integers(0, 2), max_size=20), TOPICS)
def test_the_index_agrees_with_the_rule(filters: dict[str, int], topic: str) -> None:
    index: SubscriptionIndex[str, int] = SubscriptionIndex()
    for filter, options in filters.items():
        index.add(filter, filter, options)

    assert answer(index, topic) == {f: [options] for f, options in filters.items() if matches(f, topic)}


class ChangesAndLookUps(RuleBasedStateMachine):
    """The index against a plain dict, with look-ups between the changes so that stale answers would show."""

    def __init__(self) -> None:
        super().__init__()
        self.index: SubscriptionIndex[int, int] = SubscriptionIndex()
        self.model: dict[tuple[int, str], int] = {}

    @rule(filter=FILTERS, subscriber=st.integers(0, 3), options=st.integers(0, 2))
    def add(self, filter: str, subscriber: int, options: int) -> None:
        assert self.index.add(filter, subscriber, options) is ((subscriber, filter) not in self.model)
        self.model[subscriber, filter] = options

    @rule(filter=FILTERS, subscriber=st.integers(0, 3))
    def remove(self, filter: str, subscriber: int) -> None:
        assert self.index.remove(filter, subscriber) is ((subscriber, filter) in self.model)
        self.model.pop((subscriber, filter), None)

    @rule(topic=TOPICS)
    def match(self, topic: str) -> None:
        expected: dict[int, list[int]] = {}
        for (subscriber, filter), options in self.model.items():
            if matches(filter, topic):
                expected.setdefault(subscriber, []).append(options)
        assert answer(self.index, topic) == {subscriber: sorted(found) for subscriber, found in expected.items()}

    @invariant()
    def counts_agree(self) -> None:
        assert len(self.index) == len(self.model)


TestChangesAndLookUps = ChangesAndLookUps.TestCase
TestChangesAndLookUps.settings = settings(max_examples=60, stateful_step_count=40)
