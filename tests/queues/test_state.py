"""The state of a queue: examples. The rules are checked in test_state_model.py, against a model."""

from __future__ import annotations

import gc
import random
import tracemalloc
from collections.abc import Iterator, Sequence

import pytest

from trunkline.errors import CorruptLog
from trunkline.queues.index import END, Lease
from trunkline.queues.state import QueueState

ANN, BOB = 1, 2
NOW = 1_000
ALL = [(0, END)]


def filled(entries: int = 10, *, run: int = 1) -> QueueState:
    """A queue with so many ready entries of 10 bytes, from source 0."""
    state = QueueState()
    for offset in range(0, entries, run):
        state.append(0, offset, run, run * 10)
    return state


def sequences(leases: Sequence[Lease]) -> list[int]:
    return [number for lease in leases for number in range(lease.sequence, lease.sequence + lease.count)]


def acquired(state: QueueState, limit: int = 100, holder: int = ANN, now_ms: int = NOW) -> list[int]:
    return sequences(state.acquire(limit, holder, now_ms))


def deltas(state: QueueState, max_bytes: int = 1 << 20) -> list[bytes]:
    state.take_sealed()
    return list(iter(lambda: state.take_delta(max_bytes), None))


def recovered(*parts: bytes, snapshot: Sequence[bytes] = ()) -> QueueState:
    state = QueueState.restore(snapshot) if snapshot else QueueState()
    for part in parts:
        state.apply_delta(part)
    state.recovered()
    return state


# Order


def test_entries_are_given_in_the_order_they_came() -> None:
    state = filled(5)
    assert acquired(state, 3) == [0, 1, 2]
    assert acquired(state, 3) == [3, 4]
    assert acquired(state, 3) == []


def test_one_lease_is_as_long_as_its_run() -> None:
    (lease, rest) = filled(20, run=10).acquire(15, ANN, NOW)
    assert (lease.sequence, lease.count, lease.offset, lease.size_bytes) == (0, 10, 0, 100)
    assert (rest.sequence, rest.count, rest.offset, rest.size_bytes) == (10, 5, 10, 50)


def test_what_is_released_returns_to_its_place() -> None:
    state = filled(6)
    state.acquire(4, ANN, NOW)
    assert state.release([(1, 2), (3, 4)], ANN) == 2
    assert acquired(state, holder=BOB) == [1, 3, 4, 5]


def test_a_higher_priority_goes_first_and_keeps_its_own_order() -> None:
    state = QueueState()
    for offset, priority in enumerate([0, 255, 4, 255, 0]):
        state.append(0, offset, 1, 10, priority=priority)
    assert acquired(state) == [1, 3, 2, 0, 4]


def test_what_is_put_back_waits_for_a_higher_priority() -> None:
    state = QueueState()
    state.append(0, 0, 2, 20)
    state.acquire(1, ANN, NOW)
    state.append(0, 2, 1, 10, priority=1)
    state.release(ALL, ANN)
    assert acquired(state) == [2, 0, 1]


def test_no_more_bytes_than_asked_for_but_always_one_entry() -> None:
    state = filled(10, run=10)
    assert len(sequences(state.acquire(10, ANN, NOW, max_bytes=35))) == 3
    assert len(sequences(state.acquire(10, ANN, NOW, max_bytes=3))) == 1


# Counting


def test_counts_are_of_now() -> None:
    state = filled(10, run=10)
    state.append(0, 10, 2, 30, due_ms=NOW + 5, now_ms=NOW)
    state.acquire(4, ANN, NOW)
    state.settle([(0, 1)], ANN)
    assert (state.ready, state.unacked, state.delayed, state.live_bytes) == (6, 3, 2, 120)
    assert (state.held_by(ANN), state.held_by(BOB)) == (3, 0)


def test_bytes_of_a_run_are_shared_so_that_the_sum_is_right() -> None:
    state = QueueState()
    state.append(0, 0, 3, 8)
    left = []
    for sequence in (1, 0, 2):
        state.acquire(3, ANN, NOW)
        state.settle([(sequence, sequence + 1)], ANN)
        left.append(state.live_bytes)
    assert left == [5, 2, 0]


def test_a_release_counts_as_a_delivery_unless_told_otherwise() -> None:
    state = filled(2)
    state.acquire(2, ANN, NOW)
    state.release([(0, 1)], ANN)
    state.release([(1, 2)], ANN, count=False)
    assert [lease.deliveries for lease in state.acquire(2, ANN, NOW)] == [1, 0]


# Lies


