"""Topics: made, opened again, altered, deleted, and what a crash or a full disk leaves of each."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import pytest
import trio

from trunkline.broker import Broker
from trunkline.disk import RealDisk
from trunkline.errors import (
    BrokerClosing,
    CorruptLog,
    InvalidSetting,
    InvalidTopicName,
    LogStopped,
    TopicExists,
    UnknownPartition,
    UnknownTopic,
)
from trunkline.log import TopicPartition
from trunkline.settings import TopicSettings
from trunkline.testing.scripted_store import ScriptedStore

pytestmark = pytest.mark.trio

OpenScripted = Callable[..., AbstractAsyncContextManager[Broker]]


async def test_a_topic_is_there_after_a_restart_with_settings_id_and_records(open_scripted: OpenScripted) -> None:
    async with open_scripted() as broker:
        topic = await broker.create_topic("orders", partitions=2, settings={"durability": "os"})
        await broker.publish("orders", b"1", partition=1)
        topic_id = topic.id
    async with open_scripted() as broker:
        topic = broker.topic("orders")
        assert (topic.id, len(topic.partitions), topic.settings.durability) == (topic_id, 2, "os")
        assert [record.value async for record in broker.read("orders", follow=False)] == [b"1"]


async def test_a_topic_made_anew_has_another_id_and_no_records(broker: Broker) -> None:
    first = await broker.create_topic("orders")
    await broker.publish("orders", b"1")
    await broker.delete_topic("orders")
    second = await broker.create_topic("orders")
    assert first.id != second.id
    assert second.partition(0).high_watermark == 0


async def test_a_topic_is_made_once(broker: Broker) -> None:
    await broker.create_topic("orders")
    with pytest.raises(TopicExists, match="orders is already there"):
        await broker.create_topic("orders")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "x" * 250, "ä", "a\n"])
async def test_a_name_that_is_none_is_refused(broker: Broker, name: str) -> None:
    with pytest.raises(InvalidTopicName):
        await broker.create_topic(name)


@pytest.mark.parametrize("partitions", [0, -1, 10_001])
async def test_a_number_of_partitions_out_of_bounds_is_refused(broker: Broker, partitions: int) -> None:
    with pytest.raises(InvalidSetting, match="partitions must be 1 to 10000"):
        await broker.create_topic("orders", partitions=partitions)


async def test_settings_are_checked_before_anything_is_made(broker: Broker, store: ScriptedStore) -> None:
    with pytest.raises(InvalidSetting, match=r"did you mean segment\.bytes"):
        await broker.create_topic("orders", settings={"segment.byte": "1"})
    with pytest.raises(InvalidSetting, match="fsync or os"):
        await broker.create_topic("orders", settings={"durability": "maybe"})
    assert store.list() == []
    await broker.create_topic("orders")


async def test_unknown_topics_and_partitions_are_named(broker: Broker) -> None:
    await broker.create_topic("orders", partitions=2)
    with pytest.raises(UnknownTopic, match="'payments'"):
        broker.topic("payments")
    for index in (-1, 2):
        with pytest.raises(UnknownPartition, match=f"0 to 1, not {index}"):
            broker.partition("orders", index)


async def test_altering_takes_effect_at_once_and_lasts(open_scripted: OpenScripted) -> None:
    async with open_scripted() as broker:
        topic = await broker.create_topic("orders", settings={"max.message.bytes": "1000", "durability": "os"})
        await broker.alter_topic("orders", {"max.message.bytes": "2000", "durability": None})
        assert (topic.settings.max_message_bytes, topic.settings.durability) == (2000, "fsync")
        with pytest.raises(InvalidSetting, match="storage is chosen when a topic is created"):
            await broker.alter_topic("orders", {"storage": "memory"})
        with pytest.raises(InvalidSetting):
            await broker.alter_topic("orders", {"max.message.bytes": "3000", "durability": "maybe"})
        with pytest.raises(UnknownTopic):
            await broker.alter_topic("payments", {})
    async with open_scripted() as broker:
        assert broker.topic("orders").settings == TopicSettings(max_message_bytes=2000)


# -- deleting ------------------------------------------------------------------------------------------


async def test_deleting_finishes_what_was_staged_and_ends_readers(broker: Broker, store: ScriptedStore) -> None:
    await broker.create_topic("orders")
    outcomes: list[object] = []

    async def publish() -> None:
        outcomes.append((await broker.publish("orders", b"1")).offset)

    async def follow() -> None:
        with pytest.raises(UnknownTopic, match="orders was deleted"):
            async for _ in broker.read("orders"):
                pass
        outcomes.append("told")

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            store.hold("flush")
            nursery.start_soon(follow)
            nursery.start_soon(publish)
            while not store.count("append"):
                await trio.lowlevel.checkpoint()
            nursery.start_soon(broker.delete_topic, "orders")
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert store.count("delete") == 0
            store.release("flush")
    assert sorted(map(str, outcomes)) == ["0", "told"]
    assert (store.list(), broker.topics) == ([], {})


@pytest.mark.parametrize("call", ["delete_topic", "trim"])
async def test_a_log_that_is_being_flushed_for_nobody_is_left_alone_until_then(
    broker: Broker, store: ScriptedStore, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    monkeypatch.setattr("trunkline.partition.FLUSH_INTERVAL_BYTES", 1)
    topic = await broker.create_topic("orders", settings={"durability": "os"})
    before = store.count("flush")
    store.hold("flush")
    with trio.fail_after(5):
        await broker.publish("orders", b"1")
        while store.count("flush") == before:
            await trio.lowlevel.checkpoint()
        async with trio.open_nursery() as nursery:
            if call == "trim":
                nursery.start_soon(topic.partition(0).trim, 1)
            else:
                nursery.start_soon(broker.delete_topic, "orders")
            await trio.testing.wait_all_tasks_blocked(0.01)
            store.release("flush")
    assert store.count(call.removesuffix("_topic")) == 1


async def test_a_topic_can_be_deleted_when_nothing_can_be_saved(broker: Broker, store: ScriptedStore) -> None:
    await broker.create_topic("orders")
    await broker.publish("orders", b"1")
    store.fail_next("save_state", OSError(28, "No space left on device"))
    await broker.delete_topic("orders")
    assert store.list() == []


@pytest.mark.parametrize("call", ["append", "flush"])
async def test_a_topic_whose_log_has_stopped_can_be_deleted_and_made_again(
    broker: Broker, store: ScriptedStore, call: str
) -> None:
    await broker.create_topic("orders")
    store.fail_next(call, OSError(5, "Input/output error"))
    with pytest.raises(LogStopped):
        await broker.publish("orders", b"1")
    await broker.delete_topic("orders")
    await broker.create_topic("orders")
    assert (await broker.publish("orders", b"2")).offset == 0


async def test_a_deletion_that_was_cut_off_is_finished_at_the_next_start(
    open_scripted: OpenScripted, store: ScriptedStore
) -> None:
    async with open_scripted() as broker:
        await broker.create_topic("orders", partitions=3)
        store.fail_next("delete", OSError(5, "Input/output error"))
        with pytest.raises(OSError, match="Input/output"):
            await broker.delete_topic("orders")
        assert "orders" not in broker.topics
        assert store.list() != []
    async with open_scripted() as broker:
        assert (store.list(), broker.topics) == ([], {})
        await broker.create_topic("orders")


async def test_a_cancelled_deletion_has_happened(broker: Broker, store: ScriptedStore) -> None:
    await broker.create_topic("orders")
    with trio.CancelScope() as scope:
        scope.cancel()
        await broker.delete_topic("orders")
    async with trio.open_nursery() as nursery:
        store.hold("delete")
        if "orders" in broker.topics:  # cancelled before it began: once more, in the middle
            nursery.start_soon(broker.delete_topic, "orders")
        while not store.count("delete"):
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
        store.release("delete")
    await broker.create_topic("orders")


# -- making, half way ----------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), CorruptLog("damaged")])
async def test_a_topic_of_which_a_partition_fails_leaves_nothing(
    broker: Broker, store: ScriptedStore, error: Exception
) -> None:
    original, opened = store.open, []

    def open_some(name: TopicPartition, settings: TopicSettings) -> object:
        opened.append(name)
        if len(opened) == 3:
            raise error
        return original(name, settings)

    store.open = open_some  # type: ignore[assignment,method-assign]  # the third partition, whatever it costs
    with pytest.raises(type(error)):
        await broker.create_topic("orders", partitions=5)
    assert (store.list(), broker.topics) == ([], {})
    await broker.create_topic("orders", partitions=5)


async def test_a_cancelled_creation_has_happened(broker: Broker, store: ScriptedStore) -> None:
    store.hold("open")
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: broker.create_topic("orders", partitions=2))
            while not store.count("open"):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
            store.release("open")
    assert len(broker.topic("orders").partitions) == 2
    await broker.publish("orders", b"1")


async def test_a_crash_between_the_entry_and_the_logs_leaves_an_empty_topic(
    open_scripted: OpenScripted, store: ScriptedStore
) -> None:
    async with open_scripted() as broker:
        await broker.create_topic("orders", partitions=2)
    for name in store.list():
        store.delete(name)
    async with open_scripted() as broker:
        assert [partition.high_watermark for partition in broker.topic("orders").partitions] == [0, 0]


# -- starting ------------------------------------------------------------------------------------------


async def test_a_log_without_a_topic_is_reported_and_left_alone(
    open_scripted: OpenScripted, store: ScriptedStore, caplog: pytest.LogCaptureFixture
) -> None:
    store.open(TopicPartition("orders", 0), TopicSettings()).close()
    with caplog.at_level(logging.WARNING):
        async with open_scripted() as broker:
            assert "orders/0, which is no known topic" in caplog.text
            with pytest.raises(TopicExists, match=r"no known topic; .* or bring back the metadata.json that knew them"):
                await broker.create_topic("orders")
    assert store.list() == [TopicPartition("orders", 0)]


async def test_a_damaged_log_keeps_the_broker_from_starting_and_the_others_are_closed(
    open_scripted: OpenScripted, store: ScriptedStore
) -> None:
    async with open_scripted() as broker:
        await broker.create_topic("orders", partitions=3)
        await broker.create_topic("payments")
    store.fail_next("open", CorruptLog("orders/1: damaged at byte 7"))
    with pytest.raises(CorruptLog, match="byte 7"):
        async with open_scripted():
            pass
    async with open_scripted() as broker:
        assert len(broker.topics) == 2


async def test_what_recovery_found_is_durable_before_anybody_reads_it(
    open_scripted: OpenScripted, store: ScriptedStore
) -> None:
    async with open_scripted() as broker:
        await broker.create_topic("orders")
    before = store.count("flush")
    async with open_scripted():
        assert store.count("flush") == before + 1


async def test_a_closing_broker_makes_and_deletes_nothing(open_scripted: OpenScripted, store: ScriptedStore) -> None:
    async with open_scripted() as broker:
        await broker.create_topic("orders")
    for call in (broker.create_topic, broker.delete_topic, lambda name: broker.alter_topic(name, {})):
        with pytest.raises(BrokerClosing):
            await call("orders")
    assert store.list() == [TopicPartition("orders", 0)]


async def test_a_metadata_file_that_cannot_be_written_makes_no_topic(
    broker: Broker, store: ScriptedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(RealDisk, "replace_file", full)
        with pytest.raises(OSError, match="No space"):
            await broker.create_topic("orders")
    assert (store.list(), broker.topics) == ([], {})
    await broker.create_topic("orders")
