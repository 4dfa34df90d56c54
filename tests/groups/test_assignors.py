"""Dealing out partitions: every one has one owner, evenly, and sticky moves no more than it must."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.groups.assignors import ASSIGNORS, Target, assign_range, assign_round_robin, assign_sticky
from trunkline.log import TopicPartition

MEMBERS = ["ada", "bob", "cyd", "dan", "eve", "fay"]
TOPICS = ["orders", "payments", "refunds", "sensors"]

counts = st.dictionaries(st.sampled_from(TOPICS), st.integers(1, 12), min_size=1)
mixed = st.dictionaries(st.sampled_from(MEMBERS), st.frozensets(st.sampled_from(TOPICS)), min_size=1)
alike = st.sets(st.sampled_from(MEMBERS), min_size=1).map(lambda members: dict.fromkeys(members, frozenset(TOPICS)))


def owners_of(target: Target) -> dict[TopicPartition, str]:
    return {partition: member for member, partitions in target.items() for partition in partitions}


def partitions_of(topics: Mapping[str, int]) -> set[TopicPartition]:
    return {TopicPartition(topic, index) for topic, count in topics.items() for index in range(count)}


@pytest.mark.parametrize("name", sorted(ASSIGNORS))
@given(subscriptions=mixed, topics=counts, before=mixed, topics_before=counts)
def test_every_partition_that_somebody_may_read_has_exactly_one_owner_who_may(
    name: str,
    subscriptions: Mapping[str, frozenset[str]],
    topics: Mapping[str, int],
    before: Mapping[str, frozenset[str]],
    topics_before: Mapping[str, int],
) -> None:
    target = ASSIGNORS[name](subscriptions, topics, owners_of(assign_range(before, topics_before, {})))
    dealt = [partition for partitions in target.values() for partition in partitions]
    wanted = set().union(*subscriptions.values())
    assert sorted(dealt) == sorted(partition for partition in partitions_of(topics) if partition.topic in wanted)
    assert all(partition.topic in subscriptions[member] for partition, member in owners_of(target).items())
    assert set(target) == set(subscriptions)


@given(subscriptions=alike, topics=counts, before=mixed, topics_before=counts)
def test_sticky_is_even_and_moves_no_more_than_that_needs(
    subscriptions: Mapping[str, frozenset[str]],
    topics: Mapping[str, int],
    before: Mapping[str, frozenset[str]],
    topics_before: Mapping[str, int],
) -> None:
    everywhere = partitions_of(topics)
    owners = {
        partition: member
        for partition, member in owners_of(assign_range(before, topics_before, {})).items()
        if partition in everywhere and member in subscriptions
    }
    target = assign_sticky(subscriptions, topics, owners)
    sizes = [len(partitions) for partitions in target.values()]
    assert max(sizes) - min(sizes) <= 1

    share, extra = divmod(len(everywhere), len(subscriptions))
    had = [sum(owner == member for owner in owners.values()) for member in subscriptions]
    must_move = sum(max(0, count - share) for count in had) - min(extra, sum(count > share for count in had))
    after = owners_of(target)
    assert sum(after[partition] != owner for partition, owner in owners.items()) == must_move


@given(subscriptions=mixed, topics=counts)
def test_sticky_is_level_where_members_may_read_different_topics(
    subscriptions: Mapping[str, frozenset[str]], topics: Mapping[str, int]
) -> None:
    target = assign_sticky(subscriptions, topics, {})
    for partitions in target.values():
        for taker in target:
            could_move = any(partition.topic in subscriptions[taker] for partition in partitions)
            assert not could_move or len(partitions) - len(target[taker]) < 2


@given(subscriptions=mixed, topics=counts)
def test_sticky_moves_nothing_when_nothing_has_changed(
    subscriptions: Mapping[str, frozenset[str]], topics: Mapping[str, int]
) -> None:
    owners = owners_of(assign_sticky(subscriptions, topics, {}))
    assert owners_of(assign_sticky(subscriptions, topics, owners)) == owners


def test_range_gives_neighbours_and_splits_equal_topics_alike() -> None:
    both = frozenset({"a", "b"})
    target = assign_range({"m2": both, "m1": both}, {"a": 3, "b": 3}, {})
    assert [str(partition) for partition in target["m1"]] == ["a/0", "a/1", "b/0", "b/1"]
    assert [str(partition) for partition in target["m2"]] == ["a/2", "b/2"]


def test_round_robin_passes_over_members_that_may_not_read_the_topic() -> None:
    target = assign_round_robin({"m1": {"a", "b"}, "m2": {"b"}}, {"a": 2, "b": 3}, {})
    assert [str(partition) for partition in target["m1"]] == ["a/0", "a/1", "b/1"]
    assert [str(partition) for partition in target["m2"]] == ["b/0", "b/2"]
