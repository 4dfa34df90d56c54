"""Records offered before they are committed: each subscriber gets each record once all the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.core.test_live import LiveBench, Subscriber, Watching

from trunkline.live import Delivery
from trunkline.live.tail import MAX_EARLY_RANGES
from trunkline.records import Record
from trunkline.testing.scripted_store import ScriptedStore

if TYPE_CHECKING:
    from tests.core.conftest import PartitionBench


class Eager(Subscriber):
    takes_early = True


@pytest.fixture
def live(bench: PartitionBench) -> LiveBench:
    return LiveBench(bench)


def delivery(live: LiveBench, offset: int, key: bytes = b"a", count: int = 1) -> Delivery:
    return Delivery(Record(offset, 1, key, b"", ()), key.decode(), live.bench.partition, count)


def publish_early(live: LiveBench, key: bytes = b"a", count: int = 1) -> int:
    """Stage records and offer them in one; the first one's offset. They are not committed."""
    for _ in range(count):
        live.bench.stage(b"", key=key)
    offset = live.bench.partition.staged_end_offset - count
    live.tail.offer_early(delivery(live, offset, key, count))
    return offset


def test_who_takes_them_early_gets_them_before_the_commit_and_not_again(live: LiveBench) -> None:
    eager, patient = Eager(), Subscriber()
    for subscriber in (eager, patient):
        live.tail.subscribe(subscriber, "a", 0)

    publish_early(live)
    live.bench.stage(b"", key=b"a")
    publish_early(live)
    assert (eager.got, patient.got) == ([0, 2], [])

    live.bench.commit()
    assert (eager.got, patient.got) == ([0, 2, 1], [0, 1, 2])


def test_who_watches_is_told_when_they_are_committed(live: LiveBench) -> None:
    watcher = Watching()
    live.tail.watch(watcher, "+")
    live.tail.subscribe(Eager(), "a", 0)
    publish_early(live)
    assert watcher.got == []
    live.bench.commit()
    assert watcher.got == [0]


def test_who_comes_between_gets_all_that_is_committed_from_then_on(live: LiveBench) -> None:
    live.tail.subscribe(Eager(), "#", 0)
    publish_early(live)
    late = Eager()
    live.tail.subscribe(late, "a", 0)
    publish_early(live)
    assert late.got == []

    live.bench.commit()
    assert late.got == [0, 1]
    publish_early(live)
    assert late.got == [0, 1, 2]


def test_who_stops_early_skips_what_it_has_taken(live: LiveBench) -> None:
    eager = Eager(window=1)
    live.tail.subscribe(eager, "a", 0)
    live.bench.stage(b"", key=b"a")
    publish_early(live)
    assert eager.got == [1]
    publish_early(live)
    live.bench.commit()
    live.resume(eager)
    live.settle()

    assert eager.got == [1, 0, 2]


def test_who_stops_at_a_commit_skips_what_it_took_early_behind_it(live: LiveBench) -> None:
    eager = Eager(window=2)
    live.tail.subscribe(eager, "a", 0)
    live.bench.stage(b"", key=b"a")
    publish_early(live)
    live.bench.commit()
    live.resume(eager)
    live.settle()
    live.publish(b"a")

    assert eager.got == [1, 0, 2]


def test_when_too_much_waits_records_are_offered_at_their_commit(live: LiveBench) -> None:
    eager = Eager()
    live.tail.subscribe(eager, "a", 0)
    for _ in range(MAX_EARLY_RANGES):
        publish_early(live)
        live.bench.stage(b"", key=b"b")
    live.bench.stage(b"", key=b"a")

    assert not live.tail.offer_early(delivery(live, live.bench.partition.staged_end_offset - 1))
    taken = [*eager.got]
    live.bench.commit()
    assert eager.got == [*taken, 2 * MAX_EARLY_RANGES]


def test_unlogged_records_go_to_whoever_is_live(live: LiveBench) -> None:
    eager, full = Eager(), Subscriber(window=1)
    for subscriber in (eager, full):
        live.tail.subscribe(subscriber, "a", 0)
    for _ in range(2):
        live.tail.offer_unlogged(delivery(live, -1))
    assert (eager.got, full.got) == ([-1, -1], [-1])

    live.resume(full)
    live.settle()
    live.publish(b"a")
    assert (eager.got, full.got) == ([-1, -1, 0], [-1, 0])


def test_when_the_partition_ends_nothing_is_left(live: LiveBench) -> None:
    live.tail.subscribe(Eager(), "a", 0)
    publish_early(live)
    live.tail.partition_closed(live.bench.partition, None)
    publish_early(live)
    assert live.tail.statistics().subscribers == 0


KEYS = [b"a", b"b"]
STEPS = st.one_of(
    st.tuples(st.just("early"), st.tuples(st.sampled_from(KEYS), st.integers(1, 3))),
    st.tuples(st.just("stage"), st.sampled_from(KEYS)),
    st.tuples(st.just("commit"), st.none()),
    st.tuples(st.just("round"), st.none()),
    st.tuples(st.just("resume"), st.tuples(st.integers(0, 3), st.integers(1, 4))),
    st.tuples(st.just("subscribe"), st.tuples(st.booleans(), st.integers(1, 4))),
)


@given(steps=st.lists(STEPS, max_size=40), reads_wait=st.booleans())
@settings(max_examples=120, deadline=None)
def test_nobody_misses_or_repeats_anything_whatever_happens(
    make_bench_on: Callable[[ScriptedStore], PartitionBench], steps: list[tuple[str, Any]], reads_wait: bool
) -> None:
    live = LiveBench(make_bench_on(ScriptedStore(reads_wait=reads_wait)))
    everybody: list[tuple[Subscriber, int]] = []
    for step, detail in [("subscribe", (True, 3)), *steps]:
        if step == "early":
            publish_early(live, *detail)
        elif step == "stage":
            live.bench.stage(b"", key=detail)
        elif step == "commit":
            live.bench.commit()
        elif step == "round":
            live.settle()
        elif step == "resume" and detail[0] < len(everybody):
            live.resume(everybody[detail[0]][0], detail[1])
        elif step == "subscribe" and len(everybody) < 4:
            subscriber = (Eager if detail[0] else Subscriber)(window=detail[1])
            live.tail.subscribe(subscriber, "a", 0)
            everybody.append((subscriber, live.bench.partition.high_watermark))
    live.bench.commit()
    for subscriber, _ in everybody:
        live.resume(subscriber)
    live.settle()
    live.publish(b"a")
    live.settle()

    members = live.tail._members.values()
    assert live.tail._online == sum(member.cursor is None for member in members) == len(everybody)
    for subscriber, start in everybody:
        wanted = [record.offset for record in live.bench.stored if record.offset >= start and record.key == b"a"]
        assert sorted(subscriber.got) == wanted
        assert subscriber.takes_early or subscriber.got == wanted
