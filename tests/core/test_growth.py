"""Partitions that are added to a topic, and what is left when that goes wrong."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import pytest
import trio

from trunkline.broker import Broker
from trunkline.errors import BrokerClosing, CorruptLog, InvalidSetting, TopicExists, UnknownTopic
from trunkline.log import TopicPartition
from trunkline.settings import TopicSettings
from trunkline.testing.scripted_store import ScriptedStore

pytestmark = pytest.mark.trio

OpenScripted = Callable[..., AbstractAsyncContextManager[Broker]]


async def test_added_partitions_are_there_at_once_and_after_a_restart(open_scripted: OpenScripted) -> None:
    async with open_scripted() as broker:
        topic = await broker.create_topic("orders", partitions=2, settings={"durability": "os"})
        before = topic.partitions
        await broker.publish("orders", b"old", partition=1)
        assert await broker.alter_topic("orders", {"max.message.bytes": "2000"}, partitions=4) is topic
        assert topic.partitions[:2] == before
        assert topic.settings.max_message_bytes == 2000
        assert (await broker.publish("orders", b"new", partition=3)).offset == 0
        await broker.alter_topic("orders", partitions=4)  # as it is
    async with open_scripted() as broker:
        assert len(broker.topic("orders").partitions) == 4
        assert {record.value async for record in broker.read("orders", follow=False)} == {b"old", b"new"}


@pytest.mark.parametrize(
    ("partitions", "reason"),
    [(1, "has 2 partitions; their number can be raised, not lowered to 1"), (0, "1 to 10000"), (10_001, "1 to 10000")],
)
async def test_a_number_that_cannot_be_changes_nothing(broker: Broker, partitions: int, reason: str) -> None:
    topic = await broker.create_topic("orders", partitions=2)
    with pytest.raises(InvalidSetting, match=reason):
        await broker.alter_topic("orders", {"max.message.bytes": "2000"}, partitions=partitions)
    assert (len(topic.partitions), topic.settings.max_message_bytes) == (2, 1048588)


async def test_a_topic_can_be_fixed_by_who_relies_on_it(broker: Broker) -> None:
    topic = await broker.create_topic("orders")
    topic.fixed_by = "somebody counts them"
    with pytest.raises(InvalidSetting, match="orders stays 1: somebody counts them"):
        await broker.alter_topic("orders", partitions=2)
    await broker.alter_topic("orders", partitions=1)


async def test_a_topic_that_is_not_there_or_the_broker_s_own_cannot_grow(broker: Broker) -> None:
    for name in ("orders", "__offsets"):
        with pytest.raises(UnknownTopic):
            await broker.alter_topic(name, partitions=2)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), CorruptLog("damaged")])
async def test_if_one_cannot_be_made_none_is_added(
    open_scripted: OpenScripted, store: ScriptedStore, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    original = store.open

    def open_some(name: TopicPartition, settings: TopicSettings) -> object:
        if name.partition == 3:
            raise error
        return original(name, settings)

    async with open_scripted() as broker:
        topic = await broker.create_topic("orders", partitions=2)
        with monkeypatch.context() as patch:
            patch.setattr(store, "open", open_some)
            with pytest.raises(type(error)):
                await broker.alter_topic("orders", partitions=5)
        assert len(topic.partitions) == len(store.list()) == 2
    async with open_scripted() as broker:
        assert len(broker.topic("orders").partitions) == 2
        await broker.alter_topic("orders", partitions=5)
        await broker.publish("orders", b"1", partition=4)


async def test_a_crash_between_the_entry_and_the_logs_leaves_empty_partitions(
    open_scripted: OpenScripted, store: ScriptedStore
) -> None:
    async with open_scripted() as broker:
        await broker.create_topic("orders", partitions=1)
        await broker.alter_topic("orders", partitions=3)
    for name in store.list():
        if name.partition:
            store.delete(name)
    async with open_scripted() as broker:
        assert [partition.high_watermark for partition in broker.topic("orders").partitions] == [0, 0, 0]


async def test_a_log_that_is_nobody_s_is_not_taken_over(open_scripted: OpenScripted, store: ScriptedStore) -> None:
    store.open(TopicPartition("orders", 2), TopicSettings()).close()
    async with open_scripted() as broker:
        store.delete(TopicPartition("orders", 2))
        topic = await broker.create_topic("orders", partitions=2)
        store.open(TopicPartition("orders", 2), TopicSettings()).close()
        with pytest.raises(TopicExists, match="belong to no known partition; move them away first"):
            await broker.alter_topic("orders", partitions=3)
        assert len(topic.partitions) == 2
    assert TopicPartition("orders", 2) in store.list()


async def test_who_is_cancelled_meanwhile_has_added_them(broker: Broker, store: ScriptedStore) -> None:
    topic = await broker.create_topic("orders")
    before = store.count("open")
    store.hold("open")
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: broker.alter_topic("orders", partitions=3))
            while store.count("open") == before:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
            store.release("open")
    assert len(topic.partitions) == 3
    await broker.publish("orders", b"1", partition=2)


async def test_a_closing_broker_adds_none(open_scripted: OpenScripted, store: ScriptedStore) -> None:
    async with open_scripted() as broker:
        await broker.create_topic("orders")
    with pytest.raises(BrokerClosing):
        await broker.alter_topic("orders", partitions=2)
    assert store.list() == [TopicPartition("orders", 0)]
