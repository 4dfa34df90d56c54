"""What a queue still knows after its broker was closed, or was not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import MockClock

from trunkline import Broker, open_broker
from trunkline.errors import InvalidSetting, QueueExists, UnknownQueue
from trunkline.queues import QueueConfig, catching_up, persist
from trunkline.queues.state import QueueState
from trunkline.testing import SimulatedDisk

if TYPE_CHECKING:
    from tests.queues.conftest import QueueBench, Taker

pytestmark = pytest.mark.trio

NUMBERS = [b"%d" % n for n in range(10)]


async def acknowledge(bench: QueueBench, broker: Broker, name: str, *sequences: int) -> Taker:
    """Take ten, settle some, durably."""
    taker = await bench.taker(broker.queues.get(name)).wait(len(NUMBERS))
    taker.settle(*sequences)
    await bench.durable(taker)
    return taker


@pytest.mark.parametrize("store", ["segments", "sqlite"])
async def test_definitions_and_counts_are_found_again(tmp_path: Path, bench: QueueBench, store: str) -> None:
    config = bench.config("events", "a.*", max_priority=3, ttl_ms=10_000_000)
    async with open_broker(tmp_path, store=store) as broker:
        await broker.create_topic("events", partitions=2)
        queue = await broker.queues.declare("jobs", config)
        for n in range(6):
            await broker.publish("events", b"%d" % n, key=b"a.%d" % n)
        taker = await bench.taker(queue).wait(6)
        taker.settle(1, 2)
        before = {one.sequence: one.record.value for one in await queue.peek(10)}
    async with open_broker(tmp_path, store=store) as broker:
        queue = broker.queues.get("jobs")
        assert queue.config.difference(config) is None
        assert {one.sequence: one.record.value for one in await queue.peek(10)} == before
        assert queue.state.ready == 4
        await broker.publish("events", b"6", key=b"a.6")
        assert (await bench.taker(queue).wait(5)).got[-1] == (6, b"6", 0)


async def test_only_what_is_durable_survives_a_power_failure(tmp_path: Path, bench: QueueBench) -> None:
    """Records that nobody had spoken of are found by looking at their topic again."""
    disk = SimulatedDisk(3)
    with bench.power_failure(disk):
        async with open_broker(tmp_path, disk=disk) as broker:
            await broker.queues.declare("jobs")
            await broker.queues.declare("mail", bench.config("jobs", "mail.#"))
            await bench.publish(broker, "jobs", NUMBERS)
            await acknowledge(bench, broker, "jobs", 0, 1, 5)
            await broker.publish("jobs", b"m", key=b"mail.x")
            disk.cut_power()
    disk.crash()
    async with open_broker(tmp_path, disk=disk) as broker:
        taker = await bench.taker(broker.queues.get("jobs")).wait(8)
        assert [sequence for sequence, _, _ in taker.got] == [2, 3, 4, 6, 7, 8, 9, 10]
        assert [deliveries for _, _, deliveries in taker.got] == [1] * 7 + [0]
        assert (await bench.taker(broker.queues.get("mail")).wait(1)).got == [(0, b"m", 0)]


async def test_snapshots_take_the_place_of_deltas(
    tmp_path: Path, bench: QueueBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(persist, "SNAPSHOT_DELTAS", 5)
    async with open_broker(tmp_path) as broker:
        queue = await broker.queues.declare("jobs")
        for start in range(0, 40, 10):
            await bench.publish(broker, "jobs", [b"%d" % n for n in range(start, start + 10)])
        taker = await bench.taker(queue).wait(40)
        for sequence in range(0, 40, 3):
            taker.settle(sequence)
            await bench.durable(taker)
        assert queue.persister is not None
        assert queue.persister.head.generation >= 2
    async with open_broker(tmp_path) as broker:
        taker = await bench.taker(broker.queues.get("jobs")).wait(26)
        assert [sequence for sequence, _, _ in taker.got] == [n for n in range(40) if n % 3]


async def test_a_queue_that_is_left_alone_is_stored_in_one_piece(
    tmp_path: Path, bench: QueueBench, mock_clock: MockClock
) -> None:
    async with open_broker(tmp_path, now_ms=lambda: 1000 + round(mock_clock.current_time() * 1000)) as broker:
        queue = await broker.queues.declare("jobs")
        await bench.publish(broker, "jobs", NUMBERS)
        await acknowledge(bench, broker, "jobs", 3)
        assert queue.persister is not None
        assert queue.persister.head.generation == 0
        mock_clock.jump(301)
        while queue.persister.head.generation == 0:
            await bench.rounds(broker)
        assert queue.persister.head.number == queue.persister.number


async def test_a_long_index_is_stored_in_chunks_and_read_back(
    tmp_path: Path, bench: QueueBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trunkline.queues.state import QueueState

    monkeypatch.setattr(QueueState, "runs_per_chunk", 16)
    values = [b"%d" % n for n in range(200)]
    async with open_broker(tmp_path) as broker:
        queue = await broker.queues.declare("jobs")
        for value in values:
            await broker.publish("jobs", value)
        queue.changed()
        await queue.wait_durable()
    async with open_broker(tmp_path) as broker:
        queue = broker.queues.get("jobs")
        assert queue.state.ready == 200
        taker = bench.taker(queue, prefetch=30)
        await bench.settle_all(taker, 200)
        assert taker.values == values
        await bench.durable(taker)
    async with open_broker(tmp_path) as broker:
        assert broker.queues.get("jobs").statistics().size_bytes == 0


async def test_a_deleted_queue_leaves_nothing_and_its_number_is_not_used_again(
    tmp_path: Path, bench: QueueBench
) -> None:
    async with open_broker(tmp_path) as broker:
        first = await broker.queues.declare("jobs")
        await bench.publish(broker, "jobs", NUMBERS)
        await acknowledge(bench, broker, "jobs", 3)
        await broker.queues.delete("jobs")
    async with open_broker(tmp_path) as broker:
        with pytest.raises(UnknownQueue):
            broker.queues.get("jobs")
        second = await broker.queues.declare("jobs")
        assert second.id > first.id
        assert (await bench.taker(second).wait(10)).got[0] == (0, b"0", 0)


async def test_declaring_again_must_agree_and_altering_lasts(tmp_path: Path, bench: QueueBench) -> None:
    config = bench.config("events", "a.#", max_length=5)
    async with open_broker(tmp_path) as broker:
        queue = await broker.queues.declare("jobs", config)
        assert await broker.queues.declare("jobs", config) is queue
        assert await broker.queues.declare("jobs") is queue
        with pytest.raises(QueueExists) as caught:
            await broker.queues.declare("jobs", bench.config("events", "b.#", max_length=5))
        assert caught.value.setting == "sources"
        with pytest.raises(InvalidSetting):
            await broker.queues.alter("jobs", max_lenght=3)
        await broker.queues.alter("jobs", max_length=7)
    async with open_broker(tmp_path) as broker:
        assert broker.queues.get("jobs").config.max_length == 7


async def test_many_may_declare_at_once(tmp_path: Path) -> None:
    async with open_broker(tmp_path) as broker:
        found = []

        async def declare(name: str) -> None:
            found.append(await broker.queues.declare(name))

        async with trio.open_nursery() as nursery:
            for number in range(60):
                nursery.start_soon(declare, f"jobs-{number % 20}")
        assert len({queue.id for queue in found}) == 20 == len({id(queue) for queue in found})
    async with open_broker(tmp_path) as broker:
        assert len(broker.queues) == 20


async def test_new_filters_count_from_when_they_are_set_also_after_a_restart(tmp_path: Path, bench: QueueBench) -> None:
    disk = SimulatedDisk(4)
    with bench.power_failure(disk):
        async with open_broker(tmp_path, disk=disk) as broker:
            await broker.create_topic("events")
            await broker.queues.declare("jobs", bench.config("events", "a"))
            await broker.publish("events", b"0", key=b"a")
            await broker.publish("events", b"1", key=b"b")
            await broker.queues.alter("jobs", sources=bench.config("events", "b").sources)
            await broker.publish("events", b"2", key=b"a")
            await broker.publish("events", b"3", key=b"b")
            disk.cut_power()
    disk.crash()
    async with open_broker(tmp_path, disk=disk) as broker:
        assert (await bench.taker(broker.queues.get("jobs")).wait(2)).values == [b"0", b"3"]


async def test_a_reset_lasts(tmp_path: Path, bench: QueueBench) -> None:
    async with open_broker(tmp_path) as broker:
        await bench.publish(broker, "events", NUMBERS)
        queue = await broker.queues.declare("jobs", bench.config("events"))
        await queue.reset(7)
    async with open_broker(tmp_path) as broker:
        assert (await bench.taker(broker.queues.get("jobs")).wait(3)).values == NUMBERS[7:]


async def test_entries_of_a_topic_that_is_gone_go_too(tmp_path: Path, bench: QueueBench) -> None:
    async with open_broker(tmp_path) as broker:
        await broker.create_topic("events")
        queue = await broker.queues.declare("jobs", bench.config("events"))
        await bench.publish(broker, "events", NUMBERS)
        assert queue.state.ready == 10
        await broker.delete_topic("events")
        assert queue.state.ready == 0
        await bench.publish(broker, "events", NUMBERS[:2])
        assert queue.state.ready == 2
    async with open_broker(tmp_path) as broker:
        assert (await bench.taker(broker.queues.get("jobs")).wait(2)).values == NUMBERS[:2]


async def test_settings_that_cannot_be_are_refused(tmp_path: Path) -> None:
    async with open_broker(tmp_path) as broker:
        with pytest.raises(InvalidSetting, match="max_priority must be 0 to 255"):
            await broker.queues.declare("jobs", QueueConfig(max_priority=300))


@pytest.mark.parametrize("delay_s", [(2**63 - 1) / 1000, float("inf")])
async def test_a_delay_without_an_end_can_be_stored(tmp_path: Path, bench: QueueBench, delay_s: float) -> None:
    async with open_broker(tmp_path) as broker:
        queue = await broker.queues.declare("jobs", QueueConfig(lock_timeout_ms=30_000))
        await bench.publish(broker, "jobs", [b"a", b"b"])
        taker = await bench.taker(queue).wait(2)
        assert taker.hold.extend([(1, 2)], delay_s) == 1
        assert taker.hold.release([(0, 1)], delay_s=delay_s) == 1
        await bench.durable(taker)
    async with open_broker(tmp_path) as broker:
        state = broker.queues.get("jobs").state
        assert (state.ready, state.delayed) == (1, 1)


async def test_what_is_not_in_memory_is_found_too(
    tmp_path: Path, bench: QueueBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(QueueState, "runs_per_chunk", 4)
    async with open_broker(tmp_path) as broker:
        queue = await broker.queues.declare("jobs", bench.config("events"))
        for n in range(100):
            await broker.publish("events" if n % 2 else "jobs", b"%d" % n)
            if not n % 20:
                queue.changed()
                await queue.wait_durable()
        assert [int(found.record.value or b"") for found in await queue.peek(50, 40)] == [*range(41, 91)]
        assert [found.sequence for found in await queue.peek(1000)] == [*range(100)]
        await broker.delete_topic("events")
        with trio.fail_after(10):
            while queue.state.ready > 50:
                await bench.rounds(broker)
        assert (queue.state.ready, queue.statistics().gone) == (50, 50)
        assert [found.sequence for found in await queue.peek(1000)] == [*range(0, 100, 2)]


async def test_a_source_that_cannot_be_read_is_looked_at_again(
    tmp_path: Path, bench: QueueBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catching_up, "_PAUSE_S", 0.0)
    disk = SimulatedDisk(5)
    async with open_broker(tmp_path, disk=disk) as broker:
        await bench.publish(broker, "events", NUMBERS)
        disk.fail("read", name=".log", count=2)
        queue = await broker.queues.declare("jobs", bench.config("events", start="earliest"))
        taker = bench.taker(queue)
        await taker.wait(len(NUMBERS))
        assert not queue.is_loading


async def test_a_source_that_is_taken_again_begins_where_it_is_told_to(tmp_path: Path, bench: QueueBench) -> None:
    """And not where the queue had left it."""
    disk = SimulatedDisk(6)
    with bench.power_failure(disk):
        async with open_broker(tmp_path, disk=disk) as broker:
            await bench.publish(broker, "events", NUMBERS)
            queue = await broker.queues.declare("jobs", bench.config("events", start="earliest"))
            await bench.settle_all(bench.taker(queue), 10)
            await queue.wait_durable()
            await broker.queues.alter("jobs", sources=())
            await broker.queues.alter("jobs", sources=bench.config("events", start="earliest").sources)
            disk.cut_power()
    disk.crash()
    async with open_broker(tmp_path, disk=disk) as broker:
        assert (await bench.taker(broker.queues.get("jobs")).wait(10)).values == NUMBERS


async def test_nothing_is_remembered_of_topics_that_are_gone(tmp_path: Path, bench: QueueBench) -> None:
    async with open_broker(tmp_path) as broker:
        queue = await broker.queues.declare("jobs", bench.config("events"))
        numbers: set[int] = set()
        for _ in range(5):
            await bench.publish(broker, "events", NUMBERS)
            numbers |= queue.state.positions.keys()
            await broker.delete_topic("events")
        assert len(numbers) == 5, "no number is given twice"
        assert not queue.state.positions
        await queue.wait_durable()
    async with open_broker(tmp_path) as broker:
        queue = broker.queues.get("jobs")
        assert not queue.state.positions
        await bench.publish(broker, "events", NUMBERS)
        assert not queue.state.positions.keys() & numbers
        assert queue.state.ready == len(NUMBERS)
