"""Queues over a broker: records come in, go out, and are finished with."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from trunkline import open_broker
from trunkline.errors import InvalidSetting, UnknownQueue

if TYPE_CHECKING:
    from tests.queues.conftest import QueueBench

pytestmark = pytest.mark.trio


async def test_a_queue_gives_out_what_is_published_to_its_home_topic(tmp_path: Path, bench: QueueBench) -> None:
    async with open_broker(tmp_path) as broker:
        queue = await broker.queues.declare("jobs")
        taker = bench.taker(queue)
        for value in (b"a", b"b", b"c"):
            await broker.publish("jobs", value)
        await taker.wait(3)
        assert taker.got == [(0, b"a", 0), (1, b"b", 0), (2, b"c", 0)]
        assert taker.hold.settle([(0, 2)]) == 2
        assert taker.hold.settle([(0, 3)]) == 1
        await bench.durable(taker)
        assert queue.statistics().acknowledged == 3


async def test_what_was_settled_does_not_come_back_after_a_restart(tmp_path: Path, bench: QueueBench) -> None:
    async with open_broker(tmp_path) as broker:
        queue = await broker.queues.declare("jobs")
        await bench.publish(broker, "jobs", [b"%d" % n for n in range(10)])
        taker = await bench.taker(queue).wait(10)
        taker.settle(0, 1, 2, 5, 9)
        await bench.durable(taker)
    async with open_broker(tmp_path) as broker:
        queue = broker.queues.get("jobs")
        assert queue.state.ready == 5
        taker = await bench.taker(queue).wait(5)
        assert taker.got == [(3, b"3", 1), (4, b"4", 1), (6, b"6", 1), (7, b"7", 1), (8, b"8", 1)]


async def test_a_queue_that_is_deleted_while_it_is_reset_stays_deleted(tmp_path: Path, bench: QueueBench) -> None:
    async with open_broker(tmp_path) as broker:
        queue = await broker.queues.declare("jobs", bench.config("orders"))
        await bench.publish(broker, "orders", [b"a"])
        async with trio.open_nursery() as nursery:

            async def reset() -> None:
                with suppress(UnknownQueue):
                    await queue.reset({"timestamp": 1000})

            nursery.start_soon(reset)
            nursery.start_soon(broker.queues.delete, "jobs")
        assert "jobs" not in broker.queues
    async with open_broker(tmp_path) as broker:
        assert broker.queues.names() == []


async def test_a_queue_keeps_what_was_changed_while_it_was_reset(tmp_path: Path, bench: QueueBench) -> None:
    async with open_broker(tmp_path) as broker:
        queue = await broker.queues.declare("jobs", bench.config("orders"))
        await bench.publish(broker, "orders", [b"a"])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(queue.reset, {"timestamp": 1000})
            nursery.start_soon(lambda: broker.queues.alter("jobs", max_length=7))
        assert queue.config.max_length == 7


async def test_a_position_that_is_none_is_refused(tmp_path: Path, bench: QueueBench) -> None:
    async with open_broker(tmp_path) as broker:
        queue = await broker.queues.declare("jobs", bench.config("orders"))
        await bench.publish(broker, "orders", [b"a"])
        for position in ("middle", {"time": 5}):
            with pytest.raises(InvalidSetting):
                await queue.reset(position)  # type: ignore[arg-type]
        assert queue.statistics().ready == 1
