"""The broker in process: publishing, making topics on the way, closing."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
import trio

from trunkline.broker import Broker, PublishedRecord, open_broker
from trunkline.config import BrokerConfig, Limits, TopicsConfig
from trunkline.door import Connection, Door, DoorContext, Transport
from trunkline.errors import (
    BrokerClosing,
    ConfigurationError,
    DataDirectoryLocked,
    LogStopped,
    PluginError,
    UnknownTopic,
)
from trunkline.hookspecs import RegisterDoor, hookimpl
from trunkline.lock import lock_directory
from trunkline.plugins import PluginHost
from trunkline.testing.scripted_store import ScriptedStore

pytestmark = pytest.mark.trio

OpenScripted = Callable[..., AbstractAsyncContextManager[Broker]]


async def test_what_is_published_is_read_with_everything_it_had(broker: Broker) -> None:
    placed = await broker.publish("orders", b"value", key=b"key", headers=[("a", b"1"), ("a", None)], timestamp=77)
    assert placed == PublishedRecord("orders", 0, 0)
    (record,) = [record async for record in broker.read("orders", follow=False)]
    assert (record.topic, record.partition, record.offset, record.timestamp) == ("orders", 0, 0, 77)
    assert (record.key, record.value, record.headers) == (b"key", b"value", (("a", b"1"), ("a", None)))


async def test_keys_decide_the_partition_as_in_kafka(broker: Broker) -> None:
    await broker.create_topic("orders", partitions=4)
    first = {key: (await broker.publish("orders", b"", key=key)).partition for key in (b"a", b"b", b"c", b"d", b"e")}
    again = {key: (await broker.publish("orders", b"", key=key)).partition for key in first}
    assert first == again
    assert len(set(first.values())) > 1


async def test_a_partition_can_be_chosen(broker: Broker) -> None:
    await broker.create_topic("orders", partitions=4)
    assert (await broker.publish("orders", b"", key=b"a", partition=3)).partition == 3


async def test_records_without_a_key_that_are_published_together_share_a_batch(
    broker: Broker, store: ScriptedStore
) -> None:
    await broker.create_topic("orders", partitions=4)
    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(broker.publish, "orders", b"")
    assert sorted(partition.high_watermark for partition in broker.topic("orders").partitions)[-1] >= 40


@pytest.mark.parametrize(("key", "value"), [("text", b""), (b"", "text"), (1, b""), (b"", bytearray(b"x"))])
async def test_only_bytes_are_published(broker: Broker, key: object, value: object) -> None:
    with pytest.raises(TypeError, match="must be bytes or None"):
        await broker.publish("orders", value, key=key)  # type: ignore[arg-type]  # that is the point
    await broker.publish("orders", b"fine")


async def test_a_failing_disk_is_told_to_the_publisher_and_only_that_topic_stops(
    broker: Broker, store: ScriptedStore
) -> None:
    await broker.create_topic("orders")
    await broker.create_topic("payments")
    store.fail_next("flush", OSError(5, "Input/output error"))
    with pytest.raises(LogStopped, match=r"orders/0: the log is stopped after a storage error .*Input/output error"):
        await broker.publish("orders", b"1")
    with pytest.raises(LogStopped):
        await broker.publish("orders", b"2")
    await broker.publish("payments", b"1")


# -- topics on the way ---------------------------------------------------------------------------------


async def test_publishing_makes_a_missing_topic_once_however_many_do_it(broker: Broker, store: ScriptedStore) -> None:
    offsets: list[int] = []

    async def publish() -> None:
        offsets.append((await broker.publish("orders", b"")).offset)

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(publish)
    assert sorted(offsets) == list(range(20))
    assert store.count("open") == 1


async def test_missing_topics_are_not_made_when_that_is_off(open_scripted: OpenScripted) -> None:
    config = BrokerConfig(listen={}, topics=TopicsConfig(auto_create=False))
    async with open_scripted(config=config) as broker:
        with pytest.raises(UnknownTopic, match=r"topics\.auto_create is off"):
            await broker.publish("orders", b"")
        await broker.create_topic("orders")
        await broker.publish("orders", b"")


async def test_defaults_of_the_configuration_apply_unless_the_creator_says_otherwise(
    open_scripted: OpenScripted,
) -> None:
    topics = TopicsConfig(default_partitions=3, defaults={"durability": "os", "max.message.bytes": "1000"})
    async with open_scripted(config=BrokerConfig(listen={}, topics=topics)) as broker:
        first = await broker.create_topic("a")
        second = await broker.create_topic("b", partitions=1, settings={"durability": "fsync"})
    assert (len(first.partitions), first.settings.durability) == (3, "os")
    assert (len(second.partitions), second.settings.durability, second.settings.max_message_bytes) == (
        1,
        "fsync",
        1000,
    )


async def test_producer_ids_are_never_given_twice_also_after_a_restart(open_scripted: OpenScripted) -> None:
    given: list[int] = []
    for _ in range(2):
        async with open_scripted() as broker:

            async def take(count: int, broker: Broker = broker) -> None:
                for _ in range(count):
                    given.append(await broker.new_producer_id())

            async with trio.open_nursery() as nursery:
                nursery.start_soon(take, 1500)
                nursery.start_soon(take, 3)
    assert len(given) == len(set(given)) == 3006
    assert min(given) >= 0


# -- the data directory --------------------------------------------------------------------------------


async def test_one_broker_at_a_time_uses_a_data_directory(open_scripted: OpenScripted, tmp_path: Path) -> None:
    async with open_scripted():
        with pytest.raises(DataDirectoryLocked, match=f"in use by another broker .process {os.getpid()}."):
            async with open_broker(tmp_path, store="memory"):
                pass
    async with open_scripted():
        pass


async def test_the_lock_of_a_dead_process_is_no_lock(tmp_path: Path) -> None:
    program = f"""
