"""Queues that do not outlive the broker."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from trunkline import Broker, open_broker
from trunkline.config import BrokerConfig, Limits
from trunkline.errors import QueueExists, StoreFull
from trunkline.publishing import append_record
from trunkline.queues import Queue, QueueConfig, QueueSource

if TYPE_CHECKING:
    from tests.queues.conftest import QueueBench

pytestmark = pytest.mark.trio


async def publish_home(broker: Broker, queue: Queue, values: list[bytes]) -> None:
    """Publish to the home topic, which has no name for others."""
    assert queue.home is not None
    for value in values:
        with trio.fail_after(30):
            await append_record(queue.home.partitions[0], broker.now_ms(), None, value, ())
    passed = trio.Event()
    broker.views.rounds.call_soon(passed.set)
    await passed.wait()


async def test_it_takes_from_topics_and_from_its_home_and_leaves_nothing_behind(
    tmp_path: Path, bench: QueueBench
) -> None:
    async with open_broker(tmp_path) as broker:
        queue = broker.queues.declare_volatile("replies", QueueConfig(sources=(QueueSource("orders"),)))
        await broker.publish("orders", b"1")
        await publish_home(broker, queue, [b"2"])
        taker = await bench.taker(queue).wait(2)
        assert taker.values == [b"1", b"2"]
        assert "replies" not in broker.topics
        with pytest.raises(QueueExists):
            broker.queues.declare_volatile("replies", QueueConfig())
    async with open_broker(tmp_path) as broker:
        assert "replies" not in broker.queues
        assert broker.partition("orders", 0).high_watermark == 1


async def test_a_topic_of_the_same_name_is_not_its_home(tmp_path: Path, bench: QueueBench) -> None:
    async with open_broker(tmp_path) as broker:
        await broker.publish("replies", b"before")
        queue = broker.queues.declare_volatile("replies", QueueConfig())
        await broker.publish("replies", b"after")
        await broker.delete_topic("replies")
        await broker.publish("replies", b"anew")
        await publish_home(broker, queue, [b"1"])
        assert (await bench.taker(queue).wait(1)).values == [b"1"]


async def test_memory_is_given_back_as_records_are_settled(tmp_path: Path, bench: QueueBench) -> None:
    config = BrokerConfig(listen={}, limits=Limits(max_volatile_bytes=100_000))
    async with open_broker(tmp_path, config=config) as broker:
        queue = broker.queues.declare_volatile("replies", QueueConfig())
        taker = bench.taker(queue, prefetch=1)
        for number in range(30):
            await publish_home(broker, queue, [b"x" * 30_000])
            await taker.wait(number + 1)
            taker.settle(number)
            await bench.durable(taker)
        assert queue.statistics().acknowledged == 30


async def test_memory_is_bounded(tmp_path: Path, bench: QueueBench) -> None:
    config = BrokerConfig(listen={}, limits=Limits(max_volatile_bytes=100_000))
    async with open_broker(tmp_path, config=config) as broker:
        first = broker.queues.declare_volatile("first", QueueConfig())
        second = broker.queues.declare_volatile("second", QueueConfig())
        await publish_home(broker, first, [b"x" * 30_000] * 2)
        await publish_home(broker, second, [b"x" * 30_000])
        with pytest.raises(StoreFull, match="max_volatile_bytes=100000"):
            await publish_home(broker, second, [b"x" * 30_000])
        await broker.queues.delete("first")
        await publish_home(broker, second, [b"y" * 30_000])
        assert second.state.ready == 2


async def test_long_ones_keep_all_of_their_index(tmp_path: Path, bench: QueueBench) -> None:
    async with open_broker(tmp_path) as broker:
        queue = broker.queues.declare_volatile("replies", QueueConfig(max_priority=1))
        assert queue.home is not None
        partition = queue.home.partitions[0]
        done = trio.Event()

        class Last:
            def append_done(self, token: object, offset: int) -> None:
                done.set()

            def append_failed(self, token: object, error: Exception) -> None:
                raise error

        count = 60_000
        for number in range(count):
            partition.stage_record(number, None, b"%d" % number, receiver=Last() if number == count - 1 else None)
            if number % 100 == 99:
                await trio.lowlevel.checkpoint()
        with trio.fail_after(30):
            await done.wait()
        taker = bench.taker(queue, prefetch=0, auto_settle=True)
        await taker.wait(count)
        assert taker.values == [b"%d" % number for number in range(count)]
        assert partition.log.size_bytes() < 1_000_000


async def test_settings_can_be_changed_and_the_queue_purged(tmp_path: Path, bench: QueueBench) -> None:
    async with open_broker(tmp_path) as broker:
        queue = broker.queues.declare_volatile("replies", QueueConfig())
        await publish_home(broker, queue, [b"1", b"2"])
        assert await queue.purge() == 2
        await broker.queues.alter("replies", max_length=1)
        await publish_home(broker, queue, [b"3", b"4"])
        assert (await bench.taker(queue).wait(1)).values == [b"4"]
