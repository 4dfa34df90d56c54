"""Many subscribers that are behind in the same part of the log, as after a restart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.core.test_live import LiveBench, Subscriber

from trunkline.filters import matches
from trunkline.live.chunks import MAX_KEPT_BYTES, Chunk, Chunks
from trunkline.records import Record, assign, encode
from trunkline.sparse import literal_beginning
from trunkline.testing.batches import unreadable_batch
from trunkline.testing.scripted_store import ScriptedStore

if TYPE_CHECKING:
    from tests.core.conftest import PartitionBench

DEVICES = 40


@pytest.fixture
def live(bench: PartitionBench) -> LiveBench:
    """With three records of each device."""
    live = LiveBench(bench)
    live.publish(*[b"dev/%d/on" % device for _ in range(3) for device in range(DEVICES)])
    return live


def catch_up(live: LiveBench, devices: range) -> list[Subscriber]:
    subscribers = [Subscriber() for _ in devices]
    for device, subscriber in zip(devices, subscribers, strict=True):
        live.tail.subscribe(subscriber, f"dev/{device}/#", None, start=0)
    return subscribers


def test_what_many_are_behind_in_is_read_once_for_all(live: LiveBench, store: ScriptedStore) -> None:
    subscribers = catch_up(live, range(DEVICES))
    live.settle()
    assert [subscriber.got for subscriber in subscribers] == [[n, n + 40, n + 80] for n in range(DEVICES)]
    assert store.count("read_nowait") == 1
    assert live.tail.statistics().behind == 0


@pytest.mark.parametrize("store", [ScriptedStore(reads_wait=True)])
def test_so_is_what_must_be_waited_for(store: ScriptedStore, live: LiveBench) -> None:
    subscribers = catch_up(live, range(DEVICES))
    live.settle()
    assert [subscriber.got for subscriber in subscribers] == [[n, n + 40, n + 80] for n in range(DEVICES)]
    assert store.count("read") == 1


def test_those_who_come_later_read_it_anew(live: LiveBench, store: ScriptedStore) -> None:
    """Nothing is kept for nobody."""
    catch_up(live, range(2))
    live.settle()
    (later,) = catch_up(live, range(1))
    live.settle()
    assert later.got == [0, 40, 80]
    assert store.count("read_nowait") == 2


def test_a_round_ends_although_many_are_behind(live: LiveBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trunkline.live.behind.RECORDS_A_ROUND", 10)
    subscribers = catch_up(live, range(DEVICES))
    live.bench.round()
    live.bench.round()
    some = sum(bool(subscriber.got) for subscriber in subscribers)
    live.settle()
    assert some < DEVICES / 2
    assert all(len(subscriber.got) == 3 for subscriber in subscribers)


def test_one_whose_place_is_in_the_middle_of_a_chunk_gets_nothing_older(live: LiveBench) -> None:
    first, second = Subscriber(), Subscriber()
    live.tail.subscribe(first, "dev/7/#", None, start=0)
    live.tail.subscribe(second, "dev/+/on", None, start=87)
    live.settle()
    assert first.got == [7, 47, 87]
    assert second.got == [*range(87, 120)]


class TestFarBehind:
    """What many of them want is looked up by key together."""

    @pytest.fixture(autouse=True)
    def _near(self, monkeypatch: pytest.MonkeyPatch, live: LiveBench) -> None:
        monkeypatch.setattr("trunkline.live.behind.FAR_BEHIND", 10)
        for number in range(30 * DEVICES):
            live.publish(b"noise/%d" % (number % 7))

    def test_one_search_serves_all(self, live: LiveBench, store: ScriptedStore) -> None:
        subscribers = catch_up(live, range(DEVICES))
        live.settle()
        assert [subscriber.got for subscriber in subscribers] == [[n, n + 40, n + 80] for n in range(DEVICES)]
        assert store.count("find_keys") == 1

    def test_a_search_is_for_so_many_filters(
        self, live: LiveBench, store: ScriptedStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("trunkline.live.behind.FILTERS_TOGETHER", 10)
        subscribers = catch_up(live, range(DEVICES))
        live.settle()
        assert all(len(subscriber.got) == 3 for subscriber in subscribers)
        assert store.count("find_keys") == DEVICES / 10

    def test_who_is_elsewhere_has_one_of_its_own(
        self, live: LiveBench, store: ScriptedStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("trunkline.live.behind.NEAR", 50)
        early, late = catch_up(live, range(7, 9))
        live.tail.remove(late)
        late = Subscriber()
        live.tail.subscribe(late, "dev/8/#", None, start=60)
        live.settle()
        assert (early.got, late.got) == ([7, 47, 87], [88])
        assert store.count("find_keys") == 2

    def test_one_that_leaves_while_it_is_searched_for_gets_nothing(self, live: LiveBench) -> None:
        leaving, staying = catch_up(live, range(2))
        live.bench.round()
        assert len(live.bench.spawned) == 1
        live.tail.remove(leaving)
        live.settle()
        assert (leaving.got, staying.got) == ([], [1, 41, 81])


# -- chunks ----------------------------------------------------------------------------------------

PATTERNS = ["#", "dev/7", "dev/+/on", "dev/7/#", "+/7", "lamp", "dev/#"]
KEYS = [None, b"dev/7", b"dev/7/on", b"dev/70/on", b"dev", b"lamp", b"lamp/7", b"\xff"]


@given(st.lists(st.sampled_from(KEYS)), st.sets(st.sampled_from(PATTERNS)), st.integers(10, 30))
@settings(max_examples=100)
def test_a_chunk_gives_all_that_filters_want_in_order_from_an_offset_on(
    keys: list[bytes | None], patterns: set[str], offset: int
) -> None:
    records = [Record(10 + index, 0, key, b"") for index, key in enumerate(keys)]
    chunk = Chunk(10, 10 + len(keys), records)

    found = chunk.last_first([literal_beginning(pattern, "mqtt") for pattern in patterns], offset)

    assert found == sorted(found, key=lambda record: -record.offset)
    assert all(record.offset >= offset for record in found)
    wanted = [
        record
        for record in records
        if record.offset >= offset
        and record.key not in (None, b"\xff")
        and any(matches(pattern, (record.key or b"").decode()) for pattern in patterns)
    ]
    assert [record for record in wanted if record not in found] == []


def test_a_chunk_of_batches_that_cannot_be_read_together_is_the_first_alone() -> None:
    good, bad = encode([(0, b"a", None, ()), (0, b"b", None, ())]), unreadable_batch()
    run = assign(good, 0, 0) + assign(bad, 2, 0) + assign(good, 3, 0)
    bad_at = len(good)

    first, second = Chunk.decode("t/0", 1, run), Chunk.decode("t/0", 2, run[bad_at:])

    assert (first.start, first.end, [record.offset for record in first.records]) == (1, 2, [1])
    assert (second.start, second.end, second.records) == (2, 3, [])


def test_a_chunk_knows_what_is_missing_from_what_it_does_not_cover() -> None:
    chunk = Chunk.decode("t/0", 0, encode([(0, b"a", None, ()), (0, b"b", None, ())]))
    found = [record and record.key for record in map(chunk.at, (0, 1, 2))]
    assert found == [b"a", b"b", None]
    assert [chunk.covers(offset) for offset in (0, 1, 2)] == [True, True, False]

    nothing = Chunk.decode("t/0", 7, b"")
    assert (nothing.at(7), nothing.covers(7), nothing.covers(8)) == (None, True, False)


def test_a_chunk_passes_over_keys_that_begin_otherwise() -> None:
    chunk = Chunk(0, 3, [Record(n, 0, key, b"") for n, key in enumerate((b"a/1", b"b/1", b"a/2"))])
    assert [record.offset for record in chunk.last_first([b"a"], 0)] == [2, 0]
    assert chunk.last_first([b"c"], 0) == []


def chunk(start: int, end: int, size_bytes: int = 0) -> Chunk:
    return Chunk(start, end, [Record(start, 0, None, bytes(size_bytes))])


def test_chunks_are_found_by_any_offset_in_them() -> None:
    chunks: Chunks[Chunk] = Chunks()
    for start, end in ((20, 30), (0, 10), (30, 40)):
        chunks.put(chunk(start, end))
    found = [chunks.find(offset) for offset in (0, 9, 10, 19, 20, 30, 39, 40)]
    assert [each and each.start for each in found] == [0, 0, None, None, 20, 30, 30, None]


def test_the_oldest_chunks_make_room_and_the_newest_stays_however_large() -> None:
    chunks: Chunks[Chunk] = Chunks()
    for start in range(5):
        chunks.put(chunk(start, start + 1, MAX_KEPT_BYTES // 3))
    assert [start for start in range(5) if chunks.find(start)] == [3, 4]
    chunks.put(chunk(4, 5))
    chunks.put(chunk(9, 10, 2 * MAX_KEPT_BYTES))
    assert [start for start in range(10) if chunks.find(start)] == [9]