from pathlib import Path
from trunkline.lock import lock_directory
with lock_directory(Path({str(tmp_path)!r})):
    print("locked", flush=True)
    input()
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # noqa: ASYNC220 - quick
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"locked\n"
        with pytest.raises(DataDirectoryLocked, match=str(process.pid)) as caught, lock_directory(tmp_path):
            pass
        assert caught.value.pid == str(process.pid)
        process.kill()
    with lock_directory(tmp_path):
        pass


async def test_a_data_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="Not a directory; choose one that can be written"):
        async with open_broker(tmp_path / "file" / "data", store="memory"):
            pass


async def test_errors_come_out_of_open_broker_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="unknown store 'nope'"):
        async with open_broker(tmp_path, store="nope"):
            pass
    with pytest.raises(ZeroDivisionError):
        async with open_broker(tmp_path, store="memory"):
            raise ZeroDivisionError
    with pytest.raises(ExceptionGroup, match="mine"):
        async with open_broker(tmp_path, store="memory"):
            raise ExceptionGroup("mine", [ZeroDivisionError()])


# -- closing -------------------------------------------------------------------------------------------


async def test_closing_commits_and_acknowledges_what_was_staged(
    open_scripted: OpenScripted, store: ScriptedStore
) -> None:
    offsets: list[int] = []

    async def publish(broker: Broker) -> None:
        offsets.append((await broker.publish("orders", b"1")).offset)

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery, open_scripted() as broker:
            await broker.create_topic("orders")
            store.hold("flush")
            nursery.start_soon(publish, broker)
            while not store.count("append"):
                await trio.lowlevel.checkpoint()
            store.release("flush")
    assert offsets == [0]
    with pytest.raises(BrokerClosing):
        await broker.publish("orders", b"2")


async def test_cancelling_the_caller_closes_in_order(open_scripted: OpenScripted, store: ScriptedStore) -> None:
    class Receipt:
        outcome: object = None

        def append_done(self, token: object, offset: int) -> None:
            self.outcome = offset

        def append_failed(self, token: object, error: Exception) -> None:
            self.outcome = error

    receipt = Receipt()
    with trio.fail_after(5), trio.CancelScope() as scope:
        async with open_scripted() as broker:
            topic = await broker.create_topic("orders")
            topic.partition(0).stage_record(1, None, b"1", receiver=receipt)
            scope.cancel()
            await trio.sleep_forever()
    assert receipt.outcome == 0
    assert store.count("close") == 1
    async with open_scripted() as broker:
        assert broker.topic("orders").partition(0).high_watermark == 1


async def test_a_disk_that_does_not_answer_in_time_leaves_the_log_to_recovery(
    open_scripted: OpenScripted, store: ScriptedStore
) -> None:
    config = BrokerConfig(listen={}, limits=Limits(shutdown_timeout_s=0.05))
    with trio.fail_after(5):
        async with open_scripted(config=config) as broker:
            topic = await broker.create_topic("orders")
            topic.partition(0).stage_record(1, None, b"1")
            store.hold("flush")

            class Release(logging.Handler):
                def emit(self, record: logging.LogRecord) -> None:
                    if "left to recovery" in record.getMessage():
                        store.release("flush")

            log = logging.getLogger("trunkline.partition")
            log.addHandler(handler := Release())
    log.removeHandler(handler)
    assert (store.count("close"), store.count("save_state")) == (0, 0)