@pytest.mark.parametrize(
    "ranges",
    [[(0, 3)], [(3, 0)], [(-9, 0)], [(7, 1 << 80)], [(2, 2)], []],
    ids=["not its own", "reversed", "negative", "huge", "empty", "nothing"],
)
def test_settling_what_one_does_not_have_has_no_effect(ranges: list[tuple[int, int]]) -> None:
    state = filled(10)
    state.acquire(3, ANN, NOW)
    state.acquire(2, BOB, NOW)
    assert state.settle(ranges, BOB) == state.release(ranges, BOB) == 0
    assert (state.ready, state.unacked) == (5, 5)


def test_settling_twice_has_effect_once() -> None:
    state = filled(3)
    state.acquire(3, ANN, NOW)
    assert state.settle([(0, 2), (1, 2), (0, 1)], ANN) == 2
    assert state.settle([(0, 2)], ANN) == 0
    assert state.release([(0, 2)], ANN) == 0


def test_a_range_over_everything_settles_what_one_has() -> None:
    state = filled(6)
    state.acquire(2, ANN, NOW)
    state.acquire(2, BOB, NOW)
    state.acquire(2, ANN, NOW)
    assert state.settle([(-(1 << 70), 1 << 70)], ANN) == 4
    assert state.held_by(BOB) == 2


# Time


def test_a_delayed_entry_becomes_ready_at_its_place() -> None:
    state = QueueState()
    state.append(0, 0, 1, 10, due_ms=NOW + 10, now_ms=NOW)
    state.append(0, 1, 1, 10)
    assert state.next_timer_ms == NOW + 10
    assert state.due(NOW + 9) == 0
    assert state.due(NOW + 10) == 1
    assert acquired(state) == [0, 1]


def test_a_release_can_be_delayed() -> None:
    state = filled(2)
    state.acquire(1, ANN, NOW)
    state.release([(0, 1)], ANN, due_ms=NOW + 10)
    assert acquired(state) == [1]
    assert state.due(NOW + 10) == 1
    assert acquired(state) == [0]


def test_an_entry_expires_only_when_it_is_the_next() -> None:
    state = QueueState()
    state.append(0, 0, 1, 10)
    state.append(0, 1, 1, 10, expires_ms=NOW)
    assert state.take_expired(NOW, BOB) == []
    assert acquired(state) == [0]  # and not the expired one
    assert state.next_timer_ms == NOW
    assert sequences(state.take_expired(NOW, BOB)) == [1]


def test_a_lease_ends_at_its_deadline() -> None:
    state = filled(3)
    state.acquire(2, ANN, NOW, deadline_ms=NOW + 10)
    state.acquire(1, BOB, NOW, deadline_ms=NOW + 20)
    assert state.extend([(0, 1)], ANN, NOW + 30) == 1
    assert state.expire_leases(NOW + 9) == {}
    assert state.expire_leases(NOW + 25) == {ANN: 1, BOB: 1}
    assert state.next_timer_ms == NOW + 30
    assert [(lease.sequence, lease.deliveries) for lease in state.acquire(9, BOB, NOW)] == [(1, 1), (2, 1)]


# What goes over all entries


def test_a_purge_leaves_what_is_leased() -> None:
    state = filled(10)
    state.append(0, 10, 1, 10, due_ms=NOW + 10, now_ms=NOW)
    state.acquire(3, ANN, NOW)
    assert state.purge() == 8
    assert (state.ready, state.unacked, state.delayed, state.live_bytes) == (0, 3, 0, 30)
    state.release(ALL, ANN)
    assert acquired(state) == [0, 1, 2]


def test_the_lowest_live_offset_holds_back_retention() -> None:
    state = filled(10)
    state.append(7, 500, 1, 10)
    state.acquire(5, ANN, NOW)
    state.settle([(0, 2), (3, 5)], ANN)
    assert (state.lowest_live(0), state.lowest_live(7), state.lowest_live(8)) == (2, 500, None)
    state.settle([(2, 3)], ANN)
    assert state.lowest_live(0) == 5


def test_a_moved_entry_keeps_its_place_and_its_bytes() -> None:
    state = filled(10, run=10)
    state.acquire(2, ANN, NOW)
    entries, _ = state.live_below(0, 4, 100)
    assert sorted((entry.sequence, entry.count) for entry in entries) == [(0, 2), (2, 2)]
    state.settle([(0, 1)], ANN)
    assert [state.move_entry(entry, 9, 100 + entry.sequence) for entry in entries] == [1, 2]
    state.release(ALL, ANN)
    found = [(lease.sequence, lease.source, lease.offset) for lease in state.acquire(4, ANN, NOW)]
    assert found == [(1, 9, 101), (2, 9, 102), (4, 0, 4)]
    assert state.live_bytes == 90


def test_dropped_records_are_no_longer_given_out() -> None:
    state = filled(10, run=10)
    state.append(1, 0, 2, 20)
    state.acquire(1, ANN, NOW)
    assert state.drop_below(0, 4) == (3, None)
    assert state.drop_below(1, END) == (2, None)
    assert acquired(state) == [4, 5, 6, 7, 8, 9]
    assert state.held_by(ANN) == 7


