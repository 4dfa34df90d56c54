"""Transactions in one partition: what readers, followers and compaction see of them, and what survives."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from trunkline.errors import (
    CorruptLog,
    InvalidBatch,
    InvalidTransactionState,
    OffsetOutOfRange,
    StoreFull,
    TrunklineError,
)
from trunkline.partition import Partition
from trunkline.producers import ProducerTable
from trunkline.records import Record, decode_all, encode, iter_headers
from trunkline.records.markers import is_commit_marker
from trunkline.saved_state import PartitionState, decode_state, encode_state
from trunkline.transactions import held_back
from trunkline.transactions.aborted import AbortedTransaction, AbortedTransactions, hide_aborted
from trunkline.transactions.in_log import LogTransactions

if TYPE_CHECKING:
    from tests.core.conftest import PartitionBench


class Producer:
    """A transactional producer that keeps its sequence."""

    def __init__(self, bench: PartitionBench, producer_id: int, epoch: int = 0) -> None:
        self.bench = bench
        self.producer_id = producer_id
        self.epoch = epoch
        self.sequence = 0

    def write(self, *values: bytes, is_transactional: bool = True) -> None:
        batch = encode(
            [(1, None, value, ()) for value in values],
            producer_id=self.producer_id,
            producer_epoch=self.epoch,
            base_sequence=self.sequence,
            is_transactional=is_transactional,
        )
        self.sequence += len(values)
        self.bench.partition.stage_batch(batch, self.bench.receipts, values, in_transaction=is_transactional)

    def end(self, *, is_commit: bool) -> None:
        self.bench.partition.stage_marker(
            self.producer_id, self.epoch, is_commit=is_commit, receiver=self.bench.receipts, token="marker"
        )

    def commit(self) -> None:
        self.end(is_commit=True)

    def abort(self) -> None:
        self.end(is_commit=False)


class Tail:
    """A follower that checks that nothing is left out or told twice."""

    def __init__(self, partition: Partition, *, early: bool = False) -> None:
        self.records: list[Record] = []
        self.next_offset = partition.acknowledged_offset if early else partition.high_watermark
        self.calls = 0
        partition.add_listener(self, early=early)

    def records_committed(self, partition: Partition, base_offset: int, next_offset: int, batches: list[bytes]) -> None:
        assert base_offset == self.next_offset < next_offset
        headers = [header for batch in batches for _, header in iter_headers(batch)]
        assert [header.base_offset for header in headers] == [base_offset, *(one.next_offset for one in headers[:-1])]
        assert headers[-1].next_offset == next_offset
        self.next_offset = next_offset
        self.records += decode_all(b"".join(batches))
        self.calls += 1

    def partition_closed(self, partition: Partition, error: TrunklineError | None) -> None:
        """Nothing more comes."""

    @property
    def values(self) -> list[bytes | None]:
        return [record.value for record in self.records]


def readable(partition: Partition) -> list[bytes | None]:
    """What a reader finds from the log start on."""
    data = partition.read_nowait(partition.log_start_offset, 1 << 30)
    assert data is not None
    return [record.value for record in decode_all(data)]


# -- readers and followers -----------------------------------------------------------------------------


def test_nobody_sees_a_record_of_an_open_transaction_or_one_behind_it(bench: PartitionBench) -> None:
    tail, early = Tail(bench.partition), Tail(bench.partition, early=True)
    bench.stage(b"before")
    Producer(bench, 1).write(b"in it")
    bench.stage(b"behind")
    bench.commit()
    assert bench.partition.high_watermark == bench.partition.last_stable_offset == 1
    assert bench.partition.acknowledged_offset == 3
    assert tail.values == readable(bench.partition) == [b"before"]
    assert early.values == [b"before", b"in it", b"behind"]
    assert len(bench.receipts.done) == 3, "producers are answered as ever"
    assert bench.partition.is_held_back


@pytest.mark.parametrize("is_commit", [True, False])
def test_all_see_what_is_decided_once_the_marker_is_acknowledged(bench: PartitionBench, is_commit: bool) -> None:
    tail = Tail(bench.partition)
    producer = Producer(bench, 1)
    producer.write(b"in it")
    bench.stage(b"behind")
    bench.commit()
    producer.end(is_commit=is_commit)
    bench.round()
    assert tail.values == readable(bench.partition) == [], "a marker that may be lost decides nothing"
    bench.commit()
    expected = [b"in it", b"behind"] if is_commit else [b"behind"]
    assert tail.values == readable(bench.partition) == expected
    assert bench.partition.high_watermark == bench.partition.acknowledged_offset == tail.next_offset == 3
    assert not bench.partition.is_held_back


def test_a_transaction_that_ends_in_the_round_in_which_it_began_is_hidden_if_aborted(bench: PartitionBench) -> None:
    tail = Tail(bench.partition)
    one, other = Producer(bench, 1), Producer(bench, 2)
    one.write(b"no")
    other.write(b"yes")
    one.abort()
    other.commit()
    bench.commit()
    assert tail.values == readable(bench.partition) == [b"yes"]


def test_the_first_open_transaction_holds_back_those_that_ended_behind_it(bench: PartitionBench) -> None:
    tail = Tail(bench.partition)
    first, second = Producer(bench, 1), Producer(bench, 2)
    first.write(b"1")
    second.write(b"2")
    second.commit()
    bench.commit()
    assert tail.values == []
    first.abort()
    bench.commit()
    assert tail.values == readable(bench.partition) == [b"2"]


def test_records_are_shown_in_order_while_what_was_held_back_is_still_being_shown(
    bench: PartitionBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held_back, "CHUNK_BYTES", 1)
    monkeypatch.setattr(held_back, "ROUND_BYTES", 200)
    tail = Tail(bench.partition)
    producer = Producer(bench, 1)
    for number in range(20):
        producer.write(b"%d" % number)
        bench.commit()
    producer.commit()
    bench.commit()
    assert 0 < len(tail.values) < 20, "a round does no more than its share"
    bench.stage(b"last")
    bench.commit()
    while bench.partition.is_held_back:
        bench.round()
    assert tail.values == [*(b"%d" % number for number in range(20)), b"last"]


@pytest.mark.trio
async def test_what_the_store_cannot_read_at_once_is_shown_by_a_task(
    bench: PartitionBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    tail = Tail(bench.partition)
    producer = Producer(bench, 1)
    producer.write(b"a")
    bench.commit()
    monkeypatch.setattr(type(bench.partition.log), "read_nowait", lambda *args: None)
    producer.commit()
    bench.commit()
    assert tail.values == []
    bench.stage(b"b")
    bench.commit()
    while bench.partition.is_held_back:
        await bench.run_spawned()
        bench.round()
    assert tail.values == [b"a", b"b"]


def test_a_reader_may_wait_past_the_high_watermark_but_not_past_what_there_is(bench: PartitionBench) -> None:
    Producer(bench, 1).write(b"a", b"b")
    bench.commit()
    assert bench.partition.read_nowait(2, 100) == b""
    with pytest.raises(OffsetOutOfRange):
        bench.partition.read_nowait(3, 100)


def test_what_is_stored_can_be_read_by_who_asks_for_it(bench: PartitionBench) -> None:
    producer = Producer(bench, 1)
    producer.write(b"a")
    producer.abort()
    producer.write(b"b")
    bench.commit()
    partition = bench.partition
    stored = partition.read_stored_nowait(0, 1000, partition.acknowledged_offset)
    assert stored is not None
    assert [record.value for record in decode_all(stored)] == [b"a", b"b"]
    markers = [
        (header, stored[at : at + header.size_bytes]) for at, header in iter_headers(stored) if header.is_control
    ]
    assert [is_commit_marker(*found) for found in markers] == [False]
    decided = partition.read_stored_nowait(0, 1000, partition.last_stable_offset)
    assert decided is not None
    assert [record.value for record in decode_all(decided)] == [b"a"]
    assert partition.transactions is not None
    assert partition.transactions.aborted.between(0, 2) == [AbortedTransaction(1, 0, 1)]


@pytest.mark.trio
async def test_what_is_not_decided_is_not_trimmed(bench: PartitionBench) -> None:
    bench.stage(b"a")
    Producer(bench, 1).write(b"b")
    bench.commit()
    with pytest.raises(OffsetOutOfRange):
        await bench.partition.trim(2)


@pytest.mark.trio
async def test_trimming_forgets_what_was_aborted_below(bench: PartitionBench) -> None:
    producer = Producer(bench, 1)
    for _ in range(3):
        producer.write(b"a")
        producer.abort()
    bench.commit()
    transactions = bench.partition.transactions
    assert transactions is not None
    before = transactions.aborted
    await bench.partition.trim(4)
    assert transactions.aborted.between(0, 6) == [AbortedTransaction(1, 4, 5)]
    assert len(before.between(0, 6)) == 3, "who has read before still finds what belongs to it"


# -- what may be written -------------------------------------------------------------------------------


def test_only_the_transaction_path_takes_transactional_batches_and_nobody_control_ones(bench: PartitionBench) -> None:
    options: dict[str, Any] = {"producer_id": 1, "producer_epoch": 0, "base_sequence": 0}
    records = [(1, None, b"a", ())]
    with pytest.raises(InvalidBatch, match="transactional"):
        bench.partition.stage_batch(encode(records, is_transactional=True, **options))
    with pytest.raises(InvalidBatch, match="not transactional"):
        bench.partition.stage_batch(encode(records, **options), in_transaction=True)
    control = encode(records, is_transactional=True, is_control=True, **options)
    with pytest.raises(InvalidBatch, match="control"):
        bench.partition.stage_batch(control, in_transaction=True)
    with pytest.raises(InvalidBatch, match="producer id"):
        bench.partition.stage_batch(encode(records, is_transactional=True), in_transaction=True)


def test_a_producer_cannot_write_beside_its_own_transaction(bench: PartitionBench) -> None:
    producer = Producer(bench, 1)
    producer.write(b"a")
    with pytest.raises(InvalidTransactionState):
        producer.write(b"b", is_transactional=False)


def test_a_marker_fences_older_epochs_and_begins_a_sequence_anew(bench: PartitionBench) -> None:
    old = Producer(bench, 1)
    old.write(b"a")
    Producer(bench, 1, epoch=1).abort()
    with pytest.raises(TrunklineError, match="fenced"):
        old.write(b"late")
    Producer(bench, 1, epoch=1).write(b"b")
    bench.commit()
    assert len(bench.receipts.done) == 3


def test_a_full_store_takes_back_what_transactions_wrote_and_how_they_ended(bench: PartitionBench) -> None:
    tail = Tail(bench.partition)
    first, second = Producer(bench, 1), Producer(bench, 2)
    first.write(b"1")
    bench.commit()
    bench.store.fail_next("append", StoreFull("full"))
    first.abort()
    second.write(b"2")
    bench.commit()
    transactions = bench.partition.transactions
    assert transactions is not None
    assert transactions.open == {1: 0}
    assert len(transactions.aborted) == 0
    first.commit()
    bench.commit()
    assert tail.values == readable(bench.partition) == [b"1"]
    assert not bench.partition.is_held_back


# -- restarts ------------------------------------------------------------------------------------------


@pytest.mark.trio
@pytest.mark.parametrize("is_saved", [True, False])
async def test_open_and_aborted_transactions_survive(make_bench: Callable[..., PartitionBench], is_saved: bool) -> None:
    bench = make_bench()
    one, other = Producer(bench, 1), Producer(bench, 2)
    one.write(b"no")
    one.abort()
    bench.stage(b"yes")
    other.write(b"open")
    bench.stage(b"behind")
    bench.commit()
    bench.partition.refuse(TrunklineError("closed"))
    await bench.partition.close_log(keep=is_saved)

    bench = make_bench()
    partition = bench.partition
    assert readable(partition) == [b"yes"]
    assert (partition.high_watermark, partition.acknowledged_offset) == (3, 5)
    assert partition.transactions is not None
    assert partition.transactions.aborted.between(0, 5) == [AbortedTransaction(1, 0, 1)]
    tail = Tail(partition)
    Producer(bench, 2).commit()
    bench.commit()
    assert tail.values == [b"open", b"behind"]


def test_a_state_of_a_broker_without_transactions_can_be_read() -> None:
    producers = ProducerTable()
    old = struct.pack(">Bq", 1, 7) + producers.snapshot()
    assert decode_state(old).cleaned_offset == 7
    assert decode_state(old).transactions is None
    state = encode_state(PartitionState(7, producers, None))
    assert decode_state(state).cleaned_offset == 7
    for damaged in (b"", b"\3" + state[1:], state[:10]):
        with pytest.raises(CorruptLog):
            decode_state(damaged)


def test_a_snapshot_of_transactions_is_restored_or_refused() -> None:
    transactions = LogTransactions()
    transactions.wrote(1, 0)
    transactions.wrote(2, 5)
    transactions.ended(1, 7, is_commit=False)
    state = transactions.snapshot()
    restored = LogTransactions.restore(state)
    assert restored.open == {2: 5}
    assert restored.aborted.rows() == [(1, 0, 7, 5)]
    for size in range(len(state)):
        with pytest.raises(CorruptLog):
            LogTransactions.restore(state[:size])


# -- the list of aborted ones --------------------------------------------------------------------------


def test_a_search_finds_every_transaction_that_overlaps_and_stops_early() -> None:
    aborted = AbortedTransactions()
    aborted.add(1, 10, 20, 21)
    aborted.add(2, 30, 50, 31)  # 3 was open from 31 on
    aborted.add(3, 31, 60, 61)
    aborted.add(1, 70, 80, 81)
    assert [one.producer_id for one in aborted.between(0, 100)] == [1, 2, 3, 1]
    assert [one.last_offset for one in aborted.between(20, 21)] == [20]
    assert [one.last_offset for one in aborted.between(21, 31)] == [50]
    assert [one.last_offset for one in aborted.between(55, 56)] == [60]
    assert aborted.between(61, 70) == []
    assert aborted.between(81, 100) == []


def test_hidden_batches_keep_their_offsets_and_others_are_the_same_bytes() -> None:
    def batch(offset: int, producer_id: int, **options: bool) -> bytes:
        rows = [(1, b"k", b"v" * 100, ()), (1, b"k", b"w", ())]
        return encode(
            rows,
            base_offset=offset,
            producer_id=producer_id,
            producer_epoch=0,
            base_sequence=0,
            compression=1,
            **options,
        )

    aborted = AbortedTransactions()
    aborted.add(1, 2, 6, 7)
    log = [
        batch(0, 1, is_transactional=True),
        batch(2, 1, is_transactional=True),
        batch(4, 2, is_transactional=True),
        batch(6, 1, is_transactional=True, is_control=True),
        batch(8, 1, is_transactional=True),
    ]
    shown = hide_aborted(b"".join(log), aborted)
    headers = list(iter_headers(shown))
    assert [(header.base_offset, header.last_offset) for _, header in headers] == [
        (0, 1), (2, 3), (4, 5), (6, 7), (8, 9),
    ]  # fmt: skip
    for (at, header), stored in zip(headers, log, strict=True):
        if header.base_offset == 2:
            assert header.record_count == 0
        else:
            assert shown[at : at + header.size_bytes] == stored
    assert hide_aborted(log[4], aborted) is log[4]