class Silent(Connection):
    def receive_data(self, data: bytes) -> None:
        """Nothing to say."""

    def closed(self, error: Exception | None) -> None:
        """Nothing to release."""

    def shutting_down(self) -> None:
        raise ZeroDivisionError("a bug in a door")


class SilentDoor(Door):
    """A door whose connections fail when they are told of the end."""

    def __init__(self, context: DoorContext) -> None:
        pass

    def connect(self, transport: Transport) -> Connection:
        return Silent()

    async def close(self) -> None:
        raise ZeroDivisionError("another one")


class SilentPlugin:
    @hookimpl
    def register_doors(self, register: RegisterDoor) -> None:
        register("silent", SilentDoor, default_port=9)


async def test_a_door_that_fails_in_closing_keeps_no_log_from_being_closed(
    store: ScriptedStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    host = PluginHost()
    host.add("scripted", store)
    host.add("silent", SilentPlugin())
    with trio.fail_after(5):
        async with open_broker(tmp_path, store="scripted", listen={"silent": "127.0.0.1:0"}, plugins=host) as broker:
            await broker.publish("orders", b"1")
            client = await trio.open_tcp_stream(*broker.addresses["silent"])
            while not broker.statistics().net.connections:
                await trio.lowlevel.checkpoint()
        async with client:
            assert await client.receive_some() == b""
    assert store.count("close") == 1
    assert "closed after an internal error" in caplog.text
    assert "door silent could not be closed cleanly" in caplog.text


async def test_cancelling_with_a_connection_open_does_not_wait_for_the_grace_period(
    store: ScriptedStore, tmp_path: Path
) -> None:
    host = PluginHost()
    host.add("scripted", store)
    host.add("silent", SilentPlugin())
    with trio.fail_after(5), socket.socket() as client, trio.CancelScope() as scope:
        async with open_broker(tmp_path, store="scripted", listen={"silent": "127.0.0.1:0"}, plugins=host) as broker:
            client.connect(broker.addresses["silent"])
            while not broker.statistics().net.connections:
                await trio.lowlevel.checkpoint()
            scope.cancel()
            await trio.sleep_forever()


async def test_a_background_task_that_fails_is_logged_and_ends_nothing_else(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    broker.start_soon(fail)
    await broker.publish("orders", b"1")
    await trio.testing.wait_all_tasks_blocked()
    assert "fail failed" in caplog.text


async def test_statistics_count_topics_and_partitions(broker: Broker) -> None:
    await broker.create_topic("a", partitions=2)
    await broker.create_topic("b")
    statistics = broker.statistics()
    assert (statistics.topics, statistics.partitions, statistics.doors) == (2, 3, {})


@pytest.mark.parametrize("poller", ["epoll", "tasks"])
async def test_both_pollers_publish_and_close(open_scripted: OpenScripted, poller: str) -> None:
    with trio.fail_after(5):
        async with open_scripted(poller=poller) as broker:
            assert (await broker.publish("orders", b"1")).offset == 0


class ReleaseWhenGivenUp(logging.Handler):
    """Lets a store answer once the broker has said that it leaves a log as it is."""

    def __init__(self, store: ScriptedStore) -> None:
        super().__init__()
        self.store = store
        self.has_released = False

    def emit(self, record: logging.LogRecord) -> None:
        if "left to recovery" in record.getMessage() and not self.has_released:
            self.has_released = True
            self.store.release("flush")


async def test_a_store_that_answers_after_the_broker_gave_up_on_it_does_no_harm(
    store: ScriptedStore, tmp_path: Path
) -> None:
    host = PluginHost()
    host.add("scripted", store)
    config = BrokerConfig(limits=Limits(shutdown_timeout_s=0.05), listen={}, plugins=[])
    handler = ReleaseWhenGivenUp(store)
    logging.getLogger("trunkline").addHandler(handler)
    try:
        async with open_broker(tmp_path, store="scripted", plugins=host, config=config) as broker:
            await broker.create_topic("orders")
            partition = broker.partition("orders", 0)
            partition.note_cleaned(0)  # so that something is to be saved
            await broker.publish("orders", b"x")
            store.hold("flush")
            partition.stage_record(0, None, b"y")
    finally:
        logging.getLogger("trunkline").removeHandler(handler)
    assert handler.has_released
