"""Consumers of queues across the broker's restarts and broken connections: every record is accounted for."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
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


class Ledger:
    """What consumers have seen, what they were told is durable, and whether any of that came again."""

    def __init__(self) -> None:
        self.seen: set[int] = set()
        self.durable: set[int] = set()
        self.wrongly_again: set[int] = set()
        self.is_enough = anyio.Event()

    async def consume(self, url: str, enough: int) -> None:
        """Until cancelled."""
        async with connect(url) as bus, bus.queue("work", prefetch=40) as jobs:
            while True:
                chunk = await jobs.next_chunk()
                numbers = {int(job.value or b"") for job in chunk}
                self.seen |= numbers
                self.wrongly_again |= self.durable & numbers
                jobs.ack(chunk)
                try:
                    await jobs.flush()
                    self.durable |= numbers
                except ConnectionFailed:
                    pass  # it may be durable or not
                if len(self.durable) > enough:
                    self.is_enough.set()


async def wait_empty(bus: Bus) -> None:
    """Until nothing is ready or held any more; whatever cannot be asked now is asked again."""
    while True:
        found = await bus.queue("work").describe()
        if not found.ready and not found.unacked and not found.statistics["is_loading"]:
            return


async def test_a_restart_of_the_broker_under_consumers_loses_nothing_and_repeats_nothing_that_was_flushed(
    run_broker: Run,
) -> None:
    broker = run_broker(store="segments")
    total = 600
    ledger = Ledger()
    async with connect(broker.url) as bus:
        await fill(bus, total)
        with anyio.fail_after(WAIT_S):
            async with anyio.create_task_group() as tasks:
                for _ in range(2):
                    tasks.start_soon(ledger.consume, broker.url, total // 3)
                await ledger.is_enough.wait()
                await broker.stop()
                await broker.start()
                await wait_empty(bus)
                tasks.cancel_scope.cancel()
    assert ledger.seen == set(range(total))
    assert not ledger.wrongly_again


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


@contextmanager
def served(data: Path, port: int) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """``trunkline serve`` in a process of its own, and its port."""
    command = [sys.executable, "-m", "trunkline.cli", "serve", "--json", "--data", str(data)]
    with subprocess.Popen([*command, "--listen", f"native=127.0.0.1:{port}"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            ready = json.loads(process.stdout.readline())
            yield process, int(ready["addresses"]["native"].rpartition(":")[2])
        finally:
            process.kill()


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_a_broker_that_is_killed_under_load_forgets_nothing_that_it_has_acknowledged(tmp_path: Path) -> None:
    total = 2000
    ledger = Ledger()
    is_published = anyio.Event()

    async def publish(bus: Bus) -> None:
        for first in range(0, total, 50):
            for delivery in [await bus.queue("work").send(str(number)) for number in range(first, first + 50)]:
                await delivery
        is_published.set()

    with served(tmp_path, 0) as (process, port):
        url = f"trunkline://127.0.0.1:{port}"
        async with connect(url) as bus:
            await bus.create_queue("work")
            with anyio.fail_after(WAIT_S):
                async with anyio.create_task_group() as tasks:
                    for _ in range(3):
                        tasks.start_soon(ledger.consume, url, total // 4)
                    tasks.start_soon(publish, bus)
                    await ledger.is_enough.wait()
                    process.send_signal(signal.SIGKILL)
                    await anyio.to_thread.run_sync(process.wait)
                    with served(tmp_path, port):
                        await is_published.wait()
                        await wait_empty(bus)
                        tasks.cancel_scope.cancel()
    assert ledger.seen == set(range(total))
    assert not ledger.wrongly_again
