"""A follower is told of every committed batch once, in order, from wherever it begins."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from trunkline.errors import CorruptLog, LogStopped, TrunklineError
from trunkline.follower import BatchFollower
from trunkline.partition import Partition
from trunkline.records import decode_all
from trunkline.testing.scripted_store import ScriptedStore

if TYPE_CHECKING:
    from tests.core.conftest import PartitionBench


class Receiver:
    """Remembers what it was told, and checks that it fits together."""

    def __init__(self) -> None:
        self.values: list[bytes | None] = []
        self.calls: list[tuple[int, int]] = []
        self.lost: list[tuple[int, int]] = []
        self.ended: list[TrunklineError | None] = []

    def batches_arrived(self, partition: Partition, base_offset: int, next_offset: int, batches: list[bytes]) -> None:
        assert base_offset < next_offset
        assert not self.calls or self.calls[-1][1] <= base_offset
        self.calls.append((base_offset, next_offset))
        self.values += [record.value for record in decode_all(b"".join(batches), from_offset=base_offset)]

    def missed(self, partition: Partition, start: int, end: int) -> None:
        self.lost.append((start, end))

    def follow_ended(self, partition: Partition, error: TrunklineError | None) -> None:
        self.ended.append(error)


def follow(bench: PartitionBench, start: int) -> tuple[BatchFollower, Receiver]:
    receiver = Receiver()
    return (
        BatchFollower(
            bench.partition, start, receiver, bench.rounds, lambda fn, *args: bench.spawned.append((fn, args))
        ),
        receiver,
    )


def settle(bench: PartitionBench) -> None:
    """Rounds until none is asked for."""
    while True:
        before = bench.wakes
        bench.round()
        if bench.spawned:
            trio.run(bench.run_spawned)
        if bench.wakes == before:
            return


def publish(bench: PartitionBench, *values: bytes) -> None:
    for value in values:
        bench.stage(value)
    bench.commit()


def test_it_reads_what_is_there_and_then_goes_on_live(bench: PartitionBench) -> None:
    publish(bench, b"a")
    publish(bench, b"b")
    follower, receiver = follow(bench, 0)
    assert not receiver.calls, "nothing is told before the next round"
    publish(bench, b"c")
    settle(bench)
    assert follower.is_live
    publish(bench, b"d")
    assert receiver.values == [b"a", b"b", b"c", b"d"]
    assert follower.position == 4


def test_it_may_begin_inside_a_batch(bench: PartitionBench) -> None:
    publish(bench, b"a", b"b", b"c")
    _, receiver = follow(bench, 1)
    settle(bench)
    assert receiver.calls == [(1, 3)]
    assert receiver.values == [b"b", b"c"]


def test_it_waits_for_a_store_that_has_to_be_waited_for(bench: PartitionBench, store: ScriptedStore) -> None:
    publish(bench, b"a")
    store.reads_wait = True
    _, receiver = follow(bench, 0)
    settle(bench)
    assert receiver.values == [b"a"]


def test_nothing_is_told_after_close(bench: PartitionBench) -> None:
    publish(bench, b"a")
    follower, receiver = follow(bench, 0)
    follower.close()
    settle(bench)
    publish(bench, b"b")
    assert receiver.calls == []


def test_what_retention_took_is_told(bench: PartitionBench) -> None:
    publish(bench, b"a")
    publish(bench, b"b")
    _, receiver = follow(bench, 0)
    bench.partition.log.trim(1)
    settle(bench)
    assert receiver.lost == [(0, 1)]
    assert receiver.values == [b"b"]


def test_the_end_is_told_once(bench: PartitionBench) -> None:
    _, receiver = follow(bench, 0)
    bench.partition.stop(OSError("the disk is gone"))
    assert [type(error) for error in receiver.ended] == [LogStopped]


@pytest.mark.parametrize("waits", [False, True])
def test_a_log_that_cannot_be_read_ends_it(bench: PartitionBench, store: ScriptedStore, waits: bool) -> None:
    publish(bench, b"a")
    _, receiver = follow(bench, 0)
    store.reads_wait = waits
    store.fail_next("read" if waits else "read_nowait", OSError("unreadable"))
    settle(bench)
    assert [type(error) for error in receiver.ended] == [CorruptLog]


@given(
    steps=st.lists(st.sampled_from(["publish", "round", "follow"]), max_size=20),
    starts=st.lists(st.integers(0, 30), min_size=20, max_size=20),
)
@settings(max_examples=60, deadline=None)
def test_every_follower_is_told_everything_from_its_start_on(
    make_bench_on: Callable[[ScriptedStore], PartitionBench], steps: list[str], starts: list[int]
) -> None:
    bench = make_bench_on(ScriptedStore())
    followers: list[tuple[int, Receiver]] = []
    published: list[bytes] = []
    for step, start in zip(steps, starts, strict=False):
        if step == "publish":
            values = [b"%d" % (len(published) + n) for n in range(1 + start % 3)]
            published += values
            publish(bench, *values)
        elif step == "round":
            bench.round()
        else:
            begin = min(start, bench.partition.high_watermark)
            followers.append((begin, follow(bench, begin)[1]))
    settle(bench)
    for begin, receiver in followers:
        assert receiver.values == published[begin:]
