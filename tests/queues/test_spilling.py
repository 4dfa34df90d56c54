"""Retention and queues: nothing that is live goes, and little that is live does not keep much that is not."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import pytest

from trunkline import Broker, open_broker
from trunkline.queues import QueueConfig
from trunkline.testing import SimulatedDisk

if TYPE_CHECKING:
    from tests.queues.conftest import QueueBench

pytestmark = pytest.mark.trio

SEGMENTS = {"segment.bytes": "4096", "retention.bytes": "0", "retention.ms": "-1"}


async def fill(broker: Broker, number: int, topic: str = "events") -> None:
    for n in range(number):
        await broker.publish(topic, b"%04d" % n + bytes(200), key=b"k%d" % n)


async def test_retention_waits_for_what_is_live(tmp_path: Path, bench: QueueBench) -> None:
    async with open_broker(tmp_path) as broker:
        await broker.create_topic("events", settings=SEGMENTS)
        queue = await broker.queues.declare("jobs", bench.config("events"))
        await fill(broker, 100)
        await broker.housekeeping.run_once()
        assert broker.partition("events", 0).log_start_offset == 0
        taker = await bench.taker(queue).wait(100)
        taker.hold.settle([(0, 50)])
        await broker.housekeeping.run_once()
        assert 30 < broker.partition("events", 0).log_start_offset <= 50
        taker.hold.settle([(50, 100)])
        await broker.housekeeping.run_once()
        assert broker.partition("events", 0).log_start_offset > 80
        assert not broker.partition("events", 0).removed_unread


async def test_a_forgotten_record_is_copied_out_of_the_way(tmp_path: Path, bench: QueueBench) -> None:
    async with open_broker(tmp_path) as broker:
        await broker.create_topic("events", settings=SEGMENTS)
        queue = await broker.queues.declare("jobs", bench.config("events"))
        await fill(broker, 100)
        taker = await bench.taker(queue, prefetch=1000).wait(100)
        taker.hold.settle([(0, 3), (4, 60), (61, 100)])
        await broker.housekeeping.run_once()
        assert broker.partition("events", 0).log_start_offset > 80
        assert [(record.value or b"")[:4] for record in await bench.all_of(broker, "jobs")] == [b"0003", b"0060"]
        assert queue.state.next_sequence == 100, "a copy is no arrival"
        taker.hold.release([(3, 4)])
        await taker.wait(101)
        assert (taker.got[-1][0], taker.got[-1][2]) == (3, 1)
        assert (taker.got[-1][1] or b"")[:4] == b"0003"
        assert taker.settle(3, 60) == 2
    async with open_broker(tmp_path) as broker:
        assert broker.queues.get("jobs").statistics().size_bytes == 0


async def test_nobody_else_puts_a_record_in_the_place_of_another(tmp_path: Path, bench: QueueBench) -> None:
    """One that says it is a copy, but cannot know the code, is a record like others, also when it is met again."""
    disk = SimulatedDisk(5)
    forged = b"1:0:jobs:" + b"0" * 32
    with bench.power_failure(disk):
        async with open_broker(tmp_path, disk=disk) as broker:
            await broker.create_topic("events", settings=SEGMENTS)
            queue = await broker.queues.declare("jobs", bench.config("events"))
            assert queue.id == 1
            await fill(broker, 3)
            await broker.publish("jobs", b"forged", headers=[("trunkline.spilled", forged)])
            assert [found.record.value for found in await queue.peek(10)][3] == b"forged"
            await broker.queues._context.marks.wait_ready()  # the first copy would do it
            disk.cut_power()
    disk.crash()
    async with open_broker(tmp_path, disk=disk) as broker:
        found = {one.record.value: one.sequence for one in await broker.queues.get("jobs").peek(10)}
        assert len(found) == 4
        assert found.keys() >= {b"forged", b"0000" + bytes(200)}


async def test_old_records_are_copied_even_if_they_are_many(tmp_path: Path, bench: QueueBench) -> None:
    clock = [1_000_000]
    settings = {**SEGMENTS, "retention.bytes": "-1", "retention.ms": "1000"}
    async with open_broker(tmp_path, now_ms=lambda: clock[0]) as broker:
        await broker.create_topic("events", settings=settings)
        await broker.queues.declare("jobs", bench.config("events", spill_after_ms=60_000))
        await fill(broker, 50)
        clock[0] += 30_000
        await broker.housekeeping.run_once()
        assert broker.partition("events", 0).log_start_offset == 0
        clock[0] += 31_000
        await broker.housekeeping.run_once()
        assert broker.partition("events", 0).log_start_offset == 50
        taker = await bench.taker(broker.queues.get("jobs")).wait(50)
        assert [(value or b"")[:4] for value in taker.values] == [b"%04d" % n for n in range(50)]


@pytest.mark.parametrize("seed", range(12))
async def test_a_crash_while_spilling_neither_loses_nor_doubles(tmp_path: Path, bench: QueueBench, seed: int) -> None:
    """The power goes at some change of the disk between the copy, the swap and the removal of segments."""
    disk, random = SimulatedDisk(seed), Random(seed)
    with bench.power_failure(disk):
        async with open_broker(tmp_path, disk=disk) as broker:
            await broker.create_topic("events", settings=SEGMENTS)
            queue = await broker.queues.declare("jobs", bench.config("events"))
            await fill(broker, 60)
            taker = await bench.taker(queue).wait(60)
            taker.hold.settle([(0, 5), (6, 33), (34, 60)])
            await bench.durable(taker)
            taker.hold.close()
            disk.crash_after(random.randint(8, 40))
            for _ in range(3):
                await broker.housekeeping.run_once()
            disk.cut_power()
    disk.crash()
    async with open_broker(tmp_path, disk=disk) as broker:
        await broker.housekeeping.run_once()
        queue = broker.queues.get("jobs")
        assert queue.state.ready == 2
        taker = await bench.taker(queue).wait(2)
        assert [(sequence, (value or b"")[:4]) for sequence, value, _ in taker.got] == [(5, b"0005"), (33, b"0033")]
        assert broker.partition("events", 0).log_start_offset > 40


async def test_the_home_topic_is_tidied_only_for_its_size(tmp_path: Path, bench: QueueBench) -> None:
    clock = [1_000_000]
    settings = {**SEGMENTS, "retention.bytes": "-1", "retention.ms": "1000"}
    async with open_broker(tmp_path, now_ms=lambda: clock[0]) as broker:
        await broker.create_topic("jobs", settings=settings)
        queue = await broker.queues.declare("jobs", QueueConfig(spill_after_ms=0))
        await fill(broker, 50, "jobs")
        clock[0] += 100_000
        await broker.housekeeping.run_once()
        assert (broker.partition("jobs", 0).log_start_offset, broker.partition("jobs", 0).high_watermark) == (0, 50)
        taker = await bench.taker(queue).wait(50)
        taker.hold.settle([(1, 50)])
        await broker.housekeeping.run_once()
        assert queue.state.peek(1)[0][0].offset == 50
        assert broker.partition("jobs", 0).log_start_offset > 0


async def test_partitions_know_what_a_queue_still_needs(tmp_path: Path, bench: QueueBench) -> None:
    async with open_broker(tmp_path) as broker:
        queue = await broker.queues.declare("jobs")
        await bench.publish(broker, "jobs", [b"%d" % n for n in range(10)])
        taker = await bench.taker(queue).wait(10)
        taker.settle(0, 1, 5)
        await bench.durable(taker)
        readers = broker.partition("jobs", 0).readers
        assert readers == {"queue:jobs": 2}
        assert broker.queues.attachments.hold(broker.partition("jobs", 0)) == 2
        taker.hold.settle([(0, 10)])
        assert broker.queues.attachments.hold(broker.partition("jobs", 0)) == readers["queue:jobs"] == 10
        await broker.queues.delete("jobs")
        assert readers == {}


async def test_a_copy_that_somebody_publishes_elsewhere_is_a_record_like_others(
    tmp_path: Path, bench: QueueBench
) -> None:
    async with open_broker(tmp_path) as broker:
        await broker.create_topic("events", settings=SEGMENTS)
        queue = await broker.queues.declare("jobs", bench.config("events"))
        next_queue = await broker.queues.declare("forwarded")
        await fill(broker, 100)
        taker = await bench.taker(queue).wait(100)
        taker.hold.settle([(1, 100)])
        await broker.housekeeping.run_once()
        (copy,) = await bench.all_of(broker, "jobs")
        await broker.publish("forwarded", copy.value, headers=copy.headers)
        await bench.rounds(broker)
        assert (next_queue.state.ready, queue.state.next_sequence) == (1, 100)
