"""The parts that decide and do no I/O: who is served, what a batch means, how part of a batch is given out."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trunkline.errors import CorruptBatch, InvalidFilter, InvalidSetting, InvalidTopicName
from trunkline.filters import RecordFilter
from trunkline.queues import QueueConfig, QueueSource
from trunkline.queues.arrivals import PLAIN, Orders, arrivals_of
from trunkline.queues.blocks import BatchCache, StoredBatch
from trunkline.queues.config import Definition
from trunkline.queues.consumers import Roster
from trunkline.queues.marks import Mark
from trunkline.records import Record, decode_all, encode, read_header, with_records

CODE = b"0123456789abcdef" * 2


@dataclass(eq=False)
class Member:
    name: str
    prefetch: int = 1000
    priority: int = 0
    unacked: int = 0

    @property
    def free(self) -> int:
        return self.prefetch - self.unacked


def served(roster: Roster[Member], ready: int) -> dict[str, int]:
    """Give out what is ready; how many each has got."""
    while ready and (chosen := roster.choose(ready)) is not None:
        member, limit = chosen
        assert 0 < limit <= member.free
        taken = min(limit, ready)
        member.unacked += taken
        ready -= taken
    return {member.name: member.unacked for member in roster}


def roster(*members: Member, is_single: bool = False) -> Roster[Member]:
    found: Roster[Member] = Roster(is_single=is_single)
    for member in members:
        found.add(member)
    return found


def test_what_is_ready_is_shared_evenly() -> None:
    assert served(roster(Member("a"), Member("b"), Member("c")), 9) == {"a": 3, "b": 3, "c": 3}


def test_a_thousand_priorities_cost_one_look_at_each() -> None:
    looks = 0

    class Looked(Member):
        @property
        def free(self) -> int:
            nonlocal looks
            looks += 1
            return self.prefetch - self.unacked

    members = [Looked(str(priority), prefetch=1, priority=priority) for priority in range(1000)]
    found = roster(*members)
    found.begin()
    assert served(found, 1000) == {str(priority): 1 for priority in range(1000)}
    assert looks < 6000
    members[3].unacked = members[7].unacked = 0
    assert served(found, 1)["7"] == 1, "all had their turn, so the first are looked at again"
    assert members[3].unacked == 0


def test_a_small_prefetch_gets_its_part() -> None:
    assert served(roster(Member("large"), Member("small", 2)), 10) == {"large": 8, "small": 2}


def test_one_record_at_a_time_goes_round() -> None:
    members = [Member("a"), Member("b")]
    found = roster(*members)
    turns = []
    for _ in range(4):
        chosen = found.choose(1)
        assert chosen is not None
        turns.append(chosen[0].name)  # it settles at once
    assert turns == ["a", "b", "a", "b"]


def test_lower_priorities_get_what_is_left() -> None:
    assert served(roster(Member("low"), Member("high", 3, 5)), 5) == {"high": 3, "low": 2}


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2), st.integers(0, 3)), min_size=2, max_size=8),
    st.integers(1, 40),
)
def test_nobody_is_passed_over_who_has_a_better_right(found: list[tuple[int, int, int]], ready: int) -> None:
    members = [Member(str(n), prefetch, priority, unacked) for n, (prefetch, priority, unacked) in enumerate(found)]
    chosen, left = roster(*members), ready
    while left and (choice := chosen.choose(left)) is not None:
        member, limit = choice
        able = [one for one in members if one.free > 0]
        assert member.priority == max(one.priority for one in able)
        assert member.unacked == min(one.unacked for one in able if one.priority == member.priority)
        member.unacked += min(limit, left)
        left -= min(limit, left)
    assert not left or all(one.free <= 0 for one in members)


class Counting(Member):
    looks = 0

    @property
    def free(self) -> int:
        Counting.looks += 1
        return self.prefetch - self.unacked


def test_many_consumers_do_not_cost_a_look_at_all_of_them_each_time() -> None:
    Counting.looks = 0
    given = served(roster(*(Counting(str(n)) for n in range(1000))), 1000)
    assert set(given.values()) == {1}
    assert Counting.looks < 20_000


def test_the_single_active_one_stays_until_it_goes() -> None:
    first, second, third = Member("first"), Member("second", priority=9), Member("third")
    found = roster(first, second, third, is_single=True)
    assert served(found, 5) == {"second": 0, "first": 5, "third": 0}
    found.remove(first)
    assert found.active is second


RECORDS = [Record(n, 5, None, b"v%d" % n) for n in range(6)]


def test_a_plain_batch_makes_one_run() -> None:
    batch = StoredBatch(encode(RECORDS, base_offset=10))
    (arrival,) = arrivals_of(batch)
    assert (arrival.offset, arrival.length, arrival.size_bytes, arrival.orders) == (10, 6, len(batch.data), PLAIN)
    assert [(one.offset, one.length) for one in arrivals_of(batch, 13)] == [(13, 3)]


@pytest.mark.parametrize("compression", [0, 1, 4])
def test_headers_are_found_in_any_batch(compression: int) -> None:
    asked = [
        (),
        (("trunkline.priority", b"7"),),
        (("trunkline.priority", b"7"), ("other", b"")),
        (("trunkline.deliver-at", b"99"), ("trunkline.expires-at", b"100")),
        (("trunkline.spilled", b"3:44:jobs:" + CODE),),
        (("trunkline.priority", b"-1"), ("trunkline.deliver-at", b"soon"), ("trunkline.spilled", b"3:44:jobs")),
    ]
    batch = encode([(1, None, b"x" * 50, headers) for headers in asked], compression=compression)
    found = [(one.offset, one.length, one.orders) for one in arrivals_of(StoredBatch(batch))]
    assert found == [
        (0, 1, PLAIN),
        (1, 2, Orders(7)),
        (3, 1, Orders(0, 99, 100)),
        (4, 1, Orders(0, 0, 0, Mark(3, 44, "jobs", CODE))),
        (5, 1, PLAIN),
    ]


def test_gaps_part_runs_and_control_batches_make_none() -> None:
    spans = encode(RECORDS, base_offset=10)
    whole = StoredBatch(spans)
    some = with_records(
        read_header(spans)._replace(record_count=4), whole.batch(10, 12)[61:] + _records_at(whole, 14, 16)
    )
    assert [(one.offset, one.length) for one in arrivals_of(StoredBatch(some))] == [(10, 2), (14, 2)]
    assert arrivals_of(StoredBatch(encode(RECORDS[:1], is_control=True, is_transactional=True))) == []


def _records_at(batch: StoredBatch, offset: int, end_offset: int) -> bytes:
    return batch.batch(offset, end_offset)[61:]


@settings(deadline=None)
@given(st.integers(1, 80), st.integers(0, 80), st.integers(0, 6), st.sampled_from([0, 1, 4]))
def test_a_part_of_a_batch_has_exactly_its_records(size: int, first: int, length: int, compression: int) -> None:
    records = [(1000 + n, b"k%d" % n, bytes(n), ()) for n in range(size)]
    batch = StoredBatch(encode(records, base_offset=100, compression=compression))
    part = batch.batch(100 + first, 100 + first + length)
    expected = decode_all(batch.data)[first : first + length]
    assert (decode_all(part) if part else []) == expected
    for _ in ("those alone", "with all others"):
        assert batch.records(100 + first, 100 + first + length) == expected


def test_a_few_records_are_not_cut_out_of_a_batch_that_ends_inside_one() -> None:
    data = bytearray(encode([(1000, None, bytes(200), ())] * 20))
    data[61 + 10 * ((len(data) - 61) // 20)] = 0xFE  # the length of one in the middle
    with pytest.raises(CorruptBatch):
        StoredBatch(bytes(data)).records(15, 16)


def test_the_cache_forgets_the_oldest_and_what_it_is_told_to() -> None:
    cache, bases = BatchCache(), count(0, 1)
    large = [StoredBatch(encode([(1, None, bytes(1_500_000), ())], base_offset=next(bases))) for _ in range(4)]
    for batch in large:
        cache.add(7, batch)
    assert [cache.find(7, offset) is not None for offset in range(5)] == [False, False, True, True, False]
    assert cache.find(8, 3) is None
    cache.forget(7)
    assert cache.find(7, 3) is None


def test_definitions_are_stored_and_compared_by_what_was_asked_for() -> None:
    source = QueueSource("a", RecordFilter("x.#", headers={"h": "1"}), {0: 7}, "topic-id")
    config = QueueConfig(sources=(source,), max_priority=9)
    key, value = Definition(3, config, 5).entry("jobs")
    assert (key, Definition.decode(value)) == (b"qjobs", Definition(3, config, 5))
    again = QueueConfig(sources=(QueueSource("a", RecordFilter("x.#", headers={"h": "1"})),), max_priority=9)
    assert config.difference(again) is None
    assert config.difference(QueueConfig(sources=(source,))) == "max_priority"


@pytest.mark.parametrize(
    ("config", "error"),
    [
        (QueueConfig(ttl_ms=-2), InvalidSetting),
        (QueueConfig(sources=(QueueSource("a/b"),)), InvalidTopicName),
        (QueueConfig(sources=(QueueSource("a", RecordFilter("a/#/b", "mqtt")),)), InvalidFilter),
        (QueueConfig(dead_letter_topic="no/topic"), InvalidTopicName),
    ],
)
def test_settings_that_make_no_sense_are_refused(config: QueueConfig, error: type[Exception]) -> None:
    with pytest.raises(error):
        config.check("jobs")
