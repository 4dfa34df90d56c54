"""Staging, writing, committing: one partition, with rounds and flushes made by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import trio

from trunkline.errors import (
    BrokerClosing,
    CorruptBatch,
    InvalidBatch,
    LogStopped,
    OffsetOutOfRange,
    OutOfOrderSequence,
    RecordTooLarge,
    TrunklineError,
)
from trunkline.partition import Partition
from trunkline.records import decode_all, encode, iter_headers

if TYPE_CHECKING:
    from tests.core.conftest import PartitionBench


class Tail:
    """A tail listener that remembers what it was told."""

    def __init__(self) -> None:
        self.heard: list[tuple[int, int, list[bytes | None]]] = []
        self.closed: list[TrunklineError | None] = []

    def records_committed(self, partition: Partition, base_offset: int, next_offset: int, batches: list[bytes]) -> None:
        assert partition.high_watermark == next_offset
        self.heard.append((base_offset, next_offset, [record.value for record in decode_all(b"".join(batches))]))

    def partition_closed(self, partition: Partition, error: TrunklineError | None) -> None:
        self.closed.append(error)


# -- order ---------------------------------------------------------------------------------------------


def test_records_and_batches_of_a_round_keep_the_order_of_staging(bench: PartitionBench) -> None:
    bench.stage(b"a")
    bench.stage_batch(b"b", b"c")
    bench.stage(b"d")
    bench.stage(b"e")
    bench.stage_batch(b"f")
    bench.commit()
    assert [(record.offset, record.value) for record in bench.stored] == list(
        enumerate([b"a", b"b", b"c", b"d", b"e", b"f"])
    )


def test_acknowledgements_come_in_order_each_with_its_offset(bench: PartitionBench) -> None:
    bench.stage(b"a", "a")
    bench.stage(b"b", "b")
    bench.stage_batch(b"c", b"d", token="cd")
    bench.stage(b"e", "e")
    bench.commit()
    assert bench.receipts.done == [("a", 0), ("b", 1), ("cd", 2), ("e", 4)]


def test_a_record_that_nobody_asks_about_still_counts(bench: PartitionBench) -> None:
    bench.partition.stage_record(1, None, b"silent")
    bench.stage(b"heard", "heard")
    bench.commit()
    assert bench.receipts.done == [("heard", 1)]


def test_what_the_listener_hears_follows_the_acknowledgements(bench: PartitionBench) -> None:
    tail = Tail()
    bench.partition.add_listener(tail)
    bench.stage(b"a", "a")
    bench.stage_batch(b"b", b"c")
    bench.commit()
    bench.stage(b"d")
    bench.commit()
    assert tail.heard == [(0, 3, [b"a", b"b", b"c"]), (3, 4, [b"d"])]


def test_a_removed_listener_hears_no_more(bench: PartitionBench) -> None:
    tail = Tail()
    bench.partition.add_listener(tail)
    bench.partition.remove_listener(tail)
    bench.partition.remove_listener(tail)
    bench.stage(b"a")
    bench.commit()
    assert tail.heard == []


# -- commit --------------------------------------------------------------------------------------------


def test_nothing_is_acknowledged_or_readable_before_the_flush_is_answered(bench: PartitionBench) -> None:
    bench.stage(b"a", "a")
    bench.round()
    assert (bench.receipts.done, bench.partition.high_watermark, bench.partition.log_end_offset) == ([], 0, 1)
    assert bench.partition.read_nowait(0, 1000) == b""
    bench.flush()
    assert (bench.receipts.done, bench.partition.high_watermark) == ([], 0)  # the round has not heard of it
    bench.round()
    assert (bench.receipts.done, bench.partition.high_watermark) == ([("a", 0)], 1)


def test_the_high_watermark_is_never_ahead_of_what_a_flush_has_returned(bench: PartitionBench) -> None:
    bench.stage(b"a", "a")
    bench.round()
    bench.flush()
    bench.stage(b"b", "b")
    bench.round()  # takes the answer for a, and writes b
    assert (bench.partition.high_watermark, bench.partition.log_end_offset) == (1, 2)
    assert bench.partition.log.end_offset == 2
    assert bench.receipts.done == [("a", 0)]


def test_with_durability_os_the_write_is_the_commit(make_bench: Callable[..., PartitionBench]) -> None:
    bench = make_bench(durability="os")
    bench.stage(b"a", "a")
    bench.round()
    assert bench.receipts.done == [("a", 0)]
    assert bench.store.count("flush") == 0


def test_the_broker_may_change_from_fsync_to_os_with_a_flush_under_way(bench: PartitionBench) -> None:
    bench.stage(b"a", "a")
    bench.round()
    bench.topic.settings = type(bench.topic.settings).parse({"durability": "os"})
    bench.stage(b"b", "b")
    bench.round()
    bench.flush()
    bench.round()
    assert bench.receipts.done == [("a", 0), ("b", 1)]


def test_with_log_append_time_records_get_the_time_of_the_round(
    make_bench: Callable[..., PartitionBench], clock: list[int]
) -> None:
    bench = make_bench(message_timestamp_type="LogAppendTime")
    bench.stage(b"a", timestamp=7)
    bench.stage_batch(b"b", b"c")
    clock[0] = 6000
    bench.commit()
    assert [record.timestamp for record in bench.stored] == [5000, 5000, 5000]
    bench.stage(b"d", timestamp=7)
    bench.commit()
    assert bench.stored[-1].timestamp == 6000


def test_the_leader_epoch_is_stamped_on_every_batch(bench: PartitionBench) -> None:
    bench.partition.leader_epoch = 9
    bench.stage(b"a")
    bench.stage_batch(b"b")
    bench.commit()
    data = bench.partition.log.read(0, 1000, 2)
    first = int.from_bytes(data[8:12], "big") + 12
    assert [int.from_bytes(data[start + 12 : start + 16], "big") for start in (0, first)] == [9, 9]


# -- limits and refusals -------------------------------------------------------------------------------


def test_a_round_of_more_than_the_limit_becomes_several_batches_and_one_write(
    make_bench: Callable[..., PartitionBench],
) -> None:
    bench = make_bench(max_message_bytes="400")
    for number in range(10):
        bench.stage(bytes(100), number)
    bench.commit()
    sizes = [len(batch) for batch in split(bench.partition.log.read(0, 1 << 20, 10))]
    assert len(sizes) > 1
    assert max(sizes) <= 400
    assert bench.store.count("append") == 1
    assert bench.receipts.done == [(number, number) for number in range(10)]


def split(data: bytes) -> list[bytes]:
    found = []
    while data:
        size = int.from_bytes(data[8:12], "big") + 12
        found.append(data[:size])
        data = data[size:]
    return found


def test_records_share_a_batch_up_to_a_mebibyte_and_a_larger_one_goes_alone(
    make_bench: Callable[..., PartitionBench],
) -> None:
    bench = make_bench(max_message_bytes="16777216")
    for size in (600_000, 600_000, 3_000_000, 1, 1):
        bench.stage(b"x" * size)
    bench.commit()

    batches = bench.partition.log.read(0, 1 << 30, 5)
    assert [header.record_count for _, header in iter_headers(batches)] == [1, 1, 1, 2]


def test_a_record_over_the_limit_is_refused_and_its_neighbours_are_not(
    make_bench: Callable[..., PartitionBench],
) -> None:
    bench = make_bench(max_message_bytes="400")
    bench.stage(b"before")
    with pytest.raises(RecordTooLarge, match=r"max\.message\.bytes=400") as caught:
        bench.stage(bytes(400))
    assert caught.value.limit_bytes == 400
    bench.stage(b"after")
    bench.commit()
    assert [record.value for record in bench.stored] == [b"before", b"after"]


def test_a_batch_over_the_limit_is_refused(make_bench: Callable[..., PartitionBench]) -> None:
    bench = make_bench(max_message_bytes="400")
    with pytest.raises(RecordTooLarge):
        bench.stage_batch(bytes(400))


@pytest.mark.parametrize(
    ("batch", "error"),
    [
        (b"", CorruptBatch),
        (bytes(60), CorruptBatch),
        (encode([(1, None, b"x", ())])[:-1], CorruptBatch),
        (encode([(1, None, b"x", ())])[:-1] + b"y", CorruptBatch),
        (encode([(1, None, b"x", ())]) + b"z", InvalidBatch),
        (encode([(1, None, b"x", ())]) * 2, InvalidBatch),
        (encode([(1, None, b"x", ())], is_control=True), InvalidBatch),
        (encode([(1, None, b"x", ())], is_transactional=True), InvalidBatch),
        (encode([(1, None, b"x", ())], producer_id=1, producer_epoch=0, base_sequence=-1), InvalidBatch),
        (encode([(1, None, b"x", ())], producer_id=1, producer_epoch=-1, base_sequence=0), InvalidBatch),
    ],
    ids=["empty", "zeros", "cut", "crc", "more", "two", "control", "transactional", "no sequence", "no epoch"],
)
def test_a_batch_that_may_not_be_written_is_refused_and_nothing_is_staged(
    bench: PartitionBench, batch: bytes, error: type[TrunklineError]
) -> None:
    with pytest.raises(error):
        bench.partition.stage_batch(batch, bench.receipts)
    bench.commit()
    assert (bench.stored, bench.receipts.failed, bench.rounds.is_idle) == ([], [], True)


def test_a_timestamp_that_cannot_be_stored_is_refused_at_once(bench: PartitionBench) -> None:
    with pytest.raises(ValueError, match="2\\*\\*61"):
        bench.stage(b"a", timestamp=2**62)
    bench.stage(b"b")
    bench.commit()
    assert [record.value for record in bench.stored] == [b"b"]


def test_a_callers_buffer_may_be_reused_at_once(bench: PartitionBench) -> None:
    buffer = bytearray(encode([(1, None, b"kept", ())]))
    bench.partition.stage_batch(memoryview(buffer))
    buffer[:] = bytes(len(buffer))
    bench.commit()
    assert [record.value for record in bench.stored] == [b"kept"]


def test_a_closing_partition_takes_nothing_but_finishes_what_it_has(bench: PartitionBench) -> None:
    bench.stage(b"a", "a")
    bench.partition.refuse(BrokerClosing("closing"))
    with pytest.raises(BrokerClosing):
        bench.stage(b"b")
    with pytest.raises(BrokerClosing):
        bench.stage_batch(b"c")
    bench.commit()
    assert bench.receipts.done == [("a", 0)]


# -- repeats -------------------------------------------------------------------------------------------


def test_a_repeat_of_a_committed_batch_gets_its_offset_and_is_not_written(bench: PartitionBench) -> None:
    bench.partition.stage_record(1, None, b"before")
    bench.stage_batch(b"a", b"b", token="first", producer_id=1, producer_epoch=0, base_sequence=0)
    bench.commit()
    bench.stage_batch(b"a", b"b", token="again", producer_id=1, producer_epoch=0, base_sequence=0)
    assert bench.receipts.done == [("first", 1)]  # the answer comes in a round, never out of the call
    bench.commit()
    assert bench.receipts.done == [("first", 1), ("again", 1)]
    assert len(bench.stored) == 3


@pytest.mark.parametrize("is_written", [False, True])
def test_a_repeat_of_a_batch_that_is_not_durable_waits_for_it(bench: PartitionBench, is_written: bool) -> None:
    bench.stage_batch(b"a", token="first", producer_id=1, producer_epoch=0, base_sequence=0)
    for _ in range(is_written):
        bench.round()
    bench.stage_batch(b"a", token="again", producer_id=1, producer_epoch=0, base_sequence=0)
    bench.round()
    assert bench.receipts.done == []
    bench.flush()
    bench.round()
    assert bench.receipts.done == [("first", 0), ("again", 0)]


def test_a_repeat_of_a_batch_that_then_fails_fails_with_it(bench: PartitionBench) -> None:
    bench.stage_batch(b"a", token="first", producer_id=1, producer_epoch=0, base_sequence=0)
    bench.stage_batch(b"a", token="again", producer_id=1, producer_epoch=0, base_sequence=0)
    bench.store.fail_next("append", OSError(28, "No space left on device"))
    bench.round()
    assert [token for token, _ in bench.receipts.failed] == ["first", "again"]


def test_a_gap_in_the_sequence_is_refused(bench: PartitionBench) -> None:
    bench.stage_batch(b"a", producer_id=1, producer_epoch=0, base_sequence=0)
    with pytest.raises(OutOfOrderSequence):
        bench.stage_batch(b"c", producer_id=1, producer_epoch=0, base_sequence=2)
    bench.stage_batch(b"b", producer_id=1, producer_epoch=0, base_sequence=1)
    bench.commit()
    assert [record.value for record in bench.stored] == [b"a", b"b"]


# -- a failing disk ------------------------------------------------------------------------------------


def test_a_failed_append_stops_the_log_and_fails_every_waiter_once(bench: PartitionBench) -> None:
    tail = Tail()
    bench.partition.add_listener(tail)
    bench.stage(b"a", "a")
    bench.round()  # a's flush is under way
    bench.stage(b"b", "b")
    bench.stage_batch(b"c", b"d", token="cd")
    bench.store.fail_next("append", OSError(28, "No space left on device"))
    bench.round()
    assert [token for token, _ in bench.receipts.failed] == ["a", "b", "cd"]
    assert {type(error) for _, error in bench.receipts.failed} == {LogStopped}
    assert [type(error) for error in tail.closed] == [LogStopped]
    with pytest.raises(LogStopped, match="No space left on device"):
        bench.stage(b"e")
    bench.flush()
    bench.round()
    assert (bench.receipts.done, len(bench.receipts.failed)) == ([], 3)
    assert bench.rounds.unacknowledged_bytes == 0


def test_a_failed_flush_stops_the_log_and_fails_every_waiter_once(bench: PartitionBench) -> None:
    bench.store.fail_next("flush", OSError(5, "Input/output error"))
    bench.stage(b"a", "a")
    bench.round()
    bench.stage(b"b", "b")
    bench.round()
    bench.stage(b"c", "c")  # staged, not written
    bench.flush()
    bench.round()
    assert [token for token, _ in bench.receipts.failed] == ["a", "b", "c"]
    assert (bench.receipts.done, bench.partition.high_watermark) == ([], 0)
    assert (bench.rounds.unacknowledged_bytes, bench.rounds.is_idle) == (0, True)


def test_after_a_failed_flush_the_log_is_never_flushed_again(bench: PartitionBench) -> None:
    bench.store.fail_next("flush", OSError(5, "Input/output error"))
    bench.stage(b"a")
    bench.round()
    bench.stage(b"b")
    bench.round()  # asks for a second flush, for the group after the one that fails
    bench.flush()
    bench.commit()
    assert bench.store.count("flush") == 1


async def _close(partition: Partition) -> None:
    partition.refuse(BrokerClosing("closing"))
    await partition.wait_idle()
    await partition.close_log()


def test_a_log_that_failed_is_not_closed_as_if_it_were_well(bench: PartitionBench) -> None:
    bench.store.fail_next("flush", OSError(5, "Input/output error"))
    bench.stage(b"a")
    bench.commit()
    trio.run(_close, bench.partition)
    assert (bench.store.count("save_state"), bench.store.count("flush"), bench.store.count("close")) == (0, 1, 1)
    with pytest.raises(LogStopped):
        bench.stage(b"b")


def test_what_was_committed_before_a_failure_can_still_be_read(bench: PartitionBench) -> None:
    bench.stage(b"a")
    bench.commit()
    bench.store.fail_next("append", OSError(28, "No space left on device"))
    bench.stage(b"b")
    bench.round()
    found = bench.partition.read_nowait(0, 1000)
    assert found is not None
    assert [record.value for record in decode_all(found)] == [b"a"]


# -- reading -------------------------------------------------------------------------------------------


def test_reading_is_bounded_by_log_start_and_high_watermark(bench: PartitionBench) -> None:
    for value in (b"a", b"b", b"c"):
        bench.stage(value)
        bench.commit()
    bench.stage(b"not committed")
    bench.round()
    bench.partition.log.trim(1)
    assert bench.partition.read_nowait(3, 1000) == b""
    for offset in (-1, 0, 4):
        with pytest.raises(OffsetOutOfRange, match="1 to 3") as caught:
            bench.partition.read_nowait(offset, 1000)
        assert (caught.value.log_start_offset, caught.value.high_watermark) == (1, 3)


def test_reading_inside_a_batch_gives_the_whole_batch(bench: PartitionBench) -> None:
    bench.stage_batch(b"a", b"b", b"c")
    bench.commit()
    found = bench.partition.read_nowait(2, 1)
    assert found is not None
    assert [record.offset for record in decode_all(found)] == [0, 1, 2]


def test_a_closed_log_is_not_read(bench: PartitionBench) -> None:
    bench.stage(b"a")
    bench.commit()
    trio.run(_close, bench.partition)
    with pytest.raises(BrokerClosing):
        bench.partition.read_nowait(0, 1000)
    with pytest.raises(BrokerClosing):
        trio.run(bench.partition.find_timestamp, 0)


# -- producers over a restart --------------------------------------------------------------------------


@pytest.mark.parametrize("is_clean", [True, False])
def test_a_repeat_is_recognised_after_a_restart(make_bench: Callable[..., PartitionBench], is_clean: bool) -> None:
    bench = make_bench()
    bench.stage_batch(b"a", b"b", producer_id=1, producer_epoch=0, base_sequence=0)
    bench.stage(b"c")
    bench.commit()
    if is_clean:
        trio.run(_close, bench.partition)
    else:
        bench.store.close()  # the process is gone; the state is rebuilt from the batches
    again = make_bench()
    again.stage_batch(b"a", b"b", token="again", producer_id=1, producer_epoch=0, base_sequence=0)
    again.stage_batch(b"d", token="next", producer_id=1, producer_epoch=0, base_sequence=2)
    again.commit()
    assert sorted(again.receipts.done) == [("again", 0), ("next", 3)]


def test_only_batches_after_the_saved_state_are_read_at_start(
    make_bench: Callable[..., PartitionBench], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trunkline.saved_state.STATE_INTERVAL_BYTES", 1)
    bench = make_bench()
    for sequence in range(6):
        bench.stage_batch(b"%d" % sequence, producer_id=1, producer_epoch=0, base_sequence=sequence)
        bench.commit()
        trio.run(bench.run_spawned)
    saved = bench.partition.log.load_state()
    assert saved is not None
    assert 0 < saved.offset <= bench.partition.high_watermark
    bench.store.close()
    again = make_bench()
    again.stage_batch(b"5", token="again", producer_id=1, producer_epoch=0, base_sequence=5)
    again.round()
    again.round()
    assert again.receipts.done == [("again", 5)]


def test_saved_state_speaks_only_of_what_is_durable(
    make_bench: Callable[..., PartitionBench], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trunkline.saved_state.STATE_INTERVAL_BYTES", 1)
    bench = make_bench()
    bench.stage_batch(b"0", producer_id=1, producer_epoch=0, base_sequence=0)
    bench.round()
    bench.stage_batch(b"1", producer_id=1, producer_epoch=0, base_sequence=1)
    bench.flush()
    bench.round()  # commits the first batch; the table knows the second, which is only now written
    assert bench.spawned == []
    bench.flush()
    bench.round()
    assert [args[0].offset for _, args in bench.spawned] == [2]


@pytest.mark.trio
async def test_state_is_not_saved_twice_at_a_time_nor_while_the_log_is_closed(
    make_bench: Callable[..., PartitionBench], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trunkline.saved_state.STATE_INTERVAL_BYTES", 1)
    bench = make_bench()
    bench.store.hold("save_state")
    async with trio.open_nursery() as nursery:
        for value in (b"a", b"b", b"c", b"d", b"e"):
            bench.stage(value)
            bench.commit()
            for function, args in bench.spawned:
                nursery.start_soon(function, *args)
            bench.spawned.clear()
        nursery.start_soon(_close, bench.partition)
        while not bench.store.count("save_state"):
            await trio.lowlevel.checkpoint()
        assert bench.store.count("close") == 0
        bench.store.release("save_state")
    assert bench.store.count("close") == 1


# -- a bug in one of those who are told ----------------------------------------------------------------


class Broken:
    """A follower and receiver with a bug."""

    def records_committed(self, partition: Partition, base_offset: int, next_offset: int, batches: list[bytes]) -> None:
        raise ZeroDivisionError("a bug in a follower")

    def partition_closed(self, partition: Partition, error: TrunklineError | None) -> None:
        raise ZeroDivisionError("a bug in a follower")

    def append_done(self, token: object, offset: int) -> None:
        raise ZeroDivisionError("a bug in a receiver")

    def append_failed(self, token: object, error: TrunklineError) -> None:
        raise ZeroDivisionError("a bug in a receiver")


def test_a_follower_that_raises_is_left_out_and_the_others_hear(
    bench: PartitionBench, caplog: pytest.LogCaptureFixture
) -> None:
    tail = Tail()
    bench.partition.add_listener(Broken())
    bench.partition.add_listener(tail)
    for value in (b"a", b"b"):
        bench.stage(value)
        bench.commit()
    assert [heard[2] for heard in tail.heard] == [[b"a"], [b"b"]]
    assert caplog.text.count("is left out") == 1


def test_a_follower_that_raises_at_the_end_does_not_keep_it_from_the_others(bench: PartitionBench) -> None:
    tail = Tail()
    bench.partition.add_listener(Broken())
    bench.partition.add_listener(tail)
    bench.partition.close_listeners(None)
    assert tail.closed == [None]


def test_a_receiver_that_raises_does_not_keep_the_others_from_their_answers(bench: PartitionBench) -> None:
    bench.partition.stage_record(1, None, b"a", receiver=Broken())
    bench.stage(b"b", "b")
    bench.commit()
    assert bench.receipts.done == [("b", 1)]
    bench.partition.stage_record(1, None, b"c", receiver=Broken())
    bench.stage(b"d", "d")
    bench.partition.stop(OSError("the disk is gone"))
    assert [token for token, _ in bench.receipts.failed] == ["d"]
