"""Consumers of queues across the broker's restarts and broken connections: every record is accounted for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

import anyio
import pytest

from trunkline.errors import ConnectionFailed, QueueInUse
from trunkline_native.client import Bus, QueueReader, QueueRecord, connect

if TYPE_CHECKING:
    from tests.native.conftest import RestartableBroker

pytestmark = pytest.mark.anyio

WAIT_S = 30.0
Run = Callable[..., "RestartableBroker"]


async def take(reader: QueueReader, count: int) -> list[QueueRecord]:
    with anyio.fail_after(WAIT_S):
        return [await anext(reader) for _ in range(count)]


async def fill(bus: Bus, count: int) -> None:
    for number in range(count):
        await bus.queue("work").send(str(number))
    await bus.flush()


async def test_a_restart_of_the_broker_under_consumers_loses_nothing_and_repeats_nothing_that_was_flushed(
    run_broker: Run,
) -> None:
    broker = run_broker(store="segments")
    total = 600
    durable: set[int] = set()
    seen: Counter[int] = Counter()
    again_after_durable: list[int] = []

    async def consume(client: Bus, stopping: anyio.Event) -> None:
        mine: list[int] = []
        async with client.queue("work", prefetch=20) as jobs:
            while len(durable) < total:
                with anyio.move_on_after(0.05):
                    job = await anext(jobs)
                    number = int(job.value or b"")
                    seen[number] += 1
                    if number in durable:
                        again_after_durable.append(number)
                    job.ack()
                    mine.append(number)
                    if len(mine) < 10:
                        continue
                try:
                    await jobs.flush()
                    durable.update(mine)
                except ConnectionFailed:
                    pass  # they may come again
                mine.clear()
                if len(durable) > total // 3:
                    stopping.set()

    async with connect(broker.url) as first, connect(broker.url) as second:
        await fill(first, total)
        stopping = anyio.Event()
        with anyio.fail_after(WAIT_S):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(consume, first, stopping)
                tasks.start_soon(consume, second, stopping)
                await stopping.wait()
                await broker.stop()
                await broker.start()
        assert sorted(seen) == list(range(total))
        assert again_after_durable == []
        found = await first.queue("work").describe()
        assert (found.ready, found.unacked) == (0, 0)


async def test_what_was_held_when_the_connection_broke_cannot_be_acknowledged_any_more(run_broker: Run) -> None:
    broker = run_broker(store="segments")
    async with connect(broker.url) as bus:
        await fill(bus, 6)
        async with bus.queue("work", prefetch=4) as jobs:
            first, second = await take(jobs, 2)
            first.ack()
            await jobs.flush()
            await broker.stop()
            await broker.start()
            again = await take(jobs, 4)
            assert [job.sequence for job in again] == [1, 2, 3, 4]
            second.ack()  # of the old connection: too late
            jobs.ack(again[1:])
            await jobs.flush()
            assert [job.sequence for job in await take(jobs, 1)] == [5]
        found = await bus.queue("work").describe()
        assert found.ready == 2


async def test_flush_says_when_acknowledgements_may_have_been_lost(broker: RestartableBroker) -> None:
    async with connect(broker.url) as bus:
        await fill(bus, 2)
        async with bus.queue("work") as jobs:
            (job, _) = await take(jobs, 2)
            job.ack()
            await broker.stop()
            with pytest.raises(ConnectionFailed), anyio.fail_after(WAIT_S):
                await jobs.flush()
            await jobs.flush()  # it was told once


async def test_an_exclusive_consumer_stays_so_across_a_restart(run_broker: Run) -> None:
    broker = run_broker(store="segments")
    async with connect(broker.url) as bus, bus.queue("work", exclusive=True) as jobs:
        await broker.stop()
        await broker.start()
        await bus.queue("work").publish("1")
        await take(jobs, 1)
        with pytest.raises(QueueInUse):
            await bus.queue("work").__aenter__()


async def test_a_consumer_whose_connection_breaks_hands_over(broker: RestartableBroker) -> None:
    async with connect(broker.url) as bus, bus.queue("work", prefetch=0) as patient:
        async with connect(broker.url) as doomed:
            await fill(bus, 1)
            reader = doomed.queue("work", prefetch=5, priority=1)
            await reader.__aenter__()
            await take(patient, 1)
            await fill(bus, 5)
            with anyio.fail_after(WAIT_S):
                while (await bus.queue("work").describe()).unacked < 6:
                    pass
        # The client ended without leaving the queue
        handed = await take(patient, 5)
        assert [(job.sequence, job.deliveries) for job in handed] == [(sequence, 1) for sequence in range(1, 6)]
