"""A dead letter and its original, when the power goes in between: at least one of them is there, always."""

from __future__ import annotations

import errno
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import pytest

from trunkline import open_broker
from trunkline.errors import StoreFull
from trunkline.queues import QueueConfig
from trunkline.testing import SimulatedDisk

if TYPE_CHECKING:
    from tests.queues.conftest import QueueBench

pytestmark = pytest.mark.trio


@pytest.mark.parametrize("seed", range(10))
async def test_a_crash_while_dead_lettering_loses_nothing(tmp_path: Path, bench: QueueBench, seed: int) -> None:
    disk = SimulatedDisk(seed)
    values = [b"%d" % n for n in range(5)]
    with bench.power_failure(disk):
        async with open_broker(tmp_path, disk=disk) as broker:
            queue = await broker.queues.declare("jobs")
            await bench.publish(broker, "jobs", values)
            taker = await bench.taker(queue).wait(5)
            disk.crash_after(Random(seed).randint(1, 30))
            for sequence in range(5):
                taker.hold.reject([(sequence, sequence + 1)])
                await bench.rounds(broker)
            disk.cut_power()
    disk.crash()
    async with open_broker(tmp_path, disk=disk) as broker:
        left = [one.record.value for one in await broker.queues.get("jobs").peek(10)]
        dead = [one.value for one in await bench.all_of(broker, "jobs.dead")] if "jobs.dead" in broker.topics else []
        assert {*left, *dead} == set(values)
        assert len(left) == len(set(left))


async def test_what_a_full_disk_refused_does_not_count_for_a_full_queue(tmp_path: Path, bench: QueueBench) -> None:
    disk = SimulatedDisk(1)
    async with open_broker(tmp_path, disk=disk) as broker:
        queue = await broker.queues.declare("jobs", QueueConfig(max_length=2, overflow="reject"))
        await broker.create_topic("jobs")
        disk.fail("append", errno.ENOSPC)
        with pytest.raises(StoreFull):
            await broker.publish("jobs", b"refused")
        await bench.publish(broker, "jobs", [b"a", b"b"])
        assert queue.promised()[0] == queue.state.ready == 2