def test_peeking_shows_all_that_is_live_and_changes_nothing() -> None:
    state = filled(4)
    state.append(0, 4, 1, 10, due_ms=NOW + 10, now_ms=NOW)
    state.acquire(2, ANN, NOW)
    state.settle([(0, 1)], ANN)
    found = [(one.sequence, one.holder, one.due_ms) for one in state.peek(10)[0]]
    assert found == [(1, ANN, 0), (2, 0, 0), (3, 0, 0), (4, 0, NOW + 10)]
    assert sequences(state.peek(1, 2)[0]) == [3]
    assert acquired(state) == [2, 3]


# What survives


def test_appending_and_acquiring_need_no_write() -> None:
    state = filled(10)
    state.acquire(5, ANN, NOW)
    assert not state.has_changes
    state.settle([(0, 1)], ANN)
    assert state.has_changes


def test_what_was_leased_at_a_crash_is_ready_again_at_its_place() -> None:
    state = filled(6)
    state.acquire(4, ANN, NOW)
    state.settle([(1, 2)], ANN)
    state.release([(2, 3)], ANN, count=False)
    again = recovered(*deltas(state))
    found = [(lease.sequence, lease.deliveries) for lease in again.acquire(9, BOB, NOW)]
    assert found == [(0, 1), (2, 0), (3, 1), (4, 0), (5, 0)]


def test_a_snapshot_is_worth_all_deltas_before_it() -> None:
    state = filled(100, run=10)
    state.acquire(50, ANN, NOW)
    state.settle([(3, 40)], ANN)
    old = deltas(state)
    snapshot = state.snapshot()
    state.settle([(0, 1)], ANN)
    new = deltas(state)
    assert acquired(recovered(*old, *new, *new, snapshot=snapshot)) == acquired(recovered(*old, *new))


def test_a_delta_of_which_a_part_is_missing_has_no_effect() -> None:
    state = filled(40)
    state.acquire(40, ANN, NOW)
    first = deltas(state)
    state.settle([(number, number + 1) for number in range(0, 40, 2)], ANN)
    parts = deltas(state, max_bytes=24)
    assert len(parts) > 3
    assert recovered(*first, *parts[:-1]).ready == 40
    assert recovered(*first, *parts[1:]).ready == 40
    assert recovered(*first, *parts).ready == 20


def test_after_a_crash_sources_are_looked_at_from_where_the_last_delta_ends() -> None:
    state = filled(5)
    state.routed(3, 77)
    written = deltas(state)
    state.append(0, 5, 5, 50)
    assert recovered(*written).positions == {0: 5, 3: 77}


def test_what_was_delayed_and_purged_stays_away_after_a_crash() -> None:
    state = QueueState()
    state.append(0, 0, 1, 10, due_ms=NOW + 10, now_ms=NOW)
    snapshot = state.snapshot()
    state.purge()
    again = recovered(*deltas(state), snapshot=snapshot)
    assert (again.ready, again.delayed, again.next_timer_ms) == (0, 0, None)


def test_a_delta_may_tell_runs_that_a_snapshot_had() -> None:
    state = filled(3)
    snapshot = state.snapshot()
    state.append(0, 3, 1, 10)
    state.acquire(1, ANN, NOW)
    state.settle([(0, 1)], ANN)
    assert acquired(recovered(*deltas(state), snapshot=snapshot)) == [1, 2, 3]


def test_an_empty_queue_is_stored_in_a_few_bytes() -> None:
    state = filled(1000)
    state.acquire(1000, ANN, NOW)
    state.settle([(0, 1000)], ANN)
    assert sum(map(len, deltas(state))) < 30


def test_a_snapshot_takes_what_the_holes_take() -> None:
    state = filled(1_000_000, run=10_000)
    state.acquire(1_000_000, ANN, NOW)
    state.settle([(number, number + 9_999) for number in range(0, 1_000_000, 10_000)], ANN)
    deltas(state)
    assert sum(map(len, state.snapshot())) < 3000


def test_a_large_snapshot_comes_in_parts_and_is_whole_or_refused() -> None:
    chance = random.Random(1)
    state = QueueState()
    state.append(0, 0, 1_000_000, 10_000_000)
    state.acquire(1_000_000, ANN, NOW)
    settled = sorted(chance.sample(range(1_000_000), 10_000))
    state.settle([(number, number + 1) for number in settled], ANN)
    snapshot = state.snapshot(max_bytes=4096)
    assert len(snapshot) > 1
    assert max(map(len, snapshot)) <= 4096
    again = recovered(snapshot=snapshot)
    assert (again.ready, again.live_bytes) == (state.unacked, state.live_bytes)
    with pytest.raises(CorruptLog, match="not complete"):
        QueueState.restore(snapshot[:-1])


