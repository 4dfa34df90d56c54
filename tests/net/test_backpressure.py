"""From the disk back to the peer: reading pauses while too much waits for the commit thread."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from trunkline.broker import Broker, open_broker
from trunkline.config import BrokerConfig, Limits
from trunkline.door import Connection, Door, DoorContext, Transport
from trunkline.errors import TrunklineError
from trunkline.hookspecs import RegisterDoor, hookimpl
from trunkline.net.receiving import READ_BYTES, ROUND_BYTES
from trunkline.partition import Partition
from trunkline.plugins import PluginHost
from trunkline.testing.scripted_store import ScriptedStore

pytestmark = pytest.mark.trio

LIMIT = 256 * 1024


class Publisher(Connection):
    """Appends whatever it receives, and writes one byte for each acknowledgement."""

    def __init__(self, transport: Transport, partition: Partition) -> None:
        self.transport = transport
        self.partition = partition
        self.received = 0
        transport.established()

    def receive_data(self, data: bytes) -> None:
        self.received += len(data)
        self.partition.stage_record(1, None, data, receiver=self)

    def append_done(self, token: object, offset: int) -> None:
        self.transport.write(b".")

    def append_failed(self, token: object, error: TrunklineError) -> None:
        self.transport.write(b"!")

    def closed(self, error: Exception | None) -> None:
        """Nothing to release."""


class AppendDoor(Door):
    def __init__(self, context: DoorContext) -> None:
        self.broker = context.broker
        self.connections: list[Publisher] = []

    async def open(self) -> None:
        await self.broker.ensure_topic("orders")

    def connect(self, transport: Transport) -> Connection:
        self.connections.append(Publisher(transport, self.broker.partition("orders", 0)))
        return self.connections[-1]


class Plugin:
    def __init__(self) -> None:
        self.door: AppendDoor

    def make(self, context: DoorContext) -> Door:
        self.door = AppendDoor(context)
        return self.door

    @hookimpl
    def register_doors(self, register: RegisterDoor) -> None:
        register("append", self.make, default_port=9)


@pytest.fixture(params=[False, True], ids=["immediate", "blocking"])
def store(request: pytest.FixtureRequest) -> ScriptedStore:
    return ScriptedStore(blocking=request.param)


@pytest.fixture
def plugin() -> Plugin:
    return Plugin()


@pytest.fixture
async def broker(store: ScriptedStore, plugin: Plugin, poller: str, tmp_path: Path) -> AsyncIterator[Broker]:
    host = PluginHost()
    host.add("scripted", store)
    host.add("append", plugin)
    config = BrokerConfig(listen={"append": "127.0.0.1:0"}, limits=Limits(max_unacknowledged_bytes=LIMIT))
    async with open_broker(tmp_path, store="scripted", config=config, plugins=host, poller=poller) as opened:
        yield opened
    assert store.violations == []


async def test_reading_pauses_while_the_disk_is_behind_and_then_goes_on(
    broker: Broker, store: ScriptedStore, plugin: Plugin
) -> None:
    sent = 4_000_000
    store.hold("flush")
    with trio.fail_after(20):
        client = await trio.open_tcp_stream(*broker.addresses["append"])
        async with client, trio.open_nursery() as nursery:
            nursery.start_soon(client.send_all, bytes(sent))
            while broker.statistics().net.unacknowledged_bytes <= LIMIT:
                await trio.lowlevel.checkpoint()
            await trio.testing.wait_all_tasks_blocked(0.01)
            waiting = broker.statistics().net.unacknowledged_bytes
            assert LIMIT < waiting <= LIMIT + ROUND_BYTES + READ_BYTES + 1000
            assert plugin.door.connections[0].received <= waiting
            store.release("flush")
            received = b""
            while plugin.door.connections[0].received < sent or broker.statistics().net.unacknowledged_bytes:
                received += await client.receive_some(1000)
    assert set(received) == {ord(".")}
    assert broker.statistics().net.unacknowledged_bytes == 0


async def test_nobody_is_called_silent_while_nothing_is_read(
    broker: Broker, store: ScriptedStore, plugin: Plugin
) -> None:
    store.hold("flush")
    with trio.fail_after(20):
        client = await trio.open_tcp_stream(*broker.addresses["append"])
        async with client, trio.open_nursery() as nursery:
            nursery.start_soon(client.send_all, bytes(4 * LIMIT))
            while broker.statistics().net.unacknowledged_bytes <= LIMIT:
                await trio.lowlevel.checkpoint()
            transport = plugin.door.connections[0].transport
            transport.idle_timeout_s = 10
            broker._reactor.check_time(broker._reactor.now + 1000)
            assert not transport.is_closing
            store.release("flush")
            while plugin.door.connections[0].received < 4 * LIMIT or broker.statistics().net.unacknowledged_bytes:
                await client.receive_some(1000)
            broker._reactor.check_time(broker._reactor.now + 1000)
            assert transport.is_closing


async def test_publishing_in_process_goes_on_meanwhile(broker: Broker, store: ScriptedStore) -> None:
    await broker.create_topic("fast", settings={"durability": "os"})
    store.hold("flush")
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(broker.publish, "orders", bytes(LIMIT))
            while broker.statistics().net.unacknowledged_bytes <= LIMIT:
                await trio.lowlevel.checkpoint()
            await broker.publish("fast", b"1")
            store.release("flush")


async def test_a_disk_that_fails_while_reading_is_paused_lets_it_go_on(
    broker: Broker, store: ScriptedStore, plugin: Plugin
) -> None:
    store.hold("flush")
    store.fail_next("flush", OSError(5, "Input/output error"))
    with trio.fail_after(20):
        client = await trio.open_tcp_stream(*broker.addresses["append"])
        async with client, trio.open_nursery() as nursery:
            nursery.start_soon(client.send_all, bytes(LIMIT + 1))
            while broker.statistics().net.unacknowledged_bytes <= LIMIT:
                await trio.lowlevel.checkpoint()
            store.release("flush")
            assert set(await client.receive_some(1000)) == {ord("!")}
    assert broker.statistics().net.unacknowledged_bytes == 0


async def test_closing_sends_the_acknowledgements_that_are_due(
    store: ScriptedStore, plugin: Plugin, poller: str, tmp_path: Path
) -> None:
    host = PluginHost()
    host.add("scripted", store)
    host.add("append", plugin)
    config = BrokerConfig(listen={"append": "127.0.0.1:0"})
    with trio.fail_after(20):
        opened = open_broker(tmp_path, store="scripted", config=config, plugins=host, poller=poller)
        async with trio.open_nursery() as nursery, opened as broker:
            client = await trio.open_tcp_stream(*broker.addresses["append"])
            store.hold("flush")
            await client.send_all(b"the last one")
            while not store.count("append"):
                await trio.lowlevel.checkpoint()

            async def release() -> None:
                while not broker.is_closing:
                    await trio.lowlevel.checkpoint()
                store.release("flush")

            nursery.start_soon(release)
        async with client:
            assert await client.receive_some(10) == b"."
            assert await client.receive_some(10) == b""
