"""Records go to the partitions that Kafka's own clients would choose."""

from __future__ import annotations

import itertools
import warnings
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.partitioner import StickyPartitioner, murmur2, partition_for_key

with warnings.catch_warnings():  # kafka-python uses a deprecated call of importlib
    warnings.simplefilter("ignore", DeprecationWarning)
    from kafka.partitioner import murmur2 as kafka_murmur2


@given(st.binary(max_size=64))
def test_murmur2_is_that_of_kafka_python(key: bytes) -> None:
    assert murmur2(key) == kafka_murmur2(key)


@pytest.mark.parametrize(
    ("key", "signed"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_murmur2_gives_the_values_in_kafkas_own_test(key: bytes, signed: int) -> None:
    """UtilsTest.testMurmur2 of the Java client."""
    assert murmur2(key) == signed & 0xFFFFFFFF


@given(st.binary(max_size=300), st.integers(1, 1000))
def test_a_key_has_the_partition_of_kafkas_default_partitioner(key: bytes, partitions: int) -> None:
    assert partition_for_key(key, partitions) == (kafka_murmur2(key) & 0x7FFFFFFF) % partitions


def test_a_sticky_partition_stays_until_the_batch_is_full() -> None:
    sticky = StickyPartitioner(Random(1))

    assert len({sticky.partition(8) for _ in range(100)}) == 1


@pytest.mark.parametrize("partitions", [2, 3, 8])
def test_a_new_batch_goes_to_another_partition(partitions: int) -> None:
    sticky = StickyPartitioner(Random(1))

    chosen = [sticky.partition(partitions)] + [sticky.on_new_batch(partitions) for _ in range(200)]

    assert all(before != after for before, after in itertools.pairwise(chosen))
    assert set(chosen) == set(range(partitions))


def test_with_one_partition_a_new_batch_stays_there() -> None:
    sticky = StickyPartitioner(Random(1))

    assert [sticky.partition(1), sticky.on_new_batch(1), sticky.on_new_batch(1), sticky.partition(1)] == [0, 0, 0, 0]


def test_a_new_batch_may_be_announced_before_the_first_record() -> None:
    assert 0 <= StickyPartitioner(Random(1)).on_new_batch(4) < 4


def test_partitions_that_are_added_are_chosen_too() -> None:
    sticky = StickyPartitioner(Random(1))
    sticky.partition(1)

    assert 3 in {sticky.on_new_batch(4) for _ in range(100)}


def test_the_choice_follows_from_the_random_it_was_given() -> None:
    one, other = StickyPartitioner(Random(7)), StickyPartitioner(Random(7))

    assert [one.on_new_batch(16) for _ in range(50)] == [other.on_new_batch(16) for _ in range(50)]
