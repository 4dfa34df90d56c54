"""Stores that may wait: the round never does, and the next batch grows meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager

import pytest
import trio

from trunkline.broker import Broker
from trunkline.errors import LogStopped
from trunkline.testing.scripted_store import ScriptedStore

pytestmark = pytest.mark.trio

OpenScripted = Callable[..., AbstractAsyncContextManager[Broker]]


@pytest.fixture
def store() -> Iterator[ScriptedStore]:
    store = ScriptedStore(blocking=True, reads_wait=True)
    yield store
    assert store.violations == []


async def wait_for(store: ScriptedStore, call: str, count: int = 1) -> None:
    with trio.fail_after(5):
        while store.count(call) < count:
            await trio.lowlevel.checkpoint()


async def test_publishing_and_reading(broker: Broker) -> None:
    await broker.publish("orders", b"1")
    await broker.publish("orders", b"2")
    assert [record.value async for record in broker.read("orders", follow=False)] == [b"1", b"2"]


async def test_what_comes_during_an_append_shares_the_next_one(broker: Broker, store: ScriptedStore) -> None:
    await broker.create_topic("orders")
    offsets: list[int] = []

    async def publish() -> None:
        offsets.append((await broker.publish("orders", b"")).offset)

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            store.hold("append")
            nursery.start_soon(publish)
            await wait_for(store, "append")
            for _ in range(50):
                nursery.start_soon(publish)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert offsets == []
            store.release("append")
    assert sorted(offsets) == list(range(51))
    assert store.count("append") == 2


async def test_one_waiting_partition_does_not_hold_up_another(broker: Broker, store: ScriptedStore) -> None:
    await broker.create_topic("slow")
    await broker.create_topic("quick", settings={"durability": "os"})
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            store.hold("flush")
            nursery.start_soon(broker.publish, "slow", b"")
            await wait_for(store, "flush")
            assert (await broker.publish("quick", b"")).offset == 0
            store.release("flush")


@pytest.mark.parametrize("call", ["append", "flush"])
async def test_an_error_stops_the_log_and_fails_all_who_wait(broker: Broker, store: ScriptedStore, call: str) -> None:
    await broker.create_topic("orders")
    failed: list[str] = []

    async def publish(name: str) -> None:
        with pytest.raises(LogStopped):
            await broker.publish("orders", b"")
        failed.append(name)

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            store.hold(call)
            store.fail_next(call, OSError(5, "Input/output error"))
            nursery.start_soon(publish, "written")
            await wait_for(store, call)
            nursery.start_soon(publish, "staged")
            await trio.testing.wait_all_tasks_blocked(0.01)
            store.release(call)
    assert sorted(failed) == ["staged", "written"]
    assert broker.statistics().net.unacknowledged_bytes == 0
    assert store.count("append") == 1


async def test_closing_waits_for_the_writer(open_scripted: OpenScripted, store: ScriptedStore) -> None:
    offsets: list[int] = []

    async def publish(broker: Broker) -> None:
        offsets.append((await broker.publish("orders", b"")).offset)

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery, open_scripted() as broker:
            await broker.create_topic("orders")
            store.hold("append")
            nursery.start_soon(publish, broker)
            await wait_for(store, "append")
            nursery.start_soon(publish, broker)
            await trio.testing.wait_all_tasks_blocked(0.01)
            store.release("append")
    assert sorted(offsets) == [0, 1]
    assert store.count("close") == 1


async def test_cancelling_the_caller_writes_what_was_staged(open_scripted: OpenScripted, store: ScriptedStore) -> None:
    with trio.fail_after(5), trio.CancelScope() as scope:
        async with open_scripted() as broker:
            topic = await broker.create_topic("orders")
            topic.partition(0).stage_record(1, None, b"1")
            scope.cancel()
            await trio.sleep_forever()
    async with open_scripted() as broker:
        assert broker.topic("orders").partition(0).high_watermark == 1