# Backlogs


class Store:
    """Keeps sealed chunks, as a driver would."""

    def __init__(self, state: QueueState) -> None:
        self.state = state
        self.chunks: dict[int, bytes] = {}

    def write(self) -> None:
        for number, data in self.state.take_sealed():
            assert len(data) <= 64 * 1024
            self.chunks[number] = data
            self.state.chunk_written(number, number)
        while self.state.take_delta() is not None:
            pass
        for number in self.state.chunks_to_forget():
            del self.chunks[number]

    def acquire(self, limit: int) -> list[Lease]:
        if (number := self.state.missing_chunk) is not None:
            self.state.load_chunk(number, self.chunks[number])
        return self.state.acquire(limit, ANN, NOW)


@pytest.fixture
def traced() -> Iterator[None]:
    gc.collect()
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.mark.usefixtures("traced")
def test_a_hundred_million_entries_cost_their_head_and_their_tail() -> None:
    state = QueueState()
    store = Store(state)
    before, _ = tracemalloc.get_traced_memory()
    written = 0
    for offset in range(0, 100_000_000, 10_000):
        state.append(0, offset, 10_000, 1_000_000)
    store.write()
    for number in range(16_384):  # and some small ones, of another source: two more chunks at least
        state.append(1, number * 3, 1, 100)
        if number % 1000 == 0:
            store.write()
            written = sum(map(len, store.chunks.values()))
    taken, _ = tracemalloc.get_traced_memory()
    assert state.ready == 100_016_384
    assert taken - before - written < 1_500_000


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("entries", [40_000, pytest.param(120_000, marks=pytest.mark.slow)])
def test_a_backlog_of_single_entries_is_read_back_chunk_by_chunk(entries: int) -> None:
    state = QueueState()
    store = Store(state)
    before, _ = tracemalloc.get_traced_memory()
    for number in range(entries):
        state.append(number % 3, number * 7, 1, 100 + number % 50)
        if number % 2000 == 0:
            store.write()
    written = sum(map(len, store.chunks.values()))
    taken, _ = tracemalloc.get_traced_memory()
    assert taken - before - written < 1_000_000
    tracemalloc.reset_peak()
    got = 0
    while state.ready:
        leases = store.acquire(1000)
        assert sequences(leases) == list(range(got, got + len(leases)))
        assert [lease.offset for lease in leases] == [number * 7 for number in range(got, got + len(leases))]
        got += len(leases)
        state.settle([(got - len(leases), got)], ANN)
        store.write()
    _, peak = tracemalloc.get_traced_memory()
    assert got == entries
    assert peak - before - written < 2_000_000
    assert store.chunks == {}


def test_a_queue_that_keeps_up_writes_no_index() -> None:
    state = QueueState()
    store = Store(state)
    stored = 0
    for number in range(20_000):
        state.append(0, number * 2, 1, 10)
        state.acquire(10, ANN, NOW)
        state.settle([(number, number + 1)], ANN)
        if number % 100 == 0:
            stored += len(state.take_sealed())
            store.write()
    assert stored == 0


def test_a_chunk_with_one_entry_left_is_kept_until_it_is_settled() -> None:
    state = QueueState()
    store = Store(state)
    for number in range(10_000):
        state.append(0, number * 2, 1, 10)
    store.write()
    while state.ready:
        store.acquire(1000)
    state.settle([(0, 17), (18, 10_000)], ANN)
    store.write()
    assert len(store.chunks) == 1
    state.settle([(17, 18)], ANN)
    store.write()
    assert store.chunks == {}


def test_chunks_of_more_sources_than_are_listed_still_know_their_lowest_offset() -> None:
    state = QueueState()
    store = Store(state)
    for number in range(10_000):
        state.append(number % 1000, 5 + number, 1, 10)
    store.write()
    assert (state.lowest_live(0), state.lowest_live(999)) == (5, 1004)
    dropped, missing = state.drop_below(1, 5_000)
    while missing is not None:
        state.load_chunk(missing, store.chunks[missing])
        more, missing = state.drop_below(1, 5_000)
        dropped += more
    assert dropped == 5


@pytest.mark.usefixtures("traced")
def test_an_idle_queue_takes_little() -> None:
    before, _ = tracemalloc.get_traced_memory()
    states = [QueueState() for _ in range(1000)]
    for number, state in enumerate(states):
        state.append(number, 10**9, 5, 500)
        state.acquire(5, ANN, NOW)
        state.settle([(0, 5)], ANN)
        state.take_delta()
    taken, _ = tracemalloc.get_traced_memory()
    assert (taken - before) / len(states) < 700
